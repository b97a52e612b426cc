//! Lines whose ids may still be told: an event can be here before Postfix's line of its mail is. They are on disk with the
//! effect of their event, as those of the outbox are, and go there once the ids are known or the wait is over.

use super::brake::Meta;
use super::write::Fault;
use super::{Reader, Store, StoreError, outbox};
use crate::lines::EventLine;
use rusqlite::{Connection, params};

/// A line that waits for its ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    /// Rises with every line.
    pub id: i64,
    /// How long it waits, Unix seconds; 0: it has its ids, and only comes behind an earlier one of its message.
    pub until: i64,
    /// The text.
    pub text: String,
}

impl Reader {
    /// The lines that wait for their ids, in order, at most `most`.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn late(&self, most: usize) -> Result<Vec<Late>, StoreError> {
        if !self.has_late()? {
            return Ok(Vec::new());
        }
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let late = |row: &rusqlite::Row<'_>| Ok(Late { id: row.get(0)?, until: row.get(1)?, text: row.get(2)? });
        let rows = self
            .db
            .prepare_cached("SELECT id, until, text FROM late ORDER BY id LIMIT ?1")
            .and_then(|mut s| s.query_map([most], late)?.collect::<Result<_, _>>());
        rows.map_err(|e| self.error(&e))
    }
}

impl Store {
    /// Puts lines, with the texts that they have now, behind the others of the outbox.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn put_behind(&mut self, lines: &[Late]) -> Result<(), StoreError> {
        self.write(|tx, _| {
            let mut meta = Meta::load(tx)?;
            for line in lines {
                meta.last_line += 1;
                outbox::take_late(tx, line.id, meta.last_line, &line.text)?;
                tx.prepare_cached("DELETE FROM late WHERE id = ?1")?.execute([line.id])?;
            }
            meta.save(tx)
        })
    }
}

/// Puts a line in, where it is to wait until `until` at most; `false`: it need not.
pub(super) fn put(tx: &Connection, now: i64, until: i64, line: &EventLine) -> Result<bool, Fault> {
    let has_ids = line.queue_id.is_some();
    if has_ids && !tx.prepare_cached("SELECT 1 FROM late WHERE message = ?1")?.exists([&line.ses_id])? {
        return Ok(false);
    }
    let (until, text) = (if has_ids { 0 } else { until }, line.to_line());
    let sql = "INSERT INTO late (message, until, at, priority, text) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = params![line.ses_id, until, now, outbox::code(text.priority), text.text];
    tx.prepare_cached(sql)?.execute(values)?;
    Ok(true)
}

//! The outbox: lines that are on disk with the effect of their event and wait for the log. They leave it
//! once they are written, so a crash repeats lines and loses none.

use super::write::Fault;
use super::{Reader, Store, StoreError};
use crate::lines::{Line, Priority, SES_IDENT};
use rusqlite::{Connection, Row, params};

/// A line that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Rises with every line.
    pub id: i64,
    /// The line.
    pub line: Line,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Lines, or a little more: counted by their numbers.
    pub lines: u64,
    /// When the oldest was put there, Unix seconds.
    pub oldest: Option<i64>,
}

impl Reader {
    /// The lines after `after` (0: from the first), in order, at most `most`.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn outbox(&self, after: i64, most: usize) -> Result<Vec<Waiting>, StoreError> {
        if !self.has_events()? {
            return Ok(Vec::new());
        }
        let sql = "SELECT id, priority, text FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self
            .db
            .prepare_cached(sql)
            .and_then(|mut s| s.query_map(params![after, most], waiting)?.collect::<Result<_, _>>());
        rows.map_err(|e| self.error(&e))
    }

    /// How much waits.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn backlog(&self) -> Result<Backlog, StoreError> {
        if !self.has_events()? {
            return Ok(Backlog::default());
        }
        let sql = "SELECT (SELECT max(id) FROM outbox) - (SELECT min(id) FROM outbox) + 1,
                          (SELECT at FROM outbox ORDER BY id LIMIT 1)";
        let row = self.db.prepare_cached(sql).and_then(|mut s| {
            s.query_row([], |row| {
                let lines: Option<i64> = row.get(0)?;
                Ok(Backlog { lines: lines.unwrap_or(0).unsigned_abs(), oldest: row.get(1)? })
            })
        });
        row.map_err(|e| self.error(&e))
    }
}

impl Store {
    /// Takes the lines up to `id` out: they are in the log.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn forget_written(&mut self, id: i64) -> Result<(), StoreError> {
        self.write(|tx, _| forget(tx, id))
    }
}

/// Puts a line in; `id` is higher than any before.
pub(super) fn put(tx: &Connection, id: i64, now: i64, line: &Line) -> Result<(), Fault> {
    let sql = "INSERT INTO outbox (id, at, priority, text) VALUES (?1, ?2, ?3, ?4)";
    tx.prepare_cached(sql)?.execute(params![id, now, code(line.priority), line.text])?;
    Ok(())
}

/// Puts a line of `late` in, as number `id` and with another text.
pub(super) fn take_late(tx: &Connection, late: i64, id: i64, text: &str) -> Result<(), Fault> {
    let sql = "INSERT INTO outbox (id, at, priority, text) SELECT ?2, at, priority, ?3 FROM late WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![late, id, text])?;
    Ok(())
}

pub(super) fn forget(tx: &Connection, id: i64) -> Result<(), Fault> {
    tx.prepare_cached("DELETE FROM outbox WHERE id <= ?1")?.execute([id])?;
    Ok(())
}

/// As syslog numbers severities.
pub(super) fn code(priority: Priority) -> i64 {
    match priority {
        Priority::Warning => 4,
        Priority::Info => 6,
    }
}

fn waiting(row: &Row<'_>) -> rusqlite::Result<Waiting> {
    let priority = if row.get::<_, i64>(1)? == code(Priority::Warning) { Priority::Warning } else { Priority::Info };
    Ok(Waiting { id: row.get(0)?, line: Line { ident: SES_IDENT, priority, text: row.get(2)? } })
}

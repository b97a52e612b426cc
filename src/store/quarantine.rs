//! The quarantine: bodies that could not be read, kept as they came until an operator has looked at them
//! or a newer version can read them. The same body is kept once.

use super::write::Fault;
use super::{Reader, Store, StoreError};
use crate::mail::Printable;
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

/// Most bytes that are kept of a body: the most that a message of SQS can hold.
pub const MAX_QUARANTINED_BYTES: usize = 1 << 20;

/// Most bodies that are kept. Nobody looks at more one by one; the oldest go first.
const MAX_QUARANTINED: i64 = 10_000;

/// How long a body is kept, in seconds: 30 days, in which somebody should have looked.
const QUARANTINE_SECONDS: i64 = 30 * 86_400;

/// Bodies that are deleted at once: more than a transaction adds, and, large as they can be, in well under a
/// second.
const TRIM_ROWS: i64 = 1_000;

/// Most bytes of the reason, and of the name of the source (a path has at most 4,096).
const MAX_WHY_BYTES: usize = 500;
const MAX_SOURCE_BYTES: usize = 4_200;

const COLUMNS: &str = "id, at, body, why, source, cut";

/// A body to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// As it came; the store cuts it at its bound.
    pub body: Vec<u8>,
    /// Why it could not be read.
    pub why: String,
    /// Where it came from: a queue's URL, a file.
    pub source: String,
}

/// A body that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub id: i64,
    /// When it came, Unix seconds.
    pub at: i64,
    /// What is kept.
    pub what: Quarantined,
    /// Whether the body was longer than what is kept of it.
    pub cut: bool,
}

impl Reader {
    /// Hands the bodies with a number over `after` to `each`, the oldest first.
    ///
    /// # Errors
    /// Trouble with the database, or the first error of `each`.
    pub fn quarantine<E: From<StoreError>>(
        &self,
        after: i64,
        mut each: impl FnMut(Kept) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.has_events()? {
            return Ok(());
        }
        let sql = format!("SELECT {COLUMNS} FROM quarantine WHERE id > ?1 ORDER BY id");
        let mut statement = self.db.prepare_cached(&sql).map_err(|e| self.error(&e))?;
        let mut rows = statement.query([after]).map_err(|e| self.error(&e))?;
        while let Some(row) = rows.next().map_err(|e| self.error(&e))? {
            each(kept(row).map_err(|e| self.error(&e))?)?;
        }
        Ok(())
    }

    /// The body of this number.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn quarantined_body(&self, id: i64) -> Result<Option<Kept>, StoreError> {
        if !self.has_events()? {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS} FROM quarantine WHERE id = ?1");
        self.db.prepare_cached(&sql).and_then(|mut s| s.query_row([id], kept).optional()).map_err(|e| self.error(&e))
    }

    /// How many bodies are kept.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn quarantined(&self) -> Result<u64, StoreError> {
        if !self.has_events()? {
            return Ok(0);
        }
        let n = self
            .db
            .prepare_cached("SELECT count(*) FROM quarantine")
            .and_then(|mut s| s.query_row([], |row| row.get::<_, i64>(0)));
        n.map(i64::unsigned_abs).map_err(|e| self.error(&e))
    }
}

impl Store {
    /// Takes a body out; `false` where there is none of this number.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn release_quarantined(&mut self, id: i64) -> Result<bool, StoreError> {
        let mut was_there = false;
        self.write(|tx, _| {
            was_there = tx.prepare_cached("DELETE FROM quarantine WHERE id = ?1")?.execute([id])? == 1;
            Ok(())
        })?;
        Ok(was_there)
    }
}

pub(super) fn keep(tx: &Connection, what: &Quarantined, now: i64) -> Result<(), Fault> {
    let digest = Sha256::digest(&what.body);
    let body = what.body.get(..MAX_QUARANTINED_BYTES);
    let (cut, body) = (body.is_some_and(|b| b.len() < what.body.len()), body.unwrap_or(&what.body));
    let why = Printable::new(what.why.as_bytes(), MAX_WHY_BYTES);
    let source = Printable::new(what.source.as_bytes(), MAX_SOURCE_BYTES);
    let sql = "INSERT OR IGNORE INTO quarantine (digest, at, cut, source, why, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    tx.prepare_cached(sql)?.execute(params![&digest[..], now, cut, source.as_str(), why.as_str(), body])?;
    Ok(())
}

/// Deletes what is past its time or number, a bounded number of bodies at once. The oldest come first.
pub(super) fn trim(tx: &Connection, now: i64) -> Result<(), Fault> {
    let sql = "DELETE FROM quarantine WHERE id IN (SELECT id FROM quarantine ORDER BY id
               LIMIT max(0, min(?1, (SELECT count(*) FROM quarantine) - ?2)))";
    tx.prepare_cached(sql)?.execute([TRIM_ROWS, MAX_QUARANTINED])?;
    let sql = "DELETE FROM quarantine WHERE at <= ?1 AND id IN (SELECT id FROM quarantine ORDER BY id LIMIT ?2)";
    tx.prepare_cached(sql)?.execute([now.saturating_sub(QUARANTINE_SECONDS), TRIM_ROWS])?;
    Ok(())
}

fn kept(row: &Row<'_>) -> rusqlite::Result<Kept> {
    let what = Quarantined { body: row.get(2)?, why: row.get(3)?, source: row.get(4)? };
    Ok(Kept { id: row.get(0)?, at: row.get(1)?, what, cut: row.get(5)? })
}

//! Reading: single entries, the list, the change feed, and the scan from which the index is loaded.

use super::file::{FileId, identity};
use super::{Entry, Filter, Origin, Reason, StoreError, schema};
use crate::mail::Address;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use std::fmt;
use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A connection that only reads. Never waits for a writer.
#[derive(Debug)]
pub struct Reader {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    file: FileId,
}

/// What happened to an address, or to the whole list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// It had no entry and has one now.
    Add,
    /// Its entry changed.
    Update,
    /// Its entry was removed.
    Remove,
    /// Too much to name each address: read the list again.
    Reload,
    /// Not of the list: a report of a full mailbox came or was taken back.
    Report,
    /// Not of the list alone: entries were removed by a filter.
    Filter,
}

/// One line of the change feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub op: Op,
    /// The canonical address; for [`Op::Reload`] any text, for a report or a filter its name.
    pub address: String,
    /// The entry's expiry after the change.
    pub expires: Option<i64>,
    /// Where the feed stands after this change.
    pub mark: Mark,
}

/// A place in the change feed: the number of a line and its text, so that a place in another
/// database, or in an older copy of this one, is not taken for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    seq: i64,
    address: String,
}

impl Mark {
    pub(super) fn seq(&self) -> i64 {
        self.seq
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

/// As [`Mark::from_str`] reads it.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.seq, self.address)
    }
}

impl FromStr for Mark {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (seq, address) = text.split_once(' ').unwrap_or((text, ""));
        Ok(Self { seq: seq.parse()?, address: address.to_owned() })
    }
}

pub(super) const COLUMNS: &str = "e.address, e.reason, e.source, e.created, e.expires, e.spelling, v.text";
const JOIN: &str = "entry e LEFT JOIN evidence v ON v.id = e.id";

impl Reader {
    /// Opens the database at `path`, which must exist.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where there is none, or what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // looked at before opening: if the file is replaced in between, the path names another one later
        let file = identity(path).map_err(|e| StoreError::io(path, &e))?;
        Ok(Self { db: schema::open_reader(path)?, path: path.to_path_buf(), file })
    }

    /// The same; `None` where there is no database yet, and so nothing in it.
    ///
    /// # Errors
    /// What is wrong with one that is there.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        match Self::open(path) {
            Ok(reader) => Ok(Some(reader)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn of_writer(db: Connection, path: &Path) -> Result<Self, StoreError> {
        let file = identity(path).map_err(|e| StoreError::io(path, &e))?;
        Ok(Self { db, path: path.to_path_buf(), file })
    }

    /// The file that is open.
    #[must_use]
    pub fn file(&self) -> FileId {
        self.file
    }

    /// The entry of a canonical address, expired or not.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn get(&self, address: &str) -> Result<Option<Entry>, StoreError> {
        let sql = "SELECT e.address, e.reason, e.source, e.created, e.expires, e.spelling, v.text
                   FROM entry e LEFT JOIN evidence v ON v.id = e.id WHERE e.address = ?1";
        let row = self
            .db
            .prepare_cached(sql)
            .and_then(|mut s| s.query_row([address], |row| Ok(entry(row, &self.path))).optional());
        row.map_err(|e| self.error(&e))?.transpose()
    }

    /// Hands the entries that `filter` means to `each`, oldest row first, at most `limit`.
    ///
    /// # Errors
    /// Trouble with the database, or the first error of `each`.
    pub fn scan<E: From<StoreError>>(
        &self,
        filter: &Filter,
        limit: Option<u64>,
        mut each: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let (clause, mut values) = filter.sql();
        values.push(limit.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX)).into());
        let sql = format!("SELECT {COLUMNS} FROM {JOIN} WHERE {clause} ORDER BY e.id LIMIT ?{}", values.len());
        let mut statement = self.db.prepare(&sql).map_err(|e| self.error(&e))?;
        let mut rows = statement.query(params_from_iter(values)).map_err(|e| self.error(&e))?;
        while let Some(row) = rows.next().map_err(|e| self.error(&e))? {
            each(entry(row, &self.path)?)?;
        }
        Ok(())
    }

    /// How many entries `filter` means.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn count(&self, filter: &Filter) -> Result<u64, StoreError> {
        let (clause, values) = filter.sql();
        // without a filter SQLite counts whole pages
        let sql = match filter.is_empty() {
            true => "SELECT count(*) FROM entry".to_owned(),
            false => format!("SELECT count(*) FROM {JOIN} WHERE {clause}"),
        };
        let n: i64 = self.db.query_row(&sql, params_from_iter(values), |row| row.get(0)).map_err(|e| self.error(&e))?;
        Ok(n.unsigned_abs())
    }

    /// What SQLite's own check of the whole file finds; nothing where it is sound. Reads every page.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn quick_check(&self) -> Result<Vec<String>, StoreError> {
        let mut statement = self.db.prepare("PRAGMA quick_check(10)").map_err(|e| self.error(&e))?;
        let found =
            statement.query_map([], |row| row.get(0)).and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>);
        let found = found.map_err(|e| self.error(&e))?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// Changes whenever another connection has changed the database. Cheap: no page is read.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        self.db
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map_err(|e| self.error(&e))
    }

    /// Where the change feed ends now.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn mark(&self) -> Result<Mark, StoreError> {
        self.db
            .query_row("SELECT seq, address FROM change ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok(Mark { seq: row.get(0)?, address: row.get(1)? })
            })
            .optional()
            .map_err(|e| self.error(&e))?
            .ok_or_else(|| StoreError::corrupt(&self.path, "the change feed is empty"))
    }

    /// Hands every change after `mark` to `each`, in order. `false` where `mark` is no longer (or
    /// never was) in the feed: then the list has to be read again.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn changes(&self, mark: &Mark, mut each: impl FnMut(Change)) -> Result<bool, StoreError> {
        let sql = "SELECT seq, op, address, expires FROM change WHERE seq >= ?1 ORDER BY seq";
        let mut statement = self.db.prepare_cached(sql).map_err(|e| self.error(&e))?;
        let mut rows = statement.query([mark.seq]).map_err(|e| self.error(&e))?;
        let mut next = || -> Result<Option<Change>, StoreError> {
            rows.next().and_then(|row| row.map(change).transpose()).map_err(|e| self.error(&e))
        };
        if next()?.is_none_or(|first| first.mark != *mark) {
            return Ok(false);
        }
        while let Some(change) = next()? {
            each(change);
        }
        Ok(true)
    }

    /// The lowest and highest row of the list; `None` where it is empty.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn rows(&self) -> Result<Option<(i64, i64)>, StoreError> {
        let sql = "SELECT (SELECT min(id) FROM entry), (SELECT max(id) FROM entry)";
        let ends: (Option<i64>, Option<i64>) =
            self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|e| self.error(&e))?;
        Ok(ends.0.zip(ends.1))
    }

    /// Hands address and expiry of the rows `from ..= to` to `each`: what the index is made of.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn scan_keys(&self, from: i64, to: i64, mut each: impl FnMut(&[u8], Option<i64>)) -> Result<(), StoreError> {
        let mut statement = self
            .db
            .prepare_cached("SELECT address, expires FROM entry WHERE id BETWEEN ?1 AND ?2")
            .map_err(|e| self.error(&e))?;
        let mut rows = statement.query(params![from, to]).map_err(|e| self.error(&e))?;
        while let Some(row) = rows.next().map_err(|e| self.error(&e))? {
            let address = row.get_ref(0).map_err(|e| self.error(&e))?.as_bytes().unwrap_or_default();
            let expires = row.get_ref(1).map_err(|e| self.error(&e))?.as_i64_or_null().unwrap_or_default();
            each(address, expires);
        }
        Ok(())
    }

    /// When an operator last removed the address of `entry`, or by one of `filters` that means the entry.
    pub(super) fn removed_at(&self, entry: &Entry, filters: &[(i64, Filter)]) -> Result<Option<i64>, StoreError> {
        let by_name: Option<i64> = self
            .db
            .prepare_cached("SELECT at FROM removed WHERE address = ?1")
            .and_then(|mut s| s.query_row([entry.address.as_str()], |row| row.get(0)).optional())
            .map_err(|e| self.error(&e))?;
        let by_filter = filters.iter().filter(|(_, filter)| filter.matches(entry)).map(|(at, _)| *at).max();
        Ok(by_name.max(by_filter))
    }

    /// The filters by which operators removed entries, each with when.
    pub(super) fn removed_filters(&self) -> Result<Vec<(i64, Filter)>, StoreError> {
        let mut statement =
            self.db.prepare_cached("SELECT at, filter FROM removed_filter").map_err(|e| self.error(&e))?;
        let mut rows = statement.query([]).map_err(|e| self.error(&e))?;
        let mut filters = Vec::new();
        while let Some(row) = rows.next().map_err(|e| self.error(&e))? {
            let json: String = row.get(1).map_err(|e| self.error(&e))?;
            let filter = serde_json::from_str(&json).map_err(|e| StoreError::corrupt(&self.path, e.to_string()))?;
            filters.push((row.get(0).map_err(|e| self.error(&e))?, filter));
        }
        Ok(filters)
    }

    /// Whether the database has what events need. One that an older gatepost wrote has not, until something
    /// writes to it; for a reader there is nothing of it then.
    pub(super) fn has_events(&self) -> Result<bool, StoreError> {
        self.is_since(schema::EVENTS_SINCE)
    }

    /// Whether it has lines that wait for their ids.
    pub(super) fn has_late(&self) -> Result<bool, StoreError> {
        self.is_since(schema::LATE_SINCE)
    }

    fn is_since(&self, first: i64) -> Result<bool, StoreError> {
        self.db
            .prepare_cached("PRAGMA user_version")
            .and_then(|mut s| s.query_row([], |row| row.get::<_, i64>(0)))
            .map(|version| version >= first)
            .map_err(|e| self.error(&e))
    }

    pub(super) fn error(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::sql(&self.path, error)
    }
}

impl Op {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Add => 1,
            Self::Update => 2,
            Self::Remove => 3,
            Self::Reload => 4,
            Self::Report => 5,
            Self::Filter => 6,
        }
    }

    /// What is not understood is answered by reading the list again, which is always right.
    fn from_code(code: i64) -> Self {
        let known = [Self::Add, Self::Update, Self::Remove, Self::Report, Self::Filter];
        known.into_iter().find(|op| op.code() == code).unwrap_or(Self::Reload)
    }
}

pub(super) fn change(row: &Row<'_>) -> rusqlite::Result<Change> {
    let address: String = row.get(2)?;
    let mark = Mark { seq: row.get(0)?, address: address.clone() };
    Ok(Change { op: Op::from_code(row.get(1)?), address, expires: row.get(3)?, mark })
}

/// The entry of a row of [`COLUMNS`].
pub(super) fn entry(row: &Row<'_>, path: &Path) -> Result<Entry, StoreError> {
    let sql = |e| StoreError::sql(path, &e);
    let text: String = row.get(0).map_err(sql)?;
    let wrong = |what: &str| StoreError::corrupt(path, format!("entry {text:?}: {what}"));
    Ok(Entry {
        address: Address::parse(&text).map_err(|e| wrong(&e.to_string()))?,
        reason: Reason::from_code(row.get(1).map_err(sql)?).ok_or_else(|| wrong("unknown reason"))?,
        source: Origin::from_code(row.get(2).map_err(sql)?).ok_or_else(|| wrong("unknown source"))?,
        created: row.get(3).map_err(sql)?,
        expires: row.get(4).map_err(sql)?,
        spelling: row.get(5).map_err(sql)?,
        evidence: row.get::<_, Option<String>>(6).map_err(sql)?.unwrap_or_default(),
    })
}

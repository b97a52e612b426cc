//! Writing: every change of the list with its lines in the change feed, in one transaction.

use super::merge::{Told, stamp_of};
use super::record::Stamp;
use super::{Entry, Filter, Op, Reader, StoreError, file, schema};
use crate::mail::Address;
use rusqlite::{
    CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior, params, params_from_iter,
};
use serde::Serialize;
use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most lines kept in the change feed. A follower that is further behind reads the whole list
/// again, which takes no longer than that many single changes would.
pub const MAX_CHANGES: i64 = 200_000;

/// How long a tombstone stands, in seconds: 400 days. An event can come late by what a queue and
/// its dead-letter queue keep (14 days each in SQS), and SES goes on reporting an address that
/// still stands on the account's own list.
pub const TOMBSTONE_SECONDS: i64 = 400 * 86_400;

/// Most addresses with a tombstone: as many as the index in memory is made for. The oldest go first.
pub const MAX_REMOVED: i64 = 10_000_000;

/// Most tombstones of filters: each is asked for every new entry. The oldest go first.
pub const MAX_REMOVED_FILTERS: i64 = 1_000;

/// Most expired entries that one purge deletes, so that it never holds the lock for long.
const PURGE_ROWS: i64 = 10_000;

/// The connection that writes. Reads as well (it derefs to [`Reader`]).
#[derive(Debug)]
pub struct Store {
    reader: Reader,
}

/// What becomes of an entry that is there already. One that has expired is always replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExisting {
    /// The new one counts, but the date of the first stays, and its evidence where the new one has none.
    Replace,
    /// The old one stays, with the longer expiry of the two.
    KeepLonger,
}

/// What a batch of entries changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// New addresses.
    pub added: u64,
    /// Addresses whose entry changed.
    pub renewed: u64,
    /// Addresses whose entry was already as good.
    pub unchanged: u64,
}

/// What a bulk removal took out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// All entries.
    pub entries: u64,
    /// Those for a bounce or a complaint, or on SES's own list when it was last heard of: they may stand there.
    pub may_stand_at_ses: u64,
}

impl Store {
    /// Opens the database at `path`, makes it where it is missing, brings it to the newest schema.
    ///
    /// # Errors
    /// What is wrong with the path or the database.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        file::ensure(path).map_err(|e| StoreError::io(path, &e))?;
        let db = schema::open_writer(path)?;
        Ok(Self { reader: Reader::of_writer(db, path)? })
    }

    /// Opens the database at `path` for work that can be put off: it is not made where it is
    /// missing, and what finds another writer at work fails at once with [`StoreError::Busy`].
    ///
    /// # Errors
    /// What is wrong with the path or the database.
    pub fn open_idle(path: &Path) -> Result<Self, StoreError> {
        let store = Self { reader: Reader::of_writer(schema::open_writer(path)?, path)? };
        store.db.busy_timeout(Duration::ZERO).map_err(|e| store.error(&e))?;
        Ok(store)
    }

    /// Takes up to 64 MiB of memory for pages, for long imports: an index over millions of
    /// addresses in random order does not fit the small cache that a daemon keeps.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn use_large_cache(&self) -> Result<(), StoreError> {
        self.db.pragma_update(None, "cache_size", -64_000).map_err(|e| self.error(&e))
    }

    /// Makes ready for millions of rows in the order of their addresses, or for daily life again: with more memory for
    /// pages, and fewer checkpoints, each of which waits for the disk twice.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn expect_millions(&self, yes: bool) -> Result<(), StoreError> {
        let (cache, checkpoint) = if yes { (-64_000, 25_000) } else { (-2_000, 1_000) };
        let set = self.db.pragma_update(None, "cache_size", cache);
        set.and_then(|()| self.db.pragma_update(None, "wal_autocheckpoint", checkpoint)).map_err(|e| self.error(&e))
    }

    /// Adds what an operator adds or imports, all or nothing; tombstones of these addresses go.
    /// `now` (Unix seconds) decides which old entries have expired.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn put(&mut self, entries: &[Entry], existing: OnExisting, now: i64) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        self.write(|tx, reader| {
            for entry in entries {
                let entry = entry.clone().bounded();
                let removed = forgive(tx, entry.address.as_str())?;
                super::brake::drop_held(tx, &entry.address)?;
                let version = version_at(now).max(removed.map_or(0, |version| version.saturating_add(1)));
                if insert(tx, &entry, Stamp::word(version), Told::Here)? {
                    counts.added += 1;
                    continue;
                }
                match renew(tx, reader, &entry, existing, (now, version))? {
                    true => counts.renewed += 1,
                    false => counts.unchanged += 1,
                }
            }
            Ok(())
        })?;
        Ok(counts)
    }

    /// Removes these addresses at `at` (Unix seconds) and leaves a tombstone for each, also for
    /// those that had no entry. Returns what each had.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn remove(&mut self, addresses: &[Address], at: i64) -> Result<Vec<Option<Entry>>, StoreError> {
        let mut removed = Vec::with_capacity(addresses.len());
        self.write(|tx, reader| {
            for address in addresses {
                let old = reader.get(address.as_str())?;
                super::brake::drop_held(tx, address)?;
                remove(tx, address, at)?;
                removed.push(old);
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// Removes every entry that `filter` means at `at` (Unix seconds); leaves a tombstone for each
    /// address and one of the filter.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn remove_matching(&mut self, filter: &Filter, at: i64) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        self.write(|tx, reader| {
            removed = count_removed(tx, filter)?;
            let until = at.saturating_add(TOMBSTONE_SECONDS);
            let json = serde_json::to_string(filter)
                .map_err(|e| Fault::Store(StoreError::Other { path: reader.path.clone(), detail: e.to_string() }))?;
            let sql = "INSERT INTO removed_filter (filter, at, until) VALUES (?1, ?2, ?3)";
            tx.execute(sql, params![json, at, until])?;
            super::report::tell_filter(tx, &json)?;
            bury_matching(tx, filter, at, until)?;
            if removed.entries > MAX_CHANGES.unsigned_abs() {
                feed(tx, Op::Reload, "", None, Told::Here)?;
            } else {
                select_into(
                    tx,
                    "INSERT INTO change (op, address)",
                    &format!("{}, e.address", Op::Remove.code()),
                    filter,
                )?;
            }
            delete(tx, filter)?;
            super::brake::drop_held_matching(tx, filter)
        })?;
        Ok(removed)
    }

    /// Deletes what is past its time or number, a bounded number of rows at once: expired entries (the index
    /// sees to those by itself), tombstones, and what events leave behind.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn purge(&mut self, now: i64) -> Result<(), StoreError> {
        self.write(|tx, _| {
            tx.execute(
                "DELETE FROM entry WHERE id IN
                   (SELECT id FROM entry WHERE expires IS NOT NULL AND expires <= ?1 LIMIT ?2)",
                params![now, PURGE_ROWS],
            )?;
            tx.execute(
                "DELETE FROM removed WHERE id IN (SELECT id FROM removed WHERE until <= ?1 LIMIT ?2)",
                params![now, PURGE_ROWS],
            )?;
            tx.execute("DELETE FROM removed WHERE id <= (SELECT max(id) FROM removed) - ?1", [MAX_REMOVED])?;
            tx.execute("DELETE FROM removed_filter WHERE until <= ?1", [now])?;
            let sql = "DELETE FROM removed_filter WHERE id <= (SELECT max(id) FROM removed_filter) - ?1";
            tx.execute(sql, [MAX_REMOVED_FILTERS])?;
            super::seen::trim(tx, now, PURGE_ROWS)?;
            super::soft::trim(tx, now, PURGE_ROWS)?;
            super::quarantine::trim(tx, now)
        })
    }

    /// One transaction; the feed is cut to its bound at its end.
    pub(super) fn write(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &Reader) -> Result<(), Fault>,
    ) -> Result<(), StoreError> {
        let run = |reader: &Reader| -> Result<(), Fault> {
            // the connection is ours alone (`&mut self`), so no other transaction is open on it
            let tx = Transaction::new_unchecked(&reader.db, TransactionBehavior::Immediate)?;
            work(&tx, reader)?;
            tx.prepare_cached("DELETE FROM change WHERE seq <= (SELECT max(seq) FROM change) - ?1")?
                .execute([MAX_CHANGES])?;
            Ok(tx.commit()?)
        };
        run(&self.reader).map_err(|fault| match fault {
            Fault::Sql(e) => self.reader.error(&e),
            Fault::Store(e) => e,
        })
    }
}

impl Deref for Store {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

/// What ends a transaction.
pub(super) enum Fault {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<StoreError> for Fault {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

/// Takes the entry of an address out, if there is one, and leaves a tombstone. An operator says so, at `at`.
pub(super) fn remove(tx: &Connection, address: &Address, at: i64) -> Result<(), Fault> {
    let address = address.as_str();
    let said = stamp_of(tx, address)?.and_then(|stamp| stamp.version).max(forgive(tx, address)?);
    let version = version_at(at).max(said.map_or(0, |version| version.saturating_add(1)));
    bury(tx, address, version)?;
    take_out(tx, address, Told::Here)
}

/// Leaves a tombstone of a version.
pub(super) fn bury(tx: &Connection, address: &str, version: i64) -> Result<(), Fault> {
    let at = version.div_euclid(1000);
    let sql = "INSERT OR REPLACE INTO removed (address, at, until, version) VALUES (?1, ?2, ?3, ?4)";
    tx.prepare_cached(sql)?.execute(params![address, at, at.saturating_add(TOMBSTONE_SECONDS), version])?;
    Ok(())
}

/// Takes a tombstone away; its version, if there was one.
pub(super) fn forgive(tx: &Connection, address: &str) -> Result<Option<i64>, Fault> {
    let sql = "DELETE FROM removed WHERE address = ?1 RETURNING coalesce(version, at * 1000)";
    Ok(tx.prepare_cached(sql)?.query_row([address], |row| row.get(0)).optional()?)
}

/// `false` where the address has an entry.
pub(super) fn insert(tx: &Connection, entry: &Entry, stamp: Stamp, told: Told) -> Result<bool, Fault> {
    let is_new = Inserting::into(tx)?.insert(entry, stamp)?;
    if is_new {
        feed(tx, Op::Add, entry.address.as_str(), entry.expires, told)?;
    }
    Ok(is_new)
}

/// Inserts one entry after the other; the feed is told nothing.
pub(super) struct Inserting<'t> {
    tx: &'t Connection,
    entry: CachedStatement<'t>,
    evidence: CachedStatement<'t>,
}

impl<'t> Inserting<'t> {
    pub(super) fn into(tx: &'t Connection) -> Result<Self, Fault> {
        let entry = "INSERT INTO entry (address, expires, created, reason, source, spelling, version, mail_time, echo)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (address) DO NOTHING";
        let evidence = "INSERT INTO evidence (id, text) VALUES (?1, ?2)";
        Ok(Self { tx, entry: tx.prepare_cached(entry)?, evidence: tx.prepare_cached(evidence)? })
    }

    /// `false` where the address has an entry.
    pub(super) fn insert(&mut self, entry: &Entry, stamp: Stamp) -> Result<bool, Fault> {
        if self.entry.execute(columns(entry, stamp))? == 0 {
            return Ok(false);
        }
        if !entry.evidence.is_empty() {
            self.evidence.execute(params![self.tx.last_insert_rowid(), entry.evidence])?;
        }
        Ok(true)
    }
}

fn columns(entry: &Entry, stamp: Stamp) -> impl rusqlite::Params {
    (
        entry.address.as_str(),
        entry.expires,
        entry.created,
        entry.reason.code(),
        entry.source.code(),
        entry.spelling.as_deref(),
        stamp.version,
        stamp.mail_time,
        stamp.echo.then_some(1),
    )
}

/// `false` where the old entry stays as it is. `version` is for the word of an operator who said nothing before.
fn renew(
    tx: &Connection,
    reader: &Reader,
    new: &Entry,
    existing: OnExisting,
    (now, version): (i64, i64),
) -> Result<bool, Fault> {
    let Some(old) = reader.get(new.address.as_str())? else {
        return Ok(false);
    };
    let entry = merge(&old, new, existing, now);
    if entry == old {
        return Ok(false);
    }
    let said = stamp_of(tx, old.address.as_str())?.and_then(|stamp| stamp.version);
    let version = version.max(said.map_or(0, |version| version.saturating_add(1)));
    update(tx, &entry, Stamp::word(version), Told::Here)?;
    Ok(true)
}

/// Gives the entry of an address, which there is, other values.
pub(super) fn update(tx: &Connection, entry: &Entry, stamp: Stamp, told: Told) -> Result<(), Fault> {
    let sql = "UPDATE entry SET expires = ?2, created = ?3, reason = ?4, source = ?5, spelling = ?6, version = ?7,
               mail_time = ?8, echo = ?9 WHERE address = ?1";
    tx.prepare_cached(sql)?.execute(columns(entry, stamp))?;
    if entry.evidence.is_empty() {
        tx.prepare_cached("DELETE FROM evidence WHERE id = (SELECT id FROM entry WHERE address = ?1)")?
            .execute([entry.address.as_str()])?;
    } else {
        let sql = "INSERT OR REPLACE INTO evidence (id, text) SELECT id, ?2 FROM entry WHERE address = ?1";
        tx.prepare_cached(sql)?.execute(params![entry.address.as_str(), entry.evidence])?;
    }
    feed(tx, Op::Update, entry.address.as_str(), entry.expires, told)
}

/// Takes the entry of an address out, if there is one, without a tombstone.
pub(super) fn take_out(tx: &Connection, address: &str, told: Told) -> Result<(), Fault> {
    tx.prepare_cached("DELETE FROM entry WHERE address = ?1")?.execute([address])?;
    feed(tx, Op::Remove, address, None, told)
}

fn merge(old: &Entry, new: &Entry, existing: OnExisting, now: i64) -> Entry {
    if !old.in_force(now) {
        return new.clone();
    }
    match existing {
        OnExisting::KeepLonger => Entry { expires: super::apply::later(old.expires, new.expires), ..old.clone() },
        OnExisting::Replace => {
            let evidence = if new.evidence.is_empty() { &old.evidence } else { &new.evidence };
            let spelling = new.spelling.clone().or_else(|| old.spelling.clone());
            Entry { created: old.created, evidence: evidence.clone(), spelling, ..new.clone() }
        }
    }
}

pub(super) fn feed(tx: &Connection, op: Op, address: &str, expires: Option<i64>, told: Told) -> Result<(), Fault> {
    let (fleet, taken) = match told {
        Told::Here => (None, None),
        Told::TakenBack(mail_time) => (None, Some(mail_time)),
        Told::ByFleet => (Some(1), None),
        Told::Silently => return Ok(()),
    };
    let sql = "INSERT INTO change (op, address, expires, fleet, taken) VALUES (?1, ?2, ?3, ?4, ?5)";
    tx.prepare_cached(sql)?.execute(params![op.code(), address, expires, fleet, taken])?;
    Ok(())
}

/// The version of a change at `at` (Unix seconds): Unix milliseconds, to the millisecond where it is now.
fn version_at(at: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match i64::try_from(now.as_millis()) {
        Ok(ms) if ms.div_euclid(1000) == at => ms,
        _ => at.saturating_mul(1000),
    }
}

fn count_removed(tx: &Connection, filter: &Filter) -> Result<Removed, Fault> {
    let (clause, values) = filter.sql();
    let codes = super::Reason::ALL.iter().filter(|r| r.may_stand_at_ses()).map(|r| r.code().to_string());
    let codes = codes.collect::<Vec<_>>().join(", ");
    let sql = format!(
        "SELECT count(*), coalesce(sum(e.reason IN ({codes})), 0)
         FROM entry e LEFT JOIN evidence v ON v.id = e.id WHERE {clause}"
    );
    let (entries, marked): (i64, i64) =
        tx.query_row(&sql, params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Removed { entries: entries.unsigned_abs(), may_stand_at_ses: marked.unsigned_abs() })
}

fn bury_matching(tx: &Connection, filter: &Filter, at: i64, until: i64) -> Result<(), Fault> {
    let version = format!("max({}, coalesce(e.version, 0) + 1)", version_at(at));
    let columns = format!("e.address, {at}, {until}, {version}");
    select_into(tx, "INSERT OR REPLACE INTO removed (address, at, until, version)", &columns, filter)
}

fn select_into(tx: &Connection, insert: &str, columns: &str, filter: &Filter) -> Result<(), Fault> {
    let (clause, values) = filter.sql();
    let sql = format!("{insert} SELECT {columns} FROM entry e LEFT JOIN evidence v ON v.id = e.id WHERE {clause}");
    tx.execute(&sql, params_from_iter(values))?;
    Ok(())
}

fn delete(tx: &Connection, filter: &Filter) -> Result<(), Fault> {
    let (clause, values) = filter.sql();
    let rows = format!("SELECT e.id FROM entry e LEFT JOIN evidence v ON v.id = e.id WHERE {clause}");
    tx.execute(&format!("DELETE FROM entry WHERE id IN ({rows})"), params_from_iter(values))?;
    Ok(())
}

//! The brake: when events bring more new entries than the rules allow, something is wrong with us rather
//! than with that many mailboxes. From then on new entries are recorded, not enforced, until an operator
//! decides.

use super::apply::improved;
use super::merge::{Told, stamp_of};
use super::read::{COLUMNS, entry};
use super::record::Stamp;
use super::write::{Fault, insert, remove, update};
use super::{Entry, Filter, Reader, Store, StoreError};
use crate::mail::Address;
use crate::rules::Rate;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

/// Most entries that are recorded and not enforced; the oldest go first. Whoever lets a million wait has
/// decided.
const MAX_HELD: i64 = 1_000_000;

/// Entries that one transaction enforces or discards, so that it never holds the lock for long.
const STEP_ROWS: i64 = 10_000;

const NANOS: i64 = 1_000_000_000;

/// `held` has the columns of `entry` and its evidence's in one row.
const HELD: &str = "held e JOIN held v ON v.id = e.id";

/// The brake as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrakeState {
    /// Since when it is on, Unix seconds; `None`: it is off.
    pub since: Option<i64>,
    /// Entries that are recorded and not enforced.
    pub held: u64,
}

impl Reader {
    /// The brake as it stands.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn brake(&self) -> Result<BrakeState, StoreError> {
        if !self.has_events()? {
            return Ok(BrakeState::default());
        }
        let sql = "SELECT (SELECT value FROM meta WHERE name = 'brake_since'), (SELECT count(*) FROM held)";
        let row = self.db.prepare_cached(sql).and_then(|mut s| {
            s.query_row([], |row| Ok(BrakeState { since: row.get(0)?, held: row.get::<_, i64>(1)?.unsigned_abs() }))
        });
        row.map_err(|e| self.error(&e))
    }

    /// Hands the entries that are recorded and not enforced to `each`, the oldest first.
    ///
    /// # Errors
    /// Trouble with the database, or the first error of `each`.
    pub fn held<E: From<StoreError>>(&self, mut each: impl FnMut(Entry) -> Result<(), E>) -> Result<(), E> {
        if !self.has_events()? {
            return Ok(());
        }
        let sql = format!("SELECT {COLUMNS} FROM {HELD} ORDER BY e.id");
        let mut statement = self.db.prepare(&sql).map_err(|e| self.error(&e))?;
        let mut rows = statement.query([]).map_err(|e| self.error(&e))?;
        while let Some(row) = rows.next().map_err(|e| self.error(&e))? {
            each(entry(row, &self.path)?)?;
        }
        Ok(())
    }

    /// What is recorded and not enforced for a canonical address.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn held_entry(&self, address: &str) -> Result<Option<Entry>, StoreError> {
        if self.has_events()? { held_entry(self, address) } else { Ok(None) }
    }
}

impl Store {
    /// Enforces what the brake recorded, and takes the brake off. Returns how many addresses are suppressed
    /// by it.
    ///
    /// # Errors
    /// Trouble with the database; then what was done so far stays, and the rest is there still.
    pub fn enforce_held(&mut self, now: i64) -> Result<u64, StoreError> {
        self.release(|tx, reader, held| {
            let mut enforced = 0;
            for new in held.iter().filter(|e| e.in_force(now)) {
                enforced += 1;
                let stamp = held_stamp(tx, new)?;
                if insert(tx, new, stamp, Told::Here)? {
                    continue;
                }
                let address = new.address.as_str();
                match reader.get(address)?.filter(|old| old.in_force(now)) {
                    None => update(tx, new, stamp, Told::Here)?,
                    Some(old) => {
                        if let Some(better) = improved(&old, new, false) {
                            let mail_time = stamp.mail_time.unwrap_or(new.created);
                            let stamp = stamp_of(tx, address)?.unwrap_or(stamp).renewed(mail_time);
                            update(tx, &better, stamp, Told::Here)?;
                        }
                    }
                }
            }
            Ok(enforced)
        })
    }

    /// Forgets what the brake recorded, with a tombstone for each address, and takes the brake off. Returns how
    /// many entries.
    ///
    /// # Errors
    /// Trouble with the database; then what was done so far stays, and the rest is there still.
    pub fn discard_held(&mut self, now: i64) -> Result<u64, StoreError> {
        self.release(|tx, _, held| {
            for entry in held {
                remove(tx, &entry.address, now)?;
            }
            Ok(held.len() as u64)
        })
    }

    /// Takes the brake off and hands what it recorded to `decide`, step by step.
    fn release(
        &mut self,
        mut decide: impl FnMut(&Connection, &Reader, &[Entry]) -> Result<u64, Fault>,
    ) -> Result<u64, StoreError> {
        let (mut decided, mut is_done) = (0, false);
        while !is_done {
            self.write(|tx, reader| {
                tx.execute("DELETE FROM meta WHERE name IN ('brake_since', 'brake_tat')", [])?;
                let held = first(tx, reader)?;
                decided += decide(tx, reader, &held)?;
                for entry in &held {
                    drop_held(tx, &entry.address)?;
                }
                is_done = i64::try_from(held.len()).is_ok_and(|n| n < STEP_ROWS);
                Ok(())
            })?;
        }
        Ok(decided)
    }
}

/// The few numbers that outlive a transaction: the last line of the outbox, and the brake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// The number of the last line that was put into the outbox.
    pub(super) last_line: i64,
    /// When the brake is idle again (GCRA's theoretical arrival time), Unix time in nanoseconds.
    tat: Option<i64>,
    since: Option<i64>,
}

const META: [&str; 3] = ["last_line", "brake_tat", "brake_since"];

impl Meta {
    pub(super) fn load(tx: &Connection) -> Result<Self, Fault> {
        let value = |name: &str| -> Result<Option<i64>, Fault> {
            let sql = "SELECT value FROM meta WHERE name = ?1";
            Ok(tx.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?)
        };
        let [last_line, tat, since] = META.map(value);
        Ok(Self { last_line: last_line?.unwrap_or(0), tat: tat?, since: since? })
    }

    pub(super) fn save(&self, tx: &Connection) -> Result<(), Fault> {
        for (name, value) in META.into_iter().zip([Some(self.last_line), self.tat, self.since]) {
            if let Some(value) = value {
                let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2)
                           ON CONFLICT (name) DO UPDATE SET value = ?2 WHERE value != ?2";
                tx.prepare_cached(sql)?.execute(params![name, value])?;
            }
        }
        Ok(())
    }

    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Charges one new entry at `now` (Unix seconds); `false` where the brake is on, or goes on with this one.
    pub(super) fn grants(&mut self, rate: Rate, now: i64) -> bool {
        let period = i64::try_from(rate.replenish().as_nanos()).unwrap_or(i64::MAX);
        let window = period.saturating_mul(i64::from(rate.burst()));
        let now_nanos = now.saturating_mul(NANOS);
        // further ahead than the whole burst: the clock was set back, or the rate was changed
        let ahead = self.tat.unwrap_or(0).saturating_sub(now_nanos).clamp(0, window);
        if self.since.is_none() && ahead.saturating_add(period) > window {
            self.since = Some(now);
        }
        if self.is_on() {
            return false;
        }
        self.tat = Some(now_nanos.saturating_add(ahead).saturating_add(period));
        true
    }
}

/// Records an entry; `true` where the address was not recorded yet.
pub(super) fn hold(tx: &Connection, reader: &Reader, new: &Entry, stamp: Stamp) -> Result<bool, Fault> {
    let sql = "INSERT INTO held (address, expires, created, reason, source, spelling, text)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (address) DO NOTHING";
    let is_new = tx.prepare_cached(sql)?.execute(values(new))? == 1;
    let sql = "UPDATE held SET mail_time = max(coalesce(mail_time, ?2), ?2), echo = coalesce(echo, 1) AND ?3
               WHERE address = ?1";
    tx.prepare_cached(sql)?.execute(params![new.address.as_str(), stamp.mail_time, stamp.echo])?;
    if is_new {
        return Ok(true);
    }
    let old = held_entry(reader, new.address.as_str())?;
    if let Some(better) = old.and_then(|old| improved(&old, new, stamp.echo)) {
        update_held(tx, &better)?;
    }
    Ok(false)
}

pub(super) fn update_held(tx: &Connection, entry: &Entry) -> Result<(), Fault> {
    let sql = "UPDATE held SET expires = ?2, created = ?3, reason = ?4, source = ?5, spelling = ?6, text = ?7
               WHERE address = ?1";
    tx.prepare_cached(sql)?.execute(values(entry))?;
    Ok(())
}

pub(super) fn held_entry(reader: &Reader, address: &str) -> Result<Option<Entry>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM {HELD} WHERE e.address = ?1");
    let row = reader
        .db
        .prepare_cached(&sql)
        .and_then(|mut s| s.query_row([address], |row| Ok(entry(row, &reader.path))).optional());
    row.map_err(|e| reader.error(&e))?.transpose()
}

fn held_stamp(tx: &Connection, entry: &Entry) -> Result<Stamp, Fault> {
    let sql = "SELECT coalesce(mail_time, created), coalesce(echo, 0) FROM held WHERE address = ?1";
    let stamp = |row: &rusqlite::Row<'_>| Ok(Stamp::fact(row.get(0)?, row.get(1)?));
    Ok(tx.prepare_cached(sql)?.query_row([entry.address.as_str()], stamp)?)
}

/// Forgets what is recorded for an address: an operator's word, or an entry in force, stands in its place.
pub(super) fn drop_held(tx: &Connection, address: &Address) -> Result<(), Fault> {
    tx.prepare_cached("DELETE FROM held WHERE address = ?1")?.execute([address.as_str()])?;
    Ok(())
}

pub(super) fn drop_held_matching(tx: &Connection, filter: &Filter) -> Result<(), Fault> {
    let (clause, values) = filter.sql();
    let sql = format!("DELETE FROM held WHERE id IN (SELECT e.id FROM {HELD} WHERE {clause})");
    tx.execute(&sql, params_from_iter(values))?;
    Ok(())
}

/// Cuts what is recorded to its bound.
pub(super) fn trim(tx: &Connection) -> Result<(), Fault> {
    tx.prepare_cached("DELETE FROM held WHERE id <= (SELECT max(id) FROM held) - ?1")?.execute([MAX_HELD])?;
    Ok(())
}

fn first(tx: &Connection, reader: &Reader) -> Result<Vec<Entry>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM {HELD} ORDER BY e.id LIMIT ?1");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query([STEP_ROWS])?;
    let mut held = Vec::new();
    while let Some(row) = rows.next()? {
        held.push(entry(row, &reader.path)?);
    }
    Ok(held)
}

fn values(entry: &Entry) -> impl rusqlite::Params {
    (
        entry.address.as_str(),
        entry.expires,
        entry.created,
        entry.reason.code(),
        entry.source.code(),
        entry.spelling.as_deref(),
        entry.evidence.as_str(),
    )
}

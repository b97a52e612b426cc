//! The list of a relay as a part of a fleet's: what a row says to the others, what the others say of it, and the
//! changes of the feed that were made here and that they have not heard of.

use super::read::{COLUMNS, entry};
use super::record::Stamp;
use super::write::{Fault, Inserting, bury, feed, forgive, insert, take_out, update};
use super::{Entry, FullReport, Mark, Op, Reader, Record, RemovedFilter, Store, StoreError, brake, read};
use crate::mail::Address;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Whom a change of the list is told by the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The index, and the fleet: it was made here.
    Here,
    /// The same; full mailboxes of mail that was sent up to then (Unix seconds) were contradicted.
    TakenBack(i64),
    /// The index: the fleet knows it.
    ByFleet,
    /// Nobody: [`Store::tell_all`] follows.
    Silently,
}

/// How the index is told of what others say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Of each address.
    Each,
    /// Of each address, and the fleet that this relay is in as well: an operator brought it.
    Own,
    /// Of none: too much for the feed. [`Store::tell_all`] follows.
    Later,
}

/// What became of records of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Addresses of which more is known here now.
    pub changed: u64,
    /// What is known here and was not said by the others.
    pub to_tell: Vec<(Address, Record)>,
}

/// A change that was made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnChange {
    /// Of an address.
    Of(Address, Record),
    /// Of a report of a full mailbox.
    Report(FullReport),
    /// Of a filter by which entries were removed.
    Filter(RemovedFilter),
    /// Too much to name each address.
    Everything,
}

/// A part of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnChanges {
    /// What was made here, each address once.
    pub changes: Vec<OwnChange>,
    /// Where the feed stands after them.
    pub mark: Mark,
    /// Whether there is more.
    pub more: bool,
}

impl Reader {
    /// Until when (mail of what time) full mailboxes were contradicted here, as far back as the feed goes: nothing else of
    /// this relay remembers it.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn taken_back(&self) -> Result<Vec<(Address, Record)>, StoreError> {
        let sql = "SELECT address, max(taken) FROM change WHERE taken IS NOT NULL GROUP BY address";
        let read = |row: &Row<'_>| -> rusqlite::Result<(String, i64)> { Ok((row.get(0)?, row.get(1)?)) };
        let rows = self
            .db
            .prepare_cached(sql)
            .and_then(|mut s| s.query_map([], read)?.collect::<Result<Vec<_>, _>>())
            .map_err(|e| self.error(&e))?;
        let taken = |(address, at): (String, i64)| Some((Address::parse(&address).ok()?, Record::taken_back(at)));
        Ok(rows.into_iter().filter_map(taken).collect())
    }

    /// All that the list says of a canonical address.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn record(&self, address: &str) -> Result<Record, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, e.version, e.mail_time, e.echo
             FROM entry e LEFT JOIN evidence v ON v.id = e.id WHERE e.address = ?1"
        );
        let found =
            self.db.prepare_cached(&sql).and_then(|mut s| s.query_row([address], |row| self.row(row)).optional());
        let row = found.map_err(|e| self.error(&e))?.transpose()?;
        let sql = "SELECT coalesce(version, at * 1000) FROM removed WHERE address = ?1";
        let removed = self.db.prepare_cached(sql).and_then(|mut s| s.query_row([address], |row| row.get(0)).optional());
        let removed = removed.map_err(|e| self.error(&e))?.map(Record::removed);
        Ok(row.map(|(entry, stamp)| Record::of_row(entry, stamp)).unwrap_or_default().join(removed.unwrap_or_default()))
    }

    /// The changes after `mark` that were made here, of the next `most` of the feed; `None` where `mark` is no longer
    /// (or never was) in the feed.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn own_changes(&self, mark: &Mark, most: usize) -> Result<Option<OwnChanges>, StoreError> {
        let lines = self.feed_lines(mark, most)?;
        let Some((mark, more)) = lines
            .first()
            .filter(|first| first.mark == *mark)
            .and(lines.last())
            .map(|last| (last.mark.clone(), lines.len() > most))
        else {
            return Ok(None);
        };
        let mut own: Vec<&Line> = lines.iter().skip(1).filter(|line| !line.is_fleets).collect();
        // the last line of an address has all that the earlier ones had, but for what was taken back
        own.sort_by(|a, b| a.mark.address().cmp(b.mark.address()));
        let mut changes = Vec::new();
        for lines in own.chunk_by(|a, b| a.mark.address() == b.mark.address()) {
            changes.extend(self.own_change(lines)?);
        }
        Ok(Some(OwnChanges { changes, mark, more }))
    }

    /// What the lines of one name are about.
    fn own_change(&self, lines: &[&Line]) -> Result<Option<OwnChange>, StoreError> {
        let Some(first) = lines.first() else { return Ok(None) };
        let name = first.mark.address();
        Ok(match first.op {
            _ if lines.iter().any(|line| line.op == Op::Reload) => Some(OwnChange::Everything),
            Op::Report => self.full_report(name)?.map(OwnChange::Report),
            Op::Filter => self.removed_filter(name)?.map(OwnChange::Filter),
            _ => {
                let Ok(address) = Address::parse(name) else { return Ok(None) };
                let taken = lines.iter().filter_map(|line| line.taken).max();
                let taken = taken.map(Record::taken_back).unwrap_or_default();
                let record = self.record(address.as_str())?.join(taken);
                Some(OwnChange::Of(address, record))
            }
        })
    }

    /// The line of `mark` and the `most` after it.
    fn feed_lines(&self, mark: &Mark, most: usize) -> Result<Vec<Line>, StoreError> {
        let sql = "SELECT seq, op, address, expires, fleet, taken FROM change WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
        let most = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
        let rows = self
            .db
            .prepare_cached(sql)
            .and_then(|mut s| s.query_map(params![mark.seq(), most], Line::read)?.collect::<Result<_, _>>());
        rows.map_err(|e| self.error(&e))
    }

    /// The next `most` addresses behind `after`, in the order of their bytes, that have an entry or a tombstone.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn known_after(&self, after: &str, most: usize) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT address FROM entry WHERE address > ?1 UNION SELECT address FROM removed WHERE address > ?1
                   ORDER BY 1 LIMIT ?2";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self
            .db
            .prepare_cached(sql)
            .and_then(|mut s| s.query_map(params![after, most], |row| row.get(0))?.collect::<Result<_, _>>());
        rows.map_err(|e| self.error(&e))
    }

    /// What the relay remembers of its fleet under a name.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn noted(&self, name: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM fleet WHERE name = ?1";
        let found = self.db.prepare_cached(sql).and_then(|mut s| s.query_row([name], |row| row.get(0)).optional());
        found.map_err(|e| self.error(&e))
    }

    fn row(&self, row: &Row<'_>) -> rusqlite::Result<Result<(Entry, Stamp), StoreError>> {
        let echo = row.get::<_, Option<bool>>(9)?.unwrap_or(false);
        let stamp = Stamp { version: row.get(7)?, mail_time: row.get(8)?, echo };
        Ok(entry(row, &self.path).map(|entry| (entry, stamp)))
    }
}

impl Store {
    /// Takes in what others say of addresses at `now` (Unix seconds): all of it or nothing. Remembers `notes` with it,
    /// names and values, unless there is something to tell them first.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn merge(
        &mut self,
        said: &[(Address, Record)],
        telling: Telling,
        notes: &[(&str, &str)],
        now: i64,
    ) -> Result<Merged, StoreError> {
        let mut merged = Merged::default();
        let told = match telling {
            Telling::Each => Told::ByFleet,
            Telling::Own => Told::Here,
            Telling::Later => Told::Silently,
        };
        self.write(|tx, reader| {
            for (address, record) in said {
                merge(tx, reader, (address, record), told, now, &mut merged)?;
            }
            let notes = if merged.to_tell.is_empty() { notes } else { &[] };
            notes.iter().try_for_each(|note| remember(tx, *note))
        })?;
        Ok(merged)
    }

    /// Takes in at most `most` of what others say, in the order of their addresses, into a list that knew nothing up to
    /// `mark`. Each is read when it is written: millions go through little memory. How many addresses are known by it;
    /// `None`, and nothing was read, where the list was changed since `mark`.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn fill(
        &mut self,
        said: &mut dyn Iterator<Item = (Address, Record)>,
        most: usize,
        now: i64,
        mark: &Mark,
    ) -> Result<Option<u64>, StoreError> {
        let (mut merged, mut is_as_it_was) = (Merged::default(), false);
        self.write(|tx, reader| {
            is_as_it_was = reader.mark()? == *mark;
            let most = if is_as_it_was { most } else { 0 };
            let mut inserting = Inserting::into(tx)?;
            for (address, record) in said.take(most) {
                if let Some(version) = record.removal() {
                    bury(tx, address.as_str(), version)?;
                }
                let is_removed = record.removal().is_some();
                let standing = record.into_standing().filter(|(entry, _)| entry.in_force(now));
                merged.changed += u64::from(standing.is_some() || is_removed);
                if let Some((entry, stamp)) = standing
                    && !inserting.insert(&entry, stamp)?
                {
                    merge(tx, reader, (&address, &Record::of_row(entry, stamp)), Told::Silently, now, &mut merged)?;
                }
            }
            Ok(())
        })?;
        Ok(is_as_it_was.then_some(merged.changed))
    }

    /// Has the index read the whole list, and remembers `notes` with it.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn tell_all(&mut self, notes: &[(&str, &str)]) -> Result<(), StoreError> {
        self.write(|tx, _| {
            feed(tx, Op::Reload, "", None, Told::ByFleet)?;
            notes.iter().try_for_each(|note| remember(tx, *note))
        })
    }
}

/// A line of the feed.
struct Line {
    op: Op,
    taken: Option<i64>,
    is_fleets: bool,
    mark: Mark,
}

impl Line {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let is_fleets = row.get::<_, Option<bool>>(4)?.unwrap_or(false);
        let read::Change { op, mark, .. } = read::change(row)?;
        Ok(Self { op, taken: row.get(5)?, is_fleets, mark })
    }
}

/// The stamp of the entry of an address, as an operator's word or as what an event told.
pub(super) fn stamp_of(tx: &Connection, address: &str) -> Result<Option<Stamp>, Fault> {
    // rows that are older than stamps: an operator's is of when it was made
    let sql = "SELECT CASE WHEN version IS NULL AND source != 3 THEN created * 1000 ELSE version END,
                      mail_time, coalesce(echo, 0) FROM entry WHERE address = ?1";
    let stamp = |row: &Row<'_>| Ok(Stamp { version: row.get(0)?, mail_time: row.get(1)?, echo: row.get(2)? });
    Ok(tx.prepare_cached(sql)?.query_row([address], stamp).optional()?)
}

/// Joins what is said of an address with what is known of it here.
fn merge(
    tx: &Connection,
    reader: &Reader,
    (address, said): (&Address, &Record),
    told: Told,
    now: i64,
    merged: &mut Merged,
) -> Result<(), Fault> {
    let known = reader.record(address.as_str())?;
    let all = known.clone().join(said.clone());
    let settled = all.settled().in_force(now);
    if settled != known.in_force(now) {
        write_row(tx, address, &known, &settled, told)?;
        merged.changed += 1;
    }
    let tell = settled.join(said.clone());
    if tell != *said {
        merged.to_tell.push((address.clone(), tell));
    }
    Ok(())
}

fn write_row(tx: &Connection, address: &Address, known: &Record, settled: &Record, told: Told) -> Result<(), Fault> {
    match settled.removal() {
        Some(version) => bury(tx, address.as_str(), version)?,
        None if known.removal().is_some() => drop(forgive(tx, address.as_str())?),
        None => {}
    }
    brake::drop_held(tx, address)?;
    match settled.standing() {
        Some((entry, stamp)) if known.standing().is_some() => update(tx, &entry, stamp, told),
        Some((entry, stamp)) => insert(tx, &entry, stamp, told).map(drop),
        None if known.standing().is_some() => take_out(tx, address.as_str(), told),
        None => Ok(()),
    }
}

fn remember(tx: &Connection, (name, value): (&str, &str)) -> Result<(), Fault> {
    tx.prepare_cached("INSERT OR REPLACE INTO fleet (name, value) VALUES (?1, ?2)")?.execute([name, value])?;
    Ok(())
}

#[cfg(test)]
mod tests;

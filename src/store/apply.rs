//! Applying events: entries, the reports of full mailboxes, the window of what was seen, the outbox and the
//! quarantine, in one transaction. When [`Store::apply`] returns, all of it is on disk, and the events may
//! leave their queue.

use super::brake::{self, Meta};
use super::merge::{Told, stamp_of};
use super::record::Stamp;
use super::report::{Reported, What, tell_report};
use super::soft::{self, Needed, Report};
use super::write::{Fault, insert, take_out, update};
use super::{
    Applied, Batch, Cause, Effect, Entry, Filter, FullReport, Origin, Reader, Reason, SeenKey, Store, StoreError,
};
use super::{late, outbox, quarantine, seen};
use crate::lines::{EventLine, Suppressed};
use crate::rules::MailboxFull;
use rusqlite::Connection;

/// Rows that a batch clears away of each kind, as many as it can have added and more: bounds hold under
/// load too, when the daemon's own purge finds the database busy.
const TRIM_ROWS: i64 = 100;

impl Store {
    /// Applies a batch: all of it or nothing.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn apply(&mut self, batch: &Batch<'_>) -> Result<Applied, StoreError> {
        let mut applied = Applied::default();
        self.write(|tx, reader| {
            let mut work = Work::begin(tx, reader, batch)?;
            for effect in batch.effects {
                work.effect(effect)?;
            }
            applied = work.finish()?;
            Ok(())
        })?;
        Ok(applied)
    }
}

/// A batch at work.
struct Work<'a> {
    tx: &'a Connection,
    reader: &'a Reader,
    batch: &'a Batch<'a>,
    meta: Meta,
    /// The tombstones of filters, once they were needed.
    filters: Option<Vec<(i64, Filter)>>,
    /// Whether there is any report of a full mailbox that a Delivery could take back.
    reports: bool,
    applied: Applied,
}

impl<'a> Work<'a> {
    fn begin(tx: &'a Connection, reader: &'a Reader, batch: &'a Batch<'a>) -> Result<Self, Fault> {
        let (meta, reports) = (Meta::load(tx)?, soft::any(tx)?);
        // a number that this database never gave names the line of another one
        if let Some(written) = batch.written.filter(|id| *id <= meta.last_line) {
            outbox::forget(tx, written)?;
        }
        Ok(Self { tx, reader, batch, meta, filters: None, reports, applied: Applied::default() })
    }

    fn effect(&mut self, effect: &Effect) -> Result<(), Fault> {
        if !seen::remember(self.tx, &effect.seen, self.batch.now)? {
            self.applied.duplicates += 1;
            return Ok(());
        }
        let outcome = match &effect.cause {
            Cause::Nothing => return self.write_line(&effect.line),
            Cause::Delivered { .. } => {
                self.delivered(&effect.seen)?;
                return self.write_line(&effect.line);
            }
            Cause::Suppress { entry, mail_time, echo } => self.suppress(&entry.clone().bounded(), *mail_time, *echo)?,
            Cause::Full { entry, mail_time, delivery, rule } => {
                self.full(&entry.clone().bounded(), *mail_time, delivery, *rule)?
            }
        };
        self.write_line(&EventLine { suppressed: Some(outcome), ..effect.line.clone() })
    }

    fn suppress(&mut self, new: &Entry, mail_time: i64, echo: bool) -> Result<Suppressed, Fault> {
        let old = self.reader.get(new.address.as_str())?.filter(|old| old.in_force(self.batch.now));
        let better = old.as_ref().map_or_else(|| Some(new.clone()), |old| improved(old, new, echo));
        let (Some(better), true) = (better, new.in_force(self.batch.now)) else {
            return Ok(if old.is_some() { Suppressed::Yes } else { Suppressed::No });
        };
        if self.removed_at(new)?.is_some_and(|at| echo || at >= mail_time) {
            if old.is_some() {
                return Ok(Suppressed::Yes);
            }
            self.applied.removed += 1;
            return Ok(Suppressed::Removed);
        }
        if old.is_some() {
            return self.renew(&better, mail_time);
        }
        self.add(new, Stamp::fact(mail_time, echo))
    }

    fn full(
        &mut self,
        new: &Entry,
        mail_time: i64,
        delivery: &SeenKey,
        rule: MailboxFull,
    ) -> Result<Suppressed, Fault> {
        let address = &new.address;
        let old = self.reader.get(address.as_str())?.filter(|old| old.in_force(self.batch.now));
        let as_it_was = if old.is_some() { Suppressed::Yes } else { Suppressed::No };
        let removed = self.removed_at(new)?;
        if removed.is_some_and(|at| at >= mail_time) || seen::is_known(self.tx, delivery)? {
            return Ok(as_it_was);
        }
        if soft::is_taken(self.tx, delivery)? == Some(true) {
            return Ok(as_it_was);
        }
        let needed = Needed::from(rule);
        let report = Report { address, at: new.created, mail_time, expires: new.expires, delivery };
        soft::keep(self.tx, report, needed, self.batch.now)?;
        tell_report(self.tx, delivery)?;
        self.count(new, mail_time, needed, removed)
    }

    /// What the reports around that of `new` come to.
    fn count(
        &mut self,
        new: &Entry,
        mail_time: i64,
        needed: Needed,
        removed: Option<i64>,
    ) -> Result<Suppressed, Fault> {
        self.reports = true;
        let old = self.reader.get(new.address.as_str())?.filter(|old| old.in_force(self.batch.now));
        let as_it_was = if old.is_some() { Suppressed::Yes } else { Suppressed::No };
        let enough = soft::enough_around(self.tx, new.address.as_str(), new.created, removed, needed)?;
        let Some(entry) = enough.map(|expires| Entry { expires, ..new.clone() }) else { return Ok(as_it_was) };
        match old {
            _ if !entry.in_force(self.batch.now) => Ok(as_it_was),
            None => self.add(&entry, Stamp::fact(mail_time, false)),
            Some(old) if stands_by_count(&old) => {
                let expires = later(old.expires, entry.expires);
                if expires == old.expires {
                    Ok(Suppressed::Yes)
                } else {
                    self.renew(&Entry { expires, ..old }, mail_time)
                }
            }
            Some(_) => Ok(Suppressed::Yes),
        }
    }

    /// A report that came to another relay, or that was taken back there. One that a Delivery contradicted here is
    /// taken back for all.
    fn hear(&mut self, heard: &FullReport) -> Result<(), Fault> {
        let FullReport { delivery, what } = heard;
        let known = soft::is_taken(self.tx, delivery)?;
        let Reported { address, at, mail_time, expires, need, within } = match what {
            What::Made(reported) => reported,
            What::TakenBack(_) if known.is_some() => return self.delivered(delivery),
            What::TakenBack(until) => return soft::remember_taken(self.tx, delivery, *until),
        };
        if known == Some(true) || seen::is_known(self.tx, delivery)? {
            soft::remember_taken(self.tx, delivery, self.batch.now.saturating_add(seen::SEEN_SECONDS))?;
            return tell_report(self.tx, delivery);
        }
        let needed = Needed { count: (*need).max(1), within: *within };
        let (address, evidence) = (address.clone(), String::new());
        let (reason, source) = (Reason::MailboxFull, Origin::Event);
        let entry = Entry { address, spelling: None, reason, evidence, source, created: *at, expires: *expires };
        let removed = self.removed_at(&entry)?;
        if known.is_some() || removed.is_some_and(|at| at >= *mail_time) {
            return Ok(());
        }
        let report = Report { address: &entry.address, at: *at, mail_time: *mail_time, expires: *expires, delivery };
        soft::keep(self.tx, report, needed, self.batch.now)?;
        self.count(&entry, *mail_time, needed, removed).map(drop)
    }

    /// The full mailbox that a Delivery contradicts does not count; what stood only by it goes.
    fn delivered(&mut self, key: &SeenKey) -> Result<(), Fault> {
        if !self.reports {
            return Ok(());
        }
        let Some(taken) = soft::take_back(self.tx, key)? else { return Ok(()) };
        tell_report(self.tx, key)?;
        let enforced = self.reader.get(&taken.address)?.filter(stands_by_count);
        let held = brake::held_entry(self.reader, &taken.address)?.filter(stands_by_count);
        let Some(old) = enforced.as_ref().or(held.as_ref()) else { return Ok(()) };
        let removed = self.removed_at(old)?;
        let enough = soft::enough(self.tx, &taken.address, removed, taken.needed)?;
        let is_enforced = enforced.is_some();
        let left = enough.map(|expires| Entry { expires, ..old.clone() }).filter(|e| e.in_force(self.batch.now));
        match left {
            Some(entry) if entry.expires == old.expires => {}
            Some(entry) if is_enforced => update(self.tx, &entry, self.stamp(&entry)?, Told::Here)?,
            Some(entry) => brake::update_held(self.tx, &entry)?,
            None => {
                if is_enforced {
                    let told = self.stamp(old)?.mail_time.map_or(Told::Here, Told::TakenBack);
                    take_out(self.tx, &taken.address, told)?;
                } else {
                    brake::drop_held(self.tx, &old.address)?;
                }
                self.applied.taken_back += 1;
            }
        }
        Ok(())
    }

    fn stamp(&self, entry: &Entry) -> Result<Stamp, Fault> {
        Ok(stamp_of(self.tx, entry.address.as_str())?.unwrap_or_default().completed(entry))
    }

    fn renew(&mut self, entry: &Entry, mail_time: i64) -> Result<Suppressed, Fault> {
        update(self.tx, entry, self.stamp(entry)?.renewed(mail_time), Told::Here)?;
        self.applied.renewed += 1;
        Ok(Suppressed::Yes)
    }

    /// Makes an entry where none is in force, or records it where the brake is on.
    fn add(&mut self, entry: &Entry, stamp: Stamp) -> Result<Suppressed, Fault> {
        let now = self.batch.now;
        if self.batch.brake.is_some_and(|rate| !self.meta.grants(rate, now)) {
            self.applied.braked += u64::from(brake::hold(self.tx, self.reader, entry, stamp)?);
            return Ok(Suppressed::Braked);
        }
        if !insert(self.tx, entry, stamp, Told::Here)? {
            // one that has expired is there still
            update(self.tx, entry, stamp, Told::Here)?;
        }
        brake::drop_held(self.tx, &entry.address)?;
        self.applied.added += 1;
        Ok(Suppressed::Yes)
    }

    fn removed_at(&mut self, entry: &Entry) -> Result<Option<i64>, Fault> {
        let filters = match self.filters.take() {
            Some(filters) => filters,
            None => self.reader.removed_filters()?,
        };
        let at = self.reader.removed_at(entry, &filters)?;
        self.filters = Some(filters);
        Ok(at)
    }

    fn write_line(&mut self, line: &EventLine) -> Result<(), Fault> {
        self.applied.lines += 1;
        if let Some(until) = self.batch.late_until
            && late::put(self.tx, self.batch.now, until, line)?
        {
            return Ok(());
        }
        self.meta.last_line += 1;
        outbox::put(self.tx, self.meta.last_line, self.batch.now, &line.to_line())
    }

    fn finish(mut self) -> Result<Applied, Fault> {
        let now = self.batch.now;
        for body in self.batch.quarantine {
            quarantine::keep(self.tx, body, now)?;
        }
        if !self.batch.quarantine.is_empty() {
            quarantine::trim(self.tx, now)?;
        }
        let rows = i64::try_from(self.batch.effects.len()).unwrap_or(i64::MAX).saturating_mul(2).max(TRIM_ROWS);
        seen::trim(self.tx, now, rows)?;
        if self.reports {
            soft::trim(self.tx, now, rows)?;
        }
        if self.applied.braked > 0 {
            brake::trim(self.tx)?;
        }
        self.meta.save(self.tx)?;
        self.applied.brake_on = self.meta.is_on();
        Ok(self.applied)
    }
}

/// Takes in reports that came to other relays.
pub(super) fn hear(tx: &Connection, reader: &Reader, reports: &[FullReport], now: i64) -> Result<(), Fault> {
    if reports.is_empty() {
        return Ok(());
    }
    let batch = Batch { effects: &[], quarantine: &[], now, brake: None, written: None, late_until: None };
    let mut work = Work { reports: true, ..Work::begin(tx, reader, &batch)? };
    reports.iter().try_for_each(|report| work.hear(report))?;
    work.finish().map(drop)
}

/// What becomes of an entry that is in force by a further event; `None` where it stays as it is. The date of
/// the first stays, and its evidence where it has any; a bounce or a complaint takes the place of a weaker
/// reason. SES's own lists prolong nothing.
pub(super) fn improved(old: &Entry, new: &Entry, echo: bool) -> Option<Entry> {
    if echo || new.reason == Reason::GlobalList {
        return None;
    }
    let is_weak = |reason| matches!(reason, Reason::MailboxFull | Reason::GlobalList);
    let upgrade = is_weak(old.reason) && !is_weak(new.reason);
    let newer_text = if upgrade { !new.evidence.is_empty() } else { old.evidence.is_empty() };
    let better = Entry {
        reason: if upgrade { new.reason } else { old.reason },
        source: if upgrade { new.source } else { old.source },
        evidence: if newer_text { new.evidence.clone() } else { old.evidence.clone() },
        spelling: old.spelling.clone().or_else(|| new.spelling.clone()),
        expires: later(old.expires, new.expires),
        ..old.clone()
    };
    (better != *old).then_some(better)
}

/// The later of two expiries; none is the latest.
pub(super) fn later(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.zip(b).map(|(a, b)| a.max(b))
}

/// Whether only the number of full mailboxes made the entry.
fn stands_by_count(entry: &Entry) -> bool {
    entry.reason == Reason::MailboxFull && entry.source == Origin::Event
}

#[cfg(test)]
pub(super) mod tests;

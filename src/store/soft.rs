//! Full mailboxes: which were reported for which address and when, and whether there were enough of them.
//! Nothing is counted up or down; what was reported is kept and looked at, so that the order in which
//! reports, deliveries and removals come makes no difference.

use super::seen::{SEEN_SECONDS, SeenKey};
use super::write::Fault;
use crate::mail::Address;
use crate::rules::MailboxFull;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Most reports that are kept: 200 MB on disk. The oldest go first.
const MAX_SOFT: i64 = 1_000_000;

/// What stands in place of the address of a report that was taken back.
pub(super) const TAKEN_BACK: &str = "";

/// How many reports are needed within how many seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed {
    pub(super) count: u32,
    pub(super) within: i64,
}

impl From<MailboxFull> for Needed {
    fn from(rule: MailboxFull) -> Self {
        Self { count: rule.count.max(1), within: i64::try_from(rule.within.as_secs()).unwrap_or(i64::MAX) }
    }
}

/// A report of a full mailbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report<'a> {
    pub(super) address: &'a Address,
    /// When, Unix seconds.
    pub(super) at: i64,
    /// When the mail was sent.
    pub(super) mail_time: i64,
    /// When an entry ends of which this is the last report that was needed.
    pub(super) expires: Option<i64>,
    /// The Delivery that takes it back.
    pub(super) delivery: &'a SeenKey,
}

/// What a Delivery took back.
pub(super) struct TakenBack {
    pub(super) address: String,
    pub(super) needed: Needed,
}

/// Keeps a report.
pub(super) fn keep(tx: &Connection, report: Report<'_>, needed: Needed, now: i64) -> Result<(), Fault> {
    // whatever comes within the window of this one may come as late as any event
    let until = now.saturating_add(needed.within).saturating_add(SEEN_SECONDS);
    let sql = "INSERT OR REPLACE INTO soft (delivery, address, at, mail_time, expires, need, within, until)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let Report { address, at, mail_time, expires, delivery } = report;
    let (key, address) = (delivery.as_bytes(), address.as_str());
    tx.prepare_cached(sql)?.execute(params![
        key,
        address,
        at,
        mail_time,
        expires,
        needed.count,
        needed.within,
        until
    ])?;
    Ok(())
}

/// Takes the report back that a Delivery contradicts, if there is one. That it was is kept as long: other relays of a
/// fleet may tell of it still.
pub(super) fn take_back(tx: &Connection, delivery: &SeenKey) -> Result<Option<TakenBack>, Fault> {
    let sql = "SELECT address, need, within FROM soft WHERE delivery = ?1 AND address != ?2";
    let taken = tx.prepare_cached(sql)?.query_row(params![delivery.as_bytes(), TAKEN_BACK], |row| {
        let needed = Needed { count: row.get(1)?, within: row.get(2)? };
        Ok(TakenBack { address: row.get(0)?, needed })
    });
    let sql = "UPDATE soft SET address = ?2 WHERE delivery = ?1";
    tx.prepare_cached(sql)?.execute(params![delivery.as_bytes(), TAKEN_BACK])?;
    Ok(taken.optional()?)
}

/// Remembers, until then, that a report that never was here was taken back.
pub(super) fn remember_taken(tx: &Connection, delivery: &SeenKey, until: i64) -> Result<(), Fault> {
    let sql = "INSERT OR IGNORE INTO soft (delivery, address, at, mail_time, need, within, until)
               VALUES (?1, ?2, ?3, ?3, 1, 0, ?4)";
    let at = until.saturating_sub(SEEN_SECONDS);
    tx.prepare_cached(sql)?.execute(params![delivery.as_bytes(), TAKEN_BACK, at, until])?;
    Ok(())
}

/// Whether a report was taken back; `None`: there is none.
pub(super) fn is_taken(tx: &Connection, delivery: &SeenKey) -> Result<Option<bool>, Fault> {
    let sql = "SELECT address = ?2 FROM soft WHERE delivery = ?1";
    Ok(tx.prepare_cached(sql)?.query_row(params![delivery.as_bytes(), TAKEN_BACK], |row| row.get(0)).optional()?)
}

/// Whether any report is kept.
pub(super) fn any(tx: &Connection) -> Result<bool, Fault> {
    Ok(tx.prepare_cached("SELECT 1 FROM soft LIMIT 1")?.exists([])?)
}

/// Whether enough reports are close enough together, of those around `at`, about mail that was sent after
/// `removed` (an operator's removal): the expiry of the latest such group.
pub(super) fn enough_around(
    tx: &Connection,
    address: &str,
    at: i64,
    removed: Option<i64>,
    needed: Needed,
) -> Result<Option<Option<i64>>, Fault> {
    let sql = "SELECT at, expires FROM soft WHERE address = ?1 AND at <= ?2 AND at >= ?3 AND mail_time > ?4
               ORDER BY at DESC, id DESC LIMIT ?5";
    let after = removed.unwrap_or(i64::MIN);
    let from = at.saturating_sub(needed.within);
    let mut reports = group(tx, sql, params![address, at, from, after, needed.count])?;
    reports.reverse();
    let sql = "SELECT at, expires FROM soft WHERE address = ?1 AND at > ?2 AND at <= ?3 AND mail_time > ?4
               ORDER BY at, id LIMIT ?5";
    let to = at.saturating_add(needed.within);
    reports.extend(group(tx, sql, params![address, at, to, after, needed.count])?);
    reports.reverse();
    Ok(latest_group(&reports, needed))
}

/// As [`enough_around`], of all reports: for an address that lost one.
pub(super) fn enough(
    tx: &Connection,
    address: &str,
    removed: Option<i64>,
    needed: Needed,
) -> Result<Option<Option<i64>>, Fault> {
    // an address with more reports than this has had them for long
    const MOST: i64 = 100_000;
    let sql = "SELECT at, expires FROM soft WHERE address = ?1 AND mail_time > ?2 ORDER BY at DESC, id DESC LIMIT ?3";
    let reports = group(tx, sql, params![address, removed.unwrap_or(i64::MIN), MOST])?;
    Ok(latest_group(&reports, needed))
}

/// Deletes what is past its time or number among the `rows` oldest.
pub(super) fn trim(tx: &Connection, now: i64, rows: i64) -> Result<(), Fault> {
    let sql = "DELETE FROM soft WHERE id < (SELECT min(id) FROM soft) + ?1
                 AND (until <= ?2 OR id <= (SELECT max(id) FROM soft) - ?3)";
    tx.prepare_cached(sql)?.execute(params![rows, now, MAX_SOFT])?;
    Ok(())
}

type Seen = (i64, Option<i64>);

fn group(tx: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Seen>, Fault> {
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(tx.prepare_cached(sql)?.query_map(values, row)?.collect::<Result<_, _>>()?)
}

/// `reports` are sorted, the latest first.
fn latest_group(reports: &[Seen], needed: Needed) -> Option<Option<i64>> {
    let count = usize::try_from(needed.count).unwrap_or(usize::MAX).max(1);
    let close = |group: &&[Seen]| match (group.first(), group.last()) {
        (Some(latest), Some(first)) => latest.0.saturating_sub(first.0) <= needed.within,
        _ => false,
    };
    reports.windows(count).find(close).and_then(|group| group.first()).map(|latest| latest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_group_that_is_close_enough_counts() {
        let reports: Vec<Seen> = [100, 90, 50, 45, 40, 10].map(|at| (at, Some(at + 1000))).to_vec();
        let of = |count, within| latest_group(&reports, Needed { count, within });
        assert_eq!(of(2, 10), Some(Some(1100)));
        assert_eq!(of(3, 10), Some(Some(1050)));
        assert_eq!(of(3, 9), None);
        assert_eq!(of(6, 90), Some(Some(1100)));
        assert_eq!((of(7, 900), of(1, 0)), (None, Some(Some(1100))));
    }
}

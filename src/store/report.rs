//! What relays tell each other beside the records of addresses: reports of full mailboxes, so that each counts those of
//! all, and the filters by which operators removed entries.

use super::merge::Told;
use super::read::Op;
use super::seen::SEEN_SECONDS;
use super::write::{Fault, feed};
use super::{Filter, Reader, SEEN_KEY_BYTES, SeenKey, Store, StoreError, Unreadable, apply, soft};
use crate::mail::Address;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Most bytes of a filter that is read: the longest text and domain, with names.
const MAX_FILTER_BYTES: usize = 8_000;

/// Most bytes of a report that is read: the longest address, with numbers.
const MAX_REPORT_BYTES: usize = 1_000;

/// A report of a full mailbox, by the Delivery that takes it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullReport {
    pub(super) delivery: SeenKey,
    pub(super) what: What,
}

/// What is known of a report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// It was made.
    Made(Reported),
    /// It was taken back, and nothing brings it again; so long that matters, Unix seconds.
    TakenBack(i64),
}

/// What was reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reported {
    pub(super) address: Address,
    /// When, Unix seconds.
    pub(super) at: i64,
    /// When the mail was sent.
    pub(super) mail_time: i64,
    /// When an entry ends of which this is the last report that was needed.
    pub(super) expires: Option<i64>,
    /// How many are needed, within how many seconds.
    pub(super) need: u32,
    pub(super) within: i64,
}

/// A filter by which an operator removed entries, and when (Unix seconds).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedFilter {
    pub(super) filter: String,
    pub(super) at: i64,
}

impl FullReport {
    /// Its name in the shared store.
    #[must_use]
    pub fn name(&self) -> String {
        self.delivery.to_hex()
    }

    /// As text.
    #[must_use]
    pub fn encode(&self) -> String {
        let Reported { address, at, mail_time, expires, need, within } = match &self.what {
            What::Made(reported) => reported,
            What::TakenBack(until) => return format!("1\t{until}"),
        };
        let expires = expires.map(|at| at.to_string()).unwrap_or_default();
        format!("1\t{at}\t{mail_time}\t{expires}\t{need}\t{within}\t{}", address.as_str())
    }

    /// Reads the report of a name.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn decode(name: &str, text: &[u8]) -> Result<Self, Unreadable> {
        let delivery = SeenKey::from_hex(name).ok_or(Unreadable::Garbage)?;
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_REPORT_BYTES);
        let (form, rest) = text.map(|text| text.split_once('\t').unwrap_or((text, ""))).ok_or(Unreadable::Garbage)?;
        let taken = rest.parse().ok().map(What::TakenBack);
        match form.parse::<u32>() {
            Ok(1) => {
                let what = taken.or_else(|| Reported::read(rest).map(What::Made)).ok_or(Unreadable::Garbage)?;
                Ok(Self { delivery, what })
            }
            Ok(form) if form > 1 => Err(Unreadable::Newer),
            _ => Err(Unreadable::Garbage),
        }
    }

    /// Whether nothing that still comes at `now` (Unix seconds) has to do with it.
    #[must_use]
    pub fn is_over(&self, now: i64) -> bool {
        self.what.until() < now
    }

    /// What both know together: taken back is taken back.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let what = match (self.what, other.what) {
            (What::Made(a), What::Made(b)) => What::Made(a.max(b)),
            (a, b) => What::TakenBack(a.until().max(b.until())),
        };
        Self { what, ..self }
    }
}

impl What {
    fn until(&self) -> i64 {
        match self {
            Self::Made(it) => it.at.saturating_add(it.within).saturating_add(SEEN_SECONDS),
            Self::TakenBack(until) => *until,
        }
    }
}

impl Reported {
    fn read(text: &str) -> Option<Self> {
        let mut fields = text.splitn(6, '\t');
        let mut number = || fields.next()?.parse::<i64>().ok();
        let (at, mail_time) = (number()?, number()?);
        let expires = match fields.next()? {
            "" => None,
            at => Some(at.parse().ok()?),
        };
        let (need, within) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let written = fields.next()?;
        let address = Address::parse(written).ok().filter(|address| address.as_str() == written)?;
        Some(Self { address, at, mail_time, expires, need, within })
    }
}

impl RemovedFilter {
    /// Its name in the shared store: the filter.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.filter
    }

    /// As text.
    #[must_use]
    pub fn encode(&self) -> String {
        self.at.to_string()
    }

    /// Reads the time of a filter.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn decode(name: &str, text: &[u8]) -> Result<Self, Unreadable> {
        let is_filter = name.len() <= MAX_FILTER_BYTES && serde_json::from_str::<Filter>(name).is_ok();
        let at = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).filter(|_| is_filter);
        Ok(Self { filter: name.to_owned(), at: at.ok_or(Unreadable::Garbage)? })
    }

    /// Whether the removal is too long ago at `now` (Unix seconds) for any event.
    #[must_use]
    pub fn is_over(&self, now: i64) -> bool {
        self.at.saturating_add(super::TOMBSTONE_SECONDS) < now
    }

    /// The later of both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { at: self.at.max(other.at), ..self }
    }
}

impl Reader {
    /// Reports that are kept, and those that were taken back, behind row `after`, at most `most`, with their rows.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn full_reports(&self, after: i64, most: usize) -> Result<Vec<(i64, FullReport)>, StoreError> {
        let sql = format!("SELECT {COLUMNS}, id FROM soft WHERE id > ?1 ORDER BY id LIMIT ?2");
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = self.db.prepare_cached(&sql).and_then(|mut s| {
            s.query_map(params![after, most], |row| Ok((row.get(7)?, report(row)?)))?.collect::<Result<_, _>>()
        });
        rows.map_err(|e| self.error(&e))
    }

    /// The filters by which operators removed entries.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn removed_by_filter(&self) -> Result<Vec<RemovedFilter>, StoreError> {
        let sql = "SELECT filter, max(at) FROM removed_filter GROUP BY filter";
        let filter = |row: &Row<'_>| Ok(RemovedFilter { filter: row.get(0)?, at: row.get(1)? });
        let rows = self.db.prepare_cached(sql).and_then(|mut s| s.query_map([], filter)?.collect::<Result<_, _>>());
        rows.map_err(|e| self.error(&e))
    }

    /// When entries were last removed by a filter, as the feed has it.
    pub(super) fn removed_filter(&self, name: &str) -> Result<Option<RemovedFilter>, StoreError> {
        let sql = "SELECT max(at) FROM removed_filter WHERE filter = ?1";
        let at = self.db.prepare_cached(sql).and_then(|mut s| s.query_row([name], |row| row.get::<_, Option<i64>>(0)));
        Ok(at.map_err(|e| self.error(&e))?.map(|at| RemovedFilter { filter: name.to_owned(), at }))
    }

    /// The report of a name, as the feed has it.
    pub(super) fn full_report(&self, name: &str) -> Result<Option<FullReport>, StoreError> {
        let Some(delivery) = SeenKey::from_hex(name) else { return Ok(None) };
        let sql = format!("SELECT {COLUMNS} FROM soft WHERE delivery = ?1");
        let row = self.db.prepare_cached(&sql).and_then(|mut s| s.query_row([delivery.as_bytes()], report).optional());
        row.map_err(|e| self.error(&e))
    }
}

impl Store {
    /// Takes in reports and filters of others at `now` (Unix seconds): all or nothing. Enough reports make an entry.
    ///
    /// # Errors
    /// Trouble with the database; then nothing was changed.
    pub fn hear(&mut self, reports: &[FullReport], filters: &[RemovedFilter], now: i64) -> Result<(), StoreError> {
        self.write(|tx, reader| {
            filters.iter().try_for_each(|filter| hear_filter(tx, filter))?;
            apply::hear(tx, reader, reports, now)
        })
    }
}

/// Tells the fleet of a report that was made or taken back here.
pub(super) fn tell_report(tx: &Connection, delivery: &SeenKey) -> Result<(), Fault> {
    feed(tx, Op::Report, &delivery.to_hex(), None, Told::Here)
}

/// Tells the fleet of a filter by which an operator removed entries.
pub(super) fn tell_filter(tx: &Connection, filter: &str) -> Result<(), Fault> {
    feed(tx, Op::Filter, filter, None, Told::Here)
}

fn hear_filter(tx: &Connection, heard: &RemovedFilter) -> Result<(), Fault> {
    let RemovedFilter { filter, at } = heard;
    let sql = "INSERT INTO removed_filter (filter, at, until) SELECT ?1, ?2, ?3
               WHERE NOT EXISTS (SELECT 1 FROM removed_filter WHERE filter = ?1 AND at >= ?2)";
    tx.execute(sql, params![filter, at, at.saturating_add(super::TOMBSTONE_SECONDS)])?;
    Ok(())
}

const COLUMNS: &str = "delivery, address, at, mail_time, expires, need, within";

fn report(row: &Row<'_>) -> rusqlite::Result<FullReport> {
    let delivery = SeenKey::of_bytes(row.get::<_, [u8; SEEN_KEY_BYTES]>(0)?);
    let address: String = row.get(1)?;
    let what = match Address::parse(&address).ok().filter(|_| address != soft::TAKEN_BACK) {
        None => What::TakenBack(row.get::<_, i64>(2)?.saturating_add(row.get(6)?).saturating_add(SEEN_SECONDS)),
        Some(address) => What::Made(Reported {
            address,
            at: row.get(2)?,
            mail_time: row.get(3)?,
            expires: row.get(4)?,
            need: row.get(5)?,
            within: row.get(6)?,
        }),
    };
    Ok(FullReport { delivery, what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report() -> impl Strategy<Value = FullReport> {
        let address = Address::parse("u@x.y").expect("address");
        let what = (0..9_i64, 0..9_i64, prop::option::of(0..9_i64), 1..4_u32).prop_map(
            move |(at, mail_time, expires, need)| Reported {
                address: address.clone(),
                at,
                mail_time,
                expires,
                need,
                within: 60,
            },
        );
        let what = prop_oneof![what.prop_map(What::Made), (0..9_i64).prop_map(What::TakenBack)];
        what.prop_map(|what| FullReport { delivery: SeenKey::new("m", &["delivery"]), what })
    }

    proptest! {
        #[test]
        fn reports_are_joined_in_any_order_and_read_as_written(a in report(), b in report(), c in report()) {
            let join = |a: &FullReport, b: &FullReport| a.clone().join(b.clone());
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(join(&a, &a), a.clone());
            prop_assert_eq!(FullReport::decode(&a.name(), a.encode().as_bytes()), Ok(a));
        }

        #[test]
        fn no_text_makes_it_panic(name in "\\PC{0,60}", text in "[0-9\t@a-z-]{0,60}") {
            let _ = FullReport::decode(&name, text.as_bytes());
            let _ = FullReport::decode(&SeenKey::new("m", &[]).to_hex(), text.as_bytes());
            let _ = RemovedFilter::decode(&name, text.as_bytes());
        }
    }
}

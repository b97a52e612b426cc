//! What the event side counts, and what is wrong with it now: for metrics, health and the summary of
//! `gatepost ingest`.

use super::{Digest, Kind, Verdict};
use crate::delegation::stats::Histogram;
use crate::store::Applied;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a source may be without an answer, in seconds, before health says so: fifteen long polls.
pub const MAX_SILENCE: i64 = 300;

/// The upper bounds of the histogram of lag, in microseconds: from half a second to four hours.
pub const LAG_BOUNDS_US: [u64; 12] = [
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    1_800_000_000,
    3_600_000_000,
    14_400_000_000,
];

/// Counters since the start. All only rise, but for those that say what is now.
#[derive(Debug, Default)]
pub struct Stats {
    /// Events by [`Kind::ALL`].
    pub events: [AtomicU64; Kind::ALL.len()],
    /// Of them, those that an identity sent (`notificationType`).
    pub notifications: AtomicU64,
    /// Bodies that are no events.
    pub not_events: AtomicU64,
    /// Events of foreign accounts.
    pub foreign: AtomicU64,
    /// Events of unknown types.
    pub unknown: AtomicU64,
    /// Bodies that could not be read.
    pub unreadable: AtomicU64,
    /// Events read in spite of something odd.
    pub oddities: AtomicU64,
    /// Entries made.
    pub added: AtomicU64,
    /// Entries changed.
    pub renewed: AtomicU64,
    /// Entries recorded, not enforced.
    pub braked: AtomicU64,
    /// Entries not made because an operator removed the address.
    pub removed: AtomicU64,
    /// Entries that a Delivery took back.
    pub taken_back: AtomicU64,
    /// Effects seen before.
    pub duplicates: AtomicU64,
    /// Lines put into the outbox.
    pub lines: AtomicU64,
    /// Lines that got their ids from the mail log.
    pub joined: AtomicU64,
    /// Bodies left in their queue because another relay of the fleet was at work on them.
    pub elsewhere: AtomicU64,
    /// Events applied though the fleet's store did not say whose they are.
    pub unasked: AtomicU64,
    /// Effects applied and not marked as done in the fleet's store.
    pub unmarked: AtomicU64,
    /// SES ids that the fleet told of.
    pub ids_found: AtomicU64,
    /// SES ids of this relay's mail that the fleet was told of.
    pub ids_published: AtomicU64,
    /// The same that the fleet was not told of.
    pub ids_dropped: AtomicU64,
    /// Whether events go on without the fleet's store.
    pub fleet_away: AtomicBool,
    /// Whether the brake is on.
    pub brake_on: AtomicBool,
    /// Transactions.
    pub commits: AtomicU64,
    /// Failed transactions.
    pub store_errors: AtomicU64,
    /// Calls to the queue's API that were answered.
    pub api_calls: AtomicU64,
    /// Calls that failed.
    pub api_errors: AtomicU64,
    /// When a source last answered, Unix seconds; 0: never.
    pub last_success: AtomicI64,
    /// When the newest event was taken, Unix seconds; 0: none yet.
    pub last_event: AtomicI64,
    /// How long after they happened events were applied.
    pub lag: Histogram<{ LAG_BOUNDS_US.len() }>,
    /// The same of the newest one, in milliseconds.
    pub last_lag_ms: AtomicU64,
    /// Pollers at work.
    pub pollers: AtomicU64,
    /// Messages whose body did not match its MD5.
    pub damaged: AtomicU64,
    /// Messages left to the dead-letter queue.
    pub dead_lettered: AtomicU64,
    /// Deletes that the queue refused, entry by entry.
    pub failed_deletes: AtomicU64,
    /// Lines written to the mail log out of the outbox.
    pub written: AtomicU64,
    /// Lines that wait in the outbox now.
    pub outbox_lines: AtomicU64,
    /// When the oldest of them was put there, Unix seconds; 0: none waits.
    pub outbox_oldest: AtomicI64,
    /// Bodies in the quarantine now.
    pub quarantined: AtomicU64,
    /// Entries that the brake holds now.
    pub held: AtomicU64,
    /// What keeps events from being applied.
    pub store: Trouble,
    /// What keeps the mail logs from being followed.
    pub mail_logs: Trouble,
    /// What keeps lines from the mail log.
    pub log: Trouble,
    sources: Mutex<Vec<Arc<Source>>>,
}

/// A queue, or the spool.
#[derive(Debug)]
pub struct Source {
    /// The queue's URL, the folder.
    pub name: Arc<str>,
    /// What keeps it from giving events.
    pub trouble: Trouble,
    /// What keeps it from taking events back out of itself.
    pub deletes: Trouble,
    /// When it last answered; at first, since when it is asked. Unix seconds.
    last_success: AtomicI64,
}

/// What is wrong now.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<Option<Said>>);

#[derive(Debug)]
struct Said {
    kind: String,
    words: String,
}

impl Stats {
    /// Counts a digest.
    pub fn count(&self, digest: &Digest) {
        let counter = match &digest.verdict {
            Verdict::Event { kind, notification } => {
                self.notifications.fetch_add(u64::from(*notification), Relaxed);
                &self.events[*kind as usize]
            }
            Verdict::NotAnEvent(_) => &self.not_events,
            Verdict::Foreign { .. } => &self.foreign,
            Verdict::Unknown { .. } => &self.unknown,
            Verdict::Unreadable { .. } => &self.unreadable,
        };
        counter.fetch_add(1, Relaxed);
        self.oddities.fetch_add(u64::from(digest.oddity.is_some()), Relaxed);
    }

    /// Notes that events that happened at these times (Unix milliseconds) have their effect at `now` (Unix seconds).
    pub fn took_effect(&self, happened: &[i64], now: Duration) {
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        for at in happened {
            // SES's clock may be ahead of ours.
            let lag_ms = now.saturating_sub(*at).max(0).unsigned_abs();
            self.lag.add(&LAG_BOUNDS_US, Duration::from_millis(lag_ms));
            self.last_lag_ms.store(lag_ms, Relaxed);
        }
    }

    /// Counts what a transaction did.
    pub fn applied(&self, applied: &Applied) {
        for (counter, n) in [
            (&self.added, applied.added),
            (&self.renewed, applied.renewed),
            (&self.braked, applied.braked),
            (&self.removed, applied.removed),
            (&self.taken_back, applied.taken_back),
            (&self.duplicates, applied.duplicates),
            (&self.lines, applied.lines),
            (&self.commits, 1),
        ] {
            counter.fetch_add(n, Relaxed);
        }
        self.brake_on.store(applied.brake_on, Relaxed);
    }

    /// A source that is asked from `now` on (Unix seconds).
    pub fn add_source(&self, name: Arc<str>, now: i64) -> Arc<Source> {
        let (trouble, deletes) = (Trouble::default(), Trouble::default());
        let source = Arc::new(Source { name, trouble, deletes, last_success: AtomicI64::new(now) });
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source.clone());
        source
    }

    /// Notes that `source` answered at `now` (Unix seconds).
    pub fn answered(&self, source: &Source, now: i64) {
        source.last_success.store(now, Relaxed);
        self.last_success.store(now, Relaxed);
    }

    /// For how many seconds the source that is silent the longest has not answered; `None` without a source.
    #[must_use]
    pub fn silence(&self, now: i64) -> Option<i64> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().map(|source| source.silence(now)).max()
    }

    /// For how many seconds the oldest line has waited for the log.
    #[must_use]
    pub fn outbox_age(&self, now: i64) -> i64 {
        match self.outbox_oldest.load(Relaxed) {
            0 => 0,
            oldest => now.saturating_sub(oldest).max(0),
        }
    }

    /// What an operator must see to, in words; empty: nothing.
    #[must_use]
    pub fn complaints(&self, now: i64) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.brake_on.load(Relaxed) {
            let held = self.held.load(Relaxed);
            complaints.push(format!(
                "the brake is on, {held} entries are held: gatepost suppress brake --enforce or --discard"
            ));
        }
        complaints.extend(self.store.words().map(|words| format!("events cannot be applied: {words}")));
        complaints.extend(self.log.words().map(|words| format!("event lines wait for the mail log: {words}")));
        for source in self.sources.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            complaints.extend(source.complaints(now));
        }
        complaints
    }
}

impl Source {
    fn silence(&self, now: i64) -> i64 {
        now.saturating_sub(self.last_success.load(Relaxed)).max(0)
    }

    /// Short trouble is the network's; what lasts is the operator's.
    fn complaints(&self, now: i64) -> Vec<String> {
        let mut complaints = Vec::new();
        let silence = self.silence(now);
        if silence > MAX_SILENCE {
            let why = self.trouble.words().unwrap_or_else(|| "no answer".into());
            complaints.push(format!("{} has not answered for {silence} s: {why}", self.name));
        }
        complaints
            .extend(self.deletes.words().map(|words| format!("{}: events cannot be deleted: {words}", self.name)));
        complaints
    }
}

impl Trouble {
    /// Notes trouble of this kind, in these words. `true` where the kind is another than before: worth a line.
    pub fn begin(&self, kind: &str, words: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = said.as_ref().is_none_or(|said| said.kind != kind);
        *said = Some(Said { kind: kind.to_owned(), words: words.to_owned() });
        is_news
    }

    /// Notes that nothing is wrong. `true` where something was.
    pub fn end(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    /// Whether what is wrong is of this kind.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|said| said.kind == kind)
    }

    /// What is wrong.
    #[must_use]
    pub fn words(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|said| said.words.clone())
    }
}

/// Unix seconds.
#[must_use]
pub fn unix_now() -> i64 {
    i64::try_from(crate::delegation::answer::unix_time().as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_news_once_per_kind() {
        let trouble = Trouble::default();
        assert!(!trouble.end());
        assert!(trouble.begin("timeout", "after 30 s"));
        assert!(!trouble.begin("timeout", "after 31 s"));
        assert_eq!(trouble.words().as_deref(), Some("after 31 s"));
        assert!(trouble.begin("refused", "no"));
        assert!(trouble.end() && !trouble.end() && trouble.words().is_none());
    }

    #[test]
    fn complaints_come_when_an_operator_must_see() {
        let stats = Stats::default();
        assert!(stats.complaints(0).is_empty() && stats.silence(0).is_none());
        let (a, b) = (stats.add_source("a".into(), 1000), stats.add_source("b".into(), 1000));
        b.trouble.begin("denied", "access denied");
        stats.answered(&a, 1400);
        assert_eq!(stats.silence(1400), Some(400));
        assert_eq!(stats.complaints(1300), Vec::<String>::new());
        assert_eq!(stats.complaints(1301), ["b has not answered for 301 s: access denied"]);
        stats.answered(&b, 1400);
        // a clock that was set back
        assert_eq!(stats.silence(10), Some(0));
        stats.brake_on.store(true, Relaxed);
        stats.log.begin("full", "the disk is full");
        assert_eq!(stats.complaints(1400).len(), 2);
    }
}

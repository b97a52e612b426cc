//! How a relay stands with its fleet, for metrics, health and the page; and the two lines that tell it to the log.

use super::super::{Roster, StoreUrl};
use super::Fault;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// How long a connection must have lasted before the log is told that the store is back: it may be flapping.
const LASTING: Duration = Duration::from_secs(5);

/// How a relay stands with its fleet.
#[derive(Debug, Default)]
pub struct Status {
    now: Mutex<Now>,
    /// The relays of the fleet.
    pub roster: Arc<Roster>,
    /// Whether this relay ever had all that the fleet knows.
    in_sync: watch::Sender<bool>,
    /// Records that were written into the store.
    pub pushed: AtomicU64,
    /// Addresses that changed here by what others said.
    pub applied: AtomicU64,
    /// How often everything was read.
    pub snapshots: AtomicU64,
    /// Records that could not be read.
    pub unreadable: AtomicU64,
    /// Whether there is something in the database that the index was not told of.
    pub(super) silent: AtomicBool,
    /// Milliseconds, by the store's clock, that the newest entry of the stream waits here; 0: nothing waits.
    pub lag_ms: AtomicU64,
}

/// The same, at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether the store answers.
    pub is_connected: bool,
    /// Since when it does or does not, Unix seconds.
    pub since: u64,
    /// When it last answered, Unix seconds; 0: never.
    pub last_contact: u64,
    /// Where the relay is in the stream; empty: nowhere yet.
    pub position: String,
    /// What is wrong; `None`: nothing.
    pub trouble: Option<String>,
}

#[derive(Debug, Default)]
struct Now {
    seen: Seen,
    connected: Option<Instant>,
    /// What the log was told last: that the store is away.
    told_away: bool,
    /// What stands in the way of telling the others, while the store answers.
    pushing: Option<String>,
}

impl Status {
    /// How it stands now.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let now = self.now();
        Seen { trouble: now.seen.trouble.clone().or_else(|| now.pushing.clone()), ..now.seen.clone() }
    }

    /// Becomes `true` once this relay has had all that the fleet knows.
    #[must_use]
    pub fn in_sync(&self) -> watch::Receiver<bool> {
        self.in_sync.subscribe()
    }

    pub(super) fn is_in_sync(&self) {
        self.in_sync.send_if_modified(|known| !std::mem::replace(known, true));
    }

    /// The store was reached.
    pub(super) fn connected(&self) {
        let mut now = self.now();
        let unix = unix_seconds();
        now.connected = Some(Instant::now());
        now.seen.is_connected = true;
        now.seen.trouble = None;
        (now.seen.since, now.seen.last_contact) = (unix, unix);
    }

    /// The store answered.
    pub(super) fn contact(&self, url: &StoreUrl) {
        let mut now = self.now();
        now.seen.last_contact = unix_seconds();
        if now.told_away && now.connected.is_some_and(|since| since.elapsed() >= LASTING) {
            now.told_away = false;
            tracing::info!(store = %url, "The fleet's store is back.");
        }
    }

    pub(super) fn at(&self, position: impl ToString) {
        self.now().seen.position = position.to_string();
    }

    /// A session ended, or did not begin.
    pub(super) fn away(&self, url: &StoreUrl, fault: &Fault) {
        let mut now = self.now();
        if now.seen.is_connected || now.seen.since == 0 {
            now.seen.since = unix_seconds();
        }
        now.connected = None;
        now.seen.is_connected = false;
        now.seen.trouble = Some(fault.to_string());
        if !std::mem::replace(&mut now.told_away, true) {
            let what = match fault {
                Fault::Fleet(_) => "The fleet's store is away",
                Fault::Own(_) | Fault::Sort(_) | Fault::Replaced | Fault::Replica => {
                    "This relay does not follow its fleet"
                }
            };
            tracing::warn!(store = %url, "{what}: {fault}. It goes on with what it knows, and tries again.");
        }
    }

    /// The store answers, and does not take what is told.
    pub(super) fn cannot_push(&self, url: &StoreUrl, fault: &dyn std::fmt::Display) {
        let mut now = self.now();
        let words = format!("what is changed here does not reach the others: {fault}");
        if now.pushing.replace(words).is_none() {
            tracing::warn!(store = %url, "The fleet's store takes no changes; they are kept, and tried again: {fault}");
        }
    }

    pub(super) fn can_push(&self, url: &StoreUrl) {
        if self.now().pushing.take().is_some() {
            tracing::info!(store = %url, "The fleet's store takes changes again.");
        }
    }

    pub(super) fn cannot_read(&self, address: &str, why: &dyn std::fmt::Display) {
        if self.unreadable.fetch_add(1, Relaxed) == 0 {
            let field = crate::mail::Printable::new(address.as_bytes(), 300);
            tracing::warn!(
                "A record in the fleet's store is passed over: {field}: {why}. Further ones are counted, not told."
            );
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn unix_seconds() -> u64 {
    unix_ms() / 1000
}

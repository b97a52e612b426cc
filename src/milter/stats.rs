//! What the milter counts. `daemon::metrics` gives the counters their Prometheus names.

use crate::delegation::stats::{Buckets, Histogram};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// The upper bounds of the histogram of time per message, in microseconds.
pub const BOUNDS_US: [u64; 12] = [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000];

/// The counters of all milter listeners of a daemon.
#[derive(Debug, Default)]
pub struct Stats {
    /// Messages that were stamped.
    pub stamped: AtomicU64,
    /// Tags of applications that were merged with ours.
    pub tags_merged: AtomicU64,
    /// Headers taken out: forged, repeated, malformed, not allowed.
    pub headers_removed: AtomicU64,
    /// Recipients taken out.
    pub recipients_dropped: AtomicU64,
    /// Local messages that went into the hold queue.
    pub held: AtomicU64,
    /// Messages that were refused, and so returned to their senders.
    pub refused: AtomicU64,
    /// Messages that were discarded.
    pub discarded: AtomicU64,
    /// Bounces that got a sender.
    pub senders_changed: AtomicU64,
    /// Messages for which Postfix did not take our changes, or not in time.
    pub failed: AtomicU64,
    /// Sessions that are open now.
    pub sessions: AtomicU64,
    /// Sessions ever accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once, being over the bound.
    pub turned_away: AtomicU64,
    /// `accept` failures (EMFILE and kin).
    pub accept_errors: AtomicU64,
    times: Histogram<{ BOUNDS_US.len() }>,
}

impl Stats {
    /// Counts how long a message took, from its end to our last word.
    pub fn took(&self, time: Duration) {
        self.times.add(&BOUNDS_US, time);
    }

    /// The histogram of time per message.
    #[must_use]
    pub fn times(&self) -> Buckets {
        self.times.read(&BOUNDS_US)
    }
}

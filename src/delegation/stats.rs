//! What the delegation server counts: plain atomics, striped where they are busy, so that counting costs the request
//! path no lock. `daemon::metrics` gives them their Prometheus names.

use crate::decide::Check;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// A histogram of times that are not measured so often that threads would wait for each other.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    counts: [AtomicU64; N],
    beyond: AtomicU64,
    sum_us: AtomicU64,
}

/// What a histogram says: (upper bound in seconds, count in this bucket), and the sum in seconds.
pub type Buckets = (Vec<(f64, u64)>, f64);

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            beyond: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts a time, by upper bounds in microseconds.
    pub fn add(&self, bounds_us: &[u64; N], time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let count = bounds_us.iter().zip(&self.counts).find_map(|(bound, count)| (us < *bound).then_some(count));
        count.unwrap_or(&self.beyond).fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// What was counted, by the same bounds.
    #[must_use]
    pub fn read(&self, bounds_us: &[u64; N]) -> Buckets {
        let bounds = bounds_us.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.counts.iter().chain([&self.beyond]).map(|count| count.load(Relaxed));
        (bounds.zip(counts).collect(), self.sum_us.load(Relaxed) as f64 / 1e6)
    }
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `DUNNO`.
    Dunno,
    /// A 4xx of ours.
    Defer,
    /// A 5xx of ours.
    Reject,
    /// An action of the operator's file.
    Pass,
    /// Observe: would have been anything but `DUNNO`.
    Would,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Dunno, Self::Defer, Self::Reject, Self::Pass, Self::Would];

    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dunno => "dunno",
            Self::Defer => "defer",
            Self::Reject => "reject",
            Self::Pass => "pass",
            Self::Would => "would-reject",
        }
    }
}

/// The upper bounds of the latency histogram, in microseconds.
pub const LATENCY_BOUNDS_US: [u64; 14] =
    [2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000];

/// How many stripes the busy counters have: threads that count at once mostly have one each, so that
/// no cache line goes from core to core with every question.
const STRIPES: usize = 8;

/// What is counted with every question, for some of the threads. Apart by two cache lines, which some
/// processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    decisions: [[AtomicU64; Kind::ALL.len()]; Check::ALL.len() + 1],
    latency: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    latency_sum_ns: AtomicU64,
}

/// The stripe of this thread.
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Relaxed) % STRIPES);
    MINE.with(|mine| *mine)
}

/// The counters of all delegation servers of a daemon.
#[derive(Debug, Default)]
pub struct Stats {
    stripes: [Stripe; STRIPES],
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections ever accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once, being over the bound.
    pub turned_away: AtomicU64,
    /// Connections closed for bytes that are no policy request.
    pub wire_errors: AtomicU64,
    /// `accept` failures (EMFILE and kin).
    pub accept_errors: AtomicU64,
    /// Questions whose charge was already made.
    pub repeats: AtomicU64,
    /// Suppression hits that the store could not confirm in time or at all; the mail passed.
    pub unconfirmed: AtomicU64,
    /// Keys that passed 80 % of a limit.
    pub near_limit: AtomicU64,
    /// How long the limits of a fleet took, by [`LATENCY_BOUNDS_US`]; by the store or without it.
    pub limits_asked: Histogram<{ LATENCY_BOUNDS_US.len() }>,
}

/// Whether an event that happened `before` times already is told again: the first, the second, the
/// fourth, … so that a flood of them is no flood of lines.
#[must_use]
pub fn is_worth_a_line(before: u64) -> bool {
    before.saturating_add(1).is_power_of_two()
}

impl Stats {
    /// Counts a decision; `check` is `None` where nothing was against it.
    pub fn decided(&self, check: Option<Check>, kind: Kind) {
        let row = check.map_or(0, |c| 1 + c as usize);
        self.stripes[stripe()].decisions[row][kind as usize].fetch_add(1, Relaxed);
    }

    /// How many decisions of this kind there were.
    #[must_use]
    pub fn decisions(&self, check: Option<Check>, kind: Kind) -> u64 {
        let row = check.map_or(0, |c| 1 + c as usize);
        self.stripes.iter().map(|stripe| stripe.decisions[row][kind as usize].load(Relaxed)).sum()
    }

    /// Counts how long each of `questions` took that came together, from the last byte read to the
    /// answers written.
    pub fn took(&self, time: Duration, questions: u32) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / u64::from(questions.max(1));
        let us = ns / 1_000;
        let bucket = LATENCY_BOUNDS_US.iter().position(|bound| us < *bound).unwrap_or(LATENCY_BOUNDS_US.len());
        let stripe = &self.stripes[stripe()];
        stripe.latency[bucket].fetch_add(u64::from(questions), Relaxed);
        stripe.latency_sum_ns.fetch_add(ns.saturating_mul(u64::from(questions)), Relaxed);
    }

    /// The latency histogram: (upper bound in seconds, count in this bucket), the sum in seconds.
    #[must_use]
    pub fn latency(&self) -> Buckets {
        let sum = |of: &dyn Fn(&Stripe) -> u64| self.stripes.iter().map(of).sum::<u64>();
        let bounds = LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets = bounds.enumerate().map(|(n, bound)| (bound, sum(&|s| s.latency[n].load(Relaxed)))).collect();
        (buckets, sum(&|s| s.latency_sum_ns.load(Relaxed)) as f64 / 1e9)
    }
}

//! A day of rates for the status page: what was counted in each minute, read from the counters once a minute by a task
//! of its own. Bounded, in memory, gone with the process.

use super::admin::Office;
use super::status::rfc3339;
use crate::decide::Check;
use crate::delegation::Gate;
use crate::delegation::answer::unix_time;
use crate::delegation::stats::Kind;
use crate::events::stats::unix_now;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many minutes are kept: a day, 86 KB.
const MAX_MINUTES: i64 = 24 * 60;

/// Seconds.
const MINUTE: i64 = 60;

/// What is followed; all of it only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Questions answered such that the mail goes on.
    pub accepted: u64,
    /// Questions answered with a refusal, for good or for now, and local submissions that were returned.
    pub refused: u64,
    /// Findings of checks that only observe.
    pub would_refuse: u64,
    /// Messages that the milter stamped.
    pub stamped: u64,
    /// Events of SES.
    pub events: u64,
}

/// The minutes of a day.
#[derive(Debug, Default)]
pub struct History(Mutex<Minutes>);

#[derive(Debug, Default)]
struct Minutes {
    /// What the counters said when the newest minute was taken.
    before: Totals,
    minutes: VecDeque<(i64, Totals)>,
}

/// Rates per minute in steps of equal length; `null` where nothing was measured, such as before the start.
#[derive(Debug, PartialEq, Serialize)]
pub struct Rates {
    /// The begin of the first step, RFC 3339.
    pub from: String,
    /// The length of a step.
    pub step_seconds: i64,
    /// See [`Totals`].
    pub accepted: Vec<Option<f64>>,
    /// See [`Totals`].
    pub refused: Vec<Option<f64>>,
    /// See [`Totals`].
    pub would_refuse: Vec<Option<f64>>,
    /// See [`Totals`].
    pub stamped: Vec<Option<f64>>,
    /// See [`Totals`].
    pub events: Vec<Option<f64>>,
}

/// The task: takes a minute when it is over, until the gate closes.
pub async fn keep_history(office: Arc<Office>, gate: Arc<Gate>) {
    loop {
        let into = unix_time().as_millis() % 60_000;
        let rest = Duration::from_millis(60_000 - u64::try_from(into).unwrap_or_default());
        tokio::select! {
            () = gate.closed() => return,
            () = tokio::time::sleep(rest) => office.history.take(office.totals(), unix_now()),
        }
    }
}

impl Office {
    /// What the counters say now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let sum = |kinds: &[Kind]| -> u64 {
            let checks = [None].into_iter().chain(Check::ALL.map(Some));
            let count = |check| kinds.iter().map(|kind| self.house.stats.decisions(check, *kind)).sum::<u64>();
            checks.map(count).sum()
        };
        let milter = self.milter.as_deref();
        Totals {
            accepted: sum(&[Kind::Dunno, Kind::Pass]),
            refused: sum(&[Kind::Reject, Kind::Defer]) + milter.map_or(0, |milter| milter.refused.load(Relaxed)),
            would_refuse: sum(&[Kind::Would]),
            stamped: milter.map_or(0, |milter| milter.stamped.load(Relaxed)),
            events: self.events.events.iter().map(|count| count.load(Relaxed)).sum(),
        }
    }
}

impl History {
    /// Takes the minute that ended about `now` (Unix seconds), with the counters as they are.
    fn take(&self, totals: Totals, now: i64) {
        let mut kept = self.kept();
        // The timer may wake a moment too early.
        let minute = (now - MINUTE / 2).div_euclid(MINUTE);
        let risen = totals.since(&kept.before);
        kept.before = totals;
        // The clock was set back.
        while kept.minutes.back().is_some_and(|(last, _)| *last > minute) {
            kept.minutes.pop_back();
        }
        match kept.minutes.back_mut() {
            Some((last, counts)) if *last == minute => *counts = counts.plus(&risen),
            _ => kept.minutes.push_back((minute, risen)),
        }
        while kept.minutes.front().is_some_and(|(first, _)| *first <= minute - MAX_MINUTES) {
            kept.minutes.pop_front();
        }
    }

    /// What was counted in the day before, with the minute in progress: the counters say `totals` now.
    #[must_use]
    pub fn day(&self, totals: Totals) -> Totals {
        let kept = self.kept();
        kept.minutes.iter().fold(totals.since(&kept.before), |sum, (_, counts)| sum.plus(counts))
    }

    /// The rates of the last `steps` steps of so many minutes, to `now` (Unix seconds).
    #[must_use]
    pub fn rates(&self, now: i64, minutes: i64, steps: usize) -> Rates {
        let length = minutes * MINUTE;
        // The minute in progress is not measured yet, the step in progress is shown as far as it is.
        let end = (now.div_euclid(MINUTE) - 1).div_euclid(minutes) + 1;
        let first = end - i64::try_from(steps).unwrap_or(MAX_MINUTES);
        let mut sums = vec![(0_u32, Totals::default()); steps];
        for (minute, counts) in &self.kept().minutes {
            let at = usize::try_from(minute.div_euclid(minutes) - first).ok();
            if let Some((measured, sum)) = at.and_then(|at| sums.get_mut(at)) {
                (*measured, *sum) = (*measured + 1, sum.plus(counts));
            }
        }
        let rates = |of: fn(&Totals) -> u64| {
            let rate = |(measured, sum): &(u32, Totals)| (*measured > 0).then(|| of(sum) as f64 / f64::from(*measured));
            sums.iter().map(rate).collect()
        };
        Rates {
            from: rfc3339(first * length),
            step_seconds: length,
            accepted: rates(|t| t.accepted),
            refused: rates(|t| t.refused),
            would_refuse: rates(|t| t.would_refuse),
            stamped: rates(|t| t.stamped),
            events: rates(|t| t.events),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Minutes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn with(&self, other: &Self, f: fn(u64, u64) -> u64) -> Self {
        Self {
            accepted: f(self.accepted, other.accepted),
            refused: f(self.refused, other.refused),
            would_refuse: f(self.would_refuse, other.would_refuse),
            stamped: f(self.stamped, other.stamped),
            events: f(self.events, other.events),
        }
    }

    fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(accepted: u64) -> Totals {
        Totals { accepted, ..Totals::default() }
    }

    #[test]
    fn minutes_become_rates() {
        let history = History::default();
        // 10:00 is 36 000 s. A start at 10:03, then three minutes, one of them late, and a gap.
        for (total, now) in [(5, 36_240), (25, 36_301), (40, 36_360), (50, 36_600)] {
            history.take(totals(total), now);
        }
        let hour = history.rates(36_630, 1, 10);
        assert_eq!((&*hour.from, hour.step_seconds), ("1970-01-01T10:00:00Z", 60));
        let some = |n: f64| Some(n);
        assert_eq!(hour.accepted, [None, None, None, some(5.0), some(20.0), some(15.0), None, None, None, some(10.0)]);
        assert_eq!(history.rates(36_630, 5, 2).accepted, [some(12.5), some(12.5)]);
        assert_eq!(history.rates(36_660, 5, 2).accepted, [some(12.5), None]);
        assert_eq!(history.day(totals(57)), totals(57));
    }

    #[test]
    fn a_day_is_kept_and_a_clock_may_be_set_back() {
        let history = History::default();
        for minute in 0..3_000 {
            history.take(totals(minute * 2), (i64::try_from(minute).expect("small") + 1) * MINUTE);
        }
        assert_eq!(history.kept().minutes.len(), 1_440);
        assert_eq!(history.day(totals(6_000)), totals(2_882));
        history.take(totals(6_000), 2_000 * MINUTE - 1);
        assert_eq!(history.kept().minutes.back(), Some(&(1_999, totals(4))));
        history.take(totals(6_001), 0);
        assert_eq!(history.kept().minutes.len(), 1);
    }
}

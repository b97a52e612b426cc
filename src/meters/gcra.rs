//! The arithmetic of a limit: governor's GCRA as a pure calculator.
//!
//! Governor measures time from the birth of a limiter and keeps the state itself. Here neither is
//! wanted: counters outlive reloads and restarts, and are charged all or none. So its clock stands
//! at zero, its state store is one slot, and into the slot goes the theoretical arrival time (TAT)
//! *relative to now*; what comes out is added to now again. A limiter of that kind has no birth
//! and no state, and is built for each charge (it is two multiplications).

use super::Why;
use crate::rules::Rate;
use crate::rules::rate::Per;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

/// The longest time a full burst may take to come back: a hundred years. What is more (say
/// `1/d burst 100000`) is cut to it, so that no sum of a charge can leave 64 bits of nanoseconds.
const MAX_WINDOW: u64 = 100 * 365 * 86_400 * NANOS;
const NANOS: u64 = 1_000_000_000;

/// A rate, ready to count by. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gauge {
    /// How long one cell takes to come back, rounded up: never more than the rate is granted.
    period: u64,
    burst: NonZeroU32,
    /// How long the whole burst takes to come back.
    window: u64,
    /// The same, as governor has it.
    quota: Quota,
}

impl Gauge {
    pub(super) fn new(rate: Rate) -> Self {
        let per = match rate.per {
            Per::Second => NANOS,
            Per::Minute => 60 * NANOS,
            Per::Hour => 3_600 * NANOS,
            Per::Day => 86_400 * NANOS,
        };
        let period = per.div_ceil(u64::from(rate.count.max(1)));
        let most = u32::try_from(MAX_WINDOW / period).unwrap_or(u32::MAX);
        let burst = NonZeroU32::new(rate.burst().min(most)).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_nanos(period)).unwrap_or(Quota::per_second(burst));
        Self { period, burst, window: period * u64::from(burst.get()), quota: quota.allow_burst(burst) }
    }

    /// Charges `n` cells at `now` to a key whose TAT is `tat`: the new TAT, or why not. A TAT
    /// further ahead than the whole burst (the clock was set back, the rate was changed) counts
    /// as a burst just used up, so that nobody waits longer than that.
    #[inline]
    pub(super) fn charge(&self, tat: u64, now: u64, n: u32) -> Result<u64, Why> {
        let Some(n) = NonZeroU32::new(n) else { return Ok(tat) };
        if n > self.burst {
            // Governor would say so too, but by a product that a big n overflows.
            return Err(Why::NeverFits);
        }
        let ahead = self.ahead(tat, now);
        let slot = Slot(Cell::new((ahead > 0).then(|| ahead.into())));
        let limiter: Limiter = RateLimiter::new(self.quota, slot, Standstill);
        match limiter.check_n(n) {
            Err(_) => Err(Why::NeverFits),
            Ok(Err(not_until)) => Err(Why::Later(not_until.wait_time_from(Nanos::default()))),
            Ok(Ok(())) => {
                let new = limiter.into_state_store().0.get().map_or(0, Nanos::as_u64);
                Ok(now.saturating_add(new))
            }
        }
    }

    /// How far the TAT is ahead of now, at most the window.
    #[inline]
    pub(super) fn ahead(&self, tat: u64, now: u64) -> u64 {
        tat.saturating_sub(now).min(self.window())
    }

    /// How long the whole burst takes to come back.
    #[inline]
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// How many cells would be granted now.
    pub(super) fn available(&self, tat: u64, now: u64) -> u32 {
        u32::try_from((self.window() - self.ahead(tat, now)) / self.period).unwrap_or(u32::MAX)
    }

    /// The most cells that are granted at once.
    pub(super) fn burst(&self) -> u32 {
        self.burst.get()
    }

    /// How long until one cell would be granted; zero where one is now.
    pub(super) fn next_free(&self, tat: u64, now: u64) -> Duration {
        Duration::from_nanos((self.ahead(tat, now) + self.period).saturating_sub(self.window()))
    }

    /// Whether more than `percent` of the burst is in use.
    #[inline]
    pub(super) fn is_above(&self, percent: u32, tat: u64, now: u64) -> bool {
        u128::from(self.ahead(tat, now)) * 100 > u128::from(self.window()) * u128::from(percent)
    }
}

type Limiter = RateLimiter<NotKeyed, Slot, Standstill, NoOpMiddleware<Nanos>>;

/// A clock that stands at zero: time is in the slot.
#[derive(Clone, Copy)]
struct Standstill;

impl Clock for Standstill {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::default()
    }
}

/// A state store of one value: the TAT relative to now, `None` where it has passed.
struct Slot(Cell<Option<Nanos>>);

impl StateStore for Slot {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, tat) = f(self.0.get())?;
        self.0.set(Some(tat));
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_790_000_000 * NANOS;

    fn rate(count: u32, per: Per, burst: u32) -> Rate {
        Rate { count, per, burst }
    }

    fn any_rate() -> impl Strategy<Value = Rate> {
        let per = prop_oneof![Just(Per::Second), Just(Per::Minute), Just(Per::Hour), Just(Per::Day)];
        (1u32..5_000, per, 1u32..500).prop_map(|(count, per, burst)| rate(count, per, burst))
    }

    fn per_nanos(per: Per) -> u128 {
        u128::from(match per {
            Per::Second => NANOS,
            Per::Minute => 60 * NANOS,
            Per::Hour => 3_600 * NANOS,
            Per::Day => 86_400 * NANOS,
        })
    }

    #[test]
    fn from_idle_exactly_the_burst_passes() {
        let gauge = Gauge::new(rate(100, Per::Minute, 200));
        let mut tat = 0;
        for _ in 0..200 {
            tat = gauge.charge(tat, NOW, 1).unwrap();
        }
        assert_eq!(gauge.charge(tat, NOW, 1), Err(Why::Later(Duration::from_millis(600))));
        assert_eq!((gauge.available(tat, NOW), gauge.next_free(tat, NOW)), (0, Duration::from_millis(600)));
        assert!(gauge.charge(tat, NOW + 599_999_999, 1).is_err());
        assert!(gauge.charge(tat, NOW + 600_000_000, 1).is_ok());
        assert_eq!(gauge.charge(0, NOW, 201), Err(Why::NeverFits));
        assert_eq!(gauge.charge(tat, NOW, 0), Ok(tat));
    }

    #[test]
    fn a_clock_set_back_or_a_smaller_rate_locks_out_no_longer_than_a_burst() {
        let gauge = Gauge::new(rate(10, Per::Second, 10));
        let year = 31_536_000 * NANOS;
        assert_eq!(gauge.charge(NOW + year, NOW, 1), Err(Why::Later(Duration::from_millis(100))));
        assert_eq!(gauge.charge(u64::MAX, 0, 10), Err(Why::Later(Duration::from_secs(1))));
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        for (count, per, burst) in [
            (1, Per::Day, u32::MAX),
            (u32::MAX, Per::Second, u32::MAX),
            (u32::MAX, Per::Second, 1),
            (1, Per::Day, 1),
            (0, Per::Second, 0),
        ] {
            let gauge = Gauge::new(rate(count, per, burst));
            assert!(gauge.window() <= MAX_WINDOW);
            for n in [1, 2, gauge.burst(), u32::MAX] {
                for tat in [0, NOW, u64::MAX] {
                    for now in [0, NOW, u64::MAX / 2, u64::MAX] {
                        let _ = gauge.charge(tat, now, n);
                        let _ = (gauge.available(tat, now), gauge.next_free(tat, now), gauge.is_above(80, tat, now));
                    }
                }
            }
        }
    }

    proptest! {
        /// In any stretch between two arrivals, not only from the start.
        #[test]
        fn accepted_is_at_most_burst_plus_rate_times_time(
            rate in any_rate(),
            arrivals in prop::collection::vec((0u64..40, 0u64..100, 1u32..40), 1..80),
        ) {
            let gauge = Gauge::new(rate);
            let (mut now, mut tat) = (NOW, 0);
            let mut accepted: Vec<(u64, u128)> = Vec::new();
            for (steps, jitter, n) in arrivals {
                now += steps * (gauge.period / 7) + jitter;
                if let Ok(new) = gauge.charge(tat, now, n) {
                    tat = new;
                    accepted.push((now, n.into()));
                }
            }
            for (from, (start, _)) in accepted.iter().enumerate() {
                let mut sum = 0;
                for (at, n) in &accepted[from..] {
                    sum += n;
                    let passed = u128::from(at - start) * u128::from(rate.count);
                    prop_assert!(sum * per_nanos(rate.per) <= u128::from(rate.burst) * per_nanos(rate.per) + passed);
                }
            }
        }

        /// The wait is exact: a nanosecond before it is refused, then it passes.
        #[test]
        fn after_the_wait_it_passes(rate in any_rate(), used in 0u32..500, n in 1u32..500) {
            let gauge = Gauge::new(rate);
            let tat = gauge.charge(0, NOW, used.min(rate.burst)).unwrap();
            match gauge.charge(tat, NOW, n) {
                Ok(_) => prop_assert!(n <= gauge.available(tat, NOW)),
                Err(Why::NeverFits) => prop_assert!(n > rate.burst),
                Err(Why::Later(wait)) => {
                    prop_assert!(n > gauge.available(tat, NOW));
                    let then = NOW + u64::try_from(wait.as_nanos()).unwrap();
                    prop_assert!(gauge.charge(tat, then - 1, n).is_err());
                    prop_assert!(gauge.charge(tat, then, n).is_ok());
                }
            }
        }

        /// The bound is reached: whoever waits for each cell gets one a period (whose rounding up
        /// is less than a nanosecond a cell).
        #[test]
        fn no_less_than_the_rate_is_granted(rate in any_rate(), n in 1u64..50) {
            let gauge = Gauge::new(rate);
            let mut tat = gauge.charge(0, NOW, rate.burst).unwrap();
            for i in 1..=n {
                tat = gauge.charge(tat, NOW + i * gauge.period, 1).unwrap();
            }
            let nominal = per_nanos(rate.per) * u128::from(n) / u128::from(rate.count);
            prop_assert!(u128::from(n * gauge.period) <= nominal + u128::from(n));
        }
    }
}

//! Back-off with full jitter: however many daemons lost the queue together, they do not come back together.

use std::time::Duration;

/// The ceiling of the first pause, and of all.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// No pause is shorter, so that failures which come at once do not turn into a busy loop.
const SHORTEST: Duration = Duration::from_millis(100);

/// The pauses between tries.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    tries: u32,
}

impl Pauses {
    /// The next one: anything up to a ceiling that doubles.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.tries = self.tries.saturating_add(1);
        ceiling.mul_f64(fastrand::f64()).max(SHORTEST)
    }

    /// The ceiling of the next one.
    fn ceiling(&self) -> Duration {
        FIRST.saturating_mul(2u32.saturating_pow(self.tries)).min(LONGEST)
    }

    /// After success.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_are_never_none() {
        let mut pauses = Pauses::default();
        for n in 0..200 {
            let ceiling = pauses.ceiling();
            let next = pauses.next();
            assert!(next >= SHORTEST && next <= ceiling.max(SHORTEST), "{n}: {next:?}");
        }
        assert_eq!(pauses.ceiling(), LONGEST);
        pauses.reset();
        assert_eq!(pauses.ceiling(), FIRST);
    }
}

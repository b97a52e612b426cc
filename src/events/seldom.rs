//! Warnings that may come by the thousand: told at most once a minute, with a count.

use std::time::{Duration, Instant};

/// The pause between two warnings of one sort.
const PAUSE: Duration = Duration::from_secs(60);

/// One sort of warning.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    told: Option<Instant>,
    kept_back: u64,
}

impl Seldom {
    /// Counts one more at `now`. Where it is to be told: how many there were since the last one that was.
    pub(super) fn tell(&mut self, now: Instant) -> Option<u64> {
        self.kept_back += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < PAUSE) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_at_once_and_then_once_a_minute() {
        let (mut seldom, start) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.tell(start), Some(1));
        assert_eq!(seldom.tell(start + Duration::from_secs(1)), None);
        assert_eq!(seldom.tell(start + Duration::from_secs(59)), None);
        assert_eq!(seldom.tell(start + Duration::from_secs(60)), Some(3));
        assert_eq!(seldom.tell(start + Duration::from_secs(61)), None);
    }
}

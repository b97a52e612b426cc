//! Delays in logarithmic buckets: percentiles from a kilobyte, however many delays there were.

/// Delays, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delays {
    /// As long as the largest delay needs: at most 240, of 49 days.
    buckets: Vec<u32>,
    count: u64,
}

/// Each doubling has so many buckets: what is read from one is off by 6 % at most.
const PER_DOUBLING: u32 = 8;

impl Delays {
    pub(super) fn add(&mut self, ms: u32) {
        let bucket = bucket(ms);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.count += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count += other.count;
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The delay that so many percent do not exceed; none of nothing.
    pub(super) fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut below = 0;
        let found = self.buckets.iter().position(|n| {
            below += u64::from(*n);
            below >= rank
        });
        found.map(middle)
    }
}

/// The bucket of a delay: below eight milliseconds each has its own; then eight to a doubling.
fn bucket(ms: u32) -> usize {
    let doubling = ms.checked_ilog2().unwrap_or_default().saturating_sub(3);
    (doubling * PER_DOUBLING + (ms >> doubling)) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let per = u64::from(PER_DOUBLING);
    let doubling = (bucket / per).saturating_sub(1);
    let low = (bucket - doubling * per) << doubling;
    low + ((1 << doubling) - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_percentile_is_off_by_little(mut delays in prop::collection::vec(any::<u32>().prop_map(|n| n >> (n % 28)), 1..300)) {
            let mut all = Delays::default();
            let mut other = Delays::default();
            for (n, ms) in delays.iter().enumerate() {
                if n % 3 == 0 { other.add(*ms) } else { all.add(*ms) }
            }
            all.merge(&other);
            delays.sort_unstable();
            for percent in [50, 90, 99] {
                let rank = (delays.len() * percent).div_ceil(100);
                let exact = f64::from(delays[rank - 1]);
                let got = all.percentile(percent as u64).expect("a delay") as f64;
                prop_assert!((got - exact).abs() <= exact * 0.0625, "{got} for {exact}");
            }
            prop_assert!(all.buckets.len() <= 240);
        }
    }

    #[test]
    fn of_nothing_there_is_none() {
        assert_eq!(Delays::default().percentile(50), None);
    }
}

//! Counts by name, of as many names as there are, in a table that forgets the rare ones.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

/// What is counted for a name.
pub(super) trait Weigh: Default {
    /// By what the names are ranked.
    fn weight(&self) -> u64;
    /// Adds what another counted.
    fn merge(&mut self, other: Self);
}

impl Weigh for u64 {
    fn weight(&self) -> u64 {
        *self
    }

    fn merge(&mut self, other: Self) {
        *self += other;
    }
}

/// Counts by name. Exact up to twice [`KEPT`] names; beyond, the rarer half is forgotten, and a count may lack up to
/// [`Top::lost`] (lossy counting: one more for each time, that is for each 8,192 new names).
#[derive(Clone, Debug)]
pub(super) struct Top<V> {
    names: HashMap<Vec<u8>, V, RandomState>,
    kept: usize,
    lost: u64,
}

/// How many names are kept when there are twice as many: at some 100 bytes each, a table has less than 2 MB.
const KEPT: usize = 8_192;

/// The longest name; what is longer is cut.
const MAX_NAME_BYTES: usize = 256;

impl<V> Default for Top<V> {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl<V> Top<V> {
    /// A table that keeps so many names.
    pub(super) fn keeping(kept: usize) -> Self {
        Self { names: HashMap::with_hasher(RandomState::default()), kept: kept.max(1), lost: 0 }
    }

    /// How much a count may lack, and a name that is not there may have; 0: all is exact.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// The names and what was counted, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.names.iter().map(|(name, counted)| (&name[..], counted))
    }
}

impl<V: Weigh> Top<V> {
    /// What is counted for a name.
    pub(super) fn of(&mut self, name: &[u8]) -> &mut V {
        let name = &name[..name.len().min(MAX_NAME_BYTES)];
        if self.names.len() >= self.kept * 2 && !self.names.contains_key(name) {
            self.forget();
        }
        self.names.entry_ref(name).or_default()
    }

    /// Adds what another table counted.
    pub(super) fn merge(&mut self, other: Self) {
        self.lost += other.lost;
        for (name, counted) in other.names {
            self.of(&name).merge(counted);
        }
    }

    /// The first `n`, by weight, then by name.
    pub(super) fn first(&self, n: usize) -> Vec<(&[u8], &V)> {
        let mut all: Vec<_> = self.iter().filter(|(_, counted)| counted.weight() > 0).collect();
        all.sort_unstable_by(|a, b| b.1.weight().cmp(&a.1.weight()).then(a.0.cmp(b.0)));
        all.truncate(n);
        all
    }

    fn forget(&mut self) {
        let mut weights: Vec<u64> = self.names.values().map(Weigh::weight).collect();
        let rarest_kept = weights.len() - self.kept;
        let (_, bound, _) = weights.select_nth_unstable(rarest_kept);
        let bound = *bound;
        let (mut forgotten, mut most) = (0, 0);
        // Of those at the bound, some go and some stay: as many as make room.
        self.names.retain(|_, counted| {
            let weight = counted.weight();
            let goes = weight < bound || weight == bound && forgotten < rarest_kept;
            if goes {
                forgotten += 1;
                most = weight.max(most);
            }
            !goes
        });
        self.lost += most;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap as Map;

    proptest! {
        #[test]
        fn a_count_lacks_no_more_than_it_says(names in prop::collection::vec(0_u32..60, 0..600), kept in 1_usize..20) {
            let mut exact: Map<u32, u64> = Map::new();
            let mut parts = [Top::<u64>::keeping(kept), Top::keeping(kept)];
            for (n, name) in names.iter().enumerate() {
                *exact.entry(*name).or_default() += 1;
                *parts[n % 2].of(&name.to_be_bytes()) += 1;
            }
            let [mut top, other] = parts;
            top.merge(other);
            prop_assert!(top.names.len() <= kept * 2);
            for (name, count) in &exact {
                let got = top.names.get(&name.to_be_bytes()[..]).copied().unwrap_or_default();
                prop_assert!(got <= *count && got + top.lost() >= *count, "{got} + {} for {count}", top.lost());
            }
            if exact.len() <= kept {
                prop_assert_eq!(top.lost(), 0);
            }
        }
    }

    #[test]
    fn the_first_come_by_weight_and_name() {
        let mut top = Top::<u64>::default();
        for name in [&b"b"[..], b"a", b"c", b"c"] {
            *top.of(name) += 1;
        }
        assert_eq!(top.first(2), [(&b"c"[..], &2), (b"a", &1)]);
    }
}

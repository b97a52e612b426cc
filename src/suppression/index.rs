//! The in-memory index: a keyed 64-bit hash and an expiry per address.
//!
//! 12 bytes a slot and one of hashbrown's own, at a load of up to 7/8: ten million addresses take
//! 218 MB. Two addresses may have one hash (among ten million, one chance in 370,000 that any two
//! do); the store is asked about every hit, so such a pair costs a lookup, never a wrong refusal.
//! What must not happen is that the removal of one opens the other. The change feed says whether
//! a change adds an address or updates one; an *addition* that finds its hash taken by a standing
//! slot therefore comes from a second address, and marks the hash as shared: from then on it is
//! neither removed nor shortened until the index is loaded again.

use hashbrown::HashTable;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// So many tables, each with its lock: a change, a sweep or the growth of one keeps a question
/// waiting only for 1/256 of the list.
const SHARDS: usize = 256;

/// The expiry of what never expires.
const NEVER: u32 = 0;

/// Which addresses are suppressed, by keyed hash. Shared by all connections.
#[derive(Debug)]
pub struct Index {
    hasher: RandomState,
    shards: Box<[Shard]>,
    shared: RwLock<HashSet<u64>>,
}

type Shard = RwLock<HashTable<Slot>>;

/// Low and high half of the hash, expiry in Unix seconds: no padding.
pub(super) type Slot = [u32; 3];

impl Default for Index {
    fn default() -> Self {
        Self::with_hasher(RandomState::new())
    }
}

impl Index {
    /// Whether `key` (a canonical address) is suppressed at `now` (Unix seconds). A hash may collide:
    /// on `true` the adapter asks the store.
    #[must_use]
    pub fn contains(&self, key: &[u8], now: u64) -> bool {
        let hash = self.hash(key);
        self.read(hash).find(hash, |slot| hash_of(slot) == hash).is_some_and(|slot| stands(slot[2], now))
    }

    /// How many addresses it holds, expired ones that were not yet swept included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in an address that had no entry. `expires` and `now` are Unix seconds.
    pub fn add(&self, key: &[u8], expires: Option<i64>, now: u64) {
        let hash = self.hash(key);
        let slot = slot(hash, expires);
        self.insert(&mut self.write(hash), slot, now);
    }

    /// Changes the expiry of an address that has an entry, or takes it in after it was swept.
    pub fn update(&self, key: &[u8], expires: Option<i64>) {
        let hash = self.hash(key);
        let new = slot(hash, expires);
        let shared = self.is_shared(hash);
        let mut table = self.write(hash);
        match table.find_mut(hash, |s| hash_of(s) == hash) {
            Some(old) if shared => old[2] = longer(old[2], new[2]),
            Some(old) => *old = new,
            None => {
                table.insert_unique(hash, new, hash_of);
            }
        }
    }

    /// Takes an address out.
    pub fn remove(&self, key: &[u8]) {
        let hash = self.hash(key);
        if self.is_shared(hash) {
            return;
        }
        if let Ok(found) = self.write(hash).find_entry(hash, |s| hash_of(s) == hash) {
            found.remove();
        }
    }

    /// Drops what has expired by `now` (Unix seconds). Returns how many.
    pub fn sweep(&self, now: u64) -> usize {
        let mut swept = 0;
        for shard in &self.shards {
            let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = table.len();
            table.retain(|slot| stands(slot[2], now));
            swept += before - table.len();
        }
        swept
    }

    /// An empty index with the same hash key and room for `len` addresses, to be loaded and then
    /// [taken over](Index::take_over).
    pub(super) fn fresh(&self, len: usize) -> Self {
        let fresh = Self::with_hasher(self.hasher.clone());
        // hashes do not spread evenly: ten million leave less than 3 % more in any of 256 shards
        let room = len / SHARDS + len / SHARDS / 32;
        for shard in &fresh.shards {
            shard.write().unwrap_or_else(PoisonError::into_inner).reserve(room, hash_of);
        }
        fresh
    }

    /// Takes over everything that `fresh` holds, in place of its own. Each address changes over at
    /// one moment.
    pub(super) fn take_over(&self, fresh: Self) {
        for (own, new) in self.shards.iter().zip(fresh.shards) {
            let new = new.into_inner().unwrap_or_else(PoisonError::into_inner);
            // the old table is dropped after the lock is given back
            let _old = std::mem::replace(&mut *own.write().unwrap_or_else(PoisonError::into_inner), new);
        }
        let shared = fresh.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.shared.write().unwrap_or_else(PoisonError::into_inner) = shared;
    }

    /// Takes in addresses of one shard under one lock.
    pub(super) fn add_all(&self, shard: usize, slots: &[Slot], now: u64) {
        if let Some(shard) = self.shards.get(shard) {
            let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
            for slot in slots {
                self.insert(&mut table, *slot, now);
            }
        }
    }

    /// The slot of an address, and the number of its shard.
    pub(super) fn slot(&self, key: &[u8], expires: Option<i64>) -> (usize, Slot) {
        let hash = self.hash(key);
        (shard_of(hash), slot(hash, expires))
    }

    /// How many shards there are.
    pub(super) const fn shards() -> usize {
        SHARDS
    }

    fn with_hasher(hasher: RandomState) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { hasher, shards, shared: RwLock::default() }
    }

    fn insert(&self, table: &mut HashTable<Slot>, new: Slot, now: u64) {
        let hash = hash_of(&new);
        match table.find_mut(hash, |s| hash_of(s) == hash) {
            Some(old) if stands(old[2], now) => {
                old[2] = longer(old[2], new[2]);
                self.shared.write().unwrap_or_else(PoisonError::into_inner).insert(hash);
            }
            Some(old) => *old = new,
            None => {
                table.insert_unique(hash, new, hash_of);
            }
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn is_shared(&self, hash: u64) -> bool {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    fn read(&self, hash: u64) -> RwLockReadGuard<'_, HashTable<Slot>> {
        self.shards[shard_of(hash)].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, hash: u64) -> RwLockWriteGuard<'_, HashTable<Slot>> {
        self.shards[shard_of(hash)].write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bits that hashbrown uses neither for the place in a table (the low ones) nor for its tag (the
/// seven highest). A byte: always below [`SHARDS`].
fn shard_of(hash: u64) -> usize {
    usize::from((hash >> 40) as u8)
}

fn slot(hash: u64, expires: Option<i64>) -> Slot {
    let expiry = match expires {
        None => NEVER,
        // 1970-01-01T00:00:01 has passed as well; later than 2106 is not before 2106
        Some(at) => u32::try_from(at.max(1)).unwrap_or(u32::MAX),
    };
    [hash as u32, (hash >> 32) as u32, expiry]
}

fn hash_of(slot: &Slot) -> u64 {
    u64::from(slot[0]) | u64::from(slot[1]) << 32
}

fn stands(expiry: u32, now: u64) -> bool {
    expiry == NEVER || now < u64::from(expiry)
}

fn longer(a: u32, b: u32) -> u32 {
    if a == NEVER || b == NEVER { NEVER } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, Option<i64>),
        Remove(u8),
        Pass(u8),
        Sweep,
    }

    fn step() -> impl Strategy<Value = Step> {
        let expiry = prop_oneof![Just(None), (1000_i64..1100).prop_map(Some)];
        prop_oneof![
            4 => (any::<u8>(), expiry).prop_map(|(k, e)| Step::Put(k, e)),
            2 => any::<u8>().prop_map(Step::Remove),
            2 => (0_u8..20).prop_map(Step::Pass),
            1 => Just(Step::Sweep),
        ]
    }

    proptest! {
        #[test]
        fn the_index_equals_a_model(steps in prop::collection::vec(step(), 0..200)) {
            let (index, mut model, mut now) = (Index::default(), HashMap::new(), 1000_u64);
            let key = |k: u8| format!("user{k}@example.com").into_bytes();
            for step in steps {
                match step {
                    Step::Put(k, expires) => match model.insert(k, expires) {
                        None => index.add(&key(k), expires, now),
                        Some(_) => index.update(&key(k), expires),
                    },
                    Step::Remove(k) => {
                        model.remove(&k);
                        index.remove(&key(k));
                    }
                    Step::Pass(seconds) => now += u64::from(seconds),
                    Step::Sweep => {
                        index.sweep(now);
                    }
                }
                for k in 0..=255 {
                    let stands = model.get(&k).is_some_and(|e| e.is_none_or(|at| (now as i64) < at));
                    prop_assert_eq!(index.contains(&key(k), now), stands, "{}", k);
                }
            }
        }
    }

    #[test]
    fn the_removal_of_one_of_two_colliding_addresses_does_not_open_the_other() {
        let index = Index::default();
        // the same key added twice stands for two addresses with one hash
        index.add(b"a", Some(2000), 1000);
        index.add(b"a", None, 1000);
        index.remove(b"a");
        assert!(index.contains(b"a", 3000));
        index.update(b"a", Some(1500));
        assert!(index.contains(b"a", 3000), "not shortened either");
    }

    #[test]
    fn an_addition_over_an_expired_slot_is_no_collision() {
        let index = Index::default();
        index.add(b"a", Some(1000), 900);
        index.add(b"a", None, 1000);
        index.remove(b"a");
        assert!(!index.contains(b"a", 1001));
    }

    #[test]
    fn odd_expiries_are_taken_for_the_nearest_that_fits() {
        let index = Index::default();
        index.add(b"past", Some(-5), 10);
        index.add(b"far", Some(i64::MAX), 10);
        assert!(!index.contains(b"past", 10));
        assert!(index.contains(b"far", 4_000_000_000));
    }

    #[test]
    fn a_taken_over_index_answers_for_the_new_list_alone() {
        let index = Index::default();
        index.add(b"old", None, 0);
        let fresh = index.fresh(1);
        fresh.add(b"new", None, 0);
        index.take_over(fresh);
        assert!(index.contains(b"new", 0) && !index.contains(b"old", 0));
        assert_eq!(index.len(), 1);
    }
}

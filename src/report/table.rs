//! Many small things, known by hash, shared by the threads that count, never more of them than a bound.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::sync::{Mutex, PoisonError};

/// How many recipients are followed from Postfix to SES's events, and of how many messages it is known what was counted: a
/// week at half a million a day. A table is then at its largest, 105 MB for recipients and 71 MB for messages.
pub const MAX_FOLLOWED: usize = SHARDS * MAX_PER_SHARD;

/// So many that the threads seldom meet at one.
const SHARDS: usize = 1 << (64 - SHARD_SHIFT);

/// The upper bits of a key say which: keys that have them alike are together.
const SHARD_SHIFT: u32 = 58;

/// What fits a power of two of slots, of which an eighth must be free.
const MAX_PER_SHARD: usize = 65_536 / 8 * 7;

/// Beyond so many there is room for all at once: tables that grow by doubling leave holes as large as themselves.
const SMALL: usize = 4_096;

/// Keys and what is known of them.
type Shard<T> = HashTable<(u64, T)>;

/// What is known by a key of 64 bits, all of them from a hash.
#[derive(Debug)]
pub(super) struct Table<T> {
    shards: Box<[Mutex<Shard<T>>]>,
    max: usize,
}

impl<T: Copy + Default> Table<T> {
    /// A table for so many.
    pub(super) fn with_room(max: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(HashTable::new())).collect();
        Self { shards, max: max.div_ceil(SHARDS) }
    }

    /// Gives `use_it` what is known of `key`, at first the default. `None`: the table is full, and does not know it.
    pub(super) fn with<R>(&self, key: u64, use_it: impl FnOnce(&mut T) -> R) -> Option<R> {
        let hash = mixed(key);
        let shard = &self.shards[(key >> SHARD_SHIFT) as usize];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= self.max {
            // Not by an entry, which makes room for what may come.
            return shard.find_mut(hash, |(other, _)| *other == key).map(|(_, known)| use_it(known));
        }
        match shard.entry(hash, |(other, _)| *other == key, |(other, _)| mixed(*other)) {
            Entry::Occupied(mut known) => Some(use_it(&mut known.get_mut().1)),
            Entry::Vacant(new) => {
                let mut value = T::default();
                let used = use_it(&mut value);
                new.insert((key, value));
                if shard.len() == SMALL {
                    shard.reserve(self.max.saturating_sub(SMALL), |(other, _)| mixed(*other));
                }
                Some(used)
            }
        }
    }

    /// All that is known, part by part, in no order. What has the upper bits of its key alike is in the same part.
    pub(super) fn into_parts(self) -> impl Iterator<Item = impl Iterator<Item = (u64, T)>> {
        let shards = self.shards.into_vec().into_iter();
        shards.map(|shard| shard.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter())
    }
}

/// Keys may be alike in their low or high bits.
fn mixed(key: u64) -> u64 {
    let wide = u128::from(key) * 0x9e37_79b9_7f4a_7c15_u128;
    (wide >> 64) as u64 ^ wide as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_as_many_as_it_has_room_for() {
        let table = Table::<u32>::with_room(SHARDS * 2);
        let take_all = || (0..10_000).filter(|key| table.with(mixed(*key), |n| *n += 1).is_some()).count();
        assert_eq!((take_all(), take_all()), (SHARDS * 2, SHARDS * 2));
        let parts: Vec<Vec<(u64, u32)>> = table.into_parts().map(Iterator::collect).collect();
        assert!(parts.iter().all(|part| part.len() == 2 && part.iter().all(|(_, n)| *n == 2)), "{parts:?}");
    }
}

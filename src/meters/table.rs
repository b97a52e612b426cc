//! The table of counters: keys and their states, in shards, bounded.

use super::Key;
use super::keyed::Keyed;
use crate::rules::{Count, KeyKind, Limit};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;

/// How many locks the table has: far more than threads, so that two seldom meet at one, and few
/// enough that a shard of an empty table costs nothing to speak of.
pub(super) const SHARDS: usize = 128;

/// The last shards hold the keys of `all` and no others. Every question wants these: in the last
/// shards they are locked last, and so held for the shortest time.
const SHARDS_OF_ALL: usize = 8;

/// Longer texts are kept as a hash. An address has at most 64 + 1 + 255 bytes (RFC 5321 section
/// 4.5.3.1), so only what is no address is longer.
pub(super) const MAX_TEXT: usize = 320;

/// How many keys are looked at to find one to forget when the table is full.
const SAMPLE: usize = 16;

/// How long a thread may take, in nanoseconds, from the clock to the counter: it is not to be
/// taken for a clock that was set back.
const MAX_LAG: u64 = 5_000_000_000;

/// The counter of one key of one limit.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) limit: LimitId,
    pub(super) key: OwnedKey,
    pub(super) state: State,
}

/// A limit over reloads: the keyed hash of its name, what it counts apart, and what it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LimitId(u64);

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OwnedKey {
    Net(IpAddr, u8),
    Text(Box<[u8]>),
    All,
    /// A text of more than [`MAX_TEXT`] bytes: two keyed hashes of it.
    Long(u64, u64),
}

/// A TAT in nanoseconds of Unix time, and whether the key was warned about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State(u64);

impl State {
    const WARNED: u64 = 1 << 63;

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn tat(self) -> u64 {
        self.0 & !Self::WARNED
    }

    pub(super) fn with_tat(self, tat: u64) -> Self {
        Self((self.0 & Self::WARNED) | tat.min(Self::WARNED - 1))
    }

    pub(super) fn is_warned(self) -> bool {
        self.0 & Self::WARNED != 0
    }

    pub(super) fn with_warned(self, warned: bool) -> Self {
        Self(self.tat() | if warned { Self::WARNED } else { 0 })
    }
}

/// The secret keys of the hashes: which keys share a bucket cannot be known outside.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    table: Keyed,
    /// For the keys that are kept by their hash alone: the standard library's, that nobody can
    /// bring to equal hashes.
    second: RandomState,
}

/// Where the counter of a key is, whether it exists or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    /// First, so that addresses sort by shard: locks are taken in ascending order.
    pub(super) shard: usize,
    pub(super) hash: u64,
    pub(super) limit: LimitId,
}

impl Address {
    /// Whether it is in the shards that are locked last.
    pub(super) fn is_of_all(self) -> bool {
        self.shard >= SHARDS - SHARDS_OF_ALL
    }
}

impl Secrets {
    pub(super) fn limit(&self, limit: &Limit) -> LimitId {
        self.limit_named(limit.name.as_bytes(), limit.key, limit.count)
    }

    pub(super) fn limit_named(&self, name: &[u8], key: KeyKind, count: Count) -> LimitId {
        let mut hasher = self.table.hasher();
        hasher.write(name);
        hasher.write(&[key as u8, count as u8]);
        LimitId(hasher.finish())
    }

    #[inline]
    pub(super) fn address(&self, limit: LimitId, key: &Key<'_>) -> Address {
        let mut hasher = self.table.hasher();
        hasher.write_u64(limit.0);
        match *key {
            Key::Net(IpAddr::V4(ip), prefix) => hasher.write_u64((u64::from(ip.to_bits()) << 8) | u64::from(prefix)),
            Key::Net(IpAddr::V6(ip), prefix) => {
                hasher.write_u128(ip.to_bits());
                hasher.write_u8(prefix);
            }
            Key::Text(text) => hasher.write(text),
            Key::All => {}
        }
        let hash = hasher.finish();
        Address { shard: shard_of(hash, key), hash, limit }
    }

    fn address_of(&self, entry: &Entry) -> u64 {
        match &entry.key {
            // The hash of the long text itself is the first of the two.
            OwnedKey::Long(hash, _) => *hash,
            key => key.as_key().map_or(0, |key| self.address(entry.limit, &key).hash),
        }
    }

    fn owned(&self, at: Address, key: &Key<'_>) -> OwnedKey {
        match *key {
            Key::Net(ip, prefix) => OwnedKey::Net(ip, prefix),
            Key::Text(text) if text.len() <= MAX_TEXT => OwnedKey::Text(text.into()),
            Key::Text(text) => OwnedKey::Long(at.hash, self.second.hash_one(text)),
            Key::All => OwnedKey::All,
        }
    }

    #[inline]
    fn is(&self, entry: &Entry, at: Address, key: &Key<'_>) -> bool {
        entry.limit == at.limit
            && match (&entry.key, *key) {
                (OwnedKey::Net(a, p), Key::Net(b, q)) => (*a, *p) == (b, q),
                (OwnedKey::Text(a), Key::Text(b)) => **a == *b,
                (OwnedKey::Long(first, second), Key::Text(b)) => {
                    b.len() > MAX_TEXT && *first == at.hash && *second == self.second.hash_one(b)
                }
                (OwnedKey::All, Key::All) => true,
                _ => false,
            }
    }
}

/// Bits that hashbrown needs neither for the bucket (the low ones) nor for its tags (the top seven).
#[inline]
fn shard_of(hash: u64, key: &Key<'_>) -> usize {
    let bits = usize::from((hash >> 40) as u16);
    match key {
        Key::All => SHARDS - 1 - bits % SHARDS_OF_ALL,
        _ => bits % (SHARDS - SHARDS_OF_ALL),
    }
}

impl OwnedKey {
    /// The key as it is asked for; `None` for a text of which only the hash is known.
    pub(super) fn as_key(&self) -> Option<Key<'_>> {
        match self {
            Self::Net(ip, prefix) => Some(Key::Net(*ip, *prefix)),
            Self::Text(text) => Some(Key::Text(text)),
            Self::All => Some(Key::All),
            Self::Long(..) => None,
        }
    }

    /// As operators see it: an address or network, the text, or `all`.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Net(ip, prefix) => Key::Net(*ip, *prefix).to_string(),
            Self::Text(text) => Key::Text(text).to_string(),
            Self::All => Key::All.to_string(),
            Self::Long(hash, _) => format!("(text too long to keep, {hash:016x})"),
        }
    }
}

/// One shard: the keys under one lock.
#[derive(Default)]
pub(super) struct Shard {
    keys: HashTable<Entry>,
    /// The latest time that was seen here.
    latest: u64,
}

/// What had to go for a new key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evicted {
    /// Keys that were indistinguishable from new ones.
    pub(super) idle: usize,
    /// Keys in use, which start afresh when they come back.
    pub(super) live: usize,
}

impl Shard {
    /// The time to tell by how far a TAT is ahead. Questions come from several threads, and one
    /// may have read the clock a little before another that came first: to it, a key that is used
    /// up would seem to be further used up than its burst. What lies further back than a few
    /// seconds is a clock that was set back.
    #[inline]
    pub(super) fn latest(&mut self, now: u64) -> u64 {
        if self.latest > now.saturating_add(MAX_LAG) || self.latest < now {
            self.latest = now;
        }
        self.latest
    }

    /// The bucket of a key; it holds until the shard is changed.
    #[inline]
    pub(super) fn find(&self, secrets: &Secrets, at: Address, key: &Key<'_>) -> Option<usize> {
        self.keys.find_bucket_index(at.hash, |entry| secrets.is(entry, at, key))
    }

    pub(super) fn state(&self, bucket: usize) -> State {
        self.keys.get_bucket(bucket).map_or_else(State::default, |entry| entry.state)
    }

    pub(super) fn set(&mut self, bucket: usize, state: State) {
        if let Some(entry) = self.keys.get_bucket_mut(bucket) {
            entry.state = state;
        }
    }

    /// Sets the state of a key that may not be there yet; whether it is new.
    pub(super) fn put(&mut self, secrets: &Secrets, at: Address, key: &Key<'_>, state: State) -> bool {
        let is = |entry: &Entry| secrets.is(entry, at, key);
        match self.keys.entry(at.hash, is, |entry| secrets.address_of(entry)) {
            Place::Occupied(mut entry) => {
                entry.get_mut().state = state;
                false
            }
            Place::Vacant(place) => {
                place.insert(Entry { limit: at.limit, key: secrets.owned(at, key), state });
                true
            }
        }
    }

    /// Makes room for one key: looks at a few from a place of `seed`'s choice, forgets the idle
    /// ones, or, where none is, the one that is nearest to idle, for it loses least.
    pub(super) fn evict(&mut self, now: u64, seed: u64) -> Evicted {
        let buckets = self.keys.num_buckets();
        let start = usize::try_from(seed % (buckets.max(1) as u64)).unwrap_or(0);
        let (mut evicted, mut seen, mut oldest) = (Evicted::default(), 0, None);
        for bucket in (start..buckets).chain(0..start) {
            let Some(entry) = self.keys.get_bucket(bucket) else { continue };
            let tat = entry.state.tat();
            if tat <= now {
                evicted.idle += usize::from(self.remove(bucket));
            } else if oldest.is_none_or(|(least, _)| tat < least) {
                oldest = Some((tat, bucket));
            }
            seen += 1;
            if seen == SAMPLE {
                break;
            }
        }
        if let (0, Some((_, bucket))) = (evicted.idle, oldest) {
            evicted.live = usize::from(self.remove(bucket));
        }
        evicted
    }

    fn remove(&mut self, bucket: usize) -> bool {
        self.keys.get_bucket_entry(bucket).map(|entry| entry.remove()).is_ok()
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&mut Entry) -> bool) -> usize {
        let before = self.keys.len();
        self.keys.retain(keep);
        before - self.keys.len()
    }

    /// Gives memory back where far more is held than needed.
    pub(super) fn shrink(&mut self, secrets: &Secrets) {
        if self.keys.capacity() > 1_024 && self.keys.capacity() / 8 > self.keys.len() {
            self.keys.shrink_to(self.keys.len() * 2, |entry| secrets.address_of(entry));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.keys.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shard: &mut Shard, secrets: &Secrets, key: &[u8], tat: u64) -> bool {
        let at = secrets.address(LimitId(7), &Key::Text(key));
        shard.put(secrets, at, &Key::Text(key), State::default().with_tat(tat))
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Entry>() <= 40, "{}", size_of::<Entry>());
    }

    #[test]
    fn a_state_keeps_both_parts_apart() {
        let state = State::default().with_tat(u64::MAX).with_warned(true);
        assert_eq!((state.tat(), state.is_warned()), (u64::MAX / 2, true));
        let state = state.with_tat(5);
        assert_eq!((state.tat(), state.is_warned(), state.with_warned(false).bits()), (5, true, 5));
    }

    #[test]
    fn long_texts_are_kept_by_hash_and_found_again() {
        let (mut shard, secrets) = (Shard::default(), Secrets::default());
        let (long, other) = ([b'a'; MAX_TEXT + 1], [b'b'; MAX_TEXT + 1]);
        assert!(text(&mut shard, &secrets, &long, 9));
        assert!(!text(&mut shard, &secrets, &long, 10));
        assert!(text(&mut shard, &secrets, &other, 11));
        for i in 0u32..2_000 {
            assert!(text(&mut shard, &secrets, &i.to_be_bytes(), 1));
        }
        let at = secrets.address(LimitId(7), &Key::Text(&long));
        let bucket = shard.find(&secrets, at, &Key::Text(&long));
        assert_eq!(bucket.map(|b| shard.state(b).tat()), Some(10));
    }

    #[test]
    fn idle_keys_go_first_then_the_one_nearest_to_idle() {
        let (mut shard, secrets) = (Shard::default(), Secrets::default());
        assert_eq!(shard.evict(5, 3), Evicted::default());
        for (key, tat) in [(b"a", 10), (b"b", 20), (b"c", 5)] {
            text(&mut shard, &secrets, key, tat);
        }
        assert_eq!(shard.evict(5, 3), Evicted { idle: 1, live: 0 });
        assert_eq!(shard.evict(5, 3), Evicted { idle: 0, live: 1 });
        assert_eq!(shard.iter().map(|e| e.state.tat()).collect::<Vec<_>>(), [20]);
    }

    #[test]
    fn kinds_of_keys_are_kept_apart() {
        let secrets = Secrets::default();
        let keys =
            [Key::All, Key::Text(b"all"), Key::Net([10, 0, 0, 1].into(), 32), Key::Net([10, 0, 0, 0].into(), 24)];
        let mut shard = Shard::default();
        for (tat, key) in (1..).zip(&keys) {
            assert!(shard.put(&secrets, secrets.address(LimitId(1), key), key, State::default().with_tat(tat)));
        }
        let mut texts: Vec<_> = shard.iter().map(|e| e.key.text()).collect();
        texts.sort();
        assert_eq!(texts, ["10.0.0.0/24", "10.0.0.1", "all", "all"]);
    }
}

//! A quick hash under a secret key: which counters share a bucket, or a set, cannot be known outside.

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use std::hash::{BuildHasher, Hasher, RandomState};

/// A secret key of the hash.
///
/// The hash is foldhash, several times as quick on our keys as the standard library's SipHash, but
/// not cryptographic: whoever sees hashes could find names whose hashes are equal. Nobody is shown
/// one, and a lookup that takes some nanoseconds longer drowns in the time of an SMTP command. The
/// secret is the operating system's randomness, by way of the standard library; foldhash's own is
/// no more than where things stand in memory.
#[derive(Clone, Debug)]
pub(super) struct Keyed {
    own: u64,
    shared: SharedSeed,
}

impl Keyed {
    /// To be fed and asked for 64 bits, all of them equally good.
    #[inline]
    pub(super) fn hasher(&self) -> impl Hasher {
        FoldHasher::with_seed(self.own, &self.shared)
    }
}

impl Default for Keyed {
    fn default() -> Self {
        let random = RandomState::new();
        Self { own: random.hash_one(1u8), shared: SharedSeed::from_u64(random.hash_one(2u8)) }
    }
}

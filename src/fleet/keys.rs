//! The names of everything that a fleet keeps in the store. All of them carry one hash tag, so that a cluster has
//! them in one slot, where scripts and transactions may touch them together
//! (<https://valkey.io/topics/cluster-spec/>, "Hash tags").

/// The list is kept in so many hashes: of ten million entries each is read whole in some four milliseconds of the
/// store's time, several times as fast as one hash of all of them is gone through.
pub const PARTS: u16 = 4_096;

/// The names below one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Names for a namespace of letters, digits, `_`, `-` and `.`.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { prefix: format!("{{{namespace}}}:") }
    }

    /// The name of a single thing, such as `entries`.
    #[must_use]
    pub fn of(&self, thing: &str) -> String {
        format!("{}{thing}", self.prefix)
    }

    /// The part of the list that has the record of a canonical address.
    #[must_use]
    pub fn entries_of(&self, address: &str) -> String {
        // FNV-1a: the same on every relay, for ever
        let hash =
            address.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        self.entries_part(((hash ^ (hash >> 16)) % u32::from(PARTS)) as u16)
    }

    /// A part of the list by its number, below [`PARTS`].
    #[must_use]
    pub fn entries_part(&self, part: u16) -> String {
        self.of(&format!("entries:{part:03x}"))
    }

    /// The beginning of every name.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_slot() {
        let keys = Keys::new("mail");
        assert_eq!((keys.prefix(), keys.of("changes").as_str()), ("{mail}:", "{mail}:changes"));
    }

    #[test]
    fn addresses_spread_over_all_parts_and_stay_where_they_are() {
        let keys = Keys::new("mail");
        let mut parts = std::collections::HashMap::<_, u32>::new();
        (0..400_000).for_each(|n| *parts.entry(keys.entries_of(&format!("user{n}@example.com"))).or_default() += 1);
        assert_eq!(parts.len(), usize::from(PARTS));
        assert!(parts.values().all(|n| (30..200).contains(n)), "{:?}", parts.values().max());
        assert_eq!(keys.entries_of("user@example.com"), "{mail}:entries:851");
    }
}

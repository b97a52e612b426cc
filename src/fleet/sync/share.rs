//! What relays share, each kind in hashes of its own: how it is named there, written, read and joined.

use super::sort::Pair;
use crate::fleet::Keys;
use crate::mail::Address;
use crate::store::{FullReport, Record, RemovedFilter, Unreadable};
use std::fmt::Display;

/// The hash of all reports of full mailboxes.
pub(super) const REPORTS: &str = "soft";

/// The hash of all removals of filters.
pub(super) const FILTERS: &str = "filters";

/// One thing that relays share.
pub(super) trait Shared: Sized {
    /// The hash that has the one of this name.
    fn hash(keys: &Keys, name: &str) -> String;

    /// The field of an entry of the stream that has its name. The other is [`VALUE`].
    const FIELD: &'static str;

    /// Its name in the hash.
    fn name(&self) -> String;

    /// Whether it says nothing.
    fn is_empty(&self) -> bool {
        false
    }

    /// Whether nobody needs it at `now`, Unix seconds.
    fn is_over(&self, now: i64) -> bool;

    /// As the hash has it.
    fn encode(&self) -> String;

    /// Reads it.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn decode(name: &str, value: &[u8]) -> Result<Self, Wrong>;

    /// Both together.
    fn joined(&self, other: Self) -> Self;
}

/// The field of an entry of the stream that has the value.
pub(super) const VALUE: &str = "r";

/// The field that has the name of the relay that told it.
pub(super) const TELLER: &str = "o";

/// Why something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    #[error("its name is no canonical address")]
    Name,
    #[error("{0}")]
    Value(#[from] Unreadable),
}

impl Shared for (Address, Record) {
    const FIELD: &'static str = "a";

    fn hash(keys: &Keys, name: &str) -> String {
        keys.entries_of(name)
    }

    fn name(&self) -> String {
        self.0.as_str().to_owned()
    }

    fn is_empty(&self) -> bool {
        self.1.is_empty()
    }

    fn is_over(&self, now: i64) -> bool {
        self.1.is_over(now)
    }

    fn encode(&self) -> String {
        self.1.encode()
    }

    fn decode(name: &str, value: &[u8]) -> Result<Self, Wrong> {
        let address = Address::parse(name).ok().filter(|address| address.as_str() == name).ok_or(Wrong::Name)?;
        let record = Record::decode(&address, value)?;
        Ok((address, record))
    }

    fn joined(&self, other: Self) -> Self {
        (other.0, self.1.clone().join(other.1))
    }
}

impl Shared for FullReport {
    const FIELD: &'static str = "s";

    fn hash(keys: &Keys, _: &str) -> String {
        keys.of(REPORTS)
    }

    fn name(&self) -> String {
        self.name()
    }

    fn is_over(&self, now: i64) -> bool {
        self.is_over(now)
    }

    fn encode(&self) -> String {
        self.encode()
    }

    fn decode(name: &str, value: &[u8]) -> Result<Self, Wrong> {
        Ok(Self::decode(name, value)?)
    }

    fn joined(&self, other: Self) -> Self {
        self.clone().join(other)
    }
}

impl Shared for RemovedFilter {
    const FIELD: &'static str = "f";

    fn hash(keys: &Keys, _: &str) -> String {
        keys.of(FILTERS)
    }

    fn name(&self) -> String {
        self.name().to_owned()
    }

    fn is_over(&self, now: i64) -> bool {
        self.is_over(now)
    }

    fn encode(&self) -> String {
        self.encode()
    }

    fn decode(name: &str, value: &[u8]) -> Result<Self, Wrong> {
        Ok(Self::decode(name, value)?)
    }

    fn joined(&self, other: Self) -> Self {
        self.clone().join(other)
    }
}

/// What is over `there` in `ours`, as it is to be written; `None`: nothing.
pub(super) fn over<T: Shared>(ours: &T, there: &[u8]) -> Result<Option<String>, Wrong> {
    if ours.is_empty() {
        return Ok(None);
    }
    let all = match T::decode(&ours.name(), there) {
        Ok(known) => ours.joined(known).encode(),
        // what nobody can read is no loss
        Err(Wrong::Value(Unreadable::Garbage)) => ours.encode(),
        Err(newer) => return Err(newer),
    };
    Ok((all.as_bytes() != there).then_some(all))
}

/// Reads what the store has; what cannot be read is told to `wrong`.
pub(super) fn read<T: Shared>((name, value): Pair<'_>, wrong: impl FnOnce(&str, &dyn Display)) -> Option<T> {
    let name = String::from_utf8_lossy(name);
    T::decode(&name, value).map_err(|why| wrong(&name, &why)).ok()
}

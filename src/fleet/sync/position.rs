//! Where a relay is in the stream: the id of the entry that it read last, and what that entry said. A server that took
//! over may lack the newest entries, and give their ids to others: by its clock, which may be behind.

use redis::Value;
use redis::streams::StreamId;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The id of an entry: Unix milliseconds by the store's clock, and a number within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) ms: u64,
    number: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ms, number) = text.split_once('-').ok_or(())?;
        Ok(Self { ms: ms.parse().map_err(drop)?, number: number.parse().map_err(drop)? })
    }
}

/// An entry of the stream, by its id and a digest of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: Position,
    says: u64,
}

impl Place {
    /// Where an entry stands; `None`: its id is none.
    pub(super) fn of(entry: &StreamId) -> Option<Self> {
        let mut digest = Sha256::new();
        for (field, value) in entry.map.iter().collect::<BTreeMap<_, _>>() {
            let value = match value {
                Value::BulkString(bytes) => bytes.as_slice(),
                Value::SimpleString(text) => text.as_bytes(),
                _ => b"",
            };
            for part in [field.as_bytes(), value] {
                digest.update(part.len().to_le_bytes());
                digest.update(part);
            }
        }
        let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = digest.finalize().into();
        Some(Self { at: entry.id.parse().ok()?, says: u64::from_le_bytes([a, b, c, d, e, f, g, h]) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.at, self.says)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, says) = text.split_once('/').ok_or(())?;
        Ok(Self { at: at.parse()?, says: u64::from_str_radix(says, 16).map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, fields: &[(&str, &str)]) -> StreamId {
        let map = fields.iter().map(|(field, value)| ((*field).to_owned(), Value::BulkString((*value).into())));
        StreamId { id: id.to_owned(), map: map.collect(), ..StreamId::default() }
    }

    #[test]
    fn a_place_is_where_an_entry_is_and_what_it_says() {
        let place = |id, fields: &[_]| Place::of(&entry(id, fields)).expect("an id");
        let one = place("17-3", &[("a", "x@y.z"), ("r", "1"), ("o", "relay")]);
        assert_eq!(one, place("17-3", &[("o", "relay"), ("r", "1"), ("a", "x@y.z")]));
        assert_eq!(one.to_string().parse(), Ok(one));
        assert_ne!(one, place("17-4", &[("a", "x@y.z"), ("r", "1"), ("o", "relay")]));
        assert_ne!(one, place("17-3", &[("a", "x@y.z"), ("r", "1"), ("o", "other")]));
        assert_ne!(one, place("17-3", &[("a", "x@y.z"), ("r", "1o"), ("", "relay")]));
        assert_eq!(Place::of(&entry("17", &[])), None);
    }

    #[test]
    fn no_text_is_a_place_that_is_not_one() {
        for text in ["", "17-3", "17-3/", "17-3/xyz", "17/00ff", "a-b/00ff"] {
            assert_eq!(text.parse::<Place>(), Err(()), "{text}");
        }
    }
}

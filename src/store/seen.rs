//! The window of what was seen: an event counts once, by whichever way and however often it comes. Bounded
//! in time and rows; the oldest go first.

use super::write::Fault;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

/// Bytes of a key: eight of SES's message id, which begins with the time and so keeps neighbours together
/// on disk, and twelve of a digest of all parts.
pub const SEEN_KEY_BYTES: usize = 20;

/// How long a key is remembered, in seconds: 30 days. An event can come again as long as a queue and its
/// dead-letter queue keep it, 14 days each in SQS.
pub(super) const SEEN_SECONDS: i64 = 30 * 86_400;

/// Most keys that are remembered: 500 MB on disk at most, and ten days of half a million events.
pub(super) const MAX_SEEN: i64 = 5_000_000;

/// What makes an event the same event, whichever way and however often it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeenKey([u8; SEEN_KEY_BYTES]);

impl SeenKey {
    /// The key of a message id and what tells the events of a message apart: the event's type (in one word),
    /// the canonical recipient, and, where a type may come several times for one recipient, its time.
    #[must_use]
    pub fn new(message_id: &str, parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(&message_id).chain(parts) {
            // with their lengths, so that no text moves from one part into the next
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let mut key = [0; SEEN_KEY_BYTES];
        let (head, tail) = key.split_at_mut(8);
        head.copy_from_slice(&beginning(message_id.as_bytes()));
        tail.copy_from_slice(&hash.finalize()[..SEEN_KEY_BYTES - 8]);
        Self(key)
    }

    pub(super) fn of_bytes(bytes: [u8; SEEN_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes, [`SEEN_KEY_BYTES`] of them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As hexadecimal digits.
    pub(super) fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let digits = text.bytes().map(|b| char::from(b).to_digit(16)).collect::<Option<Vec<_>>>()?;
        let bytes = digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap_or_default());
        let bytes: Vec<u8> = bytes.collect();
        (text.len() == 2 * SEEN_KEY_BYTES).then(|| bytes.try_into().ok().map(Self)).flatten()
    }
}

/// The beginning of a message id in eight bytes. SES's ids begin with sixteen hexadecimal digits, of which
/// the last twelve are the time in milliseconds.
fn beginning(id: &[u8]) -> [u8; 8] {
    let digits = id.iter().take(16).map_while(|b| char::from(*b).to_digit(16));
    let (number, count) = digits.fold((0_u64, 0), |(n, count), digit| (n << 4 | u64::from(digit), count + 1));
    if count == 16 {
        return number.to_be_bytes();
    }
    let mut first = [0; 8];
    first.iter_mut().zip(id).for_each(|(to, from)| *to = *from);
    first
}

/// Remembers a key; `false` where it was known.
pub(super) fn remember(tx: &Connection, key: &SeenKey, now: i64) -> Result<bool, Fault> {
    let sql = "INSERT OR IGNORE INTO seen (key, at) VALUES (?1, ?2)";
    Ok(tx.prepare_cached(sql)?.execute(params![key.as_bytes(), now])? == 1)
}

/// Whether a key is known.
pub(super) fn is_known(tx: &Connection, key: &SeenKey) -> Result<bool, Fault> {
    Ok(tx.prepare_cached("SELECT 1 FROM seen WHERE key = ?1")?.exists([key.as_bytes()])?)
}

/// Deletes what is past its time or number among the `rows` oldest. The oldest that still stands ends the
/// search: after a clock that was ahead for a while, only the number bounds the window.
pub(super) fn trim(tx: &Connection, now: i64, rows: i64) -> Result<(), Fault> {
    let sql = "SELECT id, at, (SELECT max(id) FROM seen) FROM seen ORDER BY id LIMIT 1";
    let ends = tx.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((first, at, last)) = ends else { return Ok(()) };
    let (first, at, last): (i64, i64, i64) = (first, at, last);
    let (cut, surplus) = (now.saturating_sub(SEEN_SECONDS), last - MAX_SEEN);
    if at <= cut || first <= surplus {
        let sql = "DELETE FROM seen WHERE id < ?1 AND (at <= ?2 OR id <= ?3)";
        tx.prepare_cached(sql)?.execute(params![first.saturating_add(rows), cut, surplus])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "0109019c1a2b3c4d-0a1b2c3d-1111-2222-3333-444455556666-000000";

    #[test]
    fn neighbours_in_time_are_neighbours_on_disk() {
        let later = ID.replace("3c4d", "3c4e");
        let (a, b) = (SeenKey::new(ID, &["delivery", "a@b"]), SeenKey::new(&later, &["delivery", "a@b"]));
        assert_eq!(a.0[..8], [0x01, 0x09, 0x01, 0x9c, 0x1a, 0x2b, 0x3c, 0x4d]);
        assert_eq!(b.0[..8], [0x01, 0x09, 0x01, 0x9c, 0x1a, 0x2b, 0x3c, 0x4e]);
        assert_eq!(SeenKey::new("NOID", &[]).0[..8], *b"NOID\0\0\0\0");
        assert_eq!(SeenKey::new("EXAMPLE7c191be45", &[]).0[..8], *b"EXAMPLE7");
    }

    proptest! {
        #[test]
        fn what_differs_in_any_part_has_another_key(
            a in prop::collection::vec("[ab]{0,3}", 0..4),
            b in prop::collection::vec("[ab]{0,3}", 0..4),
        ) {
            let key = |parts: &[String]| SeenKey::new(ID, &parts.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(key(&a) == key(&b), a == b);
        }
    }
}

//! The file of saved counters, as bytes: a header line with the version, the limits, one record a
//! key, the number of keys, and a checksum. All numbers are little-endian. No I/O.

use super::Key;
use super::limits::Limits;
use super::table::{Entry, LimitId, MAX_TEXT, OwnedKey, State};
use crate::rules::{Count, KeyKind, Limit};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) const HEADER: &[u8] = b"gatepost limits 1\n";
/// More limits than anyone writes are not read back.
const MAX_LIMITS: usize = 65_536;
/// Limit, tag, length, text, state.
pub(super) const MAX_RECORD: usize = 4 + 1 + 2 + MAX_TEXT + 8;
/// Header and limits; a name has some tens of bytes.
pub(super) const MAX_HEAD: usize = 16 << 20;

const END: u32 = u32::MAX;
const TAG_V4: u8 = 4;
const TAG_V6: u8 = 6;
const TAG_TEXT: u8 = 1;
const TAG_ALL: u8 = 2;

/// Why a file of saved counters cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It was written by another version, or is something else.
    #[error("are of another version")]
    Version,
    /// It is damaged.
    #[error("are damaged: {0}")]
    Damaged(&'static str),
}

pub(super) fn number_limits(limits: &Limits, out: &mut Vec<u8>) -> HashMap<LimitId, u32> {
    let short = |limit: &Limit| u16::try_from(limit.name.len()).is_ok();
    let named: Vec<_> = limits.iter().filter(|(_, limit)| short(limit)).take(MAX_LIMITS).collect();
    out.extend_from_slice(&(named.len() as u32).to_le_bytes());
    let number = |(number, (id, limit)): (u32, (LimitId, &Arc<Limit>))| {
        out.extend_from_slice(&[code_of(limit.key), u8::from(limit.count == Count::Recipients)]);
        out.extend_from_slice(&(limit.name.len() as u16).to_le_bytes());
        out.extend_from_slice(limit.name.as_bytes());
        (id, number)
    };
    (0..).zip(named).map(number).collect()
}

/// Whether the entry can be brought back: of long texts only a hash is known, under a key that
/// dies with the process.
pub(super) fn write_entry(limit: u32, entry: &Entry, out: &mut Vec<u8>) -> bool {
    if matches!(entry.key, OwnedKey::Long(..)) {
        return false;
    }
    out.extend_from_slice(&limit.to_le_bytes());
    match &entry.key {
        OwnedKey::Net(std::net::IpAddr::V4(ip), prefix) => {
            out.extend_from_slice(&[TAG_V4, *prefix]);
            out.extend_from_slice(&ip.octets());
        }
        OwnedKey::Net(std::net::IpAddr::V6(ip), prefix) => {
            out.extend_from_slice(&[TAG_V6, *prefix]);
            out.extend_from_slice(&ip.octets());
        }
        OwnedKey::Text(text) => {
            out.push(TAG_TEXT);
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text);
        }
        OwnedKey::All | OwnedKey::Long(..) => out.push(TAG_ALL),
    }
    out.extend_from_slice(&entry.state.bits().to_le_bytes());
    true
}

/// What stands behind the last record.
pub(super) fn write_end(keys: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&END.to_le_bytes());
    out.extend_from_slice(&(keys as u64).to_le_bytes());
}

/// The file without header and checksum.
pub(super) fn checked(bytes: &[u8]) -> Result<&[u8], Unusable> {
    let (body, sum) = bytes.split_last_chunk::<8>().ok_or(Unusable::Damaged("it is too short"))?;
    let records = body.strip_prefix(HEADER).ok_or(Unusable::Version)?;
    let mut own = Checksum::default();
    own.add(body);
    if own.bytes() != *sum {
        return Err(Unusable::Damaged("the checksum is wrong"));
    }
    Ok(records)
}

/// A limit as it was saved.
pub(super) struct SavedLimit<'a> {
    pub(super) name: &'a [u8],
    pub(super) key: KeyKind,
    pub(super) count: Count,
}

/// Goes through limits and records; `each` gets what `limit` made of the record's limit.
pub(super) fn walk<'a, L>(
    body: &'a [u8],
    limit: impl Fn(SavedLimit<'a>) -> L,
    mut each: impl FnMut(&L, Key<'a>, State),
) -> Result<(), Unusable> {
    let mut cursor = Cursor(body);
    let mut limits = Vec::new();
    for _ in 0..cursor.u32()? {
        if limits.len() == MAX_LIMITS {
            return Err(Unusable::Damaged("it has too many limits"));
        }
        limits.push(limit(cursor.limit()?));
    }
    let mut keys = 0u64;
    loop {
        let number = cursor.u32()?;
        if number == END {
            break;
        }
        let limit = limits.get(number as usize).ok_or(Unusable::Damaged("a key has an unknown limit"))?;
        let key = cursor.key()?;
        each(limit, key, State::from_bits(cursor.u64()?));
        keys += 1;
    }
    if cursor.u64()? != keys || !cursor.0.is_empty() {
        return Err(Unusable::Damaged("the number of keys is wrong"));
    }
    Ok(())
}

/// What is still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Unusable> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Unusable::Damaged("it ends early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unusable> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Unusable::Damaged("it ends early"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<usize, Unusable> {
        Ok(usize::from(u16::from_le_bytes(self.array()?)))
    }

    fn u32(&mut self) -> Result<u32, Unusable> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Unusable> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn limit(&mut self) -> Result<SavedLimit<'a>, Unusable> {
        let [kind, count] = self.array()?;
        let key = KINDS.into_iter().find(|k| code_of(*k) == kind).ok_or(Unusable::Damaged("unknown kind of key"))?;
        let count = if count == 0 { Count::Messages } else { Count::Recipients };
        let length = self.u16()?;
        Ok(SavedLimit { name: self.take(length)?, key, count })
    }

    fn key(&mut self) -> Result<Key<'a>, Unusable> {
        let [tag] = self.array()?;
        match tag {
            TAG_V4 => {
                let [prefix, ip @ ..] = self.array::<5>()?;
                Ok(Key::Net(ip.into(), prefix))
            }
            TAG_V6 => {
                let [prefix, ip @ ..] = self.array::<17>()?;
                Ok(Key::Net(ip.into(), prefix))
            }
            TAG_TEXT => match self.u16()? {
                length @ 1..=MAX_TEXT => Ok(Key::Text(self.take(length)?)),
                _ => Err(Unusable::Damaged("a text is too long")),
            },
            TAG_ALL => Ok(Key::All),
            _ => Err(Unusable::Damaged("unknown kind of key")),
        }
    }
}

const KINDS: [KeyKind; 7] = [
    KeyKind::ClientAddress,
    KeyKind::ClientNetwork,
    KeyKind::SaslUsername,
    KeyKind::Sender,
    KeyKind::SenderDomain,
    KeyKind::RecipientDomain,
    KeyKind::All,
];

fn code_of(kind: KeyKind) -> u8 {
    match kind {
        KeyKind::ClientAddress => 1,
        KeyKind::ClientNetwork => 2,
        KeyKind::SaslUsername => 3,
        KeyKind::Sender => 4,
        KeyKind::SenderDomain => 5,
        KeyKind::RecipientDomain => 6,
        KeyKind::All => 7,
    }
}

/// FNV-1a, 64 bits: it finds accidents; nobody but the daemon writes to its state folder.
pub(super) struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn bytes(&self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
}

//! The correlation ids that were stamped in the last hours: a message that a content filter brings back keeps its id,
//! and an id that somebody made up is known as such. They are kept over a restart, in a file that is replaced as a
//! whole; one that cannot be used costs the messages that are with a filter right then their ids.

use crate::rules;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long an id is known, at least; at most twice as long. A content filter is a matter of minutes.
const GENERATION: Duration = Duration::from_secs(4 * 3600);

/// Most ids of one generation, 18 a second for all of it: with both, 10 MB.
const MAX_IDS: usize = 262_144;

/// What the file begins with. Then come, as little-endian numbers of 64 bits: since when the young ones are gathered,
/// how many they are, the young ones, the old ones.
const HEADER: &[u8] = b"gatepost issued 1\n";

/// Most bytes of the file.
const MAX_FILE_BYTES: usize = HEADER.len() + (2 + 2 * MAX_IDS) * size_of::<u64>();

/// The ids, shared by all sessions. Of each, 64 bits of its SHA-256: who could make up another id with the same bits
/// has seen an id, and could as well repeat that.
#[derive(Debug, Default)]
pub struct Issued {
    ids: Mutex<Ids>,
    saving: Mutex<()>,
}

#[derive(Debug, Default)]
struct Ids {
    young: HashSet<u64>,
    old: HashSet<u64>,
    since: Duration,
}

/// Why saved ids were not brought back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("are damaged or of another version")]
    Unusable,
}

impl Issued {
    /// Remembers an id. `now` is Unix time.
    pub fn remember(&self, id: &str, now: Duration) {
        let hash = hash(id);
        let mut ids = self.lock();
        ids.turn(now);
        ids.young.insert(hash);
    }

    /// Whether the id was stamped lately.
    #[must_use]
    pub fn knows(&self, id: &str, now: Duration) -> bool {
        let hash = hash(id);
        let mut ids = self.lock();
        ids.turn(now);
        ids.young.contains(&hash) || ids.old.contains(&hash)
    }

    /// Writes them to `path`. It blocks.
    ///
    /// # Errors
    /// What the file system says; the file that was there stays.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.lock().to_bytes();
        rules::replace(path, |file| file.write_all(&bytes))
    }

    /// Brings those back that were saved at `path`, in place of what is known. No file: none.
    ///
    /// # Errors
    /// Where the file cannot be read or used; then nothing was changed.
    pub fn restore(&self, path: &Path) -> Result<(), RestoreError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        *self.lock() = Ids::from_bytes(&bytes).ok_or(RestoreError::Unusable)?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ids {
    /// Begins a new generation where the young one is old or full.
    fn turn(&mut self, now: Duration) {
        let age = now.saturating_sub(self.since);
        if age < GENERATION && self.young.len() < MAX_IDS {
            return;
        }
        let young = std::mem::take(&mut self.young);
        self.old = if age < GENERATION.saturating_mul(2) { young } else { HashSet::new() };
        self.since = now;
    }

    fn to_bytes(&self) -> Vec<u8> {
        let numbers = [self.since.as_secs(), self.young.len() as u64];
        let numbers = numbers.iter().chain(&self.young).chain(&self.old);
        HEADER.iter().copied().chain(numbers.flat_map(|n| n.to_le_bytes())).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.strip_prefix(HEADER)?.as_chunks() else { return None };
        let mut numbers = numbers.iter().map(|n| u64::from_le_bytes(*n));
        let (since, young) = (numbers.next()?, usize::try_from(numbers.next()?).ok()?);
        if bytes.len() > MAX_FILE_BYTES || young > numbers.len() {
            return None;
        }
        let young = numbers.by_ref().take(young).collect();
        Some(Self { young, old: numbers.collect(), since: Duration::from_secs(since) })
    }
}

fn hash(id: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(id).into();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_id_is_known_for_hours() {
        let (issued, start) = (Issued::default(), Duration::from_secs(1_800_000_000));
        issued.remember("a", start);
        assert!(issued.knows("a", start + GENERATION - Duration::from_secs(1)));
        assert!(!issued.knows("b", start));
        issued.remember("b", start + GENERATION);
        assert!(issued.knows("a", start + GENERATION));
        assert!(!issued.knows("a", start + GENERATION * 2) && issued.knows("b", start + GENERATION * 2));
        assert!(!issued.knows("b", start + GENERATION * 5));
    }

    #[test]
    fn they_are_bounded() {
        let (issued, now) = (Issued::default(), Duration::from_secs(1_800_000_000));
        for n in 0..=2 * MAX_IDS {
            issued.remember(&n.to_string(), now);
        }
        assert!(!issued.knows("0", now) && issued.knows(&(2 * MAX_IDS).to_string(), now));
        let ids = issued.ids.lock().unwrap();
        assert!(ids.young.len() + ids.old.len() <= 2 * MAX_IDS);
    }

    fn restored(path: &Path) -> Result<Issued, RestoreError> {
        let issued = Issued::default();
        issued.restore(path).map(|()| issued)
    }

    #[test]
    fn they_outlive_the_process() {
        let (issued, start) = (Issued::default(), Duration::from_secs(1_800_000_000));
        issued.remember("old", start);
        issued.remember("young", start + GENERATION);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issued.state");
        assert!(!restored(&path).unwrap().knows("young", start));
        issued.save(&path).unwrap();
        issued.save(&path).unwrap();
        let (back, now) = (restored(&path).unwrap(), start + GENERATION);
        assert!(back.knows("old", now) && back.knows("young", now) && !back.knows("other", now));
        assert!(!back.knows("old", now + GENERATION) && back.knows("young", now + GENERATION));
        assert!(!restored(&path).unwrap().knows("young", now + 3 * GENERATION));
    }

    #[test]
    fn a_file_that_is_something_else_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issued.state");
        Issued::default().save(&path).unwrap();
        let sound = std::fs::read(&path).unwrap();
        let count = [&sound[..sound.len() - 8], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
        let huge = [&sound[..], &vec![0; MAX_FILE_BYTES]].concat();
        for bytes in [&sound[..sound.len() - 1], &sound[..HEADER.len()], &count, &huge, b"gatepost issued 2\n", b""] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(restored(&path), Err(RestoreError::Unusable)));
        }
    }
}

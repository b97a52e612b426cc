//! Confirming a hit of the index: the entry itself, for its date and text, and because two
//! addresses may have one hash. Entries that were read lately are kept, so that a client that
//! tries a recipient again and again does not reach the database.

use crate::store::{Entry, Reader, StoreError, identity};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most entries kept: with the longest evidence they take some 30 MB, with usual ones 3 MB.
pub const CACHED_ENTRIES: usize = 10_000;

/// Reads entries by address, with a bounded cache that the [follower](super::Follower) keeps
/// true. Shared by all connections.
#[derive(Debug)]
pub struct Confirmer {
    path: PathBuf,
    reader: Mutex<Option<Reader>>,
    cache: Mutex<Cache>,
}

/// Two generations: what is used moves into the young one, and when that is full, the old one is
/// dropped whole.
#[derive(Debug, Default)]
struct Cache {
    young: HashMap<Box<[u8]>, Arc<Entry>>,
    old: HashMap<Box<[u8]>, Arc<Entry>>,
    /// Counts what was forgotten: a read that began before must not be kept.
    forgotten: u64,
}

impl Confirmer {
    /// A reader of the database at `path`, which is opened with the first question.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), reader: Mutex::default(), cache: Mutex::default() }
    }

    /// The entry of a canonical address, if it was read lately and stands at `now` (Unix seconds).
    /// No I/O: a short lock.
    #[must_use]
    pub fn cached(&self, address: &[u8], now: u64) -> Option<Arc<Entry>> {
        let mut cache = self.cache();
        let entry = cache.get(address)?;
        if stands(&entry, now) {
            return Some(entry);
        }
        cache.forget(address);
        None
    }

    /// The entry of a canonical address that stands at `now` (Unix seconds), read from the
    /// database. Blocks for the disk: not for the runtime's own threads.
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn read(&self, address: &[u8], now: u64) -> Result<Option<Arc<Entry>>, StoreError> {
        let Ok(text) = std::str::from_utf8(address) else { return Ok(None) };
        let forgotten = self.cache().forgotten;
        let entry = self.ask_database(text)?.map(Arc::new).filter(|e| stands(e, now));
        if let Some(entry) = &entry {
            let mut cache = self.cache();
            if cache.forgotten == forgotten {
                cache.keep(address, Arc::clone(entry));
            }
        }
        Ok(entry)
    }

    /// The entry of a canonical address that stands at `now`: [`Confirmer::cached`], else
    /// [`Confirmer::read`].
    ///
    /// # Errors
    /// Trouble with the database.
    pub fn lookup(&self, address: &[u8], now: u64) -> Result<Option<Arc<Entry>>, StoreError> {
        match self.cached(address, now) {
            Some(entry) => Ok(Some(entry)),
            None => self.read(address, now),
        }
    }

    /// Forgets the entry of an address: it has changed.
    pub fn forget(&self, address: &[u8]) {
        self.cache().forget(address);
    }

    /// Forgets everything: the list was read again.
    pub fn forget_all(&self) {
        let mut cache = self.cache();
        *cache = Cache { forgotten: cache.forgotten + 1, ..Cache::default() };
    }

    fn ask_database(&self, address: &str) -> Result<Option<Entry>, StoreError> {
        let mut slot = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let file = identity(&self.path).ok();
        let reader = match slot.take().filter(|r| Some(r.file()) == file) {
            Some(reader) => reader,
            None => Reader::open(&self.path)?,
        };
        // only a connection that answered is kept: after trouble the next question opens a new one
        let entry = reader.get(address)?;
        *slot = Some(reader);
        Ok(entry)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn get(&mut self, address: &[u8]) -> Option<Arc<Entry>> {
        if let Some(entry) = self.young.get(address) {
            return Some(Arc::clone(entry));
        }
        let (key, entry) = self.old.remove_entry(address)?;
        self.insert(key, Arc::clone(&entry));
        Some(entry)
    }

    fn keep(&mut self, address: &[u8], entry: Arc<Entry>) {
        self.old.remove(address);
        self.insert(address.into(), entry);
    }

    fn insert(&mut self, key: Box<[u8]>, entry: Arc<Entry>) {
        if self.young.len() >= CACHED_ENTRIES / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }

    fn forget(&mut self, address: &[u8]) {
        self.young.remove(address);
        self.old.remove(address);
        self.forgotten += 1;
    }
}

fn stands(entry: &Entry, now: u64) -> bool {
    entry.in_force(i64::try_from(now).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Address;
    use crate::store::{Origin, Reason};

    fn entry(n: usize) -> Arc<Entry> {
        Arc::new(Entry {
            address: Address::parse(&format!("u{n}@example.com")).expect("address"),
            spelling: None,
            reason: Reason::Manual,
            evidence: String::new(),
            source: Origin::Cli,
            created: 0,
            expires: Some(100),
        })
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_used() {
        let mut cache = Cache::default();
        for n in 0..CACHED_ENTRIES * 3 {
            cache.keep(format!("{n}").as_bytes(), entry(n));
            assert!(cache.get(b"0").is_some(), "{n}");
            assert!(cache.young.len() + cache.old.len() <= CACHED_ENTRIES);
        }
        assert!(cache.get(b"1").is_none());
    }

    #[test]
    fn what_has_expired_or_changed_is_not_answered_from_the_cache() {
        let confirmer = Confirmer::new(Path::new("/nonexistent/gatepost.db"));
        confirmer.cache().keep(b"a", entry(1));
        confirmer.cache().keep(b"b", entry(2));
        assert!(confirmer.cached(b"a", 99).is_some());
        assert!(confirmer.cached(b"a", 100).is_none());
        confirmer.forget(b"b");
        assert!(confirmer.cached(b"b", 99).is_none());
        assert!(matches!(confirmer.lookup(b"b", 99), Err(StoreError::Missing { .. })));
    }
}

//! Filling an index from the store: several threads, each with its own connection, take ranges of
//! rows and put them straight into the shards.
//!
//! The threads read at slightly different moments. The place in the change feed is taken before
//! any of them starts, so every change since then is applied afterwards, once more where a thread
//! saw it already. (An address that was added in that time counts as shared then, see `index`.)

use super::index::{Index, Slot};
use crate::store::{Filter, Mark, Reader, StoreError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Rows taken at a time: enough to keep threads busy, few enough that a stop is prompt.
const CHUNK: i64 = 20_000;

/// Slots kept for a shard before its lock is taken: spares locks, and keeps one table in the
/// processor's cache for a while.
const BATCH: usize = 64;

/// Most threads; they read one file.
const MAX_THREADS: usize = 4;

/// Fills `index`. `None` where `stop` was set meanwhile.
pub(super) fn load(
    reader: &Reader,
    path: &Path,
    into: &Index,
    now: u64,
    stop: &AtomicBool,
) -> Result<Option<(Index, Mark)>, StoreError> {
    let mark = reader.mark()?;
    let Some((first, last)) = reader.rows()? else {
        return Ok(Some((into.fresh(0), mark)));
    };
    let total = reader.count(&Filter::default())?;
    let fresh = into.fresh(usize::try_from(total).unwrap_or(0));
    let work = Work { path, index: &fresh, next: AtomicI64::new(0), first, last, now, stop };
    let most = usize::try_from(total / CHUNK.unsigned_abs() + 1).unwrap_or(1);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(most);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work.run_apart())).collect();
        let mut result = work.run(reader);
        for other in others {
            let panicked =
                || StoreError::Other { path: path.to_path_buf(), detail: "a loading thread panicked".into() };
            result = result.and(other.join().unwrap_or_else(|_| Err(panicked())));
        }
        result
    })?;
    Ok((!stop.load(Ordering::Relaxed)).then_some((fresh, mark)))
}

struct Work<'a> {
    path: &'a Path,
    index: &'a Index,
    /// The number of the next range.
    next: AtomicI64,
    first: i64,
    last: i64,
    now: u64,
    stop: &'a AtomicBool,
}

impl Work<'_> {
    fn run_apart(&self) -> Result<(), StoreError> {
        self.run(&Reader::open(self.path)?)
    }

    fn run(&self, reader: &Reader) -> Result<(), StoreError> {
        let mut pending = Pending::new(self.index, self.now);
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(from) = number.checked_mul(CHUNK).and_then(|n| self.first.checked_add(n)) else { break };
            if from > self.last {
                break;
            }
            reader.scan_keys(from, from.saturating_add(CHUNK - 1), |key, expires| pending.push(key, expires))?;
        }
        pending.flush();
        Ok(())
    }
}

struct Pending<'a> {
    index: &'a Index,
    now: u64,
    shards: Vec<Vec<Slot>>,
}

impl<'a> Pending<'a> {
    fn new(index: &'a Index, now: u64) -> Self {
        Self { index, now, shards: (0..Index::shards()).map(|_| Vec::with_capacity(BATCH)).collect() }
    }

    fn push(&mut self, key: &[u8], expires: Option<i64>) {
        if expires.is_some_and(|at| u64::try_from(at).unwrap_or(0) <= self.now) {
            return;
        }
        let (number, slot) = self.index.slot(key, expires);
        let Some(shard) = self.shards.get_mut(number) else { return };
        shard.push(slot);
        if shard.len() == BATCH {
            self.index.add_all(number, shard, self.now);
            shard.clear();
        }
    }

    fn flush(&mut self) {
        for (number, shard) in self.shards.iter().enumerate() {
            self.index.add_all(number, shard, self.now);
        }
    }
}

//! Following the store: a thread that looks for changes, of this process or another, and brings
//! them into the index.
//!
//! In trouble (the database is corrupt, locked, gone, replaced by something else) the index keeps
//! what it last knew; at the start that is nothing. The trouble stands in [`Status`], is logged
//! once when it begins or changes and once when it ends, and the thread goes on trying.

use super::confirm::Confirmer;
use super::index::Index;
use super::load::load;
use crate::store::{FileId, Mark, Op, Reader, Store, StoreError, identity};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the thread looks for changes: two system calls and a word of shared memory.
pub const POLL: Duration = Duration::from_millis(100);

/// In trouble it tries again after [`POLL`], then twice as long each time, up to this.
const MAX_RETRY: Duration = Duration::from_secs(2);

/// How often expired entries leave the index and the database. They are not answered for from the
/// second they expire.
const TIDY: Duration = Duration::from_secs(60);

/// How the following goes, for metrics and health.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What is wrong; `None`: nothing.
    pub trouble: Option<StoreError>,
    /// Addresses in the index.
    pub entries: usize,
    /// When the database was last seen in order.
    pub last_success: Option<SystemTime>,
    /// How often the whole list was read.
    pub loads: u64,
}

/// The following thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    index: Arc<Index>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    stopped: Mutex<()>,
    wake: Condvar,
    status: Mutex<Status>,
}

impl Follower {
    /// Makes the database at `path` where it is missing, loads `index` and follows from there on.
    /// When this returns, the index is loaded, or [`Follower::status`] says why not.
    ///
    /// # Errors
    /// Where the thread cannot be made.
    pub fn start(path: &Path, index: Arc<Index>, confirmer: Arc<Confirmer>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut task = Task {
            path: path.to_path_buf(),
            index: Arc::clone(&index),
            confirmer,
            shared: Arc::clone(&shared),
            reader: None,
            position: None,
            retry: POLL,
            tidied: Instant::now(),
        };
        task.begin();
        let thread = std::thread::Builder::new().name("suppression".into()).spawn(move || task.run())?;
        Ok(Self { shared, index, thread: Mutex::new(Some(thread)) })
    }

    /// How it goes now.
    #[must_use]
    pub fn status(&self) -> Status {
        Status { entries: self.index.len(), ..self.shared.status().clone() }
    }

    /// Ends the thread and waits for it: well under 200 ms.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // taken so that the thread is either before its look at `stop` or already waiting
        drop(self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the suppression thread panicked");
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until `time` has passed or the end has come.
    fn pause(&self, time: Duration) {
        let guard = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.wake.wait_timeout_while(guard, time, |()| !self.stopping()));
    }
}

struct Task {
    path: PathBuf,
    index: Arc<Index>,
    confirmer: Arc<Confirmer>,
    shared: Arc<Shared>,
    reader: Option<Connected>,
    position: Option<(FileId, Mark)>,
    retry: Duration,
    tidied: Instant,
}

struct Connected {
    reader: Reader,
    version: Option<i64>,
}

impl Task {
    fn begin(&mut self) {
        let made = Store::open(&self.path).map(drop);
        // read-only is enough to follow: what counts is whether the list can be read
        if let Err(e) = made
            && !self.path.exists()
        {
            self.note(Err(e));
            return;
        }
        let outcome = self.step();
        self.note(outcome);
    }

    fn run(mut self) {
        while !self.shared.stopping() {
            let pause = if self.shared.status().trouble.is_some() { self.retry } else { POLL };
            self.shared.pause(pause);
            if self.shared.stopping() {
                return;
            }
            let outcome = self.step();
            self.note(outcome);
            self.tidy();
        }
    }

    /// One look at the database.
    fn step(&mut self) -> Result<(), StoreError> {
        let file = identity(&self.path).ok();
        // after trouble the connection is not put back, so that the next look opens a new one
        let mut connected = match self.reader.take().filter(|c| Some(c.reader.file()) == file) {
            Some(connected) => connected,
            None => Connected { reader: Reader::open(&self.path)?, version: None },
        };
        let version = connected.reader.data_version()?;
        if connected.version != Some(version) {
            self.catch_up(&connected.reader)?;
            connected.version = Some(version);
        }
        self.reader = Some(connected);
        Ok(())
    }

    /// Applies what the feed holds since the last time, or reads the whole list.
    fn catch_up(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let Some((file, mark)) = self.position.clone().filter(|(file, _)| *file == reader.file()) else {
            return self.load(reader);
        };
        let (now, mut last, mut reload) = (unix_now(), mark.clone(), false);
        let known = reader.changes(&mark, |change| {
            let key = change.address.as_bytes();
            match change.op {
                Op::Add => self.index.add(key, change.expires, now),
                Op::Update => self.index.update(key, change.expires),
                Op::Remove => self.index.remove(key),
                Op::Reload => reload = true,
                Op::Report | Op::Filter => {}
            }
            self.confirmer.forget(key);
            last = change.mark;
        })?;
        if !known || reload {
            return self.load(reader);
        }
        self.position = Some((file, last));
        Ok(())
    }

    fn load(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let began = Instant::now();
        let Some((fresh, mark)) = load(reader, &self.path, &self.index, unix_now(), &self.shared.stop)? else {
            return Ok(());
        };
        self.index.take_over(fresh);
        self.confirmer.forget_all();
        self.shared.status().loads += 1;
        self.position = Some((reader.file(), mark));
        let (entries, ms) = (self.index.len(), began.elapsed().as_millis());
        tracing::info!(entries, ms, path = %self.path.display(), "suppression list loaded");
        // what changed while the list was read
        self.catch_up_once(reader)
    }

    /// The changes that came while the list was being read; a feed that moved on too far, or that
    /// asks for the list again, is left to the next look.
    fn catch_up_once(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let Some((_, mark)) = &self.position else { return Ok(()) };
        if reader.mark()? != *mark {
            return self.catch_up(reader);
        }
        Ok(())
    }

    fn note(&mut self, outcome: Result<(), StoreError>) {
        let mut status = self.shared.status();
        match outcome {
            Ok(()) => {
                self.retry = POLL;
                status.last_success = Some(SystemTime::now());
                if status.trouble.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the suppression list can be read again");
                }
            }
            Err(trouble) => {
                self.retry = (self.retry * 2).min(MAX_RETRY);
                if status.trouble.as_ref() != Some(&trouble) {
                    tracing::error!("suppression list: {trouble}; suppressed recipients pass until it can be read");
                    status.trouble = Some(trouble);
                }
            }
        }
    }

    /// Drops what has expired, from the index and the database. Where the database is in use, the
    /// next time is soon enough.
    fn tidy(&mut self) {
        if self.tidied.elapsed() < TIDY {
            return;
        }
        self.tidied = Instant::now();
        self.index.sweep(unix_now());
        let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
        if let Err(e) = Store::open_idle(&self.path).and_then(|mut store| store.purge(now)) {
            tracing::debug!("expired entries stay in the database: {e}");
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

//! The suppression list of a fleet: what is changed here is pushed into the shared store, what others change comes by
//! its stream, and where a relay lost the stream it reads everything. All of it is joined, record by record
//! ([`Record`](crate::store::Record)): nothing is ever removed because the store lacks it.
//!
//! One thread with a runtime of its own; the index and whoever asks it know nothing of this.

mod migrate;
mod position;
mod pulse;
mod push;
mod session;
mod share;
mod snapshot;
mod sort;
mod status;
mod sweep;

pub use migrate::{Direction, Migrated, migrate};
pub use status::{Seen, Status};

use super::link::in_words;
use super::{Keys, Relay, StoreUrl};
use crate::store::StoreError;
use session::Session;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The first pause after trouble, and the longest: a store that is back is found within five seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a relay of a fleet needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This relay's own database.
    pub database: PathBuf,
    /// The shared store.
    pub url: StoreUrl,
    /// The authority of its certificate, PEM.
    pub ca: Option<Vec<u8>>,
    /// The names in it.
    pub keys: Keys,
    /// Who this is.
    pub relay: Relay,
}

/// The thread; stop it to end it.
#[derive(Debug)]
pub struct Sync {
    status: Arc<Status>,
    stop: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What ends a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{}", in_words(.0))]
    Fleet(#[from] redis::RedisError),
    #[error("{0}")]
    Own(#[from] StoreError),
    #[error("sorting what the store has: {0}")]
    Sort(#[from] io::Error),
    #[error("the database was replaced by another one")]
    Replaced,
    /// What the name may lead away from by now.
    #[error("the store is read-only")]
    Replica,
}

impl Sync {
    /// Starts following the fleet.
    ///
    /// # Errors
    /// Where there is no thread or runtime to be had.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (status, stop) = (Arc::<Status>::default(), CancellationToken::new());
        let (told, until) = (status.clone(), stop.clone());
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = until.cancelled() => {}
                    () = follow(&settings, &told) => {}
                    never = pulse::pulse(&settings, &told) => match never {},
                }
            });
            // a name server that does not answer holds a thread of the runtime
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("fleet".into()).spawn(run)?;
        Ok(Self { status, stop, thread: Mutex::new(Some(thread)) })
    }

    /// How it goes.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Ends the thread and waits for it: as long as a transaction takes, or the end of a sorted run.
    pub fn stop(&self) {
        self.stop.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the fleet thread panicked");
        }
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn follow(settings: &Settings, status: &Status) {
    let mut ceiling = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let (fault, was_in_step) = match Session::begin(settings, status).await {
            Ok(session) => session.run().await,
            Err(fault) => (fault, false),
        };
        if !matches!(fault, Fault::Replica) {
            status.away(&settings.url, &fault);
        }
        // one that could not be brought into step would read everything again and again
        if was_in_step && began.elapsed() > LONGEST_PAUSE {
            ceiling = FIRST_PAUSE;
        }
        // not all relays at once
        tokio::time::sleep(ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        ceiling = (ceiling * 2).min(LONGEST_PAUSE);
    }
}

//! What relays of a fleet tell each other of events, for threads that may not wait for a network: who counts an event,
//! who sent a mail. An answer has a deadline; after a few that failed in a row nobody waits any more, until the store
//! answers a knock. Events go on without.

use super::seldom::Seldom;
use super::{Gathered, Stats};
use crate::fleet::claims::{self, Share};
use crate::fleet::sent::{self, Sent};
use crate::fleet::{Keys, Link, Patience, Relay, StoreUrl, authority, connect};
use crate::store::SeenKey;
use redis::{ErrorKind, RedisError, RedisResult};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a batch of events waits for the store.
pub const DEADLINE: Duration = Duration::from_millis(250);

/// So many failures in a row, and nobody waits any more.
const FAILURES: u32 = 3;

/// How often the store is knocked at then, and how long a connection may take.
const KNOCK: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(2);

/// Most batches of ids that are on their way.
const PUBLISHING: usize = 2;

/// How long the daemon's end waits for what is on its way.
const LAST_MOMENTS: Duration = Duration::from_millis(200);

/// Where a fleet shares its events, and as whom.
#[derive(Clone, Debug)]
pub struct Place {
    /// The store.
    pub url: StoreUrl,
    /// The authority of its certificate, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// The names in it.
    pub keys: Keys,
    /// This relay.
    pub relay: Relay,
}

/// What the fleet says of a batch.
#[derive(Debug)]
pub struct Told {
    /// By body and key, whose it is.
    pub shares: Vec<Vec<Share>>,
    /// By SES id.
    pub sent: Vec<Option<Sent>>,
}

/// The way to the fleet; cheap to clone.
#[derive(Clone)]
pub struct Sharing {
    runtime: Handle,
    tasks: TaskTracker,
    line: Arc<Line>,
}

impl std::fmt::Debug for Sharing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sharing").field("place", &self.line.place).finish_non_exhaustive()
    }
}

/// The thread of its connection; stop it to end it.
#[derive(Debug)]
pub struct SharingThread {
    thread: JoinHandle<()>,
    stop: CancellationToken,
}

impl Sharing {
    /// Starts the thread. A store that is away is knocked at. An answer may take `deadline`.
    ///
    /// # Errors
    /// Where there is no thread or runtime to be had.
    pub fn start(place: Place, deadline: Duration, stats: Arc<Stats>) -> io::Result<(Self, SharingThread)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let line = Arc::new(Line::new(place, deadline, stats));
        let sharing = Self { runtime: runtime.handle().clone(), tasks: tasks.clone(), line: line.clone() };
        let until = stop.clone();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = until.cancelled() => {}
                    () = line.keep() => {}
                }
                tasks.close();
                // What was applied and is not marked by then may count twice, and is not lost.
                let _ = tokio::time::timeout(LAST_MOMENTS, tasks.wait()).await;
            });
            // A name server that does not answer holds a thread of the runtime.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("sharing".into()).spawn(run)?;
        Ok((sharing, SharingThread { thread, stop }))
    }

    /// The name of this relay.
    #[must_use]
    pub fn relay(&self) -> &str {
        &self.line.place.relay.name
    }

    /// Claims what bodies hold, and asks who sent mails, by SES's ids. `None`: the store did not answer in time.
    #[must_use]
    pub fn ask(&self, bodies: Vec<Vec<SeenKey>>, ses_ids: Vec<String>) -> Option<Told> {
        let (answer, told) = mpsc::sync_channel(1);
        let line = self.line.clone();
        let ask = async move {
            let (Place { keys, relay, .. }, bodies, ses_ids) = (&line.place, &bodies, &ses_ids);
            let said = line.call(|mut link| async move {
                let mut other = link.clone();
                let claims = claims::claim(&mut link, keys, relay, bodies);
                tokio::try_join!(claims, sent::find(&mut other, keys, ses_ids))
            });
            let said = said.await.map(|(shares, sent)| Told { shares, sent });
            // Who asked may have gone on.
            let _ = answer.send(said);
        };
        self.tasks.spawn_on(ask, &self.runtime);
        told.recv_timeout(self.line.deadline + self.line.deadline / 10).ok().flatten()
    }

    /// Marks what is on disk as done, without waiting.
    pub fn done(&self, events: &Gathered) {
        let done: Vec<_> = events.effects.iter().map(|effect| effect.seen).collect();
        if done.is_empty() {
            return;
        }
        let line = self.line.clone();
        let mark = async move {
            let (keys, marks) = (&line.place.keys, &done);
            let marked = line.call(|mut link| async move { claims::mark_done(&mut link, keys, marks).await });
            if marked.await.is_none() {
                line.stats.unmarked.fetch_add(done.len() as u64, Relaxed);
            }
        };
        self.tasks.spawn_on(mark, &self.runtime);
    }

    /// Whether more ids may be published now; while the store is away they wait.
    #[must_use]
    pub fn takes_ids(&self) -> bool {
        self.line.publishing.load(Relaxed) < PUBLISHING && !self.line.is_open()
    }

    /// Tells the fleet of mails of this relay, by SES's ids, without waiting. What the store does not take is dropped.
    pub fn publish(&self, sent: Vec<(String, Sent)>) {
        let line = self.line.clone();
        line.publishing.fetch_add(1, Relaxed);
        let publish = async move {
            let (keys, told) = (&line.place.keys, &sent);
            let said = line.call(|mut link| async move { sent::publish(&mut link, keys, told).await });
            let counter = if said.await.is_some() { &line.stats.ids_published } else { &line.stats.ids_dropped };
            counter.fetch_add(sent.len() as u64, Relaxed);
            line.publishing.fetch_sub(1, Relaxed);
        };
        self.tasks.spawn_on(publish, &self.runtime);
    }
}

impl SharingThread {
    /// Tells the thread to end once what is on its way has arrived.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end, until `latest` at most. `true`: it ended.
    #[must_use]
    pub fn ended_by(self, latest: Instant) -> bool {
        super::ended_by(self.thread, latest)
    }
}

/// The connection, and whether anybody waits for it.
struct Line {
    place: Place,
    deadline: Duration,
    stats: Arc<Stats>,
    link: tokio::sync::Mutex<Option<Link>>,
    /// Failures in a row; from [`FAILURES`] on nobody waits.
    failures: AtomicU32,
    opened: Notify,
    publishing: AtomicUsize,
    told: Mutex<Seldom>,
    /// Whether the log was told that the store is away.
    is_told: AtomicBool,
}

impl Line {
    fn new(place: Place, deadline: Duration, stats: Arc<Stats>) -> Self {
        Self {
            place,
            deadline,
            stats,
            link: tokio::sync::Mutex::default(),
            failures: AtomicU32::new(0),
            opened: Notify::new(),
            publishing: AtomicUsize::new(0),
            told: Mutex::default(),
            is_told: AtomicBool::new(false),
        }
    }

    fn is_open(&self) -> bool {
        self.failures.load(Relaxed) >= FAILURES
    }

    /// One call with its deadline; `None` where there is no answer. A connection that turns out to be broken is made
    /// anew once.
    async fn call<T, F: Future<Output = RedisResult<T>>>(&self, call: impl Fn(Link) -> F) -> Option<T> {
        if self.is_open() {
            return None;
        }
        let said = tokio::time::timeout(self.deadline, async {
            match self.try_once(&call).await {
                Err(error) if error.is_connection_dropped() || error.is_io_error() => self.try_once(&call).await,
                said => said,
            }
        });
        match said.await.unwrap_or_else(|_| Err(too_late())) {
            Ok(answer) => {
                self.is_back();
                Some(answer)
            }
            Err(error) => {
                self.failed(&error).await;
                None
            }
        }
    }

    async fn try_once<T, F: Future<Output = RedisResult<T>>>(&self, call: &impl Fn(Link) -> F) -> RedisResult<T> {
        let said = call(self.link().await?).await;
        if said.is_err() {
            self.link.lock().await.take();
        }
        said
    }

    async fn link(&self) -> RedisResult<Link> {
        let mut link = self.link.lock().await;
        match &*link {
            Some(link) => Ok(link.clone()),
            None => Ok(link.insert(self.connect(self.deadline).await?).clone()),
        }
    }

    async fn connect(&self, patience: Duration) -> RedisResult<Link> {
        let ca = self.place.ca_file.as_deref().map(authority).transpose()?;
        let patience = Patience { connect: patience, answer: self.deadline };
        connect(&self.place.url, ca.as_deref(), patience).await
    }

    async fn failed(&self, error: &RedisError) {
        self.link.lock().await.take();
        if self.failures.fetch_add(1, Relaxed) + 1 != FAILURES {
            return;
        }
        self.stats.fleet_away.store(true, Relaxed);
        self.opened.notify_one();
        let count = self.told.lock().unwrap_or_else(PoisonError::into_inner).tell(Instant::now());
        if let Some(count) = count {
            self.is_told.store(true, Relaxed);
            tracing::warn!(
                count,
                "The fleet's store does not answer ({error}): events are taken without asking it, and may count twice."
            );
        }
    }

    fn is_back(&self) {
        if self.failures.swap(0, Relaxed) >= FAILURES {
            self.stats.fleet_away.store(false, Relaxed);
            if self.is_told.swap(false, Relaxed) {
                tracing::info!("The fleet's store answers again, and is asked for events.");
            }
        }
    }

    /// Connects, so that the first batch need not wait for that; and has the store asked again once it answers.
    async fn keep(&self) {
        if let Ok(link) = self.knock().await {
            self.link.lock().await.get_or_insert(link);
        }
        loop {
            self.opened.notified().await;
            while self.is_open() {
                tokio::time::sleep(KNOCK).await;
                if let Ok(link) = self.knock().await {
                    *self.link.lock().await = Some(link);
                    self.is_back();
                }
            }
        }
    }

    /// By a write: a replica, or a store without memory, would answer a ping.
    async fn knock(&self) -> RedisResult<Link> {
        let mut link = self.connect(CONNECT).await?;
        let Place { keys, relay, .. } = &self.place;
        let mut knock = redis::cmd("SET");
        knock.arg(keys.of("knock")).arg(&relay.name).arg("EX").arg(2 * KNOCK.as_secs());
        let answer = tokio::time::timeout(self.deadline, knock.exec_async(&mut link)).await;
        answer.unwrap_or_else(|_| Err(too_late())).map(|()| link)
    }
}

fn too_late() -> RedisError {
    (ErrorKind::Io, "too late").into()
}

//! The intake: one thread that reads what the sources bring, applies it to the store and tells them what
//! became of it. Parcels that wait together share a transaction. In trouble with the store nothing is given
//! back: the thread tries again until it can, and the sources keep hold of what they brought.

use super::news::News;
use super::stats::unix_now;
use super::{Gathered, Origins, Progress, Settings, Stats, Verdict, digest};
use crate::delegation::answer::unix_time;
use crate::fleet::claims::CLAIM;
use crate::rules::Rules;
use crate::store::{Applied, Batch, Quarantined, Store, StoreError, identity};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Most parcels that wait, and most that share a transaction: those of four queues with all their pollers.
pub const MAX_PARCELS: usize = 64;

/// A transaction is closed to further parcels with this many effects: some 20 ms of work, after which the
/// sources get their answer and other writers their turn.
pub const MAX_EFFECTS: usize = 1_000;

/// A transaction is closed to further parcels with this many bytes of bodies, so that a few thousand bodies
/// of SQS's largest size are never in memory together.
const MAX_BYTES: usize = 8 << 20;

/// How long the line of an event waits for the line of its mail in the mail log, where that is followed: a syslog or a
/// journal may be a second behind, and at the start the log is read first.
const LATE_SECONDS: i64 = 5;

/// Most lines that may wait in the outbox: some 400 MB of database. At the bound events wait in their queue.
pub const MAX_BACKLOG: u64 = 1_000_000;

/// How often the backlog is looked at, in time and in lines that were added.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_AFTER_LINES: u64 = 10_000;

/// In trouble the store is tried again after this long, then twice as long each time, up to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A database that vanished is made anew after this long.
const GONE: Duration = Duration::from_secs(5);

/// Bodies that a source brings, ten at most from SQS.
#[derive(Debug)]
pub struct Parcel {
    /// The bodies.
    pub bodies: Vec<Vec<u8>>,
    /// Where they came from: the queue's URL, the file.
    pub source: Arc<str>,
    /// Whether what cannot be read goes into the quarantine (where the source has no dead-letter queue).
    pub quarantine: bool,
    /// Told what became of each, in order, once it is on disk. Dropped without a word when the daemon stops.
    pub done: oneshot::Sender<Vec<Fate>>,
}

/// What became of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All that it means is on disk; it may leave its queue.
    Done,
    /// It cannot be read, and was not kept here.
    Unreadable(String),
    /// Another relay is at work on it: it stays in its queue, and is looked at again when that has come to an end.
    Elsewhere,
}

/// What the intake works with.
pub struct Desk {
    /// The database.
    pub store: PathBuf,
    /// The rules in force, asked for each transaction.
    pub rules: Box<dyn Fn() -> Arc<Rules> + Send>,
    /// Whose events are taken; empty: all.
    pub accounts: Vec<String>,
    /// The header that carries the correlation id where no tag does.
    pub correlation_header: String,
    /// What tells of the mail behind an event, and whether it is ours to count.
    pub origins: Origins,
    /// What is counted.
    pub stats: Arc<Stats>,
    /// How far the log has come: the next transaction takes those lines out of the outbox.
    pub progress: Arc<Progress>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// The sending end; cheap to clone.
#[derive(Clone, Debug)]
pub struct Intake {
    messages: mpsc::Sender<Message>,
}

#[derive(Debug)]
enum Message {
    Parcel(Parcel),
    /// Only wakes the thread, which then sees that it is to stop.
    Wake,
}

impl Intake {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where there is none to be had.
    pub fn start(desk: Desk) -> io::Result<(Self, IntakeThread)> {
        let (messages, inbox) = mpsc::channel(MAX_PARCELS);
        let stop = Arc::<AtomicBool>::default();
        let mut worker = Worker::new(desk, inbox, stop.clone());
        let thread = std::thread::Builder::new().name("events".into()).spawn(move || worker.run())?;
        Ok((Self { messages: messages.clone() }, IntakeThread { thread, messages, stop }))
    }

    /// Hands a parcel over; waits where too many are waiting already.
    ///
    /// # Errors
    /// The parcel, where the daemon stops.
    pub async fn submit(&self, parcel: Parcel) -> Result<(), Parcel> {
        self.messages.send(Message::Parcel(parcel)).await.map_err(returned)
    }

    /// As [`Intake::submit`], for threads outside of a runtime.
    ///
    /// # Errors
    /// The parcel, where the daemon stops.
    pub fn submit_blocking(&self, parcel: Parcel) -> Result<(), Parcel> {
        self.messages.blocking_send(Message::Parcel(parcel)).map_err(returned)
    }
}

fn returned(error: mpsc::error::SendError<Message>) -> Parcel {
    match error.0 {
        Message::Parcel(parcel) => parcel,
        Message::Wake => {
            Parcel { bodies: Vec::new(), source: "".into(), quarantine: false, done: oneshot::channel().0 }
        }
    }
}

/// The thread, for who has to end it.
#[derive(Debug)]
pub struct IntakeThread {
    thread: JoinHandle<()>,
    messages: mpsc::Sender<Message>,
    stop: Arc<AtomicBool>,
}

impl IntakeThread {
    /// Tells the thread to end after the transaction in hand. What waits behind it is dropped, and its sources
    /// are told by that.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        // A full channel needs no waking.
        let _ = self.messages.try_send(Message::Wake);
        self.thread.thread().unpark();
    }

    /// Waits for the end, until `latest` at most: a disk that hangs must not hold the daemon. `true`: it ended.
    #[must_use]
    pub fn ended_by(self, latest: Instant) -> bool {
        super::ended_by(self.thread, latest)
    }
}

struct Worker {
    desk: Desk,
    inbox: mpsc::Receiver<Message>,
    stop: Arc<AtomicBool>,
    store: Option<Store>,
    news: News,
    looked: Option<Instant>,
    lines_since_look: u64,
    /// Since when there is no database.
    missing: Option<Instant>,
}

/// What shares a transaction.
struct Work {
    rules: Arc<Rules>,
    now: i64,
    events: Gathered,
    quarantine: Vec<Quarantined>,
    answers: Vec<(oneshot::Sender<Vec<Fate>>, Vec<Fate>)>,
    bytes: usize,
    /// When the fleet was asked whose the events are, and whether it answered.
    asked: Option<(Instant, bool)>,
}

impl Work {
    fn is_full(&self) -> bool {
        self.answers.len() >= MAX_PARCELS || self.events.effects.len() >= MAX_EFFECTS || self.bytes >= MAX_BYTES
    }
}

impl Worker {
    fn new(desk: Desk, inbox: mpsc::Receiver<Message>, stop: Arc<AtomicBool>) -> Self {
        Self { desk, inbox, stop, store: None, news: News::default(), looked: None, lines_since_look: 0, missing: None }
    }

    fn run(&mut self) {
        let alarm = EndAlarm(self.desk.stats.clone(), self.stop.clone());
        while let Some(Message::Parcel(first)) = self.inbox.blocking_recv()
            && !self.stopping()
        {
            let mut work = self.gather(first);
            if !self.apply_at_last(&mut work) {
                break;
            }
            self.share_done(&work);
            if !work.events.is_empty() {
                self.desk.stats.last_event.store(work.now, Relaxed);
                self.desk.stats.took_effect(&work.events.happened(), unix_time());
            }
            for (done, fates) in work.answers {
                // A source that is gone needs no answer.
                let _ = done.send(fates);
            }
        }
        drop(alarm);
    }

    fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Digests the first parcel and those that wait with it.
    fn gather(&mut self, first: Parcel) -> Work {
        let mut work = Work {
            rules: (self.desk.rules)(),
            now: unix_now(),
            events: Gathered::default(),
            quarantine: Vec::new(),
            answers: Vec::new(),
            bytes: 0,
            asked: None,
        };
        self.digest_all(first, &mut work);
        while !work.is_full()
            && let Ok(Message::Parcel(parcel)) = self.inbox.try_recv()
        {
            self.digest_all(parcel, &mut work);
        }
        work
    }

    fn digest_all(&mut self, parcel: Parcel, work: &mut Work) {
        let rules = work.rules.clone();
        let settings = Settings {
            rules: &rules.suppression,
            accounts: &self.desk.accounts,
            correlation_header: &self.desk.correlation_header,
            now: work.now,
        };
        let mut fates = Vec::with_capacity(parcel.bodies.len());
        for (nth, body) in parcel.bodies.into_iter().enumerate() {
            let mut digest = digest(&body, &settings);
            self.desk.stats.count(&digest);
            self.news.tell(&digest, &parcel.source);
            work.bytes += body.len();
            work.events.add((work.answers.len(), nth), &mut digest, &self.desk.origins, &self.desk.stats);
            let (fate, kept) = fate(digest.verdict, parcel.quarantine);
            work.quarantine.extend(kept.map(|why| Quarantined { body, why, source: parcel.source.to_string() }));
            fates.push(fate);
        }
        work.answers.push((parcel.done, fates));
    }

    /// Applies it, however long the store is in trouble. `false`: told to stop before it could.
    fn apply_at_last(&mut self, work: &mut Work) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            self.share(work);
            if work.events.effects.is_empty() && work.quarantine.is_empty() {
                return true;
            }
            match self.apply(work) {
                Ok(Some(applied)) => {
                    self.note(applied);
                    return true;
                }
                Ok(None) => {}
                Err(error) => {
                    self.store = None;
                    self.desk.stats.store_errors.fetch_add(1, Relaxed);
                    let words = error.to_string();
                    if self.desk.stats.store.begin(&words, &words) {
                        tracing::error!("Events cannot be applied, and wait in their queue: {words}");
                    }
                }
            }
            std::thread::park_timeout(pause);
            if self.stopping() {
                return false;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Leaves what is another relay's, if it was not asked just now: what was said holds for a while only.
    fn share(&self, work: &mut Work) {
        let Desk { origins, stats, .. } = &self.desk;
        let is_fresh = work.asked.is_some_and(|(at, _)| at.elapsed() < CLAIM / 3);
        let Some(sharing) = origins.sharing.as_ref().filter(|_| !is_fresh && !work.events.is_empty()) else { return };
        let elsewhere = work.events.share(sharing, origins, stats);
        work.asked = Some((Instant::now(), elsewhere.is_some()));
        for (parcel, nth) in elsewhere.iter().flat_map(Gathered::places) {
            if let Some(fate) = work.answers.get_mut(parcel).and_then(|(_, fates)| fates.get_mut(nth)) {
                *fate = Fate::Elsewhere;
            }
        }
    }

    /// Tells the fleet what is on disk here.
    fn share_done(&self, work: &Work) {
        if let (Some(sharing), Some((_, answered))) = (&self.desk.origins.sharing, work.asked) {
            self.desk.stats.unasked.fetch_add(if answered { 0 } else { work.events.len() as u64 }, Relaxed);
            sharing.done(&work.events);
        }
    }

    /// `None`: the outbox is full.
    fn apply(&mut self, work: &Work) -> Result<Option<Applied>, StoreError> {
        let mut store = self.open()?;
        if !self.has_room(&store)? {
            self.store = Some(store);
            return Ok(None);
        }
        let written = self.desk.progress.written_in(store.file());
        let batch = Batch {
            effects: &work.events.effects,
            quarantine: &work.quarantine,
            now: work.now,
            brake: work.rules.suppression.brake,
            written,
            late_until: self.desk.origins.are_told().then_some(work.now + LATE_SECONDS),
        };
        let applied = store.apply(&batch)?;
        self.desk.progress.applied(store.file(), written);
        self.store = Some(store);
        Ok(Some(applied))
    }

    /// The database, opened anew where another file stands at its path.
    fn open(&mut self) -> Result<Store, StoreError> {
        let path = &self.desk.store;
        match identity(path) {
            Ok(file) => {
                self.missing = None;
                self.store.take().filter(|store| store.file() == file).map_or_else(|| Store::open(path), Ok)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Whoever moved it away may be about to put another one there.
                if self.missing.get_or_insert_with(Instant::now).elapsed() < GONE {
                    return Err(StoreError::Missing { path: path.clone(), detail: e.to_string() });
                }
                tracing::error!("{}: the database is gone; making a new, empty one.", path.display());
                Store::open(path)
            }
            Err(e) => Err(StoreError::Other { path: path.clone(), detail: e.to_string() }),
        }
    }

    /// Whether the outbox takes more lines.
    fn has_room(&mut self, store: &Store) -> Result<bool, StoreError> {
        let is_fresh = self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY);
        if is_fresh && self.lines_since_look < LOOK_AFTER_LINES {
            return Ok(true);
        }
        if store.backlog()?.lines < MAX_BACKLOG {
            (self.looked, self.lines_since_look) = (Some(Instant::now()), 0);
            return Ok(true);
        }
        self.looked = None;
        let words = format!("{MAX_BACKLOG} lines wait for the mail log");
        if self.desk.stats.store.begin("backlog", &words) {
            tracing::error!("{words}: events stay in their queue until it takes lines again.");
        }
        Ok(false)
    }

    fn note(&mut self, applied: Applied) {
        let stats = &self.desk.stats;
        if stats.store.end() {
            tracing::info!("Events are applied again.");
        }
        let was_on = stats.brake_on.load(Relaxed);
        stats.applied(&applied);
        self.lines_since_look += applied.lines;
        if applied.brake_on && !was_on {
            tracing::error!(
                "The brake is on: events bring more new entries than suppression.brake allows. They are recorded, not \
                 enforced, until \"gatepost suppress brake --enforce\" or \"--discard\"."
            );
        }
    }
}

/// What becomes of a body, and why it is kept where it is.
fn fate(verdict: Verdict, quarantine: bool) -> (Fate, Option<String>) {
    match verdict {
        Verdict::Unreadable { why } if quarantine => (Fate::Done, Some(why)),
        Verdict::Unreadable { why } => (Fate::Unreadable(why), None),
        Verdict::Unknown { what } => (Fate::Done, Some(format!("an event of the unknown type {what}"))),
        Verdict::Foreign { account } if account.is_empty() => {
            (Fate::Done, Some("the event names no account, and only some are taken".into()))
        }
        Verdict::Event { .. } | Verdict::NotAnEvent(_) | Verdict::Foreign { .. } => (Fate::Done, None),
    }
}

/// Says so where the thread ends and nobody asked it to.
struct EndAlarm(Arc<Stats>, Arc<AtomicBool>);

impl Drop for EndAlarm {
    fn drop(&mut self) {
        if !self.1.load(Relaxed) {
            self.0.store.begin("ended", "the thread that applies them has ended; restart gatepost");
            tracing::error!("The thread that applies events has ended; restart gatepost.");
        }
    }
}

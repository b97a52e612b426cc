//! The join of events and mail in the daemon: a thread follows the mail logs of `[logs]`, so that an event that tells no
//! queue id gets it into its line by SES's id.

use super::config::Logs;
use crate::events::{EventIds, Sharing, Stats};
use crate::fleet::sent::{KEPT, Sent};
use crate::journey::Unread;
use crate::journey::follow::{Follower, Ids, Known};
use jiff::Timestamp;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the logs are looked at.
const PAUSE: Duration = Duration::from_millis(250);

/// How often at most they are looked at in between, for an event whose mail is not known: it may be milliseconds old.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// Most mails that the fleet is told of at a time: some 8,000 a second, so that a start with full logs takes the store
/// little.
const MAX_NEWS: usize = 2_000;

/// How often it is noted how far the fleet was told, and how much before that is told again after a restart: logs may be a
/// little out of step.
const NOTE_EVERY: Duration = Duration::from_secs(10);
const AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// In the state folder: the time up to which the fleet was told.
const TOLD_FILE: &str = "fleet-told";

/// Follows the logs until it is stopped.
#[derive(Debug)]
pub struct MailLogs {
    watch: Arc<Watch>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Watch {
    ids: Ids,
    follower: Mutex<(Follower, Instant)>,
    stats: Arc<Stats>,
    stop: AtomicBool,
    teller: Option<Mutex<Teller>>,
}

/// Tells the fleet which mails this relay sent.
#[derive(Debug)]
struct Teller {
    sharing: Sharing,
    file: PathBuf,
    until: Option<Timestamp>,
    noted: Instant,
}

impl MailLogs {
    /// Starts the thread; it tells a fleet what it learns, and notes in the state folder how far.
    ///
    /// # Errors
    /// Where there is none to be had.
    pub fn start(logs: &Logs, fleet: Option<(Sharing, &Path)>, stats: &Arc<Stats>) -> io::Result<Self> {
        let ids = Ids::default();
        let teller = fleet.map(|(sharing, state_dir)| Mutex::new(Teller::start(sharing, state_dir, &ids)));
        let follower = Mutex::new((Follower::new(&logs.paths, logs.journal, ids.clone()), Instant::now()));
        let watch = Arc::new(Watch { ids, follower, stats: stats.clone(), stop: AtomicBool::new(false), teller });
        let worker = watch.clone();
        let thread = std::thread::Builder::new().name("mail-logs".into()).spawn(move || worker.run())?;
        Ok(Self { watch, thread })
    }

    /// What fills in the ids of an event by its SES id.
    #[must_use]
    pub fn lookup(&self) -> EventIds {
        let watch = self.watch.clone();
        Arc::new(move |ses_id| {
            let known = watch.ids.lookup(ses_id).or_else(|| {
                watch.look_again();
                watch.ids.lookup(ses_id)
            })?;
            Some((known.queue_id, known.correlation_id))
        })
    }

    /// Tells the thread to end.
    pub fn stop(&self) {
        self.watch.stop.store(true, Relaxed);
        self.thread.thread().unpark();
    }

    /// Waits for its end, until `latest` at most. `true`: it ended.
    #[must_use]
    pub fn ended_by(self, latest: Instant) -> bool {
        while !self.thread.is_finished() && Instant::now() < latest {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.is_finished()
    }
}

impl Watch {
    fn run(&self) {
        while !self.stop.load(Relaxed) {
            let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
            let unread = follower.0.poll();
            let (logs, is_behind) = (follower.0.logs(), follower.0.is_behind());
            follower.1 = Instant::now();
            drop(follower);
            self.report(&unread, logs);
            if let Some(teller) = &self.teller {
                teller.lock().unwrap_or_else(PoisonError::into_inner).tell(&self.ids, &self.stats);
            }
            if !is_behind {
                std::thread::park_timeout(PAUSE);
            }
        }
        if let Some(teller) = &self.teller {
            teller.lock().unwrap_or_else(PoisonError::into_inner).note();
        }
    }

    /// Looks once more, unless that was just done or is being done.
    fn look_again(&self) {
        if let Ok(mut follower) = self.follower.try_lock()
            && follower.1.elapsed() >= LEAST_PAUSE
        {
            // The thread reports what is wrong.
            let _ = follower.0.poll();
            follower.1 = Instant::now();
        }
    }

    /// Says what is wrong when that changes.
    fn report(&self, unread: &[Unread], logs: usize) {
        let Some(wrong) = unread.first() else {
            let none = "no file is there that [logs] names".to_owned();
            if logs == 0 && self.stats.mail_logs.begin("none", &none) {
                tracing::warn!("Events are not joined with mail by its log: {none}.");
            } else if logs > 0 && self.stats.mail_logs.end() {
                tracing::info!("The mail logs can be read again.");
            }
            return;
        };
        let words = format!("{}: cannot be read: {}", wrong.name, wrong.error);
        if self.stats.mail_logs.begin(&words, &words) {
            tracing::warn!("Events are not joined with mail by its log: {words}");
        }
    }
}

impl Teller {
    fn start(sharing: Sharing, state_dir: &Path, ids: &Ids) -> Self {
        let file = state_dir.join(TOLD_FILE);
        let told = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<Timestamp>().ok());
        let told = told.and_then(|told| told.checked_sub(AGAIN).ok());
        let oldest = Timestamp::now().checked_sub(KEPT).unwrap_or(Timestamp::MIN);
        ids.keep_news(told.map_or(oldest, |told| told.max(oldest)));
        Self { sharing, file, until: None, noted: Instant::now() }
    }

    /// What the fleet does not take is not told again: events come soon after their mail.
    fn tell(&mut self, ids: &Ids, stats: &Stats) {
        if !self.sharing.takes_ids() {
            return;
        }
        let news = ids.news(MAX_NEWS);
        stats.ids_dropped.fetch_add(news.lost, Relaxed);
        self.until = self.until.max(news.until);
        if !news.known.is_empty() {
            let relay = self.sharing.relay();
            let sent = |known: Known| Sent {
                queue_id: known.queue_id,
                correlation_id: known.correlation_id,
                relay: Some(relay.to_owned()),
            };
            self.sharing.publish(news.known.into_iter().map(|(ses_id, known)| (ses_id, sent(known))).collect());
        }
        if self.noted.elapsed() >= NOTE_EVERY {
            self.note();
        }
    }

    fn note(&mut self) {
        self.noted = Instant::now();
        if let Some(until) = self.until.take()
            && let Err(error) = fs::write(&self.file, format!("{until}\n"))
        {
            tracing::debug!(%error, "{}: cannot be written; the fleet is told more again than it must.", self.file.display());
        }
    }
}

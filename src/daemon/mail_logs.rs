//! The join of events and mail in the daemon: a thread follows the mail logs of `[logs]`, so that an event that tells no
//! queue id gets it into its line by SES's id.

use super::config::Logs;
use crate::events::{EventIds, Stats};
use crate::journey::Unread;
use crate::journey::follow::{Follower, Ids};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the logs are looked at.
const PAUSE: Duration = Duration::from_millis(250);

/// How often at most they are looked at in between, for an event whose mail is not known: it may be milliseconds old.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

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
}

impl MailLogs {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where there is none to be had.
    pub fn start(logs: &Logs, stats: &Arc<Stats>) -> io::Result<Self> {
        let ids = Ids::default();
        let follower = Mutex::new((Follower::new(&logs.paths, logs.journal, ids.clone()), Instant::now()));
        let watch = Arc::new(Watch { ids, follower, stats: stats.clone(), stop: AtomicBool::new(false) });
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
            if !is_behind {
                std::thread::park_timeout(PAUSE);
            }
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

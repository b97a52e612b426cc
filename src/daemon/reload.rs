//! Hot reload: a saved edit is in force within a second, a broken one changes nothing and says where.
//!
//! One thread of low priority watches the policy folder, reads and checks all files as one, and
//! swaps one `Arc`. File events (see [`super::watch`]) start it; where none come (NFS, bind mounts), a
//! poll every [`POLL`] takes a change that has been quiet for one more poll.

mod first;

use super::watch::Watch;
use crate::delegation::House;
use crate::events::stats::unix_now;
use crate::mail::Rewriting;
use crate::rules::{Files, ListRules, Problem, Rules, load};
use first::{Present, digest_of, finished, keep_last_good, log_all};
use notify::Event;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use first::{First, Seen, first};

/// How often the folder is looked at where no events come.
pub const POLL: Duration = Duration::from_secs(2);

/// How long after an event the folder must be quiet: editors rename, create and write in a row.
pub const SETTLE: Duration = Duration::from_millis(50);

/// The longest that events in a row can put a reload off.
const MAX_SETTLE: Duration = Duration::from_millis(250);

/// How long a file that is missing or changes while it is read gets to become whole.
const SECOND_LOOK: Duration = Duration::from_millis(200);

/// How long a list that lost more than half of its entries must stay so before it is believed.
pub const SHRINK_WAIT: Duration = Duration::from_secs(5);

/// The niceness of the thread. Answering comes first; at 19, on a machine whose cores are all busy, a
/// million lines would not come into force at all.
const NICE: i32 = 5;

/// The names that count in the folder.
const NAMES: [&str; 3] = ["allowed_senders", "allowed_recipients", "policy.toml"];

/// What the rest of the daemon may know of reloading.
#[derive(Debug, Default)]
pub struct ReloadState {
    /// Edits that were not taken.
    pub failures: AtomicU64,
    /// Policies that were.
    pub reloads: AtomicU64,
    /// When the policy in force was taken, Unix seconds.
    pub taken: AtomicI64,
    failed: AtomicBool,
    problems: Mutex<Vec<Problem>>,
}

impl ReloadState {
    /// Whether the folder has problems now, and the last good rules are in force.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// The problems of the folder, where it has some.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.lock().map(|p| p.clone()).unwrap_or_default()
    }

    fn set(&self, problems: Vec<Problem>) {
        self.failed.store(!problems.is_empty(), Relaxed);
        if let Ok(mut kept) = self.problems.lock() {
            *kept = problems;
        }
    }
}

/// What the thread is told.
enum Message {
    Event(notify::Result<Event>),
    /// SIGHUP: read again at once, from this folder, with these settings.
    Reload(PathBuf, Rewriting),
    Stop,
}

/// The thread that reloads; stop it to end it.
#[derive(Debug)]
pub struct Reloader {
    thread: JoinHandle<()>,
    messages: Sender<Message>,
}

impl Reloader {
    /// Starts watching `policy_dir` for `house`, and looks whether it has changed since it was read. Blocks for the disk.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(
        policy_dir: PathBuf,
        rewriting: Rewriting,
        state_dir: PathBuf,
        house: Arc<House>,
        state: Arc<ReloadState>,
        problems: Vec<Problem>,
        before: Seen,
    ) -> std::io::Result<Self> {
        let (messages, inbox) = channel();
        let events = messages.clone();
        let tell = move |event| drop(events.send(Message::Event(event)));
        state.set(problems);
        state.taken.store(unix_now(), Relaxed);
        let mut worker = Worker {
            policy_dir,
            rewriting,
            state_dir,
            house,
            state,
            inbox,
            watch: Watch::new(Arc::new(tell)),
            digest: before.digest,
            present: before.present,
            seen: Fingerprint::default(),
            quiet: None,
            shrunk: None,
        };
        worker.renew_watch();
        // An edit between the start's reading and the watch would go unseen. Before anybody is answered: who begins to
        // write when we are ready is waited for.
        worker.read(Why::Changed);
        let thread = std::thread::Builder::new().name("rules-reload".into()).spawn(move || worker.run())?;
        Ok(Self { thread, messages })
    }

    /// Reads the folder again at once.
    pub fn reload(&self, policy_dir: PathBuf, rewriting: Rewriting) {
        let _ = self.messages.send(Message::Reload(policy_dir, rewriting));
    }

    /// Ends the thread and waits for it.
    pub fn stop(self) {
        let _ = self.messages.send(Message::Stop);
        let _ = self.thread.join();
    }
}

/// Which files stood in the folder: device, inode, size, mtime and ctime of each, links followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fingerprint([Option<[i64; 7]>; NAMES.len()]);

impl Fingerprint {
    fn of(folder: &Path) -> Self {
        let print = |m: Metadata| {
            let whole = [m.dev(), m.ino(), m.size()].map(u64::cast_signed);
            [whole[0], whole[1], whole[2], m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]
        };
        Self(NAMES.map(|name| std::fs::metadata(folder.join(name)).ok().map(print)))
    }
}

/// A shrunken list that waits to be believed.
struct Shrunk {
    digest: u64,
    until: Instant,
}

struct Worker {
    policy_dir: PathBuf,
    rewriting: Rewriting,
    state_dir: PathBuf,
    house: Arc<House>,
    state: Arc<ReloadState>,
    inbox: Receiver<Message>,
    watch: Watch,
    /// Of the files that were read last, good or bad.
    digest: u64,
    /// Which files the rules in force were made of.
    present: Present,
    /// The files as they were when they were read last.
    seen: Fingerprint,
    /// A change that the poll saw and that must be quiet for one more poll.
    quiet: Option<Fingerprint>,
    shrunk: Option<Shrunk>,
}

/// Why the folder is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Changed,
    /// An operator said so: no waiting, and problems are told again.
    Asked,
}

impl Worker {
    fn run(&mut self) {
        lower_priority();
        let mut polled = Instant::now();
        loop {
            // By the clock, not by silence: events of other files must not put it off.
            let due = self.shrunk.as_ref().map_or(polled + POLL, |s| s.until.min(polled + POLL));
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                self.poll();
                polled = Instant::now();
                continue;
            }
            match self.inbox.recv_timeout(wait) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Message::Reload(folder, rewriting)) => self.asked(folder, rewriting),
                Ok(Message::Event(event)) => {
                    if self.watch.matters(&event) && !self.settle() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn asked(&mut self, folder: PathBuf, rewriting: Rewriting) {
        let settings_changed = self.rewriting != rewriting;
        (self.policy_dir, self.rewriting) = (folder, rewriting);
        if settings_changed {
            // The same files mean something else now.
            self.digest = 0;
        }
        self.shrunk = None;
        self.renew_watch();
        self.read(Why::Asked);
    }

    /// Waits until the folder is quiet, then reads it. False: told to stop.
    fn settle(&mut self) -> bool {
        let latest = Instant::now() + MAX_SETTLE;
        let mut quiet = Instant::now() + SETTLE;
        loop {
            match self.inbox.recv_timeout(quiet.saturating_duration_since(Instant::now())) {
                Ok(Message::Event(event)) if self.watch.matters(&event) => quiet = latest.min(Instant::now() + SETTLE),
                Ok(Message::Event(_)) => {}
                Ok(Message::Reload(folder, rewriting)) => {
                    self.asked(folder, rewriting);
                    return true;
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        self.renew_watch();
        self.read(Why::Changed);
        true
    }

    /// Looks without an event: after a shrink's wait, or where no events come.
    fn poll(&mut self) {
        if self.shrunk.as_ref().is_some_and(|s| s.until <= Instant::now()) {
            self.read(Why::Changed);
            return;
        }
        self.renew_watch();
        let now = Fingerprint::of(&self.policy_dir);
        if now == self.seen {
            self.quiet = None;
        } else if self.quiet.as_ref() == Some(&now) {
            self.quiet = None;
            self.read(Why::Changed);
        } else {
            self.quiet = Some(now);
        }
    }

    /// Reads all files as one and puts them in force, or says why not.
    fn read(&mut self, why: Why) {
        let before = Fingerprint::of(&self.policy_dir);
        let mut read = Files::read(&self.policy_dir);
        let mut after = Fingerprint::of(&self.policy_dir);
        let is_missing = |files: &Files| {
            files.allowed_senders.is_none()
                || (self.present.policy_toml && files.policy_toml.is_none())
                || (self.present.allowed_recipients && files.allowed_recipients.is_none())
        };
        if before != after || !read.as_ref().is_ok_and(|files| !is_missing(files)) {
            // In the middle of an edit, most likely: between two renames, or being written.
            std::thread::sleep(SECOND_LOOK);
            read = Files::read(&self.policy_dir);
            after = Fingerprint::of(&self.policy_dir);
        }
        // What could not be read is tried again by the poll: too many open files, say, leaves no trace
        // on the files when it has passed.
        self.seen = if read.is_ok() { after } else { Fingerprint::default() };
        let digest = digest_of(&read);
        let files = match read {
            Ok(files) => files,
            Err(problems) => return self.failed(problems, digest, why),
        };
        let waited = self.shrunk.as_ref().is_some_and(|s| s.digest == digest && s.until <= Instant::now());
        if self.digest == digest && self.shrunk.is_none() {
            if why == Why::Asked {
                self.unchanged();
            }
            return;
        }
        match files.parse(&self.policy_dir) {
            Err(problems) => self.failed(problems, digest, why),
            Ok((rules, warnings)) => {
                if why == Why::Changed && !waited && self.shrank(&rules, &files, digest) {
                    return;
                }
                self.take(rules, &warnings, &files, digest);
            }
        }
    }

    fn unchanged(&self) {
        let problems = self.state.problems();
        log_all(&problems);
        if problems.is_empty() {
            tracing::info!(generation = self.house.rules.load().generation, "The policy folder is unchanged.");
        }
    }

    /// Whether the folder lost so much that it must stay so for a while before it is believed.
    fn shrank(&mut self, rules: &Rules, files: &Files, digest: u64) -> bool {
        let Some((name, loss)) = self.loss(rules, files) else {
            self.shrunk = None;
            return false;
        };
        if self.shrunk.as_ref().is_none_or(|s| s.digest != digest) {
            tracing::warn!(
                "{} {loss}: it may be half-written. Taking it in {} s if it stays so; SIGHUP takes it at once.",
                self.policy_dir.join(name).display(),
                SHRINK_WAIT.as_secs()
            );
            self.shrunk = Some(Shrunk { digest, until: Instant::now() + SHRINK_WAIT });
        }
        true
    }

    /// What a half-written file would have lost: more than half of the entries of a list or of the
    /// limits, or a whole file that may be missing, without which other defaults hold.
    fn loss(&self, rules: &Rules, files: &Files) -> Option<(&'static str, String)> {
        let old = self.house.rules.load();
        let present = Present::of(files);
        let entries = |list: &ListRules| list.list.as_ref().map_or(0, |l| l.len());
        let counted = [
            (load::ALLOWED_SENDERS, "entries", entries(&old.senders), entries(&rules.senders)),
            (load::ALLOWED_RECIPIENTS, "entries", entries(&old.recipients), entries(&rules.recipients)),
            (load::POLICY_TOML, "limits", old.limits.len(), rules.limits.len()),
        ];
        let gone = [
            (load::POLICY_TOML, self.present.policy_toml && !present.policy_toml),
            (load::ALLOWED_RECIPIENTS, self.present.allowed_recipients && !present.allowed_recipients),
        ];
        let gone = gone.into_iter().find(|(_, gone)| *gone).map(|(name, _)| (name, "is gone or empty".to_owned()));
        gone.or_else(|| {
            // Of two or three limits most are gone by one plain edit.
            let counts = |what: &str, was: usize| what != "limits" || was > 3;
            let lost = counted.into_iter().find(|(_, what, was, is)| is * 2 < *was && counts(what, *was));
            lost.map(|(name, what, was, is)| {
                (name, format!("lost more than half of its {what} ({was} before, {is} now)"))
            })
        })
    }

    fn failed(&mut self, problems: Vec<Problem>, digest: u64, why: Why) {
        self.shrunk = None;
        let news = std::mem::replace(&mut self.digest, digest) != digest;
        // Who reads the line may ask health at once.
        self.state.set(problems.clone());
        if news {
            self.state.failures.fetch_add(1, Relaxed);
        }
        if news || why == Why::Asked {
            log_all(&problems);
            tracing::error!(
                generation = self.house.rules.load().generation,
                problems = problems.len(),
                "The policy folder has problems; the last good rules stay in force."
            );
            if self.house.rules.load().rewriting != self.rewriting {
                tracing::warn!(
                    "[postfix] of gatepost.toml has changed: in force with the next policy without problems."
                );
            }
        }
    }

    fn take(&mut self, rules: Rules, warnings: &[Problem], files: &Files, digest: u64) {
        self.digest = digest;
        self.present = Present::of(files);
        self.shrunk = None;
        let generation = self.house.rules.load().generation + 1;
        let entries = rules.senders.list.as_ref().map_or(0, |l| l.len());
        self.house.meters.adopt(&rules.limits);
        let new = finished(rules, &self.rewriting, &self.policy_dir, generation);
        let old = self.house.rules.swap(Arc::new(new));
        self.state.reloads.fetch_add(1, Relaxed);
        self.state.taken.store(unix_now(), Relaxed);
        self.state.set(Vec::new());
        log_all(warnings);
        tracing::info!(generation, allowed_senders = entries, "New policy in force.");
        keep_last_good(&self.state_dir, files);
        drop_here(old);
    }

    fn renew_watch(&mut self) {
        self.watch.renew(&self.policy_dir, &NAMES);
    }
}

/// Lets the last user of the old rules be this thread: dropping a million entries takes a while.
fn drop_here(mut old: Arc<Rules>) {
    loop {
        match Arc::try_unwrap(old) {
            Ok(rules) => return drop(rules),
            Err(shared) => old = shared,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Parsing a large list must not compete with answering.
fn lower_priority() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::warn!(%error, "Cannot lower the priority of the reload thread.");
    }
}

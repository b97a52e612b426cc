//! A daemon that follows a stand-in for SQS, and a watch that looks, at the moment of each delete, whether
//! what the event means is on disk.

use crate::asker::{Asker, DUNNO, Question};
use crate::gatepost::{Daemon, Home};
use crate::wait;
use gatepost::store::Reader;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[allow(dead_code, reason = "the bench uses other parts of it")]
#[path = "../../benches/events/queue/mod.rs"]
pub mod stand_in;

#[allow(dead_code, reason = "the bench uses other parts of it")]
#[path = "../../benches/events/sample.rs"]
pub mod sample;

pub use sample::Sample;
pub use stand_in::{Action, Fault, Queue, Settings};

/// How long the queue may take to be empty once nothing is wrong any more: what a message is out of sight, and
/// the longest pause between two tries.
pub const DRAINED: Duration = Duration::from_secs(60);

/// A queue, homes of daemons that follow it, and the watch.
pub struct Scene {
    pub queue: Queue,
    pub homes: Vec<Home>,
    pub watch: Arc<Watch>,
}

impl Scene {
    /// A [`quick`] queue and one home.
    pub fn new() -> Self {
        Self::of(quick(), Sample::MIXED, 1)
    }

    /// A queue with these settings, and so many homes.
    pub fn of(settings: Settings, sample: Sample, homes: usize) -> Self {
        let queue = Queue::start(settings).unwrap();
        let homes: Vec<_> = (0..homes).map(|_| Home::alone("info@example.com OK\n", "")).collect();
        homes.iter().for_each(|home| configure(home, &queue, ""));
        let watch = Arc::new(Watch::new(sample, &homes));
        let hook = watch.clone();
        queue.on_delete(move |number| hook.look(number));
        Self { queue, homes, watch }
    }

    /// The first home.
    pub fn home(&self) -> &Home {
        &self.homes[0]
    }

    /// Starts a daemon in the first home.
    pub fn start(&self) -> Daemon {
        self.start_in(self.home(), &[])
    }

    /// Starts a daemon in a home, by a program that becomes it.
    pub fn start_in(&self, home: &Home, by: &[&str]) -> Daemon {
        let daemon = self.spawn_in(home, by, &[]);
        daemon.says(&[" is ready."]);
        daemon
    }

    /// The same with further variables, not waited for.
    pub fn spawn_in(&self, home: &Home, by: &[&str], env: &[(&str, &str)]) -> Daemon {
        let mut words = by.to_vec();
        let config = home.config();
        words.extend([crate::gatepost::BINARY, "--config", config.to_str().unwrap(), "serve"]);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).envs(env.iter().copied());
        aws(&mut command, &self.queue);
        Daemon::of(command)
    }

    /// Puts these events into the queue; their numbers there are the same.
    pub fn send(&self, events: Range<u64>) {
        for n in events {
            assert_eq!(self.queue.send(&self.watch.sample.body(n)), n);
        }
    }

    /// Puts event `n` into the queue once more, in a message of its own.
    pub fn send_again(&self, n: u64) {
        let next = self.queue.tally().sent;
        self.watch.others.lock().unwrap().insert(next, Some(n));
        assert_eq!(self.queue.send(&self.watch.sample.body(n)), next);
    }

    /// Puts something into the queue that is none of the sample's events; the number of its message.
    pub fn send_other(&self, body: &str) -> u64 {
        let next = self.queue.tally().sent;
        self.watch.others.lock().unwrap().insert(next, None);
        assert_eq!(self.queue.send(body), next);
        next
    }

    /// Waits until the queue is empty.
    pub fn drained(&self) {
        wait::until("the queue to be empty", DRAINED, || (self.queue.left() == 0).then_some(()));
    }

    /// Waits until the first `events` have left the queue, and all is there: every effect, every line once, and
    /// nothing was deleted before.
    pub fn complete(&self, events: u64) {
        self.drained();
        wait::until("every line to be in the log", wait::LONG, || {
            (self.watch.lines().len() as u64 >= events).then_some(())
        });
        let lines = self.watch.lines();
        for n in 0..events {
            assert_eq!(lines.get(&n), Some(&1), "lines of event {n}");
            assert!(self.watch.has_effect(n), "event {n} has no effect");
        }
        self.nothing_early();
    }

    /// Nothing has been deleted before its effect and its line were on disk.
    pub fn nothing_early(&self) {
        let early = self.watch.early.lock().unwrap();
        assert!(early.is_empty(), "deleted before they were on disk: {early:?}");
    }
}

/// Messages come back after two seconds, whatever the daemon asks for: nobody waits a minute for what a fault
/// has kept.
pub fn quick() -> Settings {
    Settings { visibility: Duration::from_secs(2), insists: true, ..Settings::default() }
}

/// Writes gatepost.toml of a home that follows `queue`, with further sections.
pub fn configure(home: &Home, queue: &Queue, more: &str) {
    let events = format!(
        "[events]\nsource = \"sqs\"\nqueue_url = \"{}\"\naccounts = [\"{}\"]\n{more}\n",
        queue.url(),
        stand_in::ACCOUNT
    );
    home.configure(&events, "");
}

/// The AWS SDK's own settings, and none of this machine's.
pub fn aws(command: &mut Command, queue: &Queue) {
    command.envs(environment(queue));
}

/// The variables of them.
pub fn environment(queue: &Queue) -> HashMap<String, String> {
    let settings = [
        ("AWS_ENDPOINT_URL", queue.endpoint().as_str()),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    settings.into()
}

/// Looks into databases and logs, from outside.
pub struct Watch {
    pub sample: Sample,
    views: Mutex<Vec<View>>,
    /// Messages that hold another event than that of their number, or none.
    others: Mutex<HashMap<u64, Option<u64>>>,
    /// Events that were deleted before what they mean was on disk.
    pub early: Mutex<Vec<u64>>,
}

/// One home, seen from outside. A line that is in the outbox leaves it only when it is in the log.
struct View {
    database: PathBuf,
    reader: Option<Reader>,
    /// The last line of the outbox that was seen.
    outbox: i64,
    /// Lines in the outbox or in the log, by event.
    kept: HashMap<u64, u32>,
    log: PathBuf,
    /// How much of the log has been read.
    read: u64,
    /// Lines in the log, by event.
    lines: HashMap<u64, u32>,
}

impl Watch {
    fn new(sample: Sample, homes: &[Home]) -> Self {
        let views = homes.iter().map(|home| View::new(home.path("state/gatepost.db"), home.path("mail.log"))).collect();
        Self { sample, views: Mutex::new(views), others: Mutex::default(), early: Mutex::default() }
    }

    /// Whether message `n` may be deleted; noted if not.
    fn look(&self, n: u64) {
        let Some(n) = self.others.lock().unwrap().get(&n).copied().unwrap_or(Some(n)) else { return };
        let entry = self.sample.suppresses(n).then(|| self.sample.recipient(n));
        let kept = self.views.lock().unwrap().iter_mut().any(|view| view.has(n, entry.as_deref()));
        if !kept {
            self.early.lock().unwrap().push(n);
        }
    }

    /// Whether what event `n` does to the list is there.
    pub fn has_effect(&self, n: u64) -> bool {
        let recipient = self.sample.recipient(n);
        let mut views = self.views.lock().unwrap();
        !self.sample.suppresses(n) || views.iter_mut().any(|view| view.has_entry(&recipient))
    }

    /// How many lines each event has in the logs.
    pub fn lines(&self) -> HashMap<u64, u32> {
        let mut all = HashMap::new();
        for view in self.views.lock().unwrap().iter_mut() {
            view.read_log();
            for (n, count) in &view.lines {
                *all.entry(*n).or_default() += count;
            }
        }
        all
    }
}

impl View {
    fn new(database: PathBuf, log: PathBuf) -> Self {
        let (kept, lines) = (HashMap::new(), HashMap::new());
        Self { database, reader: None, outbox: 0, kept, log, read: 0, lines }
    }

    fn has(&mut self, n: u64, entry: Option<&str>) -> bool {
        if !self.kept.contains_key(&n) {
            // The outbox first: what is no longer in it is in the log by now.
            self.read_outbox();
            self.read_log();
        }
        self.kept.contains_key(&n) && entry.is_none_or(|address| self.has_entry(address))
    }

    fn has_entry(&mut self, address: &str) -> bool {
        let found = self.reader().and_then(|reader| reader.get(address).ok());
        if found.is_none() {
            self.reader = None; // another file may stand there by now
        }
        found.flatten().is_some()
    }

    fn reader(&mut self) -> Option<&Reader> {
        if self.reader.is_none() {
            self.reader = Reader::open(&self.database).ok();
        }
        self.reader.as_ref()
    }

    fn read_outbox(&mut self) {
        let after = self.outbox;
        let Some(waiting) = self.reader().and_then(|reader| reader.outbox(after, usize::MAX >> 1).ok()) else {
            self.reader = None;
            return;
        };
        for waiting in waiting {
            self.outbox = waiting.id;
            if let Some(n) = number_of(&waiting.line.text) {
                *self.kept.entry(n).or_default() += 1;
            }
        }
    }

    /// Whole lines only.
    fn read_log(&mut self) {
        let Ok(mut file) = File::open(&self.log) else { return };
        file.seek(SeekFrom::Start(self.read)).unwrap();
        let mut file = BufReader::new(file);
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line).unwrap() > 0 && line.ends_with(b"\n") {
            self.read += line.len() as u64;
            let text = String::from_utf8_lossy(&line);
            if let Some(n) = text.split_once("postfix/ses-events[").and_then(|(_, l)| number_of(l.split_once("]: ")?.1))
            {
                *self.lines.entry(n).or_default() += 1;
                self.kept.entry(n).or_insert(1);
            }
            line.clear();
        }
    }
}

/// The event whose line this is.
fn number_of(text: &str) -> Option<u64> {
    sample::number(text.split_once(':')?.0)
}

/// Somebody who asks policy questions all the while.
pub struct Asking {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Asking {
    /// Begins.
    pub fn begin(home: &Home) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (stop, mut asker) = (over.clone(), home.asker());
        let thread = thread::spawn(move || {
            let mut took = Vec::new();
            while !stop.load(SeqCst) {
                took.push(ask(&mut asker));
                thread::sleep(Duration::from_millis(5));
            }
            took
        });
        Self { over, thread }
    }

    /// Every answer was right, and none was slow: all but a twentieth come within the 50 ms, and the slowest within the
    /// second, that are promised.
    pub fn undisturbed(self) {
        self.over.store(true, SeqCst);
        let mut took = self.thread.join().expect("every answer was right");
        took.sort_unstable();
        let (slowest, usual) = (took[took.len() - 1], took[(took.len() - 1) * 19 / 20]);
        assert!(
            usual < wait::promised(Duration::from_millis(50)),
            "a twentieth of {} answers took over {usual:?}",
            took.len()
        );
        assert!(slowest < wait::promised(Duration::from_secs(1)), "{slowest:?}");
    }
}

fn ask(asker: &mut Asker) -> Duration {
    let began = Instant::now();
    assert_eq!(asker.ask(&Question::rcpt("info@example.com", "user@example.net")), DUNNO);
    assert!(asker.ask(&Question::mail("stranger@example.com")).starts_with("554"));
    began.elapsed() / 2
}

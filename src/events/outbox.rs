//! The outbox's way into the mail log: a thread that writes the lines that wait, in order, and has them leave
//! the database once they are written. Usually the intake's next transaction takes them out; the thread does it by
//! itself where none comes. A crash in between repeats lines, [`MAX_AHEAD`] at most, and loses none.

use super::Stats;
use super::origins::Origins;
use super::stats::unix_now;
use crate::fleet::sent::Sent;
use crate::lines::{EventLine, Line};
use crate::store::{FileId, Late, Reader, Store, StoreError, Waiting, identity};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most lines that are in the log and not yet out of the outbox, and so most that a crash repeats: a batch for
/// each of SQS's pollers at work, up to this, which holds for other sources.
pub const MAX_AHEAD: i64 = 160;

/// Messages of a batch of SQS.
const BATCH: i64 = 10;

/// How often the thread looks for lines that another process put there.
const POLL: Duration = Duration::from_millis(150);

/// So long after the last transaction of the intake the thread takes written lines out by itself.
const IDLE: Duration = Duration::from_millis(250);

/// How long it waits for the intake's next transaction where it may not write further lines before.
const NEXT_APPLY: Duration = Duration::from_millis(5);

/// In trouble it tries again after [`POLL`], then twice as long each time, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many lines that wait for their ids are looked at in a step, the oldest.
const MAX_LATE: usize = 10_000;

/// How often what waits is counted for metrics.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the lines that wait may take once the daemon stops; what is left is written after its next start.
const LAST_MOMENTS: Duration = Duration::from_millis(150);

/// Where the lines go.
pub trait MailLog: Send {
    /// Writes one line. After an error the same line is tried again.
    ///
    /// # Errors
    /// Where it could not be written whole.
    fn write(&mut self, line: &Line) -> io::Result<()>;

    /// Returns once a power cut does not reach what was written, as far as that can be had.
    ///
    /// # Errors
    /// Where that is not certain.
    fn sync(&mut self) -> io::Result<()>;

    /// Writes lines in turn, and syncs. The number of the last one that is in the log, and what kept the next one from
    /// it.
    ///
    /// # Errors
    /// Where it is not certain that any is there.
    fn write_in_turn(&mut self, lines: &[Waiting]) -> io::Result<(Option<i64>, io::Result<()>)> {
        let (mut last, mut outcome) = (None, Ok(()));
        for waiting in lines {
            outcome = self.write(&waiting.line);
            if outcome.is_err() {
                break;
            }
            last = Some(waiting.id);
        }
        if last.is_some() {
            self.sync()?;
        }
        Ok((last, outcome))
    }
}

/// Opens the mail log.
pub type OpenLog = Box<dyn FnMut() -> io::Result<Box<dyn MailLog>> + Send>;

/// How far the log has come: the drain writes lines, the intake takes them out of the outbox.
#[derive(Debug, Default)]
pub struct Progress {
    marks: Mutex<Marks>,
    moved: Condvar,
}

/// Numbers mean something only in the database they come from.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    file: FileId,
    /// The last line that is in the log.
    written: i64,
    /// The last line that is out of the outbox.
    forgotten: i64,
    /// Transactions of the intake.
    applies: u64,
    applied: Option<Instant>,
}

impl Progress {
    /// The last line of this database that is in the log and not yet out of the outbox.
    #[must_use]
    pub fn written_in(&self, file: FileId) -> Option<i64> {
        let marks = self.marks();
        (marks.file == file && marks.written > marks.forgotten).then_some(marks.written)
    }

    /// Notes a transaction of the intake, which took the lines up to `written` out; wakes the drain.
    pub fn applied(&self, file: FileId, written: Option<i64>) {
        let mut marks = self.marks();
        if marks.file == file {
            marks.forgotten = marks.forgotten.max(written.unwrap_or_default());
        }
        marks.applies += 1;
        marks.applied = Some(Instant::now());
        self.moved.notify_all();
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for another transaction than the `applies`-th, but not for long.
    fn wait(&self, applies: u64, time: Duration, stop: impl Fn() -> bool) {
        let marks = self.marks();
        drop(self.moved.wait_timeout_while(marks, time, |marks| marks.applies == applies && !stop()));
    }
}

/// The thread; finish it to end it.
#[derive(Debug)]
pub struct Drain {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    progress: Arc<Progress>,
    /// Set once the daemon stops: until when it is tried.
    latest: OnceLock<Instant>,
    hurry: AtomicBool,
}

impl Drain {
    /// Starts the thread on the database at `store`.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn start(
        store: PathBuf,
        open: OpenLog,
        origins: Origins,
        progress: Arc<Progress>,
        stats: Arc<Stats>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { progress, latest: OnceLock::new(), hurry: AtomicBool::new(false) });
        let mut worker = Worker {
            path: store,
            open,
            origins,
            released: None,
            log: None,
            stats,
            shared: shared.clone(),
            reader: None,
            writer: None,
            after: 0,
            looked: None,
            trouble: None,
        };
        let thread = std::thread::Builder::new().name("outbox".into()).spawn(move || worker.run())?;
        Ok(Self { thread, shared })
    }

    /// Writes what waits, for a moment at most, and ends the thread: call it when the intake has stopped.
    pub fn finish(self) {
        let latest = *self.shared.latest.get_or_init(|| Instant::now() + LAST_MOMENTS);
        self.shared.hurry.store(true, Relaxed);
        // taken so that the thread is either before its look at `hurry` or already waiting
        drop(self.shared.progress.marks());
        self.shared.progress.moved.notify_all();
        // A transaction in hand, or a line on its way, may take longer than the moment.
        if !super::ended_by(self.thread, latest + LAST_MOMENTS / 3) {
            tracing::warn!(
                "The mail log or the database stands still; event lines that wait are written after the next start."
            );
        }
    }
}

impl Shared {
    fn stopping(&self) -> bool {
        self.hurry.load(Relaxed)
    }

    fn is_late(&self) -> bool {
        self.latest.get().is_some_and(|latest| *latest <= Instant::now())
    }
}

struct Worker {
    path: PathBuf,
    open: OpenLog,
    /// What tells the ids that lines wait for, and when it was asked.
    origins: Origins,
    released: Option<Instant>,
    log: Option<Box<dyn MailLog>>,
    stats: Arc<Stats>,
    shared: Arc<Shared>,
    reader: Option<Connected>,
    writer: Option<Store>,
    /// The last line that was handed to the log.
    after: i64,
    /// When what waits was counted, and in which state of which database.
    looked: Option<(Instant, (FileId, i64))>,
    /// What is wrong with the database, for the daemon's log.
    trouble: Option<String>,
}

struct Connected {
    reader: Reader,
    /// Of the database when it was read last; `None`: lines may be left.
    version: Option<i64>,
}

/// Why not all lines are in the log.
enum Halt {
    Store(StoreError),
    Log(io::Error),
}

impl From<StoreError> for Halt {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl Worker {
    fn run(&mut self) {
        let mut pause = POLL;
        loop {
            let applies = self.shared.progress.marks().applies;
            let stopping = self.shared.stopping();
            let outcome = self.step();
            pause = if outcome.is_ok() { POLL } else { (pause * 2).min(LONGEST_PAUSE) };
            self.note(outcome);
            if stopping {
                return;
            }
            self.shared.progress.wait(applies, pause, || self.shared.stopping());
        }
    }

    /// Writes what waits, and has what is written leave.
    fn step(&mut self) -> Result<(), Halt> {
        let mut connected = self.connect()?;
        self.release(&connected.reader)?;
        let version = connected.reader.data_version()?;
        let outcome = if connected.version == Some(version) { Ok(()) } else { self.write_all(&connected.reader) };
        connected.version = outcome.is_ok().then_some(version);
        let looked = self.look(&connected.reader, version);
        match &outcome {
            // After trouble with the database the next step opens it anew.
            Err(Halt::Store(_)) => {}
            Ok(()) | Err(Halt::Log(_)) => self.reader = Some(connected),
        }
        outcome?;
        self.forget_when_idle()?;
        Ok(looked?)
    }

    fn connect(&mut self) -> Result<Connected, StoreError> {
        let file = identity(&self.path).ok();
        if let Some(connected) = self.reader.take().filter(|c| Some(c.reader.file()) == file) {
            return Ok(connected);
        }
        let reader = Reader::open(&self.path)?;
        let mut marks = self.shared.progress.marks();
        if marks.file != reader.file() {
            (marks.file, marks.written, marks.forgotten) = (reader.file(), 0, 0);
            self.after = 0;
        }
        Ok(Connected { reader, version: None })
    }

    fn write_all(&mut self, reader: &Reader) -> Result<(), Halt> {
        loop {
            let room = self.room()?;
            let lines = reader.outbox(self.after, room)?;
            let (Some(first), false) = (lines.first(), self.shared.is_late()) else { return Ok(()) };
            if self.after == 0 {
                // Numbers begin anywhere: what is before the first line has been forgotten long ago.
                let mut marks = self.shared.progress.marks();
                (marks.written, marks.forgotten) = (first.id - 1, first.id - 1);
            }
            self.write(&lines)?;
        }
    }

    /// How many lines may be written before some leave the outbox.
    fn room(&mut self) -> Result<usize, StoreError> {
        loop {
            let marks = *self.shared.progress.marks();
            let pollers = i64::try_from(self.stats.pollers.load(Relaxed)).unwrap_or(MAX_AHEAD);
            let most = if pollers == 0 { MAX_AHEAD } else { MAX_AHEAD.min(pollers * BATCH) };
            let room = most - (marks.written - marks.forgotten);
            if room > 0 {
                return Ok(usize::try_from(room).unwrap_or(1));
            }
            if marks.applied.is_some_and(|at| at.elapsed() < 10 * NEXT_APPLY) {
                self.shared.progress.wait(marks.applies, NEXT_APPLY, || false);
                if self.shared.progress.marks().applies != marks.applies {
                    continue;
                }
            }
            self.forget()?;
        }
    }

    /// Writes these lines; those that are in the log for certain may leave.
    fn write(&mut self, lines: &[Waiting]) -> Result<(), Halt> {
        let log = match &mut self.log {
            Some(log) => log,
            None => self.log.insert((self.open)().map_err(Halt::Log)?),
        };
        let (last, outcome) = log.write_in_turn(lines).map_err(Halt::Log)?;
        if let Some(last) = last {
            self.after = last;
            self.shared.progress.marks().written = last;
            let count = lines.iter().take_while(|waiting| waiting.id <= last).count();
            self.stats.written.fetch_add(count as u64, Relaxed);
        }
        outcome.map_err(Halt::Log)
    }

    fn forget_when_idle(&mut self) -> Result<(), StoreError> {
        let marks = *self.shared.progress.marks();
        let is_idle = self.shared.stopping() || marks.applied.is_none_or(|at| at.elapsed() >= IDLE);
        if is_idle && marks.written > marks.forgotten { self.forget() } else { Ok(()) }
    }

    /// Puts the lines into the outbox whose ids are known by now, or have been waited for long enough.
    fn release(&mut self, reader: &Reader) -> Result<(), StoreError> {
        if self.released.is_some_and(|at| at.elapsed() < POLL) {
            return Ok(());
        }
        self.released = Some(Instant::now());
        let now = unix_now();
        let mut lines = reader.late(MAX_LATE)?;
        let waiting: Vec<_> = lines.iter().filter(|line| line.until > 0).filter_map(ses_id).collect();
        let known = self.origins.find(&waiting, &self.stats);
        lines.retain_mut(|line| line.until == 0 || self.complete(line, &known) || line.until <= now);
        if lines.is_empty() {
            return Ok(());
        }
        self.write_to(reader.file(), |store| store.put_behind(&lines))
    }

    /// Fills in the ids of a line, where they are known.
    fn complete(&self, line: &mut Late, known: &HashMap<String, Sent>) -> bool {
        let Some(sent) = ses_id(line).and_then(|ses_id| known.get(ses_id)) else { return false };
        let (correlation_id, relay) = (sent.correlation_id.as_deref(), sent.relay.as_deref());
        line.text = EventLine::with_ids(&line.text, &sent.queue_id, correlation_id, relay);
        self.stats.joined.fetch_add(1, Relaxed);
        true
    }

    /// Takes what is written out of the outbox.
    fn forget(&mut self) -> Result<(), StoreError> {
        let marks = *self.shared.progress.marks();
        self.write_to(marks.file, |store| store.forget_written(marks.written))?;
        let mut now = self.shared.progress.marks();
        now.forgotten = now.forgotten.max(marks.written);
        Ok(())
    }

    /// Changes the database that is this file.
    fn write_to(
        &mut self,
        file: FileId,
        work: impl FnOnce(&mut Store) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut writer = match self.writer.take().filter(|w| w.file() == file) {
            Some(writer) => writer,
            None if identity(&self.path).ok() == Some(file) => Store::open(&self.path)?,
            // Replaced meanwhile: the next step starts with the new one.
            None => return Err(StoreError::Missing { path: self.path.clone(), detail: "it was replaced".into() }),
        };
        work(&mut writer)?;
        self.writer = Some(writer);
        Ok(())
    }

    /// Counts what waits, for metrics.
    fn look(&mut self, reader: &Reader, version: i64) -> Result<(), StoreError> {
        if self.looked.is_some_and(|(at, then)| at.elapsed() < LOOK_EVERY || then == (reader.file(), version)) {
            return Ok(());
        }
        self.looked = Some((Instant::now(), (reader.file(), version)));
        let (backlog, brake, quarantined) = (reader.backlog()?, reader.brake()?, reader.quarantined()?);
        let stats = &self.stats;
        stats.outbox_lines.store(backlog.lines, Relaxed);
        stats.outbox_oldest.store(backlog.oldest.unwrap_or_default(), Relaxed);
        stats.quarantined.store(quarantined, Relaxed);
        stats.held.store(brake.held, Relaxed);
        match (stats.brake_on.swap(brake.since.is_some(), Relaxed), brake.since) {
            (true, None) => tracing::info!("The brake is off."),
            (false, Some(_)) => tracing::error!("The brake is on: new entries are recorded, not enforced."),
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, outcome: Result<(), Halt>) {
        match outcome {
            Ok(()) => {
                if self.stats.log.end() {
                    tracing::info!("The mail log takes event lines again.");
                }
                if self.trouble.take().is_some() {
                    tracing::info!("The outbox can be read again.");
                }
            }
            Err(Halt::Log(error)) => {
                let words = error.to_string();
                // Syslog that is restarted is the one or the other by the moment.
                let is_away = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
                if self.stats.log.begin(if is_away { "away" } else { &words }, &words) {
                    tracing::error!("The mail log does not take event lines; they wait: {words}");
                }
            }
            Err(Halt::Store(error)) => {
                let words = error.to_string();
                let is_busy = matches!(error, StoreError::Busy { .. });
                if !is_busy && self.trouble.as_ref() != Some(&words) {
                    tracing::error!("Event lines stay in the outbox: {words}");
                    self.trouble = Some(words);
                }
            }
        }
    }
}

fn ses_id(line: &Late) -> Option<&str> {
    line.text.split_once(':').map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_only_in_its_own_database() {
        let progress = Progress::default();
        *progress.marks() = Marks { file: (1, 1), written: 7, forgotten: 3, ..Marks::default() };
        assert_eq!(progress.written_in((1, 1)), Some(7));
        assert_eq!(progress.written_in((1, 2)), None);
        progress.applied((1, 2), Some(7));
        assert_eq!(progress.written_in((1, 1)), Some(7));
        progress.applied((1, 1), Some(7));
        assert_eq!(progress.written_in((1, 1)), None);
        assert_eq!(progress.marks().applies, 2);
    }

    #[test]
    fn the_wait_ends_with_a_transaction() {
        let progress = Arc::new(Progress::default());
        let other = progress.clone();
        let waiting = std::thread::spawn(move || {
            let began = Instant::now();
            other.wait(0, Duration::from_secs(20), || false);
            began.elapsed()
        });
        std::thread::sleep(Duration::from_millis(20));
        progress.applied((1, 1), None);
        assert!(waiting.join().expect("thread") < Duration::from_secs(10));
    }
}

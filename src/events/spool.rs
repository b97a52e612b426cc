//! The spool: a folder in which JSON files are dropped, by a rename at best; they end in its folders `done` and
//! `failed`. A file is moved when all that it holds is on disk, so a crash reads it again, which changes nothing. One that is
//! written in place, without a rename, waits while it looks unfinished, and is read again where it grew meanwhile.

use super::files::{Found, bodies};
use super::stats::{Source, unix_now};
use super::{Fate, Intake, Parcel, Stats};
use crate::mail::Printable;
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often the folder is looked at.
const POLL: Duration = Duration::from_millis(250);

/// A file that does not end as events do has so many seconds without a change before it is read: somebody may be
/// writing it.
const SETTLED: i64 = 2;

/// What is looked at of its end: blank lines at most.
const TAIL_BYTES: u64 = 64;

/// How long files stay in `done`, in seconds.
const KEEP_DONE: i64 = 7 * 86_400;

/// How often `done` is cleared of older ones.
const CLEAR_EVERY: Duration = Duration::from_secs(3600);

/// Bodies that are handed over together, in number and in bytes: enough to share a transaction, few enough that
/// a file of any size needs little memory.
const PARCEL_BODIES: usize = 200;
const PARCEL_BYTES: usize = 4 << 20;

/// How soon a file is read again of which another relay has a part in its hands.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Most lines in a `.why` file; the rest is a count.
const MAX_WHYS: usize = 1_000;

/// The thread that looks; stop it to end it.
#[derive(Debug)]
pub struct Spool {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Spool {
    /// Starts the thread on `folder`, and makes the folders that are missing.
    ///
    /// # Errors
    /// Where there is no thread to be had. Trouble with the folder is logged, and tried again.
    pub fn start(folder: PathBuf, intake: Intake, stats: Arc<Stats>) -> io::Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let source = stats.add_source(folder.to_string_lossy().into(), unix_now());
        let mut worker = Worker {
            folder,
            intake,
            stats,
            source,
            stop: stop.clone(),
            finished: HashMap::new(),
            elsewhere: HashMap::new(),
            told: HashMap::new(),
        };
        let thread = std::thread::Builder::new().name("spool".into()).spawn(move || worker.run())?;
        Ok(Self { thread, stop })
    }

    /// Tells the thread to end.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.thread.thread().unpark();
    }

    /// Waits for the end, until `latest` at most. `true`: it ended.
    #[must_use]
    pub fn ended_by(self, latest: Instant) -> bool {
        super::ended_by(self.thread, latest)
    }
}

struct Worker {
    folder: PathBuf,
    intake: Intake,
    stats: Arc<Stats>,
    source: Arc<Source>,
    stop: Arc<AtomicBool>,
    /// Files that were read and could not be moved, with what became of them.
    finished: HashMap<String, (Mark, Outcome)>,
    /// When files were read of which another relay had a part in its hands.
    elsewhere: HashMap<String, Instant>,
    /// What the daemon's log was told, by file.
    told: HashMap<String, String>,
}

/// Which file it was.
type Mark = (u64, u64, u64, i64);

/// What a file held that could not be read, line by line.
#[derive(Clone, Debug, Default)]
struct Outcome {
    whys: Vec<String>,
    more: u64,
}

/// Why a file was not read to its end.
enum Halt {
    Io(io::Error),
    Elsewhere,
    Stopping,
}

impl From<io::Error> for Halt {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl Worker {
    fn run(&mut self) {
        let mut cleared: Option<Instant> = None;
        while !self.stopping() {
            match self.look() {
                Ok(()) => {
                    self.stats.answered(&self.source, unix_now());
                    if self.source.trouble.end() {
                        tracing::info!(folder = %self.folder.display(), "The spool can be read again.");
                    }
                }
                Err(error) => {
                    let words = error.to_string();
                    if self.source.trouble.begin(&words, &words) {
                        tracing::error!(folder = %self.folder.display(), "The spool cannot be read: {words}");
                    }
                }
            }
            if cleared.is_none_or(|at| at.elapsed() >= CLEAR_EVERY) {
                cleared = Some(Instant::now());
                clear(&self.folder.join("done"), unix_now());
            }
            if !self.stopping() {
                std::thread::park_timeout(POLL);
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Takes every file that is there, the lowest name first.
    fn look(&mut self) -> io::Result<()> {
        for folder in [self.folder.clone(), self.folder.join("done"), self.folder.join("failed")] {
            if !folder.is_dir() {
                fs::create_dir_all(&folder)
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", folder.display())))?;
            }
        }
        let (names, odd) = names(&self.folder)?;
        self.told.retain(|name, _| names.contains(name) || odd.contains(name));
        self.finished.retain(|name, _| names.contains(name));
        self.elsewhere.retain(|_, at| at.elapsed() < LOOK_AGAIN);
        for name in &odd {
            self.tell(name, "its name is not UTF-8: rename it");
        }
        for name in names.into_iter().filter(|name| !self.elsewhere.contains_key(name)).collect::<Vec<_>>() {
            if self.stopping() {
                return Ok(());
            }
            match self.take(&name) {
                Ok(()) => {
                    self.told.remove(&name);
                }
                Err(Halt::Stopping) => return Ok(()),
                Err(Halt::Elsewhere) => drop(self.elsewhere.insert(name, Instant::now())),
                // Somebody took it away: theirs.
                Err(Halt::Io(e)) if e.kind() == io::ErrorKind::NotFound => {}
                Err(Halt::Io(e)) => self.tell(&name, &e.to_string()),
            }
        }
        Ok(())
    }

    fn tell(&mut self, name: &str, words: &str) {
        if self.told.get(name).is_none_or(|told| told != words) {
            let file = self.folder.join(name);
            tracing::error!(file = %file.display(), "A spooled file waits: {words}");
            self.told.insert(name.to_owned(), words.to_owned());
        }
    }

    /// Applies a file and moves it.
    fn take(&mut self, name: &str) -> Result<(), Halt> {
        let path = self.folder.join(name);
        let file = File::open(&path)?;
        let meta = file.metadata()?;
        if is_growing(&file, &meta, unix_now())? {
            return Ok(());
        }
        let mark = mark(&meta);
        let known = self.finished.get(name).filter(|(was, _)| *was == mark).map(|(_, outcome)| outcome.clone());
        let outcome = match known {
            Some(outcome) => outcome,
            None => self.read(&path, file)?,
        };
        if mark != self::mark(&fs::metadata(&path)?) {
            return Ok(());
        }
        if let Err(error) = put_away(&self.folder, name, &outcome) {
            self.finished.insert(name.to_owned(), (mark, outcome));
            return Err(error.into());
        }
        self.finished.remove(name);
        Ok(())
    }

    /// Hands every body of a file over; returns when all are on disk.
    fn read(&self, path: &Path, file: File) -> Result<Outcome, Halt> {
        let mut reading = Reading {
            worker: self,
            source: path.to_string_lossy().into(),
            found: Vec::new(),
            bytes: 0,
            outcome: Outcome::default(),
            elsewhere: false,
        };
        let is_empty = file.metadata()?.size() == 0;
        let read = bodies(file, |found: Found| reading.add(found));
        let broken = match read {
            Ok(()) => None,
            Err(Halt::Io(e)) if is_broken(&e) => Some(e),
            Err(halt) => return Err(halt),
        };
        reading.hand_over()?;
        if reading.elsewhere {
            return Err(Halt::Elsewhere);
        }
        let mut outcome = reading.outcome;
        if is_empty {
            outcome.add("the file is empty".to_owned());
        }
        if let Some(e) = broken {
            outcome.add(format!("the file is broken, nothing is read behind that place: {e}"));
        }
        Ok(outcome)
    }
}

fn mark(meta: &Metadata) -> Mark {
    (meta.dev(), meta.ino(), meta.size(), meta.mtime())
}

/// Whether it looks as if somebody were still writing it at `now` (Unix seconds).
fn is_growing(file: &File, meta: &Metadata, now: i64) -> io::Result<bool> {
    // a time to come says nothing
    if !(0..SETTLED).contains(&(now - meta.mtime())) {
        return Ok(false);
    }
    let mut tail = [0; TAIL_BYTES as usize];
    let read = file.read_at(&mut tail, meta.size().saturating_sub(TAIL_BYTES))?;
    let tail = tail.get(..read).unwrap_or_default().trim_ascii_end();
    Ok(!matches!(tail.last(), Some(b'}' | b']')))
}

/// Whether the content is wrong, rather than the way to it.
fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::InvalidData | Kind::InvalidInput | Kind::UnexpectedEof)
}

/// A file on its way to the intake.
struct Reading<'a> {
    worker: &'a Worker,
    source: Arc<str>,
    found: Vec<Found>,
    bytes: usize,
    outcome: Outcome,
    /// Whether another relay has a part of it in its hands.
    elsewhere: bool,
}

impl Reading<'_> {
    fn add(&mut self, found: Found) -> Result<(), Halt> {
        self.bytes += found.body.len();
        self.found.push(found);
        if self.found.len() >= PARCEL_BODIES || self.bytes >= PARCEL_BYTES { self.hand_over() } else { Ok(()) }
    }

    /// Hands over what was found and waits until it is on disk.
    fn hand_over(&mut self) -> Result<(), Halt> {
        self.bytes = 0;
        if self.found.is_empty() {
            return Ok(());
        }
        let (lines, bodies) =
            self.found.drain(..).map(|found| (found.line, found.body)).unzip::<_, _, Vec<_>, Vec<_>>();
        let (done, fates) = oneshot::channel();
        let parcel = Parcel { bodies, source: self.source.clone(), quarantine: false, done };
        self.worker.intake.submit_blocking(parcel).map_err(|_| Halt::Stopping)?;
        for (line, fate) in lines.into_iter().zip(fates.blocking_recv().map_err(|_| Halt::Stopping)?) {
            match fate {
                Fate::Done => {}
                Fate::Unreadable(why) => self.outcome.add(format!("line {line}: {why}")),
                Fate::Elsewhere => self.elsewhere = true,
            }
        }
        // A long file is an answer too.
        self.worker.stats.answered(&self.worker.source, unix_now());
        Ok(())
    }
}

impl Outcome {
    fn add(&mut self, why: String) {
        if self.whys.len() < MAX_WHYS {
            self.whys.push(Printable::new(why.as_bytes(), 1_000).to_string());
        } else {
            self.more += 1;
        }
    }
}

/// The names of the files to take: no hidden ones, none that is still being written, no folders or links. And of
/// those that cannot be taken, since their names are no UTF-8.
fn names(folder: &Path) -> io::Result<(Vec<String>, Vec<String>)> {
    let (mut names, mut odd) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = match entry.file_name().into_string() {
            Ok(name) => name,
            Err(name) => {
                odd.push(name.to_string_lossy().into_owned());
                continue;
            }
        };
        let is_unfinished = name.starts_with('.') || name.ends_with(".tmp") || name.ends_with(".part");
        if !is_unfinished && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok((names, odd))
}

/// Moves a file to where it belongs; what could not be read of it stands beside it.
fn put_away(folder: &Path, name: &str, outcome: &Outcome) -> io::Result<()> {
    let failed = !outcome.whys.is_empty();
    let to = folder.join(if failed { "failed" } else { "done" });
    let new = free_name(&to, name);
    if failed {
        let mut why = File::create(to.join(format!("{new}.why")))?;
        for line in &outcome.whys {
            writeln!(why, "{line}")?;
        }
        if outcome.more > 0 {
            writeln!(why, "and {} more", outcome.more)?;
        }
        tracing::warn!(
            file = name,
            "A spooled file holds what cannot be read; it is in {}, with the reasons.",
            to.display()
        );
    }
    fs::rename(folder.join(name), to.join(new))
}

/// `name`, or with a number behind it where there is one already. Only this thread moves files there.
fn free_name(folder: &Path, name: &str) -> String {
    let is_free = |name: &String| fs::symlink_metadata(folder.join(name)).is_err();
    let numbered = (1u32..).map(|n| format!("{name}.{n}"));
    std::iter::once(name.to_owned()).chain(numbered).find(is_free).unwrap_or_else(|| name.to_owned())
}

/// Deletes what was moved to `done` long ago.
fn clear(done: &Path, now: i64) {
    let Ok(entries) = fs::read_dir(done) else { return };
    for entry in entries.flatten() {
        // A rename sets ctime.
        let is_old = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.ctime() < now - KEEP_DONE);
        if is_old && let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(file = %entry.path().display(), %error, "Cannot delete an old spooled file.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn takes_finished_files_by_name() {
        let dir = tempfile::tempdir().expect("folder");
        for name in ["b.json", "a.json", ".hidden", "c.json.tmp", "d.part"] {
            fs::write(dir.path().join(name), "{}").expect("file");
        }
        fs::create_dir(dir.path().join("done")).expect("folder");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).expect("link");
        let odd = std::ffi::OsStr::from_bytes(b"e\xff.json");
        fs::write(dir.path().join(odd), "{}").expect("file");
        let (names, odd) = names(dir.path()).expect("names");
        assert_eq!((names, odd), (vec!["a.json".to_owned(), "b.json".to_owned()], vec!["e\u{fffd}.json".to_owned()]));
    }

    #[test]
    fn what_is_being_written_waits_for_a_moment() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("a");
        for (text, growing) in [("", true), ("{\"a\":", true), ("{}", false), ("[{}]\n\n", false), ("no JSON", true)] {
            fs::write(&path, text).expect("file");
            let file = File::open(&path).expect("file");
            let meta = file.metadata().expect("file");
            let at = |now| is_growing(&file, &meta, now).expect("read");
            assert_eq!(at(meta.mtime() + 1), growing, "{text}");
            assert!(!at(meta.mtime() + SETTLED) && !at(meta.mtime() - 1), "{text}");
        }
    }

    #[test]
    fn files_are_put_away_under_free_names() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path();
        fs::create_dir(path.join("done")).expect("folder");
        fs::create_dir(path.join("failed")).expect("folder");
        for n in 0..3 {
            fs::write(path.join("a"), format!("{n}")).expect("file");
            put_away(path, "a", &Outcome::default()).expect("moved");
        }
        assert_eq!(fs::read_to_string(path.join("done/a")).expect("first"), "0");
        assert_eq!(fs::read_to_string(path.join("done/a.2")).expect("third"), "2");
        fs::write(path.join("a"), "x").expect("file");
        let outcome = Outcome { whys: vec!["line 1: no JSON".into()], more: 2 };
        put_away(path, "a", &outcome).expect("moved");
        assert_eq!(fs::read_to_string(path.join("failed/a.why")).expect("why"), "line 1: no JSON\nand 2 more\n");
        assert!(path.join("failed/a").exists() && !path.join("a").exists());
        clear(&path.join("done"), unix_now() + KEEP_DONE - 60);
        assert!(path.join("done/a").exists());
        clear(&path.join("done"), unix_now() + KEEP_DONE + 60);
        assert!(!path.join("done/a").exists() && !path.join("done/a.2").exists());
    }
}

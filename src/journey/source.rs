//! Where log lines come from: files, packed or not, the journal, standard input. What can be read only once is kept in
//! a nameless file, since lines are looked for more than once.

use super::glob;
use super::journal::{self, JournalTail, Journalctl};
use crate::events::files::{is_gzip, unpacked};
use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The logs of a search.
#[derive(Debug, Default)]
pub struct Logs {
    pub(super) all: Vec<Log>,
    /// Where the journal is among them: the place of its last line, where it has any.
    journal: Option<Option<String>>,
}

/// A log that could not be read, and why.
#[derive(Debug)]
pub struct Unread {
    /// The file, or what stands for it.
    pub name: String,
    /// Why.
    pub error: io::Error,
}

impl Unread {
    /// The same once more.
    pub(super) fn again(&self) -> Self {
        let error = io::Error::new(self.error.kind(), self.error.to_string());
        Self { name: self.name.clone(), error }
    }
}

/// One log.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) name: String,
    /// When its last line was written, as far as is known: the bound of times without a year.
    pub(super) latest: Timestamp,
    pub(super) len: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Plain(PathBuf),
    Packed(PathBuf),
    /// What came by a pipe.
    Kept(File),
}

impl Logs {
    /// The files of patterns such as `/var/log/mail.log*`; what cannot be read is told.
    #[must_use]
    pub fn of_patterns(patterns: &[String]) -> (Self, Vec<Unread>) {
        let (mut logs, mut unread) = (Self::default(), Vec::new());
        for pattern in patterns {
            match glob::files(pattern) {
                Ok(files) => files.iter().for_each(|file| logs.add_or_tell(file, &mut unread)),
                Err((folder, error)) => unread.push(Unread { name: folder.display().to_string(), error }),
            }
        }
        (logs, unread)
    }

    /// Adds one file, once.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn add(&mut self, path: &Path) -> io::Result<()> {
        let name = path.display().to_string();
        if self.all.iter().any(|log| log.name == name) {
            return Ok(());
        }
        let file = File::open(path)?;
        let about = file.metadata()?;
        if about.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !about.is_file() {
            return self.add_stream(&name, file);
        }
        let kind = if is_gzip(&file)? { Kind::Packed(path.to_owned()) } else { Kind::Plain(path.to_owned()) };
        let latest = about.modified().ok().and_then(|at| Timestamp::try_from(at).ok()).unwrap_or_else(Timestamp::now);
        self.all.push(Log { name, latest, len: about.len(), kind });
        Ok(())
    }

    /// Adds what can be read only once, packed or not.
    ///
    /// # Errors
    /// Where it cannot be read, or not kept.
    pub fn add_stream(&mut self, name: &str, stream: impl Read) -> io::Result<()> {
        let mut kept = nameless()?;
        io::copy(&mut unpacked(stream)?, &mut kept)?;
        let len = kept.stream_position()?;
        self.all.push(Log { name: name.to_owned(), latest: Timestamp::now(), len, kind: Kind::Kept(kept) });
        Ok(())
    }

    /// Leaves out the files that were last written to before `time`.
    pub fn skip_before(&mut self, time: Timestamp) {
        self.all.retain(|log| log.latest >= time);
    }

    /// Adds the mail facility's lines of the system's journal, by `journalctl`; from `since` on, where that is given.
    ///
    /// # Errors
    /// Where it cannot be run, or fails.
    pub fn add_journal(&mut self, since: Option<Timestamp>) -> io::Result<()> {
        let since = since.map(|since| format!("--since=@{}", since.as_second()));
        let options: Vec<&str> = ["--show-cursor"].into_iter().chain(since.as_deref()).collect();
        let mut journalctl = Journalctl::start(&options)?;
        self.add_stream(journal::NAME, journalctl.out())?;
        let Some(Log { kind: Kind::Kept(file), len, .. }) = self.all.last() else { return journalctl.end() };
        self.journal = Some(last_cursor(file, *len)?);
        journalctl.end()
    }

    /// What comes into the journal from now on, where it is among the logs.
    #[must_use]
    pub fn follow_journal(&self) -> Option<io::Result<JournalTail>> {
        self.journal.as_ref().map(|cursor| JournalTail::behind(cursor.as_deref()))
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many logs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The plain files, which may grow, with how far they are part of a search.
    #[must_use]
    pub fn growing(&self) -> Vec<(PathBuf, u64)> {
        let plain = |log: &Log| if let Kind::Plain(path) = &log.kind { Some((path.clone(), log.len)) } else { None };
        self.all.iter().filter_map(plain).collect()
    }

    fn add_or_tell(&mut self, path: &Path, unread: &mut Vec<Unread>) {
        if let Err(error) = self.add(path) {
            unread.push(Unread { name: path.display().to_string(), error });
        }
    }
}

impl Log {
    /// Whether it can be read from any place.
    pub(super) fn is_divisible(&self) -> bool {
        !matches!(self.kind, Kind::Packed(_))
    }

    /// Reads from `offset`, of the unpacked text.
    pub(super) fn reader(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        match &self.kind {
            Kind::Packed(path) => Ok(Box::new(MultiGzDecoder::new(File::open(path)?))),
            Kind::Kept(file) => Ok(Box::new(At { file, offset })),
            Kind::Plain(path) => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(file))
            }
        }
    }
}

/// Reads a shared file from a place.
struct At<'f> {
    file: &'f File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// What `journalctl --show-cursor` prints behind the last line.
const CURSOR: &[u8] = b"-- cursor: ";

/// Longer than that line: a cursor has some 130 bytes.
const MAX_CURSOR_BYTES: u64 = 1024;

fn last_cursor(file: &File, len: u64) -> io::Result<Option<String>> {
    let mut end = Vec::new();
    At { file, offset: len.saturating_sub(MAX_CURSOR_BYTES) }.read_to_end(&mut end)?;
    let cursor = memchr::memmem::rfind(&end, CURSOR).map(|at| &end[at + CURSOR.len()..]);
    Ok(cursor.map(|cursor| String::from_utf8_lossy(cursor.trim_ascii()).into_owned()))
}

/// A file that is gone when the process is, and that nobody else sees: it holds addresses.
fn nameless() -> io::Result<File> {
    let name = format!("gatepost-trace-{}-{:016x}", std::process::id(), fastrand::u64(..));
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

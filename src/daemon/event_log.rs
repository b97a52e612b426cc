//! The writer of the mail log: takes lines from the outlet and writes them to syslog, to a file that
//! logrotate may move away, or to stdout. Runs on a thread of its own: a log that stands still holds
//! up nobody.

use super::decisions::Decisions;
use crate::events::MailLog;
use crate::events::stats::{Trouble, unix_now};
use crate::lines::{Line, Priority};
use jiff::Zoned;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// `/dev/log`, facility mail.
    #[default]
    Syslog,
    /// A file, appended to.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// The syslog socket.
const DEV_LOG: &str = "/dev/log";

/// The facility mail, shifted as RFC 3164 wants it.
const FACILITY_MAIL: u8 = 2 << 3;

/// `EMSGSIZE`, which std has no name for.
const EMSGSIZE: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();

/// A datagram is not cut below this: RFC 3164 promises 1,024 bytes.
const MIN_DATAGRAM: usize = 512;

/// How long syslog may take to accept a line: its queue is full, or it stands still.
const SYSLOG_WAIT: Duration = Duration::from_millis(100);

/// The pause between two tries of a line. It is tried until it is written: meanwhile the outlet's
/// queue fills, and only what comes past its bound is lost, counted there.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the lines that wait may take once the daemon stops: it is to end within a second, also
/// where the log stands still.
const LAST_MOMENTS: Duration = Duration::from_millis(150);

/// The writer thread.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
    /// Set once the daemon stops: until when it is tried.
    latest: Arc<OnceLock<Instant>>,
    /// How it goes, and what it wrote lately.
    pub desk: Arc<WriterDesk>,
}

/// What others may look at.
#[derive(Debug, Default)]
pub struct WriterDesk {
    /// Lines that could not be written before the daemon stopped.
    pub lost: AtomicU64,
    /// What keeps lines from the log.
    pub trouble: Trouble,
    /// What was decided lately.
    pub decisions: Decisions,
}

impl Writer {
    /// Starts the thread; [`Writer::finish`] ends it.
    ///
    /// # Errors
    /// Where a file cannot be opened, or no thread can be started. Syslog may be away at the start.
    pub fn start(output: &Output, lines: Receiver<Line>) -> io::Result<Self> {
        let sink = LogSink::open(output)?;
        let (desk, latest) = (Arc::<WriterDesk>::default(), Arc::<OnceLock<Instant>>::default());
        let mut scribe = Scribe { sink, desk: desk.clone(), latest: latest.clone() };
        let thread = std::thread::Builder::new().name("event-log".into()).spawn(move || scribe.run(&lines))?;
        Ok(Self { thread, latest, desk })
    }

    /// Writes what waits, for a moment at most, and ends the thread. Nobody need have dropped an
    /// outlet: a connection that is stuck holds one.
    pub fn finish(self) {
        let latest = *self.latest.get_or_init(|| Instant::now() + LAST_MOMENTS);
        while !self.thread.is_finished() && Instant::now() < latest + 2 * PAUSE {
            std::thread::sleep(Duration::from_millis(2));
        }
        if !self.thread.is_finished() {
            tracing::error!("The event log does not take its lines; the last ones are lost.");
        } else if self.thread.join().is_err() {
            tracing::error!("The event log's writer panicked; lines are missing.");
        }
    }
}

struct Scribe {
    sink: LogSink,
    desk: Arc<WriterDesk>,
    latest: Arc<OnceLock<Instant>>,
}

impl Scribe {
    fn run(&mut self, lines: &Receiver<Line>) {
        loop {
            match lines.recv_timeout(PAUSE) {
                Ok(line) => {
                    self.desk.decisions.note(&line, unix_now());
                    self.write(&line);
                }
                Err(RecvTimeoutError::Timeout) if self.latest.get().is_none() => {}
                Err(_) => break,
            }
        }
        let lost = self.desk.lost.load(Relaxed);
        if lost > 0 {
            tracing::error!(lost, "The daemon stops; the event log did not take its last lines.");
        }
    }

    /// Tries until the line is written; once the daemon stops, not for long.
    fn write(&mut self, line: &Line) {
        loop {
            if self.latest.get().is_some_and(|latest| *latest < Instant::now()) {
                self.desk.lost.fetch_add(1, Relaxed);
                return;
            }
            match self.sink.write(line) {
                Ok(()) => break,
                Err(error) => {
                    if self.desk.trouble.begin("write", &error.to_string()) {
                        tracing::error!(%error, "Cannot write to the event log; its lines wait.");
                    }
                }
            }
            std::thread::sleep(PAUSE);
        }
        if self.desk.trouble.end() {
            tracing::info!("The event log can be written again.");
        }
    }
}

/// The mail log, opened: writes one line at a time, and finds its way back by itself when syslog was restarted or
/// logrotate moved the file.
#[derive(Debug)]
pub struct LogSink {
    sink: Sink,
    host: String,
    pid: u32,
    /// A line that could not be written whole.
    unfinished: Option<(Line, Text)>,
}

impl LogSink {
    /// Opens the log.
    ///
    /// # Errors
    /// Where a file cannot be opened. Syslog may be away.
    pub fn open(output: &Output) -> io::Result<Self> {
        Ok(Self { sink: Sink::open(output)?, host: hostname(), pid: std::process::id(), unfinished: None })
    }

    /// The lines of a file, on standard error: for a command whose standard output is for its results.
    #[must_use]
    pub fn on_stderr() -> Self {
        Self { sink: Sink::Stderr, host: hostname(), pid: std::process::id(), unfinished: None }
    }
}

impl MailLog for LogSink {
    /// After an error, writing the same line again goes on where it stopped.
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = match self.unfinished.take() {
            Some((same, text)) if same == *line => text,
            // The other one was given up. What stands of it in the log gets an end.
            Some((_, torn)) if torn.written > 0 => self.sink.text(line, &self.host, self.pid).behind_a_torn_line(),
            _ => self.sink.text(line, &self.host, self.pid),
        };
        let written = self.sink.write(&mut text);
        if written.is_err() {
            self.unfinished = Some((line.clone(), text));
        }
        written
    }

    /// What syslog has got is syslog's.
    fn sync(&mut self) -> io::Result<()> {
        match &self.sink {
            Sink::File { file, .. } => match file.sync_data() {
                // A pipe or /dev/stdout is no file that could be synced.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
                synced => synced,
            },
            Sink::Syslog(_) | Sink::Stdout | Sink::Stderr => Ok(()),
        }
    }
}

/// A line on its way, and how much of it has been written: after a full disk the rest is, not the
/// whole again.
#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    written: usize,
}

#[derive(Debug)]
enum Sink {
    Syslog(Option<UnixDatagram>),
    File { path: PathBuf, file: File, id: (u64, u64) },
    Stdout,
    Stderr,
}

impl Sink {
    fn open(output: &Output) -> io::Result<Self> {
        Ok(match output {
            Output::Syslog => Self::Syslog(connect().ok()),
            Output::Stdout => Self::Stdout,
            Output::File(path) => {
                let (file, id) = open_file(path)?;
                Self::File { path: path.clone(), file, id }
            }
        })
    }

    /// The line as this sink wants it.
    fn text(&self, line: &Line, host: &str, pid: u32) -> Text {
        let text = match self {
            Self::Syslog(_) => syslog_line(line, pid),
            Self::File { .. } | Self::Stdout | Self::Stderr => file_line(line, host, pid),
        };
        Text { bytes: text.into_bytes(), written: 0 }
    }

    fn write(&mut self, text: &mut Text) -> io::Result<()> {
        match self {
            Self::Syslog(socket) => {
                let connected = match socket.take() {
                    Some(connected) => connected,
                    None => connect()?,
                };
                // Kept only when it works: after an error the next try connects anew.
                text.send(&connected)?;
                *socket = Some(connected);
                Ok(())
            }
            Self::File { path, file, id } => {
                if id_of_path(path) != Some(*id) {
                    // What logrotate moved away is as sure as what stays.
                    let _ = file.sync_data();
                    (*file, *id) = open_file(path)?;
                    text.written = 0;
                }
                text.write_rest(file)
            }
            Self::Stdout => {
                let mut out = io::stdout().lock();
                text.write_rest(&mut out)?;
                out.flush()
            }
            Self::Stderr => text.write_rest(&mut io::stderr().lock()),
        }
    }
}

impl Text {
    /// One datagram, shorter where syslog takes none of this size.
    fn send(&mut self, socket: &UnixDatagram) -> io::Result<()> {
        loop {
            match socket.send(&self.bytes) {
                Err(e) if e.raw_os_error() == Some(EMSGSIZE) && self.bytes.len() > MIN_DATAGRAM => {
                    let half = self.bytes.len() / 2;
                    let end = (half..self.bytes.len()).find(|n| self.bytes.get(*n).is_some_and(|b| b & 0xc0 != 0x80));
                    self.bytes.truncate(end.unwrap_or(half));
                }
                sent => return sent.map(drop),
            }
        }
    }

    /// After the rest of a line that was given up.
    fn behind_a_torn_line(mut self) -> Self {
        self.bytes.insert(0, b'\n');
        self
    }

    fn write_rest(&mut self, to: &mut impl Write) -> io::Result<()> {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match to.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(DEV_LOG)?;
    socket.set_write_timeout(Some(SYSLOG_WAIT))?;
    Ok(socket)
}

fn open_file(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = File::options().create(true).append(true).mode(0o640).open(path)?;
    let meta = file.metadata()?;
    Ok((file, (meta.dev(), meta.ino())))
}

fn id_of_path(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// RFC 3164: priority, local time without year, ident and pid; the daemon adds the host.
fn syslog_line(line: &Line, pid: u32) -> String {
    let severity = match line.priority {
        Priority::Warning => 4,
        Priority::Info => 6,
    };
    let time = Zoned::now().strftime("%b %e %H:%M:%S").to_string();
    format!("<{}>{time} {}[{pid}]: {}", FACILITY_MAIL | severity, line.ident, line.text)
}

fn file_line(line: &Line, host: &str, pid: u32) -> String {
    let time = Zoned::now().strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string();
    format!("{time} {host} {}[{pid}]: {}\n", line.ident, line.text)
}

/// The first label of the host's name, as syslog prints it.
pub(super) fn hostname() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.split('.').next().filter(|label| !label.is_empty()).unwrap_or("localhost").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { ident: "postfix/ses-events", priority: Priority::Info, text: text.into() }
    }

    #[test]
    fn a_line_of_a_file_is_within_postfix_bound() {
        let longest = line(&"x".repeat(crate::lines::MAX_LINE_BYTES));
        let host = "h".repeat(64); // HOST_NAME_MAX
        assert!(
            file_line(&longest, &host, 4_194_304).len() <= 2_000 && syslog_line(&longest, 4_194_304).len() <= 2_000
        );
    }

    #[test]
    fn a_file_is_opened_again_after_logrotate() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("mail.log");
        let mut sink = LogSink::open(&Output::File(path.clone())).expect("open");
        sink.write(&line("one")).expect("written");
        std::fs::rename(&path, dir.path().join("mail.log.1")).expect("moved");
        sink.write(&line("two")).expect("written");
        sink.sync().expect("synced");
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect("file");
        assert!(read("mail.log.1").ends_with(": one\n") && read("mail.log").ends_with(": two\n"));
    }

    #[test]
    fn a_line_that_was_torn_goes_on_or_gets_an_end() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("mail.log");
        let mut sink = LogSink::open(&Output::File(path.clone())).expect("open");
        let torn = || Text { bytes: b"half a line\n".to_vec(), written: 6 };
        sink.unfinished = Some((line("a"), torn()));
        sink.write(&line("a")).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("file"), " line\n");
        sink.unfinished = Some((line("a"), torn()));
        sink.write(&line("b")).expect("written");
        let text = std::fs::read_to_string(&path).expect("file");
        assert!(text.starts_with(" line\n\n2") && text.ends_with(": b\n"), "{text}");
    }

    #[test]
    fn a_datagram_is_cut_at_a_character() {
        let (a, _b) = UnixDatagram::pair().expect("pair");
        rustix::net::sockopt::set_socket_send_buffer_size(&a, 4096).expect("small");
        let mut text = Text { bytes: "\u{fc}".repeat(20_000).into_bytes(), written: 0 };
        text.send(&a).expect("sent");
        assert!(text.bytes.len() < 8_192 && std::str::from_utf8(&text.bytes).is_ok());
    }
}

//! The writer of the mail log: takes lines from the outlet and writes them to syslog, to a file that
//! logrotate may move away, or to stdout. Runs on a thread of its own: a log that stands still holds
//! up nobody.

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
    /// Lines that could not be written before the daemon stopped.
    pub lost: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread; [`Writer::finish`] ends it.
    ///
    /// # Errors
    /// Where a file cannot be opened, or no thread can be started. Syslog may be away at the start.
    pub fn start(output: &Output, lines: Receiver<Line>) -> io::Result<Self> {
        let sink = Sink::open(output)?;
        let (lost, latest) = (Arc::<AtomicU64>::default(), Arc::<OnceLock<Instant>>::default());
        let mut scribe =
            Scribe { sink, host: hostname(), pid: std::process::id(), lost: lost.clone(), latest: latest.clone() };
        let thread = std::thread::Builder::new().name("event-log".into()).spawn(move || scribe.run(&lines))?;
        Ok(Self { thread, latest, lost })
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
    sink: Sink,
    host: String,
    pid: u32,
    lost: Arc<AtomicU64>,
    latest: Arc<OnceLock<Instant>>,
}

impl Scribe {
    fn run(&mut self, lines: &Receiver<Line>) {
        loop {
            match lines.recv_timeout(PAUSE) {
                Ok(line) => self.write(&line),
                Err(RecvTimeoutError::Timeout) if self.latest.get().is_none() => {}
                Err(_) => break,
            }
        }
        let lost = self.lost.load(Relaxed);
        if lost > 0 {
            tracing::error!(lost, "The daemon stops; the event log did not take its last lines.");
        }
    }

    /// Tries until the line is written; once the daemon stops, not for long.
    fn write(&mut self, line: &Line) {
        let mut text = self.sink.text(line, &self.host, self.pid);
        let mut failed = false;
        loop {
            if self.latest.get().is_some_and(|latest| *latest < Instant::now()) {
                self.lost.fetch_add(1, Relaxed);
                return;
            }
            match self.sink.write(&mut text) {
                Ok(()) => break,
                Err(error) if !failed => {
                    tracing::error!(%error, "Cannot write to the event log; its lines wait.");
                    failed = true;
                }
                Err(_) => {}
            }
            std::thread::sleep(PAUSE);
        }
        if failed {
            tracing::info!("The event log can be written again.");
        }
    }
}

/// A line on its way, and how much of it has been written: after a full disk the rest is, not the
/// whole again.
struct Text {
    bytes: Vec<u8>,
    written: usize,
}

enum Sink {
    Syslog(Option<UnixDatagram>),
    File { path: PathBuf, file: File, id: (u64, u64) },
    Stdout,
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
            Self::File { .. } | Self::Stdout => file_line(line, host, pid),
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
                connected.send(&text.bytes)?;
                *socket = Some(connected);
                Ok(())
            }
            Self::File { path, file, id } => {
                if id_of_path(path) != Some(*id) {
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
        }
    }
}

impl Text {
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
    socket.set_write_timeout(Some(Duration::from_secs(1)))?;
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
fn hostname() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.split('.').next().filter(|label| !label.is_empty()).unwrap_or("localhost").to_owned()
}

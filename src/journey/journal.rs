//! The system's journal, as journalctl(1) prints it: what it holds, and what comes. Rotation is journalctl's business.

use super::tail;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The lines of the mail facility, in a form that [`LogLine`](crate::lines::read::LogLine) reads.
const MAIL: [&str; 5] = ["--quiet", "--no-pager", "--all", "--output=short-iso-precise", "SYSLOG_FACILITY=2"];

/// What the journal is called where it cannot be read.
pub(super) const NAME: &str = "the journal";

/// So much is read at once: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// While lines come, the next are waited for so long.
const REFILL: Duration = Duration::from_millis(20);

/// So long is read in one go, however many lines come: others wait for their turn.
const LONGEST: Duration = Duration::from_millis(200);

/// A journalctl at work. Dropped, it is ended.
#[derive(Debug)]
pub(super) struct Journalctl {
    child: Child,
    out: ChildStdout,
}

impl Journalctl {
    /// Starts one, with further options.
    pub(super) fn start(options: &[&str]) -> io::Result<Self> {
        let mut command = Command::new("journalctl");
        command.args(MAIL).args(options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, out })
    }

    /// What it prints.
    pub(super) fn out(&mut self) -> &mut ChildStdout {
        &mut self.out
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Where it failed, in its own words.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let mut said = String::new();
        if let Some(err) = &mut self.child.stderr {
            err.read_to_string(&mut said)?;
        }
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let first = said.lines().next().map_or_else(|| status.to_string(), str::to_owned);
        Err(io::Error::other(format!("journalctl: {first}")))
    }

    /// Whether something is printed, or it ended, within a time.
    fn is_ready(&self, within: Duration) -> io::Result<bool> {
        let within = Timespec::try_from(within).map_err(io::Error::other)?;
        Ok(poll(&mut [PollFd::new(&self.out, PollFlags::IN)], Some(&within))? > 0)
    }
}

impl Drop for Journalctl {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The journal as it grows.
#[derive(Debug)]
pub struct JournalTail {
    journalctl: Journalctl,
    /// What is read of the line that is not complete.
    window: Vec<u8>,
}

impl JournalTail {
    /// From the newest so many lines on.
    ///
    /// # Errors
    /// Where journalctl cannot be run.
    pub(super) fn with_newest(lines: usize) -> io::Result<Self> {
        Self::start(&format!("--lines={lines}"))
    }

    /// From behind the line of a cursor on; without one, from the first line on.
    ///
    /// # Errors
    /// Where journalctl cannot be run.
    pub(super) fn behind(cursor: Option<&str>) -> io::Result<Self> {
        Self::start(&cursor.map_or_else(|| "--no-tail".to_owned(), |cursor| format!("--after-cursor={cursor}")))
    }

    fn start(from: &str) -> io::Result<Self> {
        Ok(Self { journalctl: Journalctl::start(&["--follow", from])?, window: Vec::new() })
    }

    /// Hands the lines that came to `on_line`. `false`: there are more already.
    ///
    /// # Errors
    /// Where journalctl ended, which it does not by itself.
    pub fn read(&mut self, mut on_line: impl FnMut(&[u8])) -> io::Result<bool> {
        let begun = Instant::now();
        let mut wait = Duration::ZERO;
        while self.journalctl.is_ready(wait)? {
            let before = self.window.len();
            self.window.resize(before + CHUNK_BYTES, 0);
            let n = self.journalctl.out().read(&mut self.window[before..])?;
            self.window.truncate(before + n);
            if n == 0 {
                self.journalctl.end()?;
                return Err(io::Error::other("journalctl ended"));
            }
            tail::take_lines(&mut self.window, |_, line| on_line(line));
            if begun.elapsed() > LONGEST {
                return Ok(false);
            }
            wait = REFILL;
        }
        Ok(true)
    }
}

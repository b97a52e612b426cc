//! What every command writes through: results, messages, questions to the operator, progress, and
//! the exit codes of sysexits(3).

use super::exit;
use super::signals::Signals;
use crate::mail::Printable;
use crate::store::{Store, StoreError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Why a command ended early: an exit code and a text for standard error. No text where there is
/// nothing to say (the reader of a pipe went away).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What to tell the operator; may be empty.
    pub message: String,
}

/// Where a command reads and writes.
pub struct Console<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Messages.
    pub err: &'a mut dyn Write,
    /// Answers of the operator.
    pub input: &'a mut dyn BufRead,
    /// Whether `input` is a terminal, so that there is somebody to ask.
    pub input_is_terminal: bool,
    /// Whether messages go to a terminal, so that there is somebody to show progress to.
    pub err_is_terminal: bool,
    /// Unix seconds.
    pub now: i64,
    /// Whether the command was told to end.
    pub signals: &'a Signals,
}

/// A bar or a count on standard error while long work lasts; nothing where that is no terminal.
pub struct Progress(ProgressBar);

/// Most bytes of what a text from outside may take on the terminal.
const MAX_SHOWN_BYTES: usize = 4_000;

/// A text from outside, for a message.
#[must_use]
pub fn shown(text: &str) -> Printable {
    Printable::new(text.as_bytes(), MAX_SHOWN_BYTES)
}

/// Writes one JSON object on one line.
///
/// # Errors
/// Where it cannot be written.
pub fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Prints the result of a command; its exit code. Where the reader of a pipe went away, it wants no
/// more, and that is no failure.
#[must_use]
pub fn print(text: &str) -> u8 {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => exit::OK,
        Err(error) => {
            let failure = Failure::from(error);
            if !failure.message.is_empty() {
                say(&failure);
            }
            failure.code
        }
    }
}

/// Tells the operator something on stderr. There is nobody to tell where that fails.
pub fn say(message: &dyn fmt::Display) {
    let _ = writeln!(io::stderr(), "gatepost: {message}");
}

impl Failure {
    /// An exit code and a text.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        let code = match &e {
            StoreError::Busy { .. } => exit::TEMPFAIL,
            StoreError::Denied { .. } => exit::NOPERM,
            StoreError::Full { .. } | StoreError::Other { .. } => exit::IOERR,
            StoreError::Missing { .. }
            | StoreError::Corrupt { .. }
            | StoreError::NotADatabase { .. }
            | StoreError::TooNew { .. } => exit::UNAVAILABLE,
        };
        Self::new(code, e.to_string())
    }
}

impl From<io::Error> for Failure {
    /// For errors of writing results.
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::new(0, ""),
            _ => Self::new(exit::IOERR, format!("writing: {e}")),
        }
    }
}

impl Console<'_> {
    /// Runs `work` on the process's own standard streams.
    pub fn standard<T>(signals: &Signals, work: impl FnOnce(&mut Console<'_>) -> T) -> T {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let done = work(&mut Console {
            out: &mut out,
            err: &mut io::stderr(),
            input: &mut io::stdin().lock(),
            input_is_terminal: io::stdin().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            now: jiff::Timestamp::now().as_second(),
            signals,
        });
        // a command flushes what it wrote; what is left here belongs to one that failed
        let _ = out.flush();
        done
    }

    /// Opens the database to change it: from now on a signal does not tear the command.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_store(&self, path: &Path) -> Result<Store, StoreError> {
        self.signals.hold();
        Store::open(path)
    }

    /// Asks a question that only `y` or `yes` answers with yes.
    ///
    /// # Errors
    /// Where the question cannot be written or the answer not read.
    pub fn confirm(&mut self, question: &str) -> Result<bool, Failure> {
        write!(self.err, "{question} [y/N] ")?;
        self.err.flush()?;
        let mut answer = String::new();
        io::Read::take(&mut *self.input, 100)
            .read_line(&mut answer)
            .map_err(|e| Failure::new(exit::IOERR, format!("reading the answer: {e}")))?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// A bar over `len` (bytes, where `bytes`), or a running count where the end is not known.
    #[must_use]
    pub fn progress(&self, len: Option<u64>, bytes: bool) -> Progress {
        if !self.err_is_terminal {
            return Progress(ProgressBar::hidden());
        }
        let template = match (len, bytes) {
            (Some(_), true) => "{bar:30} {percent}% of {total_bytes}, {msg}, {eta} left",
            (Some(_), false) => "{bar:30} {pos}/{len}, {eta} left",
            (None, true) => "{spinner} {bytes}, {msg}",
            (None, false) => "{spinner} {pos}",
        };
        let bar = ProgressBar::with_draw_target(len, ProgressDrawTarget::stderr_with_hz(5));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress(bar)
    }
}

impl Progress {
    /// How far it is, and in words.
    pub fn at(&self, position: u64, words: impl FnOnce() -> String) {
        if !self.0.is_hidden() {
            self.0.set_position(position);
            self.0.set_message(words());
        }
    }

    /// Lets `work` write a message without the bar in between.
    pub fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.suspend(work)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

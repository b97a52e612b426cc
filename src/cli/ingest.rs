//! `gatepost ingest`: SES events from files, by the same path as those from SQS: for what was missed, and
//! for replay. Works with the daemon up or down; safe to interrupt and to run twice.

pub(super) mod desk;
mod log;

use super::exit;
use super::input::Source;
use super::output::{Console, Failure, Progress};
use super::signals::Signals;
use crate::daemon::Config;
use crate::events::Verdict;
use crate::events::files::{Found, MAX_BODY_BYTES, bodies};
use desk::Desk;
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// `gatepost ingest`
#[derive(Clone, Debug, clap::Args)]
pub struct IngestArgs {
    /// The files, or - for standard input: one event a line or a file, or one after the other, or in an
    /// array; gzip too
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Enforce every new entry, however many there are
    #[arg(long)]
    pub no_brake: bool,
}

/// Reads the files and applies what they hold. What cannot be read is reported line by line, and the rest is
/// taken. Told to end by a signal, it applies what it has read, and says how far it came.
///
/// # Errors
/// A text for the operator and the exit code.
pub fn run(args: &IngestArgs, config: &Config, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let (sources, code) = find(&args.files, console.err)?;
    if sources.is_empty() {
        return Ok(code);
    }
    let mut desk = Desk::open(config, json, console)?;
    if args.no_brake {
        desk.brake = None;
    }
    let len = sources.iter().map(|s| s.len).sum();
    let progress = console.progress(len, true);
    let mut ingest = Ingest { progress, bytes: Cell::new(0), desk, signals: console.signals, stopped: false, code };
    let done = ingest.read_all(&sources, console).and_then(|()| ingest.desk.finish(console.err));
    let Ingest { progress, desk, stopped, code, .. } = ingest;
    drop(progress);
    if json {
        writeln!(console.out, "{}", desk.summary_json())?;
    }
    let stopped = if done.is_err() || stopped { "stopped early; so far " } else { "" };
    writeln!(console.err, "{stopped}{}", desk.summary())?;
    if desk.total.braked > 0 {
        let text = "the brake is on: new entries are recorded, not enforced, until you decide: gatepost suppress brake";
        writeln!(console.err, "{text}")?;
    }
    done?;
    console.out.flush()?;
    Ok(code)
}

/// The files that are there. One that is not is named, and the others are taken.
fn find(files: &[PathBuf], err: &mut dyn Write) -> Result<(Vec<Source>, u8), Failure> {
    let (mut sources, mut code) = (Vec::new(), exit::OK);
    for file in files {
        match Source::find(file) {
            Ok(source) => sources.push(source),
            Err(failure) => {
                writeln!(err, "{failure}")?;
                code = failure.code;
            }
        }
    }
    Ok((sources, code))
}

struct Ingest<'a> {
    progress: Progress,
    /// Read of all files, packed as they are.
    bytes: Cell<u64>,
    desk: Desk<'a>,
    signals: &'a Signals,
    /// Whether a signal ended the reading.
    stopped: bool,
    code: u8,
}

/// What ends the reading of a file.
enum Stop {
    Told,
    Unopened(Failure),
    Reading(io::Error),
    Failed(Failure),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Self::Reading(e)
    }
}

impl From<Failure> for Stop {
    fn from(e: Failure) -> Self {
        Self::Failed(e)
    }
}

impl Ingest<'_> {
    fn read_all(&mut self, sources: &[Source], console: &mut Console<'_>) -> Result<(), Failure> {
        for source in sources {
            if self.stopped {
                break;
            }
            let read = match source.open(self.signals) {
                Ok(input) => self.read(input, &source.name, console.err),
                Err(failure) => Err(Stop::Unopened(failure)),
            };
            match read {
                Ok(()) => {}
                Err(Stop::Failed(failure)) => return Err(failure),
                Err(Stop::Told) => self.stopped = true,
                Err(Stop::Reading(_) | Stop::Unopened(_)) if self.signals.told() => self.stopped = true,
                Err(Stop::Unopened(failure)) => {
                    self.progress.aside(|| writeln!(console.err, "{failure}"))?;
                    self.code = self.code.max(failure.code);
                }
                Err(Stop::Reading(error)) => {
                    let text = format_args!("{}: cannot be read to its end: {error}", source.name);
                    self.progress.aside(|| writeln!(console.err, "{text}"))?;
                    self.code = self.code.max(if is_damage(&error) { exit::DATAERR } else { exit::IOERR });
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, input: impl Read, name: &str, err: &mut dyn Write) -> Result<(), Stop> {
        let read = Cell::new(self.bytes.get());
        let done = bodies(Metered { input, read: &read }, |found| -> Result<(), Stop> {
            if self.signals.told() {
                return Err(Stop::Told);
            }
            self.take(&found, name, err)?;
            self.progress.at(read.get(), || self.desk.progress());
            Ok(())
        });
        self.bytes.set(read.get());
        done
    }

    fn take(&mut self, found: &Found, name: &str, err: &mut dyn Write) -> Result<(), Failure> {
        let place = format!("{name}:{}", found.line);
        let verdict = self.desk.take(&found.body, &place, err)?;
        let text = match verdict {
            Verdict::Unreadable { .. } if found.cut => {
                self.code = self.code.max(exit::DATAERR);
                format!("longer than {MAX_BODY_BYTES} bytes")
            }
            Verdict::Unreadable { why } => {
                self.code = self.code.max(exit::DATAERR);
                why
            }
            Verdict::Unknown { what } => format!("an event of an unknown type, {what}: kept in the quarantine"),
            Verdict::Foreign { account } if account.is_empty() => {
                "an event that names no account: kept in the quarantine".to_owned()
            }
            Verdict::Event { .. } | Verdict::NotAnEvent(_) | Verdict::Foreign { .. } => return Ok(()),
        };
        Ok(self.progress.aside(|| writeln!(err, "{place}: {text}"))?)
    }
}

/// Whether what was read is not what it should be, as against a disk that does not give it.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof)
}

/// Counts what is read.
struct Metered<'a, R> {
    input: R,
    read: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
    }
}

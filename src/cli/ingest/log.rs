//! The outbox's way into the mail log where no daemon runs: whoever holds the lock of the state folder
//! writes. Else the lines wait for the daemon, which looks for them several times a second.

use crate::cli::exit;
use crate::cli::output::Failure;
use crate::daemon::Config;
use crate::daemon::event_log::{LogSink, Output};
use crate::events::MailLog;
use crate::store::{self, Store};
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Lines after which it is looked whether there is something to write.
const LINES: u64 = 5_000;

/// Lines that are written before they are taken out of the outbox: what a crash repeats.
const STEP: usize = 1_000;

/// How long the lock is free between two steps: a daemon that starts tries it every millisecond.
const GAP: Duration = Duration::from_millis(3);

/// Lines that may wait for a daemon: far below the bound at which its own sources would have to stop.
const MAX_WAITING: u64 = 200_000;

/// How long a daemon gets to write them.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lock of the state folder, which a daemon holds as long as it runs.
const LOCK_FILE: &str = "gatepost.lock";

pub(super) struct Log<'a> {
    config: &'a Config,
    sink: Option<LogSink>,
    /// Whether standard output is for JSON alone.
    json: bool,
    lines: u64,
    has_complained: bool,
}

impl<'a> Log<'a> {
    pub(super) fn new(config: &'a Config, json: bool) -> Self {
        Self { config, sink: None, json, lines: 0, has_complained: false }
    }

    /// Told of lines that were put into the outbox. Waits where too many are there already.
    pub(super) fn after(&mut self, store: &mut Store, lines: u64, err: &mut dyn Write) -> Result<(), Failure> {
        self.lines += lines;
        if self.lines < LINES {
            return Ok(());
        }
        self.finish(store, err)?;
        let began = Instant::now();
        while store.backlog()?.lines > MAX_WAITING {
            if began.elapsed() > PATIENCE {
                let text = format!("more than {MAX_WAITING} log lines wait and nobody writes them: try again later");
                return Err(Failure::new(exit::TEMPFAIL, text));
            }
            std::thread::sleep(Duration::from_millis(100));
            self.finish(store, err)?;
        }
        Ok(())
    }

    /// Writes what waits, unless a daemon does. A log that cannot be written is no failure: the lines wait.
    pub(super) fn finish(&mut self, store: &mut Store, err: &mut dyn Write) -> Result<(), Failure> {
        self.lines = 0;
        if store.backlog()?.lines == 0 {
            return Ok(());
        }
        match self.write_all(store) {
            Ok(()) => {}
            Err(Trouble::Store(failure)) => return Err(failure),
            Err(Trouble::Log(error)) if !self.has_complained => {
                self.has_complained = true;
                writeln!(err, "the mail log cannot be written ({error}): its lines wait in the database")?;
            }
            Err(Trouble::Log(_)) => {}
        }
        Ok(())
    }

    /// The lock is held for one step at a time, so that a daemon that starts meanwhile gets it; and until the lines
    /// that were written have left the outbox, so that it repeats none.
    fn write_all(&mut self, store: &mut Store) -> Result<(), Trouble> {
        while let Some(held) = lock(&self.config.state_dir)?
            && self.write_step(store)?
        {
            drop(held);
            std::thread::sleep(GAP);
        }
        Ok(())
    }

    /// Writes the oldest lines; `false` where there were none.
    fn write_step(&mut self, store: &mut Store) -> Result<bool, Trouble> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            empty if self.json && self.config.event_log_output == Output::Stdout => empty.insert(LogSink::on_stderr()),
            empty => empty.insert(open(&self.config.event_log_output)?),
        };
        let (written, outcome) = sink.write_in_turn(&store.outbox(0, STEP)?)?;
        if let Some(id) = written {
            store.forget_written(id)?;
        }
        outcome?;
        Ok(written.is_some())
    }
}

enum Trouble {
    Log(io::Error),
    Store(Failure),
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Self::Log(e)
    }
}

impl From<store::StoreError> for Trouble {
    fn from(e: store::StoreError) -> Self {
        Self::Store(e.into())
    }
}

/// The lock; `None` where a daemon has it.
fn lock(state_dir: &Path) -> io::Result<Option<File>> {
    let path = state_dir.join(LOCK_FILE);
    store::ensure(&path)?;
    let file = File::options().write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// Opens the log. A file that is not there yet is made with its folder's owner, so that the daemon can
/// write to it when root was here first.
fn open(output: &Output) -> io::Result<LogSink> {
    if let Output::File(path) = output {
        store::ensure(path)?;
    }
    LogSink::open(output)
}

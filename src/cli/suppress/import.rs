//! `gatepost suppress import`.

use super::record::Defaults;
use super::sources::{self, Format};
use super::{ImportArgs, in_words};
use crate::cli::exit;
use crate::cli::input::Source;
use crate::cli::output::{Console, Failure, Progress, write_json};
use crate::cli::signals::Signals;
use crate::store::{Counts, Entry, OnExisting, Store};
use serde::Serialize;
use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

/// Entries a transaction: one commit to disk for many rows, and never so many that another writer
/// waits for a second.
const BATCH: usize = 10_000;

/// Reads the file and puts what it holds on the list. What is wrong is reported line by line, and
/// the rest is taken.
pub(super) fn run(args: &ImportArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let defaults = Defaults {
        reason: args.about.reason,
        evidence: args.about.note.clone().unwrap_or_default(),
        created: console.now,
        expires: args.about.expires(console.now)?,
    };
    let source = Source::find(&args.file)?;
    let mut store = console.open_store(path)?;
    store.use_large_cache()?;
    let mut import = Import {
        store: &mut store,
        batch: Vec::with_capacity(BATCH),
        counts: Counts::default(),
        refused: 0,
        now: console.now,
        signals: console.signals,
        stopped: false,
    };
    let progress = console.progress(source.len, true);
    let done = import
        .read(&Input { source: &source, format: args.format, defaults: &defaults, progress: &progress }, console.err);
    drop(progress);
    let Import { counts, refused, stopped, .. } = import;
    if stopped || done.is_err() {
        writeln!(console.err, "{}: stopped early; so far {}", source.name, in_words(counts))?;
    }
    done?;
    match json {
        true => write_json(console.out, &Summary { counts, refused })?,
        false => writeln!(console.out, "{}, {refused} refused", in_words(counts))?,
    }
    Ok(if refused == 0 { 0 } else { exit::DATAERR })
}

/// What `--json` prints.
#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    counts: Counts,
    refused: u64,
}

struct Import<'a> {
    store: &'a mut Store,
    batch: Vec<Entry>,
    counts: Counts,
    refused: u64,
    now: i64,
    signals: &'a Signals,
    /// Whether a signal ended the reading.
    stopped: bool,
}

/// What is read, and how.
struct Input<'a> {
    source: &'a Source,
    format: Option<Format>,
    defaults: &'a Defaults,
    progress: &'a Progress,
}

impl Import<'_> {
    /// Puts all of the source on the list, or what there is until a signal.
    fn read(&mut self, input: &Input<'_>, err: &mut dyn Write) -> Result<(), Failure> {
        let read = self.read_records(input, err);
        self.stopped = read.is_err() && self.signals.told();
        if !self.stopped {
            read?;
        }
        self.commit()
    }

    fn read_records(&mut self, input: &Input<'_>, err: &mut dyn Write) -> Result<(), Failure> {
        let Input { source, format, defaults, progress } = input;
        let name = &source.name;
        let mut reader = BufReader::with_capacity(256 << 10, source.open(self.signals)?);
        let wrong = |e| Failure::new(exit::NOINPUT, format!("{name}: cannot be read: {e}"));
        let format = match format {
            Some(format) => *format,
            None => sources::detect(reader.fill_buf().map_err(wrong)?),
        };
        let bytes = Cell::new(0);
        sources::read(format, &mut reader, &bytes, &mut |line, raw| {
            if self.signals.told() {
                return Err(Failure::new(exit::OK, "told to end"));
            }
            match raw.and_then(|raw| raw.entry(defaults)) {
                Ok(entry) => self.batch.push(entry),
                Err(what) => {
                    self.refused += 1;
                    progress.aside(|| writeln!(err, "{name}:{line}: {what}"))?;
                }
            }
            if self.batch.len() >= BATCH {
                self.commit()?;
                progress.at(bytes.get(), || in_words(self.counts));
            }
            Ok(())
        })
    }

    fn commit(&mut self) -> Result<(), Failure> {
        let counts = self.store.put(&self.batch, OnExisting::KeepLonger, self.now)?;
        self.counts.added += counts.added;
        self.counts.renewed += counts.renewed;
        self.counts.unchanged += counts.unchanged;
        self.batch.clear();
        Ok(())
    }
}

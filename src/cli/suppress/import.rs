//! `gatepost suppress import`.

use super::record::Defaults;
use super::sources::{self, Format};
use super::{ImportArgs, counts_json, expiry, in_words};
use crate::cli::exit;
use crate::cli::output::{Console, Failure, Progress};
use crate::store::{Counts, Entry, OnExisting, Store};
use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

/// Entries a transaction: one commit to disk for many rows, and never so many that another writer
/// waits for a second.
const BATCH: usize = 10_000;

/// Reads the file and puts what it holds on the list. What is wrong is reported line by line, and
/// the rest is taken.
pub(super) fn run(args: &ImportArgs, path: &Path, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let defaults = Defaults {
        reason: args.reason,
        evidence: args.note.clone().unwrap_or_default(),
        created: console.now,
        expires: expiry(&args.ttl, console.now)?,
    };
    let Source { mut file, name, len } = open(&args.file)?;
    let progress = console.progress(len, true);
    let mut store = Store::open(path)?;
    store.use_large_cache()?;
    let mut import = Import {
        store: &mut store,
        batch: Vec::with_capacity(BATCH),
        counts: Counts::default(),
        refused: 0,
        now: console.now,
    };
    let input: &mut dyn BufRead = match &mut file {
        Some(file) => file,
        None => console.input,
    };
    let done = import.read(input, args.format, &name, &defaults, console.err, &progress);
    drop(progress);
    if let Err(failure) = done {
        writeln!(console.err, "{name}: stopped early; so far {}", in_words(import.counts))?;
        return Err(failure);
    }
    let Import { counts, refused, .. } = import;
    match json {
        true => writeln!(console.out, "{},\"refused\":{refused}}}", counts_json(counts).trim_end_matches('}'))?,
        false => writeln!(console.out, "{}, {refused} refused", in_words(counts))?,
    }
    Ok(if refused == 0 { 0 } else { exit::DATAERR })
}

struct Source {
    /// `None`: standard input.
    file: Option<BufReader<File>>,
    /// For messages.
    name: String,
    /// In bytes, where it is known.
    len: Option<u64>,
}

fn open(path: &Path) -> Result<Source, Failure> {
    if path == Path::new("-") {
        return Ok(Source { file: None, name: "stdin".to_owned(), len: None });
    }
    let name = path.display().to_string();
    let wrong = |what: String| Failure::new(exit::NOINPUT, format!("{name}: {what}"));
    let file = File::open(path).map_err(|e| wrong(format!("cannot be opened: {e}")))?;
    let about = file.metadata().map_err(|e| wrong(e.to_string()))?;
    if about.is_dir() {
        return Err(wrong("is a folder: name a file".to_owned()));
    }
    let len = about.is_file().then_some(about.len());
    Ok(Source { file: Some(BufReader::with_capacity(256 << 10, file)), name, len })
}

struct Import<'a> {
    store: &'a mut Store,
    batch: Vec<Entry>,
    counts: Counts,
    refused: u64,
    now: i64,
}

impl Import<'_> {
    fn read(
        &mut self,
        input: &mut dyn BufRead,
        format: Option<Format>,
        name: &str,
        defaults: &Defaults,
        err: &mut dyn Write,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let format = match format {
            Some(format) => format,
            None => sources::detect(
                input.fill_buf().map_err(|e| Failure::new(exit::NOINPUT, format!("{name}: cannot be read: {e}")))?,
            ),
        };
        let bytes = Cell::new(0);
        sources::read(format, input, &bytes, &mut |line, raw| {
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
        })?;
        self.commit()
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

//! From text to table, or to every problem: lines as Postfix's texthash(5) reads them, but what
//! Postfix skips with a warning is a problem here, for a skipped line is a sender refused.

use super::action::{self, Note};
use super::lines::{EMPTY_ON_PURPOSE, Lines, Logical, is_blank, is_space};
use super::{Allowlist, Key, Slot, pattern};
use crate::rules::{Problem, Severity};
use hashbrown::hash_table::Entry as Place;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The largest file, in bytes: ten million entries of ordinary length.
pub const MAX_FILE_BYTES: usize = 256 * 1024 * 1024;

/// The most entries: ten times the million that reload in a second.
pub const MAX_ENTRIES: usize = 10_000_000;

/// How many problems, and how many warnings, of a file are told in full.
pub const MAX_FINDINGS: usize = 100;

/// How many entries wait to be put into the table together: as many as stay in the cache meanwhile.
const PENDING: usize = 4_096;

pub(super) fn parse(file: &Path, text: &[u8]) -> Result<(Allowlist, Vec<Problem>), Vec<Problem>> {
    let mut parser = Parser::new(file, text);
    if let Err(message) = check_whole(text) {
        parser.findings.add(0, 0, Severity::Problem, message);
        return Err(parser.findings.all());
    }
    let mut lines = Lines::new(text);
    for line in &mut lines {
        if parser.list.len() + parser.pending.len() >= MAX_ENTRIES {
            let message = format!("more than {MAX_ENTRIES} entries: list domains instead of addresses");
            parser.findings.add(line.line(), 1, Severity::Problem, message);
            break;
        }
        parser.line(&line);
    }
    parser.finish(lines.empty_on_purpose)
}

fn check_whole(text: &[u8]) -> Result<(), String> {
    if text.len() > MAX_FILE_BYTES {
        return Err(format!(
            "the file has {} bytes, more than {MAX_FILE_BYTES}: list domains instead of addresses",
            text.len()
        ));
    }
    if text.starts_with(b"\xef\xbb\xbf") {
        return Err("the file begins with a byte order mark: save it as UTF-8 without one".to_owned());
    }
    Ok(())
}

struct Parser {
    list: Allowlist,
    /// Right-hand sides already read, by their text; without those that had something to say.
    known: HashMap<Box<[u8]>, u32>,
    findings: Findings,
    notes: Vec<Note>,
    /// Entries not yet in the table, with their hashes: put in one right after the other, many of
    /// the table's cache misses overlap.
    pending: Vec<(u64, Slot)>,
}

impl Parser {
    fn new(file: &Path, text: &[u8]) -> Self {
        let mut list = Allowlist::default();
        let lines = memchr::memchr_iter(b'\n', text).count() + 1;
        list.table.reserve(lines.min(MAX_ENTRIES), |_| 0);
        let pending = Vec::with_capacity(PENDING);
        Self { list, known: HashMap::new(), findings: Findings::new(file), notes: Vec::new(), pending }
    }

    fn line(&mut self, line: &Logical<'_>) {
        if let Err(note) = self.entry(line) {
            self.findings.note(line, 0, note);
        }
    }

    /// One entry; `Err` is a problem of the line as a whole.
    fn entry(&mut self, line: &Logical<'_>) -> Result<(), Note> {
        let text = utf8(&line.text)?;
        if text.as_bytes().first().is_some_and(|b| is_space(*b)) {
            let message = "the line begins with white space, but there is no line before it that it could go on with: \
                           remove the white space";
            return Err(Note::problem(0, message));
        }
        let key_end = key_end(text.as_bytes())?;
        let (key, rest) = text.split_at(key_end);
        let value = rest.trim_matches(is_blank);
        if value.is_empty() {
            return Err(Note::problem(key_end, format!("no action after \"{key}\": write \"{key} OK\"")));
        }
        let value_at = text.len() - rest.trim_start_matches(is_blank).len();
        let start = self.list.keys.len();
        let key = pattern::push_key(&mut self.list.keys, key, &mut self.notes);
        self.take_notes(line, 0);
        let entry = self.action(value);
        self.take_notes(line, value_at);
        key?;
        match entry {
            Some(entry) => self.push(line, start, entry),
            None => self.list.keys.truncate(start),
        }
        Ok(())
    }

    /// The number of a right-hand side; notes are left for the caller to place.
    fn action(&mut self, value: &str) -> Option<u32> {
        if let Some(entry) = self.known.get(value.as_bytes()) {
            return Some(*entry);
        }
        let entry = action::parse(value, &mut self.notes)?;
        let number = u32::try_from(self.list.entries.len()).ok()?;
        self.list.entries.push(entry);
        if self.notes.is_empty() {
            self.known.insert(value.as_bytes().into(), number);
        }
        Some(number)
    }

    fn take_notes(&mut self, line: &Logical<'_>, offset: usize) {
        for note in self.notes.drain(..) {
            self.findings.note(line, offset, note);
        }
    }

    fn push(&mut self, line: &Logical<'_>, start: usize, entry: u32) {
        let key = &self.list.keys[start..];
        // Neither can fail within the bounds of file and pattern.
        let (Ok(start), Ok(len)) = (u32::try_from(start), u16::try_from(key.len())) else {
            return;
        };
        self.pending.push((Key::of(key).hash(&self.list.hasher), Slot { start, line: line.line(), entry, len }));
        if self.pending.len() == PENDING {
            self.insert_pending();
        }
    }

    /// The first of two equal keys stays, as in Postfix's hash and lmdb tables.
    fn insert_pending(&mut self) {
        let Allowlist { keys, table, hasher, .. } = &mut self.list;
        for (hash, slot) in self.pending.drain(..) {
            let key = slot.key(keys);
            match table.entry(hash, |other| key == other.key(keys), |other| Key::of(other.key(keys)).hash(hasher)) {
                Place::Vacant(place) => drop(place.insert(slot)),
                Place::Occupied(first) => self.findings.duplicate(key, slot.line, first.get().line),
            }
        }
    }

    fn finish(mut self, empty_on_purpose: Option<u32>) -> Result<(Allowlist, Vec<Problem>), Vec<Problem>> {
        self.insert_pending();
        let entries = self.list.len();
        match empty_on_purpose {
            None if entries == 0 && !self.findings.has_problems() => {
                let message = format!(
                    "no entries, which would refuse everybody: add some, or the line \"{EMPTY_ON_PURPOSE}\" if that is meant"
                );
                self.findings.add(1, 1, Severity::Problem, message);
            }
            Some(line) if entries > 0 => {
                let message =
                    format!("says that the file is empty on purpose, but it has entries ({entries}): remove this line");
                self.findings.add(line, 1, Severity::Warning, message);
            }
            _ => {}
        }
        if self.findings.has_problems() { Err(self.findings.all()) } else { Ok((self.list, self.findings.all())) }
    }
}

fn utf8(text: &[u8]) -> Result<&str, Note> {
    std::str::from_utf8(text).map_err(|error| {
        let message = "not UTF-8: Postfix skips such a line; save the file as UTF-8";
        Note::problem(error.valid_up_to(), message)
    })
}

/// Where the key ends: at the first white space outside quotes; a backslash takes the next byte's
/// meaning.
fn key_end(text: &[u8]) -> Result<usize, Note> {
    let (mut quote, mut i) = (None, 0);
    while let Some(byte) = text.get(i) {
        match byte {
            b'\\' => i += 1,
            b'"' => quote = if quote.is_none() { Some(i) } else { None },
            byte if is_space(*byte) && quote.is_none() => return Ok(i),
            _ => {}
        }
        i += 1;
    }
    match quote {
        Some(at) => Err(Note::problem(at, "a quote that is never closed: close it, as in \"first last\"@domain OK")),
        None => Ok(text.len()),
    }
}

/// The findings of one file: of each severity the first, then how many more.
struct Findings {
    file: PathBuf,
    found: Vec<Problem>,
    problems: usize,
    warnings: usize,
}

impl Findings {
    fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), found: Vec::new(), problems: 0, warnings: 0 }
    }

    fn has_problems(&self) -> bool {
        self.problems > 0
    }

    fn note(&mut self, line: &Logical<'_>, offset: usize, note: Note) {
        let (line, column) = line.locate(offset + note.offset);
        self.add(line, column, note.severity, note.message);
    }

    fn duplicate(&mut self, key: &[u8], line: u32, first: u32) {
        let message = format!(
            "\"{}\" stands in line {first} already, and the first counts: remove one (Postfix refuses the whole file as \
             texthash:)",
            String::from_utf8_lossy(key)
        );
        self.add(line, 1, Severity::Warning, message);
    }

    fn add(&mut self, line: u32, column: u32, severity: Severity, message: String) {
        let count = if severity == Severity::Problem { &mut self.problems } else { &mut self.warnings };
        *count += 1;
        if *count <= MAX_FINDINGS {
            self.found.push(Problem { file: self.file.clone(), line, column, severity, message });
        }
    }

    fn all(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|finding| (finding.line, finding.column));
        for (count, severity, word) in
            [(self.problems, Severity::Problem, "problems"), (self.warnings, Severity::Warning, "warnings")]
        {
            if count > MAX_FINDINGS {
                let message = format!("{} more {word} in this file", count - MAX_FINDINGS);
                self.found.push(Problem { file: self.file.clone(), line: 0, column: 0, severity, message });
            }
        }
        self.found
    }
}

//! A record as the shared store has it: a line of text for each thing that it says, fields by tab. The first line is
//! the version of the form. Texts of entries are printable, so neither tab nor line feed is in them.

use super::{Fact, Record, Word};
use crate::mail::Address;
use crate::store::{Entry, Origin, Reason};
use std::fmt::Write;

/// Most bytes of a record that is read: five entries with the longest texts.
pub const MAX_RECORD_BYTES: usize = 16 << 10;

/// The version of the form. A relay leaves alone what a newer one wrote.
const FORM: &str = "1";

/// The latest time of a version: the end of the year 9999. What claims to be later could never be replaced.
const MAX_VERSION: i64 = 253_402_300_799_999;

/// Why a text is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A newer gatepost wrote it.
    #[error("a newer gatepost wrote it")]
    Newer,
    /// Something else.
    #[error("it is no record of an address")]
    Garbage,
}

impl Record {
    /// The record as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = FORM.to_owned();
        if let Some(word) = &self.word {
            match &word.entry {
                Some(entry) => write_entry(&mut text, format_args!("w\t{}", word.version), entry),
                None => add(&mut text, format_args!("\nr\t{}", word.version)),
            }
        }
        if let Some(taken) = self.taken {
            add(&mut text, format_args!("\nt\t{taken}"));
        }
        for fact in &self.facts {
            write_entry(
                &mut text,
                format_args!("{}\t{}", if fact.echo { "s" } else { "e" }, fact.mail_time),
                &fact.entry,
            );
        }
        text
    }

    /// Reads the record of `address`.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn decode(address: &Address, text: &[u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(text).map_err(|_| Unreadable::Garbage)?;
        let mut lines = text.split('\n');
        match lines.next().and_then(|form| form.parse::<u32>().ok()) {
            Some(1) => {}
            Some(form) if form > 1 => return Err(Unreadable::Newer),
            _ => return Err(Unreadable::Garbage),
        }
        if text.len() > MAX_RECORD_BYTES {
            return Err(Unreadable::Garbage);
        }
        lines.try_fold(Self::default(), |record, line| {
            read_line(address, line).map(|part| record.join(part)).ok_or(Unreadable::Garbage)
        })
    }
}

fn add(text: &mut String, what: std::fmt::Arguments<'_>) {
    // writing to a String cannot fail
    let _ = text.write_fmt(what);
}

fn write_entry(text: &mut String, head: std::fmt::Arguments<'_>, entry: &Entry) {
    let (reason, source) = (entry.reason.code(), entry.source.code());
    add(text, format_args!("\n{head}\t{reason}\t{source}\t{}\t", entry.created));
    if let Some(expires) = entry.expires {
        add(text, format_args!("{expires}"));
    }
    add(text, format_args!("\t{}\t{}", entry.spelling.as_deref().unwrap_or_default(), entry.evidence));
}

fn read_line(address: &Address, line: &str) -> Option<Record> {
    let (kind, rest) = line.split_once('\t')?;
    let (number, rest) = rest.split_once('\t').unwrap_or((rest, ""));
    let number = number.parse::<i64>().ok().filter(|n| *n <= MAX_VERSION)?;
    let is_alone = rest.is_empty();
    let fact = |echo| -> Option<Record> {
        let entry = read_entry(address, rest)?;
        Some(Record { facts: vec![Fact { entry, mail_time: number, echo }], ..Record::default() })
    };
    match kind {
        "r" if is_alone => Some(Record::removed(number)),
        "t" if is_alone => Some(Record::taken_back(number)),
        "w" => {
            let entry = Some(read_entry(address, rest)?);
            Some(Record { word: Some(Word { version: number, entry }), ..Record::default() })
        }
        "e" => fact(false),
        "s" => fact(true),
        _ => None,
    }
}

fn read_entry(address: &Address, text: &str) -> Option<Entry> {
    let mut fields = text.splitn(6, '\t');
    let mut next = || fields.next();
    let reason = Reason::from_code(next()?.parse().ok()?)?;
    let source = Origin::from_code(next()?.parse().ok()?)?;
    let created = next()?.parse().ok()?;
    let expires = match next()? {
        "" => None,
        at => Some(at.parse().ok()?),
    };
    let spelling = Some(next()?).filter(|s| !s.is_empty()).map(str::to_owned);
    let entry =
        Entry { address: address.clone(), spelling, reason, evidence: next()?.to_owned(), source, created, expires };
    Some(entry.bounded())
}

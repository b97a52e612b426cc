//! The logs of a real run, over and over, each time with other ids, addresses and times.

use crate::common::Result;
use aho_corasick::{AhoCorasick, MatchKind};
use gatepost::lines::read::{Entry, LogLine};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Addresses that stand in so many messages.
pub const FEW: (&str, usize) = ("three@example.org", 3);
pub const MANY: (&str, usize) = ("thousand@example.org", 1_000);

/// The logs to look into.
#[derive(Debug)]
pub struct Logs {
    pub files: Vec<PathBuf>,
    pub messages: u64,
}

/// What is another in each copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Queue,
    Ses,
    Correlation,
    MessageId,
    Recipient,
}

/// Between the copies of a second: longer than a run takes, so that times rise.
const STEP: SignedDuration = SignedDuration::from_secs(60);

/// Writes logs of `size` bytes beside the two of a run.
pub fn multiply(dir: &Path, size: u64) -> Result<Logs> {
    let originals = ["mail.log", "gatepost.log"].map(|name| dir.join(name));
    let texts = [fs::read_to_string(&originals[0])?, fs::read_to_string(&originals[1])?];
    let (ids, single) = ids(&texts);
    let names: Vec<&str> = ids.keys().map(String::as_str).collect();
    let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&names)?;
    let copies = size / texts.iter().map(|text| text.len() as u64).sum::<u64>() + 1;
    let begin = Timestamp::now().checked_sub(STEP * i32::try_from(copies)?)?;
    let files = ["big-mail.log", "big-gatepost.log"].map(|name| dir.join(name));
    for (text, path) in texts.iter().zip(&files) {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        for copy in 0..copies {
            let at = begin.checked_add(STEP * i32::try_from(copy)?)?;
            let mut new: Vec<String> = ids.iter().map(|(id, kind)| renamed(id, *kind, copy)).collect();
            for (address, count) in [FEW, MANY] {
                for recipient in single.iter().skip(count % 2).step_by(2).take(share(count, copy, copies)) {
                    new[names.binary_search(&recipient.as_str()).map_err(|_| "no such recipient")?] =
                        address.to_owned();
                }
            }
            for line in text.lines() {
                let line = with_time(line, at).unwrap_or_default();
                file.write_all(&finder.replace_all_bytes(line.as_bytes(), &new))?;
                file.write_all(b"\n")?;
            }
        }
        file.flush()?;
    }
    let removed = texts[0].matches(": removed").count() as u64;
    Ok(Logs { files: files.into(), messages: removed * copies })
}

/// How many of `count` messages are in this of so many copies.
fn share(count: usize, copy: u64, copies: u64) -> usize {
    let until = |copy: u64| count as u64 * copy / copies;
    (until(copy + 1) - until(copy)) as usize
}

/// All ids and recipients of the logs, and the recipients of messages that have one only, and that were delivered.
fn ids(texts: &[String]) -> (BTreeMap<String, Kind>, Vec<String>) {
    let mut ids = BTreeMap::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        let Some(entry) = LogLine::parse(line.as_bytes()).and_then(|line| line.entry()) else { continue };
        let mut note = |id: &[u8], kind: Kind| {
            let id = String::from_utf8_lossy(id).into_owned();
            if !id.is_empty() {
                ids.entry(id).or_insert(kind);
            }
        };
        note(entry.queue_id(), Kind::Queue);
        note(entry.ses_id(), Kind::Ses);
        match entry {
            Entry::MessageId { message_id, .. } => note(message_id, Kind::MessageId),
            Entry::Stamped(stamped) => note(stamped.correlation_id, Kind::Correlation),
            Entry::Attempt(attempt) => note(attempt.to, Kind::Recipient),
            _ => {}
        }
    }
    let single = ids.iter().filter(|(id, kind)| **kind == Kind::Recipient && id.starts_with("user"));
    let single = single.filter(|(id, _)| !ids.contains_key(&id.replace("-0@", "-1@")) && id.contains("-0@"));
    let single = single.map(|(id, _)| id.clone()).collect();
    (ids, single)
}

/// The letters of Postfix's long ids.
const LETTERS: &[u8] = b"0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";

/// An id as another message of the same relay could have it, of the same length: other digits where it holds the time, and
/// where it is random. An address with the number of the copy.
fn renamed(id: &str, kind: Kind, copy: u64) -> String {
    match kind {
        Kind::Queue => {
            let at = id.len().min(6);
            let part =
                id.as_bytes()[at - 4..at].iter().map(|b| LETTERS.iter().position(|l| l == b).unwrap_or(0) as u64);
            let mut number = part.fold(0, |sum, digit| sum * 52 + digit) + copy;
            let mut digits = [b'0'; 4];
            for digit in digits.iter_mut().rev() {
                *digit = LETTERS[(number % 52) as usize];
                number /= 52;
            }
            format!("{}{}{}", &id[..at - 4], String::from_utf8_lossy(&digits), &id[at..])
        }
        Kind::Ses => {
            format!("{}{:08x}{}{:08x}{}", &id[..8], hex(id, 8, copy), &id[16..17], hex(id, 17, copy), &id[25..])
        }
        Kind::Correlation => format!("{:08x}{}{:08x}", hex(id, 0, copy), &id[8..28], hex(id, 28, copy)),
        Kind::MessageId => format!("{copy}.{id}"),
        Kind::Recipient => id.replace('@', &format!(".{copy}@")),
    }
}

/// Eight hexadecimal digits of an id, as another message has them.
fn hex(id: &str, at: usize, copy: u64) -> u32 {
    let digits = u32::from_str_radix(&id[at..at + 8], 16).unwrap_or(0);
    digits.wrapping_add((copy as u32).wrapping_mul(0x9e37_79b1))
}

/// A line with another time: its own second and fraction within the minute that begins at `minute`.
fn with_time(line: &str, minute: Timestamp) -> Option<String> {
    let civil = minute.to_zoned(jiff::tz::TimeZone::system());
    if line.starts_with(|c: char| c.is_ascii_digit()) {
        let (stamp, rest) = line.split_once(' ')?;
        let minute = minute.strftime("%Y-%m-%dT%H:%M");
        return Some(format!("{minute}:{}+00:00 {rest}", &stamp[17..26]));
    }
    Some(format!("{}{}", civil.strftime("%b %d %H:%M"), line.get(12..)?))
}

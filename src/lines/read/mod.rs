//! Log lines, read: when, on which host, who wrote it and what it says, of Postfix's lines and our own. Byte-based,
//! and nothing is taken for granted: what is no such line is passed by.

mod entry;
mod fields;
mod postfix;
mod stamp;
#[cfg(test)]
mod tests;

pub use entry::{Arrival, Attempt, Decided, Entry, Event, Stamped, Verdict, is_queue_id};
pub use stamp::{Stamp, Yearless};

use memchr::memchr;

/// A line of a mail log: `stamp host ident[pid]: text`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// When.
    pub stamp: Stamp,
    /// The host, as the log names it.
    pub host: &'a [u8],
    /// Who wrote it, such as `postfix/smtpd`.
    pub ident: &'a [u8],
    /// What follows.
    pub text: &'a [u8],
}

impl<'a> LogLine<'a> {
    /// Reads a line, with or without its line end; `None` where it is none of a mail log.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (stamp, rest) = Stamp::parse(line)?;
        let (host, rest) = split(rest, b' ')?;
        let (tag, rest) = split(rest, b' ')?;
        let tag = tag.strip_suffix(b":")?;
        let ident = match memchr(b'[', tag) {
            Some(at) if tag.ends_with(b"]") => &tag[..at],
            _ => tag,
        };
        (!host.is_empty() && !ident.is_empty()).then_some(Self { stamp, host, ident, text: rest })
    }

    /// What the line says; `None` where it says nothing of a message.
    #[must_use]
    pub fn entry(&self) -> Option<Entry<'a>> {
        let program = self.ident.rsplit(|b| *b == b'/').next().unwrap_or_default();
        Entry::parse(program, self.text)
    }
}

/// What stands before and behind the first `byte`.
fn split(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr(byte, text)?;
    Some((&text[..at], &text[at + 1..]))
}

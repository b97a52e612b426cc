//! `name=value, name=<value>, name=(text)`: what both Postfix's lines and ours are made of.

use memchr::{memchr, memchr_iter};

/// What ends a line, in round brackets.
const TEXTS: [&[u8]; 6] = [b"response", b"reason", b"agent", b"link", b"reply", b"note"];

/// What stands in angle brackets.
const IN_BRACKETS: [&[u8]; 4] = [b"to", b"orig_to", b"from", b"message-id"];

/// The fields of a text, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// All that was not yet read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    /// Name and value, without the brackets around the value. A text in round brackets ends the line.
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.strip_prefix(b", ").unwrap_or(self.rest);
        let equals = memchr(b'=', rest)?;
        let (name, value) = (&rest[..equals], &rest[equals + 1..]);
        if TEXTS.contains(&name)
            && let Some(text) = value.strip_prefix(b"(")
        {
            self.rest = &[];
            return Some((name, text.strip_suffix(b")").unwrap_or(text)));
        }
        let in_brackets = if IN_BRACKETS.contains(&name) { bracketed(value) } else { None };
        let (value, rest) = in_brackets.unwrap_or_else(|| until_comma(value));
        self.rest = rest;
        Some((name, value))
    }
}

/// What stands in the angle brackets with which `text` begins, and what follows them. A `>` in quotes, as a local part
/// may have it, does not close them.
pub(super) fn bracketed(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = text.strip_prefix(b"<")?;
    let behind_quotes = quoted_len(inner).unwrap_or(0);
    let end = memchr(b'>', inner.get(behind_quotes..)?).map(|at| at + behind_quotes).or_else(|| memchr(b'>', inner))?;
    Some((&inner[..end], &inner[end + 1..]))
}

fn until_comma(text: &[u8]) -> (&[u8], &[u8]) {
    // Quicker than a search for both bytes, which has to be set up for each field.
    let end = memchr_iter(b',', text).find(|at| text.get(at + 1) == Some(&b' ')).unwrap_or(text.len());
    text.split_at(end)
}

/// How long the quoted string is with which `text` begins.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    text.strip_prefix(b"\"")?;
    loop {
        match text.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

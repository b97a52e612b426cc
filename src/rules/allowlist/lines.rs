//! Logical lines, as Postfix's readllines(3) puts them together: a line that begins with white
//! space goes on with the one before it, comments and blank lines in between do not end it.

use memchr::memchr;
use smallvec::SmallVec;
use std::borrow::Cow;

/// What a file must say that is to have no entries.
pub(super) const EMPTY_ON_PURPOSE: &str = "# gatepost: empty on purpose";

/// One logical line.
pub(super) struct Logical<'a> {
    /// Without the line feeds.
    pub text: Cow<'a, [u8]>,
    /// Where each physical line begins in `text`, and its number.
    pieces: SmallVec<[(usize, u32); 1]>,
}

/// The logical lines of a text.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    number: u32,
    /// The line that says [`EMPTY_ON_PURPOSE`], once it was passed.
    pub empty_on_purpose: Option<u32>,
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text, number: 0, empty_on_purpose: None }
    }

    fn physical(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.number = self.number.saturating_add(1);
        let end = memchr(b'\n', self.rest).unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Some(line)
    }

    fn note_comment(&mut self, line: &[u8]) {
        if self.empty_on_purpose.is_none() && line.trim_ascii().to_ascii_lowercase() == EMPTY_ON_PURPOSE.as_bytes() {
            self.empty_on_purpose = Some(self.number);
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Logical<'a>;

    fn next(&mut self) -> Option<Logical<'a>> {
        let mut out: Option<Logical<'a>> = None;
        while let Some(line) = self.physical() {
            match line.iter().find(|b| !is_space(**b)) {
                None => {}
                Some(b'#') => self.note_comment(line),
                Some(_) => match &mut out {
                    None => {
                        let pieces = SmallVec::from([(0, self.number)]);
                        out = Some(Logical { text: Cow::Borrowed(line), pieces });
                    }
                    Some(logical) => logical.append(line, self.number),
                },
            }
            let continues = self.rest.first().is_some_and(|b| *b == b'#' || is_space(*b));
            if out.is_some() && !continues {
                break;
            }
        }
        out
    }
}

impl Logical<'_> {
    fn append(&mut self, line: &[u8], number: u32) {
        self.pieces.push((self.text.len(), number));
        self.text.to_mut().extend_from_slice(line);
    }

    /// The number of its first physical line.
    pub fn line(&self) -> u32 {
        self.pieces.first().map_or(0, |(_, number)| *number)
    }

    /// Line and column (in characters, from 1) of a byte of `text`.
    pub fn locate(&self, offset: usize) -> (u32, u32) {
        let (start, line) = self.pieces.iter().rev().find(|(start, _)| *start <= offset).copied().unwrap_or_default();
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        let column = String::from_utf8_lossy(before).chars().count() + 1;
        (line, u32::try_from(column).unwrap_or(u32::MAX))
    }
}

/// What C's isspace(3) takes for white space, and so Postfix.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// [`is_space`] for a character.
pub(super) fn is_blank(c: char) -> bool {
    u8::try_from(c).is_ok_and(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(text: &str) -> Vec<(u32, String)> {
        Lines::new(text.as_bytes()).map(|l| (l.line(), String::from_utf8_lossy(&l.text).into_owned())).collect()
    }

    #[test]
    fn lines_are_joined_as_readllines_does() {
        for (text, lines) in [
            ("", vec![]),
            ("a OK", vec![(1, "a OK")]),
            ("a OK\nb OK\n", vec![(1, "a OK"), (2, "b OK")]),
            ("# x\n\na\n  OK\nb OK\n", vec![(3, "a  OK"), (5, "b OK")]),
            ("a REJECT\n# between\n\n \t\n  some text\n #x\n", vec![(1, "a REJECT  some text")]),
            (" a OK\nb OK\n", vec![(1, " a OK"), (2, "b OK")]),
            ("a OK\r\n\r\nb OK\r\n", vec![(1, "a OK\r"), (3, "b OK\r")]),
        ] {
            let expected: Vec<(u32, String)> = lines.into_iter().map(|(n, l)| (n, l.to_owned())).collect();
            assert_eq!(logical(text), expected, "{text:?}");
        }
    }

    #[test]
    fn places_are_found_across_pieces() {
        let line = Lines::new("\u{e4}b REJECT\n#\n  text".as_bytes()).next().expect("a line");
        assert_eq!(
            (line.locate(0), line.locate(4), line.locate(10), line.locate(12)),
            ((1, 1), (1, 4), (3, 1), (3, 3))
        );
    }

    #[test]
    fn the_mark_of_an_empty_file_is_seen() {
        for (text, line) in [
            ("# gatepost: empty on purpose\n", Some(1)),
            ("# x\n  # Gatepost: empty on purpose\r\n", Some(2)),
            ("# gatepost: empty\n", None),
        ] {
            let mut lines = Lines::new(text.as_bytes());
            assert!(lines.next().is_none());
            assert_eq!(lines.empty_on_purpose, line, "{text:?}");
        }
    }
}

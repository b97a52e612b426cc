//! Bodies in files, for the spool and `gatepost ingest`: one event per line or one per file (or one after
//! the other, pretty-printed, or in an array), gzip too. Read as a stream: a file may be larger than memory.
//!
//! A value ends where its brackets are balanced. Where it cannot go on as JSON (the line was cut off, a quote
//! is missing), it ends before the next line that begins with a bracket: a broken line costs itself alone.

mod shape;

use flate2::read::MultiGzDecoder;
use memchr::{memchr, memchr_iter};
use shape::{Shape, Step};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;

/// The longest body: twice what a message of SQS can hold, for what a pretty printer adds.
pub const MAX_BODY_BYTES: usize = 2 << 20;

/// How much is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// The beginning of a gzip file (RFC 1952 section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The byte order mark, which some editors put before UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A body in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The line on which it begins, from 1 (of the unpacked text).
    pub line: u64,
    /// The body, without the blanks around it.
    pub body: Vec<u8>,
    /// Whether it is longer than [`MAX_BODY_BYTES`]; then this is its beginning, and no JSON.
    pub cut: bool,
}

/// Hands every body of `input` to `each`, in order. What is no JSON is a body all the same, line by line: to
/// say so is the reader's business.
///
/// # Errors
/// Where reading fails (a broken gzip is one), or the first error of `each`.
pub fn bodies<E: From<io::Error>>(input: impl Read, mut each: impl FnMut(Found) -> Result<(), E>) -> Result<(), E> {
    let mut splitter = Splitter { window: Window::new(unpacked(input)?), in_array: false };
    while let Some(found) = splitter.next()? {
        each(found)?;
    }
    Ok(())
}

/// What `input` holds, unpacked where it is gzip.
///
/// # Errors
/// Where its first bytes cannot be read.
pub fn unpacked<'r>(mut input: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let mut head = Vec::with_capacity(GZIP.len());
    input.by_ref().take(GZIP.len() as u64).read_to_end(&mut head)?;
    let is_gzip = head == GZIP;
    let whole = Cursor::new(head).chain(input);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) })
}

/// Whether a file is gzip.
///
/// # Errors
/// Where it cannot be read.
pub fn is_gzip(file: &File) -> io::Result<bool> {
    let mut head = [0; GZIP.len()];
    Ok(file.read_at(&mut head, 0)? == head.len() && head == GZIP)
}

struct Splitter<R> {
    window: Window<R>,
    /// Whether a bracket of an array around the bodies is open.
    in_array: bool,
}

impl<R: Read> Splitter<R> {
    fn next(&mut self) -> io::Result<Option<Found>> {
        while let Some(first) = self.window.byte(0)? {
            match first {
                b' ' | b'\t' | b'\r' | b'\n' => self.window.skip(1),
                b'[' | b']' if self.in_array == (first == b']') => {
                    self.in_array = !self.in_array;
                    self.window.skip(1);
                }
                b',' if self.in_array => self.window.skip(1),
                b'{' | b'[' => return self.value().map(Some),
                _ if self.window.starts_with(BOM)? => self.window.skip(BOM.len()),
                _ => return self.text(false).map(Some),
            }
        }
        Ok(None)
    }

    /// A JSON value in brackets.
    fn value(&mut self) -> io::Result<Found> {
        let (mut shape, mut len) = (Shape::default(), 0);
        while let Some(bytes) = self.window.after(len)?.filter(|_| len < MAX_BODY_BYTES) {
            let bytes = bytes.get(..MAX_BODY_BYTES - len).unwrap_or(bytes);
            match shape.read(bytes) {
                Step::More => len += bytes.len(),
                Step::Complete(more) => return Ok(self.window.take(len + more, false)),
                Step::Broken => break,
            }
        }
        self.text(true)
    }

    /// The rest of the line as it is. Of a value that broke off, all lines up to one on which another can
    /// begin.
    fn text(&mut self, of_a_value: bool) -> io::Result<Found> {
        let mut len = 0;
        while let Some(end) = self.window.end_of_line(len)? {
            len = end;
            if !of_a_value || self.value_begins(len)? {
                break;
            }
        }
        if len > 0 {
            return Ok(self.window.take(len, false));
        }
        let found = self.window.take(MAX_BODY_BYTES, true);
        self.window.skip_line()?;
        Ok(found)
    }

    /// Whether the next that is no blank, `len` bytes from here, is a bracket, or nothing.
    fn value_begins(&mut self, len: usize) -> io::Result<bool> {
        for at in len..MAX_BODY_BYTES {
            match self.window.byte(at)? {
                Some(b' ' | b'\t' | b'\r' | b'\n') => {}
                next => return Ok(matches!(next, None | Some(b'{' | b'['))),
            }
        }
        Ok(true)
    }
}

/// What has been read and is not handed out yet: a body at most, and a chunk.
struct Window<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where in the buffer what is not handed out begins.
    start: usize,
    /// The line of that place.
    line: u64,
    is_at_end: bool,
}

impl<R: Read> Window<R> {
    fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), start: 0, line: 1, is_at_end: false }
    }

    /// What is read and not handed out.
    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Reads more; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start > self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let before = self.buffer.len();
        while !self.is_at_end && self.buffer.len() == before {
            self.buffer.resize(before + CHUNK_BYTES, 0);
            let read = self.input.read(self.buffer.get_mut(before..).unwrap_or_default());
            self.buffer.truncate(before + read.as_ref().map_or(0, |n| *n));
            match read {
                Ok(n) => self.is_at_end = n == 0,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(self.buffer.len() > before)
    }

    /// What follows after `at` bytes, as much as is there; `None` where nothing does.
    fn after(&mut self, at: usize) -> io::Result<Option<&[u8]>> {
        while self.rest().len() <= at && self.fill()? {}
        Ok(self.rest().get(at..).filter(|bytes| !bytes.is_empty()))
    }

    fn byte(&mut self, at: usize) -> io::Result<Option<u8>> {
        Ok(self.after(at)?.and_then(|bytes| bytes.first().copied()))
    }

    fn starts_with(&mut self, what: &[u8]) -> io::Result<bool> {
        self.after(what.len().saturating_sub(1))?;
        Ok(self.rest().starts_with(what))
    }

    /// Where the line ends that goes on after `from` bytes; `None` where it is too long for a body, or where
    /// there is none.
    fn end_of_line(&mut self, from: usize) -> io::Result<Option<usize>> {
        let mut at = from;
        while at < MAX_BODY_BYTES {
            let Some(bytes) = self.after(at)? else { return Ok((at > from).then_some(at)) };
            match memchr(b'\n', bytes) {
                Some(n) => return Ok(Some(at + n + 1).filter(|end| *end <= MAX_BODY_BYTES)),
                None => at += bytes.len(),
            }
        }
        Ok(None)
    }

    fn skip(&mut self, len: usize) {
        let end = (self.start + len).min(self.buffer.len());
        let skipped = self.buffer.get(self.start..end).unwrap_or_default();
        self.line += memchr_iter(b'\n', skipped).count() as u64;
        self.start = end;
    }

    fn skip_line(&mut self) -> io::Result<()> {
        while let Some(bytes) = self.after(0)? {
            let (len, is_end) = memchr(b'\n', bytes).map_or((bytes.len(), false), |n| (n + 1, true));
            self.skip(len);
            if is_end {
                break;
            }
        }
        Ok(())
    }

    /// Hands `len` bytes out, as far as there are.
    fn take(&mut self, len: usize, cut: bool) -> Found {
        let body = self.rest().get(..len).unwrap_or(self.rest()).trim_ascii().to_vec();
        let line = self.line;
        self.skip(len);
        Found { line, body, cut }
    }
}

#[cfg(test)]
mod tests;

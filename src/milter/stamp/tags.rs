//! The value of `X-SES-MESSAGE-TAGS`: our two tags, and those of the application that are well-formed.

use super::word;
use std::fmt::Write;

/// The longest name and the longest value of a tag (SES's bounds).
const MAX_TAG_BYTES: usize = 256;

/// Most tags of the application: SES takes 50 with each message.
const MAX_MERGED: usize = 48;

/// Most bytes of the value: with all of it the stamps are still within the 10 KB of headers that events repeat.
const MAX_VALUE_BYTES: usize = 4_096;

/// A line is folded before it is longer: RFC 5322 section 2.1.1 has 998 for a line, and a tag is at most 513.
const MAX_LINE_BYTES: usize = 400;

/// The tags of a message.
#[derive(Debug)]
pub(super) struct Tags {
    value: String,
    /// Where the last line begins.
    line: usize,
    names: Vec<String>,
    own: usize,
}

impl Tags {
    /// Our own.
    pub(super) fn new(queue_id: Option<&str>, correlation_id: &str) -> Self {
        let mut tags = Self { value: String::with_capacity(128), line: 0, names: Vec::new(), own: 0 };
        if let Some(queue_id) = queue_id {
            tags.push("queue_id", queue_id);
        } else {
            tags.names.push("queue_id".to_owned());
        }
        tags.push("correlation_id", correlation_id);
        tags.own = tags.names.len();
        tags
    }

    /// Takes the tags over that a header of the application holds (`a=b, c=d`), as far as they are well-formed, new,
    /// and within the bounds. Whether there was one.
    pub(super) fn merge(&mut self, value: &[u8]) -> bool {
        let before = self.names.len();
        for pair in value.split(|b| *b == b',') {
            let Some(equals) = memchr::memchr(b'=', pair) else { continue };
            let (name, value) = pair.split_at(equals);
            let (Some(name), Some(value)) = (word(name, MAX_TAG_BYTES), word(&value[1..], MAX_TAG_BYTES)) else {
                continue;
            };
            let has_room = self.names.len() - self.own < MAX_MERGED
                && self.value.len() + name.len() + value.len() + ",\n\t=".len() <= MAX_VALUE_BYTES;
            if has_room && !self.names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                self.push(name, value);
            }
        }
        self.names.len() > before
    }

    /// The value of the header.
    pub(super) fn value(&self) -> &str {
        &self.value
    }

    /// How many are the application's.
    pub(super) fn merged(&self) -> u64 {
        (self.names.len() - self.own) as u64
    }

    fn push(&mut self, name: &str, value: &str) {
        if !self.value.is_empty() {
            if self.value.len() - self.line + name.len() + value.len() > MAX_LINE_BYTES {
                self.value.push_str(",\n\t");
                self.line = self.value.len();
            } else {
                self.value.push_str(", ");
            }
        }
        // Writing to a String cannot fail.
        let _ = write!(self.value, "{name}={value}");
        self.names.push(name.to_owned());
    }
}

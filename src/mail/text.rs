//! Text from outside, made safe to print: the one type through which anything that SMTP, SES or a
//! file brought may reach a log line, a header or a reply (invariant 8). It holds no CR, LF, NUL
//! or other control character, and no line or paragraph separator, and its length is bounded.

use std::fmt;

/// Printable text of bounded length: no control characters, valid UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Printable(String);

impl Printable {
    /// Makes `raw` printable: every control character (C0, DEL, C1, U+2028, U+2029) becomes a
    /// blank, bytes that are not UTF-8 become U+FFFD, and all past `max_bytes` is cut at a
    /// character.
    #[must_use]
    pub fn new(raw: &[u8], max_bytes: usize) -> Self {
        // nearly all of it is plain, and a byte is a character then
        if raw.len() <= max_bytes
            && raw.iter().all(|byte| matches!(byte, b' '..=b'~'))
            && let Ok(plain) = std::str::from_utf8(raw)
        {
            return Self(plain.to_owned());
        }
        let mut out = String::with_capacity(raw.len().min(max_bytes));
        for chunk in raw.utf8_chunks() {
            let broken = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
            for c in chunk.valid().chars().chain(broken) {
                let c = if is_control(c) { ' ' } else { c };
                if out.len() + c.len_utf8() > max_bytes {
                    return Self(out);
                }
                out.push(c);
            }
        }
        Self(out)
    }

    /// As [`Printable::new`], and every character outside ASCII becomes `?`: for SMTP replies,
    /// which must stay ASCII for clients that did not ask for SMTPUTF8 (RFC 6531 section 3.7.4).
    #[must_use]
    pub fn ascii(raw: &[u8], max_bytes: usize) -> Self {
        let Self(mut text) = Self::new(raw, max_bytes);
        if !text.is_ascii() {
            text = text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        }
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Printable {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_become_blanks() {
        assert_eq!(Printable::new(b"a\r\nb\0c\x7fd", 99).as_str(), "a  b c d");
        assert_eq!(Printable::new("x\u{85}y\u{2028}z".as_bytes(), 99).as_str(), "x y z");
        assert_eq!(Printable::new(b"\xff", 99).as_str(), "\u{fffd}");
        assert_eq!(Printable::ascii("sch\u{f6}n".as_bytes(), 99).as_str(), "sch?n");
    }

    proptest! {
        #[test]
        fn never_holds_a_control_character_or_too_much(raw: Vec<u8>, max in 0usize..80) {
            let text = Printable::new(&raw, max);
            prop_assert!(text.as_str().len() <= max);
            prop_assert!(!text.as_str().chars().any(is_control));
            let plain: Vec<u8> = raw.iter().map(|byte| b' ' + byte % 95).collect();
            let kept = Printable::new(&plain, max);
            prop_assert_eq!(kept.as_str().as_bytes(), &plain[..max.min(plain.len())]);
            prop_assert!(Printable::ascii(&raw, max).as_str().is_ascii());
        }
    }
}

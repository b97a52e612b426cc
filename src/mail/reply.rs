//! SMTP replies as values: a reply code, an enhanced status code of the same class (RFC 3463) and
//! one line of printable ASCII, so that neither protocol can be injected into.

use super::Printable;
use std::fmt;
use std::str::FromStr;

/// The longest text of a reply, in bytes: RFC 5321 section 4.5.3.1.5 gives a reply line 512 octets,
/// and Postfix puts `code dsn <address>: Recipient address rejected: ` before ours.
pub const MAX_TEXT_BYTES: usize = 300;

/// A reply code with its enhanced status code, such as `450 4.7.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplyCode {
    code: u16,
    enhanced: (u8, u16, u16),
}

/// Why a reply code was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not of the form `4NN 4.N.N` or `5NN 5.N.N`.
    #[error("expected a reply code and an enhanced status code such as \"450 4.7.1\"")]
    Shape,
    /// The two codes disagree, such as `450 5.7.1`.
    #[error("the reply code and the enhanced status code are of different classes")]
    Class,
}

impl ReplyCode {
    /// Sender not allowed (`554 5.7.1`).
    pub const SENDER_REFUSED: Self = Self { code: 554, enhanced: (5, 7, 1) };
    /// Recipient known to be gone (`550 5.1.1`).
    pub const RECIPIENT_GONE: Self = Self { code: 550, enhanced: (5, 1, 1) };
    /// More recipients than a limit can ever grant (`554 5.5.3`; RFC 3463: too many recipients).
    pub const TOO_MANY_RECIPIENTS: Self = Self { code: 554, enhanced: (5, 5, 3) };
    /// Over a limit (`450 4.7.1`).
    pub const SLOW_DOWN: Self = Self { code: 450, enhanced: (4, 7, 1) };

    /// Whether the client should give up (5xx).
    #[must_use]
    pub fn is_permanent(self) -> bool {
        self.code >= 500
    }
}

impl FromStr for ReplyCode {
    type Err = ReplyError;

    fn from_str(s: &str) -> Result<Self, ReplyError> {
        let (code, enhanced) = s.trim().split_once(' ').ok_or(ReplyError::Shape)?;
        let number = |s: &str, max: u16| -> Result<u16, ReplyError> {
            let plain = !s.is_empty() && s.len() <= 3 && s.bytes().all(|b| b.is_ascii_digit());
            let n = if plain { s.parse().map_err(|_| ReplyError::Shape)? } else { max + 1 };
            if n <= max { Ok(n) } else { Err(ReplyError::Shape) }
        };
        let code = number(code, 599)?;
        let mut parts = enhanced.trim().split('.');
        let (Some(class), Some(subject), Some(detail), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ReplyError::Shape);
        };
        let (class, subject, detail) = (number(class, 5)?, number(subject, 999)?, number(detail, 999)?);
        if !(400..600).contains(&code) {
            return Err(ReplyError::Shape);
        }
        if class != code / 100 {
            return Err(ReplyError::Class);
        }
        Ok(Self { code, enhanced: (class as u8, subject, detail) })
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (class, subject, detail) = self.enhanced;
        write!(f, "{} {class}.{subject}.{detail}", self.code)
    }
}

/// One SMTP reply: code, enhanced status code, one line of ASCII text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: ReplyCode,
    text: Printable,
}

impl Reply {
    /// A reply; `text` is made printable ASCII and cut to 300 bytes.
    #[must_use]
    pub fn new(code: ReplyCode, text: &str) -> Self {
        Self { code, text: Printable::ascii(text.as_bytes(), MAX_TEXT_BYTES) }
    }

    /// The codes.
    #[must_use]
    pub fn code(&self) -> ReplyCode {
        self.code
    }

    /// The text after the codes.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.as_str()
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_and_written() {
        for good in ["450 4.7.1", "554 5.7.1", "421 4.7.0"] {
            assert_eq!(good.parse::<ReplyCode>().expect(good).to_string(), good);
        }
    }

    #[test]
    fn wrong_codes_are_refused() {
        for (text, error) in [
            ("450 5.7.1", ReplyError::Class),
            ("250 2.0.0", ReplyError::Shape),
            ("450", ReplyError::Shape),
            ("450 4.7", ReplyError::Shape),
            ("450 4.7.1.1", ReplyError::Shape),
            ("+450 4.7.1", ReplyError::Shape),
            ("4500 4.7.1", ReplyError::Shape),
            ("", ReplyError::Shape),
        ] {
            assert_eq!(text.parse::<ReplyCode>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_reply_is_one_line_of_ascii() {
        let r = Reply::new(ReplyCode::RECIPIENT_GONE, "gone\r\n250 ok \u{e9}");
        assert_eq!(r.to_string(), "550 5.1.1 gone  250 ok ?");
    }
}

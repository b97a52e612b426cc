//! One entry of the suppression list.

use crate::mail::{Address, Printable};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most bytes of evidence that are kept. RFC 5321 section 4.5.3.1.5 gives a reply line 512 octets,
/// so this holds a reply of several lines with SES's words around it; the rest is cut.
pub const MAX_EVIDENCE_BYTES: usize = 2_000;

/// Most bytes of an address's original spelling: RFC 5321 section 4.5.3.1 gives 64 + 1 + 255, and
/// a domain in Unicode takes more bytes than its `xn--` form.
pub const MAX_SPELLING_BYTES: usize = 1_024;

/// Why an address is suppressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A permanent bounce.
    Bounce,
    /// SES's global suppression list (`Permanent/Suppressed`).
    GlobalList,
    /// A complaint.
    Complaint,
    /// Mailbox full, too often.
    MailboxFull,
    /// An operator said so.
    Manual,
}

/// Where an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// `gatepost suppress add`.
    Cli,
    /// `gatepost suppress import`.
    Import,
    /// An SES event.
    Event,
}

/// One suppressed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The canonical address.
    pub address: Address,
    /// The address as it was first written, where that is not the canonical one: SES's own list
    /// API asks for the exact spelling.
    pub spelling: Option<String>,
    /// Why.
    pub reason: Reason,
    /// The text of the bounce, or the operator's note. The store keeps it printable, on one line,
    /// without outer blanks and cut to [`MAX_EVIDENCE_BYTES`].
    pub evidence: String,
    /// Where it came from.
    pub source: Origin,
    /// Unix seconds.
    pub created: i64,
    /// Unix seconds; `None`: never.
    pub expires: Option<i64>,
}

/// A word that names no reason or source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no {what}: expected one of {expected}")]
pub struct UnknownWord {
    word: String,
    what: &'static str,
    expected: &'static str,
}

impl Entry {
    /// Whether the entry stands at `now` (Unix seconds).
    #[must_use]
    pub fn in_force(&self, now: i64) -> bool {
        self.expires.is_none_or(|at| now < at)
    }

    /// The address as SES's own list has it, as far as it is known.
    #[must_use]
    pub fn original(&self) -> &str {
        self.spelling.as_deref().unwrap_or(self.address.as_str())
    }

    /// The entry as the store keeps it: texts printable and bounded, no spelling that is equal to the address.
    pub(super) fn bounded(self) -> Self {
        let spelling = self.spelling.map(|s| Printable::new(s.as_bytes(), MAX_SPELLING_BYTES).to_string());
        Self {
            spelling: spelling.filter(|s| s != self.address.as_str() && !s.is_empty()),
            evidence: Printable::new(self.evidence.as_bytes(), MAX_EVIDENCE_BYTES).as_str().trim().to_owned(),
            ..self
        }
    }
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Bounce, Self::GlobalList, Self::Complaint, Self::MailboxFull, Self::Manual];

    /// The word for it, in JSON, CSV and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::GlobalList => "global_list",
            Self::Complaint => "complaint",
            Self::MailboxFull => "mailbox_full",
            Self::Manual => "manual",
        }
    }

    /// Whether an address with this reason may stand on the account's own list at SES too: hard bounces and
    /// complaints do, a full mailbox never does.
    #[must_use]
    pub fn may_stand_at_ses(self) -> bool {
        matches!(self, Self::Bounce | Self::Complaint | Self::GlobalList)
    }

    /// The number in the database; never given to another reason.
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Bounce => 1,
            Self::GlobalList => 2,
            Self::Complaint => 3,
            Self::MailboxFull => 4,
            Self::Manual => 5,
        }
    }

    pub(super) fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.code() == code)
    }
}

impl Origin {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::Cli, Self::Import, Self::Event];

    /// The word for it, in JSON, CSV and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Import => "import",
            Self::Event => "event",
        }
    }

    /// The number in the database; never given to another source.
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Cli => 1,
            Self::Import => 2,
            Self::Event => 3,
        }
    }

    pub(super) fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.code() == code)
    }
}

impl FromStr for Reason {
    type Err = UnknownWord;

    /// Case-blind, so that SES's `BOUNCE` and `COMPLAINT` are read; `-` is as good as `_`.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let expected = "bounce, global_list, complaint, mailbox_full, manual";
        by_word(&Self::ALL, Self::as_str, word).ok_or_else(|| UnknownWord {
            word: word.into(),
            what: "reason",
            expected,
        })
    }
}

impl FromStr for Origin {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let expected = "cli, import, event";
        by_word(&Self::ALL, Self::as_str, word).ok_or_else(|| UnknownWord {
            word: word.into(),
            what: "source",
            expected,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn by_word<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, word: &str) -> Option<T> {
    let word = word.trim().replace('-', "_");
    all.iter().copied().find(|x| name(*x).eq_ignore_ascii_case(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_go_both_ways() {
        for r in Reason::ALL {
            assert_eq!(r.as_str().parse(), Ok(r));
            assert_eq!(Reason::from_code(r.code()), Some(r));
            assert_eq!(serde_json::to_value(r).expect("json"), r.as_str());
        }
        for o in Origin::ALL {
            assert_eq!(o.as_str().parse(), Ok(o));
            assert_eq!(Origin::from_code(o.code()), Some(o));
        }
        assert_eq!("BOUNCE".parse(), Ok(Reason::Bounce));
        assert_eq!("global-list".parse(), Ok(Reason::GlobalList));
        assert!("spam".parse::<Reason>().is_err_and(|e| e.to_string().starts_with("\"spam\" is no reason")));
    }
}

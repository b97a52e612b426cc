//! One entry as JSON and CSV have it, written and read.

use crate::cli::exit;
use crate::cli::output::Failure;
use crate::cli::time;
use crate::mail::{Address, Printable};
use crate::store::{Entry, MAX_EVIDENCE_BYTES, MAX_SPELLING_BYTES, Origin, Reason};
use serde::{Deserialize, Serialize};
use std::io::Write;

/// The names of the CSV columns, in order; those of JSON as well.
pub(super) const COLUMNS: [&str; 7] = ["address", "reason", "source", "created", "expires", "spelling", "evidence"];

/// What is written of an entry. Times in RFC 3339.
#[derive(Serialize)]
pub(super) struct Record {
    address: String,
    reason: Reason,
    source: Origin,
    created: String,
    expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spelling: Option<String>,
    evidence: String,
}

/// What is read: our own names, and those of SES's `SuppressedDestinationSummary`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Raw {
    #[serde(alias = "EmailAddress", alias = "email")]
    pub address: Option<String>,
    #[serde(alias = "Reason")]
    pub reason: Option<String>,
    pub source: Option<String>,
    #[serde(alias = "LastUpdateTime")]
    pub created: Option<Time>,
    pub expires: Option<Time>,
    pub spelling: Option<String>,
    pub evidence: Option<String>,
}

/// A time: RFC 3339, or Unix seconds with a fraction, as the AWS command line prints them when it
/// is told to.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Time {
    Seconds(f64),
    Text(String),
}

/// What a record that does not say it gets.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub reason: Reason,
    pub evidence: String,
    pub created: i64,
    pub expires: Option<i64>,
}

impl From<&Entry> for Record {
    fn from(entry: &Entry) -> Self {
        let printable = |text: &str, max| Printable::new(text.as_bytes(), max).to_string();
        Self {
            address: printable(entry.address.as_str(), MAX_SPELLING_BYTES),
            reason: entry.reason,
            source: entry.source,
            created: time::rfc3339(entry.created),
            expires: entry.expires.map(time::rfc3339),
            spelling: entry.spelling.as_deref().map(|s| printable(s, MAX_SPELLING_BYTES)),
            evidence: printable(&entry.evidence, MAX_EVIDENCE_BYTES),
        }
    }
}

impl Record {
    /// One CSV record in the order of [`COLUMNS`].
    pub(super) fn write_csv<W: Write>(&self, csv: &mut csv::Writer<W>) -> Result<(), Failure> {
        let (expires, spelling) = (self.expires.as_deref().unwrap_or(""), self.spelling.as_deref().unwrap_or(""));
        let (reason, source) = (self.reason.as_str(), self.source.as_str());
        csv.write_record([&self.address, reason, source, &self.created, expires, spelling, &self.evidence])
            .map_err(csv_failure)
    }
}

impl Raw {
    /// The entry, or what is wrong with the record. Empty fields count as missing.
    pub(super) fn entry(self, defaults: &Defaults) -> Result<Entry, String> {
        let given = |text: Option<String>| text.filter(|t| !t.trim().is_empty());
        let written = given(self.address).ok_or("no address")?;
        let shown = || Printable::new(written.as_bytes(), 100).to_string();
        let address = Address::parse(&written).map_err(|e| format!("{:?}: {e}", shown()))?;
        let reason = given(self.reason).map(|r| r.parse().map_err(|e| format!("{e}"))).transpose()?;
        let source = given(self.source).map(|s| s.parse().map_err(|e| format!("{e}"))).transpose()?;
        let created = self.created.map(|t| t.seconds("created")).transpose()?.flatten();
        let expires = self.expires.map(|t| t.seconds("expires")).transpose()?.flatten();
        Ok(Entry {
            address,
            spelling: given(self.spelling).or_else(|| Some(spelling(&written))),
            reason: reason.unwrap_or(defaults.reason),
            evidence: given(self.evidence).unwrap_or_else(|| defaults.evidence.clone()),
            source: source.unwrap_or(Origin::Import),
            created: created.unwrap_or(defaults.created),
            expires: expires.or(defaults.expires),
        })
    }
}

impl Time {
    /// Unix seconds; `None` for an empty text.
    fn seconds(self, field: &str) -> Result<Option<i64>, String> {
        let wrong = |shown: &str| format!("{field} {shown:?} is no time: expected 2026-01-31T12:00:00Z");
        match self {
            Self::Seconds(s) if (-62_000_000_000.0..253_000_000_000.0).contains(&s) => Ok(Some(s as i64)),
            Self::Seconds(s) => Err(wrong(&s.to_string())),
            Self::Text(text) if text.trim().is_empty() || text == "never" => Ok(None),
            Self::Text(text) => match text.trim().parse::<jiff::Timestamp>() {
                Ok(time) => Ok(Some(time.as_second())),
                Err(_) => Err(wrong(Printable::new(text.as_bytes(), 60).as_str())),
            },
        }
    }
}

/// The address in `text` as it is spelled there, without a display name or angle brackets.
pub(super) fn spelling(text: &str) -> String {
    let text = text.trim();
    let inside = text.strip_suffix('>').and_then(|t| t.rsplit_once('<')).map(|(_, inside)| inside);
    inside.unwrap_or(text).trim().to_owned()
}

pub(super) fn csv_failure(e: csv::Error) -> Failure {
    match e.into_kind() {
        csv::ErrorKind::Io(e) => e.into(),
        other => Failure::new(exit::IOERR, format!("writing CSV: {other:?}")),
    }
}

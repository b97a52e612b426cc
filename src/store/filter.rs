//! Which entries a command means. The same filter is evaluated by SQLite over the list and here
//! over one entry (a tombstone of a filter is asked whether it covers an older event); a test
//! holds the two together.

use super::{Entry, Origin, Reason};
use rusqlite::types::Value;
use serde::{Deserialize, Serialize};

/// All parts that are given must hold; the empty filter means every entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// One of these reasons; empty: any.
    pub reasons: Vec<Reason>,
    /// The canonical domain after the `@`, without its subdomains.
    pub domain: Option<String>,
    /// Where the entry came from.
    pub source: Option<Origin>,
    /// Created at or after; Unix seconds.
    pub since: Option<i64>,
    /// Created before; Unix seconds.
    pub until: Option<i64>,
    /// A part of the evidence, ASCII letters in either case.
    pub text: Option<String>,
    /// Only entries that have not expired by then; Unix seconds. Not part of a tombstone.
    #[serde(skip)]
    pub in_force_at: Option<i64>,
}

impl Filter {
    /// Whether it means `entry`.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        let text = self.text.as_deref().unwrap_or("").to_ascii_lowercase();
        (self.reasons.is_empty() || self.reasons.contains(&entry.reason))
            && self.domain.as_deref().is_none_or(|d| entry.address.domain() == d)
            && self.source.is_none_or(|s| entry.source == s)
            && self.since.is_none_or(|t| entry.created >= t)
            && self.until.is_none_or(|t| entry.created < t)
            && (text.is_empty() || entry.evidence.to_ascii_lowercase().contains(&text))
            && self.in_force_at.is_none_or(|now| entry.in_force(now))
    }

    /// Whether it means every entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A WHERE clause over `entry e LEFT JOIN evidence v`, and its parameters from `?1` on.
    pub(super) fn sql(&self) -> (String, Vec<Value>) {
        let mut terms = vec!["1".to_owned()];
        let mut values = Vec::new();
        let mut term = |sql: &str, value: Value| {
            values.push(value);
            terms.push(sql.replace("?", &format!("?{}", values.len())));
        };
        if let Some(domain) = &self.domain {
            term("substr(e.address, -length(?)) = ?", Value::Text(format!("@{domain}")));
        }
        if let Some(source) = self.source {
            term("e.source = ?", Value::Integer(source.code()));
        }
        if let Some(t) = self.since {
            term("e.created >= ?", Value::Integer(t));
        }
        if let Some(t) = self.until {
            term("e.created < ?", Value::Integer(t));
        }
        if let Some(text) = self.text.as_deref().filter(|t| !t.is_empty()) {
            term("instr(lower(v.text), ?) > 0", Value::Text(text.to_ascii_lowercase()));
        }
        if let Some(now) = self.in_force_at {
            term("(e.expires IS NULL OR e.expires > ?)", Value::Integer(now));
        }
        if !self.reasons.is_empty() {
            let codes: Vec<String> = self.reasons.iter().map(|r| r.code().to_string()).collect();
            terms.push(format!("e.reason IN ({})", codes.join(", ")));
        }
        (terms.join(" AND "), values)
    }
}

//! The meaning of the operators' folder `policy/`: its files are read and checked as one, into one
//! immutable [`Rules`], or into every problem that stands in them. No clock; the only I/O is
//! [`load`](mod@load), which reads the folder and keeps its last good copy.

pub mod allowlist;
pub mod load;
pub mod policy;
pub mod problem;
pub mod rate;
mod replace;
pub mod toml_walk;

pub use allowlist::{Action, Allowlist, Binding, Entry, Found};
pub use load::{Files, load};
pub use policy::{
    Count, DropOrRefuse, KeyKind, Limit, LocalRules, MailboxFull, Overrides, SuppressionRules, Ttl, Unlisted,
};
pub use problem::{Problem, Severity};
pub use rate::{Quota, Rate};
pub use replace::replace;

use crate::mail::Rewriting;
use std::path::Path;
use std::sync::Arc;

/// What a check does with what it finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Refuse.
    #[default]
    Enforce,
    /// Log what would be refused, refuse nothing.
    Observe,
    /// Do not look.
    Off,
}

impl Mode {
    /// The word in policy.toml and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Off => "off",
        }
    }
}

/// All rules of one generation: one question is judged by one of these.
#[derive(Debug)]
pub struct Rules {
    /// Counts the policies that were in force since the daemon started, from 1; set by the daemon.
    pub generation: u64,
    /// The settings of main.cf that change a lookup; set by the daemon.
    pub rewriting: Rewriting,
    /// The sender allowlist and what to do with it.
    pub senders: ListRules,
    /// `allowed_recipients`, where the file is there.
    pub recipients: ListRules,
    /// The suppression check and what events suppress.
    pub suppression: SuppressionRules,
    /// Local submissions of unlisted senders.
    pub local: LocalRules,
    /// The limits in the order of the file. An `Arc` each, so that a charge names its limit
    /// without copying it.
    pub limits: Vec<Arc<Limit>>,
}

impl Rules {
    /// Puts the settings of main.cf in, and warns of entries that they keep from ever matching.
    /// `dir` names the files.
    #[must_use]
    pub fn under(mut self, rewriting: Rewriting, dir: &Path) -> (Self, Vec<Problem>) {
        self.rewriting = rewriting;
        let lists = [(&self.senders, load::ALLOWED_SENDERS), (&self.recipients, load::ALLOWED_RECIPIENTS)];
        let warnings = lists
            .into_iter()
            .filter_map(|(rules, name)| Some(rules.list.as_ref()?.never_looked_up(&dir.join(name), &self.rewriting)))
            .flatten()
            .collect();
        (self, warnings)
    }
}

/// An allowlist file and its mode.
#[derive(Debug)]
pub struct ListRules {
    /// Enforce, observe or off.
    pub mode: Mode,
    /// The list; `None` where there is no file (allowed for recipients, and for senders that are off).
    pub list: Option<Allowlist>,
}

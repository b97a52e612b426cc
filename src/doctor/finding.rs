//! What a look at the installation gives: for each check a [`Verdict`], and of a fault what it is, why it matters and the
//! line to change.

use std::fmt;

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// `main.cf`, `master.cf`, the fallback table, the sockets as Postfix sees them.
    Postfix,
    /// Configuration, policy, the running daemon, its folders.
    Daemon,
    /// What several relays share, and the relays.
    Fleet,
    /// Queue, dead-letter queue, events.
    Aws,
    /// The mail logs, and who stands between them and gatepost.
    Logs,
}

/// How bad a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Mail is lost, refused or let through against the rules, or would be at the next trouble.
    Error,
    /// Something works worse than it should, or nobody would see that it does not.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// A stable word for it.
    pub id: &'static str,
    /// What it is about.
    pub group: Group,
    /// How bad a fault of it is.
    pub severity: Severity,
    /// What holds where there is no fault.
    pub sound: &'static str,
    /// Why a fault matters.
    pub why: &'static str,
}

/// A fault that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, with the file, setting or socket.
    pub what: String,
    /// The line to change, or the command to run.
    pub fix: String,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Sound,
    /// All is well, and this is what was seen.
    Seen(String),
    /// At least one fault.
    Faults(Vec<Fault>),
    /// It could not be looked at, and why.
    Skipped(String),
}

/// All that was looked at, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each check with what it found.
    pub verdicts: Vec<(Check, Verdict)>,
}

impl Group {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postfix => "Postfix",
            Self::Daemon => "Daemon",
            Self::Fleet => "Fleet",
            Self::Aws => "AWS",
            Self::Logs => "Logs",
        }
    }
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Fault {
    /// What is wrong, and what to do.
    #[must_use]
    pub fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}

impl Verdict {
    /// It could not be looked at.
    #[must_use]
    pub fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }

    /// One fault where `is_wrong`.
    #[must_use]
    pub fn fault_if(is_wrong: bool, what: impl Into<String>, fix: impl Into<String>) -> Self {
        if is_wrong { Fault::new(what, fix).into() } else { Self::Sound }
    }

    /// Whether all is well.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        matches!(self, Self::Sound | Self::Seen(_))
    }

    /// One of several: faults of any; else the first thing that could not be looked at; else all is well.
    #[must_use]
    pub fn together(verdicts: impl IntoIterator<Item = Self>) -> Self {
        let mut faults = Vec::new();
        let (mut skipped, mut seen) = (None, Vec::new());
        for verdict in verdicts {
            match verdict {
                Self::Faults(more) => faults.extend(more),
                Self::Skipped(why) => skipped = skipped.or(Some(why)),
                Self::Seen(what) => seen.push(what),
                Self::Sound => {}
            }
        }
        match skipped {
            Some(why) if faults.is_empty() => Self::Skipped(why),
            None if faults.is_empty() && !seen.is_empty() => Self::Seen(seen.join("; ")),
            _ => faults.into(),
        }
    }
}

impl From<Fault> for Verdict {
    fn from(fault: Fault) -> Self {
        Self::Faults(vec![fault])
    }
}

impl From<Option<Fault>> for Verdict {
    fn from(fault: Option<Fault>) -> Self {
        fault.map_or(Self::Sound, Self::from)
    }
}

impl From<Vec<Fault>> for Verdict {
    fn from(faults: Vec<Fault>) -> Self {
        if faults.is_empty() { Self::Sound } else { Self::Faults(faults) }
    }
}

impl Report {
    /// Adds what a check found.
    pub fn add(&mut self, check: Check, verdict: impl Into<Verdict>) {
        self.verdicts.push((check, verdict.into()));
    }

    /// Adds checks that could not be made, for one reason.
    pub fn skip(&mut self, checks: &[Check], why: &str) {
        self.verdicts.extend(checks.iter().map(|check| (*check, Verdict::skipped(why))));
    }

    /// Whether anything is an error or a warning.
    #[must_use]
    pub fn asks_for_action(&self) -> bool {
        let is_fault = |(check, verdict): &(Check, Verdict)| {
            matches!(verdict, Verdict::Faults(_)) && check.severity != Severity::Note
        };
        self.verdicts.iter().any(is_fault)
    }
}

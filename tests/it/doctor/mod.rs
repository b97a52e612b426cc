//! `gatepost doctor`: silent on a sound installation; each of the seeded faults found under its id, and nothing else but what
//! follows from it.

mod daemon_faults;
mod events_faults;
mod fleet_faults;
mod install;
mod postfix_faults;

use crate::gatepost::both;
use crate::postfix::shipped;
use gatepost::doctor::catalogue;
use install::{Found, Install, Trial};
use std::collections::BTreeSet;

/// A fault, put into a trial.
pub struct Seed {
    /// Under which id it is found.
    pub id: &'static str,
    pub severity: &'static str,
    /// A part of what is said.
    pub says: &'static str,
    /// What follows from it.
    pub follows: &'static [&'static str],
    pub put: fn(&Trial<'_>),
}

impl Seed {
    /// Holds the findings against the seed: what is missing, or too much.
    pub fn missed_in(&self, found: &[Found]) -> Option<String> {
        let of_it: Vec<&Found> = found.iter().filter(|found| found.id == self.id).collect();
        let right = of_it.iter().all(|found| found.severity == self.severity);
        let said = of_it.iter().any(|found| found.what.contains(self.says));
        let others: BTreeSet<&str> = found.iter().map(|f| f.id.as_str()).filter(|id| *id != self.id).collect();
        let follows: BTreeSet<&str> = self.follows.iter().copied().collect();
        let is_found = !of_it.is_empty() && right && said && others.is_subset(&follows);
        (!is_found).then(|| format!("{} ({}, {}): {found:#?}", self.id, self.severity, self.says))
    }

    /// The findings are those of the seed.
    pub fn must_be(&self, found: &[Found]) {
        assert_eq!(self.missed_in(found), None);
    }
}

#[test]
fn a_sound_installation_gives_no_finding() {
    let install = Install::new();
    let trial = install.trial();
    assert_eq!(trial.examine(&[]), []);
    let out = trial.command(&[]).output().unwrap();
    assert!(both(&out).contains("0 errors, 0 warnings, 0 notes"), "{}", both(&out));
    // Neither question nor handshake leaves a trace.
    assert_eq!(std::fs::read_to_string(install.path("log/gatepost.log")).unwrap(), "");
    let out = trial.command(&["--verbose"]).output().unwrap();
    assert!(both(&out).contains("ok       check-missing: each of gatepost's checks is in its list"), "{}", both(&out));
}

/// Every check is told of, once, with a verdict of its own.
#[test]
fn every_check_is_made() {
    let install = Install::new();
    let out = install.trial().command(&["--json", "--verbose"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let made: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    let all: BTreeSet<&str> = catalogue::ALL.iter().map(|check| check.id).collect();
    assert_eq!(made.iter().map(String::as_str).collect::<BTreeSet<_>>(), all);
    assert_eq!(made.len(), all.len(), "{text}");
}

/// docs/doctor.md has a section for each id, with its severity, and none for another.
#[test]
fn the_document_has_every_check() {
    let text = std::fs::read_to_string(shipped("docs/doctor.md")).unwrap();
    let heads: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned).collect();
    let all = catalogue::ALL.iter().map(|check| format!("`{}` ({})", check.id, check.severity));
    assert_eq!(heads, all.collect());
}

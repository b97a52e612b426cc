//! The rules a daemon starts with, and what of a reading a reload goes on with.

use crate::mail::Rewriting;
use crate::rules::{Files, Problem, Rules, Severity, load};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// The rules a daemon starts with.
#[derive(Debug)]
pub struct First {
    /// In force.
    pub rules: Rules,
    /// The problems of the folder, where the last good copy had to be used.
    pub problems: Vec<Problem>,
    /// What was read, so that the same is not taken for an edit.
    pub seen: Seen,
}

/// What a reading of the folder is compared with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Of the files that were read last, good or bad.
    pub(super) digest: u64,
    /// Which files the rules in force were made of.
    pub(super) present: Present,
}

/// Which of the files that may be missing are there and say something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) policy_toml: bool,
    pub(super) allowed_recipients: bool,
}

impl Present {
    pub(super) fn of(files: &Files) -> Self {
        let says = |file: &Option<Vec<u8>>| file.as_ref().is_some_and(|t| t.iter().any(|b| !b.is_ascii_whitespace()));
        Self { policy_toml: says(&files.policy_toml), allowed_recipients: says(&files.allowed_recipients) }
    }
}

/// Reads the rules for a start: the folder; where that is broken, the last good copy, loudly.
///
/// # Errors
/// Every problem of the folder, where there is no last good copy.
pub fn first(policy_dir: &Path, rewriting: &Rewriting, state_dir: &Path) -> Result<First, Vec<Problem>> {
    let read = Files::read(policy_dir);
    let digest = digest_of(&read);
    let problems = match read.and_then(|files| Ok((files.parse(policy_dir)?, files))) {
        Ok(((rules, warnings), files)) => {
            log_all(&warnings);
            keep_last_good(state_dir, &files);
            let seen = Seen { digest, present: Present::of(&files) };
            return Ok(First { rules: finished(rules, rewriting, policy_dir, 1), problems: Vec::new(), seen });
        }
        Err(problems) => problems,
    };
    let files = match load::read_last_good(state_dir) {
        Ok(Some(files)) => files,
        Ok(None) => return Err(problems),
        Err(error) => {
            tracing::error!(%error, "The last good copy of the policy cannot be used either.");
            return Err(problems);
        }
    };
    let Ok((rules, _)) = files.parse(&state_dir.join("last-good")) else { return Err(problems) };
    log_all(&problems);
    tracing::error!(
        policy_dir = %policy_dir.display(),
        "The policy folder has problems; starting with the last good rules. Correct the files: a saved edit is taken \
         at once."
    );
    let seen = Seen { digest, present: Present::of(&files) };
    Ok(First { rules: finished(rules, rewriting, policy_dir, 1), problems, seen })
}

/// Tells one content of the folder from another. The operators' own files: no attacker picks them.
pub(super) fn digest_of(read: &Result<Files, Vec<Problem>>) -> u64 {
    match read {
        Ok(files) => files.digest(),
        Err(problems) => {
            let mut hasher = DefaultHasher::new();
            problems.hash(&mut hasher);
            hasher.finish()
        }
    }
}

pub(super) fn finished(rules: Rules, rewriting: &Rewriting, folder: &Path, generation: u64) -> Rules {
    let (mut rules, warnings) = rules.under(rewriting.clone(), folder);
    log_all(&warnings);
    rules.generation = generation;
    rules
}

pub(super) fn keep_last_good(state_dir: &Path, files: &Files) {
    if let Err(error) = load::save_last_good(state_dir, files) {
        tracing::error!(%error, state_dir = %state_dir.display(), "Cannot keep a copy of the last good policy.");
    }
}

pub(super) fn log_all(problems: &[Problem]) {
    for problem in problems {
        if problem.severity == Severity::Warning {
            tracing::warn!("{problem}");
        } else {
            tracing::error!("{problem}");
        }
    }
}

//! `gatepost check`: every problem and warning of the configuration and of the policy folder.

use super::exit;
use crate::daemon::config::{Config, DEFAULT_PATH};
use crate::rules::{Problem, Rules, load};
use std::io::Write;
use std::path::Path;

/// What a check found, as it is printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// One finding a line.
    pub stdout: String,
    /// The summary.
    pub stderr: String,
    /// 0, or 78 where there is a problem.
    pub code: u8,
}

/// Checks and prints; returns the exit code.
pub fn run(config: Option<&Path>, json: bool) -> u8 {
    let report = report(config, json);
    // Who closed the pipe wants no more of it; the exit code still tells.
    let _ = std::io::stdout().write_all(report.stdout.as_bytes());
    let _ = std::io::stderr().write_all(report.stderr.as_bytes());
    report.code
}

/// Configuration and policy, as far as they can be read.
#[derive(Debug)]
pub struct Reading {
    /// The configuration; what is wrong in it stands at its default.
    pub config: Config,
    /// The policy, where it has no problems.
    pub rules: Option<Rules>,
    /// Every problem and warning of both, sorted.
    pub findings: Vec<Problem>,
}

/// Reads the configuration (as [`Config::load`] takes it) and the policy folder that it names, the
/// folder too where the configuration has problems.
#[must_use]
pub fn read(config: Option<&Path>) -> Reading {
    let read = Config::salvage(config);
    let mut findings = read.findings;
    let policy_dir = &read.config.policy_dir;
    let mut rules = None;
    if read.knows_policy_dir {
        match load(policy_dir) {
            Ok((sound, warnings)) => {
                let (sound, more) = sound.under(read.config.rewriting(), policy_dir);
                findings.extend(read.config.cannot_drop(&sound));
                rules = Some(sound);
                findings.extend(warnings.into_iter().chain(more));
            }
            Err(problems) => findings.extend(problems),
        }
    }
    findings.sort();
    Reading { config: read.config, rules, findings }
}

/// Checks, and says so.
#[must_use]
pub fn report(config: Option<&Path>, json: bool) -> Report {
    let Reading { config: read, rules, findings } = read(config);
    let policy_dir = &read.policy_dir;
    let warnings = findings.iter().filter(|finding| finding.is_warning()).count();
    let problems = findings.len() - warnings;
    let summary = match rules {
        Some(rules) if problems == 0 => sound(config, policy_dir, &rules, warnings),
        _ => format!("{}{}\n", counted(problems, "problem"), also(warnings)),
    };
    Report {
        stdout: findings.iter().map(|finding| line(finding, json)).collect(),
        stderr: summary,
        code: if problems == 0 { exit::OK } else { exit::CONFIG },
    }
}

fn line(finding: &Problem, json: bool) -> String {
    if !json {
        return format!("{finding}\n");
    }
    let object = serde_json::json!({
        "file": finding.file.to_string_lossy(),
        "line": finding.line.max(1),
        "column": finding.column.max(1),
        "severity": if finding.is_warning() { "warning" } else { "problem" },
        "message": finding.message,
    });
    format!("{object}\n")
}

fn sound(config: Option<&Path>, policy_dir: &Path, rules: &Rules, warnings: usize) -> String {
    let config = match config {
        Some(path) => path.display().to_string(),
        None if Path::new(DEFAULT_PATH).exists() => DEFAULT_PATH.to_owned(),
        None => "the embedded default".to_owned(),
    };
    let lists = [&rules.senders.list, &rules.recipients.list];
    let entries: usize = lists.into_iter().flatten().map(|list| list.len()).sum();
    let entries = if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") };
    let limits = counted(rules.limits.len(), "limit");
    format!("{config} and {} are sound: {entries}, {limits}{}\n", policy_dir.display(), also(warnings))
}

fn also(warnings: usize) -> String {
    if warnings == 0 { String::new() } else { format!(", {}", counted(warnings, "warning")) }
}

fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

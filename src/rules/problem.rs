//! What is wrong with a file: always file, line, column, what, and what instead.

use std::fmt;
use std::path::{Path, PathBuf};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Problem,
    /// The file is used; the operator should know.
    Warning,
}

/// One finding in a file. Prints as `file:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// The file as the operator named it.
    pub file: PathBuf,
    /// From 1; 0 where the finding is about the file as a whole.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl Problem {
    /// A problem about a file as a whole.
    #[must_use]
    pub fn whole(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.into(), line: 0, column: 0, severity: Severity::Problem, message: message.into() }
    }

    /// Whether the file can be used all the same.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }
}

/// Splits a file's findings as loaders answer: a value with its warnings, or everything that was
/// found where a problem is among it.
///
/// # Errors
/// All findings, in the order of the file, where one is a problem.
pub fn accept<T>(value: T, mut findings: Vec<Problem>) -> Result<(T, Vec<Problem>), Vec<Problem>> {
    findings.sort();
    if findings.iter().all(Problem::is_warning) { Ok((value, findings)) } else { Err(findings) }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_warning() { "warning: " } else { "" };
        // A finding about a whole file still has the shape that editors and greps know.
        write!(f, "{}:{}:{}: {word}{}", self.file.display(), self.line.max(1), self.column.max(1), self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_print_as_editors_read_them() {
        let mut finding = Problem::whole(Path::new("policy/x"), "is not there");
        assert_eq!(finding.to_string(), "policy/x:1:1: is not there");
        (finding.line, finding.column, finding.severity) = (3, 7, Severity::Warning);
        assert_eq!(finding.to_string(), "policy/x:3:7: warning: is not there");
    }

    #[test]
    fn one_problem_among_warnings_refuses_the_file() {
        let problem = Problem::whole(Path::new("a"), "p");
        let warning = Problem { severity: Severity::Warning, ..problem.clone() };
        assert_eq!(accept(1, vec![warning.clone()]), Ok((1, vec![warning.clone()])));
        assert_eq!(accept(1, vec![warning.clone(), problem.clone()]), Err(vec![problem, warning]));
    }
}

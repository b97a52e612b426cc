//! `/var/log/mail.log*`: the paths that a pattern names.

use glob::{MatchOptions, Pattern, PatternError};
use std::io;
use std::path::PathBuf;

/// Where mail logs are, where the configuration does not say.
pub const USUAL: [&str; 2] = ["/var/log/mail.log*", "/var/log/maillog*"];

/// As a shell does it: hidden files only where the pattern names the dot.
const AS_IN_A_SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Whether a pattern can be understood.
///
/// # Errors
/// What is wrong with it, and at which character.
pub fn check(pattern: &str) -> Result<(), PatternError> {
    Pattern::new(pattern).map(drop)
}

/// The files that a path with `*`, `?` and `[…]` names, in the order of their names. One without is itself, there or not.
///
/// # Errors
/// The folder that cannot be read, and why.
pub fn files(pattern: &str) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    if Pattern::escape(pattern) == pattern {
        return Ok(vec![pattern.into()]);
    }
    let wrong = |e: PatternError| (PathBuf::from(pattern), io::Error::new(io::ErrorKind::InvalidInput, e));
    let mut found = Vec::new();
    for path in glob::glob_with(pattern, AS_IN_A_SHELL).map_err(wrong)? {
        found.push(path.map_err(|e| (e.path().to_owned(), e.into()))?);
    }
    found.retain(|path: &PathBuf| path.is_file());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_of_a_pattern() {
        let dir = tempfile::tempdir().expect("folder");
        fs::create_dir_all(dir.path().join("a/log")).expect("folder");
        for name in ["a/log/mail.log", "a/log/mail.log.1", "a/log/.mail.log.swp", "a/log/other"] {
            fs::write(dir.path().join(name), "").expect("write");
        }
        let names = |pattern: &str| files(&format!("{}/{pattern}", dir.path().display())).expect("files").len();
        assert_eq!((names("a/log/mail.log*"), names("*/log/*"), names("b/*"), names("a/*")), (2, 3, 0, 0));
        assert_eq!(names("a/log/missing"), 1);
    }
}

//! `/var/log/mail.log*`: the paths that a pattern names.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Where mail logs are, where the configuration does not say.
pub const USUAL: [&str; 2] = ["/var/log/mail.log*", "/var/log/maillog*"];

/// The files that a path with `*` and `?` names, in the order of their names. One without is itself, there or not.
///
/// # Errors
/// The folder that cannot be read, and why.
pub fn files(pattern: &str) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let mut found = vec![PathBuf::new()];
    for part in Path::new(pattern).components() {
        match part {
            Component::Normal(name) if is_pattern(name.as_encoded_bytes()) => {
                let mut deeper = Vec::new();
                for folder in &found {
                    deeper.extend(matching(folder, name.as_encoded_bytes()).map_err(|e| (folder.clone(), e))?);
                }
                found = deeper;
            }
            other => found.iter_mut().for_each(|path| path.push(other)),
        }
    }
    if is_pattern(pattern.as_bytes()) {
        found.retain(|path| path.is_file());
    }
    Ok(found)
}

fn is_pattern(name: &[u8]) -> bool {
    name.iter().any(|b| matches!(b, b'*' | b'?'))
}

/// What is in a folder and fits. A folder that is not there holds nothing.
fn matching(folder: &Path, pattern: &[u8]) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let hidden = name.as_encoded_bytes().starts_with(b".") && !pattern.starts_with(b".");
        if !hidden && fits(name.as_encoded_bytes(), pattern) {
            found.push(folder.join(name));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a name fits a pattern: the last `*` takes one byte more whenever what follows it does not fit.
fn fits(name: &[u8], pattern: &[u8]) -> bool {
    let (mut n, mut p) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((n, p));
                p += 1;
            }
            Some(b) if *b == b'?' || *b == name[n] => {
                n += 1;
                p += 1;
            }
            _ => {
                let Some((taken, at)) = star else { return false };
                star = Some((taken + 1, at));
                n = taken + 1;
                p = at + 1;
            }
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit() {
        for (name, pattern, yes) in [
            ("mail.log", "mail.log*", true),
            ("mail.log.2.gz", "mail.log*", true),
            ("mail.err", "mail.log*", false),
            ("a.log.1", "*.log*", true),
            ("abcabd", "*abd", true),
            ("abcab", "*abd", false),
            ("mail.log.1", "mail.log.?", true),
            ("", "*", true),
        ] {
            assert_eq!(fits(name.as_bytes(), pattern.as_bytes()), yes, "{name} {pattern}");
        }
    }

    #[test]
    fn files_of_a_pattern() {
        let dir = tempfile::tempdir().expect("folder");
        fs::create_dir_all(dir.path().join("a/log")).expect("folder");
        for name in ["a/log/mail.log", "a/log/mail.log.1", "a/log/other"] {
            fs::write(dir.path().join(name), "").expect("write");
        }
        let names = |pattern: &str| files(&format!("{}/{pattern}", dir.path().display())).expect("files").len();
        assert_eq!((names("a/log/mail.log*"), names("*/log/*"), names("b/*"), names("a/*")), (2, 3, 0, 0));
        assert_eq!(names("a/log/missing"), 1);
    }
}

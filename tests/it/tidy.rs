//! What holds the house in order: who may import whom, how files begin, which papers there are.

use crate::postfix::shipped;
use std::fs;
use std::path::{Path, PathBuf};

/// All files below `dir` whose name ends in `suffix`.
fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The folders of src/, in the order in which lib.rs lists them.
fn map() -> Vec<String> {
    let lib = fs::read_to_string(shipped("src/lib.rs")).unwrap();
    lib.lines().filter_map(|l| Some(l.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned())).collect()
}

/// The modules right behind `crate::` in a text: `crate::a::b`, `crate::{a::b, c}`.
fn imported(text: &str) -> Vec<String> {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, path) in text.match_indices("crate::") {
        let rest = &text[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (n, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && !c.is_whitespace() => {
                    found.push(word(&group[n..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn imports_are_found() {
    let text = "use crate::mail::{A, B}; use crate::{rules::{X, Y}, store}; fn f(a: crate::decide::D) {}";
    assert_eq!(imported(text), ["mail", "rules", "store", "decide"]);
}

#[test]
fn a_folder_imports_only_folders_above_it_in_lib_rs() {
    let map = map();
    assert!(map.len() >= 10, "{map:?}");
    let mut wrong = Vec::new();
    for (rank, folder) in map.iter().enumerate() {
        for file in files(&shipped("src").join(folder), ".rs") {
            for other in imported(&fs::read_to_string(&file).unwrap()) {
                if map.iter().position(|m| *m == other).is_some_and(|at| at > rank) {
                    wrong.push(format!("{}: {folder} imports {other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_folder_of_src_is_in_the_map() {
    let map = map();
    for entry in fs::read_dir(shipped("src")).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(map.contains(&name), "src/{name} is not in lib.rs");
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = |file: &PathBuf| !fs::read_to_string(file).unwrap().starts_with("//! ");
    let all = ["src", "tests"].map(|folder| files(&shipped(folder), ".rs")).concat();
    let wrong: Vec<_> = all.into_iter().filter(silent).collect();
    assert!(wrong.is_empty(), "these do not open with a //! paragraph: {wrong:#?}");
}

#[test]
fn no_unwrap_outside_tests() {
    let mut wrong = Vec::new();
    for file in files(&shipped("src"), ".rs") {
        let text = fs::read_to_string(&file).unwrap();
        // `#[cfg(test)] mod tests;` puts a whole file behind the condition.
        let code = if file.ends_with("tests.rs") { "" } else { text.split("#[cfg(test)]").next().unwrap_or_default() };
        for (n, line) in code.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            if line.contains(".unwrap()") {
                wrong.push(format!("{}:{}: {line}", file.display(), n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_to_do() {
    for file in files(&shipped("src"), ".rs") {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("todo!(") && !text.contains("unimplemented!("), "{}", file.display());
    }
}

/// The papers, and that what they link to in this repository is there.
#[test]
fn the_papers_are_there_and_their_links_lead_somewhere() {
    for paper in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
        "aws/README.md",
        "docs/configuration.md",
        "docs/correlation.md",
        "docs/doctor.md",
        "docs/events.md",
        "docs/fleet.md",
        "docs/install-amazon-linux.md",
        "docs/install-debian.md",
        "docs/metrics.md",
        "docs/migrate.md",
        "docs/one-refused-recipient.md",
        "docs/operations.md",
        "docs/report.md",
        "docs/retention.md",
        "docs/security.md",
        "docs/status-page.md",
        "docs/upgrade.md",
        "policy/README.md",
        "postfix-snippets/README.md",
        "systemd/README.md",
    ] {
        let path = shipped(paper);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{paper}: {e}"));
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#', ' ']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            assert!(path.with_file_name(target).exists(), "{paper} links to {target}, which is not there");
        }
    }
}

//! The shipped files themselves: main.cf, policy/.

use crate::gatepost::{Home, both};
use crate::postfix::{Postfix, shipped};
use std::fs;
use std::process::Command;

#[test]
fn the_whole_main_cf_ends_with_the_lines_for_an_existing_one() {
    let read = |name: &str| fs::read_to_string(shipped(name)).unwrap();
    let (whole, lines) = (read("postfix-snippets/main.cf.relay-to-ses"), read("postfix-snippets/main.cf.gatepost"));
    assert!(whole.ends_with(&lines), "main.cf.relay-to-ses does not end with main.cf.gatepost");
}

#[test]
fn postfix_knows_every_setting_and_warns_of_none() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(shipped("postfix-snippets/main.cf.relay-to-ses"), dir.path().join("main.cf")).unwrap();
    fs::copy("/usr/share/postfix/master.cf.dist", dir.path().join("master.cf")).expect("Debian's master.cf");
    let out = Command::new("postconf").arg("-c").arg(dir.path()).arg("-n").output().unwrap();
    assert!(out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    // What the class refuses when gatepost is away is what an unlisted sender gets today.
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.contains("gatepost_down = check_sender_access texthash:"), "{shown}");
}

#[test]
fn a_relay_with_the_shipped_files_starts_without_a_warning() {
    let postfix = Postfix::shipped();
    postfix.session().say("NOOP").expect(250, &[]);
    let log = postfix.log();
    assert!(!log.contains("warning:") && !log.contains("error:"), "{log}");
}

#[test]
fn the_shipped_policy_has_nothing_to_mend() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::listening_at(&dir.path().join("policy.sock"), "", "");
    for name in ["allowed_senders", "policy.toml", "README.md"] {
        fs::copy(shipped("policy").join(name), home.policy_dir().join(name)).unwrap();
    }
    let out = home.command(&["check"]).output().unwrap();
    assert!(out.status.success(), "{}", both(&out));
    assert_eq!(both(&out).lines().count(), 1, "{}", both(&out));
}

/// What the comments of policy.toml show as defaults, and what they show as examples, is valid.
#[test]
fn the_shipped_policy_is_valid_with_every_comment_taken_for_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::listening_at(&dir.path().join("policy.sock"), "info@example.com OK\n", "");
    let text = fs::read_to_string(shipped("policy/policy.toml")).unwrap();
    let is_setting = |line: &str| {
        line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.trim_end().contains(' '))
    };
    let uncommented = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if is_setting(rest) => rest,
        _ => line,
    });
    home.write_policy("policy.toml", &uncommented.collect::<Vec<_>>().join("\n"));
    let out = home.command(&["check"]).output().unwrap();
    assert!(out.status.success(), "{}", both(&out));
}

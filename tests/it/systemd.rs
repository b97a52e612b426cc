//! The shipped systemd files, checked with systemd's own tools, and the daemon's side of what they promise.

use crate::gatepost::{BINARY, Daemon, Home, OPEN, both, text};
use crate::postfix::shipped;
use crate::wait;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The most that `systemd-analyze security` may score the unit.
const MAX_EXPOSURE: f64 = 1.5;

/// What systemd reads.
const UNITS: [&str; 3] = ["gatepost.service", "gatepost.socket", "gatepost-milter.socket"];

/// The units in a folder of their own, with the binary at hand in place of the installed one.
fn units() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in UNITS {
        let unit = fs::read_to_string(shipped("systemd").join(name)).unwrap();
        fs::write(dir.path().join(name), unit.replace("/usr/local/bin/gatepost", BINARY)).unwrap();
    }
    dir
}

/// systemd-analyze exits 0 on keys that it does not know: what counts is that it has nothing to say.
#[test]
fn verify_has_nothing_to_say() {
    let dir = units();
    for unit in UNITS {
        let out = Command::new("systemd-analyze").arg("verify").arg(dir.path().join(unit)).output().unwrap();
        assert!(out.status.success(), "{}", both(&out));
        assert_eq!(both(&out), "", "{unit}");
    }
}

#[test]
fn the_sandbox_scores_low_enough() {
    let dir = units();
    let out = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(dir.path().join("gatepost.service"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", both(&out));
    let shown = text(&out.stdout);
    let (_, score) = shown.split_once("Overall exposure level for gatepost.service: ").expect("a score");
    let score: f64 = score.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(score <= MAX_EXPOSURE, "{score}\n{shown}");
}

#[test]
fn the_service_says_what_the_daemon_needs() {
    let unit = fs::read_to_string(shipped("systemd/gatepost.service")).unwrap();
    for line in [
        "Type=notify",
        "User=gatepost",
        "SupplementaryGroups=postfix",
        "SupplementaryGroups=adm",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "LogRateLimitIntervalSec=0",
        "ReadWritePaths=/var/spool/postfix/gatepost",
    ] {
        assert!(unit.lines().any(|l| l == line), "{line} is not in gatepost.service");
    }
}

/// sysusers makes the user, tmpfiles its folders, in a root of their own.
#[test]
fn users_and_folders_are_made() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\npostfix:x:101:102::/:/bin/false\n").unwrap();
    fs::write(root.path().join("etc/group"), "root:x:0:\npostfix:x:102:\n").unwrap();
    let run = |program: &str, args: &[&str], file: &str| {
        let out = Command::new(program)
            .args(args)
            .arg(format!("--root={}", root.path().display()))
            .arg(shipped(file))
            .output()
            .unwrap();
        assert!(out.status.success(), "{program}: {}", both(&out));
    };
    run("systemd-sysusers", &[], "systemd/gatepost.sysusers.conf");
    run("systemd-tmpfiles", &["--create"], "systemd/gatepost.tmpfiles.conf");
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let line = passwd.lines().find(|l| l.starts_with("gatepost:")).expect("the user");
    let uid: u32 = line.split(':').nth(2).and_then(|n| n.parse().ok()).unwrap();
    for (path, mode, owner, group) in
        [("var/spool/postfix/gatepost", 0o750, uid, Some(102)), ("var/lib/gatepost", 0o750, uid, None)]
    {
        let meta = fs::metadata(root.path().join(path)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (mode, owner), "{path}");
        assert!(group.is_none_or(|gid| meta.gid() == gid), "{path}");
    }
}

/// The socket unit, the snippets and the built-in settings mean one place.
#[test]
fn one_socket_path_everywhere() {
    let path = "/var/spool/postfix/gatepost/policy.sock";
    let socket = fs::read_to_string(shipped("systemd/gatepost.socket")).unwrap();
    assert!(socket.contains(&format!("ListenStream={path}\n")));
    let snippets = fs::read_to_string(shipped("postfix-snippets/main.cf.gatepost")).unwrap();
    assert_eq!(snippets.matches("check_policy_service { unix:gatepost/policy.sock, ").count(), 3);
    assert!(path.ends_with("/gatepost/policy.sock"));
}

fn ask(stream: &mut UnixStream) -> String {
    stream.set_read_timeout(Some(wait::LONG)).unwrap();
    stream.write_all(b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@example.com\n\n").unwrap();
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\n\n") {
        stream.read_exact(&mut byte).expect("an answer");
        answer.extend(byte);
    }
    text(&answer)
}

/// The binary behind a socket of systemd's.
fn activated(home: &Home, at: &Path) -> (Daemon, UnixStream) {
    let mut command = Command::new("systemd-socket-activate");
    command.arg("-l").arg(at).arg(BINARY).arg("--config").arg(home.config()).arg("serve");
    let daemon = Daemon::of(command);
    let stream = wait::until("systemd's socket", wait::LONG, || UnixStream::connect(at).ok());
    (daemon, stream)
}

#[test]
fn a_socket_of_systemd_is_served_and_left_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::listening_at(&dir.path().join("policy.sock"), "", OPEN);
    let (mut daemon, mut stream) = activated(&home, &home.socket);
    assert_eq!(ask(&mut stream), "action=DUNNO\n\n");
    let mut second = UnixStream::connect(&home.socket).unwrap();
    assert_eq!(ask(&mut second), "action=DUNNO\n\n");
    daemon.signal("TERM");
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert!(status.success() && took < wait::promised(Duration::from_secs(1)), "{status} after {took:?}");
    assert!(home.socket.exists(), "systemd's socket file was removed");
}

#[test]
fn a_socket_of_systemd_that_no_listen_names_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::listening_at(&dir.path().join("policy.sock"), "", OPEN);
    let other = dir.path().join("other.sock");
    let (daemon, _stream) = activated(&home, &other);
    daemon.says(&["other.sock"]);
    let mut own = wait::until("its own socket", wait::LONG, || UnixStream::connect(&home.socket).ok());
    assert_eq!(ask(&mut own), "action=DUNNO\n\n");
}

#[test]
fn ready_watchdog_and_stopping_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::listening_at(&dir.path().join("policy.sock"), "", OPEN);
    let notify = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(wait::LONG)).unwrap();
    let told = |word: &str| {
        wait::until(word, wait::LONG, || {
            let mut message = [0; 256];
            let n = systemd.recv(&mut message).expect("a notification");
            text(&message[..n]).lines().any(|l| l == word).then_some(())
        });
    };
    let mut command = home.command(&["serve"]);
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "200000");
    let daemon = Daemon::of(command);
    told("READY=1");
    UnixStream::connect(&home.socket).expect("the socket is open when it is ready");
    told("WATCHDOG=1");
    told("WATCHDOG=1");
    daemon.signal("TERM");
    told("STOPPING=1");
}

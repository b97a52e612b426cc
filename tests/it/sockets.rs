//! The daemon's sockets: several at once, who may connect, whose a socket file is, and how many may
//! connect; too many open files end nothing.

use crate::asker::{Asker, DUNNO, Question};
use crate::gatepost::{Daemon, Home, text};
use crate::ports;
use crate::reload::in_force;
use crate::wait;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const SENDERS: &str = "info@example.com OK\nsome@example.com OK\n";

/// An address that nobody listens on.
pub fn free(host: &str) -> String {
    format!("{host}:{}", ports::free())
}

fn question() -> Question {
    Question::mail("info@example.com")
}

/// The daemon must end with this code and these last words.
fn refused(home: &Home, code: i32, words: &str) {
    let mut daemon = home.spawn();
    let (status, _) = daemon.wait_for_end(wait::LONG);
    let said = daemon.stderr();
    assert_eq!(status.code(), Some(code), "{said}");
    assert_eq!(said.lines().last(), Some(format!("gatepost: {words}").as_str()), "{said}");
}

#[test]
fn a_unix_and_two_tcp_listeners_at_once() {
    let home = Home::alone(SENDERS, "");
    let six = if TcpListener::bind("[::1]:0").is_ok() { "[::1]" } else { "127.0.0.2" };
    let (first, second) = (free("127.0.0.1"), free(six));
    let socket = home.socket.display();
    home.configure(&format!("listen = [\"inet:{first}\", \"unix:{socket}\", \"inet:{second}\"]\n"), "");
    let mut daemon = home.start();
    let mut askers = [Asker::tcp(&first), home.asker(), Asker::tcp(&second)];
    for _ in 0..3 {
        askers.iter_mut().for_each(|asker| assert_eq!(asker.ask(&question()), DUNNO));
    }
    assert_eq!(home.metric("gatepost_connections"), 3.0);
    daemon.signal("TERM");
    assert_eq!(daemon.wait_for_end(wait::LONG).0.code(), Some(0));
    assert!(askers.iter_mut().all(Asker::is_closed));
}

#[test]
fn mode_and_group_are_those_of_the_config() {
    let home = Home::alone(SENDERS, "");
    home.configure("socket_mode = \"0620\"\nsocket_group = \"nogroup\"", "");
    let _daemon = home.start();
    let meta = fs::metadata(&home.socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!((meta.permissions().mode() & 0o777, meta.gid()), (0o620, 65_534));
    let admin = fs::metadata(home.path("admin.sock")).unwrap();
    assert_eq!((admin.permissions().mode() & 0o777, admin.uid()), (0o600, 0));
}

#[test]
fn a_group_that_is_none_is_a_problem_of_the_config() {
    let home = Home::alone(SENDERS, "");
    home.configure("socket_group = \"no-such-group\"", "");
    let socket = home.socket.display();
    refused(&home, 78, &format!("unix:{socket}: socket_group \"no-such-group\" is not a group on this machine"));
    assert!(!home.socket.exists() && !home.path("admin.sock").exists());
}

#[test]
fn a_missing_folder_is_made_but_not_a_tree() {
    let mut home = Home::alone(SENDERS, "");
    home.socket = home.path("gatepost/policy.sock");
    home.configure("socket_group = \"nogroup\"", "");
    let daemon = home.start();
    let meta = fs::metadata(home.path("gatepost")).unwrap();
    assert_eq!((meta.permissions().mode() & 0o777, meta.gid()), (0o750, 65_534));
    drop(daemon);
    home.socket = home.path("a/b/policy.sock");
    home.configure("", "");
    let socket = home.socket.display();
    refused(
        &home,
        71,
        &format!("unix:{socket}: cannot make the folder of the socket: No such file or directory (os error 2)"),
    );
}

#[test]
fn a_socket_of_the_dead_is_taken_over() {
    let home = Home::alone(SENDERS, "");
    let mut daemon = home.start();
    let inode = fs::metadata(&home.socket).unwrap().ino();
    daemon.signal("KILL");
    daemon.wait_for_end(wait::LONG);
    let next = home.spawn();
    next.says(&["INFO", "Taking over a socket file that a dead process left", "policy.sock"]);
    next.says(&["is ready"]);
    assert_eq!(home.ask(&question()), DUNNO);
    assert!(home.socket.exists() && inode != 0);
}

#[test]
fn a_socket_of_the_living_is_not() {
    let home = Home::alone(SENDERS, "");
    let _daemon = home.start();
    let mut other = Home::alone(SENDERS, "");
    other.socket.clone_from(&home.socket);
    other.configure("", "");
    let socket = home.socket.display();
    let said = "another process is listening there; is a second gatepost running?";
    refused(&other, 69, &format!("unix:{socket}: {said}"));
    // Also where it is no gatepost, and over TCP.
    let stranger = UnixListener::bind(other.path("stranger.sock")).unwrap();
    other.socket = other.path("stranger.sock");
    other.configure("", "");
    refused(&other, 69, &format!("unix:{}: {said}", other.socket.display()));
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    other.configure(&format!("listen = [\"inet:{address}\"]"), "");
    refused(&other, 69, &format!("inet:{address}: {said}"));
    assert_eq!(home.ask(&question()), DUNNO);
    drop(stranger);
    // The state folder of the living: its lock.
    let third = Home::alone(SENDERS, "");
    let state = home.path("state");
    let config = fs::read_to_string(third.config()).unwrap();
    fs::write(third.config(), config.replace(&third.path("state").display().to_string(), &state.display().to_string()))
        .unwrap();
    refused(&third, 69, &format!("{}: another gatepost is running with this state folder", state.display()));
    assert_eq!(home.ask(&question()), DUNNO);
}

/// A home whose milter listens at `smtpd` and at `local.sock`.
fn with_milter(home: &Home, smtpd: &Path) {
    let local = home.path("local.sock");
    home.configure(
        &format!("[milter]\nlisten = \"unix:{}\"\nlisten_local = \"unix:{}\"", smtpd.display(), local.display()),
        "",
    );
}

#[test]
fn a_milters_socket_is_as_any_other() {
    let home = Home::alone(SENDERS, "");
    let socket = home.path("milter.sock");
    with_milter(&home, &socket);
    let _daemon = home.start();
    let mut milter = UnixStream::connect(&socket).unwrap();

    // A second one on it: it ends, leaves nothing behind, and the first goes on.
    let other = Home::alone(SENDERS, "");
    with_milter(&other, &socket);
    let said = "another process is listening there; is a second gatepost running?";
    refused(&other, 69, &format!("unix:{}: {said}", socket.display()));
    assert!(!other.socket.exists() && !other.path("admin.sock").exists());
    milter.write_all(b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff").unwrap();
    let mut answer = [0; 5];
    milter.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4], b'O');
    assert_eq!(home.ask(&question()), DUNNO);

    // Its folder is made; those above it are not.
    let nested = other.path("gatepost/milter.sock");
    with_milter(&other, &nested);
    drop(other.start());
    assert!(nested.parent().unwrap().is_dir());
    let lost = other.path("a/b/milter.sock");
    with_milter(&other, &lost);
    let said = "cannot make the folder of the socket: No such file or directory (os error 2)";
    refused(&other, 71, &format!("unix:{}: {said}", lost.display()));
    // Not a socket.
    fs::write(other.path("precious"), "").unwrap();
    with_milter(&other, &other.path("precious"));
    let said = "there is a file at this path, and it is no socket; remove it or choose another path";
    refused(&other, 78, &format!("unix:{}: {said}", other.path("precious").display()));
    assert!(!other.socket.exists() && other.path("precious").exists());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let home = Home::alone(SENDERS, "");
    fs::write(&home.socket, "precious").unwrap();
    let socket = home.socket.display();
    let said = "there is a file at this path, and it is no socket; remove it or choose another path";
    refused(&home, 78, &format!("unix:{socket}: {said}"));
    assert_eq!(fs::read_to_string(&home.socket).unwrap(), "precious");
}

#[test]
fn a_socket_that_is_not_ours_any_more_stays() {
    let home = Home::alone(SENDERS, "");
    let mut daemon = home.start();
    fs::remove_file(&home.socket).unwrap();
    let _theirs = UnixListener::bind(&home.socket).unwrap();
    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    assert!(home.socket.exists());
}

#[test]
fn over_the_bound_connections_are_closed_at_once_and_the_others_go_on() {
    let home = Home::alone(SENDERS, "");
    home.configure("max_connections = 10", "");
    let daemon = home.start();
    let open = |n: usize| {
        wait::until(&format!("{n} connections"), wait::LONG, || {
            (home.metric("gatepost_connections") == n as f64).then_some(())
        });
    };
    let mut inside: Vec<_> = (0..10).map(|_| home.asker()).collect();
    inside.iter_mut().for_each(|asker| assert_eq!(asker.ask(&question()), DUNNO));
    for _ in 0..5 {
        assert!(home.asker().is_closed());
    }
    assert_eq!(home.metric("gatepost_connections_turned_away_total"), 5.0);
    daemon.says(&["WARN", "Too many delegation connections", "max_connections=10"]);
    inside.iter_mut().for_each(|asker| assert_eq!(asker.ask(&question()), DUNNO));
    inside.truncate(7);
    open(7);
    assert_eq!(home.ask(&question()), DUNNO);
}

fn open_files(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

#[test]
fn too_many_open_files_end_nothing() {
    let home = Home::alone(SENDERS, "");
    let daemon = home.start_by("prlimit", &["--nofile=64"]);
    let mut askers: Vec<_> = (0..100).map(|_| home.asker()).collect();
    daemon.says(&["WARN", "Cannot accept a connection; trying again", "os error 24"]);
    assert!(open_files(&daemon) > 60);
    // Those inside go on, while those outside wait.
    assert_eq!(askers[0].ask(&question()), DUNNO);
    // An edit that cannot be read now is not forgotten.
    home.append_policy("allowed_senders", "new@example.com OK");
    daemon.says(&["ERROR", "policy", "Too many open files"]);
    assert_eq!(askers[1].ask(&Question::mail("info@example.com")), DUNNO);
    askers.drain(..70);
    askers.iter_mut().for_each(|asker| assert_eq!(asker.ask(&question()), DUNNO));
    wait::until("the edit to be in force", wait::LONG, || {
        (askers[0].ask(&Question::mail("new@example.com")) == DUNNO).then_some(())
    });
    assert_eq!(home.health().0, 200);
    home.append_policy("allowed_senders", "newer@example.com OK");
    in_force(&home, Instant::now(), "newer@example.com", true);
}

/// A restart while systemd, or an impatient operator, starts the next one at once.
#[test]
fn the_next_one_starts_when_the_last_one_has_ended() {
    let home = Home::alone(SENDERS, "");
    let mut daemon = home.start();
    for _ in 0..3 {
        let asker = home.asker();
        daemon.signal("TERM");
        let (status, took) = daemon.wait_for_end(wait::LONG);
        assert_eq!(status.code(), Some(0));
        assert!(took < wait::promised(Duration::from_secs(1)), "{took:?}");
        drop(asker);
        daemon = home.start();
    }
    daemon.signal("INT");
    assert_eq!(daemon.wait_for_end(wait::LONG).0.code(), Some(0));
}

#[test]
fn another_user_cannot_connect() {
    let home = Home::alone(SENDERS, "");
    home.configure("socket_mode = \"0600\"", "");
    let _daemon = home.start();
    let tries = |socket: &Path| {
        let script = "IO::Socket::UNIX->new(Peer => shift) or die qq($!\\n)";
        let out = Command::new("setpriv")
            .args([
                "--reuid",
                "64124",
                "--regid",
                "64124",
                "--clear-groups",
                "perl",
                "-MIO::Socket::UNIX",
                "-e",
                script,
            ])
            .arg(socket)
            .output()
            .unwrap();
        text(&out.stderr)
    };
    for socket in [&home.socket, &home.path("admin.sock")] {
        assert!(tries(socket).contains("Permission denied"), "{}", socket.display());
    }
}

//! The life of the daemon beside a running Postfix: its end, its start anew, a second one.

use crate::gatepost::{Daemon, Home, text};
use crate::postfix::Postfix;
use crate::wait;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SENDERS: &str = "info@example.com OK\n";

/// Two messages an hour.
const TWO: &str = "[[limit]]\nname = \"per-client\"\nkey = \"client_address\"\nrate = \"2/h\"\n";

/// A connection as an smtpd process keeps it: one question asked and answered.
fn idle_connection(home: &Home) -> UnixStream {
    let mut stream = UnixStream::connect(&home.socket).unwrap();
    stream.set_read_timeout(Some(wait::LONG)).unwrap();
    let question = "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=info@example.com\n\
                    recipient=user@example.net\nclient_address=127.0.0.1\ninstance=1.2.3.4\n\n";
    stream.write_all(question.as_bytes()).unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(text(&answer), "action=DUNNO\n\n");
    stream
}

#[test]
fn sigterm_ends_within_a_second_beside_idle_connections_and_open_sessions() {
    let postfix = Postfix::shipped();
    let (home, mut daemon) = Daemon::beside(&postfix, SENDERS, "");
    let idle: Vec<_> = (0..50).map(|_| idle_connection(&home)).collect();
    let mut session = postfix.session();
    session.ask("info@example.com", "user@example.net").expect(250, &[]);
    daemon.signal("TERM");
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert!(took < wait::promised(Duration::from_secs(1)), "{took:?}");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!home.socket.exists(), "the socket file stayed");
    drop(idle);
}

#[test]
fn the_socket_has_the_mode_and_group_of_the_config() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    let meta = std::fs::metadata(&home.socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    assert_eq!(meta.gid(), std::fs::metadata(home.socket.parent().unwrap()).unwrap().gid());
}

#[test]
fn a_second_daemon_says_so_and_ends_and_the_first_goes_on() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    let elsewhere = Home::beside(&postfix, SENDERS, "");
    for (second, names) in [(&home, home.path("state")), (&elsewhere, home.socket.clone())] {
        let mut second = second.spawn();
        let (status, _) = second.wait_for_end(wait::LONG);
        assert_eq!(status.code(), Some(69), "{status}");
        let said = second.stderr();
        assert!(said.contains(names.to_str().unwrap()) && said.contains("another"), "{said}");
    }
    postfix.session().ask("other@example.com", "user@example.net").expect(554, &["Sender address rejected"]);
    assert!(!postfix.log().contains("problem talking to server"), "{}", postfix.log());
}

#[test]
fn a_socket_left_by_a_killed_daemon_is_taken_over() {
    let postfix = Postfix::shipped();
    let (home, mut daemon) = Daemon::beside(&postfix, SENDERS, "");
    daemon.signal("KILL");
    daemon.wait_for_end(wait::LONG);
    assert!(home.socket.exists());
    let _next = home.start();
    postfix.session().ask("other@example.com", "user@example.net").expect(554, &["Sender address rejected"]);
}

/// The table's last two rows in `postfix-snippets/README.md`.
#[test]
fn a_restart_in_the_middle_of_a_session() {
    let postfix = Postfix::shipped();
    let (home, mut daemon) = Daemon::beside(&postfix, SENDERS, TWO);
    home.run(&["suppress", "add", "dead@example.net", "--reason", "manual"]);
    let mut session = postfix.session();
    wait::true_within("the entry to be in force", wait::LONG, || {
        session.ask("info@example.com", "dead@example.net").code == 550
    });
    session.mail("info@example.com", &["user@example.net"], "before").expect(250, &[]);
    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    let _next = home.start();

    // Senders: a second, once, then the answer. Recipients: none, until the session ends.
    let reply = session.ask("other@example.com", "user@example.net");
    reply.expect(554, &["Sender address rejected: "]);
    let a_second = Duration::from_millis(950)..wait::promised(Duration::from_secs(2));
    assert!(a_second.contains(&reply.took), "{reply:?}");
    let reply = session.ask("info@example.com", "dead@example.net");
    reply.expect(250, &[]);
    assert!(reply.took < Duration::from_millis(900), "{reply:?}");

    // Limits: a second, once; what was charged before the restart still counts.
    session.mail("info@example.com", &["user@example.net"], "after").expect(250, &[]);
    session.mail("info@example.com", &["user@example.net"], "over").expect(450, &["per-client"]);

    // A new session is asked about at once.
    let mut new = postfix.session();
    let reply = new.ask("info@example.com", "dead@example.net");
    reply.expect(550, &["Suppressed since"]);
    assert!(reply.took < Duration::from_millis(900), "{reply:?}");
}

#[test]
fn a_start_with_a_broken_policy_uses_the_last_good_one() {
    let postfix = Postfix::shipped();
    let (home, mut daemon) = Daemon::beside(&postfix, SENDERS, "");
    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    home.write_policy("allowed_senders", "info@example.com OK clents=10.0.0.0/8\n");
    let next = home.start();
    next.says(&["allowed_senders:1:"]);
    let mut session = postfix.session();
    session.ask("info@example.com", "user@example.net").expect(250, &[]);
    session.ask("other@example.com", "user@example.net").expect(554, &[]);
}

#[test]
fn a_first_start_with_a_broken_policy_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::listening_at(&dir.path().join("policy.sock"), "info@example.com\n", "");
    let mut daemon = home.spawn();
    let (status, _) = daemon.wait_for_end(wait::LONG);
    assert_eq!(status.code(), Some(78), "{status}");
    assert!(daemon.stderr().contains("allowed_senders:1:"), "{}", daemon.stderr());
    assert!(!home.socket.exists());
}

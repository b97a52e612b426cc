//! `gatepost trace` over the logs of mail that went through Postfix to SES, with events that came back.

use crate::aws::{Mail, Ses, add_section};
use crate::gatepost::{Daemon, Home, OPEN, both, text};
use crate::postfix::{Options, Postfix};
use crate::wait;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const SENDERS: &str = "info@example.com OK\nheld@example.com HOLD for review\n";

/// A relay whose events come by the spool.
struct Relay {
    home: Home,
    postfix: Postfix,
    ses: Ses,
    _spool: TempDir,
    _daemon: Daemon,
}

impl Relay {
    fn start() -> Self {
        let spool = tempfile::tempdir().unwrap();
        let ses = Ses::spooling_to(spool.path(), &[]);
        let postfix = Postfix::start(&Options { set: vec![ses.relayhost()], ..Options::default() });
        let home = Home::beside(&postfix, SENDERS, "");
        add_section(&home, &format!("[events]\nsource = \"spool\"\nspool_dir = \"{}\"\n", spool.path().display()));
        let (ours, theirs) = (home.path("mail.log*"), postfix.log_path());
        add_section(&home, &format!("[logs]\npaths = [\"{}\", \"{}*\"]\n", ours.display(), theirs.display()));
        let daemon = home.start();
        Self { home, postfix, ses, _spool: spool, _daemon: daemon }
    }

    /// Sends a mail, and waits until all that comes of it is in the logs.
    fn send(&self, to: &[&str], subject: &str, statuses: &[&str]) -> Mail {
        self.postfix.session().mail("info@example.com", to, subject).expect(250, &[]);
        let mail = self.ses.message(subject);
        for status in statuses {
            self.home.log_line(&[&mail.id, status]);
        }
        let sent = self.postfix.log_line(&[&mail.id]);
        self.postfix.log_line(&[&format!("{}: removed", queue_id(&sent))]);
        mail
    }

    /// The journeys that `trace` finds.
    fn trace(&self, what: &str) -> Vec<Value> {
        let out = self.home.run(&["trace", what, "--json"]);
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

fn queue_id(line: &str) -> &str {
    line.split_once("]: ").unwrap().1.split(':').next().unwrap()
}

/// What happened to a recipient, in its order.
fn stations(journey: &Value, to: &str) -> Vec<String> {
    let recipients = journey["recipients"].as_array().unwrap();
    let recipient = recipients.iter().find(|r| r["address"] == to).unwrap_or_else(|| panic!("no {to} in {journey:#}"));
    words(&recipient["stations"])
}

fn words(stations: &Value) -> Vec<String> {
    stations.as_array().unwrap().iter().map(|s| s["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_message_is_found_by_all_of_its_names() {
    let relay = Relay::start();
    let mail = relay.send(&["gone@example.net", "user@example.net"], "traced", &["status=bounced", "status=delivered"]);
    relay.send(&["other@example.net"], "another", &["status=delivered"]);
    let sent = relay.postfix.log_line(&["to=<gone@example.net>", "status=sent"]);
    let queue_id = queue_id(&sent);
    let of_cleanup = relay.postfix.log_line(&[queue_id, "message-id="]);
    let message_id = of_cleanup.split_once("message-id=").unwrap().1;

    for what in [queue_id, &mail.id, message_id] {
        let journeys = relay.trace(what);
        let [journey] = &journeys[..] else { panic!("{what}: {journeys:#?}") };
        assert_eq!((&journey["from"], &journey["nrcpt"]), (&"info@example.com".into(), &2.into()), "{journey:#}");
        assert_eq!(journey["queue_ids"], serde_json::json!([queue_id]));
        assert_eq!(words(&journey["stations"])[..2], ["submitted", "queued"]);
        assert_eq!(stations(journey, "gone@example.net"), ["sent", "accepted", "bounced"], "{journey:#}");
        assert_eq!(stations(journey, "user@example.net")[..3], ["sent", "accepted", "delivered"], "{journey:#}");
    }
    let journeys = relay.trace("User@EXAMPLE.net");
    let [journey] = &journeys[..] else { panic!("{journeys:#?}") };
    assert_eq!(journey["recipients"].as_array().unwrap().len(), 1, "{journey:#}");
    assert_eq!(journey["ses_ids"], serde_json::json!([mail.id]));
    let sent = &journey["recipients"][0]["stations"][0];
    assert!(sent["after_ms"].is_i64() && sent["time"].as_str().unwrap().starts_with("20"), "{journey:#}");
    assert_eq!(relay.trace("info@example.com").len(), 2);

    let shown = relay.home.run(&["trace", "gone@example.net"]);
    let at = |word: &str| shown.find(word).unwrap_or_else(|| panic!("no {word} in {shown}"));
    assert!(
        at("submitted") < at("queued") && at("queued") < at(" sent ") && at(" sent ") < at("ses bounced"),
        "{shown}"
    );
    assert!(shown.contains("5.1.1 smtp; 550 5.1.1 user unknown (suppressed)"), "{shown}");

    // Refused from now on, which is in both logs, and one thing that happened.
    wait::true_within("the refusal", wait::LONG, || {
        relay.postfix.session().ask("info@example.com", "gone@example.net").code == 550
    });
    relay.postfix.log_line(&["NOQUEUE: reject: RCPT", "gone@example.net"]);
    relay.home.log_line(&["decision=reject", "gone@example.net"]);
    // Which of two comes first is not known where both began in one second of Postfix's log.
    let mut said: Vec<_> = relay.trace("gone@example.net").iter().map(|j| stations(j, "gone@example.net")).collect();
    said.sort();
    assert_eq!(said[0], ["reject", "reject"], "{said:?}");
    assert_eq!(said.len(), 2, "{said:?}");
}

/// Nothing stamps this mail, and what identities send carries no tags: the log tells the queue id, and goes on to after
/// it was rotated and after a restart.
#[test]
fn events_get_the_queue_id_from_the_log() {
    let mut relay = Relay::start();
    let joined = |relay: &Relay, subject: &str| {
        let mail = relay.send(&["slow@example.net"], subject, &["status=delivered"]);
        let sent = relay.postfix.log_line(&[&mail.id]);
        relay.home.log_line(&[&mail.id, "status=delivered", &format!("queue_id={}", queue_id(&sent))]);
    };
    joined(&relay, "at first");
    assert!(relay.home.metric("gatepost_events_lines_joined_total") >= 1.0);
    assert!(relay.home.metric("gatepost_events_mail_logs_unreadable") < 1.0);

    let log = relay.postfix.log_path();
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    assert!(relay.postfix.tool("postfix").arg("reload").status().unwrap().success());
    joined(&relay, "after rotation");

    drop(relay._daemon);
    relay._daemon = relay.home.start();
    joined(&relay, "after a restart");
}

#[test]
fn logs_may_be_rotated_packed_piped_or_away() {
    let relay = Relay::start();
    let mail = relay.send(&["user@example.net"], "packed", &["status=delivered"]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (whole, packed, away) = (relay.postfix.log() + &relay.home.log(), path("mail.log.2.gz"), path("nowhere"));
    fs::write(path("mail.log"), &whole).unwrap();
    let gzip = Command::new("gzip").arg("-c").arg(path("mail.log")).output().unwrap();
    fs::write(&packed, gzip.stdout).unwrap();

    let expected = ["sent", "accepted", "delivered"];
    let shown = relay.home.run(&["trace", "user@example.net", "--json", "--log", &packed]);
    assert_eq!(stations(&serde_json::from_str(&shown).unwrap(), "user@example.net")[..3], expected);

    let mut piped = relay.home.command(&["trace", &mail.id, "--json", "--log", "-"]);
    let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(whole.as_bytes()).unwrap();
    let shown = text(&child.wait_with_output().unwrap().stdout);
    assert_eq!(stations(&serde_json::from_str(&shown).unwrap(), "user@example.net")[..3], expected);

    let out = relay.home.command(&["trace", &mail.id, "--log", &away, "--log", &packed]).output().unwrap();
    assert!(out.status.success() && text(&out.stderr).contains(&away), "{}", both(&out));
    let out = relay.home.command(&["trace", &mail.id, "--log", &away]).output().unwrap();
    assert_eq!(out.status.code(), Some(66), "{}", both(&out));
    let out = relay.home.command(&["trace", "nobody@example.net"]).output().unwrap();
    assert_eq!((out.status.code(), both(&out)), (Some(1), String::new()));
}

/// `postsuper -r` gives a new queue id, and SES's answer stands under that one.
#[test]
fn requeued_mail_is_one_message() {
    let relay = Relay::start();
    relay.postfix.session().mail("held@example.com", &["user@example.net"], "requeued").expect(250, &[]);
    let held = relay.postfix.log_line(&["message-id="]);
    let held = queue_id(&held);
    let out = relay.postfix.tool("postsuper").args(["-r", "ALL"]).output().unwrap();
    assert!(out.status.success() && both(&out).contains("Requeued: 1 message"), "{}", both(&out));
    wait::true_within("the mail to be picked up", wait::LONG, || {
        // It looks by itself once a minute.
        let out = relay.postfix.tool("postkick").args(["public", "pickup", "W"]).output().unwrap();
        assert!(out.status.success(), "{}", both(&out));
        relay.postfix.log().contains(&format!("orig_id={held}"))
    });
    let mail = relay.ses.message("requeued");
    relay.home.log_line(&[&mail.id, "status=delivered"]);
    let sent = relay.postfix.log_line(&[&mail.id]);
    let new = queue_id(&sent);
    for what in [held, new, "user@example.net", "held@example.com"] {
        // By an address the line that it was held is found as well, which names no queue id.
        let journeys = relay.trace(what);
        let journeys: Vec<_> = journeys.iter().filter(|j| j["queue_ids"] != serde_json::json!([])).collect();
        let [journey] = &journeys[..] else { panic!("{what}: {journeys:#?}") };
        assert_eq!(journey["queue_ids"], serde_json::json!([held, new]), "{what}: {journey:#}");
        assert!(words(&journey["stations"]).contains(&"requeued".to_owned()), "{journey:#}");
        assert!(stations(journey, "user@example.net").contains(&"delivered".to_owned()), "{journey:#}");
    }
}

/// Over both ways of rotation, until it is told to end.
#[test]
fn follow_goes_on() {
    let relay = Relay::start();
    let shown = tempfile::NamedTempFile::new().unwrap();
    relay.send(&["user@example.net"], "before", &["status=delivered"]);
    let mut command = relay.home.command(&["trace", "--follow", "user@example.net"]);
    let mut child = command.stdout(shown.reopen().unwrap()).spawn().unwrap();
    let so_far = || fs::read_to_string(shown.path()).unwrap();
    let is_told = |of: &Mail| {
        let told = so_far();
        let [sent, delivered] = [" sent to user@example.net", " delivered to user@example.net"];
        let has = |word: &str| told.lines().any(|line| line.contains(word) && line.contains(&of.id));
        has(sent) && has(delivered)
    };
    // What was there is told first; what comes behind that is followed, whenever the following begins.
    wait::true_within("the first mail to be told", wait::LONG, || so_far().contains("to user@example.net"));
    let mail = relay.send(&["user@example.net"], "followed", &["status=delivered"]);
    wait::true_within("the second mail to be told", wait::LONG, || is_told(&mail));

    let log = relay.postfix.log_path();
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    assert!(relay.postfix.tool("postfix").arg("reload").status().unwrap().success());
    fs::copy(relay.home.path("mail.log"), relay.home.path("mail.log.1")).unwrap();
    fs::File::options().write(true).open(relay.home.path("mail.log")).unwrap().set_len(0).unwrap();
    let mail = relay.send(&["user@example.net"], "after rotation", &["status=delivered"]);
    wait::true_within("the third mail to be told", wait::LONG, || is_told(&mail));

    let status = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let home = Home::alone("", OPEN);
    for (args, code, words) in [
        (&["trace", "ab"][..], 64, "neither an id nor an address"),
        (&["trace", ""], 64, "neither an id nor an address"),
        (&["trace"], 64, "ID|ADDRESS"),
        (&["trace", "a@b", "--log"], 64, "--log"),
        (&["trace", "a@b", "--log", "/"], 66, "/: cannot be read: is a directory"),
        (&["trace", "a@b", "--log", "-", "--follow"], 64, "--follow needs a log file that grows"),
    ] {
        let out = home.command(args).output().unwrap();
        assert!(
            out.status.code() == Some(code) && both(&out).contains(words),
            "{args:?}: {} {}",
            out.status,
            both(&out)
        );
    }
}

/// Postfix may be installed later, or its log be rotated away: nothing is wrong with the daemon.
#[test]
fn logs_that_are_not_there_yet_are_waited_for() {
    let home = Home::alone("", OPEN);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    fs::create_dir(dir.path().join("spool")).unwrap();
    add_section(&home, &format!("[events]\nsource = \"spool\"\nspool_dir = \"{path}/spool\"\n"));
    add_section(&home, &format!("[logs]\npaths = [\"{path}/mail.log*\"]\n"));
    let daemon = home.start();
    daemon.says(&["Events are not joined with mail by its log: no file is there that [logs] names"]);
    assert!(home.metric("gatepost_events_mail_logs_unreadable") > 0.0);
    assert_eq!(home.health().0, 200, "{:?}", home.health());
    fs::write(dir.path().join("mail.log"), "").unwrap();
    daemon.says(&["The mail logs can be read again."]);
    assert!(home.metric("gatepost_events_mail_logs_unreadable") < 1.0);
}

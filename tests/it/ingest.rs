//! `gatepost ingest`: SES's events from files of every form, with the daemon up and down, once and twice.

use crate::asker::Question;
use crate::gatepost::{Home, OPEN, both, text};
use crate::wait;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Output, Stdio};

/// A permanent bounce of `address`, as event publishing writes it.
pub fn bounce_of(address: &str, message: &str) -> Value {
    json!({
        "eventType": "Bounce",
        "bounce": {
            "bounceType": "Permanent",
            "bounceSubType": "General",
            "bouncedRecipients": [{
                "emailAddress": address,
                "action": "failed",
                "status": "5.1.1",
                "diagnosticCode": "smtp; 550 5.1.1 user unknown",
            }],
            "timestamp": "2026-05-01T10:00:02.000Z",
            "feedbackId": "f",
            "reportingMTA": "dns; amazonses.com",
        },
        "mail": mail(address, message),
    })
}

/// The same, of a message of its own.
pub fn bounce(address: &str) -> Value {
    bounce_of(address, &format!("0109019c-{address}"))
}

/// A delivery to `address`.
pub fn delivery(address: &str) -> Value {
    json!({
        "eventType": "Delivery",
        "mail": mail(address, "0109019c-delivered"),
        "delivery": {
            "timestamp": "2026-05-01T10:00:01.000Z",
            "processingTimeMillis": 841,
            "recipients": [address],
            "smtpResponse": "250 ok",
            "reportingMTA": "a8-31.smtp-out.amazonses.com",
        },
    })
}

fn mail(address: &str, message: &str) -> Value {
    json!({
        "timestamp": "2026-05-01T10:00:00.000Z",
        "source": "info@example.com",
        "sourceArn": "arn:aws:ses:ap-south-1:123456789012:identity/example.com",
        "sendingAccountId": "123456789012",
        "messageId": message,
        "destination": [address],
        "headersTruncated": false,
        "headers": [],
        "tags": { "ses:configuration-set": ["relay-events"] },
    })
}

fn envelope(event: &Value) -> Value {
    json!({ "Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:x:1:t", "Message": event.to_string() })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn ingest(home: &Home, args: &[&str]) -> Output {
    home.command(&[&["ingest"], args].concat()).output().unwrap()
}

fn write(home: &Home, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = home.path(name);
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// Addresses that are suppressed.
fn listed(home: &Home) -> Vec<String> {
    let list = home.run(&["suppress", "list", "--json"]);
    let address = |line: &str| serde_json::from_str::<Value>(line).unwrap()["address"].as_str().unwrap().to_owned();
    let mut all: Vec<_> = list.lines().map(address).collect();
    all.sort();
    all
}

#[test]
fn files_of_every_form_are_read() {
    let home = Home::alone("", OPEN);
    let [a, b, c, d, e, f] = ["a", "b", "c", "d", "e", "f"].map(|n| format!("{n}@example.net"));
    let lines = write(&home, "lines", format!("\u{feff}{}\r\n\r\n{}\n", bounce(&a), envelope(&bounce(&b))));
    let array = write(&home, "array.json", format!("{:#}", json!([bounce(&c), delivery("x@example.net")])));
    let packed = [gzip(format!("{:#}\n", bounce(&d)).as_bytes()), gzip(bounce(&e).to_string().as_bytes())].concat();
    let packed = write(&home, "packed.gz", packed);
    let mut child = home
        .command(&["ingest", &lines, "-", &array, &packed, "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bounce(&f).to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", both(&out));
    let summary: Value = serde_json::from_str(&text(&out.stdout)).unwrap();
    assert_eq!(summary["events"], json!({ "bounce": 6, "delivery": 1 }));
    assert_eq!((&summary["added"], &summary["duplicates"], &summary["lines"]), (&6.into(), &0.into(), &7.into()));
    let words = "7 events (1 delivery, 6 bounce): 6 added, 0 renewed, 0 braked, 0 removed, 0 taken back, 0 duplicates, \
                 0 foreign, 0 not events, 0 unknown, 0 unreadable\n";
    assert_eq!(text(&out.stderr), words);
    assert_eq!(listed(&home), [a, b, c, d, e, f]);
    // no daemon runs: the lines are in the log
    let log = home.log();
    assert_eq!(
        log.lines().filter(|l| l.contains("status=bounced") && l.contains("suppressed=yes")).count(),
        6,
        "{log}"
    );
    assert_eq!(log.lines().filter(|l| l.contains(" postfix/ses-events[")).count(), 7);
    // and a second time nothing happens
    let again = ingest(&home, &[&lines, &array, &packed]);
    assert!(
        text(&again.stderr).contains(": 0 added, 0 renewed, 0 braked, 0 removed, 0 taken back, 6 duplicates"),
        "{again:?}"
    );
    assert_eq!(home.log(), log);
}

#[test]
fn json_on_stdout_is_alone_there() {
    let home = Home::alone("", OPEN);
    home.configure("[event_log]\noutput = \"stdout\"\n", "");
    let file = write(&home, "one", bounce("a@example.net").to_string());
    let out = ingest(&home, &[&file, "--json"]);
    let summary: Value = serde_json::from_str(&text(&out.stdout)).unwrap();
    assert_eq!(summary["added"], 1);
    assert!(text(&out.stderr).contains("to=<a@example.net>"), "{}", both(&out));
}

#[test]
fn a_signal_ends_it_behind_what_was_read() {
    let home = Home::alone("", OPEN);
    for signal in [Signal::TERM, Signal::INT] {
        let address = format!("s{}@example.net", signal.as_raw());
        let mut child = home
            .command(&["ingest", "--json", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Many, so that what was read is known by what is in the list; and the pipe stays open.
        let mut stdin = child.stdin.take().unwrap();
        let events: String = (0..600).map(|n| format!("{}\n", bounce_of(&address, &format!("{address}{n}")))).collect();
        stdin.write_all(events.as_bytes()).unwrap();
        wait::true_within("a batch", wait::LONG, || listed(&home).contains(&address));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", both(&out));
        assert!(text(&out.stderr).starts_with("stopped early; so far "), "{}", both(&out));
        let summary: Value = serde_json::from_str(&text(&out.stdout)).unwrap();
        assert_eq!(summary["lines"], summary["events"]["bounce"], "what was read is applied");
        drop(stdin);
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_taken() {
    let home = Home::alone("", OPEN);
    let good = |n: u32| bounce(&format!("u{n}@example.net"));
    let file = write(&home, "mixed", format!("{}\n{{\"eventType\":\n{}\nnot JSON\n{}\n", good(1), good(2), good(3)));
    let out = ingest(&home, &[&file]);
    assert_eq!(out.status.code(), Some(65), "{}", both(&out));
    let said = text(&out.stderr);
    assert!(said.contains(&format!("{file}:2: ")) && said.contains(&format!("{file}:4: ")), "{said}");
    assert!(said.contains("3 added") && said.contains("2 unreadable"), "{said}");
    assert_eq!(home.run(&["events", "quarantine", "list"]), "", "the file is there to be read again");
    let packed = gzip(format!("{}\n", good(4)).repeat(3_000).as_bytes());
    let broken = write(&home, "broken.gz", &packed[..packed.len() - 30]);
    let out = ingest(&home, &[&broken]);
    assert_eq!(out.status.code(), Some(65), "{}", both(&out));
    assert!(text(&out.stderr).contains(&format!("{broken}: cannot be read to its end")), "{}", both(&out));
    assert_eq!(listed(&home).len(), 4, "what came before the break is taken");
}

#[test]
fn files_and_policy_must_be_there() {
    let home = Home::alone("", OPEN);
    let file = write(&home, "one", bounce("a@example.net").to_string());
    for (files, added) in [
        (&["/nowhere/events.json"][..], 0),
        (&["/nowhere/events.json", &file], 1),
        (&[&file, "/nowhere/events.json"], 1),
    ] {
        let missing = ingest(&home, files);
        assert_eq!(missing.status.code(), Some(66), "{}", both(&missing));
        assert!(text(&missing.stderr).contains("/nowhere/events.json: cannot be opened"), "{}", both(&missing));
        assert_eq!(listed(&home).len(), added, "the others are read");
    }
    assert_eq!(ingest(&home, &[home.policy_dir().to_str().unwrap()]).status.code(), Some(66));
    assert_eq!(ingest(&home, &[]).status.code(), Some(64));
    home.write_policy("policy.toml", "[suppression]\nbrake = \"often\"\n");
    let wrong = ingest(&home, &[&file]);
    assert_eq!(wrong.status.code(), Some(78));
    assert!(text(&wrong.stderr).contains("policy.toml:2:"), "{}", both(&wrong));
}

#[test]
fn the_brake_holds_for_files_too_unless_it_is_told_not_to() {
    let home = Home::alone("", &format!("{OPEN}[suppression]\nbrake = \"2/h\"\n"));
    let all: String = (0..5).map(|n| format!("{}\n", bounce(&format!("u{n}@example.net")))).collect();
    let file = write(&home, "many", &all);
    let out = ingest(&home, &[&file]);
    assert_eq!(out.status.code(), Some(0), "{}", both(&out));
    assert!(text(&out.stderr).contains("2 added, 0 renewed, 3 braked"), "{}", both(&out));
    assert!(text(&out.stderr).contains("gatepost suppress brake"), "{}", both(&out));
    assert_eq!((listed(&home).len(), home.log().matches("suppressed=braked").count()), (2, 3));
    let second = Home::alone("", &format!("{OPEN}[suppression]\nbrake = \"2/h\"\n"));
    let file = write(&second, "many", &all);
    assert!(text(&ingest(&second, &[&file, "--no-brake"]).stderr).contains("5 added, 0 renewed, 0 braked"));
    assert_eq!(second.run(&["suppress", "brake"]), "off\n");
}

#[test]
fn unknown_types_and_events_of_nobody_are_kept() {
    let home = Home::alone("", OPEN);
    home.configure("[events]\nsource = \"spool\"\nspool_dir = \"/nowhere\"\naccounts = [\"123456789012\"]\n", "");
    let mut unknown = bounce("a@example.net");
    unknown["eventType"] = "Teleport".into();
    let mut foreign = bounce("b@example.net");
    foreign["mail"]["sendingAccountId"] = "999999999999".into();
    let mut nobody = bounce("c@example.net");
    nobody["mail"].as_object_mut().unwrap().retain(|key, _| key != "sendingAccountId" && key != "sourceArn");
    let text_of = "Successfully validated SNS topic for Amazon SES event publishing.";
    let file = write(&home, "odd", format!("{unknown}\n{foreign}\n{nobody}\n{text_of}\n"));
    let out = ingest(&home, &[&file]);
    assert_eq!(out.status.code(), Some(0), "{}", both(&out));
    assert!(text(&out.stderr).contains("2 foreign, 1 not events, 1 unknown, 0 unreadable"), "{}", both(&out));
    let kept = home.run(&["events", "quarantine", "list"]);
    assert!(kept.lines().count() == 2 && kept.contains("Teleport") && kept.contains(&format!("{file}:3")), "{kept}");
    assert!(listed(&home).is_empty() && home.log().is_empty());
    ingest(&home, &[&file]);
    assert_eq!(home.run(&["events", "quarantine", "list"]).lines().count(), 2, "a body is kept once");
}

#[test]
fn beside_a_running_daemon_the_daemon_writes_the_lines() {
    let home = Home::alone("", OPEN);
    let daemon = home.start();
    let file = write(&home, "one", bounce("gone@example.net").to_string());
    let out = ingest(&home, &[&file]);
    assert_eq!(out.status.code(), Some(0), "{}", both(&out));
    let line = home.log_line(&["to=<gone@example.net>", "suppressed=yes"]);
    assert!(line.contains(&format!("postfix/ses-events[{}]: ", daemon.pid())), "{line}");
    wait::until("the refusal", wait::LONG, || {
        home.ask(&Question::rcpt("info@example.com", "gone@example.net")).contains("550").then_some(())
    });
}

#[test]
fn what_root_makes_first_belongs_to_the_folders_owner() {
    let home = Home::alone("", OPEN);
    let (state, owner) = (home.path("state"), Some(65_534));
    for folder in [&state, &home.path("")] {
        if chown(folder, owner, owner).is_err() {
            eprintln!("not root: not tested");
            return;
        }
    }
    let file = write(&home, "one", bounce("gone@example.net").to_string());
    assert_eq!(ingest(&home, &[&file]).status.code(), Some(0));
    let owned = |path: &Path| fs::metadata(path).unwrap().uid();
    for path in [state.join("gatepost.db"), state.join("gatepost.lock"), home.path("mail.log")] {
        assert_eq!(owned(&path), 65_534, "{}", path.display());
    }
}

#[test]
fn interrupted_and_run_again_it_loses_and_repeats_nothing() {
    const EVENTS: usize = 30_000;
    let home = Home::alone("", OPEN);
    let path = home.path("many");
    let mut file = std::io::BufWriter::new(File::create(&path).unwrap());
    for n in 0..EVENTS {
        writeln!(file, "{}", bounce(&format!("u{n}@example.net"))).unwrap();
    }
    file.into_inner().unwrap();
    let path = path.display().to_string();
    let count = || home.run(&["suppress", "list"]).lines().count();
    for _ in 0..2 {
        let mut child = home.command(&["ingest", &path]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let before = count();
        wait::until("some entries", wait::LONG, || (count() > before + 500).then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let out = ingest(&home, &[&path]);
    assert_eq!(out.status.code(), Some(0), "{}", both(&out));
    assert_eq!(count(), EVENTS);
    let log = home.log();
    let mut addresses: Vec<&str> =
        log.lines().filter_map(|l| l.split_once("to=<")?.1.split_once('>')).map(|p| p.0).collect();
    let lines = addresses.len();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), EVENTS, "a line for each");
    assert!(lines <= EVENTS + 2 * 1_000, "{} lines were repeated", lines - EVENTS);
}

#[test]
fn a_daemon_that_starts_meanwhile_gets_its_lock() {
    const EVENTS: usize = 20_000;
    let home = Home::alone("", OPEN);
    let all: String = (0..EVENTS).map(|n| format!("{}\n", bounce(&format!("u{n}@example.net")))).collect();
    let file = write(&home, "many", all);
    let mut child = home.command(&["ingest", &file]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait::until("some lines", wait::LONG, || (home.log().len() > 1_000).then_some(()));
    let daemon = home.start();
    assert!(child.wait().unwrap().success());
    let log = wait::until("all lines", wait::LONG, || {
        let log = home.log();
        (log.lines().count() >= EVENTS).then_some(log)
    });
    assert_eq!(log.lines().count(), EVENTS, "none is repeated");
    assert!(log.contains(&format!("postfix/ses-events[{}]: ", daemon.pid())), "the daemon wrote the last ones");
}

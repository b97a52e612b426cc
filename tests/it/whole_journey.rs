//! The whole journey: mail that Postfix takes, gatepost stamps and SES delivers, whose events come back by SNS and SQS,
//! told by `gatepost trace` and by `grep`. Once with the events of a configuration set, which carry the stamps, and once
//! with an identity's notifications, which do not.

use crate::aws::{Aws, Ses, add_section};
use crate::gatepost::Home;
use crate::postfix::{Options, Postfix};
use crate::stamped::snippet;
use std::process::Command;

/// Which of SES's dialects, as options of the stand-in.
const EVENTS: &[&str] = &[];
const NOTIFICATIONS: &[&str] = &["--notifications", "--no-events"];

#[test]
fn with_the_events_of_a_configuration_set() {
    let joined = journey_of(EVENTS, &["submitted", "stamped", "queued", "sent", "ses accepted", "ses delivered"]);
    assert_eq!(joined, 0, "the stamps tell the ids");
}

#[test]
fn with_the_notifications_of_an_identity() {
    let joined = journey_of(NOTIFICATIONS, &["submitted", "stamped", "queued", "sent", "ses delivered"]);
    assert_eq!(joined, 1, "Postfix's log tells the ids");
}

/// Sends a mail, and looks at its journey in both ways; how many lines got their ids from Postfix's log.
fn journey_of(dialect: &[&str], expected: &[&str]) -> u64 {
    let aws = Aws::start(&[]);
    let ses = Ses::publishing_with(&aws, dialect);
    let mut set = snippet("main.cf.milter");
    set.push(ses.relayhost());
    let postfix = Postfix::start(&Options { set, ..Options::default() });
    let home = Home::beside(&postfix, "info@example.com OK\n", "");
    let folder = postfix.socket().parent().unwrap().display().to_string();
    let (ours, theirs) = (home.path("mail.log"), postfix.log_path());
    add_section(&home, &format!("[milter]\nlisten = [\"unix:{folder}/milter.sock\"]\n"));
    add_section(&home, &format!("[logs]\npaths = [\"{}*\", \"{}*\"]\n", ours.display(), theirs.display()));
    add_section(&home, &aws.output("GatepostToml"));
    let environment: Vec<_> = aws.environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
    let _daemon = home.start_by("env", &environment.iter().map(String::as_str).collect::<Vec<_>>());

    postfix.session().mail("info@example.com", &["user@example.com"], "all the way").expect(250, &[]);
    let mail = ses.message("all the way");
    let stamp = |name: &str, end: &[char]| {
        let (_, rest) = mail.content.split_once(name).unwrap_or_else(|| panic!("no {name} in {}", mail.content));
        rest.split(end).next().unwrap().to_owned()
    };
    let queue_id = stamp("X-SES-MESSAGE-TAGS: queue_id=", &[',']);
    let correlation_id = stamp("X-Correlation-ID: ", &['\n']);
    let ids = format!("queue_id={queue_id}, correlation_id={correlation_id}");
    home.log_line(&[&mail.id, "to=<user@example.com>", "status=delivered", &ids]);
    let sent = postfix.log_line(&[&format!("status=sent (250 Ok {})", mail.id)]);
    assert!(sent.contains(&format!(": {queue_id}: to=<user@example.com>")), "{sent}");
    postfix.log_line(&[&format!("{queue_id}: removed")]);

    let shown = home.run(&["trace", "user@example.com"]);
    assert!(shown.starts_with(&queue_id) && shown.contains(&correlation_id), "{shown}");
    assert_eq!(stations(&shown), expected, "{shown}");
    for what in [&queue_id, &correlation_id, &mail.id] {
        assert_eq!(stations(&home.run(&["trace", what])), expected, "{what}");
    }

    let out = Command::new("grep").args(["-h", &queue_id]).args([theirs, ours]).output().unwrap();
    let told = String::from_utf8(out.stdout).unwrap();
    for words in ["client=", "correlation_id=", "(queue active)", "status=sent", "status=delivered", "removed"] {
        assert!(told.contains(words), "no {words} in {told}");
    }
    home.metric("gatepost_events_lines_joined_total") as u64
}

/// What happened, each with its time: `2026-11-23T05:28:57.000Z    +100ms  sent …`.
fn stations(shown: &str) -> Vec<String> {
    let mut stations = Vec::new();
    let mut last = None;
    for line in shown.lines().filter(|line| line.starts_with("  ") && !line.trim_start().starts_with("to ")) {
        let mut words = line.split_whitespace().peekable();
        let time: jiff::Timestamp = words.next().and_then(|word| word.parse().ok()).expect("a time");
        // One log has whole seconds only.
        assert!(last.is_none_or(|last: jiff::Timestamp| time.as_second() >= last.as_second()), "{shown}");
        last = Some(time);
        words.next_if(|word| word.starts_with('+'));
        let what = words.next().expect("what happened");
        stations.push(if what == "ses" { format!("ses {}", words.next().expect("what")) } else { what.to_owned() });
    }
    stations
}

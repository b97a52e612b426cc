//! Every event of `tests/events/`: `NAME.json` is a body, `NAME.expect` what it is and does by the rules of
//! `NAME.toml` (a policy.toml; where there is none, by the defaults) on an empty list. Each is read, and each is
//! applied to a fresh database, once and again.
//!
//! After a change that is meant: `BLESS=1 cargo test --test it events_corpus` writes what is now, for `git diff`.

use gatepost::events::{Digest, Settings, Verdict, digest};
use gatepost::lines::{Line, MAX_LINE_BYTES, Priority, Suppressed};
use gatepost::mail::Printable;
use gatepost::rules::{Files, Rules};
use gatepost::store::{Batch, Cause, Effect, Entry, Filter, Reader, Store, StoreError};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// 2026-11-20T00:00:00Z; the events are of the day before.
const NOW: i64 = 1_795_132_800;

/// The relay's account.
const ACCOUNT: &str = "123456789012";

fn folder() -> PathBuf {
    crate::postfix::shipped("tests/events")
}

/// The names of the events, and their bodies.
fn events() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            found.push((path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn rules(name: &str) -> Rules {
    let files = Files {
        allowed_senders: Some(b"# gatepost: empty on purpose\n".to_vec()),
        allowed_recipients: None,
        policy_toml: fs::read(folder().join(format!("{name}.toml"))).ok(),
    };
    files.parse(Path::new("policy")).unwrap_or_else(|problems| panic!("{name}.toml: {problems:?}")).0
}

fn read(body: &[u8], rules: &Rules) -> Digest {
    let accounts = [ACCOUNT.to_owned()];
    let rules = &rules.suppression;
    digest(body, &Settings { rules, accounts: &accounts, correlation_header: "X-Correlation-ID", now: NOW })
}

/// What a body is and does, a line each: verdict, oddity, causes, log lines.
fn told(digest: &Digest) -> String {
    let mut out = match &digest.verdict {
        Verdict::Event { kind, notification: false } => kind.as_str().to_owned(),
        Verdict::Event { kind, notification: true } => format!("{} notification", kind.as_str()),
        Verdict::NotAnEvent(word) => format!("no event: {word}"),
        Verdict::Foreign { account } => format!("foreign: {account}"),
        Verdict::Unknown { what } => format!("unknown: {what}"),
        Verdict::Unreadable { why } => format!("unreadable: {why}"),
    };
    out.push('\n');
    if let Some(oddity) = &digest.oddity {
        let _ = writeln!(out, "odd: {oddity}");
    }
    for effect in &digest.effects {
        out.push_str(&cause(&effect.cause));
    }
    for line in digest.effects.iter().map(expected_line) {
        out.push_str(&log_line(&line));
    }
    out
}

fn cause(cause: &Cause) -> String {
    match cause {
        Cause::Nothing => String::new(),
        Cause::Suppress { entry, mail_time, echo } => {
            let word = if entry.in_force(NOW) { "entry" } else { "expired" };
            let echo = if *echo { ", an echo" } else { "" };
            format!("{word}: {}", entry_text(entry, &format!(", sent {}{echo}", time(*mail_time))))
        }
        Cause::Full { entry, mail_time, rule, .. } => {
            let word = if rule.count > 1 { "full" } else { "entry" };
            format!("{word}: {}", entry_text(entry, &format!(", sent {}", time(*mail_time))))
        }
        Cause::Delivered { address } => format!("delivered: {address}\n"),
    }
}

fn time(at: i64) -> String {
    jiff::Timestamp::from_second(at).unwrap().to_string()
}

/// An entry as the list will have it.
fn entry_text(entry: &Entry, more: &str) -> String {
    let expires = entry.expires.map_or("never".to_owned(), time);
    let spelling = entry.spelling.as_ref().map_or(String::new(), |s| format!(", spelt {s}"));
    let evidence = Printable::new(entry.evidence.as_bytes(), 2_000);
    let (reason, created, evidence) = (entry.reason.as_str(), time(entry.created), evidence.as_str().trim());
    format!("{} {reason}, {created} to {expires}{spelling}{more}\n    {evidence}\n", entry.address)
}

/// The line as the store fills it in on an empty list.
fn expected_line(effect: &Effect) -> Line {
    let mut line = effect.line.clone();
    line.suppressed = match &effect.cause {
        Cause::Nothing | Cause::Delivered { .. } => line.suppressed,
        Cause::Suppress { entry, .. } if entry.in_force(NOW) => Some(Suppressed::Yes),
        Cause::Full { entry, rule, .. } if rule.count <= 1 && entry.in_force(NOW) => Some(Suppressed::Yes),
        _ => Some(Suppressed::No),
    };
    line.to_line()
}

fn log_line(line: &Line) -> String {
    let priority = if line.priority == Priority::Warning { "warning" } else { "info" };
    format!("{priority}: {}[1]: {}\n", line.ident, line.text)
}

#[test]
fn every_event_is_read_as_expected() {
    let mut wrong = Vec::new();
    let events = events();
    for (name, body) in &events {
        let told = told(&read(body, &rules(name)));
        let file = folder().join(format!("{name}.expect"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&file, &told).unwrap();
        } else if fs::read_to_string(&file).unwrap_or_default() != told {
            wrong.push(format!("{}: it is now\n{told}", file.display()));
        }
    }
    assert!(events.len() >= 250, "{} events", events.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands in a database: the entries and the lines that wait, as an `.expect` tells them.
fn stored(path: &Path) -> (Vec<String>, Vec<String>) {
    let reader = Reader::open(path).unwrap();
    let mut entries = Vec::new();
    let each = |entry: Entry| -> Result<(), StoreError> {
        entries.push(entry_text(&entry, ""));
        Ok(())
    };
    reader.scan(&Filter::default(), None, each).unwrap();
    let lines = reader.outbox(0, 100_000).unwrap().iter().map(|waiting| log_line(&waiting.line)).collect();
    (entries, lines)
}

/// Applies effects to a fresh database, twice, and says what stands there after each.
fn applied(effects: &[Effect]) -> [(Vec<String>, Vec<String>); 2] {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("gatepost.db");
    let mut store = Store::open(&path).unwrap();
    [0, 1].map(|_| {
        let batch = Batch { effects, quarantine: &[], now: NOW, brake: None, written: None, late_until: None };
        store.apply(&batch).unwrap();
        stored(&path)
    })
}

#[test]
fn every_event_does_what_is_expected_and_once_only() {
    let mut wrong = Vec::new();
    for (name, body) in events() {
        let digest = read(&body, &rules(&name));
        let makes = |effect: &Effect| match &effect.cause {
            Cause::Suppress { entry, .. } if entry.in_force(NOW) => Some(entry_text(entry, "")),
            Cause::Full { entry, rule, .. } if rule.count <= 1 => Some(entry_text(entry, "")),
            _ => None,
        };
        let entries: Vec<String> = digest.effects.iter().filter_map(makes).collect();
        let lines: Vec<String> = digest.effects.iter().map(|effect| log_line(&expected_line(effect))).collect();
        for (time, found) in ["once", "twice"].iter().zip(applied(&digest.effects)) {
            if found != (entries.clone(), lines.clone()) {
                wrong.push(format!("{name}, applied {time}: {found:#?}\ninstead of {entries:#?} {lines:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A bounce with these recipients, as JSON, and this in place of a side field.
fn bounce(recipients: &str, side: &str) -> String {
    format!(
        r#"{{"eventType":"Bounce","mail":{{"messageId":"0109019cd5a1ffff-1","timestamp":"2026-11-19T10:00:00.000Z",
        "sendingAccountId":"{ACCOUNT}","subject":{side}}},"bounce":{{"bounceType":"Permanent","bounceSubType":"General",
        "timestamp":"2026-11-19T10:00:05.000Z","bouncedRecipients":[{recipients}]}}}}"#
    )
}

#[test]
fn large_events_are_read_in_bounded_time() {
    let rules = rules("");
    let many: Vec<String> = (0..3_000).map(|n| format!(r#"{{"emailAddress":"user{n}@example.net"}}"#)).collect();
    let started = Instant::now();
    let digest = read(bounce(&many.join(","), "0").as_bytes(), &rules);
    assert_eq!(digest.effects.len(), 3_000);
    assert!(digest.effects.iter().all(|e| matches!(e.cause, Cause::Suppress { .. })));
    let [(entries, lines), _] = applied(&digest.effects);
    assert_eq!((entries.len(), lines.len()), (3_000, 3_000));

    let long = format!(r#"{{"emailAddress":"gone@example.net","diagnosticCode":"{}"}}"#, "550 no; ".repeat(32_768));
    let digest = read(bounce(&long, "0").as_bytes(), &rules);
    let line = digest.effects[0].line.to_line().text;
    assert!(line.len() <= MAX_LINE_BYTES && line.ends_with(')'), "{line}");

    let all: Vec<String> = (0..10_001).map(|n| format!("\"u{n}@example.net\"")).collect();
    assert_eq!(read(bounce(&all[1..].join(","), "0").as_bytes(), &rules).effects.len(), 10_000);
    assert!(matches!(read(bounce(&all.join(","), "0").as_bytes(), &rules).verdict, Verdict::Unreadable { .. }));
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn what_all_recipients_share_is_copied_for_each_within_bounds() {
    let recipients: Vec<String> = (0..10_000).map(|n| format!("\"u{n}@example.net\"")).collect();
    let body = bounce(&recipients.join(","), "0").replace("0109019cd5a1ffff-1", &"i".repeat(400_000));
    let body = body.replace("General", &"g".repeat(400_000));
    let started = Instant::now();
    let digest = read(body.as_bytes(), &rules(""));
    assert_eq!(digest.effects.len(), 10_000);
    assert!(digest.effects.iter().all(|effect| effect.line.ses_id.len() < 1_000));
    assert!(digest.effects.iter().all(|effect| effect.line.details.iter().all(|(_, word)| word.len() < 1_000)));
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[test]
fn depth_is_bounded() {
    let rules = rules("");
    let nested = |n: usize| bounce(r#""gone@example.net""#, &format!("{}0{}", "[".repeat(n), "]".repeat(n)));
    assert_eq!(read(nested(100).as_bytes(), &rules).effects.len(), 1);
    for n in [200, 5_000, 200_000] {
        let verdict = read(nested(n).as_bytes(), &rules).verdict;
        assert!(matches!(&verdict, Verdict::Unreadable { why } if why.contains("recursion limit")), "{verdict:?}");
    }
}

/// What pflogsumm makes of a log: its counts, and what it complains of.
fn pflogsumm(log: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), log).unwrap();
    let arguments = ["--verbose_msg_detail", "--problems_first", "--rej_add_from"];
    let out = Command::new("pflogsumm").args(arguments).arg(file.path()).output().expect("pflogsumm is installed");
    crate::gatepost::both(&out)
}

#[test]
fn pflogsumm_counts_none_of_the_lines() {
    let mut log = "Nov 19 10:00:00 relay postfix/other[1]: nothing\n".to_owned();
    let without = pflogsumm(&log);
    for (name, body) in events() {
        for line in read(&body, &rules(&name)).effects.iter().map(expected_line) {
            let _ = writeln!(log, "Nov 19 10:00:00 relay {}[1]: {}", line.ident, line.text);
        }
    }
    assert_eq!(pflogsumm(&log), without);
}

//! pflogsumm over a mail log with our lines in it: it warns of nothing and counts the same as without them.

use crate::gatepost::{Daemon, both, text};
use crate::postfix::Postfix;
use crate::wait;
use std::fs;
use std::process::Command;

const SENDERS: &str = "info@example.com OK\nheld@example.com HOLD for review\n";

const ENFORCE: &str = "[[limit]]\nname = \"per-client\"\nkey = \"client_address\"\nrate = \"5/h\"\n";

const OBSERVE: &str = "\
[senders]
mode = \"observe\"
[suppression]
mode = \"observe\"
[[limit]]
name = \"per-client\"
key = \"client_address\"
rate = \"5/h\"
mode = \"observe\"
";

/// Lines that other parts of gatepost write, in the form that operators grep for: every status of an event, and
/// the correlation line of the milter.
const EVENTS: &str = "\
postfix/ses-events[456]: 0109019c11aa: to=<user@example.com>, relay=amazonses.com, dsn=2.0.0, status=delivered, delay=3558ms, queue_id=QID, correlation_id=0198c2, response=(250 ok dirdel)
postfix/ses-events[456]: 0109019c11ab: to=<gone@example.com>, relay=amazonses.com, dsn=5.1.1, status=bounced, bounce_type=Permanent, bounce_subtype=General, suppressed=yes, queue_id=QID, correlation_id=0198c2, sent_by=relay-b.example.com, reason=(smtp; 550 5.1.1 user unknown)
postfix/ses-events[456]: 0109019c11ac: to=<full@example.com>, relay=amazonses.com, dsn=4.2.2, status=delayed, queue_id=QID, reason=(smtp; 452 4.2.2 mailbox full: try again)
postfix/ses-events[456]: 0109019c11ad: to=<angry@example.com>, relay=amazonses.com, status=complaint, feedback_type=abuse, queue_id=QID
postfix/ses-events[456]: 0109019c11ae: to=<virus@example.com>, relay=amazonses.com, status=rejected, reason=(Bad content)
postfix/ses-events[456]: 0109019c11af: to=<user@example.com>, relay=amazonses.com, status=accepted, queue_id=QID
postfix/ses-events[456]: 0109019c11b0: to=<user@example.com>, relay=amazonses.com, status=opened
postfix/ses-events[456]: 0109019c11b1: to=<user@example.com>, relay=amazonses.com, status=clicked
postfix/ses-events[456]: 0109019c11b2: to=<user@example.com>, relay=amazonses.com, status=failed, reason=(template: reject)
postfix/ses-events[456]: 0109019c11b3: to=<user@example.com>, relay=amazonses.com, status=subscription
postfix/gatepost[457]: QID: correlation_id=0198c2, message-id=<a@example.com>, from=<info@example.com>, nrcpt=1, client=10.0.0.125
postfix/gatepost[457]: decision=drop, check=suppression, mode=enforce, rule=suppression-list, generation=1, from=<info@example.com>, to=<dead@example.net>, client=127.0.0.1, queue_id=QID, reply=(550 5.1.1 Suppressed since 2026-11-23: manual)
postfix/gatepost[457]: decision=hold, check=senders, mode=enforce, rule=allowed_senders:unlisted, generation=1, from=<other@example.com>, client=127.0.0.1, queue_id=QID, reply=(554 5.7.1 Sender not allowed here)
postfix/gatepost[457]: decision=bounce, check=senders, mode=enforce, rule=allowed_senders:unlisted, generation=1, from=<other@example.com>, client=127.0.0.1, queue_id=QID, reply=(554 5.7.1 Sender not allowed here)
postfix/gatepost[457]: decision=discard, check=senders, mode=enforce, rule=allowed_senders:unlisted, generation=1, from=<other@example.com>, client=127.0.0.1, queue_id=QID, reply=(554 5.7.1 Sender not allowed here)
";

/// Mail of every fate past a gatepost that refuses and one that observes. Postfix's log and ours.
fn logs_of_a_busy_hour() -> (String, String) {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, ENFORCE);
    home.run(&["suppress", "add", "dead@example.net", "--reason", "manual"]);
    let mut session = postfix.session();
    wait::true_within("the entry to be in force", wait::LONG, || {
        session.ask("info@example.com", "dead@example.net").code == 550
    });
    session.ask("other@example.com", "user@example.net").expect(554, &[]);
    session.mail("held@example.com", &["user@example.net"], "held").expect(250, &[]);
    for n in 2..=5 {
        session
            .mail("info@example.com", &["user@example.net", "more@example.org"], &format!("mail {n}"))
            .expect(250, &[]);
    }
    session.mail("info@example.com", &["user@example.net"], "over").expect(450, &[]);
    home.log_line(&["decision=near-limit"]);

    home.write_policy("policy.toml", OBSERVE);
    wait::true_within("observing", wait::LONG, || session.ask("other@example.com", "user@example.net").code == 250);
    session.mail("other@example.com", &["dead@example.net"], "observed").expect(250, &[]);
    for check in ["senders", "suppression", "limits"] {
        home.log_line(&["decision=would-reject", &format!("check={check}")]);
    }
    session.say("QUIT").expect(221, &[]);
    for subject in ["mail 5", "observed"] {
        postfix.sink.message(subject);
    }
    postfix.log_line(&["disconnect from "]);
    wait::until("the queue to be empty", wait::LONG, || {
        let log = postfix.log();
        (log.matches(": removed").count() == log.matches("status=sent").count() - 4).then_some(())
    });
    (postfix.log(), home.log())
}

/// What pflogsumm prints, its lines sorted: those of equal counts come in any order.
pub fn summary(log: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), log).unwrap();
    let out = Command::new("pflogsumm")
        .args(["--verbose_msg_detail", "--problems_first", "--rej_add_from"])
        .arg(file.path())
        .output()
        .expect("pflogsumm is installed");
    assert!(out.status.success(), "{}", both(&out));
    assert_eq!(text(&out.stderr), "");
    let shown = text(&out.stdout);
    let mut lines: Vec<&str> = shown.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// `Nov 23 05:28:57 host`, as rsyslog writes it, before what comes behind the host in a line of ours.
pub fn as_syslog(line: &str, stamp: &str) -> String {
    let text = line.splitn(3, ' ').nth(2).unwrap();
    format!("{stamp} {text}")
}

#[test]
fn pflogsumm_counts_the_same_with_our_lines_as_without() {
    let (theirs, ours) = logs_of_a_busy_hour();
    for word in ["reject", "pass", "would-reject", "near-limit"] {
        assert!(ours.contains(&format!("decision={word},")), "no {word} in {ours}");
    }
    let stamp: String = theirs.lines().next().unwrap().splitn(5, ' ').take(4).collect::<Vec<_>>().join(" ");
    let queue_id = theirs.lines().find_map(|l| l.split_once(": from=<")?.0.rsplit(' ').next()).unwrap();
    let events = EVENTS.replace("QID", queue_id);

    let mut as_syslog_writes = Vec::new();
    let mut as_our_file = Vec::new();
    for line in ours.lines() {
        as_syslog_writes.push(as_syslog(line, &stamp));
        as_our_file.push(line.to_owned());
    }
    for line in events.lines() {
        as_syslog_writes.push(format!("{stamp} {line}"));
        as_our_file.push(format!("2026-11-23T05:28:57.123456+00:00 relay {line}"));
    }
    let expected = summary(&theirs);
    assert!(expected.contains("reject"), "{expected}");
    for extra in [as_syslog_writes, as_our_file] {
        assert_eq!(summary(&interleaved(&theirs, &extra)), expected, "with\n{}", extra.join("\n"));
    }
}

/// Each of `extra` behind a line of `log`, in turn.
pub fn interleaved(log: &str, extra: &[String]) -> String {
    let mut extra = extra.iter();
    let mut lines: Vec<&str> = Vec::new();
    for line in log.lines() {
        lines.push(line);
        lines.extend(extra.next().map(String::as_str));
    }
    lines.extend(extra.map(String::as_str));
    lines.join("\n") + "\n"
}

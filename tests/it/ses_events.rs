//! The whole round: mail through Postfix to SES, its events by SNS and SQS into gatepost, the door that closes, and the
//! mail log in which all of it stands.

use crate::aws::{Aws, Mail, Ses, add_section};
use crate::gatepost::{Daemon, Home};
use crate::pflogsumm::{as_syslog, interleaved, summary};
use crate::postfix::{Options, Postfix};
use crate::smtp::Reply;
use crate::wait;
use serde_json::json;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

const SENDERS: &str = "info@example.com OK\n<> OK\n";

/// Within how long after it is in the queue an event closes the door.
const SECONDS_TO_CLOSE: Duration = Duration::from_secs(2);

/// Everything from a client's session to the queue.
struct Relay {
    home: Home,
    postfix: Postfix,
    ses: Ses,
    aws: Aws,
    _daemon: Daemon,
}

impl Relay {
    /// With `NAME=VALUE` for parameters of the template.
    fn start(parameters: &[&str]) -> Self {
        let aws = Aws::start(parameters);
        let ses = Ses::publishing_to(&aws);
        let postfix = Postfix::start(&Options { set: vec![ses.relayhost()], ..Options::default() });
        let home = Home::beside(&postfix, SENDERS, "");
        add_section(&home, &aws.output("GatepostToml"));
        let environment: Vec<_> = aws.environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let daemon = home.start_by("env", &environment.iter().map(String::as_str).collect::<Vec<_>>());
        Self { home, postfix, ses, aws, _daemon: daemon }
    }

    /// Sends a mail; SES has it.
    fn send(&self, to: &[&str], subject: &str) -> Mail {
        self.postfix.session().mail("info@example.com", to, subject).expect(250, &[]);
        self.ses.message(subject)
    }

    /// What Postfix says to a recipient.
    fn ask(&self, to: &str) -> Reply {
        self.postfix.session().ask("info@example.com", to)
    }

    /// Waits until Postfix refuses a recipient; the refusal, and how long after the event's publication it was asked.
    fn refused(&self, to: &str, kind: &str, id: &str) -> (Reply, Duration) {
        let published = self.ses.published(kind, id);
        let mut session = self.postfix.session();
        wait::until(&format!("{to} to be refused"), wait::LONG, || {
            let asked = SystemTime::now();
            let reply = session.ask("info@example.com", to);
            (reply.code == 550).then(|| (reply, asked.duration_since(published).unwrap_or_default()))
        })
    }
}

/// A hard bounce, by a queue whose messages are raw or in envelopes.
fn a_hard_bounce_closes_the_door(raw: &str) {
    let relay = Relay::start(&[&format!("RawDelivery={raw}")]);
    let mail = relay.send(&["gone@example.net", "user@example.net"], "first");
    let (refusal, took) = relay.refused("gone@example.net", "Bounce", &mail.id);
    assert!(took < wait::promised(SECONDS_TO_CLOSE), "{took:?}");
    println!("refused {took:?} after the event was in the queue");
    let today = jiff::Timestamp::now().to_string();
    let since = format!("550 5.1.1 <gone@example.net>: Recipient address rejected: Suppressed since {}", &today[..7]);
    refusal.expect(550, &[&since, "user unknown"]);
    relay.ask("Gone@Example.NET").expect(550, &[]);
    relay.ask("user@example.net").expect(250, &[]);

    relay.postfix.log_line(&["to=<gone@example.net>", &format!("status=sent (250 Ok {})", mail.id)]);
    let id = format!("{}: to=<gone@example.net>, relay=amazonses.com, ", mail.id);
    relay.home.log_line(&[&id, "status=accepted"]);
    let bounced = relay.home.log_line(&[&id, "status=bounced"]);
    let words = "dsn=5.1.1, status=bounced, bounce_type=Permanent, bounce_subtype=General, suppressed=yes";
    assert!(bounced.contains(words) && bounced.ends_with("reason=(smtp; 550 5.1.1 user unknown)"), "{bounced}");
    let shown = relay.home.run(&["suppress", "list", "--json"]);
    assert!(shown.contains("\"gone@example.net\"") && shown.lines().count() == 1, "{shown}");
}

#[test]
fn a_hard_bounce_closes_the_door_raw() {
    a_hard_bounce_closes_the_door("true");
}

#[test]
fn a_hard_bounce_closes_the_door_in_envelopes() {
    a_hard_bounce_closes_the_door("false");
}

#[test]
fn a_complaint_closes_the_door_only_for_whom_it_must_be() {
    let relay = Relay::start(&[]);
    let mail = relay.send(&["complaint@example.net", "user@example.org"], "to one there");
    let (refusal, took) = relay.refused("complaint@example.net", "Complaint", &mail.id);
    refusal.expect(550, &["550 5.1.1", "Suppressed since"]);
    assert!(took < wait::promised(SECONDS_TO_CLOSE), "{took:?}");
    println!("refused {took:?} after the event was in the queue");

    // Two at one provider: SES is not told which of them it was.
    let both = ["complaint2@example.net", "user@example.net"];
    let mail = relay.send(&both, "to two there");
    for to in both {
        let line = relay.home.log_line(&[&mail.id, to, "status=complaint"]);
        assert!(line.contains("feedback_type=abuse, candidates=2, suppressed=no"), "{line}");
        relay.ask(to).expect(250, &[]);
    }
}

#[test]
fn what_is_no_dead_address_stays_open() {
    let relay = Relay::start(&[]);
    let to = ["ooto@example.net", "full@example.net", "slow@example.net", "user@example.net"];
    let mail = relay.send(&to, "nobody is gone");
    for (to, words) in [
        ("ooto@example.net", "bounce_type=Transient, bounce_subtype=General, suppressed=no"),
        ("full@example.net", "bounce_type=Transient, bounce_subtype=MailboxFull, suppressed=no"),
        ("slow@example.net", "status=delayed, delay_type=TransientCommunicationFailure"),
        ("slow@example.net", "status=delivered"),
    ] {
        relay.home.log_line(&[&mail.id, to, words]);
    }
    for to in to {
        relay.ask(to).expect(250, &[]);
    }
    assert_eq!(relay.home.run(&["suppress", "list"]).matches('@').count(), 0);
}

/// By the spool, which needs nothing of AWS; and with notifications of the identity on, so that all that both dialects
/// tell comes twice.
#[test]
fn both_dialects_by_the_spool_count_once() {
    let spool = tempfile::tempdir().unwrap();
    let ses = Ses::spooling_to(spool.path(), &["--notifications"]);
    let postfix = Postfix::start(&Options { set: vec![ses.relayhost()], ..Options::default() });
    let home = Home::beside(&postfix, SENDERS, "");
    add_section(&home, &format!("[events]\nsource = \"spool\"\nspool_dir = \"{}\"\n", spool.path().display()));
    let _daemon = home.start();
    let to = ["gone@example.net", "complaint@example.org"];
    postfix.session().mail("info@example.com", &to, "twice told").expect(250, &[]);
    let mail = ses.message("twice told");
    for kind in ["Bounce", "Delivery", "Complaint"] {
        ses.published(&format!("notification:{kind}"), &mail.id);
    }
    for to in to {
        wait::true_within("it to be refused", wait::LONG, || postfix.session().ask("info@example.com", to).code == 550);
    }
    let is_done = || fs::read_dir(spool.path().join("done")).is_ok_and(|files| files.count() == ses.events());
    wait::true_within("all files to be done", wait::LONG, is_done);
    home.log_line(&["status=complaint"]);
    let mut said: Vec<_> = home.log().lines().filter_map(status).collect();
    said.sort();
    assert_eq!(said, ["accepted", "accepted", "bounced", "complaint", "delivered"], "{}", home.log());
}

/// `status=` of a line of an event.
fn status(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("ses-events")?.1.split_once("status=")?;
    rest.split(',').next().map(str::to_owned)
}

#[test]
fn ses_refuses_the_null_sender_and_postfix_says_so() {
    let relay = Relay::start(&[]);
    relay.postfix.session().mail("", &["user@example.net"], "a bounce of ours").expect(250, &[]);
    let words = ["to=<user@example.net>", "dsn=5.0.0, status=bounced", "said: 501 Invalid MAIL FROM address provided"];
    relay.postfix.log_line(&words);
}

#[test]
fn what_cannot_be_read_ends_in_the_dead_letter_queue() {
    let mut relay = Relay::start(&[]);
    let queue = relay.aws.output("QueueUrl");
    let broken = "{\"eventType\": \"Bounce\", ";
    relay.aws.call("sqs.send_message", &json!({"QueueUrl": queue, "MessageBody": broken}));
    wait::true_within("it to be in the dead-letter queue", wait::LONG, || relay.aws.depth("DeadLetterQueueUrl").0 == 1);
    assert_eq!(relay.aws.receive("DeadLetterQueueUrl", 1), [broken]);

    // What comes behind it is followed all the same.
    let mail = relay.send(&["gone@example.net"], "behind");
    relay.refused("gone@example.net", "Bounce", &mail.id);
    wait::true_within("the queue to be empty", wait::LONG, || relay.aws.depth("QueueUrl") == (0, 0));
}

/// What the logs of [`a_day`] hold.
struct Day {
    postfix: String,
    gatepost: String,
    /// SES's ids, by subject.
    ids: Vec<(&'static str, String)>,
}

/// Mail of every fate, once for all tests that read its logs.
fn a_day() -> &'static Day {
    static DAY: OnceLock<Day> = OnceLock::new();
    DAY.get_or_init(|| {
        let mut relay = Relay::start(&[]);
        let mut ids = Vec::new();
        for (subject, to) in [
            ("mixed", &["user@example.net", "gone@example.net", "other@example.org", "bounce@example.org"][..]),
            ("soft", &["ooto@example.net", "full@example.net", "slow@example.net"]),
            ("complaint", &["complaint@example.com"]),
            ("listed", &["suppressionlist@example.net", "suppressed@example.net"]),
            ("virus", &["virus@example.net"]),
        ] {
            ids.push((subject, relay.send(to, subject).id));
        }
        // The last event of each mail; then nothing is left to be read.
        for (kind, subject) in [("Bounce", 0), ("Delivery", 1), ("Complaint", 2), ("Bounce", 3), ("Reject", 4)] {
            relay.ses.published(kind, &ids[subject].1);
        }
        wait::true_within("the queue to be empty", wait::LONG, || relay.aws.depth("QueueUrl") == (0, 0));
        relay.home.log_line(&["status=rejected"]);
        relay.home.log_line(&["bounce_subtype=Suppressed"]);
        relay.ask("gone@example.net").expect(550, &[]);
        wait::true_within("Postfix's queue to be empty", wait::LONG, || {
            relay.postfix.log().matches(": removed").count() == ids.len()
        });
        wait::true_within("the outbox to be empty", wait::LONG, || {
            relay.home.log().matches("ses-events").count() >= LINES
        });
        Day { postfix: relay.postfix.log(), gatepost: relay.home.log(), ids }
    })
}

/// The lines of [`a_day`]: 4 + 3 + 1 + 2 + 1 Send; 2 Deliveries and 2 bounces; 3 Deliveries less the full one, an absence,
/// the full mailbox, a delay; a Delivery and a complaint; 2 bounces; a Reject.
const LINES: usize = 11 + 4 + 5 + 2 + 2 + 1;

/// What a command line of an operator prints, with `mail.log` and `gatepost.log` of [`a_day`] in its folder.
fn grep(pipeline: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let day = a_day();
    fs::write(dir.path().join("mail.log"), &day.postfix).unwrap();
    fs::write(dir.path().join("gatepost.log"), &day.gatepost).unwrap();
    let out = Command::new("bash").args(["-c", pipeline]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{pipeline}");
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn one_line_for_each_recipient_and_event() {
    assert_eq!(grep("grep ses-events gatepost.log").len(), LINES, "{}", a_day().gatepost);
    assert_eq!(
        grep("grep -oP 'ses-events.*status=\\K[a-z]+' gatepost.log | sort | uniq -c | awk '{print $1, $2}'"),
        ["11 accepted", "6 bounced", "1 complaint", "1 delayed", "5 delivered", "1 rejected",]
    );
    // Postfix's own words are Postfix's own.
    assert_eq!(grep("grep -cE 'status=(sent|deferred)' gatepost.log"), ["0"]);
}

#[test]
fn the_greps_of_operators_work() {
    assert_eq!(grep("grep -c status=delivered gatepost.log"), ["5"]);
    assert_eq!(grep("grep -c status=bounced gatepost.log"), ["6"]);
    assert_eq!(grep("grep -c bounce_type=Permanent gatepost.log"), ["4"]);
    // The average delay.
    let delays = grep("grep status=delivered gatepost.log | grep -oP 'delay=\\K\\d+'");
    assert_eq!(delays.len(), 5);
    assert!(delays.iter().all(|delay| delay.parse::<u64>().is_ok_and(|ms| ms < 60_000)), "{delays:?}");
    // The top domains of recipients.
    assert_eq!(
        grep(
            "grep status=delivered gatepost.log | grep -oP 'to=<[^@]+@\\K[^>]+' | sort | uniq -c | sort -rn | awk '{print $1, $2}'"
        ),
        ["3 example.net", "1 example.org", "1 example.com",]
    );
    // The reasons of bounces.
    let reasons =
        grep("grep status=bounced gatepost.log | grep -oP 'reason=\\(\\K[^\\)]+' | sort | uniq -c | sort -rn");
    assert!(reasons[0].trim_start().starts_with("2 smtp; 550 5.1.1 user unknown"), "{reasons:?}");
    // The addresses to take off a mailing list.
    assert_eq!(
        grep("grep status=bounced gatepost.log | grep bounce_type=Permanent | grep -oP 'to=<\\K[^>]+' | sort -u"),
        ["bounce@example.org", "gone@example.net", "suppressed@example.net", "suppressionlist@example.net",]
    );
}

/// A message's journey, as operators look it up: the recipient's SES id in Postfix's log, then the id in all logs.
#[test]
fn the_id_of_ses_ties_the_logs() {
    let (_, id) = &a_day().ids[0];
    let found = grep("grep 'to=<gone@example.net>' mail.log | grep -oP 'status=sent \\(250 Ok \\K[^)]+'");
    assert_eq!(found, std::slice::from_ref(id));
    let journey =
        grep(&format!("grep -h {id} mail.log gatepost.log | grep 'to=<gone@example.net>' | grep -oP 'status=\\K\\w+'"));
    assert_eq!(journey, ["sent", "accepted", "bounced"]);
    let first = grep("grep -oP 'ses-events\\[\\d+\\]: \\K[^:]+' gatepost.log | sort -u");
    let mut ids: Vec<_> = a_day().ids.iter().map(|(_, id)| id.clone()).collect();
    ids.sort();
    assert_eq!(first, ids);
}

#[test]
fn pflogsumm_counts_the_same_with_events_in_the_log() {
    let day = a_day();
    let stamp: String = day.postfix.lines().next().unwrap().splitn(5, ' ').take(4).collect::<Vec<_>>().join(" ");
    let as_our_file: Vec<_> = day.gatepost.lines().map(str::to_owned).collect();
    let as_syslog_writes: Vec<_> = day.gatepost.lines().map(|line| as_syslog(line, &stamp)).collect();
    let expected = summary(&day.postfix);
    assert!(expected.contains("delivered"), "{expected}");
    for extra in [as_our_file, as_syslog_writes] {
        assert_eq!(summary(&interleaved(&day.postfix, &extra)), expected, "with\n{}", extra.join("\n"));
    }
}

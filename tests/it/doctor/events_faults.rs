//! Faults of the queue, and of what comes out of it; and the whole way of a mail, tried by doctor itself.

use super::Seed;
use super::install::{Found, Install, Trial};
use crate::aws::{Aws, Ses, add_section};
use crate::gatepost::{Daemon, Home, both};
use crate::postfix::{Options, Postfix, shipped};
use crate::queue::{self, Action, Fault, Queue, Settings, stand_in};
use crate::wait;
use serde_json::json;
use std::fs;
use std::process::Command;

const SPOOL: &str = "source = \"spool\"\nspool_dir";

/// What the AWS SDK reads, as variables; the endpoint is the URL's own.
fn environment(queue: &Queue) -> Vec<(String, String)> {
    let mut command = Command::new("none");
    queue::aws(&mut command, queue);
    let text = |os: &std::ffi::OsStr| os.to_string_lossy().into_owned();
    let pairs = command.get_envs().filter_map(|(name, value)| Some((text(name), text(value?))));
    pairs.filter(|(name, _)| name != "AWS_ENDPOINT_URL").collect()
}

/// Has the trial follow a queue.
fn follow(trial: &Trial<'_>, url: &str) {
    trial.replace("gatepost.toml", SPOOL, &format!("source = \"sqs\"\nqueue_url = \"{url}\"\nspool_dir"));
    let spool = trial.install.path("state/spool").display().to_string();
    trial.replace("gatepost.toml", &format!("spool_dir = \"{spool}\"\n"), "");
}

fn must_be(id: &'static str, severity: &'static str, says: &'static str, found: &[Found]) {
    Seed { id, severity, says, follows: &[], put: |_| {} }.must_be(found);
}

fn sound() -> Settings {
    Settings { max_receives: Some(10), ..Settings::default() }
}

#[test]
fn faults_of_a_queue_are_found() {
    let install = Install::new();
    let queue = Queue::start(sound()).unwrap();
    let environment = environment(&queue);
    let examine = |url: &str| {
        let trial = install.trial();
        follow(&trial, url);
        trial.examine(&environment)
    };
    assert_eq!(examine(queue.url()), []);

    must_be("queue", "error", "no such queue", &examine(&queue.url().replace(stand_in::NAME, "other")));
    must_be("queue", "error", "connection failed", &examine("http://127.0.0.1:1/123456789012/q"));
    queue.trouble(&[Action::DeleteMessage], Fault::Denied);
    must_be("queue-rights", "error", "sqs:DeleteMessage", &examine(queue.url()));
    queue.trouble(&[Action::GetQueueAttributes], Fault::Denied);
    let trial = install.trial();
    follow(&trial, queue.url());
    // A daemon that reaches its queue would be believed.
    let admin = format!("[admin]\nlisten = [\"unix:{}\"]\n", install.path("run/admin.sock").display());
    trial.replace("gatepost.toml", &admin, "");
    must_be("queue-rights", "error", "access denied", &trial.examine(&environment));
    queue.heal();

    let alone = Queue::start(Settings::default()).unwrap();
    must_be("dead-letter-queue", "warning", "no dead-letter queue", &examine(alone.url()));

    (0..10_001).for_each(|_| _ = queue.send("{}"));
    must_be("queue-backlog", "warning", "10001 events", &examine(queue.url()));
    // Looking took nothing out.
    assert_eq!(queue.tally().calls_of(Action::ReceiveMessage), 0);
}

#[test]
fn what_the_queues_attributes_tell() {
    let install = Install::new();
    let mut aws = Aws::start(&[]);
    let environment: Vec<_> = aws.environment().into_iter().collect();
    let trial = install.trial();
    follow(&trial, &aws.output("QueueUrl"));
    assert_eq!(trial.examine(&environment), []);

    aws.call("sqs.send_message", &json!({"QueueUrl": aws.output("DeadLetterQueueUrl"), "MessageBody": "{}"}));
    must_be("dead-letters", "warning", "1 messages", &trial.examine(&environment));
    aws.call("sqs.purge_queue", &json!({"QueueUrl": aws.output("DeadLetterQueueUrl")}));
    let short = json!({"QueueUrl": aws.output("QueueUrl"), "Attributes": {"MessageRetentionPeriod": "3600"}});
    aws.call("sqs.set_queue_attributes", &short);
    must_be("queue-retention", "warning", "3600 s", &trial.examine(&environment));
    let long = json!({"QueueUrl": aws.output("QueueUrl"), "Attributes": {"MessageRetentionPeriod": "1209600"}});
    aws.call("sqs.set_queue_attributes", &long);

    let doctor = trial.command(&["--json"]);
    let mut ahead = Command::new("faketime");
    ahead.args(["-f", "+10m"]).arg(doctor.get_program()).args(doctor.get_args()).envs(environment);
    let out = ahead.output().unwrap();
    assert!(both(&out).contains("\"clock\"") && both(&out).contains("s before that of AWS"), "{}", both(&out));
}

#[test]
fn what_the_daemon_counted_is_told() {
    let queue = Queue::start(sound()).unwrap();
    let environment = environment(&queue);
    let events =
        format!("[events]\nsource = \"sqs\"\nqueue_url = \"{}\"\naccounts = [\"123456789012\"]\n", queue.url());
    let install = Install::with(&events, &environment);
    let trial = install.trial();
    wait::true_within("the daemon to reach the queue", wait::LONG, || {
        queue.tally().calls_of(Action::ReceiveMessage) > 0 && trial.examine(&environment).is_empty()
    });
    // Whose shell has other credentials than the daemon is told so, and no fault is made of it.
    queue.send(&event("type-delivery-bare"));
    wait::true_within("the event to be taken", wait::LONG, || queue.left() == 0);
    queue.trouble(&[Action::GetQueueAttributes], Fault::UnknownKey);
    assert_eq!(trial.examine(&environment), []);
    queue.heal();

    queue.send(&event("notification-delivery-bare"));
    wait::true_within("the notification to be taken", wait::LONG, || queue.left() == 0);
    must_be("events-twice", "warning", "of 2 events 1", &trial.examine(&environment));
    queue.send(&event("account-foreign"));
    wait::true_within("the foreign event to be taken", wait::LONG, || queue.left() == 0);
    let seed =
        Seed { id: "events-foreign", severity: "warning", says: "1 events", follows: &["events-twice"], put: |_| {} };
    seed.must_be(&trial.examine(&environment));
}

fn event(name: &str) -> String {
    fs::read_to_string(shipped(&format!("tests/events/{name}.json"))).unwrap()
}

/// A relay, SES, and gatepost beside them.
struct Relay {
    postfix: Postfix,
    home: Home,
    _ses: Ses,
    _daemon: Daemon,
    _folders: tempfile::TempDir,
}

impl Relay {
    /// `told`: whether SES's events reach gatepost.
    fn new(told: bool) -> Self {
        let (spool, elsewhere) = ("spool", "elsewhere");
        let folders = tempfile::tempdir().unwrap();
        for name in [spool, elsewhere] {
            fs::create_dir(folders.path().join(name)).unwrap();
        }
        let ses = Ses::spooling_to(&folders.path().join(if told { spool } else { elsewhere }), &[]);
        let postfix = Postfix::start(&Options { set: vec![ses.relayhost()], ..Options::default() });
        let home = Home::beside(&postfix, "info@example.com OK\n", "");
        let section = format!(
            "[events]\nsource = \"spool\"\nspool_dir = \"{}\"\naccounts = [\"123456789012\"]\n\
             [logs]\npaths = [\"{}\", \"{}\"]\n",
            folders.path().join(spool).display(),
            postfix.log_path().display(),
            home.path("mail.log").display()
        );
        add_section(&home, &section);
        let daemon = home.start();
        Self { postfix, home, _ses: ses, _daemon: daemon, _folders: folders }
    }

    fn send_test(&self, from: &str, wait: &str) -> std::process::Output {
        let server = format!("127.0.0.1:{}", self.postfix.port());
        let args = ["doctor", "--send-test", "--from", from, "--server", &server, "--wait", wait];
        self.home.command(&args).output().unwrap()
    }
}

#[test]
fn a_test_mail_goes_the_whole_way() {
    let relay = Relay::new(true);
    let out = relay.send_test("info@example.com", "60s");
    let said = both(&out);
    assert!(out.status.success(), "{said}");
    for (mail, steps) in [
        (
            "success",
            ["Postfix took it: 250", "Postfix handed it to SES: 250 Ok", "SES told of it: delivered"].as_slice(),
        ),
        (
            "bounce",
            &["SES told of it: bounced", "the address is suppressed", "the relay refuses the address: 550 5.1.1"],
        ),
        ("complaint", &["SES told of it: complaint", "the address is suppressed"]),
        ("", &["taken out of the list again: 2 entries"]),
    ] {
        for step in steps {
            let is_it = |line: &str| line.contains(mail) && line.contains(step) && line.contains("ok");
            assert!(said.lines().any(is_it), "{mail}: {step}: {said}");
        }
    }
    assert_eq!(relay.home.run(&["suppress", "list"]), "");
    // Again: what the first left is in nobody's way.
    assert!(relay.send_test("info@example.com", "60s").status.success());
}

#[test]
fn a_link_that_is_silent_is_named() {
    let relay = Relay::new(false);
    let out = relay.send_test("info@example.com", "3s");
    assert_eq!(out.status.code(), Some(1), "{}", both(&out));
    assert!(both(&out).contains("nothing more within 3 s: SES took it, and no event came"), "{}", both(&out));
    let out = relay.send_test("new@example.com", "3s");
    assert_eq!(out.status.code(), Some(69), "{}", both(&out));
    assert!(both(&out).contains("the relay refused RCPT TO:") && both(&out).contains("554 5.7.1"), "{}", both(&out));
}

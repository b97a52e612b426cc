//! What each of the shipped snippets does when gatepost is gone, refusing or stuck, with times: the table
//! of `postfix-snippets/README.md`.

use crate::faults::{Trouble, Troubled};
use crate::postfix::{Options, Postfix};
use crate::smtp::{Reply, Session};
use crate::wait;
use std::fs;
use std::ops::Range;

/// On top of a stated time: a loaded machine. Less than the next pause of a second, or timeout of five.
const SLACK: f64 = 0.9;
const SLACK_STUCK: f64 = 3.0;

/// Listeners with one check each, the others taken out.
const SENDER: usize = 0;
const RECIPIENT: usize = 1;
const LIMITS: usize = 2;

fn one_check_each() -> Options {
    let without = |names: &[&str]| names.iter().map(|n| format!("smtpd_{n}_restrictions =")).collect();
    let listeners =
        vec![without(&["recipient", "data"]), without(&["sender", "data"]), without(&["sender", "recipient"])];
    Options { listeners, ..Options::default() }
}

fn start() -> Postfix {
    let postfix = Postfix::start(&one_check_each());
    fs::write(postfix.allowed_senders(), "info@example.com OK clients=192.0.2.0/24\n").unwrap();
    postfix
}

fn took(reply: &Reply, range: Range<f64>) {
    let seconds = reply.took.as_secs_f64();
    let slack = if range.end < 5.0 { SLACK } else { SLACK_STUCK };
    assert!((range.start - 0.05..range.end + slack).contains(&seconds), "{seconds} s is not {range:?}: {reply:?}");
}

/// MAIL, then RCPT twice: for what the first and the further ones cost.
fn rcpt_twice(session: &mut Session, from: &str) -> [Reply; 2] {
    session.say(&format!("MAIL FROM:<{from}>")).expect(250, &[]);
    ["a", "b"].map(|to| session.say(&format!("RCPT TO:<{to}@example.net>")))
}

/// The sender check alone: the list is read by Postfix.
fn senders(postfix: &Postfix, first: f64, further: f64) {
    let mut session = Session::open(postfix.listener(SENDER));
    let [one, two] = rcpt_twice(&mut session, "info@example.com");
    took(one.expect(250, &[]), first..first);
    took(two.expect(250, &[]), further..further);
    session.say("RSET");
    let reply = session.ask("other@example.com", "a@example.net");
    took(reply.expect(554, &["5.7.1 <other@example.com>: Sender address rejected: Access denied"]), further..further);
}

/// The recipient check alone: everything passes.
fn recipients(postfix: &Postfix, first: f64) {
    let mut session = Session::open(postfix.listener(RECIPIENT));
    let [one, two] = rcpt_twice(&mut session, "anybody@example.com");
    took(one.expect(250, &[]), first..first);
    took(two.expect(250, &[]), 0.0..0.0);
}

/// The limits alone: everything passes.
fn limits(postfix: &Postfix, first: f64, further: f64) {
    let mut session = Session::open(postfix.listener(LIMITS));
    for expected in [first, further] {
        session.say("MAIL FROM:<anybody@example.com>").expect(250, &[]);
        session.say("RCPT TO:<a@example.net>").expect(250, &[]);
        took(session.say("DATA").expect(354, &[]), expected..expected);
        session.say("Subject: no limits\r\n\r\n.").expect(250, &[]);
    }
}

#[test]
fn gone() {
    let postfix = start();
    let _trouble = Troubled::at(&postfix.socket(), Trouble::Gone);
    senders(&postfix, 1.0, 1.0);
    recipients(&postfix, 0.0);
    limits(&postfix, 1.0, 1.0);
    postfix.log_line(&["problem talking to server gatepost/policy.sock: No such file"]);
}

#[test]
fn refusing() {
    let postfix = start();
    let _trouble = Troubled::at(&postfix.socket(), Trouble::Refusing);
    senders(&postfix, 1.0, 1.0);
    recipients(&postfix, 0.0);
    limits(&postfix, 1.0, 1.0);
    postfix.log_line(&["problem talking to server gatepost/policy.sock: Connection refused"]);
}

#[test]
fn closing_every_connection() {
    let postfix = start();
    let _trouble = Troubled::at(&postfix.socket(), Trouble::Closing);
    senders(&postfix, 1.0, 1.0);
    recipients(&postfix, 0.0);
    limits(&postfix, 1.0, 1.0);
}

#[test]
fn stuck_senders() {
    let postfix = start();
    let _trouble = Troubled::at(&postfix.socket(), Trouble::Stuck);
    senders(&postfix, 11.0, 6.0);
    postfix.log_line(&["problem talking to server gatepost/policy.sock: Connection timed out"]);
}

#[test]
fn stuck_recipients() {
    let postfix = start();
    let _trouble = Troubled::at(&postfix.socket(), Trouble::Stuck);
    recipients(&postfix, 5.0);
}

#[test]
fn stuck_limits() {
    let postfix = start();
    let _trouble = Troubled::at(&postfix.socket(), Trouble::Stuck);
    limits(&postfix, 11.0, 6.0);
}

/// All three at once, chrooted: the whole way of a mail while gatepost is gone, and how it is seen.
#[test]
fn a_chrooted_relay_without_gatepost_keeps_relaying_for_listed_senders() {
    let postfix = Postfix::start(&Options { chroot: true, ..Options::default() });
    fs::write(postfix.allowed_senders(), "example.com OK\n<> OK\n").unwrap();
    let mut session = postfix.session();
    session.mail("info@example.com", &["a@example.net"], "while gone").expect(250, &[]);
    session.mail("", &["a@example.net"], "bounce while gone").expect(250, &[]);
    session.ask("info@example.org", "a@example.net").expect(554, &["Sender address rejected"]);
    postfix.sink.message("while gone");
    postfix.sink.message("bounce while gone");
}

/// Without the list that the class reads, mail waits (a temporary error), and nothing passes unchecked.
#[test]
fn without_the_list_of_the_class_mail_waits() {
    let postfix = Postfix::shipped();
    fs::remove_file(postfix.allowed_senders()).unwrap();
    let reply = postfix.session().ask("info@example.com", "a@example.net");
    assert_eq!(reply.code, 451, "{reply:?}");
    wait::until("a warning", wait::LONG, || postfix.log().contains("allowed_senders").then_some(()));
}

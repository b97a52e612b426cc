//! What the limits count: each key, several at once, repeated questions, and what a restart keeps.

use crate::asker::{Asker, DUNNO, Question};
use crate::gatepost::{Daemon, Home};
use crate::wait;
use std::sync::Barrier;

/// A list that nobody looks at.
const NOBODY: &str = "# gatepost: empty on purpose\n";

/// A policy of limits that lets all senders pass.
fn limits(limits: &[(&str, &str, &str, &str)]) -> String {
    let mut text = "[senders]\nmode = \"off\"\n".to_owned();
    for (name, key, rate, rest) in limits {
        text += &format!("[[limit]]\nname = \"{name}\"\nkey = \"{key}\"\nrate = \"{rate}\"\n{rest}\n");
    }
    text
}

fn standing(of: &[(&str, &str, &str, &str)]) -> (Home, Daemon) {
    let home = Home::alone(NOBODY, &limits(of));
    let daemon = home.start();
    (home, daemon)
}

/// Questions of ever new messages.
struct Messages {
    asker: Asker,
    n: u32,
}

impl Messages {
    fn to(home: &Home) -> Self {
        Self { asker: home.asker(), n: 0 }
    }

    /// DATA of a new message, with further attributes: the answer.
    fn data(&mut self, attributes: &[(&str, &str)]) -> String {
        self.n += 1;
        let question = Question::data(&format!("new.{}", self.n));
        let question = attributes.iter().fold(question, |question, (name, value)| question.with(name, value));
        self.asker.ask(&question)
    }

    fn passes(&mut self, attributes: &[(&str, &str)]) {
        assert_eq!(self.data(attributes), DUNNO, "{attributes:?}");
    }

    fn refused_by(&mut self, limit: &str, attributes: &[(&str, &str)]) {
        let answer = self.data(attributes);
        assert!(answer.starts_with(&format!("450 4.7.1 Limit {limit} (")), "{attributes:?}: {answer}");
        assert!(answer.contains(") reached, try again in "), "{answer}");
    }
}

/// What `gatepost limits show` says is used.
fn used(home: &Home, limit: &str, key: &str) -> u64 {
    let rows: serde_json::Value =
        serde_json::from_str(&home.run(&["limits", "show", "--limit", limit, "--key", key, "--json"])).unwrap();
    rows.as_array().unwrap().iter().map(|row| row["used"].as_u64().unwrap()).sum()
}

#[test]
fn each_key_counts_what_it_names() {
    let (home, _daemon) = standing(&[
        ("login", "sasl_username", "1/h", ""),
        ("from", "sender", "2/h", ""),
        ("domain", "sender_domain", "3/h", ""),
    ]);
    let mut messages = Messages::to(&home);
    let ann = ("sender", "ann@one.example");
    messages.passes(&[ann, ("sasl_username", "a")]);
    messages.refused_by("login", &[ann, ("sasl_username", "a")]);
    messages.passes(&[ann, ("sasl_username", "b")]);
    messages.refused_by("from", &[("sender", "Ann@ONE.example"), ("sasl_username", "c")]);
    // No login, nothing to count by login; the refused ones cost the domain nothing.
    messages.passes(&[("sender", "bob@one.example")]);
    messages.refused_by("domain", &[("sender", "cid@one.example")]);
    messages.passes(&[("sender", "cid@two.example")]);
    // The null sender has neither address nor domain.
    for _ in 0..5 {
        messages.passes(&[("sender", "")]);
    }
}

#[test]
fn clients_count_by_address_and_ipv6_by_64() {
    let (home, _daemon) = standing(&[("client", "client_address", "1/h", ""), ("net", "client_network", "3/h", "")]);
    let mut messages = Messages::to(&home);
    let from = |address| ("client_address", address);
    messages.passes(&[from("192.0.2.1")]);
    messages.refused_by("client", &[from("192.0.2.1")]);
    messages.passes(&[from("192.0.2.2")]);
    // Mapped addresses are the IPv4 addresses they are.
    messages.refused_by("client", &[from("::ffff:192.0.2.2")]);
    messages.passes(&[from("192.0.2.3")]);
    messages.refused_by("net", &[from("192.0.2.4")]);
    messages.passes(&[from("192.0.3.4")]);
    messages.passes(&[from("2001:db8:0:1::1")]);
    messages.refused_by("client", &[from("2001:db8:0:1:ffff::2")]);
    messages.passes(&[from("2001:db8:0:2::1")]);
    assert_eq!(used(&home, "client", "2001:db8:0:1::/64"), 1);
    // What is no address is not counted.
    for _ in 0..5 {
        messages.passes(&[from("unknown")]);
    }
}

#[test]
fn recipient_domains_are_collected_from_the_rcpt_questions() {
    let (home, _daemon) = standing(&[("to", "recipient_domain", "2/h", "count = \"recipients\"")]);
    let mut asker = home.asker();
    let mut mail = |instance: &str, to: &[&str], accepted: usize| {
        for recipient in to {
            // Postfix asks twice: for each policy_context.
            for context in ["sender", "recipient"] {
                let question = Question::rcpt("info@example.com", recipient).with("instance", instance);
                assert_eq!(asker.ask(&question.with("policy_context", context)), DUNNO);
            }
        }
        let data = Question::data(instance).with("recipient_count", accepted.to_string());
        asker.ask(&data.with("policy_context", "data"))
    };
    assert_eq!(mail("a.1", &["a@one.example", "b@ONE.example", "c@two.example"], 3), DUNNO);
    assert!(mail("a.2", &["d@one.example"], 1).starts_with("450 4.7.1 Limit to ("));
    assert_eq!(mail("a.3", &["d@two.example"], 1), DUNNO);
    assert!(mail("a.4", &["x@three.example", "e@two.example"], 2).starts_with("450 4.7.1 Limit to ("));
    // All or nothing: the refused mail cost the third domain nothing.
    assert_eq!(mail("a.5", &["x@three.example", "y@three.example"], 2), DUNNO);
    let alone = Question::data("a.6").with("recipient", "z@four.example");
    assert_eq!(home.ask(&alone), DUNNO);
    assert_eq!(used(&home, "to", "four.example"), 1);
}

/// An entry of `allowed_recipients` that lets pass by an action of Postfix's.
#[test]
fn recipients_that_pass_by_an_action_are_collected_too() {
    let policy = limits(&[("to", "recipient_domain", "1/h", "count = \"recipients\"")]);
    let home = Home::alone(NOBODY, &policy);
    home.write_policy("allowed_recipients", "one.example PREPEND X-Stage: yes\ntwo.example OK\n");
    let _daemon = home.start();
    let ask = |instance: &str| {
        for recipient in ["a@one.example", "a@two.example"] {
            home.ask(&Question::rcpt("info@example.com", recipient).with("instance", instance));
        }
        home.ask(&Question::data(instance).with("recipient_count", "2"))
    };
    assert_eq!(ask("p.1"), DUNNO);
    assert_eq!(used(&home, "to", "one.example"), 1);
}

#[test]
fn several_limits_are_charged_all_or_none() {
    let (home, _daemon) = standing(&[("client", "client_address", "5/h", ""), ("all", "all", "2/h", "")]);
    let mut messages = Messages::to(&home);
    messages.passes(&[]);
    messages.passes(&[]);
    for _ in 0..5 {
        messages.refused_by("all", &[]);
    }
    assert_eq!((used(&home, "client", "10.0.0.1"), used(&home, "all", "all")), (2, 2));
    home.run(&["limits", "reset", "--limit", "all"]);
    messages.passes(&[]);
}

#[test]
fn overrides_observe_and_a_code_of_ones_own() {
    let overrides = "[limit.override]\n\"10.0.0.9\" = \"3/h\"\n\"10.1.0.0/16\" = \"unlimited\"";
    let (home, _daemon) = standing(&[
        ("watched", "client_address", "1/d", "mode = \"observe\""),
        ("client", "client_address", "2/h", &format!("reply = \"554 5.7.1\"\n{overrides}")),
    ]);
    let mut messages = Messages::to(&home);
    let from = |address| [("client_address", address)];
    (0..2).for_each(|_| messages.passes(&from("10.0.0.1")));
    assert!(messages.data(&from("10.0.0.1")).starts_with("554 5.7.1 Limit client (2/h) reached"));
    (0..3).for_each(|_| messages.passes(&from("10.0.0.9")));
    assert!(messages.data(&from("10.0.0.9")).starts_with("554 5.7.1 Limit client (3/h) reached"));
    (0..20).for_each(|_| messages.passes(&from("10.1.2.3")));
    let line = home.log_line(&["decision=would-reject", "check=limits", "mode=observe", "watched"]);
    assert!(line.contains("450 4.7.1"), "{line}");
    home.log_line(&["decision=reject", "check=limits", "mode=enforce", "Limit client"]);
}

#[test]
fn a_message_that_never_fits_is_refused_for_good_and_costs_nothing() {
    let (home, _daemon) = standing(&[("spread", "client_address", "3/h", "count = \"recipients\"")]);
    let mut messages = Messages::to(&home);
    let of = |n| [("recipient_count", n)];
    assert_eq!(
        messages.data(&of("4")),
        "554 5.5.3 Message has 4 recipients, more than limit spread ever grants at once (3): send it in parts"
    );
    messages.passes(&of("3"));
    messages.refused_by("spread", &of("1"));
    assert!(messages.data(&of("99999999999")).starts_with("554 5.5.3 "));
}

#[test]
fn a_key_near_its_limit_is_told_once() {
    let (home, _daemon) = standing(&[("client", "client_address", "10/h", "")]);
    let mut messages = Messages::to(&home);
    (0..10).for_each(|_| messages.passes(&[]));
    messages.refused_by("client", &[]);
    home.log_line(&["decision=near-limit", "check=limits", "key 10.0.0.1 has used more than 80 % of 10/h"]);
    messages.passes(&[("client_address", "10.0.0.2")]);
    home.log_line(&["decision=reject", "check=limits", "reply=(450 4.7.1 "]);
    assert_eq!(home.log().matches("decision=near-limit").count(), 1, "{}", home.log());
    assert_eq!(home.metric("gatepost_limit_warnings_total"), 1.0);
}

#[test]
fn a_repeated_question_is_charged_once() {
    let (home, _daemon) = standing(&[("all", "all", "3/h", "")]);
    let question = Question::data("1a.2b.3c.0");
    // The same over another connection: the answer got lost with the first one.
    for _ in 0..4 {
        assert_eq!(home.ask(&question), DUNNO);
    }
    assert_eq!((used(&home, "all", "all"), home.metric("gatepost_repeated_questions_total")), (1, 3.0));
    // What has no instance cannot be known again.
    let nameless = Question::data("");
    assert_eq!([home.ask(&nameless), home.ask(&nameless)], [DUNNO, DUNNO]);
    assert_eq!(used(&home, "all", "all"), 3);
    // A refusal is not remembered: after a reset the same question passes.
    let late = Question::data("late");
    assert!(home.ask(&late).starts_with("450"));
    assert!(home.ask(&late).starts_with("450"));
    home.run(&["limits", "reset", "--all"]);
    assert_eq!(home.ask(&late), DUNNO);
}

#[test]
fn of_two_that_ask_at_once_one_is_charged() {
    let (home, _daemon) = standing(&[("all", "all", "1000/h", "")]);
    let start = Barrier::new(2);
    let ask = || {
        let mut asker = home.asker();
        for n in 0..100 {
            start.wait();
            assert_eq!(asker.ask(&Question::data(&format!("both.{n}"))), DUNNO);
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(ask))));
    assert_eq!(used(&home, "all", "all"), 100);
}

#[test]
fn counters_come_back_after_a_restart() {
    let (home, mut daemon) = standing(&[
        ("client", "client_address", "3/h", ""),
        ("from", "sender", "5/h", ""),
        ("net", "client_network", "9/h", ""),
    ]);
    let mut messages = Messages::to(&home);
    messages.passes(&[]);
    messages.passes(&[("client_address", "2001:db8::1")]);
    messages.passes(&[]);
    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    let mut daemon = home.start();
    daemon.says(&["INFO", "Limiter counters are back", "keys=5"]);
    let mut messages = Messages { n: 100, ..Messages::to(&home) };
    messages.passes(&[]);
    messages.refused_by("client", &[]);
    assert_eq!((used(&home, "from", "info@example.com"), used(&home, "client", "2001:db8::/64")), (4, 1));
    // A damaged file is not used, and said to be.
    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    let saved = home.path("state/limits.state");
    let mut bytes = std::fs::read(&saved).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&saved, bytes).unwrap();
    daemon = home.start();
    daemon.says(&["WARN", "The saved limiter counters cannot be used; starting from zero"]);
    Messages { n: 200, ..Messages::to(&home) }.passes(&[]);
}

//! The delegation protocol on the wire: any split, any batch, what is no request, and the daemon's end.

use crate::asker::{Asker, DUNNO, Question};
use crate::gatepost::{Daemon, Home, OPEN};
use crate::wait;
use std::io::Write;
use std::time::Duration;

const SENDERS: &str = "info@example.com OK\nbounce=user=example.net@example.com OK\n";

fn standing() -> (Home, Daemon) {
    let home = Home::alone(SENDERS, "");
    let daemon = home.start();
    (home, daemon)
}

fn good() -> Question {
    Question::mail("info@example.com")
}

fn bad() -> Question {
    Question::mail("other@example.com")
}

#[test]
fn byte_by_byte_and_several_in_one_write() {
    let (home, _daemon) = standing();
    let mut asker = home.asker();
    for byte in bad().bytes() {
        asker.send(&[byte]);
    }
    assert_eq!(asker.answer().unwrap(), "554 5.7.1 Sender not allowed here");
    let batch = [good().bytes(), bad().bytes(), good().bytes()].concat();
    for cut in [1, 30, good().bytes().len(), good().bytes().len() + 1, batch.len() - 1] {
        asker.send(&batch[..cut]);
        asker.send(&batch[cut..]);
        let answers: Vec<_> = (0..3).map(|_| asker.answer().unwrap()).collect();
        assert_eq!(answers, [DUNNO, "554 5.7.1 Sender not allowed here", DUNNO], "cut at {cut}");
    }
}

#[test]
fn a_thousand_at_once() {
    let (home, _daemon) = standing();
    let mut asker = home.asker();
    let batch: Vec<u8> = (0..500).flat_map(|_| [good().bytes(), bad().bytes()]).flatten().collect();
    asker.send(&batch);
    for n in 0..500 {
        assert_eq!(asker.answer().as_deref(), Some(DUNNO), "{n}");
        assert!(asker.answer().unwrap().starts_with("554"), "{n}");
    }
    assert_eq!(home.metric("gatepost_decisions_total{check=\"senders\",answer=\"reject\"}"), 500.0);
    assert_eq!(home.metric("gatepost_decision_seconds_count"), 1000.0);
}

#[test]
fn values_may_hold_anything_and_attributes_may_be_unknown() {
    let (home, _daemon) = standing();
    let mut asker = home.asker();
    let unknown = good().with("tls_sni", "x").with("of_postfix_4", "a=b=c").with("empty", "");
    assert_eq!(asker.ask(&unknown), DUNNO);
    assert_eq!(asker.ask(&Question::mail("bounce=user=example.net@example.com")), DUNNO);
    assert!(asker.ask(&Question::mail("x").with("sender", b"\xff\xfe\x01@example.com")).starts_with("554"));
    // Hostile bytes are printable in the log.
    let line = home.log_line(&["decision=reject", "@example.com"]);
    assert!(!line.chars().any(char::is_control), "{line:?}");
    let long = "x".repeat(60_000);
    assert_eq!(asker.ask(&good().with("helo_name", long)), DUNNO);
    assert_eq!(asker.ask(&good()), DUNNO);
}

/// The bound of a request is 64 KiB, its empty line included.
#[test]
fn a_request_has_a_bound() {
    let (home, daemon) = standing();
    let of_size = |n: usize| {
        let bare = good().with("helo_name", "").bytes().len();
        good().with("helo_name", "x".repeat(n - bare)).bytes()
    };
    let mut asker = home.asker();
    asker.send(&of_size(64 * 1024));
    assert_eq!(asker.answer().as_deref(), Some(DUNNO));
    let mut asker = home.asker();
    // It may close while this is still being sent.
    let _ = asker.try_send(&of_size(64 * 1024 + 1));
    assert!(asker.is_closed());
    daemon.says(&["WARN", "request longer than 65536 bytes"]);
    assert_eq!(home.metric("gatepost_wire_errors_total"), 1.0);
}

#[test]
fn what_is_no_request_is_closed_without_an_answer() {
    let (home, daemon) = standing();
    for (n, garbage) in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\n\n"[..],
        b"\n",
        b"request=smtpd_access_policy\nnonsense\n\n",
        b"request=other\nprotocol_state=MAIL\n\n",
        b"\x16\x03\x01\x02\x00\n\n",
    ]
    .iter()
    .enumerate()
    {
        let mut asker = home.asker();
        let _ = asker.try_send(garbage);
        assert!(asker.is_closed(), "{garbage:?}");
        assert_eq!(home.metric("gatepost_wire_errors_total"), (n + 1) as f64);
    }
    daemon.says(&["WARN", "sent no policy request; closing its connection"]);
    // What came before it is answered, also when it came in the same write.
    let mut asker = home.asker();
    asker.send(&[&good().bytes()[..], b"nonsense\n\n"].concat());
    assert_eq!(asker.answer().as_deref(), Some(DUNNO));
    assert!(asker.is_closed());
}

#[test]
fn half_a_request_and_the_end_is_no_question() {
    let (home, _daemon) = standing();
    let mut asker = home.asker();
    let bytes = bad().bytes();
    asker.send(&bytes[..bytes.len() - 1]);
    asker.half_close();
    assert!(asker.is_closed());
    // A whole one before the end is answered.
    let mut asker = home.asker();
    asker.send(&bad().bytes());
    asker.half_close();
    assert!(asker.answer().unwrap().starts_with("554"));
    assert!(asker.is_closed());
    assert_eq!(home.metric("gatepost_decisions_total{check=\"senders\",answer=\"reject\"}"), 1.0);
}

#[test]
fn many_idle_connections_and_a_question_in_hand_end_within_a_second() {
    let (home, mut daemon) = standing();
    let mut idle: Vec<_> = (0..300).map(|_| home.asker()).collect();
    idle.iter_mut().for_each(|asker| assert_eq!(asker.ask(&good()), DUNNO));
    assert_eq!(home.metric("gatepost_connections"), 300.0);
    // The question is there before the signal; both are seen when it goes on.
    daemon.signal("STOP");
    let mut in_hand = idle.pop().unwrap();
    in_hand.send(&bad().bytes());
    daemon.signal("TERM");
    daemon.signal("CONT");
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
    assert!(took < wait::promised(Duration::from_secs(1)), "{took:?}");
    assert_eq!(in_hand.answer().as_deref(), Some("554 5.7.1 Sender not allowed here"));
    assert!(in_hand.is_closed());
    assert!(idle.iter_mut().all(Asker::is_closed));
    assert!(home.log().contains("from=<other@example.com>"), "the line of the last answer is missing");
    assert!(!home.socket.exists() && !home.path("admin.sock").exists());
}

/// One that asks and never reads, and one that holds an HTTP request half-sent.
#[test]
fn peers_that_are_stuck_do_not_hold_up_the_end() {
    let home = Home::alone(SENDERS, OPEN);
    let mut daemon = home.start();
    let mut deaf = std::os::unix::net::UnixStream::connect(&home.socket).unwrap();
    // Longer than the daemon may be kept from running: then it is stuck, and not only slow.
    deaf.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let batch = good().bytes().repeat(1_000);
    while deaf.write_all(&batch).is_ok() {}
    let mut slow = std::os::unix::net::UnixStream::connect(home.path("admin.sock")).unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(home.health().0, 200);
    daemon.signal("TERM");
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
    assert!(took < wait::promised(Duration::from_secs(1)), "{took:?}");
    assert!(daemon.stderr().contains("Connections were still busy"), "{}", daemon.stderr());
}

#[test]
fn policy_context_says_which_checks_a_question_is_for() {
    let home = Home::alone("info@example.com OK\n", "[[limit]]\nname = \"l\"\nkey = \"all\"\nrate = \"1/h\"\n");
    home.write_policy("allowed_recipients", "example.net OK\n");
    let daemon = home.start();
    let sender_refused = "554 5.7.1 Sender not allowed here";
    let recipient_refused = "554 5.7.1 Recipient not allowed here";
    let rcpt = Question::rcpt("other@example.com", "user@example.org");
    assert_eq!(home.ask(&rcpt.clone().with("policy_context", "sender")), sender_refused);
    assert_eq!(home.ask(&rcpt.clone().with("policy_context", "recipient")), recipient_refused);
    // Without one, or with one that is not known, the state says it.
    assert_eq!(home.ask(&rcpt), sender_refused);
    assert_eq!(home.ask(&Question::rcpt("info@example.com", "user@example.org")), recipient_refused);
    let from_mail = Question::mail("info@example.com").with("recipient", "user@example.org");
    assert_eq!(home.ask(&from_mail), DUNNO);
    for _ in 0..3 {
        assert_eq!(home.ask(&rcpt.clone().with("policy_context", "sendr")), sender_refused);
    }
    daemon.says(&["WARN", "policy_context=sendr is not known", "the protocol state decides"]);
    assert_eq!(daemon.stderr().matches("policy_context=sendr").count(), 1);
    // Charged at DATA: once a message, with whatever context.
    let of_data = |question: Question| question.with("policy_context", "data");
    assert_eq!(home.ask(&of_data(rcpt.clone())), DUNNO);
    daemon.says(&["WARN", "policy_context=data was asked before DATA"]);
    assert_eq!(home.ask(&Question::data("1.1")), DUNNO);
    assert_eq!(home.ask(&of_data(Question::data("1.1")).with("protocol_state", "END-OF-MESSAGE")), DUNNO);
    assert_eq!(home.metric("gatepost_repeated_questions_total"), 1.0);
    assert!(home.ask(&of_data(Question::data("1.2"))).starts_with("450"));
    assert!(home.ask(&Question::data("1.3")).starts_with("450"));
    // Not asked to count: END-OF-MESSAGE without a context, and the states before MAIL.
    for state in ["END-OF-MESSAGE", "CONNECT", "EHLO", "VRFY", "ETRN", "NEW"] {
        assert_eq!(home.ask(&Question::data("1.4").with("protocol_state", state)), DUNNO, "{state}");
    }
}

/// An action that goes on is answered, whatever is only observed of the recipient, and told once.
#[test]
fn what_is_observed_changes_no_answer() {
    let home = Home::alone("info@example.com PREPEND X-Seen: yes\n", "[suppression]\nmode = \"observe\"\n");
    home.run(&["suppress", "add", "gone@example.net"]);
    let daemon = home.start();
    let gone = Question::rcpt("info@example.com", "gone@example.net");
    assert_eq!(home.ask(&gone), "PREPEND X-Seen: yes");
    home.log_line(&["decision=would-reject", "check=suppression", "mode=observe", "reply=(550 5.1.1 Suppressed since"]);
    home.write_policy("policy.toml", "[senders]\nmode = \"observe\"\n[suppression]\nmode = \"observe\"\n");
    daemon.says(&["New policy in force"]);
    assert_eq!(home.ask(&gone.with("instance", "twice")), DUNNO);
    home.log_line(&["check=suppression", "instance=twice"]);
    assert_eq!(home.log().matches("instance=twice").count(), 2, "{}", home.log());
}

//! Limits, as a client of a real Postfix meets them.

use crate::faults::{Cut, CutLine};
use crate::gatepost::{Daemon, Home};
use crate::postfix::Postfix;
use crate::smtp::Session;

/// Two messages, then none for half an hour.
const TWO: &str = "
[senders]
mode = \"off\"
[[limit]]
name = \"per-client\"
key = \"client_address\"
count = \"messages\"
rate = \"2/h\"
";

/// Three recipients at once.
const THREE_RECIPIENTS: &str = "
[senders]
mode = \"off\"
[[limit]]
name = \"spread\"
key = \"all\"
count = \"recipients\"
rate = \"3/h\"
";

const FROM: &str = "info@example.com";
const TO: &[&str] = &["user@example.net"];

#[test]
fn over_the_limit_is_450_at_data_with_the_limit_and_when() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, "", TWO);
    let mut session = postfix.session();
    for n in 1..=2 {
        session.mail(FROM, TO, &format!("within {n}")).expect(250, &[]);
    }
    let words = ["450 4.7.1 <DATA>: Data command rejected: ", "per-client", "try again in"];
    session.mail(FROM, TO, "over").expect(450, &words);
    // A new session of the same client is the same client.
    postfix.session().mail(FROM, TO, "over").expect(450, &words);
    home.log_line(&["decision=reject", "check=limits", "mode=enforce", "per-client", "client=127.0.0.1"]);
    postfix.sink.message("within 2");
    assert!(postfix.sink.messages().iter().all(|m| !m.content.contains("Subject: over")));
}

#[test]
fn clients_count_apart_and_ipv6_by_64() {
    let postfix = Postfix::shipped();
    let policy = format!("{TWO}[limit.override]\n\"127.0.0.3\" = \"unlimited\"\n");
    let (_home, _daemon) = Daemon::beside(&postfix, "", &policy);
    let code = |client: &str| Session::open_as(postfix.port(), client).mail(FROM, TO, "counted").code;
    let codes = |client: &str| [code(client), code(client), code(client)];
    assert_eq!(codes("ADDR=127.0.0.1"), [250, 250, 450]);
    assert_eq!(codes("ADDR=127.0.0.2"), [250, 250, 450]);
    assert_eq!(codes("ADDR=127.0.0.3"), [250, 250, 250]);
}

#[test]
fn a_message_larger_than_the_burst_is_refused_for_good() {
    let postfix = Postfix::shipped();
    let (_home, _daemon) = Daemon::beside(&postfix, "", THREE_RECIPIENTS);
    let mut session = postfix.session();
    let four = ["a@example.net", "b@example.net", "c@example.net", "d@example.net"];
    session.mail(FROM, &four, "too large").expect(554, &["<DATA>: Data command rejected: ", "spread"]);
    // It cost nothing.
    session.mail(FROM, &four[..3], "just fits").expect(250, &[]);
    session.mail(FROM, &four[..1], "over").expect(450, &["spread"]);
}

#[test]
fn refused_mail_costs_nothing() {
    let postfix = Postfix::shipped();
    let policy = TWO.replace("off", "enforce");
    let (home, _daemon) = Daemon::beside(&postfix, "info@example.com OK\n", &policy);
    home.run(&["suppress", "add", "dead@example.net", "--reason", "manual"]);
    let mut session = postfix.session();
    crate::wait::true_within("the entry to be in force", crate::wait::LONG, || {
        session.ask(FROM, "dead@example.net").code == 550
    });
    for _ in 0..5 {
        session.ask("other@example.com", "user@example.net").expect(554, &[]);
        session.ask(FROM, "dead@example.net").expect(550, &[]);
    }
    session.mail(FROM, TO, "first").expect(250, &[]);
    session.mail(FROM, TO, "second").expect(250, &[]);
    session.mail(FROM, TO, "third").expect(450, &[]);
}

#[test]
fn bdat_is_limited_like_data() {
    let postfix = Postfix::shipped();
    let (_home, _daemon) = Daemon::beside(&postfix, "", TWO);
    let mut session = postfix.session();
    let mut chunks = |subject: &str| {
        session.say(&format!("MAIL FROM:<{FROM}>")).expect(250, &[]);
        session.say("RCPT TO:<user@example.net>").expect(250, &[]);
        let content = format!("Subject: {subject}\r\n\r\nbody\r\n");
        session.send(format!("BDAT {}\r\n{content}", content.len()).as_bytes());
        let first = session.read();
        session.send(b"BDAT 6 LAST\r\nmore\r\n");
        let last = session.read();
        session.say("RSET").expect(250, &[]);
        [first.code, last.code]
    };
    // Two chunks are one message.
    assert_eq!(chunks("in chunks 1"), [250, 250]);
    assert_eq!(chunks("in chunks 2"), [250, 250]);
    assert_eq!(chunks("in chunks 3")[0], 450);
    assert!(postfix.sink.message("in chunks 2").content.contains("more"));
}

#[test]
fn recipient_domains_count_apart_in_one_mail() {
    let postfix = Postfix::shipped();
    let policy = THREE_RECIPIENTS.replace("\"all\"", "\"recipient_domain\"");
    let (_home, _daemon) = Daemon::beside(&postfix, "", &policy);
    let mut session = postfix.session();
    let to = ["a@one.example", "b@one.example", "a@two.example", "b@two.example"];
    session.mail(FROM, &to, "two domains").expect(250, &[]);
    session.mail(FROM, &["c@one.example", "d@one.example"], "over").expect(450, &["spread"]);
    session.mail(FROM, &["c@two.example"], "fits").expect(250, &[]);
}

#[test]
fn an_observed_limit_is_logged_only() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, "", &format!("{TWO}mode = \"observe\"\n"));
    let mut session = postfix.session();
    for n in 1..=3 {
        session.mail(FROM, TO, &format!("observed {n}")).expect(250, &[]);
    }
    home.log_line(&["decision=would-reject", "check=limits", "mode=observe"]);
}

/// The connection breaks between question and answer: Postfix asks again, the limit is charged once.
fn cut_at_data(cut: Cut) {
    let postfix = Postfix::shipped();
    let behind = postfix.socket().with_file_name("behind.sock");
    let home = Home::listening_at(&behind, "", TWO);
    let _daemon = home.start();
    let line = CutLine::at(&postfix.socket(), &behind, cut);
    let mut session = postfix.session();
    let reply = session.mail(FROM, TO, "cut off");
    reply.expect(250, &[]);
    assert_eq!(line.questions(), 2, "Postfix did not ask again");
    session.mail(FROM, TO, "second").expect(250, &[]);
    session.mail(FROM, TO, "third").expect(450, &["per-client"]);
    assert_eq!(line.questions(), 4);
    postfix.sink.message("cut off");
}

#[test]
fn an_answer_that_got_lost_is_charged_once() {
    cut_at_data(Cut::Answered);
}

#[test]
fn a_question_that_was_cut_off_is_charged_once() {
    cut_at_data(Cut::Asked);
}

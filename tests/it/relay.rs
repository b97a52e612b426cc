//! gatepost beside a real Postfix with the shipped snippets: senders, recipients, and the ways in which a
//! client can say it all.

use crate::asker::Question;
use crate::gatepost::{Daemon, Home, OPEN};
use crate::postfix::{Options, Postfix};
use crate::smtp::Session;
use crate::wait;
use std::time::{Duration, Instant};

const SENDERS: &str = "\
info@example.com         OK
\"a b\"@example.com        OK
billing@example.com      OK  clients=10.9.1.0/24 sasl=billing
jürgen@example.com       OK
.invalid.example.com     OK
held@example.com         HOLD for review
gone@example.com         REJECT This sender is gone
";

/// Within how long an edit is in force.
const LIVE: Duration = Duration::from_secs(1);

fn suppress(home: &Home, addresses: &[String]) {
    for address in addresses {
        home.run(&["suppress", "add", address, "--reason", "manual"]);
    }
}

/// Suppresses many by one import, and waits until each has been confirmed once: a store that takes longer than 50 ms for
/// that lets mail pass, as on a loaded machine.
fn import(home: &Home, addresses: &[String]) {
    let file = home.path("import.txt");
    std::fs::write(&file, addresses.join("\n") + "\n").unwrap();
    home.run(&["suppress", "import", file.to_str().unwrap()]);
    let mut asker = home.asker();
    for address in addresses {
        let question = Question::rcpt("info@example.com", address);
        wait::true_within("the import to be in force", wait::LONG, || asker.ask(&question).starts_with("550"));
    }
}

#[test]
fn an_allowed_mail_arrives_and_an_unlisted_sender_is_refused() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    let mut session = postfix.session();
    session.mail("info@example.com", &["user@example.net"], "allowed").expect(250, &["queued as"]);
    let arrived = postfix.sink.message("allowed");
    assert_eq!(arrived.to, ["user@example.net"]);
    postfix.log_line(&["to=<user@example.net>", &format!("status=sent (250 Ok {})", arrived.id)]);

    let refused = session.ask("other@example.com", "user@example.net");
    refused.expect(554, &["5.7.1 <other@example.com>: Sender address rejected: "]);
    let line = home.log_line(&["decision=reject", "from=<other@example.com>"]);
    for field in ["check=senders", "mode=enforce", "to=<user@example.net>", "client=127.0.0.1", "generation="] {
        assert!(line.contains(field), "{field} is not in {line}");
    }
    session.ask("gone@example.com", "user@example.net").expect(554, &["5.7.1", "This sender is gone"]);
    session.ask("Info@EXAMPLE.com", "user@example.net").expect(250, &[]);
}

#[test]
fn an_edit_is_in_force_within_a_second_in_a_kept_session_and_in_new_ones() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    let mut kept = postfix.session();
    kept.ask("new@example.com", "user@example.net").expect(554, &[]);

    home.append_policy("allowed_senders", "new@example.com OK");
    let took = wait::true_within("the new line to be in force", wait::LONG, || {
        kept.ask("new@example.com", "user@example.net").code == 250
    });
    assert!(took < wait::promised(LIVE), "{took:?}");
    postfix.session().mail("new@example.com", &["user@example.net"], "after the edit").expect(250, &[]);
    postfix.sink.message("after the edit");

    home.write_policy("allowed_senders", SENDERS);
    let took = wait::true_within("the line to be gone", wait::LONG, || {
        kept.ask("new@example.com", "user@example.net").code == 554
    });
    assert!(took < wait::promised(LIVE), "{took:?}");
    postfix.session().ask("new@example.com", "user@example.net").expect(554, &[]);
}

#[test]
fn a_broken_edit_changes_nothing_and_says_where() {
    let postfix = Postfix::shipped();
    let (home, daemon) = Daemon::beside(&postfix, SENDERS, "");
    let mut session = postfix.session();
    home.write_policy("allowed_senders", &format!("{SENDERS}new@example.com OK clents=10.0.0.0/8\n"));
    daemon.says(&["allowed_senders:8:", "clents"]);
    session.ask("info@example.com", "user@example.net").expect(250, &[]);
    session.ask("new@example.com", "user@example.net").expect(554, &[]);
}

#[test]
fn sighup_reloads() {
    let postfix = Postfix::shipped();
    let (home, mut daemon) = Daemon::beside(&postfix, SENDERS, "");
    let mut session = postfix.session();
    home.append_policy("allowed_senders", "new@example.com OK");
    daemon.signal("HUP");
    let took = wait::true_within("the new line to be in force", wait::LONG, || {
        session.ask("new@example.com", "user@example.net").code == 250
    });
    assert!(took < wait::promised(LIVE), "{took:?}");

    home.write_config("# another socket\n");
    let config = std::fs::read_to_string(home.config()).unwrap().replace("\"0660\"", "\"0600\"");
    std::fs::write(home.config(), config).unwrap();
    daemon.signal("HUP");
    daemon.says(&["socket_mode", "restart"]);
    assert!(daemon.ended().is_none());
    session.ask("info@example.com", "user@example.net").expect(250, &[]);
}

#[test]
fn the_null_sender_passes_only_if_listed() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    let mut session = postfix.session();
    session.ask("", "user@example.net").expect(554, &["5.7.1 <>: Sender address rejected: "]);
    home.log_line(&["decision=reject", "from=<>"]);
    home.append_policy("allowed_senders", "<> OK");
    wait::true_within("<> to be listed", wait::LONG, || session.ask("", "user@example.net").code == 250);
    session.mail("", &["user@example.net"], "a bounce").expect(250, &[]);
    assert!(postfix.sink.message("a bounce").from.starts_with("<>"));
}

#[test]
fn quoted_local_parts() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    let mut session = postfix.session();
    session.ask("\"a b\"@example.com", "user@example.net").expect(250, &[]);
    session.ask("\"info\"@example.com", "user@example.net").expect(250, &[]);
    session.ask("\"c d\"@example.com", "user@example.net").expect(554, &[]);
    suppress(&home, &["\"x y\"@example.net".to_owned()]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        session.ask("info@example.com", "\"x y\"@example.net").code == 550
    });
    session.ask("info@example.com", "\"X\\ Y\"@Example.NET").expect(550, &["Suppressed since"]);
    session.ask("info@example.com", "\"xy\"@example.net").expect(250, &[]);
    home.log_line(&["decision=reject", "check=suppression", "to=<\"x y\"@example.net>"]);
}

#[test]
fn smtputf8() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    home.run(&["suppress", "add", "grüße@bücher.example", "--reason", "manual"]);
    let mut session = postfix.session();
    let mut ask = |from: &str, to: &str| {
        session.say(&format!("MAIL FROM:<{from}> SMTPUTF8")).expect(250, &[]);
        let reply = session.say(&format!("RCPT TO:<{to}>"));
        session.say("RSET").expect(250, &[]);
        reply
    };
    ask("jürgen@example.com", "user@example.net").expect(250, &[]);
    ask("hans@exämple.com", "user@example.net").expect(554, &["Sender address rejected"]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        ask("info@example.com", "grüße@bücher.example").code == 550
    });
    // The same domain as DNS spells it.
    ask("info@example.com", "grüße@xn--bcher-kva.example").expect(550, &["Suppressed since"]);
    ask("info@example.com", "gruesse@bücher.example").expect(250, &[]);
}

#[test]
fn pipelining() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    suppress(&home, &["dead@example.net".to_owned()]);
    let mut session = postfix.session();
    wait::true_within("the entry to be in force", wait::LONG, || {
        session.ask("info@example.com", "dead@example.net").code == 550
    });
    let replies = session.pipeline(&[
        "MAIL FROM:<info@example.com>",
        "RCPT TO:<one@example.net>",
        "RCPT TO:<dead@example.net>",
        "RCPT TO:<two@example.net>",
        "DATA",
    ]);
    assert_eq!(replies.iter().map(|r| r.code).collect::<Vec<_>>(), [250, 250, 550, 250, 354]);
    session.say("Subject: pipelined\r\n\r\nbody\r\n.").expect(250, &[]);
    assert_eq!(postfix.sink.message("pipelined").to, ["one@example.net", "two@example.net"]);
    let replies = session.pipeline(&["MAIL FROM:<other@example.com>", "RCPT TO:<one@example.net>", "DATA"]);
    assert_eq!(replies.iter().map(|r| r.code).collect::<Vec<_>>(), [250, 554, 554]);
}

#[test]
fn several_recipients_only_the_suppressed_one_is_refused() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    suppress(&home, &["dead@example.net".to_owned()]);
    let mut session = postfix.session();
    let took = wait::true_within("the entry of another process to be in force", wait::LONG, || {
        session.ask("info@example.com", "dead@example.net").code == 550
    });
    assert!(took < wait::promised(LIVE), "{took:?}");
    session.say("MAIL FROM:<info@example.com>").expect(250, &[]);
    session.say("RCPT TO:<one@example.net>").expect(250, &[]);
    session
        .say("RCPT TO:<Dead@Example.Net>")
        .expect(550, &["550 5.1.1 <Dead@Example.Net>: Recipient address rejected: Suppressed since 20"]);
    session.say("RCPT TO:<two@example.net>").expect(250, &[]);
    session.data("for two").expect(250, &[]);
    assert_eq!(postfix.sink.message("for two").to, ["one@example.net", "two@example.net"]);
    let line = home.log_line(&["decision=reject", "check=suppression"]);
    assert!(line.contains("from=<info@example.com>, to=<dead@example.net>"), "{line}");

    home.run(&["suppress", "remove", "dead@example.net"]);
    let took = wait::true_within("the removal to be in force", wait::LONG, || {
        session.ask("info@example.com", "dead@example.net").code == 250
    });
    assert!(took < wait::promised(LIVE), "{took:?}");
}

/// With stock error limits the session would cost a second a refusal from the 11th on, and be cut at the 20th.
#[test]
fn one_good_recipient_among_sixty_suppressed_gets_its_mail_without_delay() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    let dead: Vec<String> = (0..60).map(|n| format!("dead{n}@example.net")).collect();
    import(&home, &dead);
    let mut session = postfix.session();
    let start = Instant::now();
    session.say("MAIL FROM:<info@example.com>").expect(250, &[]);
    let (before, after) = dead.split_at(45);
    for to in before {
        session.say(&format!("RCPT TO:<{to}>")).expect(550, &["5.1.1", "Suppressed since"]);
    }
    session.say("RCPT TO:<good@example.net>").expect(250, &[]);
    for to in after {
        session.say(&format!("RCPT TO:<{to}>")).expect(550, &["5.1.1", "Suppressed since"]);
    }
    session.data("for the good one").expect(250, &[]);
    let took = start.elapsed();
    assert_eq!(postfix.sink.message("for the good one").to, ["good@example.net"]);
    assert!(took < Duration::from_secs(10), "61 recipients took {took:?}");
}

#[test]
fn clients_in_mynetworks_and_others() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    suppress(&home, &["dead@example.net".to_owned()]);
    // permit_mynetworks does not spare its clients any check ...
    let mut inside = postfix.session();
    inside.ask("other@example.com", "user@example.net").expect(554, &["Sender address rejected"]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        inside.ask("info@example.com", "dead@example.net").code == 550
    });
    // ... and our DUNNO opens the relay to nobody else.
    let mut outside = Session::open_as(postfix.port(), "ADDR=203.0.113.9");
    outside.ask("info@example.com", "user@example.net").expect(554, &["Relay access denied"]);
}

#[test]
fn a_chrooted_smtpd_is_answered() {
    let postfix = Postfix::start(&Options { chroot: true, ..Options::default() });
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    suppress(&home, &["dead@example.net".to_owned()]);
    let mut session = postfix.session();
    session.ask("other@example.com", "user@example.net").expect(554, &["Sender address rejected"]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        session.ask("info@example.com", "dead@example.net").code == 550
    });
    session.mail("info@example.com", &["user@example.net"], "from the chroot").expect(250, &[]);
    postfix.sink.message("from the chroot");
    assert!(!postfix.log().contains("problem talking to server"), "{}", postfix.log());
}

#[test]
fn conditions_bind_a_sender_to_clients_and_a_login() {
    let set = vec!["mynetworks = 127.0.0.0/8, 10.0.0.0/8".to_owned()];
    let postfix = Postfix::start(&Options { set, ..Options::default() });
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    let ask = |client: &str| Session::open_as(postfix.port(), client).ask("billing@example.com", "user@example.net");
    ask("ADDR=10.9.1.7 LOGIN=billing").expect(250, &[]);
    for client in ["ADDR=10.9.2.7 LOGIN=billing", "ADDR=10.9.1.7 LOGIN=other", "ADDR=10.9.1.7"] {
        ask(client).expect(554, &["5.7.1 <billing@example.com>: Sender address rejected: "]);
    }
    home.log_line(&["decision=reject", "rule=allowed_senders:3", "client=10.9.2.7"]);
    home.log_line(&["decision=reject", "rule=allowed_senders:3", "client=10.9.1.7", "sasl_username=other"]);
}

#[test]
fn actions_of_access_5_pass_as_they_are() {
    let postfix = Postfix::shipped();
    let (_home, _daemon) = Daemon::beside(&postfix, SENDERS, "");
    postfix.session().mail("held@example.com", &["user@example.net"], "held").expect(250, &[]);
    postfix.log_line(&[": hold: RCPT from ", "for review"]);
}

#[test]
fn observe_logs_and_refuses_nothing() {
    let postfix = Postfix::shipped();
    let policy = "[senders]\nmode = \"observe\"\n[suppression]\nmode = \"observe\"\n";
    let (home, _daemon) = Daemon::beside(&postfix, SENDERS, policy);
    suppress(&home, &["dead@example.net".to_owned()]);
    let mut session = postfix.session();
    session.mail("other@example.com", &["dead@example.net"], "observed").expect(250, &[]);
    postfix.sink.message("observed");
    home.log_line(&["decision=would-reject", "check=senders", "mode=observe", "from=<other@example.com>"]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        session.ask("other@example.com", "dead@example.net").expect(250, &[]);
        home.log().contains("check=suppression")
    });
    home.log_line(&["decision=would-reject", "check=suppression", "to=<dead@example.net>"]);
    assert!(!home.log().contains("decision=reject"), "{}", home.log());
}

#[test]
fn allowed_recipients_keep_a_staging_relay_from_strangers() {
    let postfix = Postfix::shipped();
    let home = Home::beside(&postfix, SENDERS, OPEN);
    home.write_policy("allowed_recipients", "example.net OK\n");
    let _daemon = home.start();
    let mut session = postfix.session();
    session.ask("info@example.com", "user@example.net").expect(250, &[]);
    session.ask("info@example.com", "user@example.org").expect(554, &["5.7.1 <user@example.org>: Recipient address"]);
    home.log_line(&["decision=reject", "check=recipients", "to=<user@example.org>"]);
}

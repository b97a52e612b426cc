//! The stamps on a real Postfix: mail by SMTP, whose bytes at the sink are compared with those that were sent.

use crate::postfix::Options;
use crate::smtp::Session;
use crate::stamped::{COMPLETE, begin, end, gatepost, home, postfix, postfix_of, send, sendmail, stamps, suppress};
use crate::wait;

#[test]
fn a_message_carries_the_ids_of_postfixs_log_and_is_otherwise_untouched() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "ses_configuration_set = \"relay-events\"");
    let content = format!(
        "Subject: plain\n{COMPLETE}X-Odd:no blank\nX-Folded: one\n\ttwo \nX-Empty:\n\n\
         Body\n  with blanks \t\n\n.leading\n..twice\n\nX-Correlation-ID: of the body\n"
    );
    let mut session = postfix.session();
    send(&mut session, &["user@example.net"], &content);
    let arrived = postfix.sink.message("plain");
    let first = stamps(&arrived);
    assert!(first.stand_on(&content).is_new() && first.tags.is_empty() && first.received == 1, "{first:?}");
    assert_eq!(first.set.as_deref(), Some("relay-events"));
    postfix.log_line(&[&format!("{}: to=<user@example.net>", first.queue_id), &arrived.id]);
    let line = home.log_line(&[&format!("{}: correlation_id={}", first.queue_id, first.id)]);
    assert!(line.ends_with("message-id=<a@b>, from=<info@example.com>, nrcpt=1, client=127.0.0.1"), "{line}");

    // A kept session: each further message has ids of its own. The last one has no empty line.
    let mut seen = vec![first];
    for (n, body) in ["\nBody\n", "\n", ""].iter().enumerate() {
        let content = format!("Subject: further {n}\n{COMPLETE}{body}");
        send(&mut session, &["user@example.net"], &content);
        let next = stamps(&postfix.sink.message(&format!("further {n}")));
        next.stand_on(content);
        assert!(seen.iter().all(|s| s.queue_id != next.queue_id && s.id != next.id), "{next:?}");
        seen.push(next);
    }
    assert_eq!(home.metric("gatepost_milter_messages_stamped_total") as u64, 4);
}

#[test]
fn many_recipients_share_one_message_and_none_is_named_in_it() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "");
    let to: Vec<String> = (10..60).map(|n| format!("user{n}@example.net")).collect();
    let content = format!("Subject: to fifty\n{COMPLETE}\nBody\n");
    send(&mut postfix.session(), &to.iter().map(String::as_str).collect::<Vec<_>>(), &content);
    let arrived = postfix.sink.message("to fifty");
    assert_eq!(arrived.to, to);
    let stamped = stamps(&arrived);
    stamped.stand_on(&content);
    assert!(!arrived.content.contains("user"), "{}", arrived.content);
    home.log_line(&[&stamped.queue_id, "nrcpt=50"]);
    assert_eq!(postfix.sink.count(), 1);
}

#[test]
fn forged_repeated_and_folded_headers_go_and_tags_are_merged() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "ses_configuration_set = \"relay-events\"");
    let forged = format!(
        "X-Correlation-ID: forged\nx-correlation-id : again\nSubject: forged\nX-CORRELATION-ID:\n\tfolded\n\
         X-SES-MESSAGE-TAGS: queue_id=x,\n\tcampaign=spring, bad name=1\nX-SES: mine\nX-Ses-Configuration-Set: other\n\
         X-SES-SOURCE-ARN: arn\nX-Correlation-ID2: mine\nx-ses-source-arn: arn2\n{COMPLETE}X-SES-Message-Tags : kind=a\n\
         X-SES-CONFIGURATION-SET\t: another\n\nX-SES-MESSAGE-TAGS: a=b\n"
    );
    send(&mut postfix.session(), &["user@example.net"], &forged);
    let stamped = stamps(&postfix.sink.message("forged"));
    let mine = "X-SES: mine\nX-Correlation-ID2: mine\n";
    stamped.stand_on(format!("Subject: forged\n{mine}{COMPLETE}\nX-SES-MESSAGE-TAGS: a=b\n"));
    assert!(stamped.is_new());
    assert_eq!((stamped.tags.as_str(), stamped.set.as_deref()), ("campaign=spring, kind=a", Some("relay-events")));
    assert_eq!(home.metric("gatepost_milter_headers_removed_total") as u64, 7);
    assert_eq!(home.metric("gatepost_milter_tags_merged_total") as u64, 2);
}

#[test]
fn tags_fill_several_lines_and_the_headers_around_them_stay() {
    let postfix = postfix();
    let (_home, _daemon) = gatepost(&postfix, "", "");
    let tags: Vec<String> = (0..48).map(|n| format!("name-{n}=value-of-some-length-{n}")).collect();
    let rest = format!("Subject: tagged\n{COMPLETE}\nBody\n");
    send(&mut postfix.session(), &["user@example.net"], &format!("X-SES-MESSAGE-TAGS: {}\n{rest}", tags.join(",\n ")));
    let arrived = postfix.sink.message("tagged");
    let stamped = stamps(&arrived);
    stamped.stand_on(rest);
    assert_eq!(stamped.tags, tags.join(", "));
    assert!(arrived.content.lines().all(|line| line.len() < 500), "{}", arrived.content);
}

#[test]
fn trusted_clients_keep_their_own_id() {
    let postfix =
        postfix_of(Options { set: vec!["mynetworks = 127.0.0.0/8, 10.0.0.0/8".to_owned()], ..Options::default() });
    let (_home, _daemon) = gatepost(&postfix, "", "trusted_networks = [\"10.9.0.0/16\"]");
    let send_as = |client: &str, subject: &str, id: &str| {
        let rest = format!("X-SES-OTHER: x\nSubject: {subject}\n{COMPLETE}\nBody\n");
        let content = format!("X-Correlation-ID: {id}\n{rest}");
        send(&mut Session::open_as(postfix.port(), &format!("ADDR={client}")), &["user@example.net"], &content);
        (stamps(&postfix.sink.message(subject)), rest)
    };
    let (trusted, rest) = send_as("10.9.0.1", "trusted", "order-1");
    assert_eq!(trusted.stand_on(&rest).id, "order-1");
    // One that is no word is not taken over, also from there.
    let (odd, rest) = send_as("10.9.0.1", "odd", "order 1; x=y");
    assert!(odd.stand_on(&rest).is_new());
    let (stranger, rest) = send_as("10.8.0.1", "stranger", "order-1");
    assert!(stranger.stand_on(rest.strip_prefix("X-SES-OTHER: x\n").unwrap()).is_new());
}

#[test]
fn suppressed_recipients_are_taken_out_where_the_policy_says_drop() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "[suppression]\naction = \"drop\"\n", "");
    suppress(&home, "dead@example.net", 1);
    suppress(&home, "\"a b\"@example.net", 2);
    let mut session = postfix.session();
    let to = ["one@example.net", "Dead@Example.NET", "\"A b\"@example.net", "two@example.net"];
    let content = format!("Subject: for two\n{COMPLETE}\nBody\n");
    send(&mut session, &to, &content);
    let arrived = postfix.sink.message("for two");
    assert_eq!(arrived.to, ["one@example.net", "two@example.net"]);
    stamps(&arrived).stand_on(&content);
    home.log_line(&["decision=drop", "check=suppression", "to=<dead@example.net>", "queue_id="]);
    home.log_line(&["decision=drop", "to=<\"a b\"@example.net>"]);
    home.log_line(&["nrcpt=2"]);
    send(&mut session, &["dead@example.net"], "Subject: for nobody\n\nBody\n");
    postfix.log_line(&["milter-discard"]);
    assert_eq!(home.metric("gatepost_milter_recipients_dropped_total") as u64, 3);
}

#[test]
fn large_messages_and_smtputf8_pass_as_they_are() {
    let postfix = postfix();
    let (_home, _daemon) = gatepost(&postfix, "", "");
    let line = format!("{}\n", "x".repeat(900));
    let large = format!("Subject: large\n{COMPLETE}\n{}", line.repeat(8 * 1024 * 1024 / line.len() + 1));
    assert!(large.len() > 8 * 1024 * 1024);
    let mut session = postfix.session();
    send(&mut session, &["user@example.net"], &large);
    stamps(&postfix.sink.message("large")).stand_on(&large);

    begin(
        &mut session,
        "MAIL FROM:<j\u{fc}rgen@example.com> SMTPUTF8 BODY=8BITMIME",
        &["gr\u{fc}\u{df}e@b\u{fc}cher.example"],
    );
    let utf8 = format!("Subject: utf8\n{COMPLETE}X-Greeting: \u{fc}\nX-CORRELATION-ID: \u{fc}\n\n\u{fc}\n");
    end(&mut session, utf8.as_bytes()).expect(250, &[]);
    let arrived = postfix.sink.message("utf8");
    assert_eq!(arrived.to, ["gr\u{fc}\u{df}e@b\u{fc}cher.example"]);
    stamps(&arrived).stand_on(utf8.replace("X-CORRELATION-ID: \u{fc}\n", ""));

    // Bytes that are no UTF-8, in header and body.
    begin(&mut session, "MAIL FROM:<info@example.com> BODY=8BITMIME", &["user@example.net"]);
    let latin = [b"Subject: latin\n", COMPLETE.as_bytes(), b"X-Greeting: \xfc\n\n\xfc\xff\x01\n"].concat();
    end(&mut session, &latin).expect(250, &[]);
    stamps(&postfix.sink.message("latin")).stand_on(&latin);
}

#[test]
fn a_chrooted_smtpd_and_cleanup_find_the_milter() {
    let postfix = postfix_of(Options { chroot: true, ..Options::default() });
    let (_home, _daemon) = gatepost(&postfix, "", "");
    for subject in ["by smtp", "by sendmail"] {
        let content = format!("Subject: {subject}\n{COMPLETE}\nBody\n");
        if subject == "by smtp" {
            send(&mut postfix.session(), &["user@example.net"], &content);
        } else {
            sendmail(&postfix, "info@example.com", &["user@example.net"], &content);
        }
        stamps(&postfix.sink.message(subject)).stand_on(&content);
    }
}

#[test]
fn mail_that_is_queued_again_keeps_its_stamps() {
    let postfix = postfix();
    let home = home(&postfix, "", "");
    home.write_policy("allowed_senders", "info@example.com HOLD\nroot@example.com OK\n");
    let _daemon = home.start();
    let content = format!("Subject: again\n{COMPLETE}\nBody\n");
    send(&mut postfix.session(), &["user@example.net"], &content);
    let line = home.log_line(&["correlation_id="]);
    let old = line.split(": ").nth(1).expect("a queue id").to_owned();
    assert!(postfix.tool("postsuper").args(["-r", &old]).status().unwrap().success());
    // A submission wakes pickup(8), which else looks each minute.
    sendmail(&postfix, "root@example.com", &["user@example.net"], "Subject: wakes\n\nBody\n");
    let again = stamps(&postfix.sink.message("again"));
    assert_eq!((&again.stand_on(&content).queue_id, again.received), (&old, 2));
    assert!(line.contains(&again.id), "{line}");
    let orig = postfix.log_line(&[&format!("orig_id={old}")]);
    let new = orig.split(": ").nth(1).expect("a queue id");
    postfix.log_line(&[&format!("{new}: to=<user@example.net>"), "status=sent"]);
    wait::until("one line of it, for no milter saw it again", wait::LONG, || {
        (home.log().matches("correlation_id=").count() == 2).then_some(())
    });
}

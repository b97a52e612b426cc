//! Mail by sendmail(1) on a real Postfix: stamped, held to the rules in each setting of `[local]`; and its bounces, which
//! arrive through a stand-in that refuses the null sender, as SES does.

use crate::aws::add_section;
use crate::postfix::Postfix;
use crate::sink::Message;
use crate::stamped::{COMPLETE, gatepost, home, postfix, sendmail, stamps, suppress};
use crate::valkey::{FORGETFUL, Valkey};
use crate::wait;

const TO: &[&str] = &["user@example.net"];

fn content(subject: &str) -> String {
    format!("Subject: {subject}\n{COMPLETE}X-Odd:no blank\n\nBody\n.leading\n")
}

/// The message to this one recipient.
fn to(postfix: &Postfix, recipient: &str) -> Message {
    wait::until(&format!("mail to {recipient}"), wait::LONG, || {
        postfix.sink.messages().into_iter().find(|m| m.to == [recipient])
    })
}

fn queue_is_empty(postfix: &Postfix) {
    wait::until("the queue to be empty", wait::LONG, || {
        let out = postfix.tool("postqueue").arg("-p").output().unwrap();
        String::from_utf8_lossy(&out.stdout).contains("Mail queue is empty").then_some(())
    });
}

#[test]
fn local_submissions_are_stamped_and_unlisted_senders_are_held() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "");
    sendmail(&postfix, "info@example.com", TO, &content("by cron"));
    let stamped = stamps(&postfix.sink.message("by cron"));
    assert!(stamped.stand_on(content("by cron")).is_new());
    home.log_line(&[&stamped.queue_id, "from=<info@example.com>"]);
    sendmail(&postfix, "other@example.com", TO, &content("unlisted"));
    postfix.log_line(&["milter-hold"]);
    let line = home.log_line(&["decision=hold", "check=senders", "from=<other@example.com>"]);
    assert!(line.contains("rule=allowed_senders:unlisted"), "{line}");
    assert_eq!(postfix.sink.count(), 1);
    // Released, it is what was sent, with its stamps.
    assert!(postfix.tool("postsuper").args(["-H", "ALL"]).status().unwrap().success());
    assert!(postfix.tool("postqueue").arg("-f").status().unwrap().success());
    let released = stamps(&postfix.sink.message("unlisted"));
    released.stand_on(content("unlisted"));
    assert!(line.contains(&format!("queue_id={}", released.queue_id)), "{line}");
}

#[test]
fn unlisted_local_senders_are_bounced_to_where_bounces_arrive() {
    let postfix = postfix();
    postfix.sink.refuse_null_sender();
    let (home, _daemon) =
        gatepost(&postfix, "[local]\nunlisted = \"bounce\"\n", "bounce_sender = \"bounces@example.com\"");
    sendmail(&postfix, "other@example.com", TO, &content("unlisted"));
    home.log_line(&["decision=bounce", "from=<other@example.com>"]);
    let bounce = is_given_a_sender(&postfix, "other@example.com");
    assert!(bounce.content.contains("Sender not allowed here"), "{}", bounce.content);
    queue_is_empty(&postfix);
    assert_eq!(postfix.sink.count(), 1);
}

/// A bounce as it must arrive.
fn is_given_a_sender(postfix: &Postfix, recipient: &str) -> Message {
    let bounce = to(postfix, recipient);
    assert!(bounce.from.starts_with("<bounces@example.com>"), "{}", bounce.from);
    stamps(&bounce);
    let head = bounce.content.split("\n\n").next().unwrap_or_default();
    let from: Vec<_> = head.lines().filter(|line| line.to_ascii_lowercase().starts_with("from")).collect();
    assert_eq!(from, ["From: Mail Delivery System <bounces@example.com>"]);
    // The headers of the original are in it.
    assert!(
        bounce.content.contains(&content("").split_once("\n\n").unwrap().0["Subject: ".len()..]),
        "{}",
        bounce.content
    );
    bounce
}

#[test]
fn what_the_relayhost_refuses_comes_back_to_the_local_sender() {
    let postfix = postfix();
    postfix.sink.refuse_null_sender();
    let (home, _daemon) = gatepost(&postfix, "", "bounce_sender = \"bounces@example.com\"");
    sendmail(&postfix, "info@example.com", &["refused@example.net"], &content("refused"));
    let bounce = is_given_a_sender(&postfix, "info@example.com");
    assert!(bounce.content.contains("550 5.1.1 No such user"), "{}", bounce.content);
    assert!(bounce.content.contains(&content("refused")), "{}", bounce.content);
    assert_eq!(home.metric("gatepost_milter_senders_changed_total") as u64, 1);
    queue_is_empty(&postfix);
}

#[test]
fn without_a_bounce_sender_the_bounce_is_refused_as_by_ses() {
    let postfix = postfix();
    postfix.sink.refuse_null_sender();
    let (_home, _daemon) = gatepost(&postfix, "", "");
    sendmail(&postfix, "info@example.com", &["refused@example.net"], &content("refused"));
    postfix.log_line(&["to=<info@example.com>", "status=bounced", "501 Invalid MAIL FROM"]);
    queue_is_empty(&postfix);
    assert_eq!(postfix.sink.count(), 0);
}

/// Else it would go round.
#[test]
fn a_bounce_to_the_address_of_bounces_keeps_the_null_sender() {
    let postfix = postfix();
    let (_home, _daemon) =
        gatepost(&postfix, "[local]\nunlisted = \"bounce\"\n", "bounce_sender = \"bounces@example.com\"");
    sendmail(&postfix, "bounces@example.com", TO, &content("unlisted"));
    let bounce = to(&postfix, "bounces@example.com");
    assert!(bounce.from.starts_with("<>"), "{}", bounce.from);
}

#[test]
fn unlisted_local_senders_are_discarded() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "[local]\nunlisted = \"discard\"\n", "");
    sendmail(&postfix, "other@example.com", TO, &content("unlisted"));
    home.log_line(&["decision=discard", "from=<other@example.com>"]);
    postfix.log_line(&["milter-discard"]);
    queue_is_empty(&postfix);
    assert_eq!(postfix.sink.count(), 0);
}

#[test]
fn local_mail_to_suppressed_recipients_goes_to_the_others_and_limits_hold() {
    let postfix = postfix();
    let limit = "[[limit]]\nname = \"few\"\nkey = \"sender\"\nrate = \"2/h\"\n";
    let (home, _daemon) = gatepost(&postfix, limit, "");
    suppress(&home, "dead@example.net", 1);
    for subject in ["first", "second", "third"] {
        sendmail(&postfix, "info@example.com", &["one@example.net", "Dead@Example.net"], &content(subject));
        home.log_line(&["correlation_id=", "nrcpt=1"]);
        if subject != "third" {
            let arrived = postfix.sink.message(subject);
            assert_eq!(arrived.to, ["one@example.net"]);
            stamps(&arrived).stand_on(content(subject));
        }
    }
    home.log_line(&["decision=drop", "to=<dead@example.net>"]);
    home.log_line(&["decision=hold", "check=limits", "few"]);
    assert_eq!(postfix.sink.count(), 2);
}

#[test]
fn the_limits_of_a_fleet_hold_for_local_mail() {
    let valkey = Valkey::start(FORGETFUL);
    let postfix = postfix();
    let limit = "[[limit]]\nname = \"few\"\nkey = \"sender\"\nrate = \"1/h burst 2\"\n";
    let home = home(&postfix, limit, "");
    add_section(&home, &format!("[limits]\nstore = \"{}\"\n", valkey.url()));
    let _daemon = home.start();
    for subject in ["first", "second", "third"] {
        sendmail(&postfix, "info@example.com", TO, &content(subject));
        home.log_line(&["correlation_id=", "nrcpt=1"]);
    }
    home.log_line(&["decision=hold", "check=limits", "few"]);
    postfix.sink.message("second");
    assert_eq!(valkey.ask::<usize>(&["EXISTS", "{gatepost}:limit:few:sender:messages:info@example.com"]), Ok(1));
}

#[test]
fn the_null_sender_passes_from_sendmail() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "");
    suppress(&home, "dead@example.net", 1);
    sendmail(&postfix, "<>", &["dead@example.net"], &content("null"));
    let arrived = postfix.sink.message("null");
    assert!(arrived.from.starts_with("<>"), "{}", arrived.from);
    stamps(&arrived).stand_on(content("null"));
    home.log_line(&["correlation_id=", "from=<>, nrcpt=1"]);
}

#[test]
fn local_submissions_are_observed_and_kept_to_allowed_recipients() {
    let postfix = postfix();
    let policy = "[senders]\nmode = \"observe\"\n[suppression]\nmode = \"observe\"\n";
    let home = home(&postfix, policy, "");
    home.write_policy("allowed_recipients", "example.net OK\n");
    let _daemon = home.start();
    suppress(&home, "dead@example.net", 1);
    let to = ["dead@example.net", "user@example.org", "user@example.net"];
    sendmail(&postfix, "other@example.com", &to, &content("observed"));
    let mut arrived = postfix.sink.message("observed");
    arrived.to.sort();
    assert_eq!(arrived.to, ["dead@example.net", "user@example.net"]);
    stamps(&arrived).stand_on(content("observed"));
    home.log_line(&["decision=would-reject", "check=senders", "from=<other@example.com>"]);
    home.log_line(&["decision=would-reject", "check=suppression", "to=<dead@example.net>"]);
    home.log_line(&["decision=drop", "check=recipients", "to=<user@example.org>"]);
}

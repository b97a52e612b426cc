//! The milter on a real Postfix, with the lines that postfix-snippets/main.cf.milter ships: what reaches the sink is
//! compared with what was sent.

use crate::asker::Question;
use crate::gatepost::{BINARY, Daemon, Home};
use crate::postfix::{Options, Postfix, shipped};
use crate::sink::Message;
use crate::smtp::Session;
use crate::wait;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SENDERS: &str = "info@example.com OK\nroot@example.com OK\n";

/// Name and value of a header of a message, folded lines joined as they came.
type Header = (String, String);

/// The settings of a file of postfix-snippets, each on one line.
pub fn snippet(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(shipped("postfix-snippets").join(file)).unwrap();
    let mut settings: Vec<String> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        match settings.last_mut() {
            Some(last) if line.starts_with(' ') => last.push_str(line),
            _ => settings.push(line.to_owned()),
        }
    }
    settings
}

fn postfix() -> Postfix {
    postfix_with(&[])
}

fn postfix_with(set: &[&str]) -> Postfix {
    let mut all = snippet("main.cf.milter");
    all.extend(set.iter().map(|s| (*s).to_owned()));
    Postfix::start(&Options { set: all, ..Options::default() })
}

/// A gatepost with a milter beside `postfix`, with further lines of `[milter]`.
fn gatepost(postfix: &Postfix, policy: &str, milter: &str) -> (Home, Daemon) {
    let home = home(postfix, policy, milter);
    let daemon = home.start();
    (home, daemon)
}

fn home(postfix: &Postfix, policy: &str, milter: &str) -> Home {
    let home = Home::beside(postfix, SENDERS, policy);
    let folder = postfix.socket().parent().unwrap().display().to_string();
    home.write_config(&format!(
        "[milter]\nlisten = [\"unix:{folder}/milter.sock\"]\nlisten_local = [\"unix:{folder}/local.sock\"]\n{milter}\n"
    ));
    home
}

/// Header and body of what arrived.
fn parts(message: &Message) -> (Vec<Header>, String) {
    let (head, body) = message.content.split_once("\n\n").expect("a header and a body");
    let mut headers: Vec<Header> = Vec::new();
    for line in head.lines() {
        if line.starts_with([' ', '\t']) {
            let (_, value) = headers.last_mut().expect("a header to fold");
            value.push('\n');
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':').expect("a header");
            headers.push((name.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned()));
        }
    }
    (headers, body.to_owned())
}

fn values<'h>(headers: &'h [Header], name: &str) -> Vec<&'h str> {
    headers.iter().filter(|(n, _)| n.trim_end().eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
}

/// The stamps of a message: each stands once. (queue id, correlation id, further tags)
fn stamps(message: &Message) -> (String, String, String) {
    stamps_below(message, 0)
}

/// The same, with more `Received:` headers on top.
fn stamps_below(message: &Message, more: usize) -> (String, String, String) {
    let (mut headers, _) = parts(message);
    headers.drain(..more);
    assert_eq!(headers[0].0, "Received", "{headers:#?}");
    let ids = values(&headers, "X-Correlation-ID");
    let tags = values(&headers, "X-SES-MESSAGE-TAGS");
    assert_eq!((ids.len(), tags.len()), (1, 1), "{headers:#?}");
    assert_eq!((headers[1].0.as_str(), headers[2].0.as_str()), ("X-Correlation-ID", "X-SES-MESSAGE-TAGS"));
    let rest = tags[0].strip_prefix("queue_id=").expect("the queue id first");
    let (queue_id, rest) = rest.split_once(", correlation_id=").expect("the correlation id second");
    let (id, more) = rest.split_once(", ").unwrap_or((rest, ""));
    assert_eq!(id, ids[0]);
    (queue_id.to_owned(), id.to_owned(), more.to_owned())
}

/// One message by SMTP; `content` is what stands between DATA and the dot.
fn send(session: &mut Session, to: &[&str], content: &str) {
    session.say("MAIL FROM:<info@example.com>").expect(250, &[]);
    for to in to {
        session.say(&format!("RCPT TO:<{to}>")).expect(250, &[]);
    }
    session.say("DATA").expect(354, &[]);
    session.say(&format!("{}.", content.replace('\n', "\r\n"))).expect(250, &["queued as"]);
}

/// sendmail(1), as cron calls it.
fn sendmail(postfix: &Postfix, from: &str, to: &[&str], content: &str) {
    let command = postfix.tool("sendmail");
    // sendmail's -C is postfix's -c.
    let conf = command.get_args().nth(1).unwrap().to_owned();
    let mut command = Command::new(command.get_program());
    command.arg("-C").arg(conf).args(["-i", "-f", from]).args(to).stdin(Stdio::piped());
    let mut child = command.spawn().expect("sendmail");
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn is_uuid_v7(id: &str) -> bool {
    id.len() == 36 && id.as_bytes()[14] == b'7'
}

#[test]
fn a_message_carries_the_ids_of_postfixs_log_and_is_otherwise_untouched() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "ses_configuration_set = \"relay-events\"");
    let content = "Subject: plain\nMessage-ID: <a@b>\nDate: Mon, 23 Nov 2026 09:00:00 +0000\nFrom: info@example.com\n\
                   X-Odd:no blank\nX-Folded: one\n\ttwo \n\nBody\n  with blanks \t\n\n.leading\n";
    let mut session = postfix.session();
    send(&mut session, &["user@example.net"], &content.replace("\n.leading", "\n..leading"));
    let arrived = postfix.sink.message("plain");
    let (queue_id, id, more) = stamps(&arrived);
    assert!(is_uuid_v7(&id) && more.is_empty(), "{id} {more}");
    postfix.log_line(&[&format!("{queue_id}: to=<user@example.net>"), &arrived.id]);
    let line = home.log_line(&[&format!("{queue_id}: correlation_id={id}")]);
    assert!(line.ends_with("message-id=<a@b>, from=<info@example.com>, nrcpt=1, client=127.0.0.1"), "{line}");
    let stamps = format!(
        "X-Correlation-ID: {id}\nX-SES-MESSAGE-TAGS: queue_id={queue_id}, correlation_id={id}\n\
                          X-SES-CONFIGURATION-SET: relay-events\n"
    );
    let (_, rest) = arrived.content.split_once(&stamps).expect("the stamps");
    assert_eq!(rest, content);

    // A kept session: the next message has ids of its own.
    send(&mut session, &["one@example.net", "two@example.net"], "Subject: second\n\nBody\n");
    let (other_queue_id, other_id, _) = self::stamps(&postfix.sink.message("second"));
    assert!(other_queue_id != queue_id && other_id != id);
    home.log_line(&[&other_queue_id, "nrcpt=2"]);
    assert_eq!(home.metric("gatepost_milter_messages_stamped_total") as u64, 2);
}

#[test]
fn forged_repeated_and_folded_headers_go_and_tags_are_merged() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "ses_configuration_set = \"relay-events\"");
    let content = "X-Correlation-ID: forged\nx-correlation-id : again\nSubject: forged\n\
                   X-SES-MESSAGE-TAGS: queue_id=x,\n\tcampaign=spring, bad name=1\nX-Ses-Configuration-Set: other\n\
                   X-SES-SOURCE-ARN: arn\nx-ses-source-arn: arn2\nX-SES-Message-Tags : kind=a\n\nBody\n";
    send(&mut postfix.session(), &["user@example.net"], content);
    let arrived = postfix.sink.message("forged");
    let (_, id, more) = stamps(&arrived);
    assert!(is_uuid_v7(&id));
    assert_eq!(more, "campaign=spring, kind=a");
    let (headers, _) = parts(&arrived);
    assert_eq!(values(&headers, "X-SES-CONFIGURATION-SET"), ["relay-events"]);
    assert!(values(&headers, "X-SES-SOURCE-ARN").is_empty(), "{headers:#?}");
    assert_eq!(home.metric("gatepost_milter_headers_removed_total") as u64, 5);
}

#[test]
fn trusted_clients_keep_their_own_id() {
    let postfix = postfix();
    let (_home, _daemon) = gatepost(&postfix, "", "trusted_networks = [\"10.9.0.0/16\"]");
    let content = |subject: &str| format!("X-Correlation-ID: order-1\nX-SES-OTHER: x\nSubject: {subject}\n\nBody\n");
    let set = "mynetworks = 127.0.0.0/8, 10.0.0.0/8";
    let out = postfix.tool("postconf").args(["-e", set]).output().unwrap();
    assert!(out.status.success());
    postfix.tool("postfix").arg("reload").output().unwrap();
    wait::until("the networks to be in force", wait::LONG, || {
        let mut session = Session::open_as(postfix.port(), "ADDR=10.9.0.1");
        (session.ask("info@example.com", "user@example.net").code == 250).then_some(())
    });
    send(&mut Session::open_as(postfix.port(), "ADDR=10.9.0.1"), &["user@example.net"], &content("trusted"));
    send(&mut Session::open_as(postfix.port(), "ADDR=10.8.0.1"), &["user@example.net"], &content("stranger"));
    let trusted = postfix.sink.message("trusted");
    assert_eq!(stamps(&trusted).1, "order-1");
    assert_eq!(values(&parts(&trusted).0, "X-SES-OTHER"), ["x"]);
    let stranger = postfix.sink.message("stranger");
    assert!(is_uuid_v7(&stamps(&stranger).1));
    assert!(values(&parts(&stranger).0, "X-SES-OTHER").is_empty());
}

#[test]
fn a_message_that_comes_back_keeps_its_id_and_gets_the_newest_queue_id() {
    let postfix = postfix();
    let (_home, _daemon) = gatepost(&postfix, "", "");
    let mut session = postfix.session();
    send(&mut session, &["user@example.net"], "Subject: first pass\n\nBody\n");
    let first = postfix.sink.message("first pass");
    let (queue_id, id, _) = stamps(&first);
    let again = first.content.replace("Subject: first pass", "Subject: second pass");
    send(&mut session, &["user@example.net"], &again);
    let (headers, _) = parts(&postfix.sink.message("second pass"));
    assert_eq!(values(&headers, "X-Correlation-ID"), [&id]);
    let tags = values(&headers, "X-SES-MESSAGE-TAGS");
    assert!(tags.len() == 1 && tags[0].ends_with(&id) && !tags[0].contains(&queue_id), "{tags:?}");
}

#[test]
fn suppressed_recipients_are_taken_out_where_the_policy_says_drop() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "[suppression]\naction = \"drop\"\n", "");
    home.run(&["suppress", "add", "dead@example.net", "--reason", "manual"]);
    home.run(&["suppress", "add", "\"a b\"@example.net", "--reason", "manual"]);
    wait::true_within("the entries to be in force", wait::LONG, || {
        home.metric("gatepost_suppressed_entries") as u64 == 2
    });
    let mut session = postfix.session();
    let to = ["one@example.net", "Dead@Example.NET", "\"A b\"@example.net", "two@example.net"];
    send(&mut session, &to, "Subject: for two\n\nBody\n");
    assert_eq!(postfix.sink.message("for two").to, ["one@example.net", "two@example.net"]);
    home.log_line(&["decision=drop", "check=suppression", "to=<dead@example.net>", "queue_id="]);
    home.log_line(&["decision=drop", "to=<\"a b\"@example.net>"]);
    home.log_line(&["nrcpt=2"]);
    send(&mut session, &["dead@example.net"], "Subject: for nobody\n\nBody\n");
    postfix.log_line(&["milter-discard"]);
    assert_eq!(home.metric("gatepost_milter_recipients_dropped_total") as u64, 3);
}

#[test]
fn local_submissions_are_stamped_and_unlisted_senders_are_held() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "");
    sendmail(&postfix, "info@example.com", &["user@example.net"], "Subject: by cron\n\nBody\n");
    let (queue_id, _, _) = stamps(&postfix.sink.message("by cron"));
    home.log_line(&[&queue_id, "from=<info@example.com>"]);
    sendmail(&postfix, "other@example.com", &["user@example.net"], "Subject: unlisted\n\nBody\n");
    postfix.log_line(&["milter-hold"]);
    let line = home.log_line(&["decision=hold", "check=senders", "from=<other@example.com>"]);
    assert!(line.contains("rule=allowed_senders:unlisted"), "{line}");
    assert_eq!(postfix.sink.messages().len(), 1);
}

#[test]
fn unlisted_local_senders_are_bounced_to_where_bounces_arrive() {
    let postfix = postfix();
    let (home, _daemon) =
        gatepost(&postfix, "[local]\nunlisted = \"bounce\"\n", "bounce_sender = \"bounces@example.com\"");
    sendmail(&postfix, "other@example.com", &["user@example.net"], "Subject: unlisted\n\nBody\n");
    home.log_line(&["decision=bounce", "from=<other@example.com>"]);
    let bounce = wait::until("the bounce", wait::LONG, || {
        postfix.sink.messages().into_iter().find(|m| m.to == ["other@example.com"])
    });
    assert!(bounce.from.starts_with("<bounces@example.com>"), "{}", bounce.from);
    let (headers, body) = parts(&bounce);
    assert_eq!(values(&headers, "From"), ["Mail Delivery System <bounces@example.com>"]);
    assert!(body.contains("Sender not allowed here"), "{body}");
    stamps(&bounce);
    // A bounce to the address of bounces itself would go round.
    sendmail(&postfix, "bounces@example.com", &["user@example.net"], "Subject: unlisted too\n\nBody\n");
    let bounce = wait::until("the other bounce", wait::LONG, || {
        postfix.sink.messages().into_iter().find(|m| m.to == ["bounces@example.com"])
    });
    assert!(bounce.from.starts_with("<>"), "{}", bounce.from);
}

#[test]
fn unlisted_local_senders_are_discarded() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "[local]\nunlisted = \"discard\"\n", "");
    sendmail(&postfix, "other@example.com", &["user@example.net"], "Subject: unlisted\n\nBody\n");
    home.log_line(&["decision=discard", "from=<other@example.com>"]);
    postfix.log_line(&["milter-discard"]);
    assert!(postfix.sink.messages().is_empty());
}

#[test]
fn local_mail_to_suppressed_recipients_goes_to_the_others_and_limits_hold() {
    let postfix = postfix();
    let limit = "[[limit]]\nname = \"few\"\nkey = \"sender\"\nrate = \"2/h\"\n";
    let (home, _daemon) = gatepost(&postfix, limit, "");
    home.run(&["suppress", "add", "dead@example.net", "--reason", "manual"]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        home.metric("gatepost_suppressed_entries") as u64 == 1
    });
    let to = ["one@example.net", "Dead@Example.net"];
    for subject in ["first", "second", "third"] {
        sendmail(&postfix, "info@example.com", &to, &format!("Subject: {subject}\n\nBody\n"));
        home.log_line(&["correlation_id=", "nrcpt=1"]);
        if subject != "third" {
            assert_eq!(postfix.sink.message(subject).to, ["one@example.net"]);
        }
    }
    home.log_line(&["decision=drop", "to=<dead@example.net>"]);
    home.log_line(&["decision=hold", "check=limits", "few"]);
    assert_eq!(postfix.sink.messages().len(), 2);
}

#[test]
fn without_a_milter_mail_by_smtp_goes_on_and_local_mail_waits() {
    let postfix = postfix_with(&["gatepost_down = permit"]);
    let (home, mut daemon) = gatepost(&postfix, "", "");
    daemon.signal("TERM");
    let (_, took) = daemon.wait_for_end(wait::LONG);
    assert!(took < Duration::from_secs(1), "{took:?} with no session open");
    send(&mut postfix.session(), &["user@example.net"], "Subject: unstamped\n\nBody\n");
    assert!(!postfix.sink.message("unstamped").content.contains("X-Correlation-ID"));
    sendmail(&postfix, "info@example.com", &["user@example.net"], "Subject: waits\n\nBody\n");
    postfix.log_line(&["postfix/cleanup", "local.sock"]);
    let _daemon = home.start();
    // The next submission wakes pickup(8), which else looks each minute.
    sendmail(&postfix, "info@example.com", &["user@example.net"], "Subject: wakes\n\nBody\n");
    stamps(&postfix.sink.message("waits"));
}

#[test]
fn an_open_session_is_served_to_its_end_when_gatepost_stops() {
    let postfix = postfix();
    let (_home, mut daemon) = gatepost(&postfix, "", "");
    let mut session = postfix.session();
    send(&mut session, &["user@example.net"], "Subject: before\n\nBody\n");
    daemon.signal("HUP");
    send(&mut session, &["user@example.net"], "Subject: reloaded\n\nBody\n");
    stamps(&postfix.sink.message("reloaded"));
    daemon.signal("TERM");
    daemon.says(&["Stopping"]);
    send(&mut session, &["user@example.net"], "Subject: after\n\nBody\n");
    session.say("QUIT").expect(221, &[]);
    let start = Instant::now();
    let (status, _) = daemon.wait_for_end(wait::LONG);
    assert!(status.success() && start.elapsed() < Duration::from_secs(2), "{status} {:?}", start.elapsed());
    stamps(&postfix.sink.message("before"));
    stamps(&postfix.sink.message("after"));
}

#[test]
fn a_session_that_outlives_gatepost_goes_on_unstamped_and_a_new_one_is_stamped() {
    let postfix = postfix_with(&["gatepost_down = permit"]);
    let (home, mut daemon) = gatepost(&postfix, "", "");
    let mut kept = postfix.session();
    send(&mut kept, &["user@example.net"], "Subject: before\n\nBody\n");
    daemon.signal("KILL");
    daemon.wait_for_end(wait::LONG);
    let _daemon = home.start();
    send(&mut kept, &["user@example.net"], "Subject: kept\n\nBody\n");
    send(&mut kept, &["user@example.net"], "Subject: kept again\n\nBody\n");
    send(&mut postfix.session(), &["user@example.net"], "Subject: new\n\nBody\n");
    stamps(&postfix.sink.message("before"));
    stamps(&postfix.sink.message("new"));
    for subject in ["kept", "kept again"] {
        assert!(!postfix.sink.message(subject).content.contains("X-Correlation-ID"), "{subject}");
    }
}

#[test]
fn a_gatepost_that_is_stuck_holds_mail_up_no_longer_than_the_timeouts() {
    let milter =
        "smtpd_milters = { unix:gatepost/milter.sock, command_timeout=1s, content_timeout=1s, default_action=accept }";
    let postfix = postfix_with(&["gatepost_down = permit", milter]);
    let (_home, daemon) = gatepost(&postfix, "", "");
    let mut session = postfix.session();
    session.say("MAIL FROM:<info@example.com>").expect(250, &[]);
    session.say("RCPT TO:<user@example.net>").expect(250, &[]);
    session.say("DATA").expect(354, &[]);
    daemon.signal("STOP");
    let reply = session.say("Subject: stuck\r\n\r\nBody\r\n.");
    daemon.signal("CONT");
    reply.expect(250, &[]);
    assert!(reply.took < Duration::from_secs(5), "{:?}", reply.took);
    postfix.sink.message("stuck");
}

#[test]
fn large_messages_and_smtputf8_pass_as_they_are() {
    let postfix = postfix();
    let (_home, _daemon) = gatepost(&postfix, "", "");
    let line = format!("{}\n", "x".repeat(900));
    let body = line.repeat(8 * 1024 * 1024 / line.len());
    let head = "Subject: large\nMessage-ID: <l@b>\nDate: Mon, 23 Nov 2026 09:00:00 +0000\nFrom: info@example.com\n";
    let mut session = postfix.session();
    send(&mut session, &["user@example.net"], &format!("{head}\n{body}"));
    let arrived = postfix.sink.message("large");
    stamps(&arrived);
    assert!(parts(&arrived).1 == body, "the body is another");

    session.say("MAIL FROM:<info@example.com> SMTPUTF8").expect(250, &[]);
    session.say("RCPT TO:<gr\u{fc}\u{df}e@b\u{fc}cher.example>").expect(250, &[]);
    session.say("DATA").expect(354, &[]);
    session.say("Subject: utf8\r\nX-Greeting: \u{fc}\r\n\r\n\u{fc}\r\n.").expect(250, &[]);
    let arrived = postfix.sink.message("utf8");
    stamps(&arrived);
    assert!(arrived.content.contains("X-Greeting: \u{fc}\n") && parts(&arrived).1 == "\u{fc}\n");
}

#[test]
fn the_null_sender_passes_from_sendmail() {
    let postfix = postfix();
    let (home, _daemon) = gatepost(&postfix, "", "");
    home.run(&["suppress", "add", "dead@example.net", "--reason", "manual"]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        home.metric("gatepost_suppressed_entries") as u64 == 1
    });
    sendmail(&postfix, "<>", &["dead@example.net"], "Subject: null\n\nBody\n");
    let arrived = postfix.sink.message("null");
    assert!(arrived.from.starts_with("<>"), "{}", arrived.from);
    stamps(&arrived);
    home.log_line(&["correlation_id=", "from=<>, nrcpt=1"]);
}

#[test]
fn a_chrooted_smtpd_and_cleanup_find_the_milter() {
    let postfix = Postfix::start(&Options { chroot: true, set: snippet("main.cf.milter"), ..Options::default() });
    let (_home, _daemon) = gatepost(&postfix, "", "");
    send(&mut postfix.session(), &["user@example.net"], "Subject: by smtp\n\nBody\n");
    sendmail(&postfix, "info@example.com", &["user@example.net"], "Subject: by sendmail\n\nBody\n");
    stamps(&postfix.sink.message("by smtp"));
    stamps(&postfix.sink.message("by sendmail"));
}

#[test]
fn mail_that_is_queued_again_keeps_its_stamps() {
    let postfix = postfix();
    let home = home(&postfix, "", "");
    home.write_policy("allowed_senders", "info@example.com HOLD\nroot@example.com OK\n");
    let _daemon = home.start();
    send(&mut postfix.session(), &["user@example.net"], "Subject: again\n\nBody\n");
    let line = home.log_line(&["correlation_id="]);
    let old = line.split(": ").nth(1).expect("a queue id").to_owned();
    assert!(postfix.tool("postsuper").args(["-r", &old]).status().unwrap().success());
    // A submission wakes pickup(8), which else looks each minute.
    sendmail(&postfix, "root@example.com", &["user@example.net"], "Subject: wakes\n\nBody\n");
    let (queue_id, id, _) = stamps_below(&postfix.sink.message("again"), 1);
    assert_eq!(queue_id, old);
    assert!(line.contains(&id), "{line}");
    postfix.log_line(&[&format!("orig_id={old}")]);
}

#[test]
fn a_session_that_does_not_end_is_ended_after_ten_seconds_with_delegation_answering_meanwhile() {
    let postfix = postfix_with(&["gatepost_down = permit"]);
    let (home, mut daemon) = gatepost(&postfix, "", "");
    let _idle = postfix.session();
    let mut asker = home.asker();
    wait::true_within("the session", wait::LONG, || home.metric("gatepost_milter_sessions") as u64 == 1);
    daemon.signal("TERM");
    daemon.says(&["Stopping"]);
    let question = Question::rcpt("other@example.com", "user@example.net").with("policy_context", "sender");
    assert!(asker.ask(&question).contains("554"));
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert!(status.success() && (8..12).contains(&took.as_secs()), "{status} {took:?}");
    daemon.says(&["Milter sessions were still open"]);
}

/// A gatepost that is started again whenever it ends, on sockets that something else holds, as systemd does it.
struct Kept<'a> {
    home: &'a Home,
    _holder: Daemon,
}

impl<'a> Kept<'a> {
    fn start(home: &'a Home, postfix: &Postfix) -> Self {
        let folder = postfix.socket().parent().unwrap().to_owned();
        let (pid, stop) = (home.path("pid"), home.path("stop"));
        let script = format!(
            "while [ ! -e {stop} ]; do \
             sh -c 'echo $$ > {pid}.new; mv {pid}.new {pid}; LISTEN_PID=$$ exec {BINARY} --config {config} serve'; \
             done",
            stop = stop.display(),
            pid = pid.display(),
            config = home.config().display()
        );
        let mut command = Command::new("systemd-socket-activate");
        let sockets = ["policy.sock", "milter.sock", "local.sock"].map(|name| folder.join(name));
        for socket in &sockets {
            command.arg("-l").arg(socket);
        }
        let holder = Daemon::of({
            command.args(["sh", "-c", &script]);
            command
        });
        wait::true_within("the sockets", wait::LONG, || sockets.iter().all(|socket| socket.exists()));
        for socket in &sockets {
            std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        Self { home, _holder: holder }
    }

    fn pid(&self) -> Option<String> {
        std::fs::read_to_string(self.home.path("pid")).ok()
    }

    fn restart(&self) {
        let old = self.pid().expect("a gatepost");
        assert!(Command::new("kill").args(["-TERM", old.trim()]).status().unwrap().success());
        wait::true_within("the next gatepost", wait::LONG, || self.pid().is_some_and(|pid| pid != old));
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        let _ = std::fs::write(self.home.path("stop"), "");
        if let Some(pid) = self.pid() {
            let _ = Command::new("kill").args(["-TERM", pid.trim()]).status();
        }
    }
}

#[test]
fn restarts_on_held_sockets_refuse_nobody_and_leave_nothing_unstamped() {
    let postfix = postfix();
    let home = home(&postfix, "", "");
    let kept = Kept::start(&home, &postfix);
    let done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                let mut session = postfix.session();
                send(&mut session, &["user@example.net"], &format!("Subject: number {sent}\n\nBody\n"));
                session.say("QUIT").expect(221, &[]);
                sent += 1;
            }
            sent
        });
        wait::until("the first gatepost", wait::LONG, || kept.pid());
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(300));
            kept.restart();
        }
        done.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    assert!(sent > 10, "{sent}");
    wait::true_within("all of the mail", wait::LONG, || postfix.sink.messages().len() == sent);
    for message in postfix.sink.messages() {
        stamps(&message);
    }
}

#[test]
fn local_submissions_are_observed_and_kept_to_allowed_recipients() {
    let postfix = postfix();
    let policy = "[senders]\nmode = \"observe\"\n[suppression]\nmode = \"observe\"\n";
    let home = home(&postfix, policy, "");
    home.write_policy("allowed_recipients", "example.net OK\n");
    let _daemon = home.start();
    home.run(&["suppress", "add", "dead@example.net", "--reason", "manual"]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        home.metric("gatepost_suppressed_entries") as u64 == 1
    });
    let to = ["dead@example.net", "user@example.org", "user@example.net"];
    sendmail(&postfix, "other@example.com", &to, "Subject: observed\n\nBody\n");
    let mut arrived = postfix.sink.message("observed").to;
    arrived.sort();
    assert_eq!(arrived, ["dead@example.net", "user@example.net"]);
    home.log_line(&["decision=would-reject", "check=senders", "from=<other@example.com>"]);
    home.log_line(&["decision=would-reject", "check=suppression", "to=<dead@example.net>"]);
    home.log_line(&["decision=drop", "check=recipients", "to=<user@example.org>"]);
}

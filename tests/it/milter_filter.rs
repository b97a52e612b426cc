//! Mail that a content filter takes from the queue and brings back by SMTP, as Postfix's FILTER_README has it: it passes
//! the milter twice. The filter is a sink from which the test brings on what has arrived, when it wants to.

use crate::gatepost::{Daemon, Home};
use crate::postfix::{Options, Postfix};
use crate::sink::{Message, Sink};
use crate::smtp::Session;
use crate::stamped::{COMPLETE, begin, end, gatepost, postfix_of, send, sendmail, stamps};

/// A Postfix before a filter, with a second smtpd behind it.
struct Filtered {
    postfix: Postfix,
    filter: Sink,
}

impl Filtered {
    fn start() -> Self {
        let filter = Sink::start();
        let networks = "mynetworks = 127.0.0.0/8, 10.0.0.0/8".to_owned();
        let set = vec![format!("content_filter = smtp:[127.0.0.1]:{}", filter.port()), networks];
        let listeners = vec![vec!["content_filter =".to_owned()]];
        Self { postfix: postfix_of(Options { set, listeners, ..Options::default() }), filter }
    }

    /// A session behind the filter.
    fn behind(&self) -> Session {
        Session::open(self.postfix.listener(0))
    }

    /// Brings a message back as the filter does: unaltered, with its envelope.
    fn bring_back(&self, message: &Message) {
        let mut session = self.behind();
        let to: Vec<&str> = message.to.iter().map(String::as_str).collect();
        begin(&mut session, &format!("MAIL FROM:{}", message.from), &to);
        end(&mut session, message.content.as_bytes()).expect(250, &["queued as"]);
    }

    /// Passes a message through; as it was at the filter, and as it arrived.
    fn pass(&self, subject: &str) -> [Message; 2] {
        let at_filter = self.filter.message(subject);
        self.bring_back(&at_filter);
        [at_filter, self.postfix.sink.message(subject)]
    }
}

/// The id of the first pass, the queue id of the second, one of each header.
fn is_known([first, second]: &[Message; 2], content: &str) -> String {
    let (before, after) = (stamps(first), stamps(second));
    before.stand_on(content);
    after.stand_on_received(content);
    assert_eq!((&after.id, &after.tags, &after.set), (&before.id, &before.tags, &before.set));
    assert_ne!(after.queue_id, before.queue_id);
    assert_eq!((first.from.split(' ').next(), &first.to), (second.from.split(' ').next(), &second.to));
    after.queue_id
}

/// `content` with a header on top, which goes.
fn with_tags(content: &str) -> String {
    format!("X-SES-MESSAGE-TAGS: campaign=spring\n{content}")
}

fn content(subject: &str) -> String {
    format!("Subject: {subject}\n{COMPLETE}\nBody\n")
}

fn start(milter: &str) -> (Filtered, Home, Daemon) {
    let filtered = Filtered::start();
    let (home, daemon) = gatepost(&filtered.postfix, "", milter);
    (filtered, home, daemon)
}

#[test]
fn what_comes_back_keeps_its_id_and_gets_the_newest_queue_id() {
    let (filtered, home, _daemon) = start("ses_configuration_set = \"relay-events\"");
    let mut session = filtered.postfix.session();
    send(&mut session, &["one@example.net", "two@example.net"], &with_tags(&content("by smtp")));
    let passed = filtered.pass("by smtp");
    let queue_id = is_known(&passed, &content("by smtp"));
    assert_eq!(stamps(&passed[1]).tags, "campaign=spring");
    filtered.postfix.log_line(&[&format!("{queue_id}: to=<one@example.net>"), &passed[1].id]);
    assert_eq!(home.metric("gatepost_milter_headers_removed_total") as u64, 0);
    // Local mail goes the same way, but passes two milters.
    sendmail(&filtered.postfix, "info@example.com", &["user@example.net"], &content("by sendmail"));
    is_known(&filtered.pass("by sendmail"), &content("by sendmail"));
    assert_eq!(filtered.postfix.sink.count(), 2);
}

#[test]
fn the_id_of_a_trusted_client_is_kept_through_the_filter() {
    let (filtered, _home, _daemon) = start("trusted_networks = [\"127.9.0.0/16\"]");
    let mut session = Session::open_as(filtered.postfix.port(), "ADDR=127.9.0.1");
    send(&mut session, &["user@example.net"], &format!("X-Correlation-ID: order-1\n{}", content("own")));
    let passed = filtered.pass("own");
    is_known(&passed, &content("own"));
    assert_eq!(stamps(&passed[1]).id, "order-1");
}

/// The filter has it while gatepost is started anew; the second time after a crash, which costs what was not saved.
#[test]
fn ids_are_known_over_a_restart() {
    let (filtered, home, mut daemon) = start("");
    send(&mut filtered.postfix.session(), &["user@example.net"], &content("over a restart"));
    let at_filter = filtered.filter.message("over a restart");
    daemon.signal("TERM");
    assert!(daemon.wait_for_end(crate::wait::LONG).0.success());
    let mut daemon = home.start();
    filtered.bring_back(&at_filter);
    is_known(&[at_filter.clone(), filtered.postfix.sink.message("over a restart")], &content("over a restart"));
    daemon.signal("KILL");
    daemon.wait_for_end(crate::wait::LONG);

    // A file that cannot be used is said, and stops nothing.
    std::fs::write(home.path("state/issued.state"), "rubbish").unwrap();
    let daemon = home.start();
    daemon.says(&["WARN", "The saved correlation ids are damaged or of another version"]);
    let again = Message { content: at_filter.content.replace("over a restart", "forgotten"), ..at_filter };
    filtered.bring_back(&again);
    let forgotten = stamps(&filtered.postfix.sink.message("forgotten"));
    assert!(forgotten.is_new() && forgotten.id != stamps(&again).id);
}

#[test]
fn an_id_that_was_not_issued_here_is_forged_also_from_this_host() {
    let (filtered, _home, _daemon) = start("");
    send(&mut filtered.postfix.session(), &["user@example.net"], &content("real"));
    let real = stamps(&filtered.filter.message("real")).id;
    let made_up = "0198c2d4-0000-7000-8000-000000000001";
    let forged = |id: &str, subject: &str| {
        format!("X-Correlation-ID: {id}\nX-SES-MESSAGE-TAGS: queue_id=x, correlation_id={id}\n{}", content(subject))
    };
    send(&mut filtered.behind(), &["user@example.net"], &forged(made_up, "made up"));
    let arrived = stamps(&filtered.postfix.sink.message("made up"));
    assert!(arrived.stand_on(content("made up")).is_new() && arrived.id != made_up);
    // One that was, from elsewhere.
    let mut stranger = Session::open_as(filtered.postfix.listener(0), "ADDR=10.8.0.1");
    send(&mut stranger, &["user@example.net"], &forged(&real, "stolen"));
    let arrived = stamps(&filtered.postfix.sink.message("stolen"));
    assert!(arrived.stand_on(content("stolen")).is_new() && arrived.id != real);
}

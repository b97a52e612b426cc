//! Journeys from whole logs.

use super::{Journey, Logs, Query, Search, Station, join};
use jiff::tz::TimeZone;
use std::io::Write;

/// The journeys that `log` tells of `query`.
fn trace(query: &str, log: &str) -> Vec<Journey> {
    let (search, journeys) = traced(query, log);
    assert!(!search.is_cut());
    journeys
}

fn traced(query: &str, log: &str) -> (Search, Vec<Journey>) {
    let mut logs = Logs::default();
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(log.as_bytes()).expect("write");
    logs.add(file.path()).expect("add");
    let mut search = Search::new(Query::new(query).expect("a query"), TimeZone::UTC);
    assert!(search.run(&logs).is_empty());
    let journeys = join(&search.found());
    (search, journeys)
}

fn whats(stations: &[Station]) -> Vec<&str> {
    stations.iter().map(|station| station.what.as_str()).collect()
}

#[test]
fn the_whole_way_over_two_logs_whose_clocks_differ() {
    let journeys = trace(
        "a@y",
        "\
2026-11-23T05:28:58.999Z r.example postfix/ses-events[1]: 0102-aa: to=<a@y>, relay=amazonses.com, status=accepted
2026-11-23T05:29:03.500Z r.example postfix/ses-events[1]: 0102-aa: to=<>, relay=amazonses.com, status=opened
2026-11-23T05:29:02.500Z r.example postfix/ses-events[1]: 0102-aa: to=<a@y>, relay=amazonses.com, dsn=2.0.0, \
status=delivered, delay=5ms, response=(250 ok)
2026-11-23T05:28:57.900Z ip-10-0-0-1 postfix/gatepost[1]: AAAAA1: correlation_id=c1, message-id=<m@x>, from=<s@x>, nrcpt=1
Nov 23 05:28:57 r postfix/smtpd[1]: AAAAA1: client=h[10.0.0.1]
Nov 23 05:28:57 r postfix/cleanup[1]: AAAAA1: message-id=<m@x>
Nov 23 05:28:57 r postfix/qmgr[1]: AAAAA1: from=<s@x>, size=364, nrcpt=1 (queue active)
Nov 23 05:28:58 r postfix/smtp[1]: AAAAA1: to=<a@y>, relay=h, dsn=4.0.0, status=deferred (454 Throttling failure)
Nov 23 05:28:59 r postfix/qmgr[1]: AAAAA1: from=<s@x>, size=364, nrcpt=1 (queue active)
Nov 23 05:28:59 r postfix/smtp[1]: AAAAA1: to=<A@y>, relay=h, delay=1, dsn=2.0.0, status=sent (250 Ok 0102-aa)
Nov 23 05:28:59 r postfix/qmgr[1]: AAAAA1: removed
",
    );
    let [journey] = &journeys[..] else { panic!("{journeys:#?}") };
    assert_eq!((journey.message_id.as_deref(), journey.from.as_deref()), (Some("m@x"), Some("s@x")));
    assert_eq!((&journey.correlation_ids[..], journey.size), (&["c1".to_owned()][..], Some(364)));
    assert_eq!(whats(&journey.stations), ["submitted", "stamped", "queued"]);
    let [recipient] = &journey.recipients[..] else { panic!("{journey:#?}") };
    assert_eq!(whats(&recipient.stations), ["deferred", "sent", "accepted", "delivered", "opened"]);
    let after: Vec<_> = recipient.stations.iter().filter_map(|station| station.after_ms).collect();
    assert_eq!(after, [1_000, 1_000, 0, 3_501, 1_000]);
}

#[test]
fn a_short_id_that_is_used_again_is_another_message() {
    let log = "\
Nov 22 05:28:57 r postfix/smtpd[1]: AAAAA1: client=h[10.0.0.1]
Nov 22 05:28:58 r postfix/smtp[1]: AAAAA1: to=<old@y>, relay=h, dsn=2.0.0, status=sent (250 Ok 0102-aa)
Nov 22 05:28:58 r postfix/qmgr[1]: AAAAA1: removed
Nov 23 05:28:57 r postfix/smtpd[1]: AAAAA1: client=h[10.0.0.2]
Nov 23 05:28:58 r postfix/smtp[1]: AAAAA1: to=<new@y>, relay=h, dsn=2.0.0, status=sent (250 Ok 0102-bb)
Nov 23 05:28:58 r postfix/qmgr[1]: AAAAA1: removed
Nov 23 05:28:57 other postfix/smtpd[1]: AAAAA1: client=h[10.0.0.3]
";
    assert_eq!(trace("AAAAA1", log).len(), 3);
    let journeys = trace("new@y", log);
    let [journey] = &journeys[..] else { panic!("{journeys:#?}") };
    assert_eq!(journey.client.as_deref(), Some("h[10.0.0.2]"));
}

#[test]
fn behind_a_content_filter_it_is_the_same_message() {
    let journeys = trace(
        "a@y",
        "\
Nov 23 05:28:57 r postfix/smtpd[1]: AAAAA1: client=h[10.0.0.1]
Nov 23 05:28:57 r postfix/smtpd[1]: BBBBB2: client=localhost[127.0.0.1]
Nov 23 05:28:58 r postfix/smtp[1]: AAAAA1: to=<a@y>, relay=f, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as BBBBB2)
Nov 23 05:28:58 r postfix/qmgr[1]: AAAAA1: removed
Nov 23 05:28:58 r postfix/smtp[1]: BBBBB2: to=<a@y>, relay=h, dsn=2.0.0, status=sent (250 Ok 0102-bb)
",
    );
    let [journey] = &journeys[..] else { panic!("{journeys:#?}") };
    assert_eq!(journey.queue_ids, ["AAAAA1", "BBBBB2"]);
    assert_eq!(whats(&journey.recipients[0].stations), ["sent", "sent"]);
}

#[test]
fn an_event_whose_mail_is_in_no_log_stands_alone() {
    let journeys = trace(
        "corr-1",
        "2026-11-23T05:28:58Z r postfix/ses-events[1]: 0102-aa: to=<a@y>, relay=amazonses.com, status=delivered, \
         queue_id=AAAAA1, correlation_id=corr-1\n",
    );
    assert_eq!((journeys.len(), whats(&journeys[0].recipients[0].stations)), (1, vec!["delivered"]));
}

/// A filter that does not say what it sent on as: the stamp's ids are the same before and behind it.
#[test]
fn behind_a_silent_content_filter_it_is_the_same_message() {
    let stamped = |id: &str, message_id: &str| {
        format!(
            "Nov 23 05:28:57 r postfix/gatepost[1]: {id}: correlation_id=order-7, message-id=<{message_id}>, from=<s@x>, nrcpt=1\n"
        )
    };
    let log = [
        "Nov 23 05:28:57 r postfix/smtpd[1]: AAAAA1: client=h[10.0.0.1]\n",
        &stamped("AAAAA1", "mail-1@x"),
        "Nov 23 05:28:57 r postfix/smtp[1]: AAAAA1: to=<a@y>, relay=f, dsn=2.0.0, status=sent (250 Ok)\n",
        "Nov 23 05:28:57 r postfix/smtpd[1]: BBBBB2: client=localhost[127.0.0.1]\n",
        &stamped("BBBBB2", "mail-1@x"),
        "Nov 23 05:28:58 r postfix/smtp[1]: BBBBB2: to=<a@y>, relay=h, dsn=2.0.0, status=sent (250 Ok 0102-bb)\n",
        // The client's own id stands on another message as well.
        "Nov 23 05:28:57 r postfix/smtpd[1]: CCCCC3: client=localhost[127.0.0.1]\n",
        &stamped("CCCCC3", "mail-2@x"),
    ]
    .concat();
    for query in ["AAAAA1", "BBBBB2", "0102-bb", "a@y", "<mail-1@x>"] {
        let journeys = trace(query, &log);
        let [journey] = &journeys[..] else { panic!("{query}: {journeys:#?}") };
        assert_eq!(journey.queue_ids, ["AAAAA1", "BBBBB2"], "{query}");
        assert_eq!(whats(&journey.recipients[0].stations), ["sent", "sent"], "{query}");
    }
    assert_eq!(trace("order-7", &log).len(), 2);
}

/// What gatepost did with a message, or one of its recipients, at its end.
#[test]
fn decisions_at_the_end_of_a_message_are_of_it() {
    let decided = |word: &str, to: &str| {
        format!(
            "2026-11-23T05:28:57.5Z gate postfix/gatepost[1]: decision={word}, check=suppression, mode=enforce, \
             rule=suppression-list, generation=1, from=<s@x>{to}, client=10.0.0.1, queue_id=AAAAA1, reply=(550 5.1.1 gone)\n"
        )
    };
    let log = [
        "Nov 23 05:28:57 r postfix/smtpd[1]: AAAAA1: client=h[10.0.0.1]\n",
        &decided("drop", ", to=<a@y>"),
        &decided("hold", ""),
        "Nov 23 05:28:57 r postfix/cleanup[1]: AAAAA1: milter-hold: END-OF-MESSAGE from h[10.0.0.1]: milter triggers HOLD \
         action; from=<s@x> to=<b@y> proto=ESMTP helo=<h>\n",
        "Nov 23 05:28:58 r postfix/smtp[1]: AAAAA1: to=<b@y>, relay=h, dsn=2.0.0, status=sent (250 Ok 0102-bb)\n",
    ]
    .concat();
    for query in ["AAAAA1", "s@x"] {
        let journeys = trace(query, &log);
        let [journey] = &journeys[..] else { panic!("{query}: {journeys:#?}") };
        assert_eq!(whats(&journey.stations), ["submitted", "hold"], "{query}");
        let [other, dropped] = &journey.recipients[..] else { panic!("{query}: {journey:#?}") };
        assert_eq!((dropped.address.as_str(), whats(&dropped.stations)), ("a@y", vec!["drop"]), "{query}");
        assert_eq!((other.address.as_str(), whats(&other.stations)), ("b@y", vec!["milter-hold", "sent"]), "{query}");
    }
    let journeys = trace("a@y", &log);
    assert_eq!(journeys[0].recipients.len(), 1, "{journeys:#?}");
    for word in ["bounce", "discard", "pass", "reject", "would-reject", "near-limit"] {
        let journeys = trace("s@x", &decided(word, ""));
        assert_eq!(whats(&journeys[0].stations), [word]);
    }
}

/// More than is kept: what is told is told whole.
#[test]
fn of_too_many_messages_those_that_are_told_are_whole() {
    let mut log = String::new();
    for n in 0..60_000 {
        let id = format!("A{n:09X}");
        log += &format!(
            "Nov 23 05:28:57 r postfix/smtpd[1]: {id}: client=h[10.0.0.1]\n\
             Nov 23 05:28:57 r postfix/qmgr[1]: {id}: from=<s@x>, size=364, nrcpt=1 (queue active)\n\
             Nov 23 05:28:58 r postfix/smtp[1]: {id}: to=<u{n}@y>, relay=h, dsn=2.0.0, status=sent (250 Ok 0102-{n:06})\n\
             Nov 23 05:28:58 r postfix/qmgr[1]: {id}: removed\n"
        );
    }
    let (search, journeys) = traced("s@x", &log);
    assert!(search.is_cut() && journeys.len() > 10_000, "{}", journeys.len());
    for journey in journeys {
        assert_eq!(whats(&journey.stations), ["submitted", "queued"], "{journey:#?}");
        assert_eq!(whats(&journey.recipients[0].stations), ["sent"], "{journey:#?}");
    }
}

/// `[logs]` may name both, and syslog write to both.
#[test]
fn a_line_in_a_file_and_in_the_journal_is_one() {
    let line = "postfix/smtp[7]: AAAAA1: to=<a@y>, relay=h, dsn=4.0.0, status=deferred (later)\n";
    let mut logs = Logs::default();
    let file = format!("Nov 23 05:28:57 r {line}Nov 23 05:28:57 r {line}");
    logs.add_stream("file", file.as_bytes()).expect("add");
    logs.add_stream("journal", format!("2026-11-23T05:28:57.123456+0000 r {line}").as_bytes()).expect("add");
    let mut search = Search::new(Query::new("a@y").expect("a query"), TimeZone::UTC);
    assert!(search.run(&logs).is_empty());
    assert_eq!(whats(&join(&search.found())[0].recipients[0].stations), ["deferred", "deferred"]);
}

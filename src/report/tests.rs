//! What is counted, whatever the order of the lines, and what is said where there is no room.

use super::*;
use jiff::Timestamp;
use proptest::prelude::*;

/// 2026-11-10 of UTC.
const DAY: Span = Span { since: 1_794_268_800, until: 1_794_355_200 };

fn settings() -> Settings {
    Settings { unheard_after: 6 * 3_600, top: 10, min_mail: 1, now: DAY.until, zone: TimeZone::UTC }
}

/// What a report says of texts of lines: each with the seconds since the begin of the day.
fn report_with(tables: Tables, lines: &[(i64, &str)], cut: usize) -> Report {
    let mut counters = [Counter::new(DAY, TimeZone::UTC), Counter::new(DAY, TimeZone::UTC)];
    for (n, (at, text)) in lines.iter().enumerate() {
        let time = Timestamp::from_second(DAY.since + at).expect("a time");
        let line = format!("{time} relay postfix/{text}\n");
        counters[usize::from(n >= cut)].take_all(&tables, line.as_bytes(), Timestamp::MAX);
    }
    let [mut all, other] = counters;
    all.merge(other);
    Report::of(all, tables, (1, Vec::new()), None, &settings())
}

fn report(lines: &[(i64, &str)]) -> Report {
    report_with(Tables::default(), lines, 0)
}

const SENT: &str = "smtp[1]: A1B2C3: to=<u@d.example>, relay=h, delay=1.5, dsn=2.0.0, status=sent (250 Ok 0102-aa)";
const DELIVERED: &str =
    "ses-events[1]: 0102-aa: to=<u@d.example>, relay=amazonses.com, dsn=2.0.0, status=delivered, delay=2500ms";
const AWAY: &str =
    "ses-events[1]: 0102-aa: to=<u@d.example>, relay=amazonses.com, status=bounced, bounce_type=Transient";
const GONE: &str =
    "ses-events[1]: 0102-aa: to=<u@d.example>, relay=amazonses.com, status=bounced, bounce_type=Permanent";

const HOUR: i64 = 3_600;
const NIGHT: i64 = 24 * HOUR;

/// Delivered, bounced and of how many, in the measures; unheard, waiting, undecided.
fn fates(lines: &[(i64, &str)]) -> ([u64; 4], [u64; 3]) {
    let report = report(lines);
    let of = |n: usize| (report.measures[n].count, report.measures[n].of.unwrap_or_default());
    let ((delivered, judged), (bounced, told)) = (of(0), of(1));
    let unheard = &report.unheard;
    ([delivered, judged, bounced, told], [unheard.recipients, unheard.waiting, unheard.undecided])
}

#[test]
fn each_recipient_has_one_fate() {
    const OTHER: &str = "ses-events[1]: 0102-aa: to=<final@d.example>, relay=amazonses.com, status=delivered";
    const OPENED: &str = "ses-events[1]: 0102-aa: to=<>, relay=amazonses.com, status=opened";
    const ACCEPTED: &str = "ses-events[1]: 0102-aa: to=<u@d.example>, relay=amazonses.com, status=accepted";
    for (lines, expected) in [
        (&[(0, SENT), (5, DELIVERED)][..], ([1, 1, 0, 1], [0, 0, 0])),
        (&[(0, SENT), (5, DELIVERED), (9, DELIVERED)], ([1, 1, 0, 1], [0, 0, 0])),
        // An out-of-office reply is no bounce, whenever the delivery was; a refusal later is one.
        (&[(0, SENT), (5, DELIVERED), (6, AWAY)], ([1, 1, 0, 1], [0, 0, 0])),
        (&[(-9, SENT), (-5, DELIVERED), (6, AWAY)], ([0, 0, 0, 0], [0, 0, 0])),
        (&[(0, SENT), (5, DELIVERED), (6, GONE)], ([0, 1, 1, 1], [0, 0, 0])),
        (&[(0, SENT), (6, AWAY)], ([0, 1, 1, 1], [0, 0, 0])),
        // Long ago, just now, and heard of only after the day or long after it.
        (&[(0, SENT)], ([0, 1, 0, 0], [1, 0, 0])),
        (&[(NIGHT - HOUR, SENT)], ([0, 0, 0, 0], [0, 1, 0])),
        (&[(0, SENT), (NIGHT, DELIVERED)], ([0, 0, 0, 0], [0, 0, 0])),
        (&[(0, SENT), (NIGHT + 100 * HOUR, DELIVERED)], ([0, 1, 0, 0], [1, 0, 0])),
        (&[(0, SENT), (1, ACCEPTED)], ([0, 0, 0, 0], [0, 0, 1])),
        // Another name for the recipient is heard of; an open names nobody.
        (&[(0, SENT), (1, OTHER)], ([1, 1, 0, 1], [0, 0, 0])),
        (&[(0, SENT), (1, OPENED)], ([0, 1, 0, 0], [1, 0, 0])),
    ] {
        assert_eq!(fates(lines), expected, "{lines:#?}");
        let reversed: Vec<_> = lines.iter().rev().copied().collect();
        assert_eq!(fates(&reversed), expected, "{reversed:#?}");
    }
}

#[test]
fn a_delay_is_from_submission_to_delivery() {
    for lines in [[(0, SENT), (3, DELIVERED)], [(0, DELIVERED), (3, SENT)], [(-3, SENT), (3, DELIVERED)]] {
        let delay = report(&lines).delay;
        assert!(delay.count == 1 && delay.p50_ms.is_some_and(|ms| (3_800..4_200).contains(&ms)), "{delay:?}");
    }
    assert_eq!(report(&[(0, DELIVERED)]).delay.count, 0);
    assert_eq!(report(&[(0, SENT), (NIGHT, DELIVERED)]).delay.count, 0);
}

/// A refusal of ours is Postfix's as well, and counts once.
#[test]
fn a_refusal_counts_once() {
    let theirs = "smtpd[1]: NOQUEUE: reject: RCPT from h[10.0.0.1]: 554 5.7.1 <a@b>: Sender address rejected: Not here; \
                  from=<a@b> to=<c@d> proto=ESMTP helo=<h>";
    let own = theirs.replace("Not here", "Domain not found");
    let ours = "gatepost[1]: decision=reject, check=senders, mode=enforce, rule=x:1, generation=1, from=<a@b>, to=<c@d>, \
                client=10.0.0.1, instance=1, reply=(554 5.7.1 Not here)";
    let refused = report(&[(0, theirs), (0, &own), (0, ours)]).refused;
    assert_eq!((refused.total, refused.gatepost, refused.postfix, refused.postfix_lines), (2, 1, 1, 2));
    let refused = report(&[(0, theirs)]).refused;
    assert_eq!((refused.total, refused.gatepost, refused.postfix), (1, 0, 1));
    let refused = report(&[(0, ours), (0, ours)]).refused;
    assert_eq!((refused.total, refused.gatepost, refused.postfix), (2, 2, 0));
}

/// More messages than are followed: the counts of lines hold, and the report says what does not.
#[test]
fn a_full_table_is_told() {
    let mut lines = Vec::new();
    for n in 0..2_000 {
        let id = format!("0102-{n:08x}");
        lines.push(SENT.replace("0102-aa", &id).replace("A1B2C3", &format!("A1B2C3{n:04}")));
        lines.push(DELIVERED.replace("0102-aa", &id));
    }
    let lines: Vec<(i64, &str)> = lines.iter().map(|line| (0, line.as_str())).collect();
    let shown = report_with(Tables::with_room(640), &lines, 1_000);
    assert_eq!((shown.sent.ses, shown.delivered), (2_000, 2_000));
    assert_eq!((shown.measures[0].count, shown.measures[0].of), (2_000, Some(2_000)));
    assert!(shown.notes.iter().any(|note| note.contains("a table was full")), "{:?}", shown.notes);
    let roomy = report(&lines);
    assert!(roomy.notes.is_empty() && roomy.delivered == 2_000, "{:?}", roomy.notes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn neither_order_nor_threads_change_a_count(seed: u64, cut in 0_usize..40) {
        let queued = "qmgr[1]: A1B2C3: from=<S@x>, size=700, nrcpt=2 (queue active)";
        let other = SENT.replace("u@d", "v@D").replace("0102-aa", "0102-bb");
        let idn = [SENT.replace("u@d", "w@b\u{fc}cher"), DELIVERED.replace("u@d", "w@xn--bcher-kva")];
        let deferred = "smtp[1]: A1B2C3: to=<u@d.example>, relay=none, delay=1, dsn=4.0.0, status=deferred (later)";
        let mut lines = vec![
            (10, "smtpd[1]: A1B2C3: client=h[10.0.0.1]"), (11, queued), (900, queued), (20, deferred), (30, deferred),
            (40, SENT), (40, &other), (50, DELIVERED), (51, DELIVERED), (52, AWAY), (-5, "smtpd[1]: A1: client=h[10.0.0.1]"),
            (60, "qmgr[1]: A1B2C3: removed"), (70, "qmgr[1]: D4E5F6: from=<x@y>, status=expired, returned to sender"),
            (80, "ses-events[1]: 0102-bb: to=<v@d.example>, relay=amazonses.com, status=complaint"), (81, "odd"),
            (90, &idn[0]),
            (92, &idn[1]),
        ];
        let expected = serde_json::to_string(&report(&lines)).expect("JSON");
        fastrand::Rng::with_seed(seed).shuffle(&mut lines);
        let got = serde_json::to_string(&report_with(Tables::default(), &lines, cut)).expect("JSON");
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn what_is_no_line_does_no_harm(lines: Vec<u8>, width in 0_usize..200) {
        let tables = Tables::default();
        let mut counter = Counter::new(DAY, TimeZone::UTC);
        counter.take_all(&tables, &lines, Timestamp::MAX);
        let report = Report::of(counter, tables, (1, Vec::new()), Some(Err("no".to_owned())), &settings());
        for style in [Style { width, ..Style::PLAIN }, Style { colour: false, blocks: true, width }] {
            let shown = text(&report, style);
            prop_assert!(shown.lines().all(|line| line.chars().count() <= width.clamp(40, 120)), "{}", shown);
        }
        prop_assert!(html(&report).ends_with("</html>\n"));
    }
}

//! The lines of Postfix as 3.7 wrote them, ours as our writers write them, and everything else.

use super::*;
use crate::lines::{DecisionLine, EventLine, MessageLine, Status, Suppressed, Word};
use jiff::Timestamp;
use jiff::tz::{TimeZone, offset};
use proptest::prelude::*;

const HEAD: &str = "Nov 23 05:28:57 relay postfix/smtp[12]: ";

fn entry(text: &str) -> Option<Entry<'_>> {
    Entry::parse(b"smtp", text.as_bytes())
}

fn at(stamp: &str, latest: &str) -> Option<String> {
    let (stamp, rest) = Stamp::parse(stamp.as_bytes())?;
    assert_eq!(rest, b"x");
    let latest: Timestamp = latest.parse().expect("a time");
    Some(stamp.resolve(latest, &TimeZone::fixed(offset(1)))?.to_string())
}

#[test]
fn the_head_of_a_line_in_its_styles() {
    for line in [
        "Nov 23 05:28:57 relay postfix/smtp[12]: text: more\n",
        "Nov  3 05:28:57 relay postfix/smtp[12]: text: more\r\n",
        "2026-11-23T03:20:58.123456+00:00 relay postfix/smtp[12]: text: more",
        "2026-11-23T03:20:58+0100 relay postfix/smtp: text: more",
    ] {
        let read = LogLine::parse(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
        let words = (read.host, read.ident, read.text);
        assert_eq!(words, (&b"relay"[..], &b"postfix/smtp"[..], &b"text: more"[..]), "{line}");
    }
    for line in [
        "",
        "\n",
        "-- Boot 12 --",
        "Nov 23 05:28:57",
        "Nov 23 05:28:57 relay",
        "Nov 23 05:28:57 relay a b: c",
        "Nox 23 05:28:57 relay a: b",
        "2026-13-23T03:20:58Z relay a: b",
        "     at line 5",
    ] {
        assert_eq!(LogLine::parse(line.as_bytes()), None, "{line}");
    }
}

#[test]
fn the_year_is_the_last_that_fits() {
    let some = |s: &str| Some(s.to_owned());
    assert_eq!(at("Nov 23 05:28:57 x", "2026-11-23T06:00:00Z"), some("2026-11-23T04:28:57Z"));
    assert_eq!(at("Dec 31 23:59:60 x", "2026-01-02T06:00:00Z"), some("2025-12-31T22:59:59Z"));
    assert_eq!(at("Jan  1 00:00:01 x", "2025-12-31T23:00:02Z"), some("2025-12-31T23:00:01Z"));
    assert_eq!(at("Feb 29 12:00:00 x", "2027-01-01T00:00:00Z"), some("2024-02-29T11:00:00Z"));
    assert_eq!(at("Feb 30 12:00:00 x", "2027-01-01T00:00:00Z"), None);
    assert_eq!(at("2026-11-23T03:20:58.5+02:00 x", "2000-01-01T00:00:00Z"), some("2026-11-23T01:20:58.5Z"));
}

#[test]
fn lines_of_postfix() {
    let id = &b"8045F2AB23"[..];
    let Some(Entry::Arrived(a)) =
        entry("8045F2AB23: client=localhost[127.0.0.1], sasl_method=PLAIN, sasl_username=app, orig_queue_id=AAAAA1")
    else {
        panic!()
    };
    assert_eq!((a.queue_id, a.client), (id, &b"localhost[127.0.0.1]"[..]));
    assert_eq!((a.sasl_username, a.before), (&b"app"[..], &b"AAAAA1"[..]));
    let Some(Entry::Arrived(a)) = entry("8045F2AB23: uid=0 from=<root> orig_id=4jXrn65x4Wz1SqGC") else { panic!() };
    assert_eq!((a.uid, a.from, a.before), (&b"0"[..], &b"root"[..], &b"4jXrn65x4Wz1SqGC"[..]));
    assert_eq!(entry("8045F2AB23: message-id=<a@b>"), Some(Entry::MessageId { queue_id: id, message_id: b"a@b" }));
    assert_eq!(
        entry("8045F2AB23: from=<Sender@Relay.example>, size=364, nrcpt=2 (queue active)"),
        Some(Entry::Queued { queue_id: id, from: b"Sender@Relay.example", size: b"364", nrcpt: b"2" })
    );
    assert_eq!(
        entry("8045F2AB23: from=<>, status=expired, returned to sender"),
        Some(Entry::GivenUp { queue_id: id, from: b"", status: b"expired, returned to sender" })
    );
    assert_eq!(entry("8045F2AB23: removed"), Some(Entry::Removed { queue_id: id }));
    assert_eq!(
        entry("8045F2AB23: sender non-delivery notification: 9145F2AB23"),
        Some(Entry::Notice { queue_id: id, kind: b"sender non-delivery notification", notice: b"9145F2AB23" })
    );
    for other in [
        "connect from a[1.2.3.4]",
        "warning: 8045F2AB23: odd",
        "8045F2AB23: skipped, still being delivered",
        "disconnect from h[1.2.3.4] ehlo=1 mail=1 quit=1 commands=3/5",
        "8045F2AB23:",
        "8045F2AB23: to=<a",
    ] {
        assert_eq!(entry(other), None, "{other}");
    }
}

#[test]
fn attempts_to_deliver() {
    let Some(Entry::Attempt(a)) = entry(
        "8045F2AB23: to=<\"a>, status=x\"@d>, orig_to=<root>, relay=h[10.0.0.1]:587, conn_use=2, delay=0.07, \
         delays=0.06/0.01/0/0, dsn=2.0.0, status=sent (250 Ok 0102019a11-22-000000)",
    ) else {
        panic!()
    };
    assert_eq!((a.to, a.orig_to, a.relay), (&b"\"a>, status=x\"@d"[..], &b"root"[..], &b"h[10.0.0.1]:587"[..]));
    assert_eq!((a.delay, a.dsn, a.status), (&b"0.07"[..], &b"2.0.0"[..], &b"sent"[..]));
    assert_eq!((a.ses_id(), a.queued_as()), (Some(&b"0102019a11-22-000000"[..]), None));
    let Some(Entry::Attempt(a)) = entry(
        "8045F2AB23: to=<a@d>, relay=none, delay=1, dsn=4.0.0, status=deferred (host H[ip] said: 454 a, b=c (in reply))",
    ) else {
        panic!()
    };
    assert_eq!((a.status, a.text), (&b"deferred"[..], &b"host H[ip] said: 454 a, b=c (in reply)"[..]));
    let Some(Entry::Attempt(a)) =
        entry("8045F2AB23: to=<a@d>, relay=x, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4jXrn65x4Wz1SqGC)")
    else {
        panic!()
    };
    assert_eq!((a.ses_id(), a.queued_as()), (None, Some(&b"4jXrn65x4Wz1SqGC"[..])));
}

#[test]
fn verdicts_of_postfix() {
    let Some(Entry::Verdict(v)) = entry(
        "NOQUEUE: reject: RCPT from h[1.2.3.4]: 554 5.7.1 <r@d>: Recipient address rejected: no; from=<s@d> to=<r@d> \
         proto=ESMTP helo=<h>",
    ) else {
        panic!()
    };
    assert_eq!((v.queue_id, v.word, v.from, v.to), (&b""[..], &b"reject"[..], &b"s@d"[..], &b"r@d"[..]));
    assert_eq!(v.text, b"RCPT from h[1.2.3.4]: 554 5.7.1 <r@d>: Recipient address rejected: no");
    let Some(Entry::Verdict(v)) =
        entry("8045F2AB23: milter-reject: END-OF-MESSAGE from h[1.2.3.4]: 5.7.1 text; from=<> to=<> proto=ESMTP")
    else {
        panic!()
    };
    assert_eq!((v.queue_id, v.word, v.from), (&b"8045F2AB23"[..], &b"milter-reject"[..], &b""[..]));
}

#[test]
fn our_line_of_a_message() {
    let text =
        "4ZabcD1Yxz1: correlation_id=0198c2, message-id=<m@x>, from=<info@example.com>, nrcpt=1, client=10.0.0.125";
    let Some(Entry::Stamped(s)) = Entry::parse(b"gatepost", text.as_bytes()) else { panic!() };
    assert_eq!((s.queue_id, s.correlation_id, s.message_id), (&b"4ZabcD1Yxz1"[..], &b"0198c2"[..], &b"m@x"[..]));
    assert_eq!((s.from, s.nrcpt, s.client), (&b"info@example.com"[..], &b"1"[..], &b"10.0.0.125"[..]));
}

#[test]
fn what_the_milter_writes_of_a_message_is_read_as_it_was() {
    let line = MessageLine {
        queue_id: "4ZabcD1Yxz1",
        correlation_id: "0198c2-x_y",
        message_id: b"<odd, from=<z>@x>",
        from: b"\"a, b\"@example.com",
        recipients: 12,
        client: "2001:db8::1",
    };
    let text = line.to_line().text;
    let Some(Entry::Stamped(s)) = Entry::parse(b"gatepost", text.as_bytes()) else { panic!("{text}") };
    assert_eq!((s.queue_id, s.correlation_id), (&b"4ZabcD1Yxz1"[..], &b"0198c2-x_y"[..]), "{text}");
    assert_eq!((s.nrcpt, s.client), (&b"12"[..], &b"2001:db8::1"[..]), "{text}");
    assert_eq!(s.from, b"\"a, b\"@example.com", "{text}");
}

fn read(text: &str) -> Entry<'_> {
    Entry::parse(b"ses-events", text.as_bytes()).expect("an event")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_no_line_does_no_harm(line: Vec<u8>, text in "[ -~]{0,60}", cut in 0_usize..60) {
        let _ = LogLine::parse(&line);
        for begin in ["", "8045F2AB23: ", "NOQUEUE: reject: ", "8045F2AB23: to=<", "A1234: to=<\"", "decision="] {
            for program in ["smtp", "ses-events", "gatepost"] {
                let mut bytes = format!("{begin}{text}").into_bytes();
                let _ = Entry::parse(program.as_bytes(), &bytes);
                bytes.extend(&line);
                bytes.truncate(cut);
                let _ = Entry::parse(program.as_bytes(), &bytes);
            }
            let bytes = [HEAD.as_bytes(), begin.as_bytes(), &line].concat();
            let _ = LogLine::parse(&bytes).and_then(|line| line.entry());
        }
    }

    #[test]
    fn our_event_lines_are_read_as_written(
        to in "[a-z\"(]{1,8}@[a-z]{1,5}",
        delay_ms: Option<u64>,
        texts in any::<[String; 2]>(),
        ids in any::<[bool; 3]>(),
    ) {
        let fields = EventLine {
            ses_id: "0109019c11aa-000000".into(),
            to: to.clone(),
            status: Status::Delivered,
            dsn: Some("2.0.0".into()),
            delay_ms,
            details: vec![("bounce_type", texts[0].clone())],
            suppressed: Some(Suppressed::Yes),
            queue_id: ids[0].then(|| "4ZabcD1Yxz1".into()),
            correlation_id: ids[1].then(|| "0198c2".into()),
            sent_by: ids[2].then(|| "relay-a.example.com".into()),
            text: Some(("response", texts[1].clone())),
        };
        let line = fields.to_line();
        let Entry::Event(event) = read(&line.text) else { panic!() };
        prop_assert_eq!(event.ses_id, b"0109019c11aa-000000");
        prop_assert_eq!(event.to, to.as_bytes());
        prop_assert_eq!((event.status, event.dsn, event.suppressed), (&b"delivered"[..], &b"2.0.0"[..], &b"yes"[..]));
        let delay = delay_ms.map(|ms| ms.to_string()).unwrap_or_default();
        prop_assert_eq!(event.delay_ms, delay.as_bytes());
        prop_assert_eq!(event.queue_id, if ids[0] { &b"4ZabcD1Yxz1"[..] } else { b"" });
        prop_assert_eq!(event.correlation_id, if ids[1] { &b"0198c2"[..] } else { b"" });
        prop_assert_eq!(event.sent_by, if ids[2] { &b"relay-a.example.com"[..] } else { b"" });
        let text = String::from_utf8_lossy(event.text).into_owned();
        let end = format!("({text})");
        prop_assert!(line.text.ends_with(&end) || text.is_empty(), "{}", line.text);
    }

    #[test]
    fn our_decision_lines_are_read_as_written(
        from in "[a-z]{0,8}@[a-z]{1,5}",
        to in proptest::option::of("[a-z]{1,8}@[a-z]{1,5}"),
        reply: String,
    ) {
        let line = DecisionLine {
            word: Word::Reject,
            check: "suppression",
            mode: "enforce",
            rule: &"policy.toml:12",
            generation: 3,
            from: from.as_bytes(),
            to: to.as_deref().map(str::as_bytes),
            client: b"10.0.0.1",
            sasl_username: b"app",
            instance: b"1.2.3.4",
            queue_id: b"4ZabcD1Yxz1",
            reply: &reply,
        }.to_line();
        let Some(Entry::Decided(read)) = Entry::parse(b"gatepost", line.text.as_bytes()) else { panic!() };
        prop_assert_eq!((read.word, read.check, read.rule), (&b"reject"[..], &b"suppression"[..], &b"policy.toml:12"[..]));
        prop_assert_eq!((read.from, read.to), (from.as_bytes(), to.as_deref().unwrap_or_default().as_bytes()));
        prop_assert_eq!((read.instance, read.queue_id), (&b"1.2.3.4"[..], &b"4ZabcD1Yxz1"[..]));
    }
}

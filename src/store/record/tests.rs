//! The laws of joining, what a record comes to, and the codec.

use super::*;
use crate::mail::Address;
use proptest::prelude::*;

fn address() -> Address {
    Address::parse("u@x.y").expect("address")
}

fn entry(reason: Reason, source: Origin, created: i64, expires: Option<i64>) -> Entry {
    let evidence = if created % 3 == 0 { String::new() } else { format!("550 {reason} {created}") };
    Entry { address: address(), spelling: None, reason, evidence, source, created, expires }
}

fn expiry() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![Just(None), (10..40_i64).prop_map(Some)]
}

fn part() -> impl Strategy<Value = Record> {
    let reasons =
        prop::sample::select(vec![Reason::Bounce, Reason::Complaint, Reason::GlobalList, Reason::MailboxFull]);
    prop_oneof![
        (0..20_000_i64).prop_map(Record::removed),
        (0..20_i64).prop_map(Record::taken_back),
        (0..20_000_i64, 0..20_i64, expiry()).prop_map(|(version, created, expires)| {
            Record::of_row(entry(Reason::Manual, Origin::Cli, created, expires), Stamp::word(version))
        }),
        (reasons, 0..20_i64, 0..20_i64, expiry(), any::<bool>()).prop_map(
            |(reason, mail_time, created, expires, echo)| {
                Record::of_row(entry(reason, Origin::Event, created, expires), Stamp::fact(mail_time, echo))
            }
        ),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    prop::collection::vec(part(), 0..6).prop_map(|parts| parts.into_iter().fold(Record::default(), Record::join))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn neither_order_nor_repetition_matters(a in record(), b in record(), c in record()) {
        let join = |a: &Record, b: &Record| a.clone().join(b.clone());
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &a), a.clone());
        prop_assert_eq!(join(&a, &Record::default()), a);
    }

    /// A relay keeps what a row can say. What it tells the others from that changes nothing more the second time.
    #[test]
    fn a_row_says_what_stands(a in record(), b in record()) {
        let row = a.settled();
        prop_assert_eq!(row.standing(), a.standing());
        prop_assert_eq!(row.removal(), a.removal());
        prop_assert_eq!(row.settled(), row.clone());
        let told = a.join(row);
        prop_assert_eq!(told.settled().join(told.clone()), told.clone());
        let more = told.join(b);
        let again = more.settled().join(more.clone());
        prop_assert_eq!(again.settled().join(again.clone()), again);
    }

    #[test]
    fn what_is_written_is_read(a in record()) {
        prop_assert_eq!(Record::decode(&address(), a.encode().as_bytes()), Ok(a));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0..200_usize, a in record()) {
        let _ = Record::decode(&address(), &bytes);
        let _ = Record::decode(&address(), &[b"1\n", bytes.as_slice()].concat());
        let text = a.encode();
        let _ = Record::decode(&address(), &text.as_bytes()[..cut.min(text.len())]);
    }
}

#[test]
fn an_operators_word_stands_over_what_was_known_until_then() {
    let bounce =
        |mail_time| Record::of_row(entry(Reason::Bounce, Origin::Event, 1, None), Stamp::fact(mail_time, false));
    let echo = Record::of_row(entry(Reason::Bounce, Origin::Event, 1, None), Stamp::fact(99, true));
    let added = Record::of_row(entry(Reason::Manual, Origin::Cli, 5, Some(30)), Stamp::word(12_000));
    let stands = |a: Record, b: &Record| a.join(b.clone()).standing().map(|(entry, _)| (entry.reason, entry.expires));
    let removed = Record::removed(10_500);
    assert_eq!(stands(bounce(10), &removed), None);
    assert_eq!(stands(bounce(11), &removed), Some((Reason::Bounce, None)));
    assert_eq!(stands(echo, &removed), None);
    assert_eq!(stands(added.clone(), &removed), Some((Reason::Manual, Some(30))));
    assert_eq!(stands(added.clone(), &Record::removed(12_000)), None);
    assert_eq!(stands(added.clone(), &bounce(12)), Some((Reason::Manual, Some(30))));
    assert_eq!(stands(added, &bounce(13)), Some((Reason::Manual, None)));
    let full = Record::of_row(entry(Reason::MailboxFull, Origin::Event, 5, Some(30)), Stamp::fact(5, false));
    assert_eq!(stands(full.clone(), &Record::taken_back(5)), None);
    assert_eq!(stands(full, &Record::taken_back(4)), Some((Reason::MailboxFull, Some(30))));
    assert_eq!(stands(bounce(3), &Record::taken_back(4)), Some((Reason::Bounce, None)));
}

#[test]
fn what_a_newer_gatepost_wrote_is_told_from_garbage() {
    let read = |text: &str| Record::decode(&address(), text.as_bytes());
    assert_eq!(read("2\nanything"), Err(Unreadable::Newer));
    assert_eq!(read(""), Err(Unreadable::Garbage));
    assert_eq!(read("1\nr\t9999999999999999"), Err(Unreadable::Garbage));
    assert_eq!(read("1\nr\t5\tx"), Err(Unreadable::Garbage));
    assert_eq!(read("1\ne\t5\t1\t3\t1\t\t"), Err(Unreadable::Garbage), "a field is missing");
    let odd = read("1\ne\t5\t1\t3\t1\t\t\ta\u{7}b").expect("a record");
    assert_eq!(odd.standing().map(|(entry, _)| entry.evidence.contains('\u{7}')), Some(false));
    assert_eq!(read("1"), Ok(Record::default()));
}

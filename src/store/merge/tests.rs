//! Stores that tell each other of one address, beside a store to which everything happens itself.

use super::*;
use crate::store::apply::tests::effect;
use crate::store::{Batch, Cause, OnExisting, Origin, Reason};
use proptest::prelude::*;
use tempfile::TempDir;

const NOW: i64 = 1_800_000_000;

fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let store = Store::open(&folder.path().join("gatepost.db")).expect("open");
    (folder, store)
}

fn address() -> Address {
    Address::parse("u@x.y").expect("address")
}

fn entry(reason: Reason, source: Origin, created: i64, expires: Option<i64>) -> Entry {
    Entry { address: address(), spelling: None, reason, evidence: String::new(), source, created, expires }
}

/// What happens at one relay.
#[derive(Clone, Debug)]
enum Happens {
    /// A bounce or a complaint of mail that was sent so long ago.
    Event(Reason, i64, Option<i64>, bool),
    Added(Option<i64>),
    Removed,
}

fn happens() -> impl Strategy<Value = Happens> {
    let ttl = prop::option::of(1_000..5_000_i64);
    let reason = prop::sample::select(vec![Reason::Bounce, Reason::Complaint]);
    prop_oneof![
        3 => (reason, 0..40_i64, ttl.clone(), prop::bool::weighted(0.2))
            .prop_map(|(reason, ago, ttl, echo)| Happens::Event(reason, ago, ttl, echo)),
        1 => ttl.prop_map(Happens::Added),
        1 => Just(Happens::Removed),
    ]
}

fn let_happen(store: &mut Store, n: usize, at: i64, happens: &Happens) {
    match happens {
        Happens::Event(reason, ago, ttl, echo) => {
            let entry = entry(*reason, Origin::Event, at, ttl.map(|ttl| at + ttl));
            let cause = Cause::Suppress { entry, mail_time: at - ago, echo: *echo };
            let effects = [effect(&n.to_string(), "bounce", "u@x.y", cause)];
            let (brake, written, late_until) = (None, None, None);
            let batch = Batch { effects: &effects, quarantine: &[], now: at, brake, written, late_until };
            store.apply(&batch).expect("apply");
        }
        Happens::Added(ttl) => {
            let entry = entry(Reason::Manual, Origin::Cli, at, ttl.map(|ttl| at + ttl));
            store.put(&[entry], OnExisting::Replace, at).expect("put");
        }
        Happens::Removed => drop(store.remove(&[address()], at).expect("remove")),
    }
}

/// Tells `to` what `from` knows.
fn tell(from: &Store, to: &mut Store, now: i64) -> Merged {
    let record = from.record("u@x.y").expect("record");
    to.merge(&[(address(), record)], Telling::Each, &[], now).expect("merge")
}

fn stands(store: &Store, now: i64) -> Option<Option<i64>> {
    let entry = store.get("u@x.y").expect("get").filter(|entry| entry.in_force(now));
    entry.map(|entry| entry.expires)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Relays that hear of each other at once come to what one relay would, to which all of it happens.
    #[test]
    fn what_is_joined_is_what_one_store_would_do(
        steps in prop::collection::vec((happens(), 0..2_usize, 1..20_i64), 1..12),
    ) {
        let ((_a, a), (_b, b), (_c, mut alone)) = (store(), store(), store());
        let mut relays = [a, b];
        let mut at = NOW;
        for (n, (what, relay, later)) in steps.iter().enumerate() {
            at += later;
            let_happen(&mut relays[*relay], n, at, what);
            let_happen(&mut alone, n, at, what);
            let [a, b] = &mut relays;
            let (from, to) = if *relay == 0 { (a, b) } else { (b, a) };
            tell(from, to, at);
            tell(to, from, at);
            prop_assert_eq!(stands(&relays[0], at), stands(&relays[1], at), "{:?}", what);
            prop_assert_eq!(stands(&relays[0], at), stands(&alone, at), "{:?}", what);
        }
    }

    /// Relays that were apart agree when they meet, and then have nothing more to tell.
    #[test]
    fn relays_that_were_apart_agree(
        steps in prop::collection::vec((happens(), 0..2_usize, 1..20_i64), 1..12),
    ) {
        let ((_a, a), (_b, b)) = (store(), store());
        let mut relays = [a, b];
        let mut at = NOW;
        for (n, (what, relay, later)) in steps.iter().enumerate() {
            at += later;
            let_happen(&mut relays[*relay], n, at, what);
        }
        let [a, b] = &mut relays;
        for _ in 0..2 {
            tell(a, b, at);
            tell(b, a, at);
        }
        prop_assert_eq!(stands(a, at), stands(b, at));
        let (ab, ba) = (tell(a, b, at), tell(b, a, at));
        prop_assert_eq!((ab.changed, ba.changed), (0, 0));
    }
}

#[test]
fn own_changes_are_told_once_and_those_of_the_fleet_are_not() {
    let (_folder, mut here) = store();
    let mark = here.mark().expect("mark");
    let other = Address::parse("other@x.y").expect("address");
    let_happen(&mut here, 0, NOW, &Happens::Removed);
    let_happen(&mut here, 1, NOW, &Happens::Added(None));
    here.merge(&[(other, Record::removed(NOW * 1000))], Telling::Each, &[("position", "1-1")], NOW).expect("merge");
    assert_eq!(here.noted("position").expect("noted").as_deref(), Some("1-1"));
    let own = here.own_changes(&mark, 100).expect("feed").expect("the mark is there");
    let record = here.record("u@x.y").expect("record");
    assert_eq!((own.changes, own.more), (vec![OwnChange::Of(address(), record)], false));
    let after = here.own_changes(&own.mark, 100).expect("feed").expect("the mark is there");
    assert_eq!(after.changes, []);
    let text = own.mark.to_string();
    assert_eq!(text.parse(), Ok(own.mark));
    let nowhere: Mark = "7 nowhere".parse().expect("mark");
    assert_eq!(here.own_changes(&nowhere, 100), Ok(None));
    here.tell_all(&[]).expect("tell");
    let after = here.own_changes(&after.mark, 100).expect("feed").expect("the mark is there");
    assert_eq!(after.changes, [], "what the fleet said is not told again");
}

#[test]
fn a_list_that_is_filled_is_as_one_that_was_joined() {
    let ((_a, mut filled), (_b, mut joined)) = (store(), store());
    let said: Vec<_> = (0..50_i64)
        .map(|n| {
            let address = Address::parse(&format!("u{n}@x.y")).expect("address");
            let entry = Entry { address: address.clone(), ..entry(Reason::Bounce, Origin::Event, NOW + n, None) };
            let fact = Record::of_row(entry, Stamp::fact(NOW + n, false));
            (address, if n % 3 == 0 { fact.join(Record::removed((NOW + 20) * 1000)) } else { fact })
        })
        .collect();
    let mark = filled.mark().expect("mark");
    let mut rest = said.clone().into_iter();
    assert_eq!(filled.fill(&mut rest, 30, NOW, &mark), Ok(Some(30)));
    assert_eq!(filled.fill(&mut rest, 100, NOW, &mark), Ok(Some(20)));
    filled.tell_all(&[]).expect("tell");
    let mut unread = said.clone().into_iter();
    assert_eq!(filled.fill(&mut unread, 100, NOW, &mark), Ok(None), "the list was changed");
    assert_eq!(unread.len(), said.len());
    assert_eq!(joined.merge(&said, Telling::Each, &[], NOW).expect("merge").changed, 50);
    for (address, _) in &said {
        assert_eq!(filled.record(address.as_str()), joined.record(address.as_str()), "{address:?}");
    }
    assert_eq!(filled.known_after("u4", 2), Ok(vec!["u40@x.y".to_owned(), "u41@x.y".to_owned()]));
}

//! What events do to the list, in every order in which they can come.

mod orders;

use super::*;
use crate::lines::Status;
use crate::mail::Address;
use crate::rules::{Rate, Ttl};
use crate::store::{Filter, OnExisting, Op, Quarantined};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;
const RULE: MailboxFull =
    MailboxFull { count: 3, within: Duration::from_secs(7 * 86_400), ttl: Ttl::For(Duration::from_secs(3 * 86_400)) };

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("gatepost.db");
    (folder, path)
}

fn address(text: &str) -> Address {
    Address::parse(text).expect(text)
}

fn entry(to: &str, reason: Reason, created: i64, expires: Option<i64>) -> Entry {
    Entry {
        address: address(to),
        spelling: None,
        reason,
        evidence: format!("550 {reason}"),
        source: Origin::Event,
        created,
        expires,
    }
}

pub(in crate::store) fn effect(message: &str, kind: &str, to: &str, cause: Cause) -> Effect {
    let line = EventLine {
        ses_id: message.into(),
        to: to.into(),
        status: if kind == "delivery" { Status::Delivered } else { Status::Bounced },
        dsn: None,
        delay_ms: None,
        details: Vec::new(),
        suppressed: None,
        queue_id: None,
        correlation_id: None,
        sent_by: None,
        text: None,
    };
    Effect { seen: SeenKey::new(message, &[kind, to]), cause, line }
}

/// A permanent bounce of a mail that was sent at `at`.
fn bounce(message: &str, to: &str, at: i64) -> Effect {
    let entry = entry(to, Reason::Bounce, at, None);
    effect(message, "bounce/permanent", to, Cause::Suppress { entry, mail_time: at, echo: false })
}

fn echo(message: &str, to: &str, at: i64) -> Effect {
    let Effect { seen, cause, line } = bounce(message, to, at);
    let Cause::Suppress { entry, mail_time, .. } = cause else { unreachable!() };
    Effect { seen, line, cause: Cause::Suppress { entry, mail_time, echo: true } }
}

fn full(message: &str, to: &str, at: i64) -> Effect {
    let entry = entry(to, Reason::MailboxFull, at, Some(at + 3 * DAY));
    let delivery = SeenKey::new(message, &["delivery", to]);
    effect(message, "bounce/other", to, Cause::Full { entry, mail_time: at, delivery, rule: RULE })
}

fn delivered(message: &str, to: &str) -> Effect {
    effect(message, "delivery", to, Cause::Delivered { address: address(to) })
}

fn batch(effects: &[Effect]) -> Batch<'_> {
    Batch { effects, quarantine: &[], now: NOW, brake: None, written: None, late_until: None }
}

fn apply(store: &mut Store, effects: &[Effect]) -> Applied {
    store.apply(&batch(effects)).expect("apply")
}

/// The word after `suppressed=` of each line in the outbox.
fn outcomes(store: &Store) -> Vec<String> {
    let lines = store.outbox(0, 1_000_000).expect("outbox");
    let word = |text: &str| text.split("suppressed=").nth(1).map_or_else(String::new, |w| w.to_owned());
    lines.iter().map(|w| word(&w.line.text)).collect()
}

fn get(store: &Store, to: &str) -> Option<Entry> {
    store.get(to).expect("get")
}

#[test]
fn an_event_counts_once_and_says_what_it_did() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let first = bounce("m1", "a@example.com", NOW - 9);
    let twice =
        [first.clone(), first.clone(), bounce("m2", "a@example.com", NOW - 5), delivered("m3", "b@example.com")];
    let applied = apply(&mut store, &twice);
    assert_eq!((applied.added, applied.renewed, applied.duplicates, applied.lines), (1, 0, 1, 3));
    assert_eq!(apply(&mut store, &[first]), Applied { duplicates: 1, ..Applied::default() });
    assert_eq!(outcomes(&store), ["yes", "yes", ""]);
    let stands = get(&store, "a@example.com").expect("entry");
    assert_eq!((stands.created, stands.evidence.as_str()), (NOW - 9, "550 bounce"));
}

#[test]
fn the_change_feed_tells_what_events_did() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let mark = store.mark().expect("mark");
    let fulls = [full("1", "a@x.y", NOW - 3), full("2", "a@x.y", NOW - 2), full("3", "a@x.y", NOW - 1)];
    apply(&mut store, &fulls);
    apply(&mut store, &[full("4", "a@x.y", NOW), delivered("4", "a@x.y"), delivered("2", "a@x.y")]);
    let mut seen = Vec::new();
    assert_eq!(store.changes(&mark, |c| seen.push((c.op, c.expires.map(|at| at - 3 * DAY - NOW)))), Ok(true));
    seen.retain(|(op, _)| *op != Op::Report);
    let expected = [(Op::Add, Some(-1)), (Op::Update, Some(0)), (Op::Update, Some(-1)), (Op::Remove, None)];
    assert_eq!(seen, expected);
    assert_eq!(get(&store, "a@x.y"), None);
}

#[test]
fn a_full_mailbox_counts_in_its_window_unless_the_mail_was_delivered() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let day = |n: i64| NOW - 20 * DAY + n * DAY;
    // two and two, too far apart
    let apart = [0, 1, 9, 10].map(|n| full(&format!("m{n}"), "a@x.y", day(n)));
    apply(&mut store, &apart);
    assert_eq!(get(&store, "a@x.y"), None);
    // the one in between makes three within seven days, which have expired by now
    apply(&mut store, &[full("m7", "a@x.y", day(7))]);
    assert_eq!(get(&store, "a@x.y"), None);
    assert_eq!(outcomes(&store), ["no"; 5]);
    let recent = [delivered("n1", "a@x.y"), full("n1", "a@x.y", NOW - 3), full("n2", "a@x.y", NOW - 2)];
    let applied = apply(&mut store, &recent);
    assert_eq!((applied.added, applied.taken_back), (0, 0));
    let applied = apply(&mut store, &[full("n3", "a@x.y", NOW - 1), full("n4", "a@x.y", NOW - 5)]);
    assert_eq!((applied.added, applied.renewed), (1, 0));
    assert_eq!(get(&store, "a@x.y").map(|e| e.expires), Some(Some(NOW - 1 + 3 * DAY)));
    let applied = apply(&mut store, &[delivered("n4", "a@x.y")]);
    assert_eq!((applied.taken_back, get(&store, "a@x.y")), (1, None));
}

#[test]
fn a_bounce_is_more_than_a_full_mailbox_and_a_delivery_takes_only_that_back() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    apply(&mut store, &["1", "2", "3"].map(|m| full(m, "a@x.y", NOW - 60)));
    let applied = apply(&mut store, &[bounce("4", "a@x.y", NOW), delivered("1", "a@x.y")]);
    assert_eq!((applied.renewed, applied.taken_back), (1, 0));
    let stands = get(&store, "a@x.y").expect("entry");
    assert_eq!((stands.reason, stands.expires, stands.created), (Reason::Bounce, None, NOW - 60));
    assert_eq!(stands.evidence, "550 bounce");
    apply(&mut store, &["5", "6", "7"].map(|m| full(m, "a@x.y", NOW)));
    assert_eq!(get(&store, "a@x.y"), Some(stands));
    let by_hand = Entry { source: Origin::Cli, ..entry("b@x.y", Reason::MailboxFull, NOW, None) };
    store.put(std::slice::from_ref(&by_hand), OnExisting::Replace, NOW).expect("put");
    apply(&mut store, &[full("8", "b@x.y", NOW), delivered("8", "b@x.y")]);
    assert_eq!(get(&store, "b@x.y"), Some(by_hand));
}

#[test]
fn a_global_list_or_an_echo_prolongs_nothing() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let global = |m: &str, at: i64| {
        let entry = entry("a@x.y", Reason::GlobalList, at, Some(at + 14 * DAY));
        effect(m, "bounce/permanent", "a@x.y", Cause::Suppress { entry, mail_time: at, echo: false })
    };
    apply(&mut store, &[global("1", NOW - DAY), global("2", NOW), echo("3", "a@x.y", NOW)]);
    let stands = get(&store, "a@x.y").expect("entry");
    assert_eq!((stands.reason, stands.expires), (Reason::GlobalList, Some(NOW + 13 * DAY)));
    assert_eq!(outcomes(&store), ["yes"; 3]);
    let later = Batch { now: NOW + 13 * DAY, ..batch(&[]) };
    let fresh = [echo("4", "a@x.y", NOW + 13 * DAY)];
    let applied = store.apply(&Batch { effects: &fresh, ..later }).expect("apply");
    assert_eq!(applied.added, 1, "what has expired is unknown");
    assert_eq!(get(&store, "a@x.y").map(|e| (e.reason, e.created)), Some((Reason::Bounce, NOW + 13 * DAY)));
}

#[test]
fn what_has_expired_before_it_came_is_not_made() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let old = entry("a@x.y", Reason::GlobalList, NOW - 20 * DAY, Some(NOW));
    apply(&mut store, &[effect("1", "b", "a@x.y", Cause::Suppress { entry: old, mail_time: NOW, echo: false })]);
    assert_eq!((get(&store, "a@x.y"), outcomes(&store)), (None, vec!["no".to_owned()]));
}

#[test]
fn an_operators_removal_wins_over_older_mail_and_over_every_echo() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    store.remove(&[address("a@example.com")], NOW - 60).expect("remove");
    let of_org = Filter { domain: Some("example.org".into()), ..Filter::default() };
    store.remove_matching(&of_org, NOW - 60).expect("remove");
    for to in ["a@example.com", "a@example.org"] {
        let id = |m: &str| format!("{m}{to}");
        let old = [bounce(&id("1"), to, NOW - 60), echo(&id("2"), to, NOW), bounce(&id("3"), to, NOW - 61)];
        let applied = apply(&mut store, &old);
        assert_eq!((applied.added, applied.removed, get(&store, to)), (0, 3, None));
        // reports about mail from before the removal are no longer counted
        apply(&mut store, &["4", "5"].map(|m| full(&id(m), to, NOW - 70)));
        apply(&mut store, &["6", "7"].map(|m| full(&id(m), to, NOW - 50)));
        assert_eq!(get(&store, to), None);
        assert_eq!(apply(&mut store, &[bounce(&id("8"), to, NOW - 59)]).added, 1);
        assert_eq!(apply(&mut store, &[bounce(&id("9"), to, NOW - 80)]).removed, 0, "it stands already");
    }
    let said = outcomes(&store);
    assert_eq!(said[..3], ["removed"; 3]);
    assert_eq!(said[3..9], ["no", "no", "no", "no", "yes", "yes"]);
}

fn brake(text: &str) -> Option<Rate> {
    Some(text.parse().expect("rate"))
}

#[test]
fn the_brake_records_and_stays_on_until_somebody_decides() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let effects: Vec<_> = (0..5).map(|n| bounce(&format!("m{n}"), &format!("u{n}@x.y"), NOW)).collect();
    let braked = Batch { brake: brake("3/h"), ..batch(&effects) };
    let applied = store.apply(&braked).expect("apply");
    assert_eq!((applied.added, applied.braked, applied.brake_on), (3, 2, true));
    assert_eq!(outcomes(&store), ["yes", "yes", "yes", "braked", "braked"]);
    // a day later it is on still; what stands already is renewed, what is recorded is not recorded again
    let more = [bounce("n1", "u1@x.y", NOW), bounce("n4", "u4@x.y", NOW), bounce("n9", "u9@x.y", NOW)];
    let next_day = Batch { effects: &more, now: NOW + DAY, ..braked };
    let applied = store.apply(&next_day).expect("apply");
    assert_eq!((applied.added, applied.braked, applied.brake_on), (0, 1, true));
    let state = store.brake().expect("brake");
    assert_eq!((state.since, state.held), (Some(NOW), 3));
    assert_eq!(store.held_entry("u9@x.y").expect("held").map(|e| e.created), Some(NOW));
    // an operator's word about one of them stands in its place
    store.remove(&[address("u9@x.y")], NOW + DAY).expect("remove");
    let mark = store.mark().expect("mark");
    assert_eq!(store.enforce_held(NOW + DAY), Ok(2));
    let mut told = 0;
    store.changes(&mark, |c| told += u32::from(c.op == Op::Add)).expect("changes");
    assert_eq!((told, store.brake().expect("brake")), (2, crate::store::BrakeState::default()));
    assert!(get(&store, "u4@x.y").is_some() && get(&store, "u9@x.y").is_none());
    let again: Vec<_> = (10..12).map(|n| bounce(&format!("m{n}"), &format!("u{n}@x.y"), NOW)).collect();
    let after = Batch { effects: &again, ..next_day };
    assert_eq!(store.apply(&after).expect("apply").added, 2, "the count begins anew");
}

#[test]
fn what_is_discarded_does_not_come_back_by_an_older_event() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let effects: Vec<_> = (0..4).map(|n| bounce(&format!("m{n}"), &format!("u{n}@x.y"), NOW)).collect();
    store.apply(&Batch { brake: brake("1/d"), ..batch(&effects) }).expect("apply");
    assert_eq!(store.discard_held(NOW + 1), Ok(3));
    let applied = apply(&mut store, &[bounce("n1", "u1@x.y", NOW + 1), bounce("n2", "u2@x.y", NOW + 2)]);
    assert_eq!((applied.removed, applied.added), (1, 1));
    // a full mailbox that the brake recorded is taken back as well
    let fulls = ["1", "2", "3"].map(|m| full(m, "f@x.y", NOW));
    store
        .apply(&Batch { brake: brake("1/d"), ..batch(&[bounce("o", "o@x.y", NOW), fulls[0].clone()]) })
        .expect("apply");
    store.apply(&Batch { brake: brake("1/d"), ..batch(&fulls) }).expect("apply");
    assert_eq!(store.brake().expect("brake").held, 1);
    assert_eq!(apply(&mut store, &[delivered("2", "f@x.y")]).taken_back, 1);
    assert_eq!(store.brake().expect("brake").held, 0);
}

#[test]
fn the_brake_grants_its_rate_whatever_the_clock_does() {
    let rate = brake("3600/h burst 10").expect("rate");
    let mut meta = Meta::load(&rusqlite_memory()).unwrap_or_else(|_| panic!("meta"));
    assert!((0..10).all(|_| meta.grants(rate, NOW)));
    assert!((1..50).all(|s| meta.grants(rate, NOW + s)));
    let mut back = meta;
    assert!(!meta.grants(rate, NOW + 49) && meta.is_on());
    assert!(!back.grants(rate, NOW - DAY), "set back, it waits for a burst at most");
    let mut idle = Meta::load(&rusqlite_memory()).unwrap_or_else(|_| panic!("meta"));
    assert!(idle.grants(brake("1/d burst 4000").expect("rate"), i64::MAX / 1_000_000_000));
}

fn rusqlite_memory() -> Connection {
    let db = Connection::open_in_memory().expect("memory");
    db.execute_batch("CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER)").expect("table");
    db
}

#[test]
fn the_numbers_of_lines_never_come_twice() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    apply(&mut store, &[delivered("1", "a@x.y"), delivered("2", "a@x.y")]);
    let lines = store.outbox(0, 10).expect("outbox");
    assert_eq!(lines.iter().map(|w| w.id).collect::<Vec<_>>(), [1, 2]);
    let backlog = store.backlog().expect("backlog");
    assert_eq!((backlog.lines, backlog.oldest), (2, Some(NOW)));
    store.forget_written(2).expect("forget");
    assert_eq!(store.backlog().expect("backlog"), crate::store::Backlog::default());
    drop(store);
    let mut store = Store::open(&path).expect("open");
    let third = [delivered("3", "a@x.y")];
    store.apply(&Batch { written: Some(7), ..batch(&third) }).expect("apply");
    assert_eq!(store.outbox(0, 10).expect("outbox").len(), 1);
    let fourth = [bounce("4", "a@x.y", NOW)];
    store.apply(&Batch { written: Some(3), ..batch(&fourth) }).expect("apply");
    let lines = store.outbox(0, 10).expect("outbox");
    assert_eq!(lines.iter().map(|w| w.id).collect::<Vec<_>>(), [4], "what is written has left");
    assert_eq!(lines, Reader::open(&path).expect("reader").outbox(3, 1).expect("outbox"));
}

#[test]
fn the_quarantine_keeps_a_body_once_and_cuts_what_is_too_long() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let body = |body: Vec<u8>| Quarantined { body, why: "no\nJSON".into(), source: "queue".into() };
    let long = vec![b'x'; crate::store::MAX_QUARANTINED_BYTES + 1];
    let bodies = [body(b"{".to_vec()), body(long), body(b"{".to_vec())];
    store.apply(&Batch { quarantine: &bodies, ..batch(&[]) }).expect("apply");
    let mut kept = Vec::new();
    let each = |k: crate::store::Kept| -> Result<(), StoreError> {
        kept.push((k.id, k.at, k.what.body.len(), k.cut, k.what.why));
        Ok(())
    };
    store.quarantine(0, each).expect("quarantine");
    let why = "no JSON".to_owned();
    assert_eq!(kept, [(1, NOW, 1, false, why.clone()), (2, NOW, 1 << 20, true, why)]);
    assert_eq!((store.release_quarantined(2), store.release_quarantined(2)), (Ok(true), Ok(false)));
    store.apply(&Batch { quarantine: &[body(b"[".to_vec())], ..batch(&[]) }).expect("apply");
    let mut last = None;
    let each = |k: crate::store::Kept| -> Result<(), StoreError> {
        last = Some(k);
        Ok(())
    };
    store.quarantine(1, each).expect("quarantine");
    let last = last.expect("the third");
    assert!(last.id > 2, "a number never comes twice");
    assert_eq!(store.quarantined_body(last.id), Ok(Some(last)));
    store.purge(NOW + 30 * DAY).expect("purge");
    assert_eq!(store.quarantined(), Ok(0));
}

#[test]
fn what_was_seen_is_forgotten_by_time_and_number() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let rows = |store: &Store| -> i64 {
        store.db.query_row("SELECT count(*) FROM seen", [], |row| row.get(0)).expect("count")
    };
    apply(&mut store, &[delivered("1", "a@x.y"), delivered("2", "a@x.y")]);
    store.purge(NOW + 30 * DAY - 1).expect("purge");
    assert_eq!(rows(&store), 2);
    // a batch clears away as much as it can have added, also where nobody purges
    let later = [delivered("3", "a@x.y")];
    store.apply(&Batch { now: NOW + 30 * DAY, ..batch(&later) }).expect("apply");
    assert_eq!(rows(&store), 1);
    store.db.execute("INSERT INTO seen (id, key, at) VALUES (5000002, x'00', ?1)", [NOW + 30 * DAY]).expect("row");
    let another = [delivered("4", "a@x.y")];
    store.apply(&Batch { now: NOW + 30 * DAY, ..batch(&another) }).expect("apply");
    assert_eq!(rows(&store), 2, "the oldest went");
    let sql = "SELECT count(*) FROM soft";
    apply(&mut store, &[full("5", "a@x.y", NOW)]);
    store.purge(NOW + 36 * DAY).expect("purge");
    assert_eq!(store.db.query_row(sql, [], |row| row.get::<_, i64>(0)), Ok(1));
    store.purge(NOW + 37 * DAY).expect("purge");
    assert_eq!(store.db.query_row(sql, [], |row| row.get::<_, i64>(0)), Ok(0));
}

#[test]
fn a_database_from_before_the_events_is_brought_up_in_place() {
    let (_folder, path) = folder();
    std::fs::write(&path, "").expect("file");
    let db = Connection::open(&path).expect("open");
    db.execute_batch(crate::store::schema::FIRST_SCHEMA).expect("schema");
    db.execute_batch("PRAGMA application_id = 1734440037; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;")
        .expect("id");
    db.execute_batch("INSERT INTO entry (address, created, reason, source) VALUES ('a@x.y', 1, 1, 1)").expect("entry");
    drop(db);
    let reader = Reader::open(&path).expect("reader");
    assert_eq!(reader.brake(), Ok(crate::store::BrakeState::default()));
    assert_eq!(
        (reader.quarantined(), reader.outbox(0, 9), reader.held_entry("a@x.y")),
        (Ok(0), Ok(Vec::new()), Ok(None))
    );
    let mut store = Store::open(&path).expect("open");
    assert!(get(&store, "a@x.y").is_some());
    apply(&mut store, &[bounce("1", "b@x.y", NOW)]);
    assert_eq!(reader.outbox(0, 9).map(|lines| lines.len()), Ok(1), "a reader that was there before sees it");
}

//! Relays that share their events: each counts once, by whichever relay reads it, its line tells which relay sent the
//! mail, and the store's troubles lose none.

use crate::aws::{Aws, add_section};
use crate::gatepost::{BINARY, Daemon, Home, OPEN, both};
use crate::ingest::{bounce, bounce_of, delivery};
use crate::proxy::{self, Proxy, Way};
use crate::queue::{DRAINED, Queue, Sample, Scene, Settings, aws, configure, quick};
use crate::valkey::{FORGETFUL, Valkey};
use crate::wait;
use gatepost::events::{Settings as Reading, digest};
use gatepost::rules::SuppressionRules;
use gatepost::store::SeenKey;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The sections of a relay of the fleet, whose store is at this port.
fn fleet(port: u16, name: &str) -> String {
    format!("[suppression]\nstore = \"redis://127.0.0.1:{port}/0\"\n[fleet]\nname = \"{name}\"\n")
}

/// Two relays, `a` and `b`, that follow one stand-in for SQS and share one store, by a way that can be long.
struct Two {
    store: Valkey,
    way: Proxy,
    scene: Scene,
}

impl Two {
    fn new(settings: Settings) -> Self {
        let (store, scene) = (Valkey::start(FORGETFUL), Scene::of(settings, Sample::BOUNCES, 2));
        let way = Proxy::to(store.port());
        for (home, name) in scene.homes.iter().zip(["a", "b"]) {
            configure(home, &scene.queue, &fleet(way.port(), name));
        }
        Self { store, way, scene }
    }

    fn start(&self, nth: usize) -> Daemon {
        self.scene.start_in(&self.scene.homes[nth], &[])
    }

    fn sum(&self, metric: &str) -> u64 {
        self.scene.homes.iter().map(|home| home.metric(metric) as u64).sum()
    }
}

const LINES: &str = "gatepost_events_lines_total";
const ADDED: &str = "gatepost_events_entries_added_total";
const DUPLICATES: &str = "gatepost_events_duplicates_total";
const ELSEWHERE: &str = "gatepost_events_elsewhere_total";
const UNASKED: &str = "gatepost_events_unasked_total";
const UNMARKED: &str = "gatepost_events_unmarked_total";
const AWAY: &str = "gatepost_events_fleet_away";

/// The keys of what an event does.
fn keys(body: &str) -> Vec<Vec<u8>> {
    let rules = SuppressionRules::default();
    let settings = Reading { rules: &rules, accounts: &[], correlation_header: "X", now: 1_800_000_000 };
    let name = |seen: SeenKey| [b"{gatepost}:seen:", seen.as_bytes()].concat();
    digest(body.as_bytes(), &settings).effects.iter().map(|effect| name(effect.seen)).collect()
}

/// What the store says to a command whose words are bytes.
fn say<T: redis::FromRedisValue>(store: &Valkey, words: &[&[u8]]) -> T {
    let mut connection = redis::Client::open(store.url()).unwrap().get_connection().unwrap();
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| {
        command.arg(*word);
    });
    command.query(&mut connection).unwrap()
}

/// Has relay `c` claim an event for so long.
fn claim(store: &Valkey, body: &str, milliseconds: &str) {
    for key in keys(body) {
        let () = say(store, &[b"SET", &key, b"by c", b"PX", milliseconds.as_bytes()]);
    }
}

/// SES's events in one queue of moto's, each twice, under the eyes of two relays.
#[test]
fn an_event_that_is_delivered_twice_counts_once() {
    const EVENTS: usize = 40;
    let (store, mut aws) = (Valkey::start(FORGETFUL), Aws::start(&[]));
    let environment: Vec<_> = aws.environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
    let environment: Vec<_> = environment.iter().map(String::as_str).collect();
    let homes = ["a", "b"].map(|name| {
        let home = Home::alone("", OPEN);
        add_section(&home, &aws.output("GatepostToml"));
        add_section(&home, &fleet(store.port(), name));
        home
    });
    let daemons = homes.each_ref().map(|home| home.start_by("env", &environment));
    let url = aws.output("QueueUrl");
    let account = aws.told()["account"].as_str().unwrap().to_owned();
    for n in (0..EVENTS).chain(0..EVENTS) {
        let mut event = bounce(&format!("gone{n}@example.net"));
        event["mail"]["sendingAccountId"] = account.as_str().into();
        aws.call("sqs.send_message", &json!({"QueueUrl": url, "MessageBody": event.to_string()}));
    }
    wait::until("the queue to be empty", 3 * wait::LONG, || (aws.depth("QueueUrl") == (0, 0)).then_some(()));
    counted_once(&homes, EVENTS as u64);
    drop(daemons);
}

/// Events that were each read twice were counted once. Where this machine let the store's answer come too late, one may
/// have counted twice, and that is told.
fn counted_once(homes: &[Home], events: u64) {
    let sum = |metric: &str| homes.iter().map(|home| home.metric(metric) as u64).sum::<u64>();
    wait::until("two readings of each", wait::LONG, || (sum(LINES) + sum(DUPLICATES) >= 2 * events).then_some(()));
    wait::until("the lines", wait::LONG, || (bounced(homes).values().sum::<u64>() == sum(LINES)).then_some(()));
    assert_eq!(bounced(homes).len() as u64, events);
    let (lines, added, alone) = (sum(LINES), sum(ADDED), sum(UNASKED) + sum(UNMARKED));
    println!("{events} events: {lines} lines, {added} entries; {alone} without the store");
    assert!(added == events || alone > 0, "{added} entries");
    assert!(lines - events <= alone && alone < events, "{lines} lines of {events} events, {alone} without the store");
}

/// How often each address has bounced, by all mail logs.
fn bounced(homes: &[Home]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in homes.iter().map(Home::log).collect::<String>().lines().filter(|line| line.contains("status=bounced")) {
        let to = line.split_once("to=<").and_then(|(_, rest)| rest.split_once('>')).expect("a recipient").0;
        *counts.entry(to.to_owned()).or_default() += 1;
    }
    counts
}

/// Two queues with the same events: each relay reads all of them, with the store this far away.
fn both_read(way: Duration) {
    const EVENTS: u64 = 300;
    let two = Two::new(Settings::default());
    two.way.set(Way::Open(way));
    let other = Queue::start(Settings::default()).unwrap();
    configure(&two.scene.homes[1], &other, &fleet(two.way.port(), "b"));
    let mut command = Command::new(BINARY);
    command.arg("--config").arg(two.scene.homes[1].config()).arg("serve");
    aws(&mut command, &other);
    let (_a, b) = (two.start(0), Daemon::of(command));
    b.says(&[" is ready."]);
    for n in 0..EVENTS {
        other.send(&two.scene.watch.sample.body(n));
        two.scene.send(n..n + 1);
    }
    wait::until("the other queue to be empty", 2 * wait::LONG, || (other.left() == 0).then_some(()));
    two.scene.drained();
    counted_once(&two.scene.homes, EVENTS);
    two.scene.nothing_early();
    let seen: Vec<Vec<u8>> = say(&two.store, &[b"KEYS", b"{gatepost}:seen:*"]);
    assert_eq!(seen.len() as u64, EVENTS, "one key an event");
    let key = &keys(&two.scene.watch.sample.body(7))[0];
    let (value, left): (String, u64) = (say(&two.store, &[b"GET", key]), say(&two.store, &[b"TTL", key]));
    assert!(value == "1" && (345_000..=345_600).contains(&left), "{value}, {left} s");
}

#[test]
fn what_both_relays_read_is_counted_by_one() {
    both_read(Duration::ZERO);
}

#[test]
fn a_store_that_is_slow_is_waited_for() {
    both_read(Duration::from_millis(40));
}

/// A mail of a relay's, as Postfix and the milter write of it in its log.
fn mail(home: &Home, ses_id: &str, queue_id: &str, correlation_id: Option<&str>) {
    let now = jiff::Timestamp::now();
    let mut log = OpenOptions::new().append(true).create(true).open(home.path("postfix.log")).unwrap();
    if let Some(id) = correlation_id {
        let stamped = format!("{queue_id}: correlation_id={id}, message-id=<m@x>, from=<info@example.com>, nrcpt=1");
        writeln!(log, "{now} relay postfix/gatepost[1]: {stamped}").unwrap();
    }
    let sent =
        format!("to=<gone@example.net>, relay=ses[10.0.0.9]:587, delay=1, dsn=2.0.0, status=sent (250 Ok {ses_id})");
    writeln!(log, "{now} relay postfix/smtp[2]: {queue_id}: {sent}").unwrap();
}

/// A notification of an identity: without tags.
fn notification(ses_id: &str) -> Value {
    let mut event = bounce_of("gone@example.net", ses_id);
    let kind = event.as_object_mut().unwrap().remove("eventType").unwrap();
    event["notificationType"] = kind;
    event["mail"].as_object_mut().unwrap().remove("tags");
    event
}

/// Relays whose events come by spools of their own, and whose mail logs are followed.
fn spooling(store: &Valkey) -> [Home; 2] {
    ["a", "b"].map(|name| {
        let home = Home::alone("", OPEN);
        fs::create_dir(home.path("spool")).unwrap();
        let (spool, log) = (home.path("spool"), home.path("postfix.log"));
        add_section(&home, &format!("[events]\nsource = \"spool\"\nspool_dir = \"{}\"\n", spool.display()));
        add_section(&home, &format!("[logs]\npaths = [\"{}\"]\n", log.display()));
        add_section(&home, &fleet(store.port(), name));
        home
    })
}

fn spool(home: &Home, name: &str, event: &Value) {
    fs::write(home.path(name), event.to_string()).unwrap();
    fs::rename(home.path(name), home.path("spool").join(name)).unwrap();
}

#[test]
fn the_line_of_an_event_names_the_relay_that_sent_its_mail() {
    let store = Valkey::start(FORGETFUL);
    let [a, b] = spooling(&store);
    mail(&a, "0109-before", "4ZabcD1Yxz1", Some("corr-1"));
    let (mut daemon, _b) = (a.start(), b.start());
    let published = |count: u32| {
        wait::until("the mail to be published", wait::LONG, || {
            (a.metric("gatepost_events_ids_published_total") >= f64::from(count)).then_some(())
        });
    };
    published(1);
    spool(&b, "1", &notification("0109-before"));
    let line = b.log_line(&["0109-before: ", "status=bounced"]);
    assert!(line.contains(", queue_id=4ZabcD1Yxz1, correlation_id=corr-1, sent_by=a, reason=("), "{line}");

    // An event may be here before the line of its mail is there; mail need not be stamped.
    spool(&b, "2", &notification("0109-later"));
    wait::until("its effect", wait::LONG, || (b.metric("gatepost_events_lines_total") >= 2.0).then_some(()));
    mail(&a, "0109-later", "4ZabcD2Yxz2", None);
    let line = b.log_line(&["0109-later: ", "status=bounced"]);
    assert!(line.contains("suppressed=yes, queue_id=4ZabcD2Yxz2, sent_by=a, reason=("), "{line}");

    // One with tags needs no ids; the relay's own mail is its own.
    let mut tagged = delivery("user@example.net");
    tagged["mail"]["messageId"] = "0109-before".into();
    tagged["mail"]["tags"]["queue_id"] = json!(["4ZabcD1Yxz1"]);
    spool(&b, "3", &tagged);
    let line = b.log_line(&["0109-before: ", "status=delivered"]);
    assert!(line.contains(", queue_id=4ZabcD1Yxz1, sent_by=a, response=("), "{line}");
    spool(&a, "4", &notification("0109-later").clone());
    wait::until("the duplicate", wait::LONG, || (a.metric(DUPLICATES) >= 1.0).then_some(()));
    mail(&a, "0109-own", "4ZabcD3Yxz3", Some("corr-3"));
    spool(&a, "5", &notification("0109-own"));
    let line = a.log_line(&["0109-own: ", "status=bounced"]);
    assert!(line.contains(", queue_id=4ZabcD3Yxz3, correlation_id=corr-3, sent_by=a, reason=("), "{line}");
    let shown = b.run(&["trace", "0109-later", "--log", b.path("mail.log").to_str().unwrap()]);
    assert!(shown.contains("sent by a"), "{shown}");

    // After a restart what was told is not told again, but for the last minute of it.
    published(3);
    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    let told = fs::read_to_string(a.path("state/fleet-told")).unwrap();
    let ahead = told.trim().parse::<jiff::Timestamp>().unwrap().checked_add(Duration::from_secs(600)).unwrap();
    fs::write(a.path("state/fleet-told"), ahead.to_string()).unwrap();
    let _daemon = a.start();
    mail(&a, "0109-much-later", "4ZabcD4Yxz4", None);
    spool(&a, "6", &notification("0109-much-later"));
    a.log_line(&["0109-much-later: ", "queue_id=4ZabcD4Yxz4"]);
    assert_eq!(a.metric("gatepost_events_ids_published_total"), 0.0);
}

/// Another relay has the event in its hands and never comes to an end.
#[test]
fn what_a_dead_relay_had_in_its_hands_is_taken_up() {
    let two = Two::new(quick());
    let body = two.scene.watch.sample.body(0);
    claim(&two.store, &body, "60000");
    let _a = two.start(0);
    two.scene.send(0..3);
    wait::until("it to be left", wait::LONG, || (two.scene.home().metric(ELSEWHERE) >= 2.0).then_some(()));
    assert_eq!((two.scene.queue.left(), two.scene.home().metric(ADDED)), (1, 2.0));
    let () = say(&two.store, &[b"PEXPIRE", &keys(&body)[0], b"1"]);
    two.scene.complete(3);
}

/// Killed between its claim and its commit: the event is another relay's once the claim has ended, and its own at once.
fn killed_with_a_claim(next: usize) {
    let two = Two::new(quick());
    let (mut a, body) = (two.start(0), two.scene.watch.sample.body(0));
    let database = rusqlite::Connection::open(two.scene.homes[0].path("state/gatepost.db")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    two.scene.send(0..1);
    let key = &keys(&body)[0];
    let held = || say::<Option<String>>(&two.store, &[b"GET", key]).filter(|value| value == "by a");
    wait::until("the claim", wait::LONG, held);
    a.signal("KILL");
    a.wait_for_end(wait::LONG);
    database.execute_batch("ROLLBACK").unwrap();
    let began = Instant::now();
    let _next = two.start(next);
    if next == 0 {
        two.scene.complete(1);
        // The claim is for a minute.
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        return;
    }
    wait::until("the other to leave it", wait::LONG, || (two.scene.homes[1].metric(ELSEWHERE) >= 1.0).then_some(()));
    let left: i64 = say(&two.store, &[b"PTTL", key]);
    assert!((1..=60_000).contains(&left), "{left}");
    let () = say(&two.store, &[b"PEXPIRE", key, b"1"]);
    two.scene.complete(1);
}

#[test]
fn a_relay_that_is_killed_with_a_claim_takes_it_up_itself() {
    killed_with_a_claim(0);
}

#[test]
fn a_relay_that_is_killed_with_a_claim_loses_it_to_another() {
    killed_with_a_claim(1);
}

/// As [`crate::events_crash`], with two relays that are killed in turn: what one had in its hands is its own again, or
/// the other's.
#[test]
fn two_relays_that_are_killed_at_random_moments_lose_nothing() {
    let two = Two::new(Settings { visibility: Duration::from_secs(1), insists: true, ..Settings::default() });
    let feeding = Arc::new(AtomicBool::new(true));
    let (more, sample, mut next) = (feeding.clone(), two.scene.watch.sample, 0..);
    two.scene.queue.supply(move || more.load(SeqCst).then(|| sample.body(next.next().unwrap_or_default())));
    let mut daemons = [two.start(0), two.start(1)];
    for n in 0..6 {
        std::thread::sleep(Duration::from_millis(fastrand::u64(100..600)));
        daemons[n % 2].signal("KILL");
        daemons[n % 2].wait_for_end(wait::LONG);
        daemons[n % 2] = two.start(n % 2);
    }
    feeding.store(false, SeqCst);
    wait::until("the queue to be empty", 2 * DRAINED, || (two.scene.queue.left() == 0).then_some(()));
    let sent = two.scene.queue.tally().sent;
    let lines = || two.scene.watch.lines();
    wait::until("every line to be in the log", DRAINED, || (lines().len() as u64 == sent).then_some(()));
    let again = two.scene.queue.records().iter().filter(|record| record.received > 1).count();
    let repeated = lines().values().map(|count| u64::from(*count) - 1).sum::<u64>();
    let [a, b] = [0, 1].map(|nth| bounced(&two.scene.homes[nth..=nth]).into_keys().collect::<BTreeSet<_>>());
    let twice = a.intersection(&b).count();
    println!("6 kills: {sent} events, {again} received again, {repeated} lines repeated, {twice} by the other relay");
    assert!((0..sent).all(|n| two.scene.watch.has_effect(n)), "suppressions are missing");
    two.scene.nothing_early();
    // Where this machine lets the store's answer come too late, one may.
    assert!(twice * 10 < again, "{twice} events counted by both, of {again} that were received again");
}

/// The store goes away in this way, and comes back in that.
fn away(leave: impl FnOnce(&mut Two), back: impl FnOnce(&mut Two)) {
    // What comes again while the store is away counts twice: nothing is to.
    let mut two = Two::new(Settings::default());
    let daemons = [two.start(0), two.start(1)];
    two.scene.send(0..10);
    two.scene.complete(10);
    leave(&mut two);
    // In three steps, that the store is asked as often.
    for n in 0..3 {
        two.scene.send(10 + n * 10..20 + n * 10);
        two.scene.drained();
    }
    let began = Instant::now();
    two.scene.send(40..140);
    two.scene.complete(140);
    println!("100 events without the store: {:?}", began.elapsed());
    assert!(two.sum(UNASKED) >= 100, "{}", two.sum(UNASKED));
    assert!(two.scene.homes.iter().any(|home| home.metric(AWAY) == 1.0), "nobody says that the store is away");
    let warned = daemons.iter().map(|daemon| daemon.stderr().matches("store does not answer").count());
    assert!(warned.clone().all(|count| count <= 1) && warned.sum::<usize>() >= 1);
    back(&mut two);
    wait::until("the store to be asked again", wait::LONG, || {
        two.scene.homes.iter().all(|home| home.metric(AWAY) == 0.0).then_some(())
    });
    let is_marked = |n| say::<u64>(&two.store, &[b"EXISTS", &keys(&two.scene.watch.sample.body(n))[0]]) == 1;
    let mut next = 140;
    wait::until("events to be marked in the store again", wait::LONG, || {
        two.scene.send(next..next + 1);
        two.scene.drained();
        next += 1;
        is_marked(next - 1).then_some(())
    });
    two.scene.complete(next);
}

#[test]
fn events_go_on_while_the_store_is_down() {
    away(|two| two.store.kill(), |two| two.store.run());
}

#[test]
fn events_go_on_while_the_store_hangs() {
    away(|two| two.store.signal(Signal::STOP), |two| two.store.signal(Signal::CONT));
}

#[test]
fn events_go_on_while_the_store_is_too_slow() {
    away(|two| two.way.set(Way::Open(Duration::from_millis(200))), |two| two.way.set(proxy::OPEN));
}

#[test]
fn events_go_on_while_the_store_takes_nothing() {
    let full = |two: &mut Two| two.store.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    away(full, |two| two.store.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).unwrap());
}

#[test]
fn ingest_asks_the_fleet() {
    let store = Valkey::start(FORGETFUL);
    let home = Home::alone("", OPEN);
    add_section(&home, &fleet(store.port(), "a"));
    let events: Vec<_> = (0..3).map(|n| bounce(&format!("u{n}@example.net")).to_string()).collect();
    fs::write(home.path("events"), events.join("\n")).unwrap();
    // The first was another relay's, the second is in the hands of one that never comes to an end.
    let () = say(&store, &[b"SET", &keys(&events[0])[0], b"1"]);
    claim(&store, &events[1], "60000");
    let out = home.command(&["ingest"]).arg(home.path("events")).output().unwrap();
    assert!(
        out.status.success() && both(&out).contains("2 added") && both(&out).contains("1 duplicates"),
        "{}",
        both(&out)
    );
    for event in &events {
        assert_eq!(say::<String>(&store, &[b"GET", &keys(event)[0]]), "1", "{event}");
    }
    let log = home.log();
    assert!(!log.contains("u0@") && log.contains("u1@") && log.contains("u2@"), "{log}");
    drop(store);
    fs::write(home.path("events"), bounce("u4@example.net").to_string()).unwrap();
    let out = home.command(&["ingest"]).arg(home.path("events")).output().unwrap();
    assert!(out.status.success() && both(&out).contains("1 added"), "{}", both(&out));
    assert!(both(&out).contains("the fleet's store did not answer"), "{}", both(&out));
}

//! Relays that share one suppression list: whatever happens to the store, what one knows all know in the end.

use crate::asker::Question;
use crate::gatepost::{Daemon, Home, both};
use crate::ingest::{bounce, bounce_of, delivery};
use crate::valkey::{FORGETFUL, LASTING, Valkey};
use crate::wait;
use gatepost::fleet::Keys;
use rustix::process::Signal;
use std::time::Duration;

/// Suppression in force, everything else open.
const RULES: &str = "[senders]\nmode = \"off\"\n[suppression]\nmode = \"enforce\"\n";

/// What the others may take to know of a change.
const SOON: Duration = Duration::from_secs(1);

/// A relay of a fleet.
struct Relay {
    home: Home,
    daemon: Option<Daemon>,
}

impl Relay {
    /// A relay that has not started yet.
    fn of(valkey: &Valkey, name: &str) -> Self {
        Self::in_namespace(valkey, name, "gatepost")
    }

    fn in_namespace(valkey: &Valkey, name: &str, namespace: &str) -> Self {
        Self::at(&valkey.url(), name, namespace)
    }

    fn at(url: &str, name: &str, namespace: &str) -> Self {
        let home = Home::alone("", RULES);
        let fleet =
            format!("[suppression]\nstore = \"{url}\"\n[fleet]\nname = \"{name}\"\nnamespace = \"{namespace}\"\n");
        home.configure(&fleet, "");
        Self { home, daemon: None }
    }

    fn started(mut self) -> Self {
        self.start();
        self
    }

    fn start(&mut self) {
        self.daemon = Some(self.home.start());
    }

    fn suppress(&self, args: &[&str]) -> String {
        self.home.run(&[&["suppress"], args].concat())
    }

    fn refuses(&self, address: &str) -> bool {
        let question = Question::rcpt("a@example.com", address).with("policy_context", "recipient");
        self.home.ask(&question).contains("550")
    }

    fn knows(&self, address: &str, limit: Duration) {
        wait::true_within(&format!("{address} to be refused"), limit, || self.refuses(address));
    }

    fn stderr(&self) -> String {
        self.daemon.as_ref().map(Daemon::stderr).unwrap_or_default()
    }

    fn says(&self, words: &str) {
        self.daemon.as_ref().expect("it runs").says(&[words]);
    }

    fn forgets(&self, address: &str, limit: Duration) {
        wait::true_within(&format!("{address} to pass"), limit, || !self.refuses(address));
    }
}

#[test]
fn what_is_changed_on_one_relay_holds_on_all_within_a_second() {
    let valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    a.suppress(&["add", "one@example.net"]);
    b.knows("one@example.net", SOON);
    b.suppress(&["remove", "one@example.net"]);
    a.forgets("one@example.net", SOON);
    let list: String = (0..500).map(|n| format!("user{n}@example.net\n")).collect();
    std::fs::write(a.home.path("list"), list).unwrap();
    a.suppress(&["import", a.home.path("list").to_str().unwrap()]);
    b.knows("user499@example.net", SOON);
    b.suppress(&["remove", "--domain", "example.net"]);
    a.forgets("user0@example.net", SOON);
    a.forgets("user499@example.net", SOON);
}

#[test]
fn a_new_relay_knows_everything_before_it_answers() {
    let valkey = Valkey::start(FORGETFUL);
    let a = Relay::of(&valkey, "a").started();
    a.suppress(&["add", "one@example.net", "two@example.net"]);
    a.suppress(&["remove", "two@example.net"]);
    until_stored(&valkey, 2);
    let b = Relay::of(&valkey, "b");
    b.suppress(&["add", "own@example.net"]);
    let b = b.started();
    assert!(b.refuses("one@example.net") && !b.refuses("two@example.net"));
    a.knows("own@example.net", SOON);
}

#[test]
fn a_relay_that_was_away_catches_up_by_its_position_or_by_everything() {
    let valkey = Valkey::start(FORGETFUL);
    let a = Relay::of(&valkey, "a").started();
    let mut b = Relay::of(&valkey, "b").started();
    a.suppress(&["add", "old@example.net"]);
    b.knows("old@example.net", SOON);
    for trim in [false, true] {
        b.daemon = None;
        let new = format!("new{trim}@example.net");
        a.suppress(&["add", &new]);
        a.suppress(&["remove", "old@example.net"]);
        b.suppress(&["add", &format!("own{trim}@example.net")]);
        wait::until("the change to be told", SOON, || {
            let record: Option<String> = valkey.ask(&["HGET", &entries(&new), &new]).unwrap();
            record
        });
        if trim {
            let _: i64 = valkey.ask(&["XTRIM", "{gatepost}:changes", "MAXLEN", "0"]).unwrap();
        }
        b.start();
        b.knows(&new, wait::LONG);
        b.forgets("old@example.net", wait::LONG);
        a.knows(&format!("own{trim}@example.net"), wait::LONG);
        let read_everything = b.stderr().contains("know the same");
        assert_eq!(read_everything, trim, "{}", b.stderr());
        a.suppress(&["add", "old@example.net"]);
        b.knows("old@example.net", SOON);
    }
}

#[test]
fn a_store_that_comes_back_empty_is_filled_again_and_nothing_is_forgotten() {
    let mut valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    a.suppress(&["add", "kept@example.net", "removed@example.net"]);
    b.knows("removed@example.net", SOON);
    valkey.kill();
    b.suppress(&["remove", "removed@example.net"]);
    a.suppress(&["add", "meanwhile@example.net"]);
    a.knows("meanwhile@example.net", SOON);
    b.forgets("removed@example.net", SOON);
    assert!(a.refuses("kept@example.net") && b.refuses("kept@example.net"));
    valkey.run();
    a.forgets("removed@example.net", wait::LONG);
    b.knows("meanwhile@example.net", wait::LONG);
    until_stored(&valkey, 3);
    assert!(a.refuses("kept@example.net") && b.refuses("kept@example.net"));
    for relay in [&a, &b] {
        assert_eq!(relay.stderr().matches("store is away").count(), 1, "{}", relay.stderr());
    }
}

#[test]
fn while_another_relay_tells_the_store_what_it_lost_the_others_wait_with_theirs() {
    let valkey = Valkey::start(FORGETFUL);
    let mut a = Relay::of(&valkey, "a").started();
    a.suppress(&["add", "old@example.net"]);
    until_stored(&valkey, 1);
    a.daemon = None;
    let _: String = valkey.ask(&["FLUSHALL"]).unwrap();
    let _: String = valkey.ask(&["SET", "{gatepost}:turn", "other", "PX", "600000"]).unwrap();
    a.start();
    // What is new is told all the same.
    a.suppress(&["add", "new@example.net"]);
    wait::until("what is new", wait::LONG, || {
        valkey.ask::<Option<String>>(&["HGET", &entries("new@example.net"), "new@example.net"]).unwrap()
    });
    assert!(!a.stderr().contains("know the same"), "{}", a.stderr());
    let _: i64 = valkey.ask(&["DEL", "{gatepost}:turn"]).unwrap();
    until_stored(&valkey, 2);
    a.says("know the same");
}

#[test]
fn a_store_that_went_back_in_time_is_told_again() {
    let mut valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    a.suppress(&["add", "first@example.net", "gone@example.net"]);
    b.knows("gone@example.net", SOON);
    let _: String = valkey.ask(&["SAVE"]).unwrap();
    a.suppress(&["remove", "gone@example.net"]);
    a.suppress(&["add", "second@example.net"]);
    b.knows("second@example.net", SOON);
    valkey.kill();
    valkey.run();
    until_stored(&valkey, 3);
    wait::until("the removal to be told again", wait::LONG, || {
        let record: String = valkey.ask(&["HGET", &entries("gone@example.net"), "gone@example.net"]).unwrap();
        record.contains("\nr\t").then_some(())
    });
    let c = Relay::of(&valkey, "c").started();
    assert!(c.refuses("second@example.net") && !c.refuses("gone@example.net"));
    assert!(!a.refuses("gone@example.net") && !b.refuses("gone@example.net"));
}

#[test]
fn changes_of_both_sides_while_the_store_is_away_meet_by_their_time() {
    let mut valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    a.suppress(&["add", "x@example.net", "y@example.net"]);
    b.knows("y@example.net", SOON);
    valkey.kill();
    a.suppress(&["remove", "x@example.net"]);
    b.suppress(&["add", "x@example.net", "--note", "later"]);
    a.suppress(&["add", "y@example.net", "--note", "earlier"]);
    b.suppress(&["remove", "y@example.net"]);
    valkey.run();
    a.knows("x@example.net", wait::LONG);
    a.forgets("y@example.net", wait::LONG);
    b.knows("x@example.net", wait::LONG);
    b.forgets("y@example.net", wait::LONG);
}

#[test]
fn a_store_that_takes_no_changes_gets_them_later() {
    let valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    let _: String = valkey.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    a.suppress(&["add", "one@example.net"]);
    a.knows("one@example.net", SOON);
    a.says("The fleet's store takes no changes");
    assert!(!b.refuses("one@example.net"));
    let _: String = valkey.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    b.knows("one@example.net", wait::LONG);
    a.says("takes changes again");
}

#[test]
fn a_read_only_replica_is_followed() {
    let (valkey, replica) = (Valkey::start(FORGETFUL), Valkey::start(FORGETFUL));
    let a = Relay::of(&valkey, "a").started();
    a.suppress(&["add", "one@example.net"]);
    until_stored(&valkey, 1);
    let port = valkey.port().to_string();
    let _: String = replica.ask(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
    until_stored(&replica, 1);
    let b = Relay::of(&replica, "b").started();
    assert!(b.refuses("one@example.net"));
    b.suppress(&["add", "two@example.net"]);
    b.knows("two@example.net", SOON);
    b.says("takes no changes");
    a.suppress(&["remove", "one@example.net"]);
    b.forgets("one@example.net", SOON);
    let _: String = replica.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
    until_stored(&replica, 2);
}

#[test]
fn a_store_that_stands_still_or_cuts_connections_costs_nothing_but_time() {
    let valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    valkey.signal(Signal::STOP);
    a.suppress(&["add", "one@example.net"]);
    a.knows("one@example.net", SOON);
    b.suppress(&["add", "two@example.net"]);
    b.knows("two@example.net", SOON);
    valkey.signal(Signal::CONT);
    b.knows("one@example.net", wait::LONG);
    a.knows("two@example.net", wait::LONG);
    for n in 0..5 {
        let _: i64 = valkey.ask(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
        let address = format!("cut{n}@example.net");
        a.suppress(&["add", &address]);
        b.knows(&address, wait::LONG);
    }
    for relay in [&a, &b] {
        assert!(relay.stderr().matches("store is away").count() <= 2, "{}", relay.stderr());
    }
}

#[test]
fn garbage_in_the_store_harms_nobody() {
    let valkey = Valkey::start(FORGETFUL);
    let a = Relay::of(&valkey, "a").started();
    let newer = "9\nof another world";
    for (field, value) in [("no address", "1"), ("bad@example.net", "\u{1}\u{2}"), ("newer@example.net", newer)] {
        let _: i64 = valkey.ask(&["HSET", &entries(field), field, value]).unwrap();
        let _: String = valkey.ask(&["XADD", "{gatepost}:changes", "*", "a", field, "r", value]).unwrap();
    }
    let _: String = valkey.ask(&["XADD", "{gatepost}:changes", "*", "a", "alone"]).unwrap();
    a.suppress(&["add", "good@example.net", "bad@example.net", "newer@example.net"]);
    let b = Relay::of(&valkey, "b").started();
    b.knows("good@example.net", SOON);
    b.knows("bad@example.net", SOON);
    let kept: String = valkey.ask(&["HGET", &entries("newer@example.net"), "newer@example.net"]).unwrap();
    assert_eq!(kept, newer, "what a newer gatepost wrote stays");
    assert_eq!(a.stderr().matches("is passed over").count(), 1, "{}", a.stderr());
}

#[test]
fn a_relay_starts_without_its_store_and_says_so() {
    let mut valkey = Valkey::start(FORGETFUL);
    valkey.kill();
    let a = Relay::of(&valkey, "a").started();
    a.says("does not know the fleet's list yet");
    a.suppress(&["add", "one@example.net"]);
    a.knows("one@example.net", SOON);
    valkey.run();
    until_stored(&valkey, 1);
}

#[test]
fn two_namespaces_are_two_fleets() {
    let valkey = Valkey::start(FORGETFUL);
    let a = Relay::of(&valkey, "a").started();
    let other = Relay::in_namespace(&valkey, "a", "other").started();
    let same = Relay::of(&valkey, "b").started();
    a.suppress(&["add", "one@example.net"]);
    same.knows("one@example.net", SOON);
    assert!(!other.refuses("one@example.net"));
}

/// Where the store has the record of an address.
fn entries(address: &str) -> String {
    Keys::new("gatepost").entries_of(address)
}

/// Waits until the store has records of so many addresses.
fn until_stored(valkey: &Valkey, count: u64) {
    wait::until(&format!("{count} records in the store"), wait::LONG, || {
        (valkey.records().ok()? == count).then_some(())
    });
}

/// Rules under which two full mailboxes rest an address.
const FULL: &str = "[senders]\nmode = \"off\"\n[suppression]\nmode = \"enforce\"\n\
                    mailbox_full = { count = 2, within = \"1d\", ttl = \"1d\" }\n";

impl Relay {
    fn ingest(&self, event: &serde_json::Value) {
        let path = self.home.path("event.json");
        std::fs::write(&path, event.to_string()).unwrap();
        self.home.run(&["ingest", path.to_str().unwrap()]);
    }
}

/// A full mailbox, now.
fn full(address: &str, message: &str) -> serde_json::Value {
    let (mut event, now) = (bounce_of(address, message), jiff::Timestamp::now().to_string());
    event["bounce"]["bounceType"] = "Transient".into();
    event["bounce"]["bounceSubType"] = "MailboxFull".into();
    event["bounce"]["timestamp"] = now.as_str().into();
    event["mail"]["timestamp"] = now.as_str().into();
    event
}

#[test]
fn full_mailboxes_count_over_all_relays_and_are_taken_back_by_any() {
    let valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| {
        let relay = Relay::of(&valkey, name);
        relay.home.write_policy("policy.toml", FULL);
        relay.started()
    });
    a.ingest(&full("full@example.net", "0109019c-1"));
    wait::until("the report to be told", wait::LONG, || {
        (valkey.ask::<u64>(&["HLEN", "{gatepost}:soft"]).ok()? == 1).then_some(())
    });
    assert!(!a.refuses("full@example.net"));
    b.ingest(&full("full@example.net", "0109019c-2"));
    a.knows("full@example.net", SOON);
    b.knows("full@example.net", SOON);
    // the mail of the first report arrived after all
    let mut delivered = delivery("full@example.net");
    delivered["mail"]["messageId"] = "0109019c-1".into();
    b.ingest(&delivered);
    a.forgets("full@example.net", SOON);
    b.forgets("full@example.net", SOON);
    a.ingest(&full("full@example.net", "0109019c-3"));
    b.knows("full@example.net", SOON);
}

#[test]
fn what_was_taken_back_is_so_for_a_store_that_went_back_in_time() {
    let mut valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| {
        let relay = Relay::of(&valkey, name);
        relay.home.write_policy("policy.toml", FULL);
        relay.started()
    });
    let address = "full@example.net";
    a.ingest(&full(address, "0109019c-1"));
    a.ingest(&full(address, "0109019c-2"));
    b.knows(address, SOON);
    let _: String = valkey.ask(&["SAVE"]).unwrap();
    let mut delivered = delivery(address);
    delivered["mail"]["messageId"] = "0109019c-1".into();
    b.ingest(&delivered);
    a.forgets(address, SOON);
    valkey.kill();
    valkey.run();
    wait::until("the store to be told again", wait::LONG, || {
        let record: String = valkey.ask(&["HGET", &entries(address), address]).ok()?;
        (record.contains("\nt\t") && !record.contains("\ne\t")).then_some(())
    });
    for relay in [&a, &b] {
        wait::until("everything to be read", wait::LONG, || {
            (relay.stderr().matches("know the same").count() >= 2).then_some(())
        });
        relay.forgets(address, wait::LONG);
    }
}

#[test]
fn what_was_read_holds_though_the_reading_did_not_come_to_its_end() {
    let valkey = Valkey::start(FORGETFUL);
    let a = Relay::of(&valkey, "a").started();
    a.suppress(&["add", "one@example.net"]);
    until_stored(&valkey, 1);
    // All but the reports, which come last.
    let _: () = valkey.ask(&["ACL", "SETUSER", "half", "on", ">s3cret", "~{gatepost}:[^s]*", "+@all"]).unwrap();
    valkey.signal(Signal::STOP);
    let url = format!("redis://half:s3cret@127.0.0.1:{}/0", valkey.port());
    let b = Relay::at(&url, "b", "gatepost").started();
    b.says("does not know the fleet's list yet");
    valkey.signal(Signal::CONT);
    b.knows("one@example.net", wait::LONG);
    assert!(!b.stderr().contains("know the same"), "{}", b.stderr());
    let _: () = valkey.ask(&["ACL", "SETUSER", "half", "~*"]).unwrap();
    b.says("know the same");
}

#[test]
fn a_removal_by_filter_holds_against_old_events_everywhere() {
    let valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    a.suppress(&["add", "one@example.net"]);
    b.knows("one@example.net", SOON);
    b.suppress(&["remove", "--domain", "example.net"]);
    a.forgets("one@example.net", SOON);
    wait::until("the filter to be told", SOON, || {
        (valkey.ask::<u64>(&["HLEN", "{gatepost}:filters"]).ok()? == 1).then_some(())
    });
    a.suppress(&["add", "probe@example.org"]);
    b.knows("probe@example.org", SOON);
    // about mail that was sent before the removal, of an address that was never on the list
    a.ingest(&bounce("never@example.net"));
    a.ingest(&bounce("never@example.com"));
    b.knows("never@example.com", SOON);
    assert!(!a.refuses("never@example.net") && !b.refuses("never@example.net"));
}

#[test]
fn a_bounce_that_one_relay_reads_is_refused_by_all_and_its_removal_holds() {
    let valkey = Valkey::start(FORGETFUL);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    a.ingest(&bounce("gone@example.net"));
    b.knows("gone@example.net", SOON);
    assert!(b.suppress(&["show", "gone@example.net"]).contains("550 5.1.1 user unknown"));
    b.suppress(&["remove", "gone@example.net"]);
    a.forgets("gone@example.net", SOON);
    // older mail bounces late, at the other relay
    a.ingest(&bounce_of("gone@example.net", "0109019c-late"));
    a.suppress(&["add", "probe@example.net"]);
    b.knows("probe@example.net", SOON);
    assert!(!a.refuses("gone@example.net") && !b.refuses("gone@example.net"));
}

#[test]
fn a_list_is_taken_into_a_fleet_and_back_twice_without_harm() {
    let valkey = Valkey::start(FORGETFUL);
    let url = valkey.url();
    let [one, other] = [0, 1].map(|_| Home::alone("", RULES));
    one.run(&["suppress", "add", "one@example.net", "gone@example.net"]);
    other.run(&["suppress", "add", "other@example.net", "gone@example.net"]);
    one.run(&["suppress", "remove", "gone@example.net"]);
    let said = one.run(&["suppress", "migrate", "--to", &url]);
    assert_eq!(said, format!("2 addresses read here, 2 changed in {url}, namespace gatepost\n"));
    assert!(one.run(&["suppress", "migrate", "--to", &url]).contains("2 addresses read here, 0 changed in"));
    let _daemon = other.start();
    let said = other.run(&["suppress", "migrate", "--from", &url]);
    assert_eq!(said, format!("2 addresses read in {url}, namespace gatepost, 2 changed here\n"));
    assert!(other.run(&["suppress", "migrate", "--from", &url]).contains("0 changed here"));
    let listed = other.run(&["suppress", "list"]);
    assert!(listed.contains("one@example.net") && listed.contains("other@example.net"), "{listed}");
    assert!(!listed.contains("gone@example.net"), "the removal was later: {listed}");
    let json: serde_json::Value =
        serde_json::from_str(&other.run(&["--json", "suppress", "migrate", "--to", &url])).unwrap();
    assert_eq!((json["addresses"].as_u64(), json["changed"].as_u64()), (Some(3), Some(1)));
    let without = one.command(&["suppress", "migrate", "--to"]).output().unwrap();
    assert!(both(&without).contains("gatepost.toml names no store"), "{}", both(&without));
    drop(valkey);
    let away = one.command(&["suppress", "migrate", "--from", &url]).output().unwrap();
    assert_eq!(away.status.code(), Some(69), "{}", both(&away));
}

#[test]
fn a_store_that_restarts_with_all_it_had_is_followed_on() {
    let mut valkey = Valkey::start(LASTING);
    let [a, b] = ["a", "b"].map(|name| Relay::of(&valkey, name).started());
    a.suppress(&["add", "one@example.net"]);
    b.knows("one@example.net", SOON);
    valkey.kill();
    a.suppress(&["remove", "one@example.net"]);
    valkey.run();
    b.forgets("one@example.net", wait::LONG);
    assert_eq!(b.stderr().matches("know the same").count(), 1, "only at the start: {}", b.stderr());
}

#[test]
fn an_id_of_the_stream_that_another_entry_has_now_is_no_place() {
    let valkey = Valkey::start(FORGETFUL);
    let a = Relay::of(&valkey, "a").started();
    let mut b = Relay::of(&valkey, "b").started();
    a.suppress(&["add", "first@example.net"]);
    b.knows("first@example.net", SOON);
    drop(a);
    b.daemon = None;
    // What a server had that took over without the last second: the id is given again, behind what nobody read.
    let (first, hidden) = ("first@example.net", "hidden@example.net");
    let newest: Vec<redis::Value> = valkey.ask(&["XREVRANGE", "{gatepost}:changes", "+", "-", "COUNT", "1"]).unwrap();
    let (id, _): (String, redis::Value) = redis::from_redis_value(newest[0].clone()).unwrap();
    let record = "1\ne\t1000\t1\t3\t1000\t\t\t550";
    let _: i64 = valkey.ask(&["HSET", &entries(hidden), hidden, record]).unwrap();
    let _: i64 = valkey.ask(&["DEL", "{gatepost}:changes"]).unwrap();
    let _: String = valkey.ask(&["XADD", "{gatepost}:changes", &id, "a", first, "r", record, "o", "c"]).unwrap();
    b.start();
    b.knows(hidden, wait::LONG);
    assert!(b.refuses(first));
    b.says("know the same");
}

#[test]
fn a_cluster_whose_replica_takes_over_without_the_newest_is_told_again() {
    let mut master = Valkey::cluster();
    let mut replica = master.cluster_replica();
    let url = format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", master.port(), replica.port());
    let [a, b] = ["a", "b"].map(|name| Relay::at(&url, name, "gatepost").started());
    a.suppress(&["add", "before@example.net", "removed@example.net"]);
    b.knows("removed@example.net", SOON);
    // All that the replica gets.
    replica.until_in_step_with(&master);
    let _: String = replica.ask(&["SAVE"]).unwrap();
    replica.kill();
    a.suppress(&["add", "newest@example.net"]);
    b.knows("newest@example.net", SOON);
    b.suppress(&["remove", "removed@example.net"]);
    a.forgets("removed@example.net", SOON);
    master.kill();
    replica.run();
    let _: () = replica.ask(&["CLUSTER", "FAILOVER", "TAKEOVER"]).unwrap();
    replica.until_info("replication", "role:master");
    until_stored(&replica, 3);
    a.suppress(&["add", "after@example.net"]);
    b.knows("after@example.net", wait::LONG);
    let c = Relay::at(&url, "c", "gatepost").started();
    assert!(["before", "newest", "after"].iter().all(|name| c.refuses(&format!("{name}@example.net"))));
    assert!([&a, &b, &c].iter().all(|relay| !relay.refuses("removed@example.net")));
}

#[test]
fn what_is_over_leaves_the_store() {
    let valkey = Valkey::start(FORGETFUL);
    let old = [
        (&*entries("old@example.net"), "old@example.net", "1\ne\t1000\t1\t3\t1000\t2000\t\t550"),
        (&entries("removed@example.net"), "removed@example.net", "1\nr\t1000000"),
        (&entries("stands@example.net"), "stands@example.net", "1\ne\t1000\t1\t3\t1000\t\t\t550"),
        ("{gatepost}:soft", "00112233445566778899aabbccddeeff00112233", "1\t1000"),
        ("{gatepost}:filters", "{}", "1000"),
    ];
    for (hash, name, value) in old {
        let _: i64 = valkey.ask(&["HSET", hash, name, value]).unwrap();
    }
    let a = Relay::of(&valkey, "a").started();
    until_stored(&valkey, 1);
    for hash in ["{gatepost}:soft", "{gatepost}:filters"] {
        wait::until(hash, wait::LONG, || (valkey.ask::<u64>(&["HLEN", hash]).ok()? == 0).then_some(()));
    }
    assert!(a.refuses("stands@example.net") && !a.refuses("old@example.net"));
}

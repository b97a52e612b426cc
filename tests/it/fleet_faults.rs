//! Each thing that goes wrong with a fleet's store, while mail flows through three relays and all of them learn and forget
//! addresses: mail never stops, nothing known is forgotten, and when it is over the fleet agrees again. Two seconds of
//! each here; `make faults` holds them longer and shows the figures.

use crate::fleet::FALLBACKS;
use crate::fleet_load::Load;
use crate::fleet_world::{Plan, RELAYS, World};
use crate::proxy::{OPEN, Proxy, Way};
use crate::queue::{Queue, Sample, quick};
use crate::valkey::{LASTING, Valkey};
use crate::wait;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long mail flows before and after.
const CALM: Duration = Duration::from_secs(1);

/// Within how long the fleet agrees again, and shares its limits.
const RECOVERY: Duration = Duration::from_secs(10);

/// The longest time in which a relay may accept nothing, on a machine that runs other tests beside.
const GAP: Duration = Duration::from_secs(3);

/// The most lines that a relay may say about one fault.
const LINES: usize = 20;

/// Addresses that each relay adds beforehand, and takes off in trouble.
const EACH: usize = 4;

/// Events that come in trouble.
const EVENTS: u64 = 12;

/// How long a fault lasts: where the environment does not say, two seconds.
fn lasts() -> Duration {
    let seconds = std::env::var("GATEPOST_FAULT_SECONDS").ok().and_then(|n| n.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

/// The fleet, and what it is to know.
struct Scene {
    world: World,
    queue: Queue,
    /// Suppressed by all before, and for good.
    known: Vec<String>,
    /// Suppressed by all before, taken off in trouble.
    removed: Vec<String>,
    /// Suppressed in trouble.
    added: Vec<String>,
}

impl Scene {
    fn start() -> Self {
        Self::around(Valkey::start(LASTING), None)
    }

    /// Around a store that is found by `url`, not by the proxies.
    fn around(store: Valkey, url: Option<String>) -> Self {
        let queue = Queue::start(quick()).unwrap();
        let world = World::around(store, &Plan { url, ..Plan::following(&queue) });
        let of_each =
            |word: &str, count: usize| (0..count * RELAYS).map(|n| format!("{word}{n}@example.org")).collect();
        let scene = Self {
            world,
            queue,
            known: of_each("known", EACH),
            removed: of_each("removed", 1),
            added: of_each("added", 1),
        };
        scene.by_turns(&scene.known, |relay, address| relay.suppress(address));
        scene.by_turns(&scene.removed, |relay, address| relay.suppress(address));
        let before = [&scene.known[..], &scene.removed].concat();
        wait::true_within("all relays to know all", wait::LONG, || scene.world.all_refuse(&before));
        scene.world.limits_are_shared(wait::LONG);
        scene
    }

    /// Each relay does something with every third address.
    fn by_turns(&self, addresses: &[String], what: impl Fn(&crate::fleet_world::Relay, &str)) {
        addresses.iter().zip(self.world.relays.iter().cycle()).for_each(|(address, relay)| what(relay, address));
    }

    /// What happens in trouble: every relay learns and forgets, by command and by events, and knows it itself.
    fn live(&self) {
        self.by_turns(&self.added, |relay, address| relay.suppress(address));
        self.by_turns(&self.removed, |relay, address| relay.remove(address));
        for n in 0..EVENTS {
            self.queue.send(&Sample::BOUNCES.body(n));
        }
        self.by_turns(&self.added, |relay, address| {
            wait::true_within("what a relay added itself", GAP, || relay.refuses(address));
        });
        self.by_turns(&self.removed, |relay, address| {
            wait::true_within("what a relay removed itself", GAP, || !relay.refuses(address));
        });
    }

    /// Waits until all relays refuse all that any has learnt, and nothing else.
    fn agree(&self) -> Duration {
        let bounced: Vec<_> = (0..EVENTS).map(|n| Sample::BOUNCES.recipient(n)).collect();
        let listed = [&self.known[..], &self.added, &bounced[..]].concat();
        wait::true_within("the fleet to agree", RECOVERY, || {
            self.world.all_refuse(&listed) && self.world.none_refuses(&self.removed)
        })
    }

    /// Lines of the daemons' own diagnostics, of the relay that says the most.
    fn said(&self) -> Vec<usize> {
        self.world.relays.iter().map(|relay| relay.daemon.stderr().lines().count()).collect()
    }

    /// Everything that stands is in the store that is there now.
    fn store_has_all(&self) {
        let standing = self.known.len() + self.added.len() + EVENTS as usize;
        wait::true_within("the store to have all", RECOVERY, || {
            self.world.store.ask::<usize>(&["HLEN", "{gatepost}:entries"]).is_ok_and(|n| n >= standing)
        });
    }

    /// Begins a fault, lives with it, ends it, and tells what it cost.
    fn suffers<T>(mut self, name: &str, begin: impl FnOnce(&mut World) -> T, end: impl FnOnce(&mut World, T)) {
        let load = Load::begin(&self.world, &self.known);
        let start = Instant::now();
        thread::sleep(CALM);
        let (said, fallbacks) = (self.said(), self.world.metric(FALLBACKS));
        let began = Instant::now();
        let fault = begin(&mut self.world);
        self.live();
        thread::sleep(lasts().saturating_sub(began.elapsed()));
        let fallbacks = self.world.metric(FALLBACKS) - fallbacks;
        let ending = Instant::now();
        end(&mut self.world, fault);
        let ended = Instant::now();
        let agreed = self.agree();
        self.world.limits_are_shared(RECOVERY);
        let shared = ended.elapsed();
        self.store_has_all();
        thread::sleep(CALM);
        let (sent, over) = (load.end(), Instant::now());

        let accepted = sent.accepted();
        wait::true_within("all of the mail", wait::LONG, || self.world.arrived().len() >= accepted.len());
        let lost = accepted.iter().filter(|subject| !self.has_arrived(subject)).count();
        let said = self.said().iter().zip(said).map(|(now, before)| now - before).max().unwrap_or_default();
        println!(
            "{name}, {:.1} s: accepted/refused {} before, {} during, {} after; {lost} lost, longest gap {} ms; the fleet \
             agreed after {} ms, limits were shared after {} ms; {fallbacks} questions answered locally, at most {said} \
             lines of a relay",
            (ending - began).as_secs_f64(),
            sent.count(start, began),
            sent.count(began, ended),
            sent.count(ended, over),
            sent.longest_gap().as_millis(),
            agreed.as_millis(),
            shared.as_millis(),
        );
        assert_eq!(sent.wrong(), Vec::<String>::new());
        assert_eq!(lost, 0, "mail is lost");
        assert!(sent.longest_gap() < GAP, "mail stopped for {:?}", sent.longest_gap());
        assert!(shared < RECOVERY, "{shared:?}");
        assert!(said <= LINES, "{said} lines of a relay");
        self.all_agree_by_smtp();
    }

    fn has_arrived(&self, subject: &str) -> bool {
        let line = format!("Subject: {subject}\n");
        self.world.arrived().iter().any(|mail| mail.content.contains(&line))
    }

    /// What clients meet at the end.
    fn all_agree_by_smtp(&self) {
        for relay in &self.world.relays {
            let mut session = relay.postfix.session();
            session.ask("info@example.com", &self.added[0]).expect(550, &["5.1.1", "Suppressed since"]);
            session.ask("info@example.com", &Sample::BOUNCES.recipient(0)).expect(550, &["5.1.1", "Suppressed since"]);
            session.ask("info@example.com", &self.removed[0]).expect(250, &[]);
        }
    }
}

/// Something that is done again and again until it is stopped.
struct Again {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Again {
    fn every(pause: Duration, mut what: impl FnMut() + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                what();
                thread::sleep(pause);
            }
        });
        Self { over, thread }
    }

    fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().expect("it did");
    }
}

fn tell(store: &Valkey, words: &[&str]) {
    store.ask::<redis::Value>(words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
}

#[test]
fn the_store_is_stopped() {
    Scene::start().suffers(
        "SIGSTOP of the store",
        |world| world.store.signal(Signal::STOP),
        |world, ()| world.store.signal(Signal::CONT),
    );
}

#[test]
fn the_store_is_killed_and_comes_back_with_its_data() {
    Scene::start().suffers("kill -9, back with its data", |world| world.store.kill(), |world, ()| world.store.run());
}

#[test]
fn the_store_is_killed_and_comes_back_empty() {
    let empty = |world: &mut World, ()| {
        world.store.forget();
        world.store.run();
    };
    Scene::start().suffers("kill -9, back without data", |world| world.store.kill(), empty);
}

#[test]
fn the_store_is_emptied_while_it_runs() {
    Scene::start().suffers("FLUSHALL", |world| tell(&world.store, &["FLUSHALL"]), |_, ()| ());
}

#[test]
fn the_store_has_no_more_memory() {
    let full = |world: &mut World| {
        tell(&world.store, &["SETRANGE", "filler", "2000000", "x"]);
        tell(&world.store, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        tell(&world.store, &["CONFIG", "SET", "maxmemory", "1mb"]);
        world.store.ask::<()>(&["SET", "one", "more"]).expect_err("it is full");
    };
    Scene::start().suffers("maxmemory reached", full, |world, ()| {
        tell(&world.store, &["CONFIG", "SET", "maxmemory", "0"]);
    });
}

#[test]
fn the_store_throws_its_clients_out() {
    let kill = |world: &mut World| {
        let url = world.store.url();
        Again::every(Duration::from_millis(100), move || {
            let mut connection = redis::Client::open(url.as_str()).unwrap().get_connection().expect("the store");
            redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).exec(&mut connection).expect("done");
        })
    };
    Scene::start().suffers("CLIENT KILL every 100 ms", kill, |_, again| again.stop());
}

/// Its master is nowhere: it keeps what it has, and takes nothing.
#[test]
fn the_store_becomes_a_replica_and_back() {
    Scene::start().suffers(
        "read-only, by REPLICAOF",
        |world| tell(&world.store, &["REPLICAOF", "127.0.0.1", "1"]),
        |world, ()| tell(&world.store, &["REPLICAOF", "NO", "ONE"]),
    );
}

/// All that happens in trouble is lost with the master.
#[test]
fn a_replica_takes_over_that_lacks_what_came_last() {
    let scene = Scene::start();
    let replica = replica_of(&scene.world.store);
    let behind = |_: &mut World| {
        tell(&replica, &["REPLICAOF", "NO", "ONE"]);
        replica
    };
    scene.suffers("failover to a replica that is behind", behind, |world, replica| {
        world.store.kill();
        world.store = replica;
        world.lead_to(world.store.port());
    });
}

#[test]
fn a_sentinel_makes_a_replica_the_master() {
    let store = Valkey::start(LASTING);
    let (replica, sentinel) = (replica_of(&store), Valkey::sentinel_of(store.port()));
    wait::true_within("the sentinel to know the replica", wait::LONG, || {
        sentinel.ask::<Vec<redis::Value>>(&["SENTINEL", "REPLICAS", "main"]).is_ok_and(|known| !known.is_empty())
    });
    let scene = Scene::around(store, Some(format!("redis+sentinel://127.0.0.1:{}/main/0", sentinel.port())));
    scene.suffers(
        "failover by a Sentinel",
        |world| world.store.kill(),
        |world, ()| {
            wait::true_within("the replica to be the master", wait::LONG, || {
                replica.ask::<String>(&["INFO", "replication"]).is_ok_and(|said| said.contains("role:master"))
            });
            world.store = replica;
        },
    );
}

/// A replica that is in step with its master.
fn replica_of(store: &Valkey) -> Valkey {
    let replica = Valkey::start(LASTING);
    tell(&replica, &["REPLICAOF", "127.0.0.1", &store.port().to_string()]);
    wait::true_within("the replica to be in step", wait::LONG, || {
        replica.ask::<String>(&["INFO", "replication"]).is_ok_and(|said| said.contains("master_link_status:up"))
    });
    replica
}

/// The relays' way to the store.
fn way(name: &str, way: Way) {
    Scene::start().suffers(name, |world| world.set(way), |world, ()| world.set(OPEN));
}

#[test]
fn the_way_to_the_store_is_long() {
    way("5 ms each way", Way::Open(Duration::from_millis(5)));
}

#[test]
fn the_way_to_the_store_is_longer_than_a_limit_waits() {
    way("50 ms each way", Way::Open(Duration::from_millis(50)));
}

#[test]
fn the_way_to_the_store_is_very_long() {
    way("500 ms each way", Way::Open(Duration::from_millis(500)));
}

#[test]
fn the_way_to_the_store_swallows_everything() {
    way("nothing passes", Way::Stalled);
}

#[test]
fn the_way_to_the_store_is_cut() {
    way("connections cut", Way::Cut);
}

#[test]
fn one_relay_is_cut_off() {
    Scene::start().suffers(
        "one relay cut off",
        |world| world.relays[0].proxy.set(Way::Cut),
        |world, ()| world.relays[0].proxy.set(OPEN),
    );
}

#[test]
fn the_store_comes_and_goes() {
    let flap = |world: &mut World| {
        let proxies: Vec<Arc<Proxy>> = world.relays.iter().map(|relay| Arc::clone(&relay.proxy)).collect();
        let mut ways = [Way::Cut, OPEN].into_iter().cycle();
        Again::every(Duration::from_millis(300), move || {
            let way = ways.next().unwrap_or(OPEN);
            proxies.iter().for_each(|proxy| proxy.set(way));
        })
    };
    Scene::start().suffers("away and back every 300 ms", flap, |world, again| {
        again.stop();
        world.set(OPEN);
    });
}

/// What it learnt in trouble is on its own disk, and not yet in the store.
#[test]
fn a_relay_that_is_killed_in_trouble_tells_when_it_is_back() {
    let mut scene = Scene::start();
    scene.world.set(Way::Cut);
    scene.live();
    let relay = &mut scene.world.relays[0];
    relay.daemon.signal("KILL");
    relay.daemon.wait_for_end(wait::LONG);
    scene.world.set(OPEN);
    scene.world.relays[0].start_again();
    let agreed = scene.agree();
    println!("killed while the store was away: the fleet agreed {} ms after it was back", agreed.as_millis());
    scene.store_has_all();
}

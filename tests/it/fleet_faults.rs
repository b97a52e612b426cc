//! Each thing that goes wrong with a fleet's store, while mail flows through three relays and all of them learn and forget
//! addresses: mail never stops, nothing known is forgotten, and when it is over the fleet agrees again. Two seconds of
//! each here; `make faults` holds them longer and shows the figures.

use crate::fleet::FALLBACKS;
use crate::fleet_load::{Load, Sent};
use crate::fleet_world::{Plan, RELAYS, Relay, World};
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

/// Within how long the fleet agrees again.
const RECOVERY: Duration = Duration::from_secs(10);

/// Within how long limits are shared again: two seconds, on a machine that is not so busy that answers of the store come
/// too late.
const SHARED: Duration = Duration::from_secs(30);

/// The longest time in which a relay may accept nothing, on a machine that does other things.
const GAP: Duration = Duration::from_secs(10);

/// What flows in trouble is at least this part of what flowed before. A relay that waited for the store would take one
/// mail of each client in all of that time.
const FLOW: f64 = 1.0 / 40.0;

/// The most lines that a relay may say about one fault.
const LINES: usize = 20;

/// Addresses that are suppressed before anything happens.
const KNOWN: usize = 4 * RELAYS;

/// Events that come in each fault.
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
    /// Suppressed, for good.
    known: Vec<String>,
    /// Taken off again, for good.
    gone: Vec<String>,
    /// How many events there were.
    events: u64,
    /// How many faults there were.
    faults: usize,
}

/// What becomes of addresses in one fault: one by each relay.
struct Turns {
    /// Taken off the list.
    removed: Vec<String>,
    /// Put on it.
    added: Vec<String>,
    /// Put on it by events, read by any.
    bounced: Vec<String>,
}

impl Scene {
    fn start() -> Self {
        Self::around(Valkey::start(LASTING), None)
    }

    /// Around a store that is found by `url`, not by the proxies.
    fn around(store: Valkey, url: Option<String>) -> Self {
        let queue = Queue::start(quick()).unwrap();
        let world = World::around(store, &Plan { url, ..Plan::following(&queue) });
        let known = (0..KNOWN).map(|n| format!("known{n}@example.org")).collect();
        let scene = Self { world, queue, known, gone: Vec::new(), events: 0, faults: 0 };
        scene.by_turns(&scene.known, Relay::suppress);
        scene
    }

    /// Each relay does something with every third address.
    fn by_turns(&self, addresses: &[String], what: impl Fn(&Relay, &str)) {
        addresses.iter().zip(self.world.relays.iter().cycle()).for_each(|(address, relay)| what(relay, address));
    }

    /// Before a fault all relays know all, and limits are shared.
    fn turns(&mut self) -> Turns {
        let fault = self.faults;
        self.faults += 1;
        let by_each = |word: &str| (0..RELAYS).map(|n| format!("{word}{n}-{fault}@example.org")).collect::<Vec<_>>();
        let events = self.events..self.events + EVENTS;
        self.events = events.end;
        let turns = Turns {
            removed: by_each("removed"),
            added: by_each("added"),
            bounced: events.map(|n| Sample::BOUNCES.recipient(n)).collect(),
        };
        self.by_turns(&turns.removed, Relay::suppress);
        let all = [&self.known[..], &turns.removed].concat();
        wait::true_within("all relays to know all", wait::LONG, || self.world.all_refuse(&all));
        self.world.limits_are_shared(SHARED);
        self.world.relays_are_counted();
        turns
    }

    /// What happens in trouble: every relay learns and forgets, by command and by events, and knows it itself.
    fn live(&mut self, turns: Turns) {
        self.by_turns(&turns.added, Relay::suppress);
        self.by_turns(&turns.removed, Relay::remove);
        for n in self.events - EVENTS..self.events {
            self.queue.send(&Sample::BOUNCES.body(n));
        }
        self.by_turns(&turns.added, |relay, address| {
            wait::true_within("what a relay added itself", RECOVERY, || relay.refuses(address));
        });
        self.by_turns(&turns.removed, |relay, address| {
            wait::true_within("what a relay removed itself", RECOVERY, || !relay.refuses(address));
        });
        self.known.extend([turns.added, turns.bounced].concat());
        self.gone.extend(turns.removed);
    }

    /// Waits until all relays refuse all that any has learnt, and nothing else.
    fn agree(&self, fault: &str) -> Duration {
        wait::true_within(&format!("the fleet to agree after: {fault}"), RECOVERY, || {
            self.world.all_refuse(&self.known) && self.world.none_refuses(&self.gone)
        })
    }

    /// Everything that stands is in the store that is there now.
    fn store_has_all(&self, fault: &str) {
        wait::true_within(&format!("the store to have all after: {fault}"), RECOVERY, || {
            self.world.store.records().is_ok_and(|n| n >= self.known.len() as u64)
        });
    }

    /// How many lines the daemons have said of themselves.
    fn said(&self) -> Vec<usize> {
        self.world.relays.iter().map(|relay| relay.daemon.stderr().lines().count()).collect()
    }

    /// Begins a fault, lives with it, ends it, and tells what it cost.
    fn suffers<T>(&mut self, fault: &str, begin: impl FnOnce(&mut World) -> T, end: impl FnOnce(&mut World, T)) {
        let turns = self.turns();
        let (load, start) = (Load::begin(&self.world, &self.known, fault), Instant::now());
        thread::sleep(CALM);
        let (said, fallbacks) = (self.said(), self.world.metric(FALLBACKS));
        let began = Instant::now();
        let state = begin(&mut self.world);
        self.live(turns);
        thread::sleep(lasts().saturating_sub(began.elapsed()));
        end(&mut self.world, state);
        let ended = Instant::now();
        let agreed = self.agree(fault);
        self.world.limits_are_shared(SHARED);
        let shared = ended.elapsed();
        self.store_has_all(fault);
        thread::sleep(CALM);
        let (sent, over) = (load.end(), Instant::now());

        let lost = self.lost(&sent);
        let said = self.said().iter().zip(said).map(|(now, before)| now - before).max().unwrap_or_default();
        let (before, during) = (sent.count(start, began), sent.count(began, ended));
        println!(
            "{fault}, {:.1} s: accepted/refused {before} before, {during} during, {} after; {lost} lost; longest gap {} ms; the fleet \
             agreed after {} ms, limits were shared after {} ms; {} questions answered locally; at most {said} lines of a \
             relay",
            (ended - began).as_secs_f64(),
            sent.count(ended, over),
            sent.longest_gap().as_millis(),
            agreed.as_millis(),
            shared.as_millis(),
            self.world.metric(FALLBACKS) - fallbacks,
        );
        assert_eq!(sent.wrong(), Vec::<String>::new(), "{fault}");
        assert_eq!(lost, 0, "{fault}: mail is lost");
        assert!(sent.longest_gap() < GAP, "{fault}: mail stopped for {:?}", sent.longest_gap());
        let flow = during.accepted as f64 / (ended - began).as_secs_f64() * (began - start).as_secs_f64();
        assert!(flow >= before.accepted as f64 * FLOW, "{fault}: mail hardly flowed");
        assert!(said <= LINES, "{fault}: {said} lines of a relay");
        self.all_agree_by_smtp();
    }

    /// How much of the mail that was accepted does not arrive.
    fn lost(&self, sent: &Sent) -> usize {
        let mut missing = sent.accepted();
        // Whether that is a failure is for the figures to say.
        let patience = Instant::now();
        while !missing.is_empty() && patience.elapsed() < wait::LONG {
            thread::sleep(Duration::from_millis(50));
            for mail in self.world.arrived() {
                let subject = mail.content.lines().find_map(|line| line.strip_prefix("Subject: "));
                subject.map(|subject| missing.remove(subject));
            }
        }
        missing.len()
    }

    /// What clients meet at the end.
    fn all_agree_by_smtp(&self) {
        for relay in &self.world.relays {
            let mut session = relay.postfix.session();
            for address in self.known.iter().rev().take(2 * RELAYS) {
                session.ask("info@example.com", address).expect(550, &["550 5.1.1 ", "Suppressed since 2"]);
            }
            for address in &self.gone {
                session.ask("info@example.com", address).expect(250, &[]);
            }
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

fn run(world: &mut World) {
    world.store.run();
}

#[test]
fn the_store_dies() {
    let mut scene = Scene::start();
    scene.suffers("kill -9, back with its data", |world| world.store.kill(), |world, ()| run(world));
    scene.suffers(
        "kill -9, back without data",
        |world| world.store.kill(),
        |world, ()| {
            world.store.forget();
            run(world);
        },
    );
    scene.suffers("FLUSHALL", |world| tell(&world.store, &["FLUSHALL"]), |_, ()| ());
}

#[test]
fn the_store_is_there_and_does_not_serve() {
    let mut scene = Scene::start();
    let continued = |world: &mut World, ()| world.store.signal(Signal::CONT);
    scene.suffers("SIGSTOP of the store", |world| world.store.signal(Signal::STOP), continued);
    let full = |world: &mut World| {
        tell(&world.store, &["SETRANGE", "filler", "2000000", "x"]);
        tell(&world.store, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        tell(&world.store, &["CONFIG", "SET", "maxmemory", "1mb"]);
        world.store.ask::<()>(&["SET", "one", "more"]).expect_err("it is full");
    };
    scene.suffers("maxmemory reached", full, |world, ()| tell(&world.store, &["CONFIG", "SET", "maxmemory", "0"]));
    // Its master is nowhere: it keeps what it has, and takes nothing.
    let read_only = |world: &mut World| tell(&world.store, &["REPLICAOF", "127.0.0.1", "1"]);
    scene.suffers("read-only, by REPLICAOF", read_only, |world, ()| tell(&world.store, &["REPLICAOF", "NO", "ONE"]));
    let kill = |world: &mut World| {
        let url = world.store.url();
        Again::every(Duration::from_millis(100), move || {
            let mut connection = redis::Client::open(url.as_str()).unwrap().get_connection().expect("the store");
            redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).exec(&mut connection).expect("done");
        })
    };
    scene.suffers("CLIENT KILL every 100 ms", kill, |_, again| again.stop());
}

/// All that happens in trouble is lost with the master.
#[test]
fn a_replica_takes_over_that_lacks_what_came_last() {
    let mut scene = Scene::start();
    let replica = scene.world.store.replica(LASTING);
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
    let (replica, sentinel) = (store.replica(LASTING), store.watched());
    let mut scene = Scene::around(store, Some(format!("redis+sentinel://127.0.0.1:{}/main/0", sentinel.port())));
    scene.suffers(
        "failover by a Sentinel",
        |world| world.store.kill(),
        |world, ()| {
            replica.until_info("replication", "role:master");
            world.store = replica;
        },
    );
}

#[test]
fn the_way_to_the_store_is_long() {
    let mut scene = Scene::start();
    for ms in [5, 50, 500] {
        let long = |world: &mut World| world.set(Way::Open(Duration::from_millis(ms)));
        scene.suffers(&format!("{ms} ms each way"), long, |world, ()| world.set(OPEN));
    }
}

#[test]
fn the_way_to_the_store_ends() {
    let mut scene = Scene::start();
    for (fault, way) in [("nothing passes", Way::Stalled), ("connections cut", Way::Cut)] {
        scene.suffers(fault, |world| world.set(way), |world, ()| world.set(OPEN));
    }
    let one = |way| move |world: &mut World| world.relays[0].proxy.set(way);
    scene.suffers("one relay cut off", one(Way::Cut), |world, ()| one(OPEN)(world));
    let flap = |world: &mut World| {
        let proxies: Vec<Arc<Proxy>> = world.relays.iter().map(|relay| Arc::clone(&relay.proxy)).collect();
        let mut ways = [Way::Cut, OPEN].into_iter().cycle();
        Again::every(Duration::from_millis(300), move || {
            let way = ways.next().unwrap_or(OPEN);
            proxies.iter().for_each(|proxy| proxy.set(way));
        })
    };
    scene.suffers("away and back every 300 ms", flap, |world, again| {
        again.stop();
        world.set(OPEN);
    });
}

/// What it learnt in trouble is on its own disk, and not yet in the store. Then everything goes down, and the store comes
/// back with nothing.
#[test]
fn relays_that_are_killed_in_trouble_tell_when_they_are_back() {
    let mut scene = Scene::start();
    let turns = scene.turns();
    scene.world.set(Way::Cut);
    scene.live(turns);
    scene.world.relays[0].kill();
    scene.world.set(OPEN);
    scene.world.relays[0].start_again();
    let fault = "kill -9 of a relay while the store was away";
    println!("{fault}: the fleet agreed {} ms after it was back", scene.agree(fault).as_millis());
    scene.store_has_all(fault);

    scene.world.relays.iter_mut().for_each(Relay::kill);
    scene.world.store.kill();
    scene.world.store.forget();
    run(&mut scene.world);
    scene.world.relays.iter_mut().for_each(Relay::start_again);
    let fault = "kill -9 of all relays, and of a store that comes back without data";
    println!("{fault}: the fleet agreed {} ms after they were back", scene.agree(fault).as_millis());
    scene.store_has_all(fault);
}

//! `kill -9` at random moments while events come as fast as they are taken, from a queue that redelivers: nothing
//! is lost, and few lines are repeated. Five times here; `make crash` does it two hundred times.

use crate::queue::{DRAINED, Sample, Scene, Settings};
use crate::wait;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// How many times, where the environment does not say.
const KILLS: u32 = 5;

/// Most messages of a receive: a batch.
const BATCH: u64 = 10;

/// The longest that a daemon lives.
const LIFE: Duration = Duration::from_millis(700);

fn kills() -> u32 {
    std::env::var("GATEPOST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS)
}

#[test]
fn killed_at_random_moments_it_loses_nothing() {
    let scene = Scene::of(
        Settings { visibility: Duration::from_secs(1), insists: true, ..Settings::default() },
        Sample::MIXED,
        1,
    );
    let feeding = Arc::new(AtomicBool::new(true));
    let (more, sample, mut next) = (feeding.clone(), scene.watch.sample, 0..);
    scene.queue.supply(move || more.load(SeqCst).then(|| sample.body(next.next().unwrap_or_default())));

    let kills = kills();
    let (mut repeated, mut worst, mut pollers, mut in_flight) = (0, 0, 0, 0);
    let mut before = 0;
    for _ in 0..kills {
        let mut daemon = scene.start();
        std::thread::sleep(Duration::from_millis(fastrand::u64(20..LIFE.as_millis() as u64)));
        let at_work = scene.home().metric(POLLERS) as u64;
        in_flight = in_flight.max(scene.queue.in_flight());
        daemon.signal("KILL");
        daemon.wait_for_end(wait::LONG);
        pollers = pollers.max(at_work);
        let now = surplus(&scene);
        (repeated, worst, before) = (repeated + now - before, worst.max(now - before), now);
    }
    feeding.store(false, SeqCst);
    let mut daemon = scene.start();
    wait::until("the queue to be empty", DRAINED, || (scene.queue.left() == 0).then_some(()));
    let sent = scene.queue.tally().sent;
    wait::until("every line to be in the log", DRAINED, || (scene.watch.lines().len() as u64 == sent).then_some(()));
    daemon.signal("TERM");
    assert_eq!(daemon.wait_for_end(wait::LONG).0.code(), Some(0), "{}", daemon.stderr());

    let now = surplus(&scene);
    (repeated, worst) = (repeated + now - before, worst.max(now - before));
    let records = scene.queue.records();
    let again = records.iter().filter(|r| r.received > 1).count();
    println!(
        "{kills} kills: {sent} events, {again} of them received again, at most {in_flight} in flight and {pollers} \
         pollers at a kill; {} lines, {repeated} of them repeated, at most {worst} after a kill",
        sent + repeated
    );
    let missing = (0..sent).filter(|n| !scene.watch.has_effect(*n)).count();
    assert_eq!(missing, 0, "suppressions are missing");
    assert!(records.iter().all(|r| r.deleted.is_some()));
    scene.nothing_early();
    assert!(again > 0, "nothing was redelivered: no kill found an event under way");
    assert!(worst <= BATCH * pollers.max(1), "{worst} lines repeated after one kill, with {pollers} pollers");
}

/// Lines in the log beyond one for each event.
fn surplus(scene: &Scene) -> u64 {
    scene.watch.lines().values().map(|n| u64::from(*n) - 1).sum()
}

/// The metric of the pollers at work.
const POLLERS: &str = "gatepost_events_pollers";

//! A queue in every kind of trouble. In the end every event has had its effect and its line, nothing was deleted
//! before both were on disk, questions were answered all the while, and the log says it once.

use crate::gatepost::Daemon;
use crate::queue::{Action, Asking, Fault, Sample, Scene, Settings};
use crate::wait;
use std::time::Duration;

/// Calls that must have met the trouble before it ends: the daemon has tried again.
const ENOUGH: u64 = 3;

/// Runs a daemon through this trouble: ten events before, forty while, ten after it. The trouble goes on until the
/// daemon has met it several times, and has said so in these words (none: it is to say nothing).
fn through(actions: &[Action], fault: Fault, words: &[&str]) -> (Scene, Daemon) {
    let scene = Scene::new();
    let daemon = scene.start();
    scene.send(0..10);
    scene.drained();
    let asking = Asking::begin(scene.home());
    scene.queue.trouble(actions, fault);
    scene.send(10..50);
    wait::until(&format!("the daemon to say {words:?}"), LONGEST, || {
        let said = complaints(&daemon);
        let is_said = words.is_empty() || said.iter().any(|line| words.iter().all(|word| line.contains(word)));
        (is_said && scene.queue.struck() >= ENOUGH).then_some(())
    });
    // How long it is away can be watched: a receive that hangs is given up after half a minute.
    let age = scene.home().metric("gatepost_events_last_success_age_seconds");
    assert!(fault != Fault::Hangs || actions.len() < Action::ALL.len() || age >= 25.0, "{age}");
    let said = complaints(&daemon);
    assert!(said.len() <= words.len(), "more than once, or of something else:\n{}", said.join("\n"));
    scene.queue.heal();
    scene.send(50..60);
    scene.complete(60);
    asking.undisturbed();
    (scene, daemon)
}

/// How long until the daemon has tried [`ENOUGH`] times: where a call is never answered, as often as its timeout.
const LONGEST: Duration = Duration::from_secs(180);

/// Warnings and errors that the daemon has said.
fn complaints(daemon: &Daemon) -> Vec<String> {
    let stderr = daemon.stderr();
    stderr.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).map(str::to_owned).collect()
}

/// As [`through`], for a trouble of all actions; its end is told as well.
fn away(fault: Fault, word: &str) {
    let (scene, daemon) = through(&Action::ALL, fault, &[word]);
    daemon.says(&["INFO", "The queue answers again"]);
    assert!(scene.home().metric("gatepost_events_api_errors_total") >= 1.0);
}

#[test]
fn answers_500() {
    away(Fault::ServerError, "InternalFailure");
}

#[test]
fn throttles() {
    away(Fault::Throttled, "RequestThrottled");
}

#[test]
fn loses_the_connection() {
    away(Fault::Closes, "Queue away");
}

#[test]
fn breaks_off_its_answers() {
    away(Fault::BreaksOff, "Queue away");
}

#[test]
fn finds_the_credentials_expired() {
    away(Fault::ExpiredToken, "ExpiredToken");
}

#[test]
fn does_not_know_the_key() {
    away(Fault::UnknownKey, "InvalidClientTokenId");
}

#[test]
fn denies_access() {
    away(Fault::Denied, "AccessDenied");
}

/// A call that is never answered must be given up.
#[test]
fn hangs() {
    away(Fault::Hangs, "Queue away: no answer in time");
}

/// No trouble: late answers are answers.
#[test]
fn is_slow() {
    let (_scene, daemon) = through(&Action::ALL, Fault::Slow(Duration::from_millis(400)), &[]);
    assert!(complaints(&daemon).is_empty(), "{}", daemon.stderr());
}

/// Bodies that were damaged on their way are not believed, and left to come again.
#[test]
fn damages_bodies() {
    let (scene, _daemon) = through(&[Action::ReceiveMessage], Fault::WrongMd5, &["MD5"]);
    assert!(scene.home().metric("gatepost_events_damaged_total") >= 1.0);
}

#[test]
fn delivers_twice() {
    let (scene, daemon) = through(&[Action::ReceiveMessage], Fault::Twice, &[]);
    assert!(scene.queue.records().iter().any(|r| r.received > 1));
    assert!(scene.home().metric("gatepost_events_duplicates_total") >= 1.0);
    assert!(complaints(&daemon).is_empty(), "{}", daemon.stderr());
}

#[test]
fn deletes_answer_500() {
    through(&Action::DELETES, Fault::ServerError, &["cannot be deleted"]);
}

#[test]
fn deletes_hang() {
    through(&Action::DELETES, Fault::Hangs, &["cannot be deleted"]);
}

#[test]
fn deletes_fail_for_some() {
    let (scene, _daemon) = through(&Action::DELETES, Fault::SomeFail, &[]);
    assert!(scene.home().metric("gatepost_events_failed_deletes_total") >= 1.0);
}

#[test]
fn deletes_call_handles_invalid() {
    let (scene, _daemon) = through(&Action::DELETES, Fault::InvalidHandle, &[]);
    assert!(scene.home().metric("gatepost_events_failed_deletes_total") >= 1.0);
}

/// The daemon does not start its life with a queue.
#[test]
fn is_away_at_the_start() {
    let scene = Scene::new();
    scene.queue.trouble(&Action::ALL, Fault::Closes);
    scene.send(0..30);
    let daemon = scene.start();
    let asking = Asking::begin(scene.home());
    wait::until("the daemon to meet the trouble", LONGEST, || (scene.queue.struck() >= ENOUGH).then_some(()));
    told_while_away(&daemon);
    scene.queue.heal();
    scene.complete(30);
    asking.undisturbed();
}

fn told_while_away(daemon: &Daemon) {
    daemon.says(&["ERROR", "Queue away"]);
    assert!(complaints(daemon).len() <= 2, "{}", daemon.stderr());
}

/// What is deleted was seen; what comes again by another way (a redrive, a retry of SNS) has no further effect.
#[test]
fn brings_the_same_event_in_another_message() {
    let scene = Scene::new();
    let _daemon = scene.start();
    scene.send(0..20);
    scene.drained();
    (0..20).for_each(|n| scene.send_again(n));
    scene.complete(20);
    assert_eq!(scene.home().metric("gatepost_events_duplicates_total"), 20.0);
}

/// With a dead-letter queue, what cannot be read goes there, and soon.
#[test]
fn brings_what_cannot_be_read_and_has_a_dead_letter_queue() {
    let settings = Settings { max_receives: Some(3), ..Settings::default() };
    let scene = Scene::of(settings, Sample::MIXED, 1);
    scene.send(0..10);
    let other = scene.send_other("{\"this\": is no JSON");
    let _daemon = scene.start();
    scene.complete(10);
    assert_eq!(scene.queue.tally().dead, 1);
    assert!(scene.queue.records()[other as usize].deleted.is_none());
}

/// Without one, it goes into the quarantine and out of the queue.
#[test]
fn brings_what_cannot_be_read_and_has_no_dead_letter_queue() {
    let scene = Scene::new();
    scene.send(0..10);
    let other = scene.send_other("{\"this\": is no JSON");
    let _daemon = scene.start();
    scene.complete(10);
    assert!(scene.queue.records()[other as usize].deleted.is_some());
    let kept = scene.home().run(&["events", "quarantine", "list", "--json"]);
    assert!(kept.contains("not JSON"), "{kept}");
}

/// Idle, one poller waits as long as SQS lets it: three calls a minute.
#[test]
fn has_nothing_to_say() {
    let scene = Scene::new();
    let _daemon = scene.start();
    scene.send(0..200);
    scene.complete(200);
    wait::until("one poller to wait for twenty seconds", wait::LONG, || {
        (scene.queue.waiting_receives() == [20]).then_some(())
    });
    let before = scene.queue.tally().all_calls();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(scene.queue.waiting_receives(), [20]);
    assert_eq!(scene.queue.tally().all_calls(), before);
    assert_eq!(scene.home().metric("gatepost_events_pollers"), 1.0);
}

/// Under load, few calls: batches are full.
#[test]
fn is_busy() {
    let scene = Scene::new();
    scene.send(0..1000);
    let _daemon = scene.start();
    scene.complete(1000);
    let calls = scene.queue.tally().all_calls();
    assert!(calls <= 250, "{calls} calls for 1000 events");
}

/// It can be stopped in any trouble, within a second.
#[test]
fn hangs_while_the_daemon_stops() {
    let scene = Scene::new();
    let mut daemon = scene.start();
    scene.send(0..10);
    scene.drained();
    scene.queue.trouble(&Action::ALL, Fault::Hangs);
    scene.send(10..20);
    wait::until("a call to hang", wait::LONG, || (scene.queue.struck() >= 1).then_some(()));
    daemon.signal("TERM");
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
    assert!(took < wait::promised(Duration::from_secs(1)), "{took:?}");
    scene.queue.heal();
    let _daemon = scene.start();
    scene.complete(20);
}

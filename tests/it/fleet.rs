//! Three relays as one: a bounce that one consumes closes the door of all, a limit holds over the three of them, an event
//! counts once however often and by whomever it is read.

use crate::aws::{Aws, Ses};
use crate::fleet_world::{Plan, RELAYS, Relay, World, charge};
use crate::queue::DRAINED;
use crate::valkey::FORGETFUL;
use crate::wait;
use serde_json::json;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Within how long after one relay has taken it an event is in force on all.
const EVERYWHERE: Duration = Duration::from_secs(1);

/// How many events are delivered twice at once.
const TWICE: usize = 40;

/// The relays, and what stands for Amazon.
struct Fleet {
    world: World,
    ses: Ses,
    aws: Aws,
}

impl Fleet {
    fn start() -> Self {
        let aws = Aws::start(&["RawDelivery=true"]);
        // The identity's notifications carry no tags: who sent the mail is known by what the relays tell each other.
        let ses = Ses::publishing_with(&aws, &["--notifications", "--no-events"]);
        let plan = Plan {
            sections: aws.output("GatepostToml"),
            environment: aws.environment(),
            set: vec![ses.relayhost()],
            ..Plan::default()
        };
        Self { world: World::start(FORGETFUL, &plan), ses, aws }
    }

    /// The relays in whose logs a line holds all of `words`, once for each such line, with the line.
    fn lines(&self, words: &[&str]) -> Vec<(usize, String)> {
        let logs = self.world.relays.iter().map(|relay| relay.home.log()).enumerate();
        let lines = logs.flat_map(|(n, log)| log.lines().map(|line| (n, line.to_owned())).collect::<Vec<_>>());
        lines.filter(|(_, line)| words.iter().all(|word| line.contains(word))).collect()
    }

    fn send_body(&mut self, body: &str) {
        let url = self.aws.output("QueueUrl");
        self.aws.call("sqs.send_message", &json!({"QueueUrl": url, "MessageBody": body}));
    }

    /// Waits until nothing is left in the queue.
    fn read(&mut self) {
        wait::until("every event to be read", DRAINED, || (self.aws.depth("QueueUrl") == (0, 0)).then_some(()));
    }
}

/// A bounce as an identity tells it.
fn bounce(n: usize) -> (String, String) {
    let (to, id) = (format!("gone{n}@example.net"), format!("0102019b{n:08x}-5c1e-000000"));
    let time = jiff::Timestamp::now().to_string();
    let bounced = json!([{"emailAddress": to, "action": "failed", "status": "5.1.1",
        "diagnosticCode": "smtp; 550 5.1.1 user unknown"}]);
    let body = json!({"notificationType": "Bounce",
        "bounce": {"feedbackId": id, "bounceType": "Permanent", "bounceSubType": "General", "bouncedRecipients": bounced,
            "timestamp": time},
        "mail": {"timestamp": time, "source": "info@example.com", "messageId": id, "destination": [to],
            "sendingAccountId": "123456789012"}});
    (id, body.to_string())
}

#[test]
fn three_relays_know_what_one_has_read() {
    let mut fleet = Fleet::start();
    for sender in 0..RELAYS {
        a_bounce_closes_every_door(&fleet, sender);
    }
    fleet.read();
    events_that_come_twice_at_once_count_once(&mut fleet);
    an_event_that_comes_again_to_another_relay_counts_once(&mut fleet);
}

/// Mail by one relay, whose bounce is read by whoever gets it.
fn a_bounce_closes_every_door(fleet: &Fleet, sender: usize) {
    let (subject, to) = (format!("by {sender}"), format!("gone-{sender}@example.net"));
    let relay = &fleet.world.relays[sender];
    relay.postfix.session().mail("info@example.com", &[&to], &subject).expect(250, &[]);
    let mail = fleet.ses.message(&subject);
    let words = [mail.id.as_str(), &to, "status=bounced"];
    let began = Instant::now();
    let mut sessions: Vec<_> = fleet.world.relays.iter().map(|relay| relay.postfix.session()).collect();
    let (mut told, mut refused) = (None, [None; RELAYS]);
    let since = format!("Suppressed since {}", &jiff::Timestamp::now().to_string()[..7]);
    wait::until("every relay to refuse it", wait::LONG, || {
        for (session, refused) in sessions.iter_mut().zip(&mut refused).filter(|(_, refused)| refused.is_none()) {
            let asked = began.elapsed();
            let reply = session.ask("info@example.com", &to);
            if reply.code == 550 {
                reply.expect(550, &[&format!("550 5.1.1 <{to}>: Recipient address rejected: {since}"), "user unknown"]);
                *refused = Some(asked);
            }
        }
        told = told.or_else(|| (!fleet.lines(&words).is_empty()).then(|| began.elapsed()));
        (told.is_some() && refused.iter().all(Option::is_some)).then_some(())
    });
    let times = || refused.iter().flatten();
    let effect = times().chain(&told).min().copied().unwrap_or_default();
    let last = times().max().copied().unwrap_or_default() - effect;
    assert!(last < EVERYWHERE, "the last relay refused {last:?} after the first knew it");

    let lines = fleet.lines(&words);
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (reader, line) = &lines[0];
    println!("sent by {}, read by {}, refused by all after {last:?}", relay.name, fleet.world.relays[*reader].name);
    let queue_id = relay.postfix.log_line(&[&mail.id, "status=sent"]);
    let queue_id = queue_id.split("]: ").nth(1).and_then(|rest| rest.split(':').next()).expect("a queue id");
    let correlation_id = relay.home.log_line(&[&format!("{queue_id}: correlation_id=")]);
    let correlation_id = correlation_id.split("correlation_id=").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    let ids = format!("queue_id={queue_id}, correlation_id={}", correlation_id.expect("a correlation id"));
    for words in [ids, format!("sent_by={}", relay.name)] {
        assert!(line.contains(&words), "no {words} in {line}");
    }
}

/// Two copies of each in the queue at once, read by whoever gets them.
fn events_that_come_twice_at_once_count_once(fleet: &mut Fleet) {
    let bounces: Vec<_> = (0..TWICE).map(bounce).collect();
    for (_, body) in &bounces {
        fleet.send_body(body);
        fleet.send_body(body);
    }
    fleet.read();
    for (id, _) in &bounces {
        wait::until("its line", wait::LONG, || (!fleet.lines(&[id]).is_empty()).then_some(()));
    }
    for (id, _) in &bounces {
        let lines = fleet.lines(&[id]);
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    let lines = fleet.lines(&["0102019b"]);
    let of_each: Vec<_> = (0..RELAYS).map(|n| lines.iter().filter(|line| line.0 == n).count()).collect();
    let elsewhere = fleet.world.metric("gatepost_events_elsewhere_total");
    let before = fleet.world.metric("gatepost_events_duplicates_total");
    println!(
        "{TWICE} events delivered twice at once: {of_each:?} lines, {elsewhere} met at another relay, {before} known"
    );
    assert!(of_each.iter().filter(|count| **count > 0).count() > 1, "one relay read all of them");
}

/// The copy is read by the relay that did not read the first one, from a file.
fn an_event_that_comes_again_to_another_relay_counts_once(fleet: &mut Fleet) {
    let (id, body) = bounce(TWICE);
    fleet.send_body(&body);
    wait::until("its line", wait::LONG, || (!fleet.lines(&[&id]).is_empty()).then_some(()));
    fleet.read();
    let reader = fleet.lines(&[&id])[0].0;
    let other = &fleet.world.relays[(reader + 1) % RELAYS];
    let file = other.home.path("again.json");
    std::fs::write(&file, &body).unwrap();
    println!("{}", other.home.run(&["ingest", file.to_str().expect("a path of ours")]));
    let (other_id, other_body) = bounce(TWICE + 1);
    std::fs::write(&file, other_body).unwrap();
    other.home.run(&["ingest", file.to_str().expect("a path of ours")]);
    wait::until("the line of what came after it", wait::LONG, || (!fleet.lines(&[&other_id]).is_empty()).then_some(()));
    assert_eq!(fleet.lines(&[&id]).len(), 1);
}

/// A slow limit for the mail of real clients, a fast one for the questions of many; each sender counts apart.
fn rates() -> String {
    let slow = "[[limit]]\nname = \"shared\"\nkey = \"sender\"\ncount = \"messages\"\nrate = \"100/min burst 20\"\n";
    let fast = (0..TRIES).map(|n| format!("\"fast{n}@example.com\" = \"6000/min burst 50\"\n"));
    format!("{slow}[limit.override]\n{}", fast.collect::<String>())
}

/// How often it is tried again where this machine was too busy for the store to answer each question within 20 ms: what
/// relays grant by themselves then is counted, and comes on top.
const TRIES: usize = 8;

/// How long clients try.
const TRYING: Duration = Duration::from_secs(3);

/// Clients of each relay.
const CLIENTS: usize = 3;

#[test]
fn a_limit_holds_over_three_relays_under_load() {
    let world = World::start(FORGETFUL, &Plan { policy: rates(), ..Plan::default() });
    let mail = |n| {
        let from = format!("slow{n}@example.com");
        let client = |relay: &Relay| {
            let (mut session, from) = (relay.postfix.session(), from.clone());
            move || {
                thread::sleep(Duration::from_millis(50));
                session.mail(&from, &["user@example.net"], "limited").code == 250
            }
        };
        tried(&world, client).holds("real mail, 100/min burst 20", 20.0, 100.0 / 60.0)
    };
    let questions = |n| {
        let from = format!("fast{n}@example.com");
        let client = |relay: &Relay| {
            let (mut asker, from) = (relay.home.asker(), from.clone());
            move || {
                thread::sleep(Duration::from_millis(2));
                charge(&mut asker, &from)
            }
        };
        tried(&world, client).holds("questions, 6000/min burst 50", 50.0, 100.0)
    };
    assert!((0..TRIES).any(mail), "no mail without questions that relays answered by themselves");
    assert!((0..TRIES).any(questions), "no questions without some that relays answered by themselves");
    wait::until("the mail", wait::LONG, || (world.arrived().len() >= 20).then_some(()));
}

/// Questions that the relays' own meters answered, for the store did not in time.
pub const FALLBACKS: &str = "gatepost_limits_shared_total{result=\"fallback\"";

/// What clients of all relays were granted.
struct Tried {
    accepted: usize,
    refused: usize,
    /// Questions that the store did not answer.
    fallbacks: f64,
    /// From before the first question to after the last answer.
    at_most: Duration,
    /// From after the first answer to before the last question.
    at_least: Duration,
}

/// Tries with some clients of each relay, all at once, as fast as they can.
fn tried<T: FnMut() -> bool + Send>(world: &World, client: impl Fn(&Relay) -> T) -> Tried {
    let clients: Vec<_> = world.relays.iter().flat_map(|relay| (0..CLIENTS).map(|_| client(relay))).collect();
    let (all, fallbacks) = (Barrier::new(clients.len()), world.metric(FALLBACKS));
    let results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = clients
            .into_iter()
            .map(|mut ask| {
                let all = &all;
                scope.spawn(move || {
                    all.wait();
                    let (began, mut counts, mut first, mut last) = (Instant::now(), [0, 0], None, Instant::now());
                    while began.elapsed() < TRYING {
                        last = Instant::now();
                        counts[usize::from(!ask())] += 1;
                        first.get_or_insert_with(Instant::now);
                    }
                    (counts, began, first.unwrap_or(last), last, Instant::now())
                })
            })
            .collect();
        running.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let earliest = |time: fn(&Result) -> Instant| results.iter().map(time).min().expect("clients");
    let latest = |time: fn(&Result) -> Instant| results.iter().map(time).max().expect("clients");
    Tried {
        accepted: results.iter().map(|r| r.0[0]).sum(),
        refused: results.iter().map(|r| r.0[1]).sum(),
        fallbacks: world.metric(FALLBACKS) - fallbacks,
        at_most: latest(|r| r.4) - earliest(|r| r.1),
        at_least: latest(|r| r.3) - earliest(|r| r.2),
    }
}

/// Accepted and refused; begun, first answered, last asked, ended.
type Result = ([usize; 2], Instant, Instant, Instant, Instant);

impl Tried {
    /// At most burst + rate * t, and at least 99 % of it; what relays granted by themselves comes on top. Whether there
    /// was none of that.
    fn holds(&self, what: &str, burst: f64, per_second: f64) -> bool {
        let allowed = |time: Duration| burst + per_second * time.as_secs_f64();
        let (most, least) = (allowed(self.at_most), (allowed(self.at_least) * 0.99).floor());
        let (accepted, fallbacks) = (self.accepted as f64, self.fallbacks);
        println!(
            "{what}: {accepted} accepted, {} refused in {:.3?}; at most {most:.2}, at least {least}; {fallbacks} without \
             the store",
            self.refused, self.at_most
        );
        assert!(accepted - fallbacks <= most && accepted >= least, "{what}: {accepted}, not {least} to {most}");
        assert!(self.refused > self.accepted, "{what}: no load");
        fallbacks == 0.0
    }
}

//! Mail all the while, through every relay of a fleet: what of it was accepted and refused, when, and how long it took.

use crate::fleet_world::World;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two mails of a client: relays with some work, and a machine with room for what else it does.
const PAUSE: Duration = Duration::from_millis(10);

/// Mails of one session.
const SESSION: usize = 20;

/// What became of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted, with this subject.
    Accepted(String),
    /// Its recipient is suppressed.
    Refused,
    /// What Postfix said instead.
    Wrong(String),
}

/// A mail.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The number of the relay.
    pub relay: usize,
    pub outcome: Outcome,
    pub asked: Instant,
    pub took: Duration,
}

/// Clients that send.
pub struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Mail>>>,
}

impl Load {
    /// Begins: one client of each relay, whose every other mail is for one of `known`, which are to be refused. The
    /// subjects of the others begin with `word`.
    pub fn begin(world: &World, known: &[String], word: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let clients = world.relays.iter().enumerate().map(|(relay, with)| {
            let client = Client {
                relay,
                port: with.postfix.port(),
                known: known.to_vec(),
                word: word.to_owned(),
                over: Arc::clone(&over),
                sent: Vec::new(),
            };
            thread::spawn(move || client.run())
        });
        Self { clients: clients.collect(), over }
    }

    /// Ends; all that was sent.
    pub fn end(self) -> Sent {
        self.over.store(true, Ordering::SeqCst);
        Sent(self.clients.into_iter().flat_map(|client| client.join().expect("a client that is served")).collect())
    }
}

struct Client {
    relay: usize,
    port: u16,
    known: Vec<String>,
    word: String,
    over: Arc<AtomicBool>,
    sent: Vec<Mail>,
}

impl Client {
    fn run(mut self) -> Vec<Mail> {
        while !self.over.load(Ordering::SeqCst) {
            self.session();
        }
        self.sent
    }

    fn session(&mut self) {
        let mut session = crate::smtp::Session::open(self.port);
        for _ in 0..SESSION {
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            let n = self.sent.len();
            let known = self.known[n % self.known.len()].clone();
            self.note(|| match session.ask("info@example.com", &known) {
                reply if reply.code == 550 => Outcome::Refused,
                reply => Outcome::Wrong(format!("{known}: {}", reply.text)),
            });
            let subject = format!("{} {n} of {}", self.word, self.relay);
            self.note(|| match session.mail("info@example.com", &["user@example.net"], &subject) {
                reply if reply.code == 250 => Outcome::Accepted(subject),
                reply => Outcome::Wrong(reply.text),
            });
            thread::sleep(PAUSE);
        }
        session.say("QUIT").expect(221, &[]);
    }

    fn note(&mut self, send: impl FnOnce() -> Outcome) {
        let asked = Instant::now();
        let outcome = send();
        self.sent.push(Mail { relay: self.relay, outcome, asked, took: asked.elapsed() });
    }
}

/// What was sent.
pub struct Sent(Vec<Mail>);

/// Counts of a span of time.
pub struct Count {
    pub accepted: usize,
    pub refused: usize,
    pub slowest: Duration,
}

impl Sent {
    /// What was neither accepted nor refused as it was to be.
    pub fn wrong(&self) -> Vec<String> {
        let wrong = self.0.iter().filter_map(|mail| match &mail.outcome {
            Outcome::Wrong(said) => Some(said.clone()),
            Outcome::Accepted(_) | Outcome::Refused => None,
        });
        wrong.collect()
    }

    /// The subjects of what was accepted.
    pub fn accepted(&self) -> HashSet<String> {
        let accepted = self.0.iter().filter_map(|mail| match &mail.outcome {
            Outcome::Accepted(subject) => Some(subject.clone()),
            Outcome::Wrong(_) | Outcome::Refused => None,
        });
        accepted.collect()
    }

    /// What was asked between two times.
    pub fn count(&self, from: Instant, to: Instant) -> Count {
        let mut count = Count { accepted: 0, refused: 0, slowest: Duration::ZERO };
        for mail in self.0.iter().filter(|mail| (from..to).contains(&mail.asked)) {
            count.slowest = count.slowest.max(mail.took);
            match mail.outcome {
                Outcome::Accepted(_) => count.accepted += 1,
                Outcome::Refused => count.refused += 1,
                Outcome::Wrong(_) => {}
            }
        }
        count
    }

    /// The longest time in which a relay accepted nothing.
    pub fn longest_gap(&self) -> Duration {
        let relays: HashSet<_> = self.0.iter().map(|mail| mail.relay).collect();
        let gaps = relays.into_iter().flat_map(|relay| {
            let of_relay = self.0.iter().filter(move |mail| mail.relay == relay);
            let times: Vec<_> = of_relay
                .filter(|mail| matches!(mail.outcome, Outcome::Accepted(_)))
                .map(|mail| mail.asked + mail.took)
                .collect();
            times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
        });
        gaps.max().unwrap_or(Duration::MAX)
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} (slowest {} ms)", self.accepted, self.refused, self.slowest.as_millis())
    }
}

//! One question, answered: from the words of the protocol to the words of `decide`, and back. What
//! `decide` may not do is done here: the clock is read, a suppression is confirmed in the store,
//! limits are charged once, lines are written.

use super::case::Case;
use super::codec::{Request, State, write_reply};
use super::stats::{Kind, LATENCY_BOUNDS_US, Stats, is_worth_a_line};
use crate::decide::{self, Charges, Checks, Finding, Judgement, Nobody, Question, Verdict, Weight};
use crate::fleet::Limiter;
use crate::lines::{Outlet, Word};
use crate::mail::Canonical;
use crate::meters::{Charge, Collected, Domains, Granted, Grants, Meters, OwnedCharge};
use crate::rules::{KeyKind, Mode, Rules};
use crate::store::Entry;
use crate::suppression::{Confirmer, Index};
use arc_swap::ArcSwap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// How long a suppression hit may wait for the store; past it the mail passes (invariant 7).
pub const CONFIRM_DEADLINE: Duration = Duration::from_millis(50);

/// How many reads of the store may be under way: one SQLite read takes some 20 µs, and a disk that
/// hangs must not take a thread for every question.
const CONFIRMS_AT_ONCE: usize = 8;

/// DATA and END-OF-MESSAGE of one message are one charge, wherever the operator asks.
const ONCE_A_MESSAGE: &[u8] = b"DATA";

/// How many different odd things are warned about; each is warned about once.
const MAX_WARNED: usize = 100;

/// What all connections share: the rules in force, the index, the counters.
#[derive(Debug)]
pub struct House {
    /// The snapshot of the rules; one question is judged by one of them.
    pub rules: ArcSwap<Rules>,
    /// The suppression index.
    pub index: Arc<Index>,
    /// Reads entries from the store.
    pub confirmer: Arc<Confirmer>,
    /// The counters of the limits.
    pub meters: Arc<Meters>,
    /// The limits of a fleet; `None`: this relay counts for itself.
    pub shared: Option<Arc<Limiter>>,
    /// Charges that were granted already.
    pub grants: Grants,
    /// Recipient domains by message.
    pub collected: Collected,
    /// What was decided, counted.
    pub stats: Arc<Stats>,
    /// Where decision lines go.
    pub outlet: Outlet,
    confirms: Arc<Semaphore>,
    warned: Mutex<HashSet<String>>,
}

impl House {
    /// A house with the given rules and fresh memories.
    #[must_use]
    pub fn new(
        rules: Arc<Rules>,
        index: Arc<Index>,
        confirmer: Arc<Confirmer>,
        meters: Arc<Meters>,
        outlet: Outlet,
    ) -> Self {
        Self {
            rules: ArcSwap::new(rules),
            index,
            confirmer,
            meters,
            shared: None,
            grants: Grants::new(),
            collected: Collected::new(),
            stats: Arc::default(),
            outlet,
            confirms: Arc::new(Semaphore::new(CONFIRMS_AT_ONCE)),
            warned: Mutex::default(),
        }
    }

    /// Reads the entry of a recipient in the store; `None` where there is none, or where the store cannot say so in
    /// time: then suppression is open for this question, and that is counted. `now` is Unix time.
    pub async fn confirm(&self, recipient: &Canonical, now: Duration) -> Option<Arc<Entry>> {
        if let Some(entry) = self.confirmer.cached(recipient.as_bytes(), now.as_secs()) {
            return Some(entry);
        }
        let address = recipient.as_bytes().to_vec();
        let confirmer = self.confirmer.clone();
        let read = async {
            let turn = self.confirms.clone().acquire_owned().await.ok()?;
            let read = move || {
                // Held until the read has ended, not until its asker gave up.
                let _turn = turn;
                confirmer.read(&address, now.as_secs())
            };
            tokio::task::spawn_blocking(read).await.ok()
        };
        let trouble = match tokio::time::timeout(CONFIRM_DEADLINE, read).await {
            Ok(Some(Ok(entry))) => return entry,
            Ok(Some(Err(error))) => error.to_string(),
            Ok(None) => "the reader stopped".to_owned(),
            Err(_) => format!("no answer within {} ms", CONFIRM_DEADLINE.as_millis()),
        };
        if is_worth_a_line(self.stats.unconfirmed.fetch_add(1, Relaxed)) {
            tracing::error!(
                trouble,
                "The store cannot confirm a suppressed recipient; suppression is open, the mail passes."
            );
        }
        None
    }

    /// [`Meters::charge_once`], by the fleet's limiter. It waits for the store, within a limit's deadline.
    pub async fn charge_shared(
        &self,
        shared: &Limiter,
        instance: &[u8],
        asked: &[u8],
        charges: &[Charge<'_>],
        now: Duration,
    ) -> Granted {
        if self.grants.knows(instance, &[asked], now) {
            return Granted::Repeat;
        }
        let began = Instant::now();
        let outcome = shared.charge(charges, now).await;
        self.stats.limits_asked.add(&LATENCY_BOUNDS_US, began.elapsed());
        if outcome.refused.is_none() {
            self.grants.remember(instance, &[asked], now);
        }
        Granted::New(outcome)
    }

    /// Warns about `what` the first time it is seen.
    fn warn_once(&self, what: String) {
        let Ok(mut warned) = self.warned.lock() else { return };
        if warned.len() < MAX_WARNED && !warned.contains(&what) {
            tracing::warn!("{what}");
            warned.insert(what);
        }
    }
}

/// Answers the questions of one connection; holds its scratch space.
#[derive(Debug)]
pub struct Answerer {
    house: Arc<House>,
    sender: Canonical,
    recipient: Canonical,
}

/// What is left to do after the part that needs no wait.
enum Step {
    Answered,
    /// Ask the store, and go on with the snapshot that the question is judged by.
    Confirm(Mode, Arc<Rules>),
    /// Charge what the fleet counts together.
    Charge(Box<Shared>),
}

/// Charges that wait for the fleet's store, and what the question was judged by.
struct Shared {
    limiter: Arc<Limiter>,
    charges: Vec<OwnedCharge>,
    rules: Arc<Rules>,
    about_recipient: bool,
}

impl Answerer {
    /// An answerer for one connection.
    #[must_use]
    pub fn new(house: Arc<House>) -> Self {
        Self { house, sender: Canonical::default(), recipient: Canonical::default() }
    }

    /// Answers one request: appends exactly one reply to `out`.
    /// `now` is Unix time.
    pub async fn answer(&mut self, request: &Request<'_>, now: Duration, out: &mut Vec<u8>) {
        let mut step = self.judge(request, now, &self.house.rules.load(), false, out);
        if let Step::Confirm(mode, rules) = step {
            if let Some(entry) = self.house.confirm(&self.recipient, now).await
                && self.suppressed(request, &rules, mode, &entry, out)
            {
                return;
            }
            step = self.judge(request, now, &rules, true, out);
        }
        if let Step::Charge(shared) = step {
            // In a box: every connection would hold the room for it.
            Box::pin(self.charge(request, now, &shared, out)).await;
        }
    }

    /// Everything that needs no wait: one snapshot, one judgement. `not_suppressed`: the same again,
    /// now that the store has said that nothing stands against the recipient, or that it is observed only.
    fn judge(
        &mut self,
        request: &Request<'_>,
        now: Duration,
        rules: &Arc<Rules>,
        not_suppressed: bool,
        out: &mut Vec<u8>,
    ) -> Step {
        let Self { house, sender, recipient } = self;
        sender.set_internal(request.sender, &rules.rewriting);
        let checks = checks_of(request, house);
        let by_domain = checks.limits && wants_domains(rules);
        let about_recipient = (checks.recipient || by_domain) && !request.recipient.is_empty();
        if about_recipient {
            recipient.set_internal(request.recipient, &rules.rewriting);
        }
        let named = about_recipient.then_some(&*recipient);
        let domains = if by_domain { domains_of(request, named, house, now) } else { Default::default() };
        let question = Question {
            checks,
            sender,
            recipient: about_recipient.then_some(recipient),
            client: client_of(request),
            sasl_username: request.sasl_username,
            recipient_count: request.recipient_count.max(1),
            recipient_domains: &domains,
            now: now.as_secs(),
        };
        let Judgement { verdict, observed } = if not_suppressed {
            decide::decide(&question, rules, &Nobody)
        } else {
            decide::decide(&question, rules, &*house.index)
        };
        let case = Case { recipient: question.recipient, ..Case::of(request, house, rules, sender) };
        if !not_suppressed {
            observed.iter().for_each(|finding| case.would(finding));
        }
        let collect = || {
            if checks.recipient && request.state == State::Rcpt && wants_domains(rules) {
                house.collected.collect(request.instance, recipient.as_bytes(), recipient.domain(), now);
            }
        };
        match verdict {
            Verdict::Confirm { mode } => return Step::Confirm(mode, Arc::clone(rules)),
            Verdict::Decided(finding) => {
                if finding.answer.weight() == Weight::GoesOn {
                    collect();
                }
                case.answer(&finding, out);
            }
            Verdict::Charge(charges) => {
                if let Some(limiter) = house.shared.clone() {
                    let charges = charges.iter().map(OwnedCharge::from).collect();
                    let rules = Arc::clone(rules);
                    return Step::Charge(Box::new(Shared { limiter, charges, rules, about_recipient }));
                }
                let House { meters, grants, .. } = &**house;
                let granted = meters.charge_once(grants, request.instance, &[ONCE_A_MESSAGE], &charges, now);
                case.limited(granted, &charges, out);
            }
            Verdict::Pass => {
                collect();
                case.dunno(out);
            }
        }
        Step::Answered
    }

    /// Answers once the fleet's limits are charged.
    async fn charge(&self, request: &Request<'_>, now: Duration, shared: &Shared, out: &mut Vec<u8>) {
        let Shared { limiter, charges, rules, about_recipient } = shared;
        let charges: Charges<'_> = charges.iter().map(OwnedCharge::as_charge).collect();
        let granted = self.house.charge_shared(limiter, request.instance, ONCE_A_MESSAGE, &charges, now).await;
        let recipient = about_recipient.then_some(&self.recipient);
        let case = Case { recipient, ..Case::of(request, &self.house, rules, &self.sender) };
        case.limited(granted, &charges, out);
    }

    /// Answers for a recipient whose entry stands. False: it is observed only, and nothing was answered.
    fn suppressed(&self, request: &Request<'_>, rules: &Rules, mode: Mode, entry: &Entry, out: &mut Vec<u8>) -> bool {
        let recipient = Some(&self.recipient);
        let case = Case { recipient, ..Case::of(request, &self.house, rules, &self.sender) };
        let finding = decide::suppressed(mode, entry);
        if mode == Mode::Enforce {
            case.answer(&finding, out);
        } else {
            case.would(&finding);
        }
        mode == Mode::Enforce
    }
}

/// The answers to a question, with what is counted and logged of each.
impl<'a> Case<'a> {
    fn of(request: &Request<'a>, house: &'a House, rules: &'a Rules, sender: &'a Canonical) -> Self {
        Self {
            house,
            rules,
            sender,
            recipient: None,
            named: request.recipient,
            client: request.client_address,
            sasl_username: request.sasl_username,
            instance: request.instance,
            queue_id: request.queue_id,
        }
    }

    fn dunno(&self, out: &mut Vec<u8>) {
        self.house.stats.decided(None, Kind::Dunno);
        write_reply("DUNNO", out);
    }

    /// Gives the answer of an enforced finding.
    fn answer(&self, finding: &Finding<'_>, out: &mut Vec<u8>) {
        let (word, kind) = match finding.answer.weight() {
            Weight::Rejects => (Word::Reject, Kind::Reject),
            Weight::Defers => (Word::Reject, Kind::Defer),
            Weight::GoesOn => (Word::Pass, Kind::Pass),
        };
        self.house.stats.decided(Some(finding.check), kind);
        self.line(word, finding);
        write_reply(&finding.answer.to_string(), out);
    }

    /// Answers for charges that were made, or not.
    fn limited(&self, granted: Granted, charges: &Charges<'_>, out: &mut Vec<u8>) {
        match self.tell(granted, charges, |finding| self.would(finding)) {
            Some(finding) => self.answer(&finding, out),
            None => self.dunno(out),
        }
    }

    /// Logs what an observed check would have answered.
    fn would(&self, finding: &Finding<'_>) {
        self.house.stats.decided(Some(finding.check), Kind::Would);
        self.line(Word::WouldReject, finding);
    }
}

/// Which checks a question is for: `policy_context` says it; without one, or with one that is not
/// known, the protocol state does.
fn checks_of(request: &Request<'_>, house: &House) -> Checks {
    let at_data = matches!(request.state, State::Data | State::EndOfMessage);
    match request.policy_context {
        // Before MAIL there is no sender, and an empty one would be taken for the null sender.
        b"sender" if request.state == State::Other => Checks::default(),
        b"sender" => Checks { sender: true, ..Checks::default() },
        b"recipient" => Checks { recipient: true, ..Checks::default() },
        b"data" if at_data => Checks { limits: true, ..Checks::default() },
        b"data" => {
            house.warn_once(
                "policy_context=data was asked before DATA: put that check_policy_service into \
                 smtpd_data_restrictions; limits are not charged."
                    .to_owned(),
            );
            Checks::default()
        }
        other => {
            if !other.is_empty() {
                let other = crate::mail::Printable::new(other, 64);
                house.warn_once(format!(
                    "policy_context={other} is not known (sender, recipient and data are); the protocol state decides."
                ));
            }
            by_state(request.state)
        }
    }
}

fn by_state(state: State) -> Checks {
    match state {
        State::Mail => Checks { sender: true, ..Checks::default() },
        State::Rcpt => Checks { sender: true, recipient: true, limits: false },
        State::Data => Checks { limits: true, ..Checks::default() },
        State::EndOfMessage | State::Other => Checks::default(),
    }
}

fn wants_domains(rules: &Rules) -> bool {
    rules.limits.iter().any(|limit| limit.key == KeyKind::RecipientDomain && limit.mode != Mode::Off)
}

/// The recipients of a message by domain: those collected from its RCPT questions; without them the
/// one recipient that DATA names, if it does.
fn domains_of(request: &Request<'_>, recipient: Option<&Canonical>, house: &House, now: Duration) -> Domains {
    let collected = house.collected.peek(request.instance, request.recipient_count, now);
    let named = recipient.map(Canonical::domain).filter(|domain| !domain.is_empty());
    match named {
        Some(domain) if collected.is_empty() => Domains::from_iter([(domain.into(), 1)]),
        _ => collected,
    }
}

fn client_of(request: &Request<'_>) -> Option<IpAddr> {
    let address: IpAddr = std::str::from_utf8(request.client_address).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

/// Time since the Unix epoch; zero where the clock stands before it.
#[must_use]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

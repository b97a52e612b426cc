//! The core: what is the answer to a question, by one snapshot of the rules? Synchronous, no I/O,
//! no clock, cannot fail (invariant 1). Adapters (the delegation server, the milter, `explain`)
//! bring the question and carry out what it says: confirm a suppression in the store,
//! charge the limits.

use crate::mail::{Canonical, Reply, ReplyCode, Rewriting};
use crate::meters::{Charge, Key, Refused, Why};
use crate::rules::{Action, Allowlist, Count, DropOrRefuse, KeyKind, Limit, ListRules, Mode, Quota, Rate, Rules};
use crate::store::Entry;
use smallvec::SmallVec;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// Which checks a question is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// The sender allowlist.
    pub sender: bool,
    /// Suppression and `allowed_recipients`.
    pub recipient: bool,
    /// The limits.
    pub limits: bool,
}

/// One question, protocol apart. Addresses are canonical.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Which checks to run.
    pub checks: Checks,
    /// The envelope sender; empty: the null sender.
    pub sender: &'a Canonical,
    /// The recipient, where the question is about one.
    pub recipient: Option<&'a Canonical>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The SASL user; empty: none.
    pub sasl_username: &'a [u8],
    /// How many recipients the message has: what `count = "recipients"` charges. At least 1.
    pub recipient_count: u32,
    /// The recipients by domain, for `recipient_domain` limits; empty where they are not known.
    pub recipient_domains: &'a [(Box<[u8]>, u32)],
    /// Unix seconds.
    pub now: u64,
}

/// Which addresses may be suppressed. The index in memory is one.
pub trait Suppressed {
    /// Whether the canonical address `key` may be suppressed at `now` (Unix seconds).
    fn may_hold(&self, key: &[u8], now: u64) -> bool;
}

/// No address is suppressed: for a question whose recipient the store did not confirm.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Suppressed for Nobody {
    fn may_hold(&self, _: &[u8], _: u64) -> bool {
        false
    }
}

impl Suppressed for crate::suppression::Index {
    fn may_hold(&self, key: &[u8], now: u64) -> bool {
        self.contains(key, now)
    }
}

/// The check that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// `allowed_senders`.
    Senders,
    /// `allowed_recipients`.
    Recipients,
    /// The suppression list.
    Suppression,
    /// A `[[limit]]`.
    Limits,
}

impl Check {
    /// All checks, for metrics.
    pub const ALL: [Self; 4] = [Self::Senders, Self::Recipients, Self::Suppression, Self::Limits];

    /// The word in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Senders => "senders",
            Self::Recipients => "recipients",
            Self::Suppression => "suppression",
            Self::Limits => "limits",
        }
    }
}

/// What deserves to be logged: an answer other than "go on", or one that would have been.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding<'r> {
    /// The check.
    pub check: Check,
    /// Its mode: observe means that the answer is not given.
    pub mode: Mode,
    /// The rule.
    pub rule: Rule<'r>,
    /// What Postfix is (or would be) told.
    pub answer: Answer<'r>,
}

/// The rule that decided, as the log and `explain` name it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule<'r> {
    /// An entry of a list, by line.
    Listed {
        /// `allowed_senders` or `allowed_recipients`.
        file: &'static str,
        /// From 1.
        line: u32,
    },
    /// No entry of a list.
    Unlisted {
        /// `allowed_senders` or `allowed_recipients`.
        file: &'static str,
    },
    /// An entry that allows the sender, but not from here.
    Unbound {
        /// `allowed_senders` or `allowed_recipients`.
        file: &'static str,
        /// From 1.
        line: u32,
    },
    /// An entry of the suppression list.
    Suppressed,
    /// A limit.
    Limit(&'r Arc<Limit>),
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listed { file, line } => write!(f, "{file}:{line}"),
            Self::Unlisted { file } => write!(f, "{file}:unlisted"),
            Self::Unbound { file, line } => write!(f, "{file}:{line}:condition"),
            Self::Suppressed => f.write_str("suppression-list"),
            Self::Limit(limit) => write!(f, "policy.toml:{}:{}", limit.line, limit.name),
        }
    }
}

/// What Postfix is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer<'r> {
    /// A refusal of ours.
    Refuse(Reply),
    /// An access(5) action of the operator's file, as Postfix spells it.
    Pass(&'r str),
}

/// What an answer means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Refuses nobody.
    GoesOn,
    /// Refuses for now (4xx).
    Defers,
    /// Refuses for good (5xx).
    Rejects,
}

impl Answer<'_> {
    /// What the answer means for the client; actions of the operator's file by their first word, as
    /// access(5) has them.
    #[must_use]
    pub fn weight(&self) -> Weight {
        match self {
            Self::Refuse(reply) if reply.code().is_permanent() => Weight::Rejects,
            Self::Refuse(_) => Weight::Defers,
            Self::Pass(action) => match action.split_ascii_whitespace().next().unwrap_or_default().as_bytes() {
                [b'5', ..] => Weight::Rejects,
                [b'4', ..] => Weight::Defers,
                word if word.eq_ignore_ascii_case(b"REJECT") => Weight::Rejects,
                word if word.get(..5).is_some_and(|w| w.eq_ignore_ascii_case(b"DEFER")) => Weight::Defers,
                _ => Weight::GoesOn,
            },
        }
    }
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse(reply) => write!(f, "{reply}"),
            Self::Pass(action) => f.write_str(action),
        }
    }
}

/// What is to be done about a question.
#[derive(Debug)]
pub struct Judgement<'r> {
    /// What decides.
    pub verdict: Verdict<'r>,
    /// What observed checks would have said. (Observed limits are charges and come with them.)
    pub observed: SmallVec<[Finding<'r>; 1]>,
}

/// What decides a question.
#[derive(Debug)]
pub enum Verdict<'r> {
    /// Nothing against it.
    Pass,
    /// Decided without state.
    Decided(Finding<'r>),
    /// The recipient may be suppressed: read the entry in the store; if it stands, the answer is
    /// [`suppressed`], if not, ask again without the recipient's index.
    Confirm {
        /// Enforce or observe.
        mode: Mode,
    },
    /// Charge all of these, or none.
    Charge(Charges<'r>),
}

/// The charges of one question, narrow before wide as the operator wrote them.
pub type Charges<'r> = SmallVec<[Charge<'r>; 4]>;

/// Judges a question by one snapshot of the rules.
#[must_use]
pub fn decide<'r>(question: &Question<'r>, rules: &'r Rules, index: &impl Suppressed) -> Judgement<'r> {
    let rewriting = &rules.rewriting;
    let mut observed = SmallVec::new();
    // An action that refuses nobody (PREPEND, HOLD, WARN) waits for what is said of the recipient:
    // Postfix would ask no more, and accept it.
    let mut going_on = None;
    if question.checks.sender {
        let found = by_list(&rules.senders, Check::Senders, question.sender, question, rewriting);
        match enforced(found, &mut observed) {
            Some(finding) if finding.answer.weight() == Weight::GoesOn => going_on = Some(finding),
            Some(finding) => return Judgement { verdict: Verdict::Decided(finding), observed },
            None => {}
        }
    }
    if question.checks.recipient
        && let Some(recipient) = question.recipient
    {
        let found = by_list(&rules.recipients, Check::Recipients, recipient, question, rewriting);
        match enforced(found, &mut observed) {
            Some(finding) if finding.answer.weight() == Weight::GoesOn => going_on = going_on.or(Some(finding)),
            Some(finding) => return Judgement { verdict: Verdict::Decided(finding), observed },
            None => {}
        }
        if rules.suppression.action == DropOrRefuse::Refuse
            && let Some(mode) = suppression_mode(question.sender, recipient, question.now, rules, index)
        {
            return Judgement { verdict: Verdict::Confirm { mode }, observed };
        }
    }
    if let Some(finding) = going_on {
        return Judgement { verdict: Verdict::Decided(finding), observed };
    }
    let charges = if question.checks.limits { charges(question, rules) } else { Charges::new() };
    let verdict = if charges.is_empty() { Verdict::Pass } else { Verdict::Charge(charges) };
    Judgement { verdict, observed }
}

/// Whether mail of `sender` to `recipient` may be suppressed at `now` (Unix seconds), whatever is then done about it:
/// enforce or observe. The entry is yet to be confirmed in the store.
#[must_use]
pub fn suppression_mode(
    sender: &Canonical,
    recipient: &Canonical,
    now: u64,
    rules: &Rules,
    index: &impl Suppressed,
) -> Option<Mode> {
    let suppression = &rules.suppression;
    let may = suppression.mode != Mode::Off
        && index.may_hold(recipient.as_bytes(), now)
        && !suppression.exempt_recipients.contains(recipient)
        && !suppression.exempt_senders.contains(sender);
    may.then_some(suppression.mode)
}

/// Keeps what only would have been, passes on what is.
fn enforced<'r>(found: Option<Finding<'r>>, observed: &mut SmallVec<[Finding<'r>; 1]>) -> Option<Finding<'r>> {
    let finding = found?;
    if finding.mode == Mode::Enforce {
        return Some(finding);
    }
    observed.push(finding);
    None
}

fn by_list<'r>(
    rules: &'r ListRules,
    check: Check,
    address: &Canonical,
    question: &Question<'_>,
    rewriting: &Rewriting,
) -> Option<Finding<'r>> {
    let list: &Allowlist = match (rules.mode, &rules.list) {
        (Mode::Off, _) | (_, None) => return None,
        (_, Some(list)) => list,
    };
    let (file, noun) = match check {
        Check::Recipients => ("allowed_recipients", "Recipient"),
        _ => ("allowed_senders", "Sender"),
    };
    let finding = |rule, answer| Some(Finding { check, mode: rules.mode, rule, answer });
    let refuse = |text: &str| Answer::Refuse(Reply::new(ReplyCode::SENDER_REFUSED, text));
    let Some(found) = list.lookup(address, rewriting) else {
        return finding(Rule::Unlisted { file }, refuse(&format!("{noun} not allowed here")));
    };
    let entry = found.entry;
    let rule = Rule::Listed { file, line: found.line };
    match &entry.action {
        Action::Allow if entry.binding.holds(question.client, question.sasl_username) => None,
        Action::Allow => finding(
            Rule::Unbound { file, line: found.line },
            refuse(&format!("{noun} not allowed from this client or login")),
        ),
        Action::Unlisted => finding(rule, refuse(&format!("{noun} not allowed here"))),
        Action::Reject(None) => finding(rule, refuse(&format!("{noun} not allowed here"))),
        Action::Reject(Some(text)) => finding(rule, refuse(text)),
        Action::Pass(action) => finding(rule, Answer::Pass(action)),
    }
}

fn charges<'r>(question: &Question<'r>, rules: &'r Rules) -> Charges<'r> {
    let mut out = Charges::new();
    for limit in &rules.limits {
        if limit.mode == Mode::Off {
            continue;
        }
        if limit.key == KeyKind::RecipientDomain {
            for (domain, recipients) in question.recipient_domains {
                let n = if limit.count == Count::Recipients { *recipients } else { 1 };
                push(&mut out, limit, Key::Text(domain), limit.quota_of_text(domain), n);
            }
            continue;
        }
        let n = if limit.count == Count::Recipients { question.recipient_count.max(1) } else { 1 };
        if let Some((key, quota)) = key_of(limit, question) {
            push(&mut out, limit, key, quota, n);
        }
    }
    out
}

fn push<'r>(out: &mut Charges<'r>, limit: &'r Arc<Limit>, key: Key<'r>, quota: Quota, n: u32) {
    if let Quota::Limited(rate) = quota {
        out.push(Charge { limit, key, rate, n });
    }
}

/// The key of a limit for this question; `None` where the question has none (no SASL user, the
/// null sender): never key on empty (invariant 9).
fn key_of<'r>(limit: &Limit, question: &Question<'r>) -> Option<(Key<'r>, Quota)> {
    let text = |key: &'r [u8]| (!key.is_empty()).then(|| (Key::Text(key), limit.quota_of_text(key)));
    match limit.key {
        KeyKind::ClientAddress => {
            let ip = question.client?;
            Some((masked(ip, 32, limit.ipv6_prefix), limit.quota_of_client(ip)))
        }
        KeyKind::ClientNetwork => {
            let ip = question.client?;
            Some((masked(ip, 24, limit.ipv6_prefix), limit.quota_of_client(ip)))
        }
        KeyKind::SaslUsername => text(question.sasl_username),
        KeyKind::Sender => text(question.sender.as_bytes()),
        KeyKind::SenderDomain => text(question.sender.domain()),
        KeyKind::RecipientDomain => None,
        KeyKind::All => Some((Key::All, limit.rate)),
    }
}

fn masked(ip: IpAddr, v4_prefix: u8, v6_prefix: u8) -> Key<'static> {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(v4_prefix.min(32))).unwrap_or(0);
            Key::Net(Ipv4Addr::from(u32::from(v4) & mask).into(), v4_prefix)
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(v6_prefix.min(128))).unwrap_or(0);
            Key::Net(Ipv6Addr::from(u128::from(v6) & mask).into(), v6_prefix)
        }
    }
}

/// The finding for a recipient whose entry was confirmed: since when (in UTC), and its evidence, or without one its
/// reason.
#[must_use]
pub fn suppressed(mode: Mode, entry: &Entry) -> Finding<'static> {
    let since = jiff::Timestamp::from_second(entry.created)
        .map_or_else(|_| "long ago".to_owned(), |t| t.strftime("%Y-%m-%d").to_string());
    let why = if entry.evidence.is_empty() { entry.reason.as_str() } else { &entry.evidence };
    let reply = Reply::new(ReplyCode::RECIPIENT_GONE, &format!("Suppressed since {since}: {why}"));
    Finding { check: Check::Suppression, mode, rule: Rule::Suppressed, answer: Answer::Refuse(reply) }
}

/// The finding for charges that were refused.
#[must_use]
pub fn limited<'r>(charges: &Charges<'r>, refused: Refused) -> Option<Finding<'r>> {
    let Charge { limit, rate, n, .. } = charges.get(refused.index)?;
    let reply = match refused.why {
        Why::Later(wait) => {
            Reply::new(limit.reply, &format!("Limit {} ({rate}) reached, try again in {}", limit.name, in_words(wait)))
        }
        Why::NeverFits => Reply::new(
            ReplyCode::TOO_MANY_RECIPIENTS,
            &format!(
                "Message has {n} recipients, more than limit {} ever grants at once ({}): send it in parts",
                limit.name,
                Rate::burst(rate)
            ),
        ),
    };
    Some(Finding { check: Check::Limits, mode: limit.mode, rule: Rule::Limit(limit), answer: Answer::Refuse(reply) })
}

/// A wait as a person reads it, rounded up.
fn in_words(wait: Duration) -> String {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    match seconds.max(1) {
        s @ ..120 => format!("{s} s"),
        s @ ..7200 => format!("{} min", s.div_ceil(60)),
        s => format!("{} h", s.div_ceil(3600)),
    }
}

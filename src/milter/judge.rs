//! What the rules say of a message at its end: which recipients go, and, for a local submission, what becomes of it.
//! Mail by smtpd was asked about before (sender, recipients, limits); there only `[suppression] action = "drop"` is left.
//! A local submission is judged here as a whole, for Postfix keeps one in maildrop for ever that is deferred, or of which
//! a single recipient is refused (tried on 3.7).

use crate::decide::{self, Checks, Finding, Judgement, Question, Verdict, Weight};
use crate::delegation::{Case, House};
use crate::lines::Word;
use crate::mail::{Canonical, Reply, ReplyCode};
use crate::meters::Domains;
use crate::rules::{DropOrRefuse, Mode, Rules, Unlisted};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long all confirmations of one message may take together. A store that hangs costs 50 ms a recipient, and Postfix
/// waits; past this the others pass.
const CONFIRM_BUDGET: Duration = Duration::from_secs(2);

/// One message at its end.
pub(super) struct Submission<'a> {
    /// The rules that it is judged by.
    pub(super) rules: &'a Rules,
    /// The sender; empty: the null sender.
    pub(super) sender: &'a Canonical,
    /// The recipients as Postfix named them, without brackets.
    pub(super) recipients: &'a [Vec<u8>],
    /// The client.
    pub(super) client: Option<IpAddr>,
    /// Postfix's queue id; empty: it told none.
    pub(super) queue_id: &'a str,
    /// Unix time.
    pub(super) now: Duration,
}

/// What becomes of a message.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    /// It goes on.
    Deliver,
    /// Into the hold queue, with what Postfix logs as the reason.
    Hold(String),
    /// Back to its sender, with this reply in the bounce.
    Bounce(Reply),
    /// Nowhere.
    Discard,
}

/// What is to be done with a message.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The recipients (by index) that are taken out.
    pub(super) dropped: Vec<usize>,
    /// What becomes of the rest.
    pub(super) fate: Fate,
}

impl Submission<'_> {
    /// Judges mail that came by smtpd.
    pub(super) async fn by_smtp(&self, house: &House) -> Outcome {
        if self.rules.suppression.action == DropOrRefuse::Refuse || self.rules.suppression.mode == Mode::Off {
            return Outcome { dropped: Vec::new(), fate: Fate::Deliver };
        }
        self.without(self.suppressed(house).await)
    }

    /// Judges mail that did not.
    pub(super) async fn local(&self, house: &House) -> Outcome {
        // Not even a bounce to a suppressed address may fail: Postfix would try its original again for ever.
        if self.sender.as_bytes().is_empty() {
            return Outcome { dropped: Vec::new(), fate: Fate::Deliver };
        }
        if let Some(fate) = self.by_sender(house) {
            return Outcome { dropped: Vec::new(), fate };
        }
        let mut dropped = self.disallowed(house);
        dropped.extend(self.suppressed(house).await);
        dropped.sort_unstable();
        dropped.dedup();
        let mut outcome = self.without(dropped);
        if outcome.fate == Fate::Deliver
            && let Some(reason) = self.over_a_limit(house, &outcome.dropped).await
        {
            outcome.fate = Fate::Hold(reason);
        }
        outcome
    }

    /// A message without recipients is no message.
    fn without(&self, dropped: Vec<usize>) -> Outcome {
        let nobody = !dropped.is_empty() && dropped.len() == self.recipients.len();
        Outcome { dropped, fate: if nobody { Fate::Discard } else { Fate::Deliver } }
    }

    /// What becomes of the message by its sender; `None`: nothing against it.
    fn by_sender(&self, house: &House) -> Option<Fate> {
        let question = self.question(Checks { sender: true, ..Checks::default() }, None);
        let Judgement { verdict, observed } = decide::decide(&question, self.rules, &decide::Nobody);
        observed.iter().for_each(|finding| self.line(house, Word::WouldReject, finding, None));
        let Verdict::Decided(finding) = verdict else { return None };
        let (word, fate) = match &finding.answer {
            decide::Answer::Pass(action) if finding.answer.weight() == Weight::GoesOn => by_action(action),
            decide::Answer::Refuse(reply) => self.unlisted(reply.clone()),
            decide::Answer::Pass(_) => self.unlisted(Reply::new(ReplyCode::SENDER_REFUSED, "Sender not allowed here")),
        };
        self.line(house, word, &finding, None);
        fate
    }

    fn unlisted(&self, reply: Reply) -> (Word, Option<Fate>) {
        match self.rules.local.unlisted {
            Unlisted::Hold => (Word::Hold, Some(Fate::Hold(reply.text().to_owned()))),
            Unlisted::Bounce => (Word::Bounce, Some(Fate::Bounce(reply))),
            Unlisted::Discard => (Word::Discard, Some(Fate::Discard)),
        }
    }

    /// The recipients that `allowed_recipients` does not allow.
    fn disallowed(&self, house: &House) -> Vec<usize> {
        if self.rules.recipients.list.is_none() || self.rules.recipients.mode == Mode::Off {
            return Vec::new();
        }
        let mut recipient = Canonical::default();
        let mut dropped = Vec::new();
        for (n, raw) in self.recipients.iter().enumerate() {
            recipient.set_external(raw, &self.rules.rewriting);
            let question = self.question(Checks { recipient: true, ..Checks::default() }, Some(&recipient));
            let Judgement { verdict, observed } = decide::decide(&question, self.rules, &decide::Nobody);
            observed.iter().for_each(|finding| self.line(house, Word::WouldReject, finding, Some(&recipient)));
            let Verdict::Decided(finding) = verdict else { continue };
            if finding.answer.weight() == Weight::GoesOn {
                continue;
            }
            self.line(house, Word::Drop, &finding, Some(&recipient));
            dropped.push(n);
        }
        dropped
    }

    /// The recipients that are suppressed.
    async fn suppressed(&self, house: &House) -> Vec<usize> {
        let start = Instant::now();
        let mut recipient = Canonical::default();
        let mut dropped = Vec::new();
        for (n, raw) in self.recipients.iter().enumerate() {
            recipient.set_external(raw, &self.rules.rewriting);
            let now = self.now.as_secs();
            let mode = decide::suppression_mode(self.sender, &recipient, now, self.rules, &*house.index);
            let Some(mode) = mode else { continue };
            if start.elapsed() > CONFIRM_BUDGET {
                break;
            }
            let Some(entry) = house.confirm(&recipient, self.now).await else { continue };
            let finding = decide::suppressed(mode, &entry);
            if mode == Mode::Enforce {
                self.line(house, Word::Drop, &finding, Some(&recipient));
                dropped.push(n);
            } else {
                self.line(house, Word::WouldReject, &finding, Some(&recipient));
            }
        }
        dropped
    }

    /// Charges the limits; the reason where one of them refuses.
    async fn over_a_limit(&self, house: &House, dropped: &[usize]) -> Option<String> {
        let left = u32::try_from(self.recipients.len() - dropped.len()).unwrap_or(u32::MAX).max(1);
        let domains = self.domains(dropped);
        let checks = Checks { limits: true, ..Checks::default() };
        let question = Question { recipient_count: left, recipient_domains: &domains, ..self.question(checks, None) };
        let Verdict::Charge(charges) = decide::decide(&question, self.rules, &decide::Nobody).verdict else {
            return None;
        };
        let id = self.queue_id.as_bytes();
        let granted = match &house.shared {
            Some(shared) => house.charge_shared(shared, id, b"LOCAL", &charges, self.now).await,
            None => house.meters.charge_once(&house.grants, id, &[b"LOCAL"], &charges, self.now),
        };
        let finding = self.case(house, None, |case| {
            case.tell(granted, &charges, |finding: &Finding<'_>| case.line(Word::WouldReject, finding))
        })?;
        self.line(house, Word::Hold, &finding, None);
        Some(finding.answer.to_string())
    }

    /// The recipients that are left, by domain; only of use where a limit counts by them.
    fn domains(&self, dropped: &[usize]) -> Domains {
        let mut domains = Domains::new();
        let mut recipient = Canonical::default();
        for (_, raw) in self.recipients.iter().enumerate().filter(|(n, _)| dropped.binary_search(n).is_err()) {
            recipient.set_external(raw, &self.rules.rewriting);
            match domains.iter_mut().find(|(domain, _)| **domain == *recipient.domain()) {
                Some((_, count)) => *count += 1,
                None if recipient.domain().is_empty() => {}
                None => domains.push((recipient.domain().into(), 1)),
            }
        }
        domains
    }

    fn question<'q>(&'q self, checks: Checks, recipient: Option<&'q Canonical>) -> Question<'q> {
        Question {
            checks,
            sender: self.sender,
            recipient,
            client: self.client,
            sasl_username: b"",
            recipient_count: 1,
            recipient_domains: &[],
            now: self.now.as_secs(),
        }
    }

    fn line(&self, house: &House, word: Word, finding: &Finding<'_>, to: Option<&Canonical>) {
        self.case(house, to, |case| case.line(word, finding));
    }

    fn case<T>(&self, house: &House, to: Option<&Canonical>, tell: impl FnOnce(&Case<'_>) -> T) -> T {
        let client = self.client.map(|ip| ip.to_string()).unwrap_or_default();
        tell(&Case {
            house,
            rules: self.rules,
            sender: self.sender,
            recipient: to,
            named: b"",
            client: client.as_bytes(),
            sasl_username: b"",
            instance: b"",
            queue_id: self.queue_id.as_bytes(),
        })
    }
}

/// What an action of the operator's list, which refuses nobody, means where only the end of the message is left.
/// FILTER, REDIRECT, BCC and PREPEND are beyond a milter's reach here: the line says that they were met.
fn by_action(action: &str) -> (Word, Option<Fate>) {
    match action.split_ascii_whitespace().next().unwrap_or_default().to_ascii_uppercase().as_str() {
        "HOLD" => (Word::Hold, Some(Fate::Hold(action.to_owned()))),
        "DISCARD" => (Word::Discard, Some(Fate::Discard)),
        _ => (Word::Pass, None),
    }
}

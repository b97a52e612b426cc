//! What is judged, as its lines in the mail log name it. The lines, and what is said of limits, are the same whichever
//! protocol asked.

use super::answer::House;
use crate::decide::{self, Charges, Check, Finding, Rule};
use crate::lines::{DecisionLine, Word};
use crate::mail::Canonical;
use crate::meters::{Charge, Granted};
use crate::rules::{Mode, Rules};
use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;

/// A question, or a message. What is not known is empty.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Where it is judged.
    pub house: &'a House,
    /// The rules that it is judged by.
    pub rules: &'a Rules,
    /// The sender.
    pub sender: &'a Canonical,
    /// The recipient that it is about.
    pub recipient: Option<&'a Canonical>,
    /// A recipient that Postfix named though it is about none.
    pub named: &'a [u8],
    /// The client's address.
    pub client: &'a [u8],
    /// The SASL user.
    pub sasl_username: &'a [u8],
    /// Postfix's name for the message before it has a queue id.
    pub instance: &'a [u8],
    /// Postfix's queue id.
    pub queue_id: &'a [u8],
}

impl Case<'_> {
    /// Writes the line of a finding.
    pub fn line(&self, word: Word, finding: &Finding<'_>) {
        self.write(word, finding.check, finding.mode, &finding.rule, &finding.answer);
    }

    /// What enforced limits say against it, once they were charged. Observed ones go to `would`.
    pub fn tell<'r>(
        &self,
        granted: Granted,
        charges: &Charges<'r>,
        would: impl Fn(&Finding<'r>),
    ) -> Option<Finding<'r>> {
        let Granted::New(outcome) = granted else {
            self.house.stats.repeats.fetch_add(1, Relaxed);
            return None;
        };
        for finding in outcome.observed.iter().filter_map(|refused| decide::limited(charges, *refused)) {
            would(&finding);
        }
        for charge in outcome.warned.iter().filter_map(|i| charges.get(*i)) {
            self.near_limit(charge);
        }
        decide::limited(charges, outcome.refused?)
    }

    fn near_limit(&self, charge: &Charge<'_>) {
        self.house.stats.near_limit.fetch_add(1, Relaxed);
        let note = format_args!("key {} has used more than 80 % of {}", charge.key, charge.rate);
        self.write(Word::NearLimit, Check::Limits, charge.limit.mode, &Rule::Limit(charge.limit), &note);
    }

    fn write(&self, word: Word, check: Check, mode: Mode, rule: &dyn Display, reply: &dyn Display) {
        let mut named = Canonical::default();
        let to = self.recipient.or_else(|| {
            named.set_internal(self.named, &self.rules.rewriting);
            (!self.named.is_empty()).then_some(&named)
        });
        let line = DecisionLine {
            word,
            check: check.as_str(),
            mode: mode.as_str(),
            rule,
            generation: self.rules.generation,
            from: self.sender.as_bytes(),
            to: to.map(Canonical::as_bytes),
            client: self.client,
            sasl_username: self.sasl_username,
            instance: self.instance,
            queue_id: self.queue_id,
            reply,
        };
        self.house.outlet.send(line.to_line());
    }
}

//! All that is known of one address, in the form in which relays tell it to each other: the operator's last word,
//! and what events told. Two records are joined, and no order, repetition or loss of a message on the way makes a
//! difference: `join` is commutative, associative and idempotent. A row of the list is what a record comes to.

mod codec;

pub use codec::{MAX_RECORD_BYTES, Unreadable};

use super::apply::later;
use super::{Entry, Origin, Reason};
use std::cmp::Reverse;

/// All that is known of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The last that an operator said. It stands over what was known until then.
    word: Option<Word>,
    /// Full mailboxes of mail that was sent up to then (Unix seconds) were contradicted by a Delivery.
    taken: Option<i64>,
    /// What events told since the word, at most one for each reason, in the order of their numbers.
    facts: Vec<Fact>,
}

/// What an operator said: an entry, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    /// When, Unix milliseconds; more than that of the word that it replaced.
    version: i64,
    entry: Option<Entry>,
}

/// What events told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    entry: Entry,
    /// When the mail was sent, Unix seconds: an operator's word of that time or later stands over it.
    mail_time: i64,
    /// SES did not try, because of its own list.
    echo: bool,
}

/// What the store keeps of an entry beside the entry itself. With a version it is an operator's, by whatever
/// source; otherwise events made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) version: Option<i64>,
    pub(super) mail_time: Option<i64>,
    pub(super) echo: bool,
}

impl Stamp {
    /// Of an operator's word.
    pub(super) fn word(version: i64) -> Self {
        Self { version: Some(version), ..Self::default() }
    }

    /// Of what an event told.
    pub(super) fn fact(mail_time: i64, echo: bool) -> Self {
        Self { version: None, mail_time: Some(mail_time), echo }
    }

    /// After a further event: a word is followed by one that differs in what the event changed, so that any later
    /// word of an operator stands over it still.
    pub(super) fn renewed(self, mail_time: i64) -> Self {
        match self.version {
            Some(version) => Self::word(version.saturating_add(1)),
            None => Self::fact(self.mail_time.unwrap_or(mail_time).max(mail_time), false),
        }
    }

    /// What a row says, whose stamp an older gatepost did not write.
    pub(super) fn completed(self, entry: &Entry) -> Self {
        match self.version {
            None if entry.source != Origin::Event => Self::word(entry.created.saturating_mul(1000)),
            None => Self { mail_time: self.mail_time.or(Some(entry.created)), ..self },
            Some(_) => self,
        }
    }
}

impl Record {
    /// That an operator removed the address, at `version` (Unix milliseconds).
    pub(super) fn removed(version: i64) -> Self {
        Self { word: Some(Word { version, entry: None }), ..Self::default() }
    }

    /// That full mailboxes of mail up to `mail_time` do not count.
    #[must_use]
    pub fn taken_back(mail_time: i64) -> Self {
        Self { taken: Some(mail_time), ..Self::default() }
    }

    /// What a row of the list says.
    pub(super) fn of_row(entry: Entry, stamp: Stamp) -> Self {
        let stamp = stamp.completed(&entry);
        match stamp.version {
            Some(version) => Self { word: Some(Word { version, entry: Some(entry) }), ..Self::default() },
            None => {
                let mail_time = stamp.mail_time.unwrap_or(entry.created);
                Self { facts: vec![Fact { entry, mail_time, echo: stamp.echo }], ..Self::default() }
            }
        }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an operator removed the address, and when, Unix milliseconds.
    pub(super) fn removal(&self) -> Option<i64> {
        self.word.as_ref().filter(|word| word.entry.is_none()).map(|word| word.version)
    }

    /// What both know together.
    #[must_use]
    pub fn join(mut self, other: Self) -> Self {
        if other.word.as_ref().map(Word::rank) > self.word.as_ref().map(Word::rank) {
            self.word = other.word;
        }
        self.taken = self.taken.max(other.taken);
        for fact in other.facts {
            match self.facts.binary_search_by_key(&fact.number(), Fact::number) {
                Ok(at) if fact.rank() > self.facts[at].rank() => self.facts[at] = fact,
                Ok(_) => {}
                Err(at) => self.facts.insert(at, fact),
            }
        }
        self.drop_what_does_not_count();
        self
    }

    /// The entry that it comes to, with its stamp.
    pub(super) fn standing(&self) -> Option<(Entry, Stamp)> {
        let word = self.word.as_ref().and_then(|word| Some((word.entry.clone()?, Stamp::word(word.version))));
        let (mut entry, mut stamp) = match word {
            Some(word) => word,
            None => {
                let first = self.facts.iter().min_by_key(|fact| fact.strength())?;
                (first.entry.clone(), Stamp::fact(first.mail_time, first.echo))
            }
        };
        let by_events = stamp.version.is_none();
        for fact in &self.facts {
            if !fact.echo && fact.entry.reason != Reason::GlobalList {
                entry.expires = later(entry.expires, fact.entry.expires);
            }
            if by_events {
                entry.created = entry.created.min(fact.entry.created);
            }
            if by_events && fact.echo == stamp.echo {
                stamp.mail_time = stamp.mail_time.max(Some(fact.mail_time));
            }
            if entry.evidence.is_empty() {
                entry.evidence.clone_from(&fact.entry.evidence);
            }
            entry.spelling = entry.spelling.or_else(|| fact.entry.spelling.clone());
        }
        Some((entry, stamp))
    }

    /// The same, of a record that is needed no more.
    pub(super) fn into_standing(mut self) -> Option<(Entry, Stamp)> {
        match (self.word.take(), self.facts.pop()) {
            (Some(Word { version, entry: Some(entry) }), None) => Some((entry, Stamp::word(version))),
            (None, Some(fact)) if self.facts.is_empty() => Some((fact.entry, Stamp::fact(fact.mail_time, fact.echo))),
            (word, fact) => {
                self.word = word;
                self.facts.extend(fact);
                self.standing()
            }
        }
    }

    /// The same, as a row of the list says it.
    #[must_use]
    pub fn settled(&self) -> Self {
        let removal = self.removal().map(Self::removed).unwrap_or_default();
        self.standing().map(|(entry, stamp)| Self::of_row(entry, stamp)).unwrap_or_default().join(removal)
    }

    /// The same at `now` (Unix seconds), without an entry that has expired.
    #[must_use]
    pub fn in_force(&self, now: i64) -> Self {
        match self.standing() {
            Some((entry, _)) if !entry.in_force(now) => self.removal().map(Self::removed).unwrap_or_default(),
            _ => self.clone(),
        }
    }

    /// Whether nobody needs it at `now` (Unix seconds): no entry stands, and no removal or take-back is young enough to
    /// matter.
    #[must_use]
    pub fn is_over(&self, now: i64) -> bool {
        let forgotten = |at: i64| at.saturating_add(super::TOMBSTONE_SECONDS) < now;
        self.standing().is_none_or(|(entry, _)| !entry.in_force(now))
            && self.word.as_ref().is_none_or(|word| word.entry.is_some() || forgotten(word.at()))
            && self.taken.is_none_or(forgotten)
    }

    fn drop_what_does_not_count(&mut self) {
        let (word, taken) = (self.word.as_ref().map(Word::at), self.taken);
        self.facts.retain(|fact| {
            word.is_none_or(|at| !fact.echo && fact.mail_time > at)
                && (fact.entry.reason != Reason::MailboxFull || taken.is_none_or(|at| fact.mail_time > at))
        });
    }
}

impl Word {
    /// When, Unix seconds. Never earlier for a later version: else it would matter in which order words come.
    fn at(&self) -> i64 {
        self.version.div_euclid(1000)
    }

    /// The higher one stands. Of two at the same moment the removal does, else the longer one.
    fn rank(&self) -> (i64, bool, Option<Rank<'_>>) {
        (self.version, self.entry.is_none(), self.entry.as_ref().map(rank))
    }
}

impl Fact {
    fn number(&self) -> i64 {
        self.entry.reason.code()
    }

    /// Of two for one reason the higher one stands: mail first, whatever it expires, since an operator's word is
    /// compared with that.
    fn rank(&self) -> (bool, i64, Rank<'_>) {
        (!self.echo, self.mail_time, rank(&self.entry))
    }

    /// Of facts for several reasons, the lowest one gives the entry its name.
    fn strength(&self) -> (bool, bool, i64, i64) {
        let is_weak = matches!(self.entry.reason, Reason::MailboxFull | Reason::GlobalList);
        (is_weak, self.echo, self.entry.created, self.number())
    }
}

type Rank<'a> = (i64, Reverse<i64>, i64, i64, Option<&'a str>, &'a str);

fn rank(entry: &Entry) -> Rank<'_> {
    let Entry { expires, created, reason, source, spelling, evidence, .. } = entry;
    let expires = expires.unwrap_or(i64::MAX);
    (expires, Reverse(*created), reason.code(), source.code(), spelling.as_deref(), evidence)
}

#[cfg(test)]
mod tests;

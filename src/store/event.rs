//! What SES's events do to the list: the words in which it is said to [`Store::apply`](super::Store::apply).

use super::{Entry, Quarantined, SeenKey};
use crate::lines::EventLine;
use crate::mail::Address;
use crate::rules::{MailboxFull, Rate};

/// What one event does for one recipient.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// Where this key was seen before, nothing is done and no line is written.
    pub seen: SeenKey,
    /// What it does to the list.
    pub cause: Cause,
    /// The line; the store fills in [`EventLine::suppressed`] where the cause is not [`Cause::Nothing`] and not
    /// [`Cause::Delivered`].
    pub line: EventLine,
}

/// What an event does to the list.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// Nothing.
    Nothing,
    /// The address is to stand on the list.
    Suppress {
        /// The entry it makes. One whose `expires` has passed is not made.
        entry: Entry,
        /// When the mail was sent, Unix seconds: a removal at that time or later wins.
        mail_time: i64,
        /// SES did not try, because of its own list: makes an entry for what is unknown, never prolongs one, and
        /// never comes back once an operator removed the address, whenever.
        echo: bool,
    },
    /// A full mailbox: enough of them within a time make an entry.
    Full {
        /// The entry that the last one needed would make; its expiry is `created` plus the rule's ttl.
        entry: Entry,
        /// When the mail was sent, Unix seconds.
        mail_time: i64,
        /// The key of a Delivery of the same message to the same recipient, which takes this one back.
        delivery: SeenKey,
        /// How many, within how long.
        rule: MailboxFull,
    },
    /// Delivered: the full mailbox that was reported for this message and recipient does not count; an entry
    /// that stood only by it goes. The effect's own key is what [`Cause::Full`] names.
    Delivered {
        /// The recipient.
        address: Address,
    },
}

/// Everything that goes into one transaction.
#[derive(Debug)]
pub struct Batch<'a> {
    /// In the order in which they came.
    pub effects: &'a [Effect],
    /// Bodies that are kept because they could not be read.
    pub quarantine: &'a [Quarantined],
    /// Unix seconds.
    pub now: i64,
    /// Most new entries from events; `None`: no brake, whatever it recorded before.
    pub brake: Option<Rate>,
    /// Lines of the outbox up to this one are in the log and leave it.
    pub written: Option<i64>,
    /// Until when, in Unix seconds, lines without a queue id wait for it; `None`: they do not.
    pub late_until: Option<i64>,
}

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// New entries; one that takes the place of an expired one is new.
    pub added: u64,
    /// Entries that were changed by further evidence.
    pub renewed: u64,
    /// Newly recorded, not enforced, by the brake.
    pub braked: u64,
    /// Not made, because an operator removed the address.
    pub removed: u64,
    /// Entries that a Delivery took back.
    pub taken_back: u64,
    /// Seen before: no effect, no line.
    pub duplicates: u64,
    /// Lines put into the outbox.
    pub lines: u64,
    /// Whether the brake stands after the batch.
    pub brake_on: bool,
}

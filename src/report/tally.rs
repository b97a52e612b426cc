//! What one thread has counted.

use super::delays::Delays;
use super::top::{Top, Weigh};

/// Plain counters, and how to add them up.
macro_rules! counters {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(super) struct $name { $($(#[$doc])* pub(super) $field: u64,)* }

        impl $name {
            pub(super) fn merge(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counters! {
    /// Of lines, except where it says otherwise.
    Counts {
        lines,
        /// Of them, those that are none of a log.
        strange,
        /// Of them, those in the span.
        within,
        by_smtpd,
        by_pickup,
        /// By a requeue or behind a filter.
        again,
        /// `reject` and `milter-reject`.
        refused,
        /// Those that pflogsumm does not count: of milters before the end of the message.
        refused_by_milter_early,
        held,
        discarded,
        sent,
        to_ses,
        forwarded,
        bounced_without_relay,
        bounced_by_relay,
        attempts_deferred,
        /// Messages.
        deferred,
        expired,
        /// Events in the span, those that came again not.
        events,
        /// Events that came again.
        repeated,
        accepted_by_ses,
        delivered,
        delayed,
        complaints,
        rejected_by_ses,
        failed,
        opened,
        clicked,
        subscriptions,
        /// What was counted without knowing whether it was counted before, for lack of room.
        unfollowed,
        delivered_unfollowed,
        bounced_unfollowed,
        rejected_unfollowed,
    }
}

counters! {
    /// Lines with the same words.
    Refusals {
        /// Postfix's own.
        postfix,
        /// Ours.
        gatepost,
    }
}

impl Weigh for Refusals {
    fn weight(&self) -> u64 {
        self.postfix.max(self.gatepost)
    }

    fn merge(&mut self, other: Self) {
        Refusals::merge(self, &other);
    }
}

/// What became of the mail of a recipient domain.
#[derive(Clone, Debug, Default)]
pub(super) struct Domain {
    pub(super) sent: u64,
    pub(super) delivered: u64,
    pub(super) bounced: u64,
    pub(super) deferred: u64,
    pub(super) delays: Delays,
}

impl Weigh for Domain {
    fn weight(&self) -> u64 {
        self.sent.max(self.delivered + self.bounced).max(self.deferred)
    }

    fn merge(&mut self, other: Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.bounced += other.bounced;
        self.deferred += other.deferred;
        self.delays.merge(&other.delays);
    }
}

/// What the charts show over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    Accepted,
    Refused,
    Sent,
    Delivered,
    Bounced,
    Deferred,
}

/// How many curves there are.
pub(super) const CURVES: usize = 6;

/// Counts by name.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) senders: Top<u64>,
    pub(super) clients: Top<u64>,
    pub(super) domains: Top<Domain>,
    pub(super) bounce_reasons: Top<u64>,
    pub(super) defer_reasons: Top<u64>,
    pub(super) refusals: Top<Refusals>,
    /// By word, check and rule, parted by NUL.
    pub(super) decisions: Top<u64>,
    /// By type and subtype, parted by NUL.
    pub(super) bounces: Top<u64>,
}

/// A domain has a kilobyte of delays.
const DOMAINS_KEPT: usize = 4_096;

/// Rules are lines of the operator's files, and types of bounces SES's words: there are few.
const WORDS_KEPT: usize = 1_024;

impl Default for Names {
    fn default() -> Self {
        Self {
            senders: Top::default(),
            clients: Top::default(),
            domains: Top::keeping(DOMAINS_KEPT),
            bounce_reasons: Top::default(),
            defer_reasons: Top::default(),
            refusals: Top::default(),
            decisions: Top::keeping(WORDS_KEPT),
            bounces: Top::keeping(WORDS_KEPT),
        }
    }
}

impl Names {
    pub(super) fn merge(&mut self, other: Self) {
        self.senders.merge(other.senders);
        self.clients.merge(other.clients);
        self.domains.merge(other.domains);
        self.bounce_reasons.merge(other.bounce_reasons);
        self.defer_reasons.merge(other.defer_reasons);
        self.refusals.merge(other.refusals);
        self.decisions.merge(other.decisions);
        self.bounces.merge(other.bounces);
    }
}

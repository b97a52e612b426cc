//! What the daemon's own log is told about bodies.

use super::seldom::Seldom;
use super::{Digest, Kind, Verdict};
use crate::mail::Printable;
use std::time::Instant;

/// Most bytes of a body's own words in a warning.
const MAX_WORDS: usize = 300;

/// What was told so far.
#[derive(Default)]
pub(super) struct News {
    foreign: Seldom,
    unknown: Seldom,
    unreadable: Seldom,
    odd: Seldom,
    by_identity: bool,
    by_configuration_set: bool,
    told_both: bool,
}

impl News {
    /// Tells what is worth it of a body that came from `source`.
    pub(super) fn tell(&mut self, digest: &Digest, source: &str) {
        let now = Instant::now();
        let short = |words: &str| Printable::new(words.as_bytes(), MAX_WORDS);
        match &digest.verdict {
            Verdict::Event { kind, notification } => self.dialect(*kind, *notification),
            Verdict::NotAnEvent(_) => {}
            Verdict::Foreign { account } => {
                if let Some(count) = self.foreign.tell(now) {
                    tracing::warn!(count, account = %short(account), source, "Events of accounts that are not in events.accounts change nothing.");
                }
            }
            Verdict::Unknown { what } => {
                if let Some(count) = self.unknown.tell(now) {
                    tracing::warn!(count, what = %short(what), source, "Events of a type that is not known are in the quarantine.");
                }
            }
            Verdict::Unreadable { why } => {
                if let Some(count) = self.unreadable.tell(now) {
                    tracing::warn!(count, why = %short(why), source, "Bodies that cannot be read.");
                }
            }
        }
        if let Some(oddity) = &digest.oddity
            && let Some(count) = self.odd.tell(now)
        {
            tracing::warn!(count, what = %short(oddity), source, "Events with something odd were read all the same.");
        }
    }

    /// The same event comes twice where an identity and a configuration set both report.
    fn dialect(&mut self, kind: Kind, notification: bool) {
        if !matches!(kind, Kind::Bounce | Kind::Complaint | Kind::Delivery) || self.told_both {
            return;
        }
        self.by_identity |= notification;
        self.by_configuration_set |= !notification;
        self.told_both = self.by_identity && self.by_configuration_set;
        if self.told_both {
            tracing::warn!(
                "Events come from an identity's notifications and from a configuration set: twice the messages for the \
                 same events. Each counts once; turn the identity's notifications off."
            );
        }
    }
}

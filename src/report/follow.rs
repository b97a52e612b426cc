//! What is known of a recipient of a message from Postfix's `status=sent` to SES's events, whichever line comes first, and
//! what became of all of them.

use super::table::Table;
use foldhash::quality::RandomState;
use std::hash::BuildHasher;

/// What is known of a recipient of an SES message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Followed {
    /// When it was sent, in Unix seconds, where that was in the span.
    sent_at: u32,
    /// Until the other is known: Postfix's part of the delay, or SES's, in milliseconds.
    delay_ms: u32,
    marks: u16,
}

/// Postfix's line was read, whenever that was.
const TAKEN: u16 = 1;
/// In the span.
const SENT: u16 = 1 << 1;
/// Any event, whenever that was.
const HEARD: u16 = 1 << 2;
/// Any event that ends the wait, whenever that was.
const DECIDED: u16 = 1 << 3;
/// An event that names nobody.
const NAMELESS: u16 = 1 << 4;
/// A delivery before the span.
const DELIVERED_EARLIER: u16 = 1 << 5;

/// In the span, by what an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Accepted = 1 << 6,
    Delivered = 1 << 7,
    Bounced = 1 << 8,
    BouncedForNow = 1 << 9,
    Complaint = 1 << 10,
    Delayed = 1 << 11,
    Rejected = 1 << 12,
    Opened = 1 << 13,
    Clicked = 1 << 14,
    Subscription = 1 << 15,
}

impl Said {
    /// What `status=` says, and `bounce_type=`: only what SES calls permanent is one whatever was said before.
    pub(super) fn of(status: &[u8], bounce_type: &[u8]) -> Option<Self> {
        Some(match status {
            b"accepted" => Self::Accepted,
            b"delivered" => Self::Delivered,
            b"bounced" if bounce_type.eq_ignore_ascii_case(b"permanent") => Self::Bounced,
            b"bounced" => Self::BouncedForNow,
            b"complaint" => Self::Complaint,
            b"delayed" => Self::Delayed,
            b"rejected" | b"failed" => Self::Rejected,
            b"opened" => Self::Opened,
            b"clicked" => Self::Clicked,
            b"subscription" => Self::Subscription,
            _ => return None,
        })
    }

    fn decides(self) -> bool {
        matches!(self, Self::Delivered | Self::Bounced | Self::BouncedForNow | Self::Rejected)
    }
}

/// When an event or an attempt was, as far as the span is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Before,
    Within,
    Behind,
}

/// What an event adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// It was said before.
    pub(super) repeated: bool,
    /// From submission to delivery, in milliseconds, where this is known by now and was not before.
    pub(super) delay_ms: Option<u32>,
}

/// What became of what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fates {
    pub(super) delivered: u64,
    pub(super) bounced: u64,
    pub(super) rejected: u64,
    /// Sent in the span, and no event.
    pub(super) unheard: u64,
    /// As well, but not for long.
    pub(super) waiting: u64,
    /// Sent in the span, heard of, but neither delivered nor bounced yet.
    pub(super) undecided: u64,
}

/// The recipients of SES messages.
#[derive(Debug)]
pub(super) struct Recipients {
    known: Table<Followed>,
    hash: RandomState,
}

/// The upper bits of a key are the message's, the lower ones the recipient's: the keys of a message are neighbours.
const RECIPIENT_BITS: u32 = 24;

impl Recipients {
    pub(super) fn with_room(max: usize) -> Self {
        Self { known: Table::with_room(max), hash: RandomState::default() }
    }

    /// Postfix handed it to SES. `None`: there is no room to follow it.
    pub(super) fn sent(&self, ses_id: &[u8], to: &[u8], when: When, at: i64, delay_ms: u32) -> Option<News> {
        self.known.with(self.key(ses_id, to), |known| {
            let repeated = known.marks & TAKEN != 0;
            let delivered = known.marks & Said::Delivered as u16 != 0;
            let delay = (!repeated && delivered).then(|| known.delay_ms.saturating_add(delay_ms));
            if !repeated && !delivered {
                known.delay_ms = delay_ms;
            }
            known.marks |= TAKEN;
            if when == When::Within {
                known.marks |= SENT;
                known.sent_at = u32::try_from(at).unwrap_or_default();
            }
            News { repeated, delay_ms: delay }
        })
    }

    /// SES said something of it. `None`: there is no room to follow it.
    pub(super) fn heard(
        &self,
        ses_id: &[u8],
        to: &[u8],
        said: Said,
        when: When,
        delay_ms: Option<u32>,
    ) -> Option<News> {
        self.known.with(self.key(ses_id, to), |known| {
            known.marks |= HEARD;
            if said.decides() {
                known.marks |= DECIDED;
            }
            if to.is_empty() {
                known.marks |= NAMELESS;
            }
            if when != When::Within {
                if when == When::Before && said == Said::Delivered {
                    known.marks |= DELIVERED_EARLIER;
                }
                return News::default();
            }
            let repeated = known.marks & said as u16 != 0;
            known.marks |= said as u16;
            if repeated || said != Said::Delivered {
                return News { repeated, delay_ms: None };
            }
            let taken = known.marks & TAKEN != 0;
            let delay = delay_ms.filter(|_| taken).map(|ms| ms.saturating_add(known.delay_ms));
            if !taken {
                known.delay_ms = delay_ms.unwrap_or_default();
            }
            News { repeated: false, delay_ms: delay }
        })
    }

    /// What became of them; what was sent after `quiet_since` (Unix seconds) may still be heard of.
    pub(super) fn fates(self, quiet_since: i64) -> Fates {
        let mut fates = Fates::default();
        for part in self.known.into_parts() {
            let mut part: Vec<(u64, Followed)> = part.filter(|(_, known)| known.counts()).collect();
            part.sort_unstable_by_key(|(key, _)| *key);
            for message in part.chunk_by(|a, b| a.0 >> RECIPIENT_BITS == b.0 >> RECIPIENT_BITS) {
                fates.add(message, quiet_since);
            }
        }
        fates
    }

    fn key(&self, ses_id: &[u8], to: &[u8]) -> u64 {
        let mut lower = [0; 320];
        let to = match lower.get_mut(..to.len()) {
            Some(lower) => {
                lower.copy_from_slice(to);
                lower.make_ascii_lowercase();
                &*lower
            }
            None => to,
        };
        let low = (1 << RECIPIENT_BITS) - 1;
        self.hash.hash_one(ses_id) & !low | self.hash.hash_one(to) & low
    }
}

impl Followed {
    fn has(&self, said: Said) -> bool {
        self.marks & said as u16 != 0
    }

    /// Whether there is something to count: most of what was only seen before or behind the span is not.
    fn counts(&self) -> bool {
        self.marks & !(TAKEN | DELIVERED_EARLIER) != 0
    }
}

impl Fates {
    /// The recipients of one message. SES may name a recipient otherwise than Postfix did (a bounce names whom the last
    /// server refused): who was heard of and never sent to stands for one who was sent to and never heard of.
    fn add(&mut self, message: &[(u64, Followed)], quiet_since: i64) {
        let others = message.iter().filter(|(_, known)| known.marks & (TAKEN | HEARD | NAMELESS) == HEARD).count();
        let mut others = others;
        for (_, known) in message {
            match () {
                () if known.has(Said::Bounced) => self.bounced += 1,
                () if known.has(Said::Delivered) => self.delivered += 1,
                // An out-of-office reply to what was delivered comes as a bounce, too.
                () if known.has(Said::BouncedForNow) && known.marks & DELIVERED_EARLIER == 0 => self.bounced += 1,
                () if known.has(Said::Rejected) => self.rejected += 1,
                () => {}
            }
            match known.marks & (SENT | HEARD | DECIDED) {
                SENT if others > 0 => others -= 1,
                SENT if i64::from(known.sent_at) > quiet_since => self.waiting += 1,
                SENT => self.unheard += 1,
                marks if marks == SENT | HEARD => self.undecided += 1,
                _ => {}
            }
        }
    }
}

//! The recipients of messages that are being submitted, collected by Postfix's `instance` from the
//! RCPT questions: at DATA Postfix says how many recipients it accepted, and names one only when
//! it is the only one, so `recipient_domain` limits could not be charged otherwise.
//!
//! The same recipient counts once a message: a question that is repeated after a broken
//! connection cannot be told from a recipient that the client gave twice, and is by far the more
//! frequent of the two.

use super::lock::lock;
use super::nanos;
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::Duration;

/// How long recipients are kept after the last one came. Postfix waits 300 s for the next command
/// (`smtpd_timeout`), and may ask about DATA again on another connection.
pub const KEPT: Duration = Duration::from_secs(600);

/// How many messages are followed at once: far more than the smtpd processes of one Postfix, each
/// of which leaves, in ten minutes, the messages that it submitted. The oldest are forgotten first.
pub const MAX_MESSAGES: usize = 65_536;

/// How many recipients of a message are followed: Postfix's own `smtpd_recipient_limit`. Where
/// that was raised, the later ones are not charged to their domains.
pub const MAX_RECIPIENTS: usize = 1_000;

/// How many bytes all messages may take together, for strangers may send a thousand recipients at
/// a thousand domains each: then the oldest are forgotten earlier.
pub const MAX_BYTES: usize = 64 << 20;

const SHARDS: usize = 16;
/// What a message, a recipient and a domain take beside the domain's text, about.
const MESSAGE_BYTES: usize = 160;
const RECIPIENT_BYTES: usize = 8;
const DOMAIN_BYTES: usize = 40;

/// Recipients by domain.
pub type Domains = SmallVec<[(Box<[u8]>, u32); 2]>;

/// The recipients of messages that are being submitted. Shared by all connections; only of use
/// where a limit counts by `recipient_domain`.
pub struct Collected {
    shards: Box<[Mutex<Shard>]>,
    secret: RandomState,
}

#[derive(Default)]
struct Shard {
    messages: HashMap<u64, Message>,
    /// When each message was last seen to be in use, oldest first; a message that was in use since
    /// goes to the end again when its turn comes.
    queue: VecDeque<(u64, u64)>,
    bytes: usize,
}

#[derive(Default)]
struct Message {
    /// Hashes of the recipients.
    recipients: Vec<u64>,
    domains: Domains,
    used: u64,
    bytes: usize,
}

impl Collected {
    /// Nothing collected yet.
    #[must_use]
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), secret: RandomState::new() }
    }

    /// Adds a recipient to a message. To be called for each RCPT question that is answered so that
    /// Postfix may accept the recipient. Canonical address and domain; without an instance or a
    /// domain there is nothing to collect.
    pub fn collect(&self, instance: &[u8], recipient: &[u8], domain: &[u8], now: Duration) {
        if instance.is_empty() || domain.is_empty() {
            return;
        }
        let (now, id) = (nanos(now), self.secret.hash_one(instance));
        let recipient = self.secret.hash_one(recipient);
        self.shard(id).collect(id, recipient, domain, now);
    }

    /// The recipients of a message by domain, `accepted` in all: Postfix's `recipient_count` at
    /// DATA; 0 where it is not known.
    ///
    /// Where more were collected than accepted (a later restriction refused some, and nobody tells
    /// which), the count is shared out in proportion, the rest to those that lose most by rounding
    /// (and the first of equals): never more is charged than was accepted, and no domain more than
    /// it was asked for. A domain whose share is none is left out. Where fewer were collected (the
    /// daemon was restarted meanwhile), those are charged. The message stays known, for DATA may
    /// be asked again.
    #[must_use]
    pub fn peek(&self, instance: &[u8], accepted: u32, now: Duration) -> Domains {
        if instance.is_empty() {
            return Domains::new();
        }
        let (now, id) = (nanos(now), self.secret.hash_one(instance));
        let mut shard = self.shard(id);
        let Some(message) = shard.messages.get_mut(&id) else { return Domains::new() };
        message.used = now;
        let mut domains = message.domains.clone();
        drop(shard);
        if accepted > 0 {
            scale(&mut domains, accepted);
        }
        domains
    }

    /// How many messages are followed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).messages.len()).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, id: u64) -> std::sync::MutexGuard<'_, Shard> {
        lock(&self.shards[usize::try_from(id >> 40).unwrap_or(0) % SHARDS])
    }
}

impl Shard {
    fn collect(&mut self, id: u64, recipient: u64, domain: &[u8], now: u64) {
        self.expire(now);
        if !self.messages.contains_key(&id) {
            if self.messages.len() >= MAX_MESSAGES / SHARDS {
                self.forget_oldest();
            }
            self.queue.push_back((id, now));
            self.bytes += MESSAGE_BYTES;
        }
        let message = self.messages.entry(id).or_insert_with(|| Message { bytes: MESSAGE_BYTES, ..Message::default() });
        message.used = now;
        self.bytes += message.add(recipient, domain);
        while self.bytes > MAX_BYTES / SHARDS && self.messages.len() > 1 {
            self.forget_oldest();
        }
    }

    fn expire(&mut self, now: u64) {
        let kept = nanos(KEPT);
        while let Some((id, seen)) = self.queue.front().copied()
            && seen.saturating_add(kept) <= now
        {
            let used = self.messages.get(&id).map_or(0, |message| message.used);
            if used > seen && used.saturating_add(kept) > now {
                self.queue.pop_front();
                self.queue.push_back((id, used));
            } else {
                self.forget_oldest();
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((id, _)) = self.queue.pop_front()
            && let Some(message) = self.messages.remove(&id)
        {
            self.bytes -= message.bytes;
        }
    }
}

impl Message {
    /// Adds a recipient that is new; how many bytes more it takes.
    fn add(&mut self, recipient: u64, domain: &[u8]) -> usize {
        if self.recipients.len() >= MAX_RECIPIENTS || self.recipients.contains(&recipient) {
            return 0;
        }
        self.recipients.push(recipient);
        let mut more = RECIPIENT_BYTES;
        match self.domains.iter_mut().find(|(known, _)| **known == *domain) {
            Some((_, n)) => *n += 1,
            None => {
                self.domains.push((domain.into(), 1));
                more += DOMAIN_BYTES + domain.len();
            }
        }
        self.bytes += more;
        more
    }
}

/// Shares `accepted` out among the domains in proportion, by largest remainder.
fn scale(domains: &mut Domains, accepted: u32) {
    let total: u64 = domains.iter().map(|(_, n)| u64::from(*n)).sum();
    if total <= u64::from(accepted) {
        return;
    }
    let mut left = accepted;
    let mut remainders: Vec<(u64, usize)> = Vec::with_capacity(domains.len());
    for (i, (_, n)) in domains.iter_mut().enumerate() {
        let share = u64::from(*n) * u64::from(accepted);
        *n = u32::try_from(share / total).unwrap_or(u32::MAX);
        left -= *n;
        remainders.push((share % total, i));
    }
    remainders.sort_by_key(|(remainder, i)| (std::cmp::Reverse(*remainder), *i));
    for (_, i) in remainders.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        domains[i].1 += 1;
    }
    domains.retain(|(_, n)| *n > 0);
}

impl Default for Collected {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected").field("messages", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(1_790_000_000);

    fn peek(collected: &Collected, instance: &[u8], accepted: u32, now: Duration) -> Vec<(String, u32)> {
        let text = |(domain, n): (Box<[u8]>, u32)| (String::from_utf8_lossy(&domain).into_owned(), n);
        collected.peek(instance, accepted, now).into_iter().map(text).collect()
    }

    fn pairs(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
        expected.iter().map(|(domain, n)| ((*domain).to_owned(), *n)).collect()
    }

    #[test]
    fn recipients_count_once_by_domain_and_message() {
        let collected = Collected::new();
        for recipient in ["a@x", "b@x", "a@x", "c@y"] {
            let (_, domain) = recipient.split_once('@').unwrap_or_default();
            collected.collect(b"i", recipient.as_bytes(), domain.as_bytes(), NOW);
        }
        collected.collect(b"other", b"a@x", b"x", NOW);
        collected.collect(b"", b"a@x", b"x", NOW);
        collected.collect(b"third", b"postmaster", b"", NOW);
        assert_eq!(peek(&collected, b"i", 3, NOW), pairs(&[("x", 2), ("y", 1)]));
        assert_eq!(peek(&collected, b"i", 3, NOW), pairs(&[("x", 2), ("y", 1)]));
        assert_eq!(peek(&collected, b"i", 99, NOW), pairs(&[("x", 2), ("y", 1)]));
        assert_eq!(peek(&collected, b"i", 0, NOW), pairs(&[("x", 2), ("y", 1)]));
        assert_eq!(peek(&collected, b"i", 2, NOW), pairs(&[("x", 1), ("y", 1)]));
        assert_eq!(peek(&collected, b"i", 1, NOW), pairs(&[("x", 1)]));
        assert_eq!(peek(&collected, b"", 1, NOW), []);
        assert_eq!((peek(&collected, b"third", 1, NOW), collected.len()), (vec![], 2));
    }

    #[test]
    fn a_slow_session_is_kept_and_an_old_one_forgotten() {
        let collected = Collected::new();
        let step = KEPT - Duration::from_secs(1);
        for i in 0..5 {
            collected.collect(b"slow", i.to_string().as_bytes(), b"x", NOW + step * i);
            assert_eq!(peek(&collected, b"slow", 0, NOW + step * i), pairs(&[("x", i + 1)]));
        }
        for i in 0u32..1_000 {
            collected.collect(&i.to_be_bytes(), b"a", b"x", NOW + step * 4 + KEPT);
        }
        assert_eq!(peek(&collected, b"slow", 0, NOW), []);
        assert_eq!(collected.len(), 1_000);
    }

    #[test]
    fn everything_is_bounded() {
        let collected = Collected::new();
        for i in 0u32..2_000 {
            collected.collect(b"big", &i.to_be_bytes(), b"x", NOW);
        }
        assert_eq!(peek(&collected, b"big", 0, NOW), pairs(&[("x", 1_000)]));
        for i in 0..2 * MAX_MESSAGES {
            collected.collect(&i.to_be_bytes(), b"a", b"x", NOW);
        }
        assert!(collected.len() <= MAX_MESSAGES);
        for i in 0u32..500 {
            for j in 0u32..100 {
                let domain = [[b'd'; 2_000].as_slice(), &j.to_be_bytes()].concat();
                collected.collect(&[b"huge", i.to_be_bytes().as_slice()].concat(), &domain, &domain, NOW);
            }
        }
        let bytes: usize = collected.shards.iter().map(|s| lock(s).bytes).sum();
        let counted: usize =
            collected.shards.iter().flat_map(|s| lock(s).messages.values().map(|m| m.bytes).collect::<Vec<_>>()).sum();
        assert!(bytes <= MAX_BYTES && bytes == counted, "{bytes} {counted}");
    }

    proptest! {
        #[test]
        fn shares_add_up(counts in prop::collection::vec(1u32..500, 1..40), accepted in 1u32..2_000) {
            let mut domains: Domains = (0u32..).zip(&counts).map(|(i, n)| (i.to_be_bytes().into(), *n)).collect();
            scale(&mut domains, accepted);
            let (all, sum) = (counts.iter().sum::<u32>(), domains.iter().map(|(_, n)| n).sum::<u32>());
            prop_assert_eq!(sum, all.min(accepted));
            for (domain, n) in &domains {
                let i = <[u8; 4]>::try_from(&**domain).map_or(0, u32::from_be_bytes);
                prop_assert!(*n > 0 && *n <= counts[i as usize]);
            }
        }
    }
}

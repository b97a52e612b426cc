//! Rate-limit state: governor's GCRA over a table of our own that is bounded and evicts.
//!
//! A question charges all of its limits or none ([`Meters::charge_all`]). Around it stand what the
//! delegation server needs to charge once and for the right keys: [`Grants`] remembers what was
//! granted, [`Collected`] the recipients of a message. Time is passed in and is Unix time; the
//! caller makes it monotonic. Nothing here waits for anything but a lock that is held shortly.

mod collected;
mod gcra;
mod grants;
mod keyed;
mod ledger;
mod limits;
mod lock;
mod saved;
mod savefile;
mod show;
mod table;

pub use collected::{Collected, Domains};
pub use grants::{Granted, Grants};
pub use saved::{RestoreError, restore, save};
pub use savefile::Unusable;
pub use show::{Filter, NamedKey, Shown};

use crate::mail::Printable;
use crate::rules::{Limit, Quota, Rate};
use arc_swap::ArcSwap;
use ledger::Books;
use limits::Limits;
use lock::{Apart, lock};
use smallvec::SmallVec;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use table::{LimitId, MAX_TEXT, OwnedKey, SHARDS, Secrets, Shard};

/// How many keys are counted apart unless told otherwise: with some 90 bytes each (and the text),
/// a table that strangers fill takes 100 MB and not the machine.
pub const DEFAULT_MAX_KEYS: usize = 1_000_000;

/// The part of the table that one [`Meters::sweep`] goes through: an eighth, so that a million
/// keys cost a millisecond or two at a time.
const SWEPT_AT_ONCE: usize = SHARDS / 8;

/// A key that was warned about is warned about again after it fell below so many per cent.
const REARM_BELOW: u32 = 60;

/// Under which key a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// A client or network, already masked to its prefix.
    Net(IpAddr, u8),
    /// A canonical text: SASL user, sender, domain.
    Text(&'a [u8]),
    /// The one key of `all`.
    All,
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(ip, prefix) if *prefix == if ip.is_ipv4() { 32 } else { 128 } => write!(f, "{ip}"),
            Self::Net(ip, prefix) => write!(f, "{ip}/{prefix}"),
            Self::Text(text) => write!(f, "{}", Printable::new(text, MAX_TEXT)),
            Self::All => f.write_str("all"),
        }
    }
}

/// One limit to charge for a question.
#[derive(Clone, Debug)]
pub struct Charge<'a> {
    /// The limit.
    pub limit: &'a Arc<Limit>,
    /// Its key.
    pub key: Key<'a>,
    /// The rate that holds for this key (the limit's, or an override).
    pub rate: Rate,
    /// How many messages or recipients, from 1.
    pub n: u32,
}

/// A charge that outlives its question.
#[derive(Clone, Debug)]
pub struct OwnedCharge {
    limit: Arc<Limit>,
    net: Option<(IpAddr, u8)>,
    /// Empty where the key is none: no text is.
    text: Box<[u8]>,
    rate: Rate,
    n: u32,
}

impl OwnedCharge {
    /// The same charge.
    #[must_use]
    pub fn as_charge(&self) -> Charge<'_> {
        let key = match self.net {
            Some((ip, prefix)) => Key::Net(ip, prefix),
            None if self.text.is_empty() => Key::All,
            None => Key::Text(&self.text),
        };
        Charge { limit: &self.limit, key, rate: self.rate, n: self.n }
    }
}

impl From<&Charge<'_>> for OwnedCharge {
    fn from(charge: &Charge<'_>) -> Self {
        let (net, text): (_, &[u8]) = match charge.key {
            Key::Net(ip, prefix) => (Some((ip, prefix)), b""),
            Key::Text(text) => (None, text),
            Key::All => (None, b""),
        };
        Self { limit: Arc::clone(charge.limit), net, text: text.into(), rate: charge.rate, n: charge.n }
    }
}

/// Why a charge was refused. Nothing was charged to any limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which of the charges.
    pub index: usize,
    /// Why.
    pub why: Why,
}

/// Why a charge was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Over the limit; it would pass after so long.
    Later(Duration),
    /// More than the whole burst: it never passes.
    NeverFits,
}

/// What became of the charges of one question.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The first enforced limit that refused; then nothing was charged to any limit.
    pub refused: Option<Refused>,
    /// Observed limits that would have refused (they were not charged; the others were). After an
    /// enforced refusal: only those that stand before it.
    pub observed: SmallVec<[Refused; 1]>,
    /// Charges (by index) whose key passed 80 % of its burst with this charge, once per crossing.
    pub warned: SmallVec<[usize; 1]>,
}

/// The counters of all limits and keys. Shared by all connections.
///
/// A counter belongs to a limit's name, kind of key, and count: a reload that keeps these keeps
/// the counters, whatever becomes of the rate (a key is then at most as far used up as the new
/// burst). The number of keys is bounded, give or take one a shard: at the bound a new key takes
/// the place of idle ones, or of the one among a few that is nearest to idle, which then starts
/// afresh ([`Meters::evicted_live`] counts these). Mail is never refused because the table is full.
pub struct Meters {
    shards: Box<[Apart<Shard>]>,
    secrets: Secrets,
    limits: ArcSwap<Limits>,
    max_keys: usize,
    keys: AtomicUsize,
    evicted_live: AtomicU64,
    swept: AtomicUsize,
    saving: Mutex<()>,
}

impl Meters {
    /// Empty counters for at most `max_keys` keys.
    #[must_use]
    pub fn new(max_keys: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Apart::default()).collect(),
            secrets: Secrets::default(),
            limits: ArcSwap::default(),
            max_keys,
            keys: AtomicUsize::new(0),
            evicted_live: AtomicU64::new(0),
            swept: AtomicUsize::new(0),
            saving: Mutex::new(()),
        }
    }

    /// Says which limits are in force from now on, all of them, off ones too: at the start, before
    /// [`restore`], and at each reload. Counters of others stay until they are idle, but are
    /// neither shown nor saved. (A limit that is charged unannounced joins by itself.)
    pub fn adopt(&self, limits: &[Arc<Limit>]) {
        self.limits.store(Arc::new(Limits::new(limits, &self.secrets)));
    }

    /// Charges every enforced limit, or none; observed ones beside them. `now` is Unix time.
    pub fn charge_all(&self, charges: &[Charge<'_>], now: Duration) -> Outcome {
        match self.charge_unless(charges, now, || false) {
            Granted::New(outcome) => outcome,
            Granted::Repeat => Outcome::default(),
        }
    }

    /// [`Meters::charge_all`] within [`Grants::once`], and quicker than one in the other.
    pub fn charge_once(
        &self,
        grants: &Grants,
        instance: &[u8],
        asked: &[&[u8]],
        charges: &[Charge<'_>],
        now: Duration,
    ) -> Granted {
        let Some(mut question) = grants.open(instance, asked, now) else {
            return Granted::New(self.charge_all(charges, now));
        };
        let granted = self.charge_unless(charges, now, || question.is_repeat());
        if let Granted::New(Outcome { refused: None, .. }) = granted {
            question.remember();
        }
        granted
    }

    #[inline]
    fn charge_unless(&self, charges: &[Charge<'_>], now: Duration, is_repeat: impl Fn() -> bool) -> Granted {
        let books = Books {
            shards: &self.shards,
            secrets: &self.secrets,
            limits: &self.limits.load(),
            is_full: &|| self.keys.load(Ordering::Relaxed) >= self.max_keys,
            booked: &|limit, charge, evicted| {
                self.forget(evicted.idle + evicted.live);
                self.keys.fetch_add(1, Ordering::Relaxed);
                self.evicted_live.fetch_add(evicted.live as u64, Ordering::Relaxed);
                self.announce(limit, charge.limit);
            },
        };
        books.charge(charges, nanos(now), is_repeat)
    }

    /// Forgets idle keys, which are indistinguishable from new ones, in an eighth of the table;
    /// returns how many. To be called each second or so by a task that does nothing else; it also
    /// arms the warning again of keys that fell below 60 % of their burst.
    pub fn sweep(&self, now: Duration) -> usize {
        let now = nanos(now);
        let limits = self.limits.load();
        let first = self.swept.fetch_add(SWEPT_AT_ONCE, Ordering::Relaxed);
        let mut gone = 0;
        for at in first..first + SWEPT_AT_ONCE {
            let mut shard = lock(&self.shards[at % SHARDS]);
            gone += shard.retain(|entry| {
                if entry.state.is_warned()
                    && let Some(gauge) = limits.get(entry.limit).and_then(|l| gauge_of(l, &entry.key))
                    && !gauge.is_above(REARM_BELOW, entry.state.tat(), now)
                {
                    entry.state = entry.state.with_warned(false);
                }
                entry.state.tat() > now
            });
            shard.shrink(&self.secrets);
        }
        self.forget(gone);
        gone
    }

    /// How many keys are counted now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Whether no key is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys in use were forgotten because the table was full, since the start. More than
    /// none: someone sends under very many names, or the bound is too low.
    #[must_use]
    pub fn evicted_live(&self) -> u64 {
        self.evicted_live.load(Ordering::Relaxed)
    }

    fn forget(&self, keys: usize) {
        self.keys.fetch_sub(keys, Ordering::Relaxed);
    }

    fn announce(&self, id: LimitId, limit: &Arc<Limit>) {
        if self.limits.load().get(id).is_none() {
            self.limits.rcu(|limits| limits.with(id, limit));
        }
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_KEYS)
    }
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("keys", &self.len()).field("max_keys", &self.max_keys).finish_non_exhaustive()
    }
}

/// The rate that holds for a key, `None` being one of which only the hash is known; `None` where it is unlimited now.
#[must_use]
pub fn rate_of(limit: &Limit, key: Option<Key<'_>>) -> Option<Rate> {
    let quota = match key {
        Some(Key::Net(ip, _)) => limit.quota_of_client(ip),
        Some(Key::Text(text)) => limit.quota_of_text(text),
        Some(Key::All) | None => limit.rate,
    };
    match quota {
        Quota::Limited(rate) => Some(rate),
        Quota::Unlimited => None,
    }
}

fn gauge_of(limit: &Limit, key: &OwnedKey) -> Option<gcra::Gauge> {
    rate_of(limit, key.as_key()).map(gcra::Gauge::new)
}

/// Unix time in nanoseconds, at most the year 2116, which leaves room for any TAT.
fn nanos(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).min(1 << 62)
}

#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;

//! Granted charges, remembered: Postfix asks the same question again when a connection breaks, on
//! another connection, and must not be charged twice (invariant 9).
//!
//! The memory is set-associative, as a processor's cache is: the hash of a question names a set of
//! eight places, one cache line, and a new grant takes the place of the set's oldest. So a question
//! costs one line of memory, and nothing needs to be cleared away.

use super::keyed::Keyed;
use super::lock::{Apart, lock};
use super::{Outcome, nanos};
use std::fmt;
use std::hash::Hasher;
use std::sync::MutexGuard;
use std::time::Duration;

/// How long a grant is remembered, to a quarter of a second. Postfix asks again within its timeout
/// and a second's pause (`smtpd_policy_service_timeout` is 100 s, and 5 s in the shipped snippets).
pub const REMEMBERED: Duration = Duration::from_secs(120);

/// How many grants are remembered as promised: those of 1,000 messages a second, for two minutes.
///
/// There are 262,144 places (2 MiB, which a core's cache holds), in sets of eight. A grant is
/// forgotten early when eight newer ones fall into its set: at 1,000 a second that becomes of one in
/// 10^11 within the five seconds of the shipped snippets, of one in 60 within 100 seconds. What it
/// costs is one message that counts twice, if Postfix does ask again.
pub const MAX_GRANTS: usize = 125_000;

const SHARDS: usize = 64;
const SETS: usize = 512;
const PLACES: usize = 8;
const _: () = assert!(SHARDS * SETS * PLACES >= 2 * MAX_GRANTS, "sets of eight overflow where they are half full");

/// Time is counted in quarters of a second, and of the count 24 bits are kept: 48 days.
const TICK: u64 = 250_000_000;
const TICK_BITS: u32 = 24;
const TICKS: u64 = (1 << TICK_BITS) - 1;
const REMEMBERED_TICKS: u64 = REMEMBERED.as_secs() * 4;

/// The granted charges of the last two minutes. Shared by all connections.
///
/// Of a question is kept the set, which is 15 bits of a hash under a secret key, and 39 further
/// bits. With eight places to compare with, a question is taken for another with a probability of
/// 1.5 in 10^11 at most; what that costs is one message that is not counted.
pub struct Grants {
    shards: Box<[Apart<Shard>]>,
    secret: Keyed,
}

/// What became of a question about charges.
#[derive(Debug)]
pub enum Granted {
    /// It was granted before; nothing was charged now.
    Repeat,
    /// It was charged, or refused, now.
    New(Outcome),
}

/// A question and the lock of its place: until it is dropped, nobody else asks the same.
pub(super) struct Question<'g> {
    shard: MutexGuard<'g, Shard>,
    set: usize,
    hash: u64,
    tick: u64,
}

/// Empty until the first question.
#[derive(Default)]
struct Shard(Vec<Set>);

/// Places of a tag in the upper bits and, in the lower, the tick up to which it is remembered.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Set([u64; PLACES]);

impl Grants {
    /// Nothing granted yet.
    #[must_use]
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Apart::default()).collect(), secret: Keyed::default() }
    }

    /// Charges by `charge` unless the same question was granted within the last two minutes, and
    /// remembers it if it is granted now. Check, charge and memory are one step: of two
    /// connections that ask at once, one is charged.
    ///
    /// `instance` is Postfix's, and an empty one is never remembered. `asked` is the protocol
    /// state; where charges are made at RCPT, also the recipient. `charge` runs under a lock of
    /// this table: it must not come back here, and is done in a microsecond.
    pub fn once(&self, instance: &[u8], asked: &[&[u8]], now: Duration, charge: impl FnOnce() -> Outcome) -> Granted {
        let Some(mut question) = self.open(instance, asked, now) else { return Granted::New(charge()) };
        if question.is_repeat() {
            return Granted::Repeat;
        }
        let outcome = charge();
        if outcome.refused.is_none() {
            question.remember();
        }
        Granted::New(outcome)
    }

    /// Whether the same question was granted within the last two minutes. For charges that take time: see
    /// [`Grants::remember`].
    #[must_use]
    pub fn knows(&self, instance: &[u8], asked: &[&[u8]], now: Duration) -> bool {
        self.open(instance, asked, now).is_some_and(|question| question.is_repeat())
    }

    /// Remembers a question that was granted. Of two connections that ask at once, both may have been charged by then;
    /// Postfix asks again a second after a connection broke.
    pub fn remember(&self, instance: &[u8], asked: &[&[u8]], now: Duration) {
        if let Some(mut question) = self.open(instance, asked, now) {
            question.remember();
        }
    }

    /// Locks the place of a question; `None` for an empty instance.
    #[inline]
    pub(super) fn open(&self, instance: &[u8], asked: &[&[u8]], now: Duration) -> Option<Question<'_>> {
        if instance.is_empty() {
            return None;
        }
        let hash = self.hash(instance, asked);
        let mut shard = lock(&self.shards[low_bits(hash, SHARDS)]);
        if shard.0.is_empty() {
            shard.0 = vec![Set::default(); SETS];
        }
        Some(Question { shard, set: low_bits(hash / SHARDS as u64, SETS), hash, tick: nanos(now) / TICK })
    }

    /// How many grants are remembered.
    #[must_use]
    pub fn len(&self, now: Duration) -> usize {
        let tick = nanos(now) / TICK;
        let is_live = |place: &&u64| left(**place, tick) > 0;
        let of = |shard: &Shard| shard.0.iter().flat_map(|set| &set.0).filter(is_live).count();
        self.shards.iter().map(|shard| of(&lock(shard))).sum()
    }

    /// The lengths keep what stands in one field apart from what stands in the next.
    #[inline]
    fn hash(&self, instance: &[u8], asked: &[&[u8]]) -> u64 {
        let mut hasher = self.secret.hasher();
        for field in [instance].iter().chain(asked) {
            hasher.write_usize(field.len());
            hasher.write(field);
        }
        hasher.finish()
    }
}

impl Question<'_> {
    /// Whether it was granted before.
    #[inline]
    pub(super) fn is_repeat(&self) -> bool {
        self.shard.0[self.set].knows(self.hash, self.tick)
    }

    /// It is granted now.
    #[inline]
    pub(super) fn remember(&mut self) {
        self.shard.0[self.set].remember(self.hash, self.tick);
    }
}

impl Set {
    #[inline]
    fn knows(&self, hash: u64, tick: u64) -> bool {
        self.0.iter().any(|place| tag(*place) == tag_of(hash) && left(*place, tick) > 0)
    }

    #[inline]
    fn remember(&mut self, hash: u64, tick: u64) {
        if let Some(oldest) = self.0.iter_mut().min_by_key(|place| left(**place, tick)) {
            *oldest = (tag_of(hash) << TICK_BITS) | ((tick + REMEMBERED_TICKS) & TICKS);
        }
    }
}

/// How many ticks a place is still remembered; 0 for one that is empty, or over. Of two threads
/// one may lag: what was granted a little later than now is remembered too.
#[inline]
fn left(place: u64, tick: u64) -> u64 {
    let left = place.wrapping_sub(tick) & TICKS;
    if place != 0 && left <= 2 * REMEMBERED_TICKS { left } else { 0 }
}

#[inline]
fn tag(place: u64) -> u64 {
    place >> TICK_BITS
}

/// The upper bits of the hash, the set being in the lower ones; never that of an empty place.
#[inline]
fn tag_of(hash: u64) -> u64 {
    (hash >> TICK_BITS) | 1
}

#[inline]
fn low_bits(hash: u64, of: usize) -> usize {
    usize::try_from(hash % of as u64).unwrap_or(0)
}

impl Default for Grants {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meters::{Refused, Why};
    use std::sync::atomic::{AtomicU32, Ordering};

    const NOW: Duration = Duration::from_secs(1_790_000_000);

    fn is_charged(grants: &Grants, instance: &[u8], state: &[u8], now: Duration) -> bool {
        matches!(grants.once(instance, &[state], now, Outcome::default), Granted::New(_))
    }

    #[test]
    fn a_repeat_is_not_charged_for_two_minutes() {
        let grants = Grants::new();
        assert!(is_charged(&grants, b"1.2.3", b"DATA", NOW));
        assert!(!is_charged(&grants, b"1.2.3", b"DATA", NOW));
        assert!(is_charged(&grants, b"1.2.3", b"END-OF-MESSAGE", NOW));
        assert!(is_charged(&grants, b"1.2.4", b"DATA", NOW));
        assert!(!is_charged(&grants, b"1.2.3", b"DATA", NOW + REMEMBERED - Duration::from_nanos(1)));
        assert!(is_charged(&grants, b"1.2.3", b"DATA", NOW + REMEMBERED));
        assert!(!is_charged(&grants, b"1.2.3", b"DATA", NOW + REMEMBERED));
    }

    #[test]
    fn looked_up_and_remembered_apart() {
        let grants = Grants::new();
        assert!(!grants.knows(b"1.2.3", &[b"DATA"], NOW));
        grants.remember(b"1.2.3", &[b"DATA"], NOW);
        assert!(grants.knows(b"1.2.3", &[b"DATA"], NOW) && !grants.knows(b"1.2.4", &[b"DATA"], NOW));
        assert!(!is_charged(&grants, b"1.2.3", b"DATA", NOW));
        grants.remember(b"", &[b"DATA"], NOW);
        assert!(!grants.knows(b"", &[b"DATA"], NOW));
    }

    #[test]
    fn what_has_no_instance_is_always_charged() {
        let grants = Grants::new();
        assert!(is_charged(&grants, b"", b"DATA", NOW));
        assert!(is_charged(&grants, b"", b"DATA", NOW));
        assert_eq!(grants.len(NOW), 0);
    }

    #[test]
    fn refusals_are_not_remembered() {
        let grants = Grants::new();
        let refuse = || Outcome { refused: Some(Refused { index: 0, why: Why::NeverFits }), ..Outcome::default() };
        assert!(matches!(grants.once(b"i", &[b"DATA"], NOW, refuse), Granted::New(_)));
        assert!(is_charged(&grants, b"i", b"DATA", NOW));
    }

    #[test]
    fn nearly_all_are_remembered_at_the_bound_and_none_after_two_minutes() {
        let grants = Grants::new();
        let seconds = REMEMBERED.as_secs() as usize;
        for i in 0..MAX_GRANTS {
            let now = NOW + Duration::from_secs((i * seconds / MAX_GRANTS) as u64);
            assert!(is_charged(&grants, &i.to_be_bytes(), b"DATA", now));
        }
        let last = NOW + REMEMBERED - Duration::from_secs(1);
        let len = grants.len(last);
        assert!(len <= MAX_GRANTS && len > MAX_GRANTS / 100 * 98, "{len}");
        let newest = MAX_GRANTS / seconds * 5;
        let repeats =
            (MAX_GRANTS - newest..MAX_GRANTS).filter(|i| !is_charged(&grants, &i.to_be_bytes(), b"DATA", last));
        assert_eq!(repeats.count(), newest);
        assert_eq!(grants.len(NOW + 3 * REMEMBERED), 0);
    }

    #[test]
    fn a_full_set_forgets_its_oldest() {
        let mut set = Set::default();
        let hash = |i: u64| (i + 1) << 40;
        for i in 0..20 {
            set.remember(hash(i), 1_000 + i);
        }
        let known: Vec<u64> = (0..20).filter(|i| set.knows(hash(*i), 1_020)).collect();
        assert_eq!(known, (12..20).collect::<Vec<_>>());
        set.remember(hash(20), 1_000 + REMEMBERED_TICKS + 15);
        let known: Vec<u64> = (0..21).filter(|i| set.knows(hash(*i), 1_000 + REMEMBERED_TICKS + 15)).collect();
        assert_eq!(known, [16, 17, 18, 19, 20]);
    }

    #[test]
    fn the_count_of_ticks_may_turn_over() {
        let (mut set, hash) = (Set::default(), 7 << 50);
        for start in [TICKS - REMEMBERED_TICKS, TICKS - 1, TICKS, TICKS + 1, 5 * TICKS + 3] {
            assert!(!set.knows(hash, start), "{start}");
            set.remember(hash, start);
            assert!(set.knows(hash, start - 1), "a thread that lags");
            assert!(set.knows(hash, start + REMEMBERED_TICKS - 1));
            assert!(!set.knows(hash, start + REMEMBERED_TICKS));
            set = Set::default();
            assert!(!set.knows(0, start) && !set.knows(hash, start));
        }
    }

    #[test]
    fn of_many_who_ask_at_once_one_is_charged() {
        let (grants, charged) = (Grants::new(), AtomicU32::new(0));
        let ask = || {
            for i in 0u32..2_000 {
                grants.once(&i.to_be_bytes(), &[b"DATA"], NOW, || {
                    charged.fetch_add(1, Ordering::Relaxed);
                    Outcome::default()
                });
            }
        };
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(ask))));
        assert_eq!(charged.into_inner(), 2_000);
    }

    #[test]
    #[ignore = "a measurement"]
    fn measure_once() {
        let grants = Grants::new();
        let start = crate::meters::measure::cpu_nanos();
        for i in 0u64..1_000_000 {
            is_charged(&grants, &i.to_be_bytes(), b"DATA", NOW + Duration::from_micros(300 * i));
        }
        println!("{} ns per question", (crate::meters::measure::cpu_nanos() - start) / 1_000_000);
    }
}

//! Limits that the whole fleet counts together, in the store. A question asks once and waits for [`DEADLINE`] at most;
//! then, and at once while the store is away, this relay's own meters answer, by its share of each limit. A question
//! never connects: that is the [`Keeper`](super::Keeper)'s.

use super::link::in_words;
use super::script::{CHARGE, arguments, outcome};
use super::{Keys, Link};
use crate::meters::{Charge, Meters, Outcome};
use arc_swap::ArcSwapOption;
use redis::{ErrorKind, RedisError, Script, cmd};
use smallvec::SmallVec;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;

/// How long a question waits for the store: long beside a round trip, short beside a client's patience.
pub const DEADLINE: Duration = Duration::from_millis(20);

/// So many failures in a row, and no question asks any more until the store has proved itself.
const FAILURES: u32 = 3;

/// The most charges of one question that the store is asked for: five milliseconds of its time, in which it answers nobody
/// else. That is a message of a thousand recipients in as many domains, with one limit by recipient domain.
pub const MAX_CHARGES: usize = 1_100;

/// The script, with its name.
pub(super) static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(CHARGE));

/// Why this relay's own meters answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The store was known to be away.
    Away,
    /// It did not answer in time; it may have counted all the same.
    Late,
    /// It said that it cannot, or the connection broke.
    Failed,
    /// More than [`MAX_CHARGES`] charges.
    TooMany,
}

impl Fallback {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Away, Self::Late, Self::Failed, Self::TooMany];

    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Late => "late",
            Self::Failed => "failed",
            Self::TooMany => "too_many",
        }
    }
}

/// The limits of a fleet, as one of its relays asks for them.
pub struct Limiter {
    pub(super) keys: Keys,
    meters: Arc<Meters>,
    /// `None` while the store is away: the breaker is open.
    line: ArcSwapOption<Line>,
    /// Told when the breaker opens.
    pub(super) opened: Notify,
    relays: AtomicU32,
    answered: AtomicU64,
    fallbacks: [AtomicU64; Fallback::ALL.len()],
    trouble: Mutex<Option<String>>,
    /// Since when the store answers or is away.
    since: Mutex<SystemTime>,
}

/// Connections that have proved themselves.
pub(super) struct Line {
    links: Vec<Link>,
    turn: AtomicUsize,
    failures: AtomicU32,
    pub(super) since: Instant,
}

impl Line {
    pub(super) fn new(links: Vec<Link>) -> Self {
        Self { links, turn: AtomicUsize::new(0), failures: AtomicU32::new(0), since: Instant::now() }
    }

    /// A connection, each in its turn.
    pub(super) fn link(&self) -> Option<Link> {
        self.links.get(self.turn.fetch_add(1, Relaxed) % self.links.len().max(1)).cloned()
    }
}

/// Why the store did not answer.
pub(super) enum Failure {
    Late,
    Said(RedisError),
}

impl Failure {
    /// Whether the connection is gone.
    fn is_for_good(&self) -> bool {
        matches!(self, Self::Said(error) if error.is_connection_dropped())
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::Said(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("it does not answer in time"),
            Self::Said(error) => f.write_str(&in_words(error)),
        }
    }
}

/// Has the script run, within `deadline`.
pub(super) async fn ask(
    link: &mut Link,
    (names, arguments): (Vec<Vec<u8>>, Vec<u64>),
    deadline: Duration,
) -> Result<Vec<i64>, Failure> {
    let mut question = cmd("EVALSHA");
    question.arg(SCRIPT.get_hash()).arg(names.len()).arg(names).arg(arguments);
    let mut asking = pin!(question.query_async(link));
    if let Ok(said) = tokio::time::timeout(deadline, &mut asking).await {
        return Ok(said?);
    }
    // Where this machine was busy, and not the store, the answer has come by now: who reads it is let go first.
    tokio::select! {
        biased;
        said = asking => Ok(said?),
        () = tokio::task::yield_now() => Err(Failure::Late),
    }
}

impl Limiter {
    /// A limiter whose store is away yet; `meters` answer then.
    pub(super) fn new(keys: Keys, meters: Arc<Meters>) -> Self {
        Self {
            keys,
            meters,
            line: ArcSwapOption::empty(),
            opened: Notify::new(),
            relays: AtomicU32::new(1),
            answered: AtomicU64::new(0),
            fallbacks: Default::default(),
            trouble: Mutex::default(),
            since: Mutex::new(SystemTime::now()),
        }
    }

    /// Charges every enforced limit, or none; observed ones beside them. `now` is Unix time, by which this relay's own
    /// meters answer where the store does not.
    pub async fn charge(&self, charges: &[Charge<'_>], now: Duration) -> Outcome {
        let why = match self.by_store(charges).await {
            Ok(outcome) => {
                self.answered.fetch_add(1, Relaxed);
                return outcome;
            }
            Err(why) => why,
        };
        self.fallbacks[why as usize].fetch_add(1, Relaxed);
        let relays = self.relays();
        let share = |charge: &Charge<'_>| charge.rate.share(relays, charge.n);
        let shares: SmallVec<[Charge<'_>; 4]> =
            charges.iter().map(|charge| Charge { rate: share(charge), key: charge.key, ..*charge }).collect();
        self.meters.charge_all(&shares, now)
    }

    async fn by_store(&self, charges: &[Charge<'_>]) -> Result<Outcome, Fallback> {
        let line = self.line.load_full().ok_or(Fallback::Away)?;
        let mut link = line.link().ok_or(Fallback::Away)?;
        if charges.len() > MAX_CHARGES {
            return Err(Fallback::TooMany);
        }
        let said = ask(&mut link, arguments(&self.keys, charges), DEADLINE).await;
        let odd = || RedisError::from((ErrorKind::UnexpectedReturnType, "what it says is not the script's")).into();
        match said.and_then(|said| outcome(&said, charges.len()).ok_or_else(odd)) {
            Ok(outcome) => {
                if line.failures.load(Relaxed) > 0 {
                    line.failures.store(0, Relaxed);
                }
                Ok(outcome)
            }
            Err(failure) => {
                if line.failures.fetch_add(1, Relaxed) + 1 >= FAILURES || failure.is_for_good() {
                    self.open(&line, &failure);
                }
                Err(if matches!(failure, Failure::Late) { Fallback::Late } else { Fallback::Failed })
            }
        }
    }

    /// Opens the breaker: no question asks `line` any more.
    pub(super) fn open(&self, line: &Arc<Line>, failure: &Failure) {
        let before = self.line.compare_and_swap(line, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, line)) {
            self.set_trouble(Some(failure.to_string()));
            self.turn();
            self.opened.notify_one();
        }
    }

    /// Closes the breaker.
    pub(super) fn close(&self, line: Arc<Line>) {
        self.set_trouble(None);
        self.turn();
        self.line.store(Some(line));
    }

    fn turn(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
    }

    /// Since when the store has been answering, or away.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn line(&self) -> Option<Arc<Line>> {
        self.line.load_full()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why the store is away; `None`: it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        trouble.or_else(|| self.line.load().is_none().then(|| "not asked yet".to_owned()))
    }

    /// How many relays a limit is shared out to while the store is away: as many as were last seen, this one included.
    #[must_use]
    pub fn relays(&self) -> u32 {
        self.relays.load(Relaxed)
    }

    pub(super) fn set_relays(&self, relays: u32) {
        self.relays.store(relays.max(1), Relaxed);
    }

    /// How many questions the store has answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// How many questions this relay's own meters have answered, for this reason.
    #[must_use]
    pub fn fallbacks(&self, why: Fallback) -> u64 {
        self.fallbacks[why as usize].load(Relaxed)
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("relays", &self.relays()).finish_non_exhaustive()
    }
}

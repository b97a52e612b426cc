//! Everything: all records of the store in the order of their addresses, joined with all that is known here, and told
//! to the store where it knew less. For a relay that lost its place in the stream, and for a store that lost what it
//! had.

use super::Fault;
use super::position::{Place, Position};
use super::session::{Session, is_refusal, now};
use super::share::{self, FILTERS, REPORTS, Shared, TELLER};
use super::sort::{Page as Pairs, Sorted, Sorter};
use crate::fleet::PARTS;
use crate::mail::Address;
use crate::store::{FullReport, Mark, Record, Telling};
use redis::streams::StreamRangeReply;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// Records that are asked for at once.
pub(super) const SCAN: usize = 2_000;

/// Addresses that are joined in one transaction.
pub(super) const WINDOW: usize = 5_000;

/// Records that are taken in by one transaction, where nothing is known here yet.
const FIRST_WINDOW: usize = 50_000;

/// Parts of the list that are asked for at once.
const AT_ONCE: u16 = 8;

/// Such questions that are with the store at a time: it looks for the next answer while the last one is read.
const AHEAD: usize = 3;

/// Most changes that the index is told one by one: the feed holds a few times as many.
const MOST_TOLD: u64 = 50_000;

/// From so many records on, one relay after the other tells the store what it lost.
const MANY: usize = 1_000;

/// How long a relay waits for its turn before it tells the store all the same, and how long a turn lasts unless the
/// relay goes on.
const TURN_WAIT: Duration = Duration::from_secs(60);
const TURN_MS: u64 = 10_000;

impl Session<'_> {
    /// Reads everything, and tells what the store lacks.
    pub(super) async fn snapshot(&mut self) -> Result<(), Fault> {
        let began = Instant::now();
        let anchor = self.anchor().await?;
        let mark = self.store.mark()?;
        let sorted = self.scan().await?;
        let is_new = self.store.known_after("", 1)?.is_empty();
        let Done { changed, told, telling, mut last } =
            if is_new { self.fill(sorted, &mark).await? } else { self.compare(sorted).await? };
        self.hear_all().await?;
        last = last.max(self.tell(&self.store.removed_by_filter()?).await?).max(self.tell_reports().await?);
        self.end_turn().await?;
        self.status.applied.fetch_add(changed, Relaxed);
        self.settle(anchor, mark, telling, last)?;
        self.status.snapshots.fetch_add(1, Relaxed);
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(changed, told, ms, "This relay and the fleet's store know the same.");
        Ok(())
    }

    /// Joins what the store has with all that is known here.
    async fn compare(&mut self, mut sorted: Sorted) -> Result<Done, Fault> {
        let (mut cursor, mut done) = (String::new(), Done::so_far(Telling::Each));
        loop {
            let window = self.window(&mut sorted, &cursor)?;
            self.join(&window.records, &mut done).await?;
            match window.end {
                Some(end) => cursor = end,
                None => return Ok(done),
            }
            // the runtime has others to serve
            tokio::task::yield_now().await;
        }
    }

    /// Takes in what the store has where nothing was known here up to `mark`. What a command or an event writes meanwhile
    /// is in the feed, and told by it.
    async fn fill(&mut self, mut sorted: Sorted, mark: &Mark) -> Result<Done, Fault> {
        let mut done = Done::so_far(Telling::Later);
        let status = self.status;
        let mut broken = None;
        let mut said = std::iter::from_fn(|| {
            loop {
                let pair = sorted.next().map_err(|error| broken = Some(error)).ok()??;
                let record = share::read(pair, |name, why| status.cannot_read(name, why));
                if record.is_some() {
                    return record;
                }
            }
        });
        self.store.expect_millions(true)?;
        loop {
            let read = if self.store.mark()? == *mark {
                let (changed, read) = self.store.fill(&mut said, FIRST_WINDOW, now())?;
                done.changed += changed;
                read
            } else {
                let records: Vec<_> = said.by_ref().take(WINDOW).collect();
                self.join(&records, &mut done).await?;
                records.len()
            };
            if read == 0 {
                break;
            }
            // the runtime has others to serve
            tokio::task::yield_now().await;
        }
        self.store.expect_millions(false)?;
        broken.map_or(Ok(done), |error| Err(error.into()))
    }

    async fn join(&mut self, records: &[(Address, Record)], done: &mut Done) -> Result<(), Fault> {
        if done.changed > MOST_TOLD {
            done.telling = Telling::Later;
        }
        let merged = self.store.merge(records, done.telling, &[], now())?;
        done.changed += merged.changed;
        done.told += merged.to_tell.len();
        if done.told > MANY {
            self.take_turn().await?;
        }
        done.last = done.last.max(self.tell(&merged.to_tell).await?);
        Ok(())
    }

    /// The newest place of the stream. One that is empty gets an entry, so that there is a place.
    async fn anchor(&mut self) -> Result<Place, Fault> {
        let stream = self.keys().of("changes");
        for _ in 0..2 {
            let mut question = redis::cmd("XREVRANGE");
            question.arg(&stream).arg("+").arg("-").arg("COUNT").arg(1);
            let newest: StreamRangeReply = question.query_async(self.link()).await?;
            if let Some(place) = newest.ids.first().and_then(Place::of) {
                return Ok(place);
            }
            let mut question = redis::cmd("XADD");
            question.arg(&stream).arg("*").arg(TELLER).arg(&self.settings.relay.name);
            let _: String = question.query_async(self.link()).await?;
        }
        let why = (redis::ErrorKind::UnexpectedReturnType, "the stream of changes does not keep an entry");
        Err(redis::RedisError::from(why).into())
    }

    /// All records, in the order of their addresses. A thread sorts while the store is asked for more.
    pub(super) async fn scan(&mut self) -> Result<Sorted, Fault> {
        let folder = self.settings.database.parent().unwrap_or(Path::new("."));
        let mut sorter = Sorter::start(folder.to_owned())?;
        let mut firsts = (0..PARTS).step_by(usize::from(AT_ONCE));
        let mut asked = VecDeque::new();
        loop {
            while asked.len() < AHEAD
                && let Some(first) = firsts.next()
            {
                let (mut link, keys) = (self.link().clone(), self.keys().clone());
                asked.push_back(AbortOnDropHandle::new(tokio::spawn(async move {
                    let mut question = redis::pipe();
                    for part in first..PARTS.min(first + AT_ONCE) {
                        question.cmd("HGETALL").arg(keys.entries_part(part));
                    }
                    question.query_async::<Vec<Vec<RawPair>>>(&mut link).await
                })));
            }
            let Some(answered) = asked.pop_front() else { break };
            let parts = answered.await.map_err(io::Error::other)??;
            let mut pairs = Pairs::default();
            parts.iter().flatten().for_each(|(name, value)| pairs.push((name, value)));
            sorter.push(pairs).await?;
        }
        Ok(sorter.finish())
    }

    /// Takes in all reports and filters.
    pub(super) async fn hear_all(&mut self) -> Result<(), Fault> {
        for hash in [FILTERS, REPORTS] {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let Page { pairs, next } = self.page(&self.keys().of(hash), at).await?;
                match hash {
                    REPORTS => self.hear(&self.read_all(&pairs), &[])?,
                    _ => self.hear(&[], &self.read_all(&pairs))?,
                }
                cursor = next;
            }
        }
        Ok(())
    }

    /// Tells all reports that are kept here; where in the stream the last stands that the fleet did not know.
    pub(super) async fn tell_reports(&mut self) -> Result<Option<Position>, Fault> {
        let (mut after, mut told) = (0, None);
        loop {
            let own = self.store.full_reports(after, SCAN)?;
            let Some((last, _)) = own.last() else { return Ok(told) };
            after = *last;
            let own: Vec<FullReport> = own.into_iter().map(|(_, report)| report).collect();
            told = told.max(self.tell(&own).await?);
        }
    }

    fn read_all<T: Shared>(&self, pairs: &[RawPair]) -> Vec<T> {
        pairs.iter().filter_map(|(name, value)| self.read((name, value))).collect()
    }

    /// Some of a hash.
    pub(super) async fn page(&mut self, hash: &str, cursor: u64) -> Result<Page, Fault> {
        let mut question = redis::cmd("HSCAN");
        question.arg(hash).arg(cursor).arg("COUNT").arg(SCAN);
        let (next, pairs): (u64, Vec<RawPair>) = question.query_async(self.link()).await?;
        Ok(Page { pairs, next: Some(next).filter(|next| *next != 0) })
    }

    /// What both sides know of the next addresses.
    fn window(&self, sorted: &mut Sorted, after: &str) -> Result<Window, Fault> {
        let known = self.store.known_after(after, WINDOW)?;
        let end = (known.len() == WINDOW).then(|| known.last().cloned()).flatten();
        let mut records = Vec::new();
        let mut known = known.into_iter().peekable();
        let mut is_full = false;
        let mut last = String::new();
        while let Some(pair) = sorted.next()? {
            if end.as_deref().is_some_and(|end| *pair.0 > *end.as_bytes()) {
                sorted.step_back();
                break;
            }
            let Some((address, record)) = self.read::<(Address, Record)>(pair) else { continue };
            while let Some(own) = known.next_if(|own| own.as_str() < address.as_str()) {
                records.extend(of_own(&own));
            }
            known.next_if(|own| own == address.as_str());
            address.as_str().clone_into(&mut last);
            records.push((address, record));
            if records.len() >= WINDOW {
                is_full = true;
                break;
            }
        }
        if is_full {
            return Ok(Window { records, end: Some(last) });
        }
        records.extend(known.filter_map(|own| of_own(&own)));
        Ok(Window { records, end })
    }

    /// Waits until no other relay tells the store what it lost.
    async fn take_turn(&mut self) -> Result<(), Fault> {
        let (lock, name) = (self.keys().of("turn"), self.settings.relay.name.clone());
        let latest = Instant::now() + TURN_WAIT;
        loop {
            let mut question = redis::cmd("SET");
            question.arg(&lock).arg(&name).arg("PX").arg(TURN_MS);
            if !self.has_turn {
                question.arg("NX");
            }
            let is_ours: Option<String> = match question.query_async(self.link()).await {
                // then it takes no records either
                Err(error) if is_refusal(&error) => return Ok(()),
                answered => answered?,
            };
            if is_ours.is_some() || Instant::now() > latest {
                self.has_turn = is_ours.is_some();
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100 + fastrand::u64(..400))).await;
        }
    }

    async fn end_turn(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.has_turn) {
            let lock = self.keys().of("turn");
            let _: i64 = redis::cmd("DEL").arg(lock).query_async(self.link()).await?;
        }
        Ok(())
    }
}

/// What came of reading everything.
struct Done {
    changed: u64,
    told: usize,
    telling: Telling,
    /// Where in the stream the last of what was told stands.
    last: Option<Position>,
}

impl Done {
    fn so_far(telling: Telling) -> Self {
        Self { changed: 0, told: 0, telling, last: None }
    }
}

/// An address that the store may not know.
fn of_own(address: &str) -> Option<(Address, Record)> {
    Some((Address::parse(address).ok()?, Record::default()))
}

/// The next addresses, with what the store says of each; and the last of them, unless there are no more.
struct Window {
    records: Vec<(Address, Record)>,
    end: Option<String>,
}

/// A name and a value, as they come.
pub(super) type RawPair = (Vec<u8>, Vec<u8>);

/// A part of a hash, and the cursor of the next.
pub(super) struct Page {
    pub(super) pairs: Vec<RawPair>,
    pub(super) next: Option<u64>,
}

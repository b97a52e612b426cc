//! Everything: all records of the store in the order of their addresses, joined with all that is known here, and told
//! to the store where it knew less. For a relay that lost its place in the stream, and for a store that lost what it
//! had.

use super::Fault;
use super::position::{Place, Position};
use super::session::{Session, is_refusal, now};
use super::share::{self, FILTERS, REPORTS, Shared, TELLER};
use super::sort::{Page as Pairs, Sorted, Sorter};
use crate::fleet::{Link, PARTS, Patience, connect};
use crate::mail::Address;
use crate::store::{FullReport, Mark, Record, Telling};
use redis::streams::StreamRangeReply;
use redis::{RedisResult, Script};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// Records that are asked for at once: well below the time that a question about limits may take at the store.
pub(super) const SCAN: usize = 2_000;

/// Addresses that are joined in one transaction.
pub(super) const WINDOW: usize = 5_000;

/// Records that are taken in by one transaction, where nothing is known here yet.
const FIRST_WINDOW: usize = 50_000;

/// Most parts of the list that are asked for at once, where there is little in them.
const MOST_PARTS: usize = 64;

/// Such questions that are with the store at a time: it looks for the next answer while the last one is read.
const AHEAD: usize = 2;

/// Most changes that the index is told one by one: the feed holds a few times as many.
const MOST_TOLD: u64 = 50_000;

/// From so many records on, one relay after the other tells the store what it lost.
const MANY: usize = 1_000;

/// How long a turn lasts, unless the relay goes on; and how long the others wait for its end.
const TURN_MS: u64 = 10_000;
const TURN_WAIT: Duration = Duration::from_secs(600);

/// How long an answer with parts of the list may take, by a way that others use as well.
const SCAN_PATIENCE: Patience = Patience { connect: Duration::from_secs(2), answer: Duration::from_secs(60) };

impl Session<'_> {
    /// Reads everything, and tells what the store lacks.
    pub(super) async fn snapshot(&mut self) -> Result<(), Fault> {
        let read = self.read_everything().await;
        // what is in the database by now is to be in force
        read.and(self.tell_index(&[]))
    }

    async fn read_everything(&mut self) -> Result<(), Fault> {
        let is_new = self.store.known_after("", 1)?.is_empty();
        if !is_new {
            self.let_others_tell().await?;
        }
        let began = Instant::now();
        self.untold = false;
        let anchor = self.anchor().await?;
        let mark = self.store.mark()?;
        // no row has it, so that comparing would not find it
        let mut taken_back = self.store.taken_back()?;
        taken_back.retain(|(_, record)| !record.is_over(now()));
        let mut told = self.answer(&taken_back).await?;
        self.hear_all(FILTERS).await?;
        let sorted = self.scan().await?;
        let is_new = is_new && self.store.known_after("", 1)?.is_empty();
        let done = if is_new { self.fill(sorted, &mark).await? } else { self.compare(sorted).await? };
        told.extend(done.places);
        self.hear_all(REPORTS).await?;
        told.extend(self.answer(&self.store.removed_by_filter()?).await?);
        told.extend(self.tell_reports().await?);
        self.status.applied.fetch_add(done.changed, Relaxed);
        self.settle(anchor, mark, told)?;
        self.end_turn().await?;
        self.status.snapshots.fetch_add(1, Relaxed);
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (changed, told) = (done.changed, done.told);
        if self.untold {
            tracing::info!(
                changed,
                told,
                ms,
                "This relay knows what the fleet's store has, which is yet to be told the rest."
            );
        } else {
            tracing::info!(changed, told, ms, "This relay and the fleet's store know the same.");
        }
        Ok(())
    }

    /// Joins what the store has with all that is known here.
    async fn compare(&mut self, mut sorted: Sorted) -> Result<Done, Fault> {
        let (mut cursor, mut done) = (String::new(), Done::default());
        loop {
            let window = self.window(&mut sorted, &cursor)?;
            self.join(&window.records, &mut done).await?;
            self.keep_turn().await?;
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
        let mut done = Done::default();
        let status = self.status;
        let mut broken = None;
        let records = std::iter::from_fn(|| {
            loop {
                let pair = match sorted.next() {
                    Ok(pair) => pair?,
                    Err(error) => {
                        broken.get_or_insert(error);
                        return None;
                    }
                };
                let record = share::read(pair, |name, why| status.cannot_read(name, why));
                if record.is_some() {
                    return record;
                }
            }
        });
        // the first of them is waited for before the database is locked
        let mut records = records.peekable();
        self.store.expect_millions(true)?;
        self.status.silent.store(true, Relaxed);
        while records.peek().is_some() {
            match self.store.fill(&mut records, FIRST_WINDOW, now(), mark)? {
                Some(changed) => done.changed += changed,
                None => {
                    let records: Vec<_> = records.by_ref().take(WINDOW).collect();
                    self.join(&records, &mut done).await?;
                }
            }
            // the runtime has others to serve
            tokio::task::yield_now().await;
        }
        drop(records);
        self.store.expect_millions(false)?;
        broken.map_or(Ok(done), |error| Err(error.into()))
    }

    async fn join(&mut self, records: &[(Address, Record)], done: &mut Done) -> Result<(), Fault> {
        let telling = if done.changed > MOST_TOLD || self.status.silent.load(Relaxed) {
            self.status.silent.store(true, Relaxed);
            Telling::Later
        } else {
            Telling::Each
        };
        let merged = self.store.merge(records, telling, &[], now())?;
        done.changed += merged.changed;
        done.told += merged.to_tell.len();
        if done.told > MANY && !self.take_turn().await? {
            self.untold = true;
            return Ok(());
        }
        done.places.extend(self.answer(&merged.to_tell).await?);
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
        // nobody waits behind these answers, which may be long in coming
        let link = connect(&self.settings.url, self.settings.ca.as_deref(), SCAN_PATIENCE).await?;
        let (mut left, mut at_once) = (0..PARTS, 1);
        let mut asked = VecDeque::new();
        loop {
            while asked.len() < AHEAD && !left.is_empty() {
                let some: Vec<String> = left.by_ref().take(at_once).map(|n| self.keys().entries_part(n)).collect();
                asked.push_back(AbortOnDropHandle::new(tokio::spawn(parts(link.clone(), some))));
            }
            let Some(answered) = asked.pop_front() else { break };
            let parts = answered.await.map_err(io::Error::other)??;
            let mut pairs = Pairs::default();
            parts.iter().flatten().for_each(|(name, value)| pairs.push((name, value)));
            let count: usize = parts.iter().map(Vec::len).sum();
            at_once = (SCAN * parts.len() / count.max(1)).clamp(1, MOST_PARTS);
            sorter.push(pairs).await?;
            self.keep_turn().await?;
        }
        Ok(sorter.finish())
    }

    /// Takes in all reports, or all filters.
    pub(super) async fn hear_all(&mut self, hash: &str) -> Result<(), Fault> {
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let Page { pairs, next } = self.page(&self.keys().of(hash), at).await?;
            match hash {
                REPORTS => self.hear(&self.read_all(&pairs), &[])?,
                _ => self.hear(&[], &self.read_all(&pairs))?,
            }
            cursor = next;
        }
        Ok(())
    }

    /// Tells all reports that are kept here; where in the stream those stand that the fleet did not know.
    pub(super) async fn tell_reports(&mut self) -> Result<Vec<Position>, Fault> {
        let (mut after, mut told) = (0, Vec::new());
        loop {
            let own = self.store.full_reports(after, SCAN)?;
            let Some((last, _)) = own.last() else { return Ok(told) };
            after = *last;
            let own: Vec<FullReport> = own.into_iter().map(|(_, report)| report).collect();
            told.extend(self.answer(&own).await?);
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

    /// Waits while another relay tells the store what it lost: the stream is too short for that, and what is read before its
    /// end is read once more. What is changed here is told all the same.
    async fn let_others_tell(&mut self) -> Result<(), Fault> {
        let (began, mut first) = (Instant::now(), None);
        loop {
            self.push_changes().await?;
            let teller: Option<String> = redis::cmd("GET").arg(self.keys().of("turn")).query_async(self.link()).await?;
            let Some(teller) = teller.filter(|teller| *teller != self.turn) else { return Ok(()) };
            // the turns of those that come after it are short
            if *first.get_or_insert_with(|| teller.clone()) != teller || began.elapsed() > TURN_WAIT {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100 + fastrand::u64(..400))).await;
        }
    }

    /// Takes, or keeps, the turn to tell the store what it lost; whether it is this relay's now. It is so for a while.
    pub(super) async fn take_turn(&mut self) -> Result<bool, Fault> {
        self.owns_turn = match self.ask_turn(TURN_MS).await {
            Err(error) if is_refusal(&error) => {
                self.note_refusal(&error);
                false
            }
            answered => answered?,
        };
        Ok(self.owns_turn)
    }

    async fn keep_turn(&mut self) -> Result<(), Fault> {
        if self.owns_turn {
            self.take_turn().await?;
        }
        Ok(())
    }

    async fn end_turn(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.owns_turn) {
            match self.ask_turn(0).await {
                // it ends by itself
                Err(error) if is_refusal(&error) => {}
                answered => drop(answered?),
            }
        }
        Ok(())
    }

    async fn ask_turn(&mut self, ms: u64) -> RedisResult<bool> {
        static TURN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("turn.lua")));
        let (key, who) = (self.keys().of("turn"), self.turn.clone());
        TURN.key(key).arg(who).arg(ms).invoke_async(self.link()).await
    }
}

/// Some parts of the list.
async fn parts(mut link: Link, keys: Vec<String>) -> RedisResult<Vec<Vec<RawPair>>> {
    let mut question = redis::pipe();
    keys.iter().for_each(|key| {
        question.cmd("HGETALL").arg(key);
    });
    question.query_async(&mut link).await
}

/// What came of reading everything.
#[derive(Default)]
struct Done {
    /// Addresses of which more is known here.
    changed: u64,
    /// Addresses of which the store knew less.
    told: usize,
    /// Where in the stream they stand.
    places: Vec<Position>,
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

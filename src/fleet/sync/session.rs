//! From one connection to its end: changes of this relay go out as its feed tells them, those of others come by the
//! stream. What is noted in the database is where the relay is in the stream, and up to where its own changes came
//! back by it: a store that lost its last second is told them again.

use super::position::{Place, Position};
use super::push::Pusher;
use super::share::{self, Shared, TELLER, VALUE};
use super::sort::Pair;
use super::status::{Status, unix_ms, unix_seconds};
use super::sweep::Sweep;
use super::{Fault, Settings};
use crate::fleet::{Keys, Link, Patience, connect};
use crate::mail::Address;
use crate::store::{FullReport, Mark, OwnChange, Record, RemovedFilter, Store, Telling, identity};
use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const PATIENCE: Patience = Patience { connect: Duration::from_secs(2), answer: Duration::from_secs(5) };

/// How long the store holds a question for news. Shorter than it is waited for an answer.
const BLOCK: Duration = Duration::from_secs(2);

/// How often the feed is looked at: two system calls.
const LOOK: Duration = Duration::from_millis(100);

/// How long a session with a server that is read-only goes on: it follows what others tell.
const REPLICA: Duration = Duration::from_secs(30);

/// How long a push that the store refused waits for its next try, and at most once that was refused as well.
const PUSH_RETRY: Duration = Duration::from_millis(500);
const LONGEST_PUSH_RETRY: Duration = Duration::from_secs(60);

/// How often a relay that left something untold asks whether it is its turn, and at most, once it read everything and the
/// store did not take it.
const TURN_RETRY: Duration = Duration::from_secs(1);
const LONGEST_TURN_RETRY: Duration = Duration::from_secs(600);

/// Entries of the stream, and lines of the feed, that are taken at once.
const BATCH: usize = 500;
const FEED_BATCH: usize = 2_000;

/// What the database remembers, by name.
const NAMESPACE: &str = "namespace";
const POSITION: &str = "position";
const MARK: &str = "mark";
const UNTOLD: &str = "untold";

pub(super) struct Session<'a> {
    pub(super) settings: &'a Settings,
    pub(super) status: &'a Status,
    pub(super) store: Store,
    pub(super) pusher: Pusher<'a>,
    /// The connection that waits for news.
    waiting: Link,
    /// Where this relay is in the stream; `None`: nowhere, everything is to be read.
    place: Option<Place>,
    /// Up to where the own changes were pushed.
    mark: Option<Mark>,
    /// What was told and has not come back by the stream.
    on_their_way: VecDeque<OnItsWay>,
    /// Up to where the own changes came back.
    returned: Option<Mark>,
    /// The database as it was when the feed was last read to its end.
    version: Option<i64>,
    began: Instant,
    /// When the store last refused a change.
    refused: Option<Instant>,
    /// How long it waits for its next try.
    retry: Duration,
    /// Whether this relay knows what the store was not told, and the feed does not have: everything is to be compared.
    pub(super) untold: bool,
    /// When this relay last asked for its turn, and how long it waits before it does again.
    asked: Instant,
    asks_after: Duration,
    /// The store's clock less ours, milliseconds.
    ahead_ms: i64,
    /// What the store has as the turn's while it is this relay's.
    pub(super) turn: String,
    pub(super) owns_turn: bool,
    pub(super) sweep: Sweep,
}

/// Something that was told.
struct OnItsWay {
    at: Position,
    /// Whether the feed of this relay has it, and tells it again where it does not come back.
    is_in_feed: bool,
    /// Up to where the own changes are there once this has come back.
    mark: Option<Mark>,
}

impl OnItsWay {
    fn reply(at: Position) -> Self {
        Self { at, is_in_feed: false, mark: None }
    }
}

impl<'a> Session<'a> {
    /// Connects.
    pub(super) async fn begin(settings: &'a Settings, status: &'a Status) -> Result<Self, Fault> {
        let store = Store::open(&settings.database)?;
        let connect = || connect(&settings.url, settings.ca.as_deref(), PATIENCE);
        let (mut link, waiting) = (connect().await?, connect().await?);
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut link).await?;
        let ahead_ms = seconds * 1000 + micros / 1000 - i64::try_from(unix_ms()).unwrap_or(0);
        let is_ours = store.noted(NAMESPACE)?.is_some_and(|noted| noted == settings.keys.prefix());
        let noted = |name| -> Result<Option<String>, Fault> { Ok(store.noted(name)?.filter(|_| is_ours)) };
        let place: Option<Place> = noted(POSITION)?.and_then(|text| text.parse().ok());
        let mark = noted(MARK)?.and_then(|text| text.parse().ok());
        let untold = noted(UNTOLD)?.is_some_and(|text| !text.is_empty());
        let pusher = Pusher::new(link, &settings.keys, &settings.relay, status);
        if let Some(place) = place {
            status.at(place.at);
            status.is_in_sync();
        }
        status.connected();
        Ok(Self {
            settings,
            status,
            store,
            pusher,
            waiting,
            place,
            mark,
            on_their_way: VecDeque::new(),
            returned: None,
            version: None,
            began: Instant::now(),
            // then the store is tried first
            refused: untold.then(Instant::now),
            retry: PUSH_RETRY,
            untold,
            asked: Instant::now(),
            asks_after: TURN_RETRY,
            turn: format!("{} {:016x}", settings.relay.name, fastrand::u64(..)),
            ahead_ms,
            owns_turn: false,
            sweep: Sweep::default(),
        })
    }

    /// Keeps this relay and the fleet in step until something ends it; and whether they were.
    pub(super) async fn run(mut self) -> (Fault, bool) {
        match self.keep_in_step().await {
            Ok(never) => match never {},
            Err(fault) => (fault, self.place.is_some()),
        }
    }

    async fn keep_in_step(&mut self) -> Result<std::convert::Infallible, Fault> {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.tell_index(&[])?;
        loop {
            self.catch_up().await?;
            let (link, stream) = (self.waiting.clone(), self.keys().of("changes"));
            let position = self.place.map(|place| place.at).unwrap_or_default();
            let mut news = std::pin::pin!(wait_for_news(link, stream, position));
            loop {
                tokio::select! {
                    answered = &mut news => {
                        answered?;
                        break;
                    }
                    _ = looks.tick() => {
                        self.push_changes().await?;
                        self.take_up().await?;
                    }
                }
                if self.place.is_none() {
                    break;
                }
            }
            self.status.contact(&self.settings.url);
            self.sweep().await?;
        }
    }

    /// Takes in what the stream has.
    async fn catch_up(&mut self) -> Result<(), Fault> {
        loop {
            let Some(entries) = self.next_entries().await? else {
                self.snapshot().await?;
                continue;
            };
            if !self.came_back(&entries) {
                self.place = None;
                continue;
            }
            if let Some(last) = entries.last().and_then(Place::of) {
                self.apply(&entries, last).await?;
            }
            if entries.len() < BATCH {
                self.status.lag_ms.store(0, Relaxed);
                return Ok(());
            }
        }
    }

    /// The next entries of the stream; `None` where the one at our place is gone, or is another one: there may have been
    /// more that we do not know.
    async fn next_entries(&mut self) -> Result<Option<Vec<StreamId>>, Fault> {
        let Some(place) = self.place else { return Ok(None) };
        let position = place.at.to_string();
        let stream = self.keys().of("changes");
        let mut questions = redis::pipe();
        // in this order: what is cut off between the two is not passed over
        questions.cmd("XREAD").arg("COUNT").arg(BATCH).arg("STREAMS").arg(&stream).arg(&position);
        questions.cmd("XRANGE").arg(&stream).arg(&position).arg(&position).arg("COUNT").arg(1);
        let (news, here): (Option<StreamReadReply>, StreamRangeReply) = questions.query_async(self.link()).await?;
        if here.ids.first().and_then(Place::of) != Some(place) {
            return Ok(None);
        }
        Ok(Some(news.into_iter().flat_map(|news| news.keys).flat_map(|key| key.ids).collect()))
    }

    async fn apply(&mut self, entries: &[StreamId], last: Place) -> Result<(), Fault> {
        let waits = i64::try_from(unix_ms()).unwrap_or(0) + self.ahead_ms - i64::try_from(last.at.ms).unwrap_or(0);
        self.status.lag_ms.store(u64::try_from(waits).unwrap_or(0), Relaxed);
        let mut said: BTreeMap<Address, Record> = BTreeMap::new();
        for (address, record) in self.told(entries) {
            let known: Record = said.remove(&address).unwrap_or_default();
            said.insert(address, known.join(record));
        }
        let said: Vec<_> = said.into_iter().collect();
        self.hear(&self.told(entries), &self.told(entries))?;
        // own changes first: the lines of the others push them out of the feed
        self.push_changes().await?;
        if self.place.is_none() {
            return Ok(());
        }
        // a reply is not in the feed: until it came back, this place is where a new session begins
        let awaits_reply = self.on_their_way.iter().any(|told| !told.is_in_feed);
        let (place, mark) = (last.to_string(), self.returned.as_ref().map(Mark::to_string));
        let notes = if awaits_reply { Vec::new() } else { notes(self.keys(), &place, mark.as_deref(), self.untold) };
        let merged = self.store.merge(&said, Telling::Each, &notes, now())?;
        self.version = None;
        self.place = Some(last);
        self.status.at(last.at);
        self.status.applied.fetch_add(merged.changed, Relaxed);
        let told = self.answer(&merged.to_tell).await?;
        self.on_their_way.extend(told.into_iter().map(OnItsWay::reply));
        Ok(())
    }

    /// Whether all that was told is among what the stream has, of which `entries` came now. Where its id was passed and
    /// it was not there, or there is no more, the server that had it is gone.
    fn came_back(&mut self, entries: &[StreamId]) -> bool {
        let relay = self.settings.relay.name.as_bytes();
        let last = entries.last().and_then(|entry| entry.id.parse::<Position>().ok()).unwrap_or_default();
        while let Some(OnItsWay { at, mark, .. }) = self.on_their_way.pop_front_if(|told| told.at <= last) {
            let is_it = |entry: &StreamId| {
                entry.id.parse() == Ok(at) && entry.get::<Vec<u8>>(TELLER).is_some_and(|teller| teller == relay)
            };
            if !entries.iter().any(is_it) {
                return false;
            }
            self.returned = mark.or(self.returned.take());
        }
        if self.on_their_way.is_empty() {
            self.returned.clone_from(&self.mark);
        }
        self.on_their_way.is_empty() || entries.len() == BATCH
    }

    /// Tells the fleet what was changed here since the last look.
    pub(super) async fn push_changes(&mut self) -> Result<(), Fault> {
        if identity(&self.settings.database).ok() != Some(self.store.file()) {
            return Err(Fault::Replaced);
        }
        if self.refused.is_some() && !self.takes_changes_again().await? {
            return Ok(());
        }
        let version = self.store.data_version()?;
        if self.version == Some(version) {
            return Ok(());
        }
        let own = match &self.mark {
            Some(mark) => self.store.own_changes(mark, FEED_BATCH)?,
            None => None,
        };
        let Some(own) = own else {
            self.place = None;
            return Ok(());
        };
        let (mut records, mut reports, mut filters) = (Vec::new(), Vec::new(), Vec::new());
        for change in own.changes {
            match change {
                OwnChange::Of(address, record) => records.push((address, record.in_force(now()))),
                OwnChange::Report(report) => reports.push(report),
                OwnChange::Filter(filter) => filters.push(filter),
                OwnChange::Everything => {
                    self.place = None;
                    return Ok(());
                }
            }
        }
        let told = [self.tell(&filters).await?, self.tell(&reports).await?, self.tell(&records).await?];
        let Some(told) = told.into_iter().collect::<Option<Vec<_>>>() else { return Ok(()) };
        let mut told: Vec<Position> = told.into_iter().flatten().collect();
        let last = told.pop().map(|at| OnItsWay { at, is_in_feed: true, mark: Some(own.mark.clone()) });
        self.on_their_way.extend(told.into_iter().map(|at| OnItsWay { at, is_in_feed: true, mark: None }));
        self.on_their_way.extend(last);
        self.mark = Some(own.mark);
        if !own.more {
            self.version = Some(version);
            self.status.can_push(&self.settings.url);
        }
        Ok(())
    }

    /// Compares everything once it is this relay's turn, where it left something untold.
    async fn take_up(&mut self) -> Result<(), Fault> {
        if self.untold && self.refused.is_none() && self.asked.elapsed() >= self.asks_after {
            self.asked = Instant::now();
            if self.take_turn().await? {
                self.place = None;
            }
        }
        Ok(())
    }

    /// Whether the store takes changes again, asked now and then.
    async fn takes_changes_again(&mut self) -> Result<bool, Fault> {
        if self.refused.is_some_and(|at| at.elapsed() < self.retry) {
            return Ok(false);
        }
        match self.pusher.probe().await {
            Ok(()) => {}
            Err(Fault::Fleet(error)) if is_refusal(&error) => {
                if self.leads_to_a_replica(&error) {
                    return Err(Fault::Replica);
                }
                self.note_refusal(&error);
                return Ok(false);
            }
            Err(fault) => return Err(fault),
        }
        self.refused = None;
        self.version = None;
        Ok(true)
    }

    /// Whether this connection is better made anew: what was the primary is none any more, and its name may lead to
    /// another server now.
    fn leads_to_a_replica(&self, error: &redis::RedisError) -> bool {
        let is_read_only = error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly);
        is_read_only && self.began.elapsed() > REPLICA
    }

    /// Tells the fleet; where in the stream it stands, what the fleet did not know. `None` where the store takes no changes; one
    /// that is away ends the session.
    async fn tell<T: Shared>(&mut self, things: &[T]) -> Result<Option<Vec<Position>>, Fault> {
        if things.is_empty() {
            return Ok(Some(Vec::new()));
        }
        if self.refused.is_some() {
            return Ok(None);
        }
        match self.pusher.push(things).await {
            Err(Fault::Fleet(error)) if is_refusal(&error) => {
                self.note_refusal(&error);
                self.retry = (self.retry * 2).min(LONGEST_PUSH_RETRY);
                Ok(None)
            }
            pushed => {
                self.retry = PUSH_RETRY;
                Ok(Some(pushed?.places))
            }
        }
    }

    /// Notes that the store takes no changes.
    pub(super) fn note_refusal(&mut self, error: &redis::RedisError) {
        self.status.cannot_push(&self.settings.url, error);
        self.refused = Some(Instant::now());
    }

    /// Tells the fleet what the feed does not have. What the store does not take is found later, by comparing everything.
    pub(super) async fn answer<T: Shared>(&mut self, things: &[T]) -> Result<Vec<Position>, Fault> {
        let told = self.tell(things).await?;
        self.untold |= told.is_none();
        Ok(told.unwrap_or_default())
    }

    /// Notes that everything up to `place` is here, and the own changes up to `mark` are there; with what was told, which
    /// has to come back.
    pub(super) fn settle(&mut self, place: Place, mark: Mark, told: Vec<Position>) -> Result<(), Fault> {
        let (at, marked) = (place.to_string(), mark.to_string());
        let notes = notes(self.keys(), &at, Some(&marked), self.untold || !told.is_empty());
        if self.status.silent.load(Relaxed) {
            self.tell_index(&notes)?;
        } else {
            self.store.merge(&[], Telling::Each, &notes, now())?;
        }
        self.on_their_way = told.into_iter().map(OnItsWay::reply).collect();
        self.version = None;
        (self.place, self.mark, self.returned) = (Some(place), Some(mark.clone()), Some(mark));
        let in_vain = self.untold && self.owns_turn;
        self.asks_after = if in_vain { (self.asks_after * 2).min(LONGEST_TURN_RETRY) } else { TURN_RETRY };
        self.asked = Instant::now();
        self.status.at(place.at);
        self.status.is_in_sync();
        Ok(())
    }

    /// Has the index read the whole list, where it was not told of something; `notes` are remembered with it.
    pub(super) fn tell_index(&mut self, notes: &[(&str, &str)]) -> Result<(), Fault> {
        if self.status.silent.load(Relaxed) {
            self.store.tell_all(notes)?;
            self.status.silent.store(false, Relaxed);
            self.version = None;
        }
        Ok(())
    }

    /// What entries of the stream tell of one kind.
    fn told<T: Shared>(&self, entries: &[StreamId]) -> Vec<T> {
        let part = |entry: &StreamId, field| entry.get::<Vec<u8>>(field);
        let parts = entries.iter().filter_map(|entry| Some((part(entry, T::FIELD)?, part(entry, VALUE)?)));
        parts.filter_map(|(name, value)| self.read((&name, &value))).collect()
    }

    /// What the store has of a name; `None`, and counted, where it cannot be read.
    pub(super) fn read<T: Shared>(&self, pair: Pair<'_>) -> Option<T> {
        share::read(pair, |name, why| self.status.cannot_read(name, why))
    }

    /// Takes in reports and filters.
    pub(super) fn hear(&mut self, reports: &[FullReport], filters: &[RemovedFilter]) -> Result<(), Fault> {
        if !reports.is_empty() || !filters.is_empty() {
            self.store.hear(reports, filters, now())?;
            self.version = None;
        }
        Ok(())
    }

    pub(super) fn keys(&self) -> &'a Keys {
        &self.settings.keys
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.pusher.link
    }
}

/// What the database is to remember.
fn notes<'n>(keys: &'n Keys, place: &'n str, mark: Option<&'n str>, untold: bool) -> Vec<(&'n str, &'n str)> {
    let mut notes = vec![(NAMESPACE, keys.prefix()), (POSITION, place), (UNTOLD, if untold { "yes" } else { "" })];
    notes.extend(mark.map(|mark| (MARK, mark)));
    notes
}

/// Returns when there is an entry behind `position`, or [`BLOCK`] has passed.
async fn wait_for_news(mut link: Link, stream: String, position: Position) -> Result<(), Fault> {
    let mut question = redis::cmd("XREAD");
    question.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis() as u64);
    question.arg("STREAMS").arg(stream).arg(position.to_string());
    let _: redis::Value = question.query_async(&mut link).await?;
    Ok(())
}

/// Whether the store answered, and refused: it is read-only, or out of memory.
pub(super) fn is_refusal(error: &redis::RedisError) -> bool {
    matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension)
}

/// Unix seconds.
pub(super) fn now() -> i64 {
    i64::try_from(unix_seconds()).unwrap_or(i64::MAX)
}

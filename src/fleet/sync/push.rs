//! Telling the fleet: what it has is read, joined with ours, and written where it is still what was read.

use super::Fault;
use super::position::Position;
use super::share::{Shared, over};
use super::snapshot::RawPair;
use super::status::Status;
use crate::fleet::{Keys, Link, Relay};
use redis::{RedisResult, Script};
use std::sync::atomic::Ordering::Relaxed;

/// Things a script: well under a millisecond of the store's time.
const BATCH: usize = 250;

/// How often a thing is tried that others change at the same moment.
const TRIES: usize = 20;

/// About so many changes are kept: what a relay can have missed and still catch up one by one.
const STREAM_LENGTH: usize = 200_000;

/// Tells the fleet.
pub(super) struct Pusher<'a> {
    pub(super) link: Link,
    keys: &'a Keys,
    relay: &'a Relay,
    status: &'a Status,
    script: Script,
}

/// What the store took.
#[derive(Clone, Debug, Default)]
pub(super) struct Pushed {
    /// Where in the stream it stands, by the last of each call of the script: a call reaches a replica whole, or not at
    /// all.
    pub(super) places: Vec<Position>,
    /// How many things the fleet knew less of.
    pub(super) written: u64,
}

impl<'a> Pusher<'a> {
    pub(super) fn new(link: Link, keys: &'a Keys, relay: &'a Relay, status: &'a Status) -> Self {
        Self { link, keys, relay, status, script: Script::new(include_str!("swap.lua")) }
    }

    /// Tells things.
    pub(super) async fn push<T: Shared>(&mut self, things: &[T]) -> Result<Pushed, Fault> {
        let mut pushed = Pushed::default();
        for batch in things.chunks(BATCH) {
            let mut left: Vec<&T> = batch.iter().collect();
            for _ in 0..TRIES {
                let (told, changed) = self.try_batch(&left).await?;
                pushed.places.extend(told.places);
                pushed.written += told.written;
                left.retain(|thing| changed.contains(&thing.name()));
                if left.is_empty() {
                    break;
                }
            }
            if !left.is_empty() {
                // whoever writes so often tells us of it by the stream, and what we know more is told again then
                tracing::debug!(count = left.len(), "others change these records all the time");
            }
        }
        self.status.pushed.fetch_add(pushed.written, Relaxed);
        Ok(pushed)
    }

    /// Takes things out of a hash that still are as they were read. Nobody is told.
    pub(super) async fn drop_these(&mut self, hash: &str, things: &[RawPair]) -> Result<(), Fault> {
        for batch in things.chunks(BATCH) {
            let mut script = self.script.prepare_invoke();
            script.key(self.keys.of("changes")).arg(&self.relay.name).arg(STREAM_LENGTH).arg("");
            batch.iter().for_each(|(name, value)| {
                script.key(hash).arg(name).arg(value).arg("");
            });
            let _: redis::Value = script.invoke_async(&mut self.link).await?;
        }
        Ok(())
    }

    /// Whether the store takes changes: it is not read-only, has memory, and lets this user do it.
    pub(super) async fn probe(&mut self) -> Result<(), Fault> {
        let mut question = redis::cmd("SET");
        question.arg(self.keys.of("probe")).arg(&self.relay.name).arg("PX").arg(1);
        let _: () = question.query_async(&mut self.link).await?;
        // what is not there is taken out
        self.drop_these(&self.keys.of("probed"), &[(b"-".to_vec(), Vec::new())]).await
    }

    /// Tells what nobody else changes at this moment; the names of the others.
    async fn try_batch<T: Shared>(&mut self, things: &[&T]) -> Result<(Pushed, Vec<String>), Fault> {
        let mut question = redis::pipe();
        for name in things.iter().map(|thing| thing.name()) {
            question.cmd("HGET").arg(T::hash(self.keys, &name)).arg(name);
        }
        let known: Vec<Option<Vec<u8>>> = question.query_async(&mut self.link).await?;
        let mut script = self.script.prepare_invoke();
        script.key(self.keys.of("changes")).arg(&self.relay.name).arg(STREAM_LENGTH).arg(T::FIELD);
        let mut count = 0;
        for (thing, known) in things.iter().zip(&known) {
            let known = known.as_deref().unwrap_or_default();
            match over(*thing, known) {
                Ok(None) => {}
                Ok(Some(all)) => {
                    let name = thing.name();
                    script.key(T::hash(self.keys, &name)).arg(name).arg(known).arg(all);
                    count += 1;
                }
                Err(why) => self.status.cannot_read(&thing.name(), &why),
            }
        }
        if count == 0 {
            return Ok((Pushed::default(), Vec::new()));
        }
        let answer: RedisResult<(Option<String>, Vec<String>)> = script.invoke_async(&mut self.link).await;
        let (told, changed) = answer?;
        let places = told.and_then(|id| id.parse().ok()).into_iter().collect();
        Ok((Pushed { places, written: count - changed.len() as u64 }, changed))
    }
}

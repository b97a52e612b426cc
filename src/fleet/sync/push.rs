//! Telling the fleet: each record is read, joined with ours, and written where it is still what was read.

use super::Fault;
use super::position::Position;
use super::status::Status;
use crate::fleet::{Keys, Link, Relay};
use crate::mail::Address;
use crate::store::{Record, Unreadable};
use redis::{RedisResult, Script};
use std::sync::atomic::Ordering::Relaxed;

/// Records a script: well under a millisecond of the store's time.
const BATCH: usize = 250;

/// How often a record is tried that others change at the same moment.
const TRIES: usize = 20;

/// About so many changes are kept: what a relay can have missed and still catch up one by one.
pub(super) const STREAM_LENGTH: usize = 200_000;

/// Writes records.
pub(super) struct Pusher<'a> {
    pub(super) link: Link,
    pub(super) keys: &'a Keys,
    pub(super) relay: &'a Relay,
    pub(super) status: &'a Status,
    pub(super) script: Script,
}

impl<'a> Pusher<'a> {
    pub(super) fn new(link: Link, keys: &'a Keys, relay: &'a Relay, status: &'a Status) -> Self {
        Self { link, keys, relay, status, script: Script::new(include_str!("swap.lua")) }
    }

    /// Tells records; the place of the last in the stream, unless the fleet knew all of it.
    pub(super) async fn push(&mut self, records: &[(Address, Record)]) -> Result<Option<Position>, Fault> {
        let mut last = None;
        for batch in records.chunks(BATCH) {
            let mut left: Vec<&(Address, Record)> = batch.iter().collect();
            for _ in 0..TRIES {
                let (told, changed) = self.try_batch(&left).await?;
                last = last.max(told);
                left.retain(|(address, _)| changed.iter().any(|other| other == address.as_str()));
                if left.is_empty() {
                    break;
                }
            }
            if !left.is_empty() {
                // whoever writes so often tells us of it by the stream, and what we know more is told again then
                tracing::debug!(records = left.len(), "others change these records all the time");
            }
        }
        Ok(last)
    }

    async fn try_batch(&mut self, records: &[&(Address, Record)]) -> Result<(Option<Position>, Vec<String>), Fault> {
        let mut question = redis::cmd("HMGET");
        question.arg(self.keys.of("entries"));
        records.iter().for_each(|(address, _)| {
            question.arg(address.as_str());
        });
        let known: Vec<Option<Vec<u8>>> = question.query_async(&mut self.link).await?;
        let mut script = self.script.prepare_invoke();
        script.key(self.keys.of("entries")).key(self.keys.of("changes")).arg(&self.relay.name).arg(STREAM_LENGTH);
        let mut count = 0;
        for ((address, record), known) in records.iter().zip(&known) {
            let known = known.as_deref().unwrap_or_default();
            let there = match Record::decode(address, known) {
                Ok(there) => there,
                Err(Unreadable::Garbage) => Record::default(),
                Err(newer) => {
                    self.status.cannot_read(address.as_str(), &newer);
                    continue;
                }
            };
            let all = there.clone().join(record.clone());
            if all != there {
                script.arg(address.as_str()).arg(known).arg(all.encode());
                count += 1;
            }
        }
        if count == 0 {
            return Ok((None, Vec::new()));
        }
        let answer: RedisResult<(Option<String>, Vec<String>)> = script.invoke_async(&mut self.link).await;
        let (told, changed) = answer?;
        self.status.pushed.fetch_add(count - changed.len() as u64, Relaxed);
        Ok((told.and_then(|id| id.parse().ok()), changed))
    }
}

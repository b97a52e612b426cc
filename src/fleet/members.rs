//! The relays of a fleet, as they see each other: each writes its own record every two seconds, by the clock of the
//! store, and reads the others'.

use super::{Keys, Link, Relay};
use redis::{RedisResult, cmd};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

/// How often a relay says that it is there.
pub const BEAT: Duration = Duration::from_secs(2);

/// A relay that was silent for so long is not counted.
pub const PRESENT: Duration = Duration::from_secs(10);

/// A relay that was silent for so long is forgotten.
pub const FORGOTTEN: Duration = Duration::from_secs(86_400);

/// The others are read with each beat where there are so many, with every second where there are twice as many, and so
/// on: all of a thousand relays reading all of them would be the store's main work.
const READ_AT_ONCE: usize = 64;

/// A relay, as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// Its run: see [`Relay`].
    pub run: String,
    /// When it was last heard of, in Unix milliseconds of the store.
    pub seen: u64,
    /// Its gatepost.
    pub version: String,
    /// Where it stands in the stream of changes; empty: it follows none.
    #[serde(default)]
    pub position: String,
    /// Another relay writes under the same name.
    #[serde(default)]
    pub twice: bool,
    /// For how long it has been silent.
    #[serde(skip)]
    pub silent: Duration,
}

impl Member {
    /// Whether it is taken to be at work.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.silent < PRESENT
    }
}

/// All members, by name, without a word of one's own.
///
/// # Errors
/// What the driver says.
pub async fn members(link: &mut Link, keys: &Keys) -> RedisResult<Vec<Member>> {
    let now = now(link, keys).await?;
    read(link, keys, now).await
}

/// The heart of one relay.
#[derive(Debug)]
pub struct Heart {
    relay: Relay,
    /// When this run last wrote; 0: not yet.
    written: u64,
    /// It was told that another relay has the same name.
    warned: bool,
    known: Vec<Member>,
    /// How many beats may go by before the others are read again.
    spare: usize,
}

impl Heart {
    /// A heart that has not beaten yet.
    #[must_use]
    pub fn new(relay: Relay) -> Self {
        Self { relay, written: 0, warned: false, known: Vec::new(), spare: 0 }
    }

    /// Says that the relay is there, `position` being where it stands in the stream of changes; to be called every
    /// [`BEAT`]. All members by name, itself among them; in a large fleet as they were some beats ago.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn beat(&mut self, link: &mut Link, keys: &Keys, position: &str) -> RedisResult<Vec<Member>> {
        let now = now(link, keys).await?;
        let reads = self.spare == 0;
        if reads {
            self.known = read(link, keys, now).await?;
            self.spare = self.known.len() / READ_AT_ONCE;
        } else {
            self.spare -= 1;
        }
        let before = self.known.iter().position(|member| member.name == self.relay.name);
        let twice = match before.map(|at| &self.known[at]) {
            // One that stopped before this run began is no other.
            Some(own) if reads => self.written > 0 && own.run != self.relay.run && own.seen >= self.written,
            Some(own) => own.twice,
            None => false,
        };
        self.warn(twice);
        let own = Member {
            name: self.relay.name.clone(),
            run: self.relay.run.clone(),
            seen: now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            position: position.to_owned(),
            twice,
            silent: Duration::ZERO,
        };
        write(link, keys, &own).await?;
        self.written = now;
        match before {
            Some(at) => self.known[at] = own,
            None => self.known.push(own),
        }
        if reads {
            self.forget(link, keys).await?;
        }
        Ok(self.known.clone())
    }

    fn warn(&mut self, twice: bool) {
        if twice && !self.warned {
            self.warned = true;
            tracing::error!(
                name = self.relay.name,
                "Another relay of this fleet has the same name. Give each its own by [fleet] name; as it is, the \
                 two count as one, and each gets twice its share of a limit while the store is away."
            );
        }
    }

    async fn forget(&mut self, link: &mut Link, keys: &Keys) -> RedisResult<()> {
        let gone: Vec<_> = self.known.extract_if(.., |member| member.silent >= FORGOTTEN).map(|m| m.name).collect();
        if gone.is_empty() {
            return Ok(());
        }
        cmd("HDEL").arg(keys.of("members")).arg(gone).query_async(link).await
    }
}

/// Unix milliseconds of the store.
async fn now(link: &mut Link, keys: &Keys) -> RedisResult<u64> {
    let (seconds, micros): (u64, u64) = link.ask_holder(keys, &cmd("TIME")).await?;
    Ok(seconds * 1_000 + micros / 1_000)
}

async fn write(link: &mut Link, keys: &Keys, member: &Member) -> RedisResult<()> {
    let record = serde_json::to_string(member).unwrap_or_default();
    cmd("HSET").arg(keys.of("members")).arg(&member.name).arg(record).query_async(link).await
}

/// A record that cannot be read is another version's: its relay is left out.
async fn read(link: &mut Link, keys: &Keys, now: u64) -> RedisResult<Vec<Member>> {
    let records: HashMap<String, String> = cmd("HGETALL").arg(keys.of("members")).query_async(link).await?;
    let member = |(name, record): (String, String)| {
        let member: Member = serde_json::from_str(&record).ok()?;
        let silent = Duration::from_millis(now.saturating_sub(member.seen));
        Some(Member { name, silent, ..member })
    };
    let mut members: Vec<_> = records.into_iter().filter_map(member).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

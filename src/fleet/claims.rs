//! Who counts an event: of several relays that read it, the one that claims it first. A claim ends by itself, so that
//! what its holder did not finish is another's; what was finished is marked done.
//!
//! A claim is a relay's, not a process's: all processes of a relay write to one database, whose own window of what was
//! seen tells them apart. So a relay that crashed takes up its own claims at once.

use super::keys::Keys;
use super::link::Link;
use super::relay::Relay;
use crate::store::SeenKey;
use redis::RedisResult;
use std::time::Duration;

/// How long a claim holds: much longer than an event takes from its reading to the disk, and a little less than SQS keeps
/// a message for its reader (a minute), so that what a dead relay had comes to another when its claim has ended.
pub const CLAIM: Duration = Duration::from_secs(55);

/// How long it is known that an event is done: what SQS brings twice it brings within its visibility, and an operator's
/// replay of a few days counts once.
pub const DONE: Duration = Duration::from_secs(4 * 86_400);

/// Most keys of a script: it keeps the store from everything else, here some hundred microseconds. (A single body may
/// have more.)
const KEYS_A_SCRIPT: usize = 200;

/// What is kept of an event that is done; a number this small costs the store no memory of its own.
const IS_DONE: &str = "1";

/// Sent whole with each call, which is one in some milliseconds: so a store that does not know it yet costs no second and
/// third round trip.
const SCRIPT: &str = include_str!("claim.lua");

/// Whose an effect of an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Ours to apply.
    Ours,
    /// Applied by another relay, or by this one before.
    Done,
    /// In the hands of another relay, as all of its body is.
    Elsewhere,
}

/// Claims what bodies hold, each wholly or not at all; per body and key, whose it is.
///
/// # Errors
/// What the store or the way to it says. Then some of it may be claimed.
pub async fn claim(
    link: &mut Link,
    keys: &Keys,
    relay: &Relay,
    bodies: &[Vec<SeenKey>],
) -> RedisResult<Vec<Vec<Share>>> {
    let mut shares = Vec::with_capacity(bodies.len());
    let mut rest = bodies;
    while !rest.is_empty() {
        let mut count = 0;
        let few = rest.iter().take_while(|body| {
            count += body.len();
            count <= KEYS_A_SCRIPT
        });
        let (some, others) = rest.split_at(few.count().max(1));
        shares.extend(claim_some(link, keys, relay, some).await?);
        rest = others;
    }
    Ok(shares)
}

async fn claim_some(
    link: &mut Link,
    keys: &Keys,
    relay: &Relay,
    bodies: &[Vec<SeenKey>],
) -> RedisResult<Vec<Vec<Share>>> {
    let count: usize = bodies.iter().map(Vec::len).sum();
    if count == 0 {
        return Ok(bodies.iter().map(|_| Vec::new()).collect());
    }
    let mut call = redis::cmd("EVAL");
    call.arg(SCRIPT).arg(count);
    bodies.iter().flatten().for_each(|seen| {
        call.arg(name(keys, seen));
    });
    // the mark of what is done is no relay's name
    call.arg(format!("by {}", relay.name)).arg(CLAIM.as_millis() as u64);
    bodies.iter().for_each(|body| {
        call.arg(body.len());
    });
    let mut answer = call.query_async::<Vec<i64>>(link).await?.into_iter().map(|word| match word {
        0 => Share::Ours,
        1 => Share::Done,
        _ => Share::Elsewhere,
    });
    // what a store leaves out is nobody else's
    let mut next = || answer.next().unwrap_or(Share::Ours);
    Ok(bodies.iter().map(|body| body.iter().map(|_| next()).collect()).collect())
}

/// Marks what is on disk here as done.
///
/// # Errors
/// What the store or the way to it says. The claims then end by themselves.
pub async fn mark_done(link: &mut Link, keys: &Keys, done: &[SeenKey]) -> RedisResult<()> {
    let mut pipeline = redis::pipe();
    for seen in done {
        pipeline.cmd("SET").arg(name(keys, seen)).arg(IS_DONE).arg("EX").arg(DONE.as_secs()).ignore();
    }
    if done.is_empty() { Ok(()) } else { pipeline.exec_async(link).await }
}

fn name(keys: &Keys, seen: &SeenKey) -> Vec<u8> {
    [keys.of("seen:").as_bytes(), seen.as_bytes()].concat()
}

//! A look at the store that changes nothing in it: whether it answers and takes writes, what it says of itself, its clock,
//! and who else keeps something there. For an operator's command, on a runtime of its own.

use super::keys::Keys;
use super::link::{Link, Patience, connect};
use super::members::{Member, members};
use super::url::StoreUrl;
use redis::streams::StreamRangeReply;
use redis::{InfoDict, RedisError, RedisResult, Value, cmd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An operator waits: longer than the daemon's patience, and not for ever.
const PATIENCE: Patience = Patience { connect: Duration::from_secs(5), answer: Duration::from_secs(5) };

/// Most keys that are gone through for other namespaces, and how many at a time: a full look would cost a large store
/// a second.
const MAX_SCANNED: usize = 200_000;
const SCANNED_AT_ONCE: usize = 1_000;

/// What the store says.
#[derive(Debug)]
pub struct Inspection {
    /// Whether it takes a write.
    pub write: Result<(), Refusal>,
    /// What it says of itself (INFO); of a cluster, the server that holds the fleet's keys.
    pub info: InfoDict,
    /// When it saves its data (CONFIG GET save); `None` where it does not tell, as a managed one.
    pub save: Option<String>,
    /// How far this machine's clock is ahead of the store's, in seconds.
    pub ahead: Option<f64>,
    /// The relays of the fleet, each with how old the oldest change is that it has not heard of.
    pub members: Vec<(Member, Duration)>,
    /// Other namespaces with relays in them, as far as was looked.
    pub other_namespaces: Vec<String>,
}

/// Why the store did not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its own word, such as `READONLY` or `OOM`; empty where it did not answer.
    pub code: String,
    /// Why, in words.
    pub words: String,
}

/// Looks at the store.
///
/// # Errors
/// Where it cannot be reached, and why: address, TLS, login.
pub fn inspect(url: &StoreUrl, ca: Option<&[u8]>, keys: &Keys) -> Result<Inspection, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Refusal { code: String::new(), words: e.to_string() })?;
    let inspection = runtime.block_on(look(url, ca, keys)).map_err(|e| Refusal::of(&e));
    // A name server that does not answer holds a thread of the runtime.
    runtime.shutdown_background();
    inspection
}

async fn look(url: &StoreUrl, ca: Option<&[u8]>, keys: &Keys) -> RedisResult<Inspection> {
    let mut link = connect(url, ca, PATIENCE).await?;
    let info = link.ask_holder(keys, &cmd("INFO")).await?;
    // It sets a key only where it is there, which it is not: what can stand in the way of a write does, but for a right to
    // other commands.
    let set = cmd("SET").arg(keys.of("doctor")).arg("").arg("XX").query_async::<Value>(&mut link).await;
    let save = link.ask_holder::<(String, String)>(keys, cmd("CONFIG").arg("GET").arg("save")).await;
    Ok(Inspection {
        write: set.map(drop).map_err(|e| Refusal::of(&e)),
        info,
        save: save.ok().map(|(_, save)| save),
        ahead: ahead(&mut link, keys).await,
        members: with_lags(&mut link, keys).await?,
        other_namespaces: other_namespaces(&mut link, keys).await.unwrap_or_default(),
    })
}

async fn ahead(link: &mut Link, keys: &Keys) -> Option<f64> {
    let (seconds, micros): (u64, u32) = link.ask_holder(keys, &cmd("TIME")).await.ok()?;
    let theirs = Duration::from_secs(seconds) + Duration::from_micros(micros.into());
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(ours.as_secs_f64() - theirs.as_secs_f64())
}

async fn with_lags(link: &mut Link, keys: &Keys) -> RedisResult<Vec<(Member, Duration)>> {
    let members = members(link, keys).await?;
    let mut next = redis::pipe();
    for member in &members {
        // One that follows nothing lags behind nothing.
        let after = if member.position.is_empty() { "+".to_owned() } else { format!("({}", member.position) };
        next.cmd("XRANGE").arg(keys.of("changes")).arg(after).arg("+").arg("COUNT").arg(1);
    }
    if members.is_empty() {
        return Ok(Vec::new());
    }
    let next: Vec<StreamRangeReply> = next.query_async(link).await?;
    let lag = |(member, next): (Member, StreamRangeReply)| {
        let made = next.ids.first().and_then(|change| change.id.split('-').next()?.parse().ok());
        let now = member.seen.saturating_add(u64::try_from(member.silent.as_millis()).unwrap_or(u64::MAX));
        (member, Duration::from_millis(made.map_or(0, |made| now.saturating_sub(made))))
    };
    Ok(members.into_iter().zip(next).map(lag).collect())
}

/// In a cluster, those that happen to be on the same server.
async fn other_namespaces(link: &mut Link, keys: &Keys) -> RedisResult<Vec<String>> {
    let (mut found, mut cursor) = (Vec::new(), 0_u64);
    for _ in 0..MAX_SCANNED / SCANNED_AT_ONCE {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg("{*}:members").arg("COUNT").arg(SCANNED_AT_ONCE);
        let (next, some): (u64, Vec<String>) = link.ask_holder(keys, &scan).await?;
        let others = some.into_iter().filter(|key| *key != keys.of("members"));
        found.extend(others.filter_map(|key| Some(key.strip_prefix('{')?.strip_suffix("}:members")?.to_owned())));
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

impl Refusal {
    fn of(error: &RedisError) -> Self {
        let code = error.code().unwrap_or_default();
        let words = error.detail().filter(|_| !code.is_empty()).map_or_else(|| error.to_string(), str::to_owned);
        Self { code: code.to_owned(), words: format!("{code} {words}").trim_start().to_owned() }
    }
}

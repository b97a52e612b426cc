//! The counters of a fleet, as operators see and reset them: those in the store, which it is gone through for.

use super::limiter::Limiter;
use super::script::{Pace, counters_of, key_of, ticks, time};
use super::{Keys, Link};
use crate::meters::{Filter, NamedKey, Shown, rate_of};
use crate::rules::Limit;
use redis::{RedisResult, cmd};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many names the store looks at in one step, in which it answers nobody else: well under a millisecond.
const STEP: usize = 1_000;

/// After so long there is no further step: whoever asked waits ten seconds. The store has other names as well.
const MOST: Duration = Duration::from_secs(5);

/// Which counters are looked for.
struct Search<'a> {
    keys: &'a Keys,
    /// Each limit, with what its counters begin with.
    limits: Vec<(String, &'a Arc<Limit>)>,
    key: Option<NamedKey<'a>>,
    cursor: u64,
    began: Instant,
}

/// A counter that was found: its name, its limit, and its key as it stands in the name.
type Found<'a> = (Vec<u8>, &'a Arc<Limit>, Vec<u8>);

impl<'a> Search<'a> {
    fn new(keys: &'a Keys, limits: &'a [Arc<Limit>], limit: Option<&str>, key: Option<&'a str>) -> Self {
        let wanted = limits.iter().filter(|known| limit.is_none_or(|name| known.name == name));
        Self {
            keys,
            limits: wanted.map(|limit| (counters_of(keys, limit), limit)).collect(),
            key: key.map(NamedKey::new),
            cursor: 0,
            began: Instant::now(),
        }
    }

    /// The next ones, and whether there may be more.
    async fn step(&mut self, link: &mut Link) -> RedisResult<(Vec<Found<'a>>, bool)> {
        let pattern = match self.limits.as_slice() {
            [(start, _)] => format!("{start}*"),
            _ => self.keys.of("limit:*"),
        };
        let mut scan = cmd("SCAN");
        scan.arg(self.cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(STEP);
        let (cursor, names): (u64, Vec<Vec<u8>>) = link.ask_holder(self.keys, &scan).await?;
        self.cursor = cursor;
        let found = names.into_iter().filter_map(|name| self.wanted(name)).collect();
        Ok((found, cursor != 0 && self.began.elapsed() < MOST))
    }

    fn wanted(&self, name: Vec<u8>) -> Option<Found<'a>> {
        let of =
            |(start, limit): &(String, &'a Arc<Limit>)| Some((*limit, name.strip_prefix(start.as_bytes())?.to_vec()));
        let (limit, named) = self.limits.iter().find_map(of)?;
        let key = key_of(limit, &named)?;
        self.key.is_none_or(|wanted| wanted.matches(&key)).then_some((name, limit, named))
    }
}

impl Limiter {
    /// The counters in use that match, the most used (by part of the burst) first, and whether these are all that there
    /// are; `None` while the store is away.
    pub async fn show(&self, limits: &[Arc<Limit>], filter: &Filter<'_>) -> Option<(Vec<Shown>, bool)> {
        let mut link = self.line()?.link()?;
        let mut search = Search::new(&self.keys, limits, filter.limit, filter.key);
        let (mut rows, mut more): (Vec<(u128, Shown)>, bool) = (Vec::new(), true);
        while more {
            let found;
            (found, more) = search.step(&mut link).await.ok()?;
            rows.extend(read(&mut link, &self.keys, &found).await.ok()?);
            if !more || rows.len() > filter.top.saturating_mul(4) {
                rows.sort_by_cached_key(|(used, row)| (Reverse(*used), row.limit.clone(), row.key.clone()));
                rows.truncate(filter.top);
            }
        }
        Some((rows.into_iter().map(|(_, row)| row).collect(), search.cursor == 0))
    }

    /// Forgets the counters that match; how many, and whether these are all that there were; `None` while the store is
    /// away.
    pub async fn reset(&self, limits: &[Arc<Limit>], limit: Option<&str>, key: Option<&str>) -> Option<(usize, bool)> {
        let mut link = self.line()?.link()?;
        let mut search = Search::new(&self.keys, limits, limit, key);
        let (mut reset, mut more) = (0, true);
        while more {
            let found;
            (found, more) = search.step(&mut link).await.ok()?;
            if !found.is_empty() {
                let names: Vec<_> = found.into_iter().map(|(name, ..)| name).collect();
                reset += cmd("DEL").arg(names).query_async::<usize>(&mut link).await.ok()?;
            }
        }
        Some((reset, search.cursor == 0))
    }
}

/// What the counters say, each with the part of its burst that is used, in millionths.
async fn read(link: &mut Link, keys: &Keys, found: &[Found<'_>]) -> RedisResult<Vec<(u128, Shown)>> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let (seconds, micros) = link.ask_holder(keys, &cmd("TIME")).await?;
    let now = time(seconds, micros);
    let names: Vec<_> = found.iter().map(|(name, ..)| name).collect();
    let values: Vec<Option<i64>> = cmd("MGET").arg(names).query_async(link).await?;
    let row = |((_, limit, named), value): (&Found<'_>, Option<i64>)| {
        let key = key_of(limit, named)?;
        let rate = rate_of(limit, Some(key))?;
        let Pace { period, burst } = Pace::of(rate);
        let window = period * burst;
        let ahead = value?.unsigned_abs().saturating_sub(now).min(window);
        let available = (window - ahead) / period;
        let count = |cells: u64| u32::try_from(cells).unwrap_or(u32::MAX);
        let wait = i64::try_from((ahead + period).saturating_sub(window)).unwrap_or(i64::MAX);
        let shown = Shown {
            limit: limit.name.clone(),
            key: key.to_string(),
            rate,
            used: count(burst - available),
            burst: count(burst),
            available: count(available),
            next_free: ticks(wait),
        };
        (ahead > 0).then_some((u128::from(ahead) * 1_000_000 / u128::from(window), shown))
    };
    Ok(found.iter().zip(values).filter_map(row).collect())
}

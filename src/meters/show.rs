//! What operators see and do: `gatepost limits show` and `gatepost limits reset`.

use super::gcra::Gauge;
use super::lock::lock;
use super::table::{Entry, LimitId, OwnedKey};
use super::{Key, Meters, nanos, rate_of};
use crate::rules::{Limit, Rate};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Which counters. The default: all, the hundred most used.
#[derive(Clone, Debug)]
pub struct Filter<'a> {
    /// Of the limit of this name.
    pub limit: Option<&'a str>,
    /// Of this key: a text or `all`, an address (also finds the network it counts in), or a
    /// network (finds all keys in it).
    pub key: Option<&'a str>,
    /// At most so many are shown.
    pub top: usize,
}

impl Default for Filter<'_> {
    fn default() -> Self {
        Self { limit: None, key: None, top: 100 }
    }
}

/// A counter, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The limit's name.
    pub limit: String,
    /// `10.0.0.1`, `2001:db8::/64`, a text, or `all`. Printable.
    pub key: String,
    /// The rate that holds for the key.
    pub rate: Rate,
    /// Cells (messages or recipients) in use now.
    pub used: u32,
    /// What is granted at once from idle.
    pub burst: u32,
    /// What would be granted now.
    pub available: u32,
    /// How long until one would be granted; zero: now.
    pub next_free: Duration,
}

impl Meters {
    /// The counters in use that match, the most used (by part of the burst) first.
    #[must_use]
    pub fn show(&self, filter: &Filter<'_>, now: Duration) -> Vec<Shown> {
        let now = nanos(now);
        let limits = self.limits.load();
        let wanted = Wanted::new(self, filter.limit, filter.key);
        let mut rows: Vec<Row> = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            for entry in shard.iter().filter(|e| e.state.tat() > now && wanted.matches(e)) {
                rows.extend(limits.get(entry.limit).and_then(|limit| Row::new(limit, entry, now)));
            }
            drop(shard);
            if rows.len() > filter.top.saturating_mul(4) {
                keep_top(&mut rows, filter.top);
            }
        }
        keep_top(&mut rows, filter.top);
        rows.into_iter().map(|row| row.shown(now)).collect()
    }

    /// Forgets the counters that match; returns how many. Neither: all.
    pub fn reset(&self, limit: Option<&str>, key: Option<&str>) -> usize {
        let wanted = Wanted::new(self, limit, key);
        let gone = self.shards.iter().map(|shard| lock(shard).retain(|entry| !wanted.matches(entry))).sum();
        self.forget(gone);
        gone
    }
}

/// A key as operators name it: a text or `all`, an address (also finds the network it counts in), or a network (finds
/// all keys in it).
#[derive(Clone, Copy, Debug)]
pub struct NamedKey<'a> {
    text: &'a str,
    net: Option<IpNet>,
}

impl<'a> NamedKey<'a> {
    /// Reads a key.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let net = text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().map(IpNet::from).ok());
        Self { text, net }
    }

    /// Whether it names `key`.
    #[must_use]
    pub fn matches(&self, key: &Key<'_>) -> bool {
        match (key, self.net) {
            (Key::Net(ip, prefix), Some(net)) => {
                IpNet::new(*ip, *prefix).is_ok_and(|own| own.contains(&net) || net.contains(&own))
            }
            (Key::Text(own), _) => own.eq_ignore_ascii_case(self.text.as_bytes()),
            (Key::Net(..), None) => false,
            (Key::All, _) => self.text == Key::All.to_string(),
        }
    }
}

/// A filter, read.
struct Wanted<'a> {
    limits: Option<HashSet<LimitId>>,
    key: Option<NamedKey<'a>>,
}

impl<'a> Wanted<'a> {
    fn new(meters: &Meters, limit: Option<&str>, key: Option<&'a str>) -> Self {
        let known = meters.limits.load();
        let named = |name: &str| known.iter().filter(|(_, limit)| limit.name == name).map(|(id, _)| id).collect();
        Self { limits: limit.map(named), key: key.map(NamedKey::new) }
    }

    fn matches(&self, entry: &Entry) -> bool {
        if self.limits.as_ref().is_some_and(|limits| !limits.contains(&entry.limit)) {
            return false;
        }
        let Some(named) = self.key else { return true };
        entry.key.as_key().map_or_else(|| entry.key.text() == named.text, |key| named.matches(&key))
    }
}

struct Row {
    limit: Arc<Limit>,
    key: OwnedKey,
    rate: Rate,
    tat: u64,
    /// The part of the burst in use, in millionths.
    use_: u64,
}

impl Row {
    fn new(limit: &Arc<Limit>, entry: &Entry, now: u64) -> Option<Self> {
        let rate = rate_of(limit, entry.key.as_key())?;
        let (gauge, tat) = (Gauge::new(rate), entry.state.tat());
        let use_ = u128::from(gauge.ahead(tat, now)) * 1_000_000 / u128::from(gauge.window());
        let use_ = u64::try_from(use_).unwrap_or(u64::MAX);
        Some(Self { limit: Arc::clone(limit), key: entry.key.clone(), rate, tat, use_ })
    }

    fn shown(self, now: u64) -> Shown {
        let gauge = Gauge::new(self.rate);
        let available = gauge.available(self.tat, now);
        Shown {
            limit: self.limit.name.clone(),
            key: self.key.text(),
            rate: self.rate,
            used: gauge.burst() - available,
            burst: gauge.burst(),
            available,
            next_free: gauge.next_free(self.tat, now),
        }
    }
}

fn keep_top(rows: &mut Vec<Row>, top: usize) {
    rows.sort_by_cached_key(|row| (Reverse(row.use_), row.limit.line, row.key.text()));
    rows.truncate(top);
}

//! What the status page shows of a fleet: the relays, the store as this relay has it, and what goes on without it.

use super::admin::Office;
use super::config::{self, Config};
use super::status::rfc3339;
use crate::events::stats::unix_now;
use crate::fleet::sync::Status;
use crate::fleet::{Fallback, Limiter, Relay, Roster, Row};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

/// How many relays are shown, those first that are silent or behind.
const MAX_MEMBERS: usize = 50;

/// What is known here of the fleet.
#[derive(Debug)]
pub struct FleetView {
    fleet: config::Fleet,
    name: String,
    /// The relays, as they were last read.
    pub roster: Arc<Roster>,
    /// How the shared list goes.
    pub list: Option<Arc<Status>>,
}

/// A fleet, as it is shown. Names of relays are no addresses.
#[derive(Serialize)]
pub(super) struct Shown {
    name: String,
    namespace: String,
    list: Option<List>,
    limits: Option<Limits>,
    events: Option<Events>,
    members: Members,
}

#[derive(Serialize)]
struct List {
    /// Not over TCP, nor is `trouble`.
    store: Option<String>,
    connected: bool,
    since: String,
    last_contact: Option<String>,
    lag_seconds: f64,
    pushed: u64,
    applied: u64,
    trouble: Option<String>,
}

#[derive(Serialize)]
struct Limits {
    store: Option<String>,
    /// Counted by the store, not by this relay's own meters.
    shared: bool,
    since: String,
    relays: u32,
    answered: u64,
    fallbacks: u64,
    trouble: Option<String>,
}

#[derive(Serialize)]
struct Events {
    /// Claimed in the store before they are applied.
    shared: bool,
    elsewhere: u64,
    unasked: u64,
}

#[derive(Serialize)]
struct Members {
    /// When they were read; what happened since is not known.
    taken: Option<String>,
    at_work: usize,
    rows: Vec<Member>,
    others: usize,
}

#[derive(Serialize)]
struct Member {
    name: String,
    version: String,
    last_contact: String,
    silent_seconds: f64,
    behind_seconds: f64,
    at_work: bool,
    /// Two relays write under this name.
    twice: bool,
}

impl FleetView {
    /// The view of a relay with this configuration.
    #[must_use]
    pub fn new(config: &Config, list: Option<Arc<Status>>) -> Self {
        let name = Relay::new(config.fleet.name.as_deref()).name;
        let roster = list.as_ref().map_or_else(Arc::default, |list| list.roster.clone());
        Self { fleet: config.fleet.clone(), name, roster, list }
    }

    /// What is wrong with the store of the list, if anything; `None`: the list is not shared.
    pub(super) fn trouble(&self) -> Option<Option<String>> {
        Some(self.list.as_ref()?.seen().trouble)
    }
}

impl Office {
    /// `None` where there is no fleet.
    pub(super) fn fleet_now(&self, addresses: bool) -> Option<Shown> {
        let FleetView { fleet, name, roster, list } = &*self.fleet;
        if fleet.stores().is_empty() {
            return None;
        }
        let store = |url: &Option<crate::fleet::StoreUrl>| url.as_ref().filter(|_| addresses).map(ToString::to_string);
        Some(Shown {
            name: name.clone(),
            namespace: fleet.namespace.clone(),
            list: list.as_ref().map(|status| List::new(status, store(&fleet.suppression), addresses)),
            limits: self.house.shared.as_ref().map(|limiter| Limits::new(limiter, store(&fleet.limits), addresses)),
            events: fleet.events().filter(|_| self.events.silence(unix_now()).is_some()).map(|_| Events {
                shared: !self.events.fleet_away.load(Relaxed),
                elsewhere: self.events.elsewhere.load(Relaxed),
                unasked: self.events.unasked.load(Relaxed),
            }),
            members: Members::new(roster),
        })
    }
}

impl List {
    fn new(status: &Status, store: Option<String>, addresses: bool) -> Self {
        let seen = status.seen();
        Self {
            store,
            connected: seen.is_connected,
            since: rfc3339(seconds(seen.since)),
            last_contact: Some(seen.last_contact).filter(|at| *at > 0).map(|at| rfc3339(seconds(at))),
            lag_seconds: status.lag_ms.load(Relaxed) as f64 / 1e3,
            pushed: status.pushed.load(Relaxed),
            applied: status.applied.load(Relaxed),
            trouble: seen.trouble.filter(|_| addresses),
        }
    }
}

impl Limits {
    fn new(limiter: &Limiter, store: Option<String>, addresses: bool) -> Self {
        let (trouble, since) = (limiter.trouble(), limiter.since());
        Self {
            store,
            shared: trouble.is_none(),
            since: rfc3339(unix(since)),
            relays: limiter.relays(),
            answered: limiter.answered(),
            fallbacks: Fallback::ALL.into_iter().map(|why| limiter.fallbacks(why)).sum(),
            trouble: trouble.filter(|_| addresses),
        }
    }
}

impl Members {
    fn new(roster: &Roster) -> Self {
        let (age, mut rows) = roster.seen().unwrap_or_default();
        let now = SystemTime::now();
        let read = now.checked_sub(age).unwrap_or(now);
        let at_work = rows.iter().filter(|row| row.member.is_present()).count();
        rows.sort_by_key(|row| (row.member.is_present(), row.behind.is_zero()));
        let others = rows.len().saturating_sub(MAX_MEMBERS);
        rows.truncate(MAX_MEMBERS);
        let member = |row: Row| Member {
            last_contact: rfc3339(unix(read.checked_sub(row.member.silent).unwrap_or(read))),
            silent_seconds: (row.member.silent + age).as_secs_f64(),
            behind_seconds: row.behind.as_secs_f64(),
            at_work: row.member.is_present(),
            twice: row.member.twice,
            name: row.member.name,
            version: row.member.version,
        };
        let taken = (!rows.is_empty()).then(|| rfc3339(unix(read)));
        Self { taken, at_work, rows: rows.into_iter().map(member).collect(), others }
    }
}

fn unix(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| seconds(since.as_secs()))
}

fn seconds(unix: u64) -> i64 {
    i64::try_from(unix).unwrap_or(i64::MAX)
}

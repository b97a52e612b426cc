//! What the status page shows, as JSON with stable names (docs/status-page.md), and its searches. Made off the runtime,
//! one at a time: it goes through tables, and whoever asks again and again gets the same for a moment.

use super::admin::{Health, Office, Row};
use super::decisions::Noted;
use super::event_log::hostname;
use super::history::{Rates, Totals};
use crate::delegation::answer::unix_time;
use crate::events::stats::unix_now;
use crate::lines::read::Decided;
use crate::mail::{Canonical, Printable};
use crate::meters::Filter;
use crate::store::Entry;
use jiff::Timestamp;
use serde::Serialize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// For how long the same answer is given.
const FRESH: Duration = Duration::from_secs(1);

/// For how long the same limits are shown: to find them, all keys are gone through.
const LIMITS_FRESH: Duration = Duration::from_secs(5);

/// How many keys are shown, the nearest to their limit first.
const MAX_LIMITS: usize = 20;

/// How many rules are shown, those that decided most first.
const MAX_RULES: usize = 50;

/// Most bytes of what is searched: the longest address (RFC 5321 section 4.5.3.1), and room for a text of a line.
const MAX_SEARCH_BYTES: usize = 400;

/// What was made lately: with addresses and without.
#[derive(Debug, Default)]
pub struct Kept {
    status: [Option<(Instant, String)>; 2],
    limits: Option<(Instant, i64, Vec<Row>)>,
}

#[derive(Serialize)]
struct Status {
    taken: String,
    host: String,
    version: &'static str,
    started: String,
    /// Whether addresses are shown: not over TCP.
    addresses: bool,
    status: &'static str,
    /// In words.
    problems: Vec<String>,
    policy: Policy,
    /// Since the start.
    totals: Totals,
    day: Day,
    hour: Rates,
    now: Now,
    rules: Rules,
    refusals: Vec<Refusal>,
    limits: Limits,
    events: Events,
    /// `null`: this relay is in no fleet.
    fleet: Option<super::fleet_view::Shown>,
}

#[derive(Serialize)]
struct Policy {
    generation: u64,
    taken: String,
    failed: bool,
}

#[derive(Serialize)]
struct Day {
    since: String,
    totals: Totals,
    rates: Rates,
}

#[derive(Serialize)]
struct Now {
    connections: u64,
    milter_sessions: Option<u64>,
    allowed_senders: usize,
    suppressed: usize,
    limiter_keys: usize,
}

#[derive(Serialize)]
struct Rules {
    since: String,
    rows: Vec<RuleRow>,
    others: u64,
}

#[derive(Serialize)]
struct RuleRow {
    decision: String,
    check: String,
    rule: String,
    count: u64,
}

#[derive(Serialize)]
struct Refusal {
    time: String,
    decision: String,
    check: String,
    rule: String,
    /// The codes of the reply, or the first word of the action.
    code: String,
    #[serde(flatten)]
    parties: Option<Parties>,
}

/// What holds addresses.
#[derive(Serialize)]
struct Parties {
    client: String,
    from: String,
    to: String,
    reply: String,
}

#[derive(Serialize)]
struct Limits {
    taken: String,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Events {
    /// Whether a source is followed.
    followed: bool,
    source_age_seconds: Option<i64>,
    last_event: Option<String>,
    /// How long after it happened the newest event had its effect.
    lag_seconds: Option<f64>,
    outbox_lines: u64,
    outbox_age_seconds: i64,
    quarantined: u64,
    brake_on: bool,
    held: u64,
}

/// What a search found.
#[derive(Serialize)]
struct Found {
    taken: String,
    query: String,
    suppression: Option<Suppressed>,
    /// Why the suppression list could not be asked.
    trouble: Option<String>,
    limits: Vec<Row>,
    refusals: Vec<Refusal>,
}

#[derive(Serialize)]
struct Suppressed {
    address: String,
    reason: &'static str,
    source: &'static str,
    created: String,
    expires: Option<String>,
    evidence: String,
}

impl Office {
    /// The status as JSON, from `kept` where it is fresh. Goes through tables: not for the runtime's own threads.
    pub(super) fn status(&self, addresses: bool, kept: &mut Kept) -> serde_json::Result<String> {
        let Kept { status, limits } = kept;
        let slot = &mut status[usize::from(addresses)];
        if let Some((_, text)) = slot.as_ref().filter(|(made, _)| made.elapsed() < FRESH) {
            return Ok(text.clone());
        }
        if limits.as_ref().is_none_or(|(made, ..)| made.elapsed() >= LIMITS_FRESH) {
            *limits = Some((Instant::now(), unix_now(), self.rows(&Filter { top: MAX_LIMITS, ..Filter::default() })));
        }
        let text = serde_json::to_string(&self.status_now(addresses, limits.as_ref()))?;
        *slot = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    fn status_now(&self, addresses: bool, limits: Option<&(Instant, i64, Vec<Row>)>) -> Status {
        let (now, totals) = (unix_now(), self.totals());
        let health = self.health(addresses);
        let problems = in_words(&health);
        let (limits_taken, rows) = limits.map_or((now, &[][..]), |(_, taken, rows)| (*taken, rows));
        Status {
            taken: rfc3339(now),
            host: hostname(),
            version: env!("CARGO_PKG_VERSION"),
            started: rfc3339(self.started),
            addresses,
            status: if problems.is_empty() { "ok" } else { "degraded" },
            problems,
            policy: Policy {
                generation: health.generation,
                taken: rfc3339(self.reload.taken.load(Relaxed)),
                failed: self.reload.is_failed(),
            },
            totals,
            day: Day {
                since: rfc3339(self.started.max(now - 86_400)),
                totals: self.history.day(totals),
                rates: self.history.rates(now, 5, 288),
            },
            hour: self.history.rates(now, 1, 60),
            now: Now {
                connections: self.house.stats.connections.load(Relaxed),
                milter_sessions: health.milter_sessions,
                allowed_senders: self.house.rules.load().senders.list.as_ref().map_or(0, |list| list.len()),
                suppressed: health.suppressed_entries,
                limiter_keys: self.house.meters.len(),
            },
            rules: self.rules(now),
            refusals: self.log.decisions.latest().iter().map(|noted| Refusal::new(noted, addresses)).collect(),
            limits: Limits {
                taken: rfc3339(limits_taken),
                rows: rows
                    .iter()
                    .map(|row| Row { key: row.key.clone().filter(|_| addresses), ..row.clone() })
                    .collect(),
            },
            events: self.events_now(now),
            fleet: self.fleet_now(addresses),
        }
    }

    fn rules(&self, now: i64) -> Rules {
        let mut counted = self.log.decisions.by_rule(now);
        let further = counted.rules.split_off(counted.rules.len().min(MAX_RULES));
        let row = |(begin, count): &(Box<str>, u64)| {
            let Decided { word, check, rule, .. } = Decided::parse(begin.as_bytes());
            RuleRow { decision: text(word), check: text(check), rule: text(rule), count: *count }
        };
        Rules {
            since: rfc3339(self.started.max(counted.since)),
            rows: counted.rules.iter().map(row).collect(),
            others: counted.others + further.iter().map(|(_, count)| count).sum::<u64>(),
        }
    }

    fn events_now(&self, now: i64) -> Events {
        let stats = &self.events;
        let last_event = Some(stats.last_event.load(Relaxed)).filter(|at| *at > 0);
        let silence = stats.silence(now);
        Events {
            followed: silence.is_some(),
            source_age_seconds: silence,
            last_event: last_event.map(rfc3339),
            lag_seconds: last_event.map(|_| stats.last_lag_ms.load(Relaxed) as f64 / 1e3),
            outbox_lines: stats.outbox_lines.load(Relaxed),
            outbox_age_seconds: stats.outbox_age(now),
            quarantined: stats.quarantined.load(Relaxed),
            brake_on: stats.brake_on.load(Relaxed),
            held: stats.held.load(Relaxed),
        }
    }

    /// What is known of an address, a client, or another text, as JSON. Reads the database: not for the runtime's own
    /// threads.
    pub(super) fn search(&self, query: &str) -> serde_json::Result<String> {
        let query = Printable::new(query.trim().as_bytes(), MAX_SEARCH_BYTES).to_string();
        let mut address = Canonical::default();
        address.set_external(query.as_bytes(), &self.house.rules.load().rewriting);
        let (entry, trouble) = match self.house.confirmer.lookup(address.as_bytes(), unix_time().as_secs()) {
            Ok(entry) => (entry, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let key = String::from_utf8_lossy(address.as_bytes()).into_owned();
        let wanted = [query.to_lowercase(), key];
        let mut rows = Vec::new();
        for key in [&query, &wanted[1]] {
            if rows.is_empty() {
                rows = self.rows(&Filter { key: Some(key), top: MAX_LIMITS, limit: None });
            }
        }
        let is_about = |noted: &&Noted| wanted.iter().any(|text| noted.text.to_lowercase().contains(text));
        let latest = self.log.decisions.latest();
        serde_json::to_string(&Found {
            taken: rfc3339(unix_now()),
            suppression: entry.as_deref().map(Suppressed::from),
            trouble,
            limits: rows,
            refusals: latest.iter().filter(is_about).map(|noted| Refusal::new(noted, true)).collect(),
            query,
        })
    }
}

impl Refusal {
    fn new(noted: &Noted, addresses: bool) -> Self {
        let decided = Decided::parse(noted.text.as_bytes());
        let words = text(decided.text);
        let is_code = |word: &&str| word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let code: Vec<_> = words.split(' ').take_while(is_code).take(2).collect();
        let action = words.split(' ').next().unwrap_or_default();
        Self {
            time: rfc3339(noted.at),
            decision: text(decided.word),
            check: text(decided.check),
            rule: text(decided.rule),
            code: if code.is_empty() { action.to_owned() } else { code.join(" ") },
            parties: addresses.then(|| Parties {
                client: text(decided.client),
                from: text(decided.from),
                to: text(decided.to),
                reply: words.clone(),
            }),
        }
    }
}

impl From<&Entry> for Suppressed {
    fn from(entry: &Entry) -> Self {
        Self {
            address: entry.address.as_str().to_owned(),
            reason: entry.reason.as_str(),
            source: entry.source.as_str(),
            created: rfc3339(entry.created),
            expires: entry.expires.map(rfc3339),
            evidence: entry.evidence.clone(),
        }
    }
}

fn in_words(health: &Health) -> Vec<String> {
    let policy = health.policy_problems.iter().map(|problem| format!("Policy folder: {problem}"));
    let store = health.suppression_store.iter().map(|trouble| format!("Suppression list: {trouble}"));
    let log = health.event_log.iter().map(|trouble| format!("Mail log: {trouble}"));
    let events = health.events.iter().map(|trouble| format!("Events: {trouble}"));
    let away = |trouble: &&String| *trouble != "ok";
    let list = health.fleet_store.iter().filter(away).map(|trouble| format!("Fleet, the store of the list: {trouble}"));
    let limits =
        health.limits_store.iter().filter(away).map(|trouble| format!("Fleet, the store of limits: {trouble}"));
    policy.chain(store).chain(log).chain(events).chain(list).chain(limits).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A time in Unix seconds as RFC 3339 writes it.
pub(super) fn rfc3339(unix_seconds: i64) -> String {
    Timestamp::from_second(unix_seconds).unwrap_or_default().to_string()
}

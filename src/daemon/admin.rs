//! The admin listener: health, metrics, the status page and limits over HTTP. A Unix socket may do all; TCP (loopback
//! by default) shows no addresses and changes nothing.

use super::event_log::WriterDesk;
use super::fleet_view::FleetView;
use super::guard::Door;
use super::history::History;
use super::listeners::Endpoint;
use super::{page, status};
use crate::delegation::answer::unix_time;
use crate::delegation::{Gate, House};
use crate::events::Stats;
use crate::events::stats::unix_now;
use crate::meters::{Filter, Shown};
use crate::rules::{Problem, Rules};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::Mutex;

use super::reload::ReloadState;
use crate::delegation::server::Listener;

/// The media type of the metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the admin listener may look at.
#[derive(Debug)]
pub struct Office {
    /// Rules, limits, counters.
    pub house: Arc<House>,
    /// The state of reloading.
    pub reload: Arc<ReloadState>,
    /// What is scraped.
    pub registry: Registry,
    /// The suppression store's trouble, if it has one.
    pub store: StoreHealth,
    /// The event side.
    pub events: Arc<Stats>,
    /// The milter, where there is one.
    pub milter: Option<Arc<crate::milter::Stats>>,
    /// The fleet, where there is one.
    pub fleet: Arc<FleetView>,
    /// The writer of the mail log.
    pub log: Arc<WriterDesk>,
    /// A day of rates.
    pub history: History,
    /// When the daemon started, Unix seconds.
    pub started: i64,
    /// What the status page was told last. Held while it is made anew.
    pub kept: Arc<Mutex<status::Kept>>,
}

/// How the store is.
pub struct StoreHealth(pub Box<dyn Fn() -> Option<String> + Send + Sync>);

impl std::fmt::Debug for StoreHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreHealth")
    }
}

/// What one listener shows of the office.
#[derive(Clone)]
struct Counter {
    office: Arc<Office>,
    door: Door,
}

impl Counter {
    /// Addresses are shown where only root and the daemon's own user come in.
    fn addresses(&self) -> bool {
        matches!(self.door, Door::Unix)
    }
}

/// Serves one listener until the gate closes.
///
/// # Errors
/// Where the socket fails.
pub async fn serve(
    office: Arc<Office>,
    endpoint: Endpoint,
    listener: Listener,
    gate: Arc<Gate>,
) -> std::io::Result<()> {
    let routes = routes(Counter { office, door: Door::of(&endpoint) });
    let closed = async move { gate.closed().await };
    match listener {
        Listener::Unix(listener) => axum::serve(listener, routes).with_graceful_shutdown(closed).await,
        Listener::Tcp(listener) => axum::serve(listener, routes).with_graceful_shutdown(closed).await,
    }
}

/// Health and metrics, which hold no addresses over TCP, are for machines that call the relay by any name.
fn routes(counter: Counter) -> Router {
    let mut guarded = Router::new().route("/", get(page::page)).route("/status.json", get(status_json));
    if counter.addresses() {
        guarded = guarded
            .route("/limits", get(limits))
            .route("/limits/reset", post(reset))
            .route("/search.json", get(search));
    }
    let check = middleware::from_fn_with_state(counter.clone(), guard);
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/healthz", get(health))
        .merge(guarded.route_layer(check))
        .fallback(|| async { (StatusCode::NOT_FOUND, "There is nothing here; the status page is at /.\n") })
        .method_not_allowed_fallback(|| async {
            (StatusCode::METHOD_NOT_ALLOWED, "Not by this method: what is here is read with GET.\n")
        })
        .layer(middleware::map_response(page::with_headers))
        .with_state(counter)
}

async fn guard(State(counter): State<Counter>, request: Request, next: Next) -> Response {
    match counter.door.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// What `/health` says.
#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
    version: &'static str,
    pid: u32,
    pub generation: u64,
    pub policy_problems: Vec<String>,
    pub suppression_store: Option<String>,
    pub suppressed_entries: usize,
    /// Sessions that are open; null where there is no milter.
    pub milter_sessions: Option<u64>,
    pub events: Vec<String>,
    /// The store of the fleet's limits: `ok`, or why it is away; null where this relay counts for itself. Said, and no
    /// 503: a balancer would take all relays out at once, and mail goes on by each relay's share.
    pub limits_store: Option<String>,
    /// The same of the store of the fleet's list; null where this relay has a list of its own.
    pub fleet_store: Option<String>,
    /// Why decision lines wait; said, and no 503: a machine may have no syslog, and is as sound without.
    pub event_log: Option<String>,
}

impl Office {
    /// How it goes; without `addresses` where the problems are, and not what the files say there.
    pub(super) fn health(&self, addresses: bool) -> Health {
        let problem = if addresses { ToString::to_string } else { place };
        let trouble = |words: String| match addresses {
            true => words,
            false => "in trouble; the admin Unix socket and the log say more".to_owned(),
        };
        let health = Health {
            status: "ok",
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            generation: self.house.rules.load().generation,
            policy_problems: self.reload.problems().iter().map(problem).collect(),
            suppression_store: (self.store.0)().map(trouble),
            suppressed_entries: self.house.index.len(),
            milter_sessions: self.milter.as_ref().map(|stats| stats.sessions.load(Relaxed)),
            events: self.events.complaints(unix_now()).into_iter().map(trouble).collect(),
            fleet_store: self.fleet.trouble().map(|t| t.map_or_else(|| "ok".to_owned(), trouble)),
            limits_store: self.house.shared.as_ref().map(|s| s.trouble().map_or_else(|| "ok".to_owned(), trouble)),
            event_log: self.log.trouble.words().map(trouble),
        };
        let sound = health.policy_problems.is_empty() && health.suppression_store.is_none() && health.events.is_empty();
        Health { status: if sound { "ok" } else { "degraded" }, ..health }
    }

    /// The counters that match.
    pub(super) fn rows(&self, filter: &Filter<'_>) -> Vec<Row> {
        self.house.meters.show(filter, unix_time()).into_iter().map(Row::from).collect()
    }
}

/// 200 while policy is answered by the rules that the operator wrote; 503 where something is wrong
/// that an operator must see to (mail goes on).
async fn health(State(counter): State<Counter>) -> Response {
    let health = counter.office.health(counter.addresses());
    let status = if health.status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

async fn status_json(State(counter): State<Counter>) -> Response {
    // One at a time, whoever asks: what waits here holds no thread.
    let mut kept = counter.office.kept.clone().lock_owned().await;
    in_the_background(move || json(counter.office.status(counter.addresses(), &mut kept))).await
}

/// `?q=TEXT`
#[derive(Debug, Deserialize)]
struct Asked {
    q: String,
}

async fn search(State(counter): State<Counter>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    match asked {
        Ok(Query(Asked { q })) if !q.trim().is_empty() => {
            in_the_background(move || json(counter.office.search(&q))).await
        }
        _ => (StatusCode::BAD_REQUEST, "q= is to name an address, a client or another text.\n").into_response(),
    }
}

fn json(text: serde_json::Result<String>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn place(problem: &Problem) -> String {
    format!("{}:{}:{}", problem.file.display(), problem.line.max(1), problem.column.max(1))
}

async fn metrics(State(Counter { office, .. }): State<Counter>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &office.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Which counters: `?limit=NAME&key=KEY&most=N`.
#[derive(Debug, Default, Deserialize)]
struct Which {
    limit: Option<String>,
    key: Option<String>,
    most: Option<usize>,
}

impl Which {
    fn filter(&self) -> Filter<'_> {
        let top = self.most.unwrap_or(Filter::default().top);
        Filter { limit: self.limit.as_deref(), key: self.key.as_deref(), top }
    }

    /// Refuses a limit that the policy does not have: a slip of the pen is no idle limit.
    fn check(&self, rules: &Rules) -> Result<(), (StatusCode, String)> {
        let names = || rules.limits.iter().map(|limit| limit.name.as_str());
        match &self.limit {
            Some(name) if names().all(|known| known != name) => {
                let known: Vec<&str> = names().collect();
                Err((StatusCode::NOT_FOUND, format!("no limit has the name {name:?}; policy.toml has {known:?}")))
            }
            _ => Ok(()),
        }
    }
}

/// What is said beside counters of a fleet.
const ONLY_SOME: &str = "the store has too many names to look at in the time; there may be more counters";
const ONLY_HERE: &str = "the store of the fleet's limits is away; these are the counters of this relay alone";

/// The counters of a fleet, and what is to be said beside them. (Those of a relay that counts for itself are a list.)
#[derive(Serialize)]
struct Shared {
    counters: Vec<Row>,
    note: Option<&'static str>,
}

/// Those of this relay go through the whole table, and so to a thread that answers nobody.
async fn limits(
    State(Counter { office, .. }): State<Counter>,
    Query(which): Query<Which>,
) -> Result<Response, (StatusCode, String)> {
    let rules = office.house.rules.load_full();
    which.check(&rules)?;
    let shared = office.house.shared.clone();
    if let Some((counters, all)) = match &shared {
        Some(shared) => shared.show(&rules.limits, &which.filter()).await,
        None => None,
    } {
        let note = (!all).then_some(ONLY_SOME);
        return Ok(Json(Shared { counters: counters.into_iter().map(Row::from).collect(), note }).into_response());
    }
    let rows = move || {
        let counters = office.rows(&which.filter());
        match shared {
            Some(_) => Json(Shared { counters, note: Some(ONLY_HERE) }).into_response(),
            None => Json(counters).into_response(),
        }
    };
    Ok(in_the_background(rows).await)
}

async fn in_the_background(work: impl FnOnce() -> Response + Send + 'static) -> Response {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// A counter, as `gatepost limits show --json` prints it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub limit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub rate: String,
    pub used: u32,
    pub burst: u32,
    pub available: u32,
    /// Seconds until one more would pass; 0: now.
    pub next_free_seconds: f64,
}

impl From<Shown> for Row {
    fn from(shown: Shown) -> Self {
        Self {
            limit: shown.limit,
            key: Some(shown.key),
            rate: shown.rate.to_string(),
            used: shown.used,
            burst: shown.burst,
            available: shown.available,
            next_free_seconds: shown.next_free.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct Reset {
    reset: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// In a fleet, this relay's own counters go as well: they count while the store is away.
async fn reset(
    State(Counter { office, .. }): State<Counter>,
    Query(which): Query<Which>,
) -> Result<Response, (StatusCode, String)> {
    let rules = office.house.rules.load_full();
    which.check(&rules)?;
    let in_store = match &office.house.shared {
        Some(shared) => Some(shared.reset(&rules.limits, which.limit.as_deref(), which.key.as_deref()).await),
        None => None,
    };
    let work = move || {
        let here = office.house.meters.reset(which.limit.as_deref(), which.key.as_deref());
        let (reset, note) = match in_store {
            None => (here, None),
            Some(Some((reset, all))) => (reset, (!all).then_some(ONLY_SOME)),
            Some(None) => (here, Some(ONLY_HERE)),
        };
        tracing::info!(limit = ?which.limit, key = ?which.key, reset, note, "Limiter counters were reset.");
        Json(Reset { reset, note }).into_response()
    };
    Ok(in_the_background(work).await)
}

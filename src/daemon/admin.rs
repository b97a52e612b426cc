//! The admin listener: health, metrics and limits over HTTP. A Unix socket may do all; TCP (loopback
//! by default) shows no addresses and changes nothing.

use super::listeners::Endpoint;
use crate::delegation::answer::unix_time;
use crate::delegation::{Gate, House};
use crate::events::Stats;
use crate::meters::{Filter, Shown};
use crate::rules::Problem;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

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
}

/// How the store is.
pub struct StoreHealth(pub Box<dyn Fn() -> Option<String> + Send + Sync>);

impl std::fmt::Debug for StoreHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreHealth")
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
    let mut routes = Router::new().route("/metrics", get(metrics));
    routes = match endpoint {
        Endpoint::Unix(_) => routes
            .route("/health", get(health))
            .route("/healthz", get(health))
            .route("/limits", get(limits))
            .route("/limits/reset", post(reset)),
        Endpoint::Inet(_) => routes.route("/health", get(health_in_short)).route("/healthz", get(health_in_short)),
    };
    let routes = routes.with_state(office);
    let closed = async move { gate.closed().await };
    match listener {
        Listener::Unix(listener) => axum::serve(listener, routes).with_graceful_shutdown(closed).await,
        Listener::Tcp(listener) => axum::serve(listener, routes).with_graceful_shutdown(closed).await,
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    pid: u32,
    generation: u64,
    policy_problems: Vec<String>,
    suppression_store: Option<String>,
    suppressed_entries: usize,
    /// Sessions that are open; null where there is no milter.
    milter_sessions: Option<u64>,
    events: Vec<String>,
}

/// 200 while policy is answered by the rules that the operator wrote; 503 where something is wrong
/// that an operator must see to (mail goes on).
async fn health(State(office): State<Arc<Office>>) -> Response {
    health_of(&office, ToString::to_string, |trouble| trouble)
}

/// The same for everybody: where the problems are, and not what the files say there, which may be
/// addresses.
async fn health_in_short(State(office): State<Arc<Office>>) -> Response {
    health_of(&office, place, |_| "in trouble; the admin Unix socket and the log say more".to_owned())
}

fn health_of(office: &Office, problem: fn(&Problem) -> String, trouble: fn(String) -> String) -> Response {
    let now = i64::try_from(unix_time().as_secs()).unwrap_or(i64::MAX);
    let health = Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        generation: office.house.rules.load().generation,
        policy_problems: office.reload.problems().iter().map(problem).collect(),
        suppression_store: (office.store.0)().map(trouble),
        suppressed_entries: office.house.index.len(),
        milter_sessions: office.milter.as_ref().map(|stats| stats.sessions.load(Relaxed)),
        events: office.events.complaints(now).into_iter().map(trouble).collect(),
    };
    let sound = health.policy_problems.is_empty() && health.suppression_store.is_none() && health.events.is_empty();
    if sound {
        Json(health).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "degraded", ..health })).into_response()
    }
}

fn place(problem: &Problem) -> String {
    format!("{}:{}:{}", problem.file.display(), problem.line.max(1), problem.column.max(1))
}

async fn metrics(State(office): State<Arc<Office>>) -> Response {
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

/// Both go through the whole table, and so to a thread that answers nobody.
async fn limits(State(office): State<Arc<Office>>, Query(which): Query<Which>) -> Response {
    let rows = move || {
        let filter = Filter {
            limit: which.limit.as_deref(),
            key: which.key.as_deref(),
            top: which.most.unwrap_or(Filter::default().top),
        };
        office.house.meters.show(&filter, unix_time()).into_iter().map(Row::from).collect::<Vec<Row>>()
    };
    in_the_background(rows).await
}

async fn in_the_background<T: Serialize + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Json(done).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A counter, as `gatepost limits show --json` prints it.
#[derive(Serialize)]
struct Row {
    limit: String,
    key: String,
    rate: String,
    used: u32,
    burst: u32,
    available: u32,
    /// Seconds until one more would pass; 0: now.
    next_free_seconds: f64,
}

impl From<Shown> for Row {
    fn from(shown: Shown) -> Self {
        Self {
            limit: shown.limit,
            key: shown.key,
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
}

async fn reset(State(office): State<Arc<Office>>, Query(which): Query<Which>) -> Response {
    let work = move || {
        let reset = office.house.meters.reset(which.limit.as_deref(), which.key.as_deref());
        tracing::info!(limit = ?which.limit, key = ?which.key, reset, "Limiter counters were reset.");
        Reset { reset }
    };
    in_the_background(work).await
}

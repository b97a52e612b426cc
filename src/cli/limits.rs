//! `gatepost limits show|reset`: the counters of the running daemon, over its admin Unix socket.

use super::exit;
use super::output::{print, say};
use super::signals::Signals;
use crate::daemon::Config;
use crate::daemon::listeners::Endpoint;
use clap::Subcommand;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `gatepost limits`
#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// Show the counters, the most used first
    Show {
        /// Only this limit
        #[arg(long, value_name = "NAME")]
        limit: Option<String>,
        /// Only this key, such as 10.0.0.1
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// How many to show
        #[arg(long, value_name = "N", default_value_t = 100)]
        most: usize,
    },
    /// Set counters back to unused
    Reset {
        /// Only this limit
        #[arg(long, value_name = "NAME")]
        limit: Option<String>,
        /// Only this key, such as 10.0.0.1
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// All counters of all limits
        #[arg(long, conflicts_with_all = ["limit", "key"])]
        all: bool,
    },
}

/// Asks the daemon.
#[must_use]
pub fn run(command: &LimitsCommand, config: &Config, json: bool, signals: &Signals) -> u8 {
    let unix = config.admin_listen.iter().find_map(|endpoint| match endpoint {
        Endpoint::Unix(path) => Some(path.clone()),
        Endpoint::Inet(_) => None,
    });
    let Some(socket) = unix else {
        say(&"limits needs a Unix socket in [admin] listen, such as \"unix:/run/gatepost/admin.sock\"");
        return exit::CONFIG;
    };
    let (method, path) = match request_of(command) {
        Ok(request) => request,
        Err(message) => {
            say(&message);
            return exit::USAGE;
        }
    };
    if method == Method::POST {
        signals.hold();
    }
    let answer = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(ask(&socket, method, &path)));
    match answer {
        Ok(Answer::Data(value)) if json => print(&format!("{value}\n")),
        Ok(Answer::Data(value)) => print(&in_words(&value)),
        Ok(Answer::NotFound(what)) => {
            say(&what);
            exit::USAGE
        }
        Err(error) => {
            say(&format_args!("{}: {error:#}; is the daemon running?", socket.display()));
            exit::UNAVAILABLE
        }
    }
}

fn request_of(command: &LimitsCommand) -> Result<(Method, String), String> {
    let pairs = |limit: &Option<String>, key: &Option<String>| {
        let named = [("limit", limit), ("key", key)];
        let pairs = named.into_iter().filter_map(|(name, v)| v.as_ref().map(|v| format!("{name}={}", encoded(v))));
        pairs.collect::<Vec<_>>().join("&")
    };
    match command {
        LimitsCommand::Show { limit, key, most } => {
            Ok((Method::GET, format!("/limits?most={most}&{}", pairs(limit, key))))
        }
        LimitsCommand::Reset { limit: None, key: None, all: false } => {
            Err("limits reset: name a --limit, a --key, or --all".to_owned())
        }
        LimitsCommand::Reset { limit, key, .. } => Ok((Method::POST, format!("/limits/reset?{}", pairs(limit, key)))),
    }
}

/// Percent-encodes a query value (RFC 3986 section 2.1).
fn encoded(value: &str) -> String {
    value
        .bytes()
        .map(|b| match b {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// What the daemon said.
enum Answer {
    Data(Value),
    /// It knows no such limit.
    NotFound(String),
}

async fn ask(socket: &Path, method: Method, path: &str) -> anyhow::Result<Answer> {
    let exchange = async {
        let stream = TokioIo::new(UnixStream::connect(socket).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let driver = tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header("host", "gatepost").body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        drop(sender);
        let _ = driver.await;
        let text = String::from_utf8_lossy(&body);
        match status {
            StatusCode::OK => Ok(Answer::Data(serde_json::from_slice(&body)?)),
            StatusCode::NOT_FOUND => Ok(Answer::NotFound(text.into_owned())),
            _ => anyhow::bail!("the daemon answered {status}: {text}"),
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await?
}

fn in_words(value: &Value) -> String {
    if let Some(reset) = value.get("reset") {
        return format!("{reset} counters were reset\n");
    }
    let rows = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return "no counter is in use\n".to_owned();
    }
    let line = |row: &Value| {
        let text = |name: &str| {
            row.get(name).map_or_else(String::new, |v| v.as_str().map_or_else(|| v.to_string(), Into::into))
        };
        format!(
            "{} {}: {} of {} used, {} free, rate {}\n",
            text("limit"),
            text("key"),
            text("used"),
            text("burst"),
            text("available"),
            text("rate")
        )
    };
    rows.iter().map(line).collect()
}

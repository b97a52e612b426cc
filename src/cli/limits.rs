//! `gatepost limits show|reset`: the counters of the running daemon, over its admin Unix socket.

use super::exit;
use super::output::{print, say};
use super::signals::Signals;
use crate::daemon::Config;
use crate::daemon::client;
use crate::daemon::listeners::Endpoint;
use clap::Subcommand;
use hyper::{Method, StatusCode};
use serde_json::Value;

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
    let Some(socket) = config.admin_listen.iter().find(|endpoint| matches!(endpoint, Endpoint::Unix(_))) else {
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
    match ask(socket, method, &path) {
        Ok(Answer::Data(value)) => told(&value, json),
        Ok(Answer::NotFound(what)) => {
            say(&what);
            exit::USAGE
        }
        Err(error) => {
            let place = socket.to_string();
            say(&format_args!("{}: {error:#}; is the daemon running?", place.trim_start_matches("unix:")));
            exit::UNAVAILABLE
        }
    }
}

/// Prints what the daemon told. A reset that did not reach all it was for has failed.
fn told(value: &Value, json: bool) -> u8 {
    let data = value.get("counters").unwrap_or(value);
    let code = print(&if json { format!("{data}\n") } else { in_words(data) });
    match value.get("note").and_then(Value::as_str) {
        None => code,
        Some(note) => {
            say(&note);
            if value.get("reset").is_some() { exit::UNAVAILABLE } else { code }
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

fn ask(socket: &Endpoint, method: Method, path: &str) -> anyhow::Result<Answer> {
    let (status, body) = client::ask_once(socket, method, path)?;
    let text = || String::from_utf8_lossy(&body).into_owned();
    match status {
        StatusCode::OK => Ok(Answer::Data(serde_json::from_slice(&body)?)),
        StatusCode::NOT_FOUND => Ok(Answer::NotFound(text())),
        _ => anyhow::bail!("the daemon answered {status}: {}", text()),
    }
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

//! `gatepost.toml`: the whole schema, typed and checked; every problem with file, line and column.
//! Sections that this version does not serve yet are checked all the same.

mod endpoint;
mod parse;

pub use endpoint::{EndpointError, MAX_SOCKET_PATH_BYTES};
pub use parse::{Salvaged, parse, salvage};

use super::event_log::Output;
use super::listeners::Endpoint;
use crate::events::sharing::Place;
use crate::fleet::{Keys, Relay, StoreUrl, authority};
use crate::mail::{Address, Rewriting};
use crate::rules::load::{POLICY_TOML, read_file};
use crate::rules::toml_walk::MAX_TOML_BYTES;
use crate::rules::{DropOrRefuse, Mode, Problem, Rules, Severity, problem};
use ipnet::IpNet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration stands unless another file is named.
pub const DEFAULT_PATH: &str = "/etc/gatepost/gatepost.toml";

/// `[milter] correlation_header`, where nothing else is said.
pub const DEFAULT_CORRELATION_HEADER: &str = "X-Correlation-ID";

/// The configuration of the daemon and of every command.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The folder that operators edit. Live: SIGHUP applies it.
    pub policy_dir: PathBuf,
    /// Database, last good policy, limiter state.
    pub state_dir: PathBuf,
    /// `[postfix]`. Live.
    pub postfix: Rewriting,
    /// `[delegation] listen`: the sockets that Postfix asks, at least one.
    pub delegation_listen: Vec<Endpoint>,
    /// `[delegation] socket_mode`: the permission bits of Unix sockets.
    pub socket_mode: u32,
    /// `[delegation] socket_group` of Unix sockets; `None`: the daemon's own.
    pub socket_group: Option<String>,
    /// `[delegation] max_connections`: how many are served at once.
    pub max_connections: usize,
    /// `[delegation] idle_timeout`: after so long without a question a connection is closed.
    pub idle_timeout: Duration,
    /// `[milter]`; `None`: no milter.
    pub milter: Option<Milter>,
    /// `[suppression] store`: the SQLite database. In a fleet, this relay's own copy, in the state folder.
    pub suppression_store: PathBuf,
    /// What this relay shares with others, and where: `[suppression] store`, `[limits] store`, `[fleet]`.
    pub fleet: Fleet,
    /// `[limits] max_keys`: how many keys are counted at once.
    pub max_keys: usize,
    /// `[events]`; `None`: no events are followed.
    pub events: Option<Events>,
    /// `[event_log] output`.
    pub event_log_output: Output,
    /// `[admin] listen`; empty: no admin socket.
    pub admin_listen: Vec<Endpoint>,
    /// `[logs]`.
    pub logs: Option<Logs>,
}

/// What is shared with other relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// `[suppression] store`, where it is a Valkey or Redis; `None`: the list is this relay's alone.
    pub suppression: Option<StoreUrl>,
    /// `[limits] store`, where it is a Valkey or Redis; `None`: each relay counts for itself.
    pub limits: Option<StoreUrl>,
    /// `[fleet] name` of this relay.
    pub name: Option<String>,
    /// `[fleet] namespace`: relays with the same one, in the same store, are one fleet.
    pub namespace: String,
    /// `[fleet] ca_file`: the authority of the store's certificate, in place of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Fleet {
    /// Every store that is named, each once.
    #[must_use]
    pub fn stores(&self) -> Vec<&StoreUrl> {
        let limits = self.limits.as_ref().filter(|limits| Some(*limits) != self.suppression.as_ref());
        self.suppression.iter().chain(limits).collect()
    }

    /// What stands in `ca_file`, where there is one.
    ///
    /// # Errors
    /// The file, and why it cannot be read.
    pub fn ca(&self) -> io::Result<Option<Vec<u8>>> {
        self.ca_file.as_deref().map(authority).transpose()
    }

    /// The section `[fleet]`.
    fn who(&self) -> (&Option<String>, &str, &Option<PathBuf>) {
        (&self.name, &self.namespace, &self.ca_file)
    }
}

impl Fleet {
    /// Where this relay shares its events, if it does.
    #[must_use]
    pub fn events(&self) -> Option<Place> {
        let keys = Keys::new(&self.namespace);
        let place = |url| Place { url, ca_file: self.ca_file.clone(), keys, relay: Relay::new(self.name.as_deref()) };
        self.suppression.clone().map(place)
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self { suppression: None, limits: None, name: None, namespace: "gatepost".into(), ca_file: None }
    }
}

/// `[milter]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Milter {
    /// For `smtpd_milters`.
    pub listen: Vec<Endpoint>,
    /// For `non_smtpd_milters`.
    pub listen_local: Vec<Endpoint>,
    /// The header that carries the correlation id.
    pub correlation_header: String,
    /// `None`: not stamped.
    pub ses_configuration_set: Option<String>,
    /// Whose own correlation id and X-SES headers are kept.
    pub trusted_networks: Vec<IpNet>,
    /// The sender of bounces of local mail.
    pub bounce_sender: Option<Address>,
    /// How many sessions are served at once.
    pub max_connections: usize,
}

/// `[events]`: where SES's events come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// The source.
    pub source: EventSource,
    /// Whose events are taken; empty: all.
    pub accounts: Vec<String>,
}

/// `events.source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// `sqs`: the URLs of the queues, at least one.
    Sqs(Vec<String>),
    /// `spool`: a folder in which JSON files are dropped.
    Spool(PathBuf),
}

/// `[logs]`: what trace and report read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// Absolute paths, with `*`.
    pub paths: Vec<String>,
    /// Read the journal.
    pub journal: bool,
}

impl Default for Config {
    fn default() -> Self {
        let state_dir = PathBuf::from("/var/lib/gatepost");
        Self {
            policy_dir: "/etc/gatepost/policy".into(),
            suppression_store: default_store(&state_dir),
            fleet: Fleet::default(),
            state_dir,
            postfix: Rewriting {
                myorigin: String::new(),
                recipient_delimiter: String::new(),
                parent_domain_matches_subdomains: true,
            },
            delegation_listen: vec![Endpoint::Unix("/var/spool/postfix/gatepost/policy.sock".into())],
            socket_mode: 0o660,
            socket_group: Some("postfix".into()),
            // Postfix runs at most 100 smtpd by default (default_process_limit), each with a
            // connection for every policy_context: three of them, and as many again in reserve.
            max_connections: 1000,
            idle_timeout: Duration::from_secs(20 * 60),
            milter: None,
            max_keys: 1_000_000,
            events: None,
            event_log_output: Output::Syslog,
            admin_listen: vec![Endpoint::Unix("/run/gatepost/admin.sock".into())],
            logs: None,
        }
    }
}

impl Config {
    /// Reads the configuration with its warnings. `None`: [`DEFAULT_PATH`] if it is there, else the
    /// embedded default.
    ///
    /// # Errors
    /// Every problem of the file; that a named file is not there is one.
    pub fn load(path: Option<&Path>) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let read = Self::salvage(path);
        problem::accept(read.config, read.findings)
    }

    /// As [`Config::load`], with what could be read of a file that has problems.
    #[must_use]
    pub fn salvage(path: Option<&Path>) -> Salvaged {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let nothing = |message: String| Salvaged {
            config: Self::default(),
            findings: vec![Problem::whole(file, message)],
            knows_policy_dir: false,
        };
        match read_file(file, MAX_TOML_BYTES) {
            Ok(Some(text)) => salvage(file, &text),
            Ok(None) if path.is_none() => {
                Salvaged { config: Self::default(), findings: Vec::new(), knows_policy_dir: true }
            }
            Ok(None) => nothing("is not there; name the configuration with --config FILE".into()),
            Err(e) => nothing(e.to_string()),
        }
    }

    /// The configuration that holds where there is no file, as a file: it reads as
    /// [`Config::default`].
    #[must_use]
    pub fn embedded_text() -> &'static str {
        include_str!("default.toml")
    }

    /// The settings of main.cf that change a lookup.
    #[must_use]
    pub fn rewriting(&self) -> Rewriting {
        self.postfix.clone()
    }

    /// The database of the suppression list.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.suppression_store.clone()
    }

    /// The header that carries the correlation id where no tag of SES does.
    #[must_use]
    pub fn correlation_header(&self) -> &str {
        self.milter.as_ref().map_or(DEFAULT_CORRELATION_HEADER, |milter| &milter.correlation_header)
    }

    /// The warning that nobody drops suppressed recipients, where `rules` leave them to a milter that is not there.
    #[must_use]
    pub fn cannot_drop(&self, rules: &Rules) -> Option<Problem> {
        let suppression = &rules.suppression;
        let asked = suppression.action == DropOrRefuse::Drop && suppression.mode != Mode::Off;
        let served = self.milter.as_ref().is_some_and(|milter| !milter.listen.is_empty());
        let message = "suppression.action \"drop\" needs a milter, and [milter] listen in gatepost.toml names none: \
                       suppressed recipients pass; add it, or write \"refuse\"";
        let file = self.policy_dir.join(POLICY_TOML);
        (asked && !served).then(|| Problem { severity: Severity::Warning, ..Problem::whole(&file, message) })
    }

    /// Takes the keys over that a running daemon can apply.
    pub fn take_live(&mut self, new: &Self) {
        self.policy_dir.clone_from(&new.policy_dir);
        self.postfix = new.postfix.clone();
    }

    /// The keys in which `new` differs and that a running daemon cannot apply. The others
    /// (`policy_dir`, `[postfix]`) are live.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        [
            ("state_dir", self.state_dir != new.state_dir),
            ("delegation.listen", self.delegation_listen != new.delegation_listen),
            ("delegation.socket_mode", self.socket_mode != new.socket_mode),
            ("delegation.socket_group", self.socket_group != new.socket_group),
            ("delegation.max_connections", self.max_connections != new.max_connections),
            ("delegation.idle_timeout", self.idle_timeout != new.idle_timeout),
            (
                "suppression.store",
                (&self.suppression_store, &self.fleet.suppression) != (&new.suppression_store, &new.fleet.suppression),
            ),
            ("limits.store", self.fleet.limits != new.fleet.limits),
            ("fleet", self.fleet.who() != new.fleet.who()),
            ("limits.max_keys", self.max_keys != new.max_keys),
            ("events", self.events != new.events),
            ("logs", self.logs != new.logs),
            ("milter", self.milter != new.milter),
            ("event_log.output", self.event_log_output != new.event_log_output),
            ("admin.listen", self.admin_listen != new.admin_listen),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

/// The database of a state folder.
fn default_store(state_dir: &Path) -> PathBuf {
    state_dir.join("gatepost.db")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_text_is_the_default() {
        let parsed = parse(Path::new("embedded"), Config::embedded_text().as_bytes());
        assert_eq!(parsed, Ok((Config::default(), Vec::new())));
    }

    #[test]
    fn the_whole_schema_is_read_and_unserved_sections_warn_once() {
        let text = r#"
            [delegation]
            listen = ["inet:127.0.0.1:10031", "inet:[::1]:10031"]
            idle_timeout = "1h"
            [milter]
            listen = ["unix:/run/milter.sock"]
            listen_local = ["unix:/run/local.sock"]
            ses_configuration_set = "relay-events"
            trusted_networks = ["10.0.0.0/16"]
            bounce_sender = "bounces@example.com"
            [events]
            source = "spool"
            spool_dir = "/var/lib/gatepost/spool"
            accounts = ["123456789012"]
            [event_log]
            output = "file:/var/log/gatepost/mail.log"
            [logs]
            paths = ["/var/log/mail.log*"]
            journal = true
            "#;
        let (config, warnings) = parse(Path::new("f"), text.as_bytes()).expect("sound");
        let lines: Vec<_> = warnings.iter().map(|w| (w.line, w.is_warning())).collect();
        assert_eq!(lines, []);
        assert_eq!(config.delegation_listen[1], Endpoint::Inet("[::1]:10031".into()));
        assert_eq!((config.socket_mode, &config.socket_group), (0o660, &None));
        assert_eq!(config.idle_timeout, Duration::from_secs(3600));
        assert_eq!(config.milter.expect("milter").correlation_header, "X-Correlation-ID");
        assert_eq!(config.events.expect("events").source, EventSource::Spool("/var/lib/gatepost/spool".into()));
        assert_eq!(config.event_log_output, Output::File("/var/log/gatepost/mail.log".into()));
        assert!(config.logs.expect("logs").journal && config.admin_listen.is_empty());
    }

    #[test]
    fn events_of_all_accounts_are_warned_about() {
        let text = "[events]\nsource = \"spool\"\nspool_dir = \"/spool\"\n";
        let (_, warnings) = parse(Path::new("f"), text.as_bytes()).expect("sound");
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].to_string().starts_with("f:1:1: warning: [events] has no accounts"), "{}", warnings[0]);
    }

    #[test]
    fn the_database_goes_with_the_state() {
        let (config, _) = parse(Path::new("f"), b"state_dir = \"/srv/gatepost\"\n").expect("sound");
        assert_eq!(config.store_path(), Path::new("/srv/gatepost/gatepost.db"));
        assert_eq!(config.socket_group, Config::default().socket_group);
    }

    #[test]
    fn a_named_file_that_is_missing_is_a_problem() {
        let problems = Config::load(Some(Path::new("/nowhere/gatepost.toml"))).expect_err("missing");
        assert_eq!(
            problems[0].to_string(),
            "/nowhere/gatepost.toml:1:1: is not there; name the configuration with --config FILE"
        );
    }

    #[test]
    fn live_keys_need_no_restart() {
        let old = Config::default();
        let mut new = Config { policy_dir: "/else".into(), ..old.clone() };
        new.postfix.myorigin = "example.com".into();
        assert!(old.needs_restart(&new).is_empty());
        let mut live = old.clone();
        live.take_live(&new);
        assert_eq!(live, new);
        new.socket_mode = 0o600;
        new.admin_listen.clear();
        let source = EventSource::Spool("/spool".into());
        new.events = Some(Events { source, accounts: Vec::new() });
        assert_eq!(old.needs_restart(&new), ["delegation.socket_mode", "events", "admin.listen"]);
    }
}

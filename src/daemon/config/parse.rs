//! `gatepost.toml` into [`Config`], or every problem in it.

use super::endpoint::is_local;
use super::{Config, EventSource, Events, Fleet, Logs, Milter, default_store};
use crate::daemon::event_log::Output;
use crate::daemon::listeners::Endpoint;
use crate::fleet::{MAX_NAME_BYTES, StoreUrl};
use crate::journey::glob;
use crate::mail::Address;
use crate::rules::policy::words;
use crate::rules::rate::span_text;
use crate::rules::toml_walk::{Item, Table, quoted, walk};
use crate::rules::{Problem, problem};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Postfix closes an idle policy connection after 300 s (`smtpd_policy_service_max_idle`); who
/// closes first makes the next question fail, so it must not be us.
const MIN_IDLE: Duration = Duration::from_secs(310);
const MAX_IDLE: Duration = Duration::from_secs(86_400);

/// Headers that mail has anyway: as the correlation header, each would be taken out of every message.
const STANDARD_HEADERS: [&str; 17] = [
    "bcc",
    "cc",
    "content-transfer-encoding",
    "content-type",
    "date",
    "dkim-signature",
    "from",
    "in-reply-to",
    "list-unsubscribe",
    "message-id",
    "mime-version",
    "received",
    "references",
    "reply-to",
    "return-path",
    "sender",
    "subject",
];

/// Postfix runs at most 100 smtpd by default (default_process_limit), each with one session, and as many
/// local submissions at once; five times that in reserve.
const DEFAULT_SESSIONS: usize = 1_000;

/// Most queues: each has a long poll under way at all times, and up to sixteen.
const MAX_QUEUES: usize = 16;

/// What was read of a file, problems or not.
#[derive(Debug)]
pub struct Salvaged {
    /// What is wrong stands at its default.
    pub config: Config,
    /// Problems and warnings, in the order of the file.
    pub findings: Vec<Problem>,
    /// Whether `policy_dir` is the operator's: false where it stands in the file and is wrong, or
    /// the file could not be read.
    pub knows_policy_dir: bool,
}

/// Reads `gatepost.toml`; `file` only names it in problems. Pure.
///
/// # Errors
/// Every problem of the file, and its warnings, in the order of its lines.
pub fn parse(file: &Path, text: &[u8]) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let read = salvage(file, text);
    problem::accept(read.config, read.findings)
}

/// Reads what can be read, with everything that was found.
#[must_use]
pub fn salvage(file: &Path, text: &[u8]) -> Salvaged {
    let (read, findings) = walk(file, text, config);
    let (config, knows_policy_dir) = read.unwrap_or_else(|| (Config::default(), false));
    Salvaged { config, findings, knows_policy_dir }
}

fn config(root: &mut Table<'_>) -> (Config, bool) {
    let mut sockets = Sockets::default();
    let policy_dir = root.get("policy_dir").map(|item| absolute(&item, "/etc/gatepost/policy"));
    let state_dir = root.get("state_dir").and_then(|item| absolute(&item, "/var/lib/gatepost"));
    let default = Config::default();
    let state_dir = state_dir.unwrap_or(default.state_dir);
    let mut config = Config {
        policy_dir: policy_dir.clone().flatten().unwrap_or(default.policy_dir),
        suppression_store: default_store(&state_dir),
        state_dir,
        admin_listen: Vec::new(),
        ..Config::default()
    };
    root.section("postfix", |table| postfix(table, &mut config.postfix));
    root.section("delegation", |table| delegation(table, &mut sockets, &mut config));
    config.milter = root.section("milter", |table| milter(table, &mut sockets));
    root.section("suppression", |table| suppression_store(table, &mut config));
    root.section("limits", |table| limits(table, &mut config));
    root.section("fleet", |table| fleet(table, &mut config.fleet));
    config.events = root.section("events", events).flatten();
    if let Some(output) = root.section("event_log", event_log).flatten() {
        config.event_log_output = output;
    }
    config.admin_listen = root.section("admin", |table| admin(table, &mut sockets)).unwrap_or_default();
    config.logs = root.section("logs", logs);
    (config, policy_dir.is_none_or(|dir| dir.is_some()))
}

fn postfix(table: &mut Table<'_>, rewriting: &mut crate::mail::Rewriting) {
    if let Some(origin) = table.get("myorigin").and_then(|item| myorigin(&item)) {
        rewriting.myorigin = origin;
    }
    if let Some(text) = table.get("recipient_delimiter").and_then(|item| item.text("text such as \"+\", or \"\"")) {
        rewriting.recipient_delimiter = text.to_owned();
    }
    if let Some(yes) = table.get("parent_domain_matches_subdomains").and_then(|item| item.boolean()) {
        rewriting.parent_domain_matches_subdomains = yes;
    }
}

fn myorigin(item: &Item<'_>) -> Option<String> {
    let text = item.text("a domain such as \"example.com\", or \"\"")?;
    if text.is_empty() {
        return Some(String::new());
    }
    if text.starts_with(['$', '/']) {
        item.problem(format!(
            "postfix.myorigin {}: write the domain itself, as \"postconf -hx myorigin\" or the file it names shows it",
            quoted(text)
        ));
        return None;
    }
    words::parse_domain(text).map_err(|_| item.must_be("a domain such as \"example.com\", or \"\"")).ok()
}

/// The group has a default only beside the default socket: for one of their own, the operator may
/// mean the daemon's own group.
fn delegation(table: &mut Table<'_>, sockets: &mut Sockets, config: &mut Config) {
    if let Some(item) = table.get("listen") {
        if item.is_empty_list() {
            item.problem("delegation.listen is empty, so Postfix could ask nothing; name at least one address");
        }
        config.delegation_listen = sockets.all(&item);
        config.socket_group = None;
    }
    let mode = table.get("socket_mode").and_then(|item| socket_mode(&item));
    config.socket_mode = mode.unwrap_or(config.socket_mode);
    if let Some(item) = table.get("socket_group") {
        config.socket_group = group(&item);
    }
    let most = table
        .get("max_connections")
        .and_then(|item| item.number(10..=1_000_000, "Postfix keeps one for each smtpd process and check"));
    config.max_connections = most.and_then(|n| n.try_into().ok()).unwrap_or(config.max_connections);
    let idle = table.get("idle_timeout").and_then(|item| idle_timeout(&item));
    config.idle_timeout = idle.unwrap_or(config.idle_timeout);
}

fn socket_mode(item: &Item<'_>) -> Option<u32> {
    let expected = "an octal mode in quotes, from \"0000\" to \"0777\", such as \"0660\"";
    let text = item.text(expected)?;
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    if mode.is_none() {
        item.must_be(expected);
    }
    mode
}

fn group(item: &Item<'_>) -> Option<String> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"._-$".contains(&b);
    // 32: the bound of useradd(8) and groupadd(8).
    matching(item, "the name of a group, such as \"postfix\"", 32, is_name)
}

fn idle_timeout(item: &Item<'_>) -> Option<Duration> {
    let idle = words::span(item)?;
    if (MIN_IDLE..=MAX_IDLE).contains(&idle) {
        return Some(idle);
    }
    item.must_be(&format!(
        "from \"{}\" to \"1d\": Postfix keeps an idle connection for 300 s and must be the one to close it",
        span_text(MIN_IDLE)
    ));
    None
}

fn milter(table: &mut Table<'_>, sockets: &mut Sockets) -> Milter {
    let named = ["listen", "listen_local"].map(|key| table.get(key).filter(|item| !item.is_empty_list()));
    if named.iter().all(Option::is_none) {
        table.warn("[milter] has neither listen nor listen_local, so no message is stamped; add a line such as listen = [\"unix:/var/spool/postfix/gatepost/milter.sock\"]");
    }
    let [listen, listen_local] = named.map(|item| item.map(|item| sockets.all(&item)).unwrap_or_default());
    let header = table.get("correlation_header").and_then(|item| {
        let is_header = |b: u8| b.is_ascii_graphic() && b != b':';
        let expected = "the name of a header, such as \"X-Correlation-ID\"";
        let name = matching(&item, expected, 64, is_header)?;
        let lower = name.to_ascii_lowercase();
        if STANDARD_HEADERS.contains(&lower.as_str()) || lower.starts_with("x-ses-") || lower == "to" {
            item.problem(format!(
                "milter.correlation_header {} has a meaning of its own, and would be taken out of every message; \
                 choose one that nobody else uses, such as \"X-Correlation-ID\"",
                quoted(&name)
            ));
            return None;
        }
        Some(name)
    });
    let set = table.get("ses_configuration_set").and_then(|item| {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        matching(&item, "the name of an SES configuration set: 1 to 64 letters, digits, \"_\" or \"-\"", 64, is_plain)
    });
    let most = table
        .get("max_connections")
        .and_then(|item| item.number(10..=1_000_000, "Postfix has one for each smtpd process"));
    let networks = table.get("trusted_networks").and_then(|item| item.list("a list such as [\"10.0.0.0/16\"]"));
    Milter {
        listen,
        listen_local,
        correlation_header: header.unwrap_or_else(|| super::DEFAULT_CORRELATION_HEADER.into()),
        ses_configuration_set: set,
        trusted_networks: networks.unwrap_or_default().iter().filter_map(words::network).collect(),
        bounce_sender: table.get("bounce_sender").and_then(|item| address(&item)),
        max_connections: most.and_then(|n| n.try_into().ok()).unwrap_or(DEFAULT_SESSIONS),
    }
}

fn address(item: &Item<'_>) -> Option<Address> {
    let text = item.text("an address such as \"bounces@example.com\"")?;
    Address::parse(text).map_err(|e| item.problem(format!("{} {}: {e}", item.path(), quoted(text)))).ok()
}

fn matching(item: &Item<'_>, expected: &str, max_bytes: usize, wanted: impl Fn(u8) -> bool) -> Option<String> {
    let text = item.text(expected)?;
    if text.is_empty() || text.len() > max_bytes || !text.bytes().all(wanted) {
        item.must_be(expected);
        return None;
    }
    Some(text.to_owned())
}

/// The store of a fleet that `item` names; `None`, and a problem, where the address is wrong.
fn store_url(item: &Item<'_>, text: &str) -> Option<StoreUrl> {
    text.parse().map_err(|e| item.problem(format!("{} {e}", item.path()))).ok()
}

fn suppression_store(table: &mut Table<'_>, config: &mut Config) {
    let Some(item) = table.get("store") else { return };
    let expected = "\"sqlite:\" and an absolute path, such as \"sqlite:/var/lib/gatepost/gatepost.db\", or the store of a \
                    fleet, such as \"redis://valkey.internal:6379/0\"";
    let Some(text) = item.text(expected) else { return };
    if StoreUrl::is_meant(text) {
        config.fleet.suppression = store_url(&item, text);
        return;
    }
    match text.strip_prefix("sqlite:").filter(|path| is_file_path(path)) {
        Some(path) => config.suppression_store = path.into(),
        None => item.must_be(expected),
    }
}

fn limits(table: &mut Table<'_>, config: &mut Config) {
    let expected = "\"local\", or the store of a fleet, such as \"redis://valkey.internal:6379/0\"";
    if let Some(item) = table.get("store")
        && let Some(text) = item.text(expected)
    {
        match text {
            "local" => {}
            text if StoreUrl::is_meant(text) => config.fleet.limits = store_url(&item, text),
            _ => item.must_be(expected),
        }
    }
    let most = table.get("max_keys").and_then(|item| item.number(1000..=50_000_000, "each takes about 100 bytes"));
    config.max_keys = most.and_then(|n| n.try_into().ok()).unwrap_or(config.max_keys);
}

fn fleet(table: &mut Table<'_>, fleet: &mut Fleet) {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let expected = "the name of this relay: 1 to 253 letters, digits, \".\", \"_\" or \"-\"";
    fleet.name = table.get("name").and_then(|item| matching(&item, expected, MAX_NAME_BYTES, is_word));
    let expected = "a word of at most 64 letters, digits, \".\", \"_\" or \"-\"";
    if let Some(namespace) = table.get("namespace").and_then(|item| matching(&item, expected, 64, is_word)) {
        fleet.namespace = namespace;
    }
    fleet.ca_file = table.get("ca_file").and_then(|item| absolute(&item, "/etc/gatepost/valkey-ca.pem"));
}

fn events(table: &mut Table<'_>) -> Option<Events> {
    let source = table.require("source", "source = \"sqs\"").and_then(|i| i.choice(&[("sqs", true), ("spool", false)]));
    let urls = table.get("queue_url");
    let spool = table.get("spool_dir");
    let accounts = match table.get("accounts") {
        Some(item) => accounts(&item),
        None => {
            table.warn("[events] has no accounts, so events of every account are taken, from whoever may write to the queue; name yours, such as accounts = [\"123456789012\"]");
            Vec::new()
        }
    };
    let urls = urls.map(|item| queue_urls(&item));
    let spool = spool.map(|item| absolute(&item, "/var/lib/gatepost/spool"));
    let source = if source? {
        if urls.is_none() {
            table.problem("[events] has source \"sqs\" but no queue_url; add a line such as queue_url = \"https://sqs.eu-west-1.amazonaws.com/123456789012/ses-events-queue\"");
        }
        EventSource::Sqs(urls?)
    } else {
        if spool.is_none() {
            table.problem("[events] has source \"spool\" but no spool_dir; add a line such as spool_dir = \"/var/lib/gatepost/spool\"");
        }
        EventSource::Spool(spool??)
    };
    Some(Events { source, accounts })
}

fn queue_urls(item: &Item<'_>) -> Vec<String> {
    let expected = "the URL of a queue, such as \"https://sqs.eu-west-1.amazonaws.com/123456789012/ses-events-queue\"";
    let entries = item.list_or_one(expected).unwrap_or_default();
    if item.is_empty_list() {
        item.problem("events.queue_url is empty; name at least one queue");
    }
    if entries.len() > MAX_QUEUES {
        item.problem(format!("events.queue_url names {} queues; at most {MAX_QUEUES} are polled", entries.len()));
    }
    let url = |entry: &Item<'_>| {
        let text = entry.text(expected)?;
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        // host/account/queue
        let is_url = rest.is_some_and(|rest| rest.split('/').filter(|part| !part.is_empty()).count() >= 3);
        if !is_url || text.len() > 1024 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            entry.must_be(expected);
            return None;
        }
        Some(text.to_owned())
    };
    entries.iter().filter_map(url).collect()
}

fn accounts(item: &Item<'_>) -> Vec<String> {
    let expected = "an AWS account of 12 digits in quotes, such as \"123456789012\"";
    let account = |entry: &Item<'_>| {
        let text = entry.text(expected)?;
        if text.len() != 12 || !text.bytes().all(|b| b.is_ascii_digit()) {
            entry.must_be(expected);
        }
        Some(text.to_owned())
    };
    let entries = item.list("a list such as [\"123456789012\"]").unwrap_or_default();
    if item.is_empty_list() {
        item.problem("events.accounts is empty; name at least one account, or take the line out to take events of all");
    }
    entries.iter().filter_map(account).collect()
}

fn event_log(table: &mut Table<'_>) -> Option<Output> {
    let item = table.get("output")?;
    let expected = "\"syslog\", \"stdout\", or \"file:\" and an absolute path";
    let found = match item.text(expected)? {
        "syslog" => Some(Output::Syslog),
        "stdout" => Some(Output::Stdout),
        other => other.strip_prefix("file:").filter(|path| is_file_path(path)).map(|path| Output::File(path.into())),
    };
    if found.is_none() {
        item.must_be(expected);
    }
    found
}

fn admin(table: &mut Table<'_>, sockets: &mut Sockets) -> Vec<Endpoint> {
    let Some(item) = table.require("listen", "listen = [\"unix:/run/gatepost/admin.sock\"]") else { return Vec::new() };
    let listen = sockets.all(&item);
    for public in listen.iter().filter(|endpoint| !is_local(endpoint)) {
        item.warn(format!(
            "admin.listen \"{public}\": other machines can read the metrics there; use 127.0.0.1 unless a firewall stands before it"
        ));
    }
    listen
}

fn logs(table: &mut Table<'_>) -> Logs {
    let journal = table.get("journal").and_then(|item| item.boolean()).unwrap_or_default();
    let example = "paths = [\"/var/log/mail.log*\"], or journal = true";
    let paths = if journal { table.get("paths") } else { table.require("paths", example) };
    let Some(paths) = paths else { return Logs { paths: Vec::new(), journal } };
    let entries = paths.list("a list such as [\"/var/log/mail.log*\"]").unwrap_or_default();
    if paths.is_empty_list() && !journal {
        paths.problem("logs.paths is empty; name at least one log, or the journal by journal = true");
    }
    Logs { paths: entries.iter().filter_map(log_path).collect(), journal }
}

fn log_path(entry: &Item<'_>) -> Option<String> {
    let path = absolute(entry, "/var/log/mail.log*")?.to_str()?.to_owned();
    if let Err(e) = glob::check(&path) {
        entry.problem(format!("{} {}: {}, at character {}", entry.path(), quoted(&path), e.msg, e.pos + 1));
        return None;
    }
    Some(path)
}

/// A file or folder; relative ones would depend on where the daemon was started.
fn absolute(item: &Item<'_>, example: &str) -> Option<PathBuf> {
    let expected = format!("an absolute path such as \"{example}\"");
    let text = item.text(&expected)?;
    if !text.starts_with('/') || text.contains('\0') {
        item.must_be(&expected);
        return None;
    }
    Some(text.into())
}

fn is_file_path(path: &str) -> bool {
    path.starts_with('/') && !path.ends_with('/') && !path.contains('\0')
}

/// The addresses of all sections: each can be listened on once.
#[derive(Default)]
struct Sockets {
    lines: HashMap<Endpoint, u32>,
}

impl Sockets {
    /// One address, or a list of them.
    fn all(&mut self, item: &Item<'_>) -> Vec<Endpoint> {
        let expected =
            "an address such as \"unix:/run/gatepost/x.sock\" or \"inet:127.0.0.1:10031\", or a list of them";
        let entries = item.list_or_one(expected).unwrap_or_default();
        entries.iter().filter_map(|entry| self.one(entry)).collect()
    }

    fn one(&mut self, item: &Item<'_>) -> Option<Endpoint> {
        let text = item.text("an address such as \"unix:/run/gatepost/x.sock\" or \"inet:127.0.0.1:10031\"")?;
        let listen: Endpoint = match text.parse() {
            Ok(listen) => listen,
            Err(e) => {
                item.problem(format!("{} {}: {e}", item.path(), quoted(text)));
                return None;
            }
        };
        if let Some(line) = self.lines.insert(listen.clone(), item.line()) {
            item.problem(format!("{} {} is taken in line {line}; each address serves once", item.path(), quoted(text)));
        }
        Some(listen)
    }
}

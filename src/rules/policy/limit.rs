//! `[[limit]]` and its overrides.

use super::{Count, KeyKind, Limit, Overrides, parse::MODES, words};
use crate::mail::{Address, ReplyCode};
use crate::rules::rate::Quota;
use crate::rules::toml_walk::{Item, Table, quoted};
use ipnet::IpNet;
use std::collections::HashMap;
use std::sync::Arc;

/// The most limits of a policy: every message is charged to each of them.
pub const MAX_LIMITS: usize = 64;

/// The most network overrides of a limit: a client is held against them one by one.
pub const MAX_OVERRIDES: usize = 1000;

/// Long enough to speak, short enough for a reply and a metric's label.
const MAX_NAME_BYTES: usize = 64;

/// By which prefix IPv6 clients count: a customer has a /64 (RFC 6177), so single addresses are free.
const IPV6_PREFIX: u8 = 64;

const KEYS: [(&str, KeyKind); 7] = [
    ("client_address", KeyKind::ClientAddress),
    ("client_network", KeyKind::ClientNetwork),
    ("sasl_username", KeyKind::SaslUsername),
    ("sender", KeyKind::Sender),
    ("sender_domain", KeyKind::SenderDomain),
    ("recipient_domain", KeyKind::RecipientDomain),
    ("all", KeyKind::All),
];

const RATE: &str = "a rate such as \"100/min burst 200\", or \"unlimited\"";

impl KeyKind {
    /// The word in policy.toml.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        KEYS.iter().find(|(_, key)| *key == self).map_or("", |(word, _)| word)
    }

    fn is_client(self) -> bool {
        matches!(self, Self::ClientAddress | Self::ClientNetwork)
    }
}

/// Reads all limits; those that are wrong are left out.
pub(super) fn read_all(item: &Item<'_>) -> Vec<Arc<Limit>> {
    let mut limits: Vec<Arc<Limit>> = Vec::new();
    let tables = item.list("written as [[limit]], once for each limit").unwrap_or_default();
    for (i, one) in tables.iter().enumerate() {
        if i == MAX_LIMITS {
            one.problem(format!("more than {MAX_LIMITS} limits, and every message is charged to each; use fewer"));
            break;
        }
        one.table(|table| limits.extend(limit(table, &limits).map(Arc::new)));
    }
    limits
}

fn limit(table: &mut Table<'_>, before: &[Arc<Limit>]) -> Option<Limit> {
    let name = table.require("name", "name = \"per-client\"").and_then(|item| name(&item, before));
    let key = table.require("key", "key = \"client_address\"").and_then(|item| item.choice(&KEYS));
    let count = table
        .get("count")
        .map(|i| i.choice(&[Count::Messages, Count::Recipients].map(|count| (count.as_str(), count))));
    let rate = table.require("rate", "rate = \"100/min burst 200\"").and_then(|item| quota(&item));
    let mode = table.get("mode").map(|item| item.choice(&MODES));
    let reply = table.get("reply").map(|item| reply(&item));
    let ipv6_prefix = table.get("ipv6_prefix").map(|item| ipv6_prefix(&item, key));
    let overrides = table.get("override").map(|item| overrides(&item, key, ipv6_prefix.flatten()));
    Some(Limit {
        name: name?,
        key: key?,
        count: count.unwrap_or(Some(Count::default()))?,
        rate: rate?,
        mode: mode.unwrap_or(Some(super::Mode::Enforce))?,
        reply: reply.unwrap_or(Some(ReplyCode::SLOW_DOWN))?,
        overrides: overrides.unwrap_or_default(),
        line: table.line(),
        ipv6_prefix: ipv6_prefix.unwrap_or(Some(IPV6_PREFIX))?,
    })
}

fn name(item: &Item<'_>, before: &[Arc<Limit>]) -> Option<String> {
    let expected =
        format!("text of 1 to {MAX_NAME_BYTES} letters, digits, \".\", \"_\" or \"-\", such as \"per-client\"");
    let text = item.text(&expected)?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(is_plain) {
        item.must_be(&expected);
        return None;
    }
    if let Some(other) = before.iter().find(|limit| limit.name == text) {
        item.problem(format!(
            "limit.name {} is taken by the limit in line {}; choose another",
            quoted(text),
            other.line
        ));
        return None;
    }
    Some(text.to_owned())
}

fn quota(item: &Item<'_>) -> Option<Quota> {
    item.timed(RATE, str::parse)
}

fn reply(item: &Item<'_>) -> Option<ReplyCode> {
    let text = item.text("text such as \"450 4.7.1\"")?;
    text.parse().map_err(|e| item.problem(format!("limit.reply {}: {e}", quoted(text)))).ok()
}

fn ipv6_prefix(item: &Item<'_>, key: Option<KeyKind>) -> Option<u8> {
    if let Some(key) = key.filter(|key| !key.is_client()) {
        item.problem(format!(
            "limit.ipv6_prefix is for client keys only; key \"{}\" has none, strike it",
            key.as_str()
        ));
        return None;
    }
    item.number(1..=128, "bits of an IPv6 address").and_then(|n| u8::try_from(n).ok())
}

fn overrides(item: &Item<'_>, key: Option<KeyKind>, ipv6_prefix: Option<u8>) -> Overrides {
    let mut reader = Reader { key, ipv6_prefix: ipv6_prefix.unwrap_or(IPV6_PREFIX), ..Reader::default() };
    item.table(|table| {
        for (text, key_item, value) in table.entries() {
            let quota = quota(&value);
            reader.entry(text, &key_item, quota);
        }
    });
    let mut networks: Vec<_> = reader.networks.into_iter().map(|(net, (quota, _))| (net, quota)).collect();
    networks.sort_by_key(|(net, _)| (std::cmp::Reverse(net.prefix_len()), *net));
    Overrides { networks, texts: reader.texts.into_iter().map(|(text, (quota, _))| (text, quota)).collect() }
}

/// The overrides read so far, each with its line. A wrong quota counts as unlimited here: the file
/// is refused anyway.
#[derive(Default)]
struct Reader {
    key: Option<KeyKind>,
    ipv6_prefix: u8,
    networks: HashMap<IpNet, (Quota, u32)>,
    texts: HashMap<Box<[u8]>, (Quota, u32)>,
}

impl Reader {
    fn entry(&mut self, text: &str, item: &Item<'_>, quota: Option<Quota>) {
        // Without a key nothing can be said about the text.
        let Some(key) = self.key else { return };
        let quota = quota.unwrap_or(Quota::Unlimited);
        match key {
            KeyKind::ClientAddress | KeyKind::ClientNetwork => self.network(text, item, quota),
            KeyKind::All => item.problem("a limit with key \"all\" has one counter and takes no overrides; strike it"),
            _ => match text_key(key, text) {
                Ok(canonical) => self.text(text, canonical, item, quota),
                Err(message) => item.problem(format!("override {}: {message}", quoted(text))),
            },
        }
    }

    fn text(&mut self, text: &str, canonical: Box<[u8]>, item: &Item<'_>, quota: Quota) {
        if let Some((_, line)) = self.texts.insert(canonical, (quota, item.line())) {
            item.problem(format!("override {} stands in line {line} already; keep one of them", quoted(text)));
        }
    }

    fn network(&mut self, text: &str, item: &Item<'_>, quota: Quota) {
        let net = match words::parse_network(text) {
            Ok(net) => net,
            Err(e) => return item.problem(format!("override {}", e.message(text))),
        };
        if self.networks.len() == MAX_OVERRIDES {
            item.problem(format!(
                "more than {MAX_OVERRIDES} networks are overridden in one limit; join some to larger ones"
            ));
        }
        if let Some((_, line)) = self.networks.insert(net, (quota, item.line())) {
            item.problem(format!("override {} is the network of line {line} again; keep one of them", quoted(text)));
        }
        let counted = match (&net, self.key) {
            (IpNet::V6(_), _) => self.ipv6_prefix,
            (IpNet::V4(_), Some(KeyKind::ClientNetwork)) => 24,
            (IpNet::V4(_), _) => 32,
        };
        if net.prefix_len() > counted {
            item.warn(format!(
                "override {} is narrower than the /{counted} by which this limit counts: it shares its counter with the rest of it",
                quoted(text)
            ));
        }
    }
}

fn text_key(key: KeyKind, text: &str) -> Result<Box<[u8]>, String> {
    let canonical = match key {
        KeyKind::Sender => Address::parse(text)
            .map(|address| address.as_str().to_owned())
            .map_err(|e| format!("{e}; write a whole address such as \"info@example.com\""))?,
        KeyKind::SenderDomain | KeyKind::RecipientDomain => {
            words::parse_domain(text).map_err(|_| "no domain; write one such as \"example.com\"".to_owned())?
        }
        _ if text.is_empty() => return Err("empty; write a login name".into()),
        _ => text.to_owned(),
    };
    Ok(canonical.into_bytes().into())
}

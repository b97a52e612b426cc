//! `policy.toml`: limits, modes, what suppresses. The types and their defaults; [`parse()`] reads
//! them from the file.

mod limit;
mod parse;
#[cfg(test)]
mod tests;
pub(crate) mod words;

pub use limit::{MAX_LIMITS, MAX_OVERRIDES};
pub use parse::{parse, salvage};

use super::{Mode, Quota, Rate};
use crate::mail::{Canonical, ReplyCode};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// All that `policy.toml` says; a missing file says the default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// `senders.mode`.
    pub senders: Mode,
    /// `recipients.mode`, where it is written: then `allowed_recipients` must be there.
    pub recipients: Option<Mode>,
    /// `[suppression]`.
    pub suppression: SuppressionRules,
    /// `[local]`.
    pub local: LocalRules,
    /// `[[limit]]`, in the order of the file.
    pub limits: Vec<Arc<Limit>>,
}

/// One `[[limit]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Unique in the file.
    pub name: String,
    /// What is counted apart.
    pub key: KeyKind,
    /// Messages or recipients.
    pub count: Count,
    /// For keys without an override.
    pub rate: Quota,
    /// Enforce or observe or off.
    pub mode: Mode,
    /// The codes of the refusal.
    pub reply: ReplyCode,
    /// Other quotas for some keys.
    pub overrides: Overrides,
    /// The line of `[[limit]]` in policy.toml, from 1.
    pub line: u32,
    /// IPv6 prefix length by which `client_address` counts (64 unless told otherwise).
    pub ipv6_prefix: u8,
}

/// What a limit counts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The client's address; IPv6 by /64 unless told otherwise.
    ClientAddress,
    /// The client's network: IPv4 by /24, IPv6 by /64.
    ClientNetwork,
    /// The SASL user.
    SaslUsername,
    /// The envelope sender.
    Sender,
    /// Its domain.
    SenderDomain,
    /// The domain of each recipient.
    RecipientDomain,
    /// Everything together.
    All,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Count {
    /// One a message.
    #[default]
    Messages,
    /// One a recipient.
    Recipients,
}

impl Count {
    /// The word in policy.toml.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Recipients => "recipients",
        }
    }
}

/// Quotas of single keys, which stand before the limit's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Networks, for client keys: the longest prefix wins. Sorted by falling prefix length.
    pub networks: Vec<(ipnet::IpNet, Quota)>,
    /// Canonical texts, for the other keys.
    pub texts: std::collections::HashMap<Box<[u8]>, Quota>,
}

impl Limit {
    /// The quota of a client address.
    #[must_use]
    pub fn quota_of_client(&self, client: IpAddr) -> Quota {
        self.overrides.networks.iter().find(|(net, _)| net.contains(&client)).map_or(self.rate, |(_, q)| *q)
    }

    /// The quota of a canonical text key.
    #[must_use]
    pub fn quota_of_text(&self, key: &[u8]) -> Quota {
        if self.overrides.texts.is_empty() {
            return self.rate;
        }
        self.overrides.texts.get(key).copied().unwrap_or(self.rate)
    }
}

/// `[suppression]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SuppressionRules {
    /// Enforce, observe or off.
    pub mode: Mode,
    /// Refuse at RCPT, or drop in the milter.
    pub action: DropOrRefuse,
    /// More new entries from events than this are recorded, not enforced.
    pub brake: Option<Rate>,
    /// Addresses (`a@d`), or domains, that are never refused. Canonical.
    pub exempt_recipients: Exempt,
    /// Senders whose mail is never refused for a suppressed recipient.
    pub exempt_senders: Exempt,
    /// `permanent_bounce`.
    pub permanent_bounce: Ttl,
    /// `global_list`.
    pub global_list: Ttl,
    /// `complaint`.
    pub complaint: Ttl,
    /// `complaint.candidates = "one"`: a complaint with several candidates suppresses nobody.
    pub complaint_needs_one_candidate: bool,
    /// `mailbox_full`.
    pub mailbox_full: MailboxFull,
}

impl Default for SuppressionRules {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            action: DropOrRefuse::Refuse,
            brake: None,
            exempt_recipients: Exempt::default(),
            exempt_senders: Exempt::default(),
            permanent_bounce: Ttl::Never,
            // SES's own list forgets after at most 14 days too.
            global_list: Ttl::For(DAY.saturating_mul(14)),
            complaint: Ttl::Never,
            complaint_needs_one_candidate: true,
            mailbox_full: MailboxFull { count: 5, within: DAY.saturating_mul(7), ttl: Ttl::For(DAY.saturating_mul(3)) },
        }
    }
}

const DAY: Duration = Duration::from_secs(86_400);

/// A set of canonical addresses and domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// Whole addresses.
    pub addresses: HashSet<Box<[u8]>>,
    /// Whole domains.
    pub domains: HashSet<Box<[u8]>>,
}

impl Exempt {
    /// Whether the address or its domain is in the set.
    #[must_use]
    pub fn contains(&self, address: &Canonical) -> bool {
        (!self.addresses.is_empty() && self.addresses.contains(address.as_bytes()))
            || (!self.domains.is_empty() && self.domains.contains(address.domain()))
    }
}

/// `refuse` or `drop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DropOrRefuse {
    /// 550 at RCPT.
    #[default]
    Refuse,
    /// The milter takes the recipient out; the delegation server passes it.
    Drop,
}

/// How long an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Until an operator removes it.
    Never,
    /// This long.
    For(Duration),
}

/// `mailbox_full = { count, within, ttl }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxFull {
    /// So many events…
    pub count: u32,
    /// …within so long…
    pub within: Duration,
    /// …suppress for so long.
    pub ttl: Ttl,
}

/// `[local]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalRules {
    /// What becomes of sendmail(1) mail of an unlisted sender.
    pub unlisted: Unlisted,
}

/// `hold`, `bounce` or `discard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// Postfix's hold queue.
    #[default]
    Hold,
    /// Back to the sender.
    Bounce,
    /// Dropped, with a log line.
    Discard,
}

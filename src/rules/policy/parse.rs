//! `policy.toml` into [`Policy`], or every problem in it.

use super::{DropOrRefuse, Exempt, LocalRules, MailboxFull, Policy, SuppressionRules, Ttl, Unlisted, limit, words};
use crate::mail::Address;
use crate::rules::rate::{Quota, Rate};
use crate::rules::toml_walk::{Item, Table, quoted, walk};
use crate::rules::{Mode, Problem, problem};
use std::path::Path;

/// The most soft bounces that may be asked for before a full mailbox suppresses; the store keeps
/// each of them until then.
const MAX_SOFT_COUNT: u64 = 1000;

/// The words of a mode.
pub(super) const MODES: [(&str, Mode); 3] =
    [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)];

const TTL: &str = "a time such as \"14d\", or \"never\"";

/// Reads `policy.toml`; `file` only names it in problems. Pure.
///
/// # Errors
/// Every problem of the file, and its warnings, in the order of its lines.
pub fn parse(file: &Path, text: &[u8]) -> Result<(Policy, Vec<Problem>), Vec<Problem>> {
    let (policy, findings) = salvage(file, text);
    problem::accept(policy, findings)
}

/// Reads what can be read, with everything that was found: what is wrong stands at its default.
#[must_use]
pub fn salvage(file: &Path, text: &[u8]) -> (Policy, Vec<Problem>) {
    let (policy, findings) = walk(file, text, policy);
    (policy.unwrap_or_default(), findings)
}

fn policy(root: &mut Table<'_>) -> Policy {
    let mode = |table: &mut Table<'_>| table.get("mode").and_then(|item| item.choice(&MODES));
    let senders = root.section("senders", mode).flatten();
    let recipients = root.section("recipients", mode).flatten();
    let suppression = root.section("suppression", suppression);
    let local = root.section("local", |table| {
        let words = [("hold", Unlisted::Hold), ("bounce", Unlisted::Bounce), ("discard", Unlisted::Discard)];
        LocalRules { unlisted: table.get("unlisted").and_then(|item| item.choice(&words)).unwrap_or_default() }
    });
    Policy {
        senders: senders.unwrap_or_default(),
        recipients,
        suppression: suppression.unwrap_or_default(),
        local: local.unwrap_or_default(),
        limits: root.get("limit").map(|item| limit::read_all(&item)).unwrap_or_default(),
    }
}

fn suppression(table: &mut Table<'_>) -> SuppressionRules {
    let mut rules = SuppressionRules::default();
    if let Some(mode) = table.get("mode").and_then(|item| item.choice(&MODES)) {
        rules.mode = mode;
    }
    if let Some(item) = table.get("action") {
        rules.action = action(&item).unwrap_or_default();
    }
    rules.brake = table.get("brake").and_then(|item| brake(&item)).flatten();
    rules.exempt_recipients = table.get("exempt_recipients").map(|item| exempt(&item)).unwrap_or_default();
    rules.exempt_senders = table.get("exempt_senders").map(|item| exempt(&item)).unwrap_or_default();
    set(&mut rules.permanent_bounce, table.section("permanent_bounce", ttl).flatten());
    set(&mut rules.global_list, table.section("global_list", ttl).flatten());
    table.section("complaint", |table| {
        set(&mut rules.complaint, ttl(table));
        let words = [("one", true), ("all", false)];
        set(&mut rules.complaint_needs_one_candidate, table.get("candidates").and_then(|item| item.choice(&words)));
    });
    table.section("mailbox_full", |table| mailbox_full(table, &mut rules.mailbox_full));
    rules
}

fn set<T>(value: &mut T, read: Option<T>) {
    if let Some(read) = read {
        *value = read;
    }
}

fn action(item: &Item<'_>) -> Option<DropOrRefuse> {
    item.choice(&[("refuse", DropOrRefuse::Refuse), ("drop", DropOrRefuse::Drop)])
}

/// `Some(None)`: no brake.
fn brake(item: &Item<'_>) -> Option<Option<Rate>> {
    let expected = "a rate such as \"500/h\", or \"off\"";
    if item.text(expected)? == "off" {
        return Some(None);
    }
    match item.timed(expected, str::parse::<Quota>)? {
        Quota::Limited(rate) => Some(Some(rate)),
        Quota::Unlimited => {
            item.must_be(expected);
            None
        }
    }
}

fn ttl(table: &mut Table<'_>) -> Option<Ttl> {
    table.get("ttl")?.timed(TTL, words::parse_ttl)
}

fn mailbox_full(table: &mut Table<'_>, rule: &mut MailboxFull) {
    let count = table.get("count").and_then(|item| item.number(1..=MAX_SOFT_COUNT, "")).and_then(|n| n.try_into().ok());
    set(&mut rule.count, count);
    set(&mut rule.within, table.get("within").and_then(|item| words::span(&item)));
    set(&mut rule.ttl, ttl(table));
}

fn exempt(item: &Item<'_>) -> Exempt {
    let mut all = Exempt::default();
    for entry in item.list("a list such as [\"postmaster@example.com\", \"example.org\"]").unwrap_or_default() {
        let Some(text) = entry.text("text such as \"postmaster@example.com\" or \"example.org\"") else { continue };
        if text.contains('@') && !text.starts_with('@') {
            match Address::parse(text) {
                Ok(address) => {
                    all.addresses.insert(address.as_str().as_bytes().into());
                }
                Err(e) => entry.problem(format!("{} {}: {e}", entry.path(), quoted(text))),
            }
        } else {
            match words::parse_domain(text) {
                Ok(domain) => {
                    all.domains.insert(domain.into_bytes().into());
                }
                Err(_) => {
                    entry.must_be("an address such as \"postmaster@example.com\" or a domain such as \"example.org\"")
                }
            }
        }
    }
    all
}

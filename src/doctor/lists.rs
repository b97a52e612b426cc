//! The three lists of restrictions: each check of gatepost's is in its own, first or last as it must be, with the settings
//! that the snippets ship; and nobody else may relay.

use super::catalogue as c;
use super::finding::{Check, Fault, Report, Verdict};
use super::postconf::Postfix;
use super::restrictions::{Element, POLICY_SERVICE, Service, restrictions, written};
use super::site::{Site, is_same, resolve, seconds};
use crate::daemon::config::Config;
use crate::rules::{KeyKind, Mode, Rules};

/// The lines that the snippets ship: what a missing check is to look like.
const SHIPPED: &str = include_str!("../../postfix-snippets/main.cf.gatepost");

/// Longer than this, a stuck gatepost costs every session too much; the snippets have 5 s.
const MAX_TIMEOUT: u64 = 10;

/// A list, and gatepost's check in it.
#[derive(Clone, Copy, Debug)]
struct List {
    param: &'static str,
    context: &'static str,
    /// Whether a second try is worth a second (snippets, `try_limit`).
    tries_again: bool,
}

const SENDERS: List = List { param: "smtpd_sender_restrictions", context: "sender", tries_again: true };
const RECIPIENTS: List = List { param: "smtpd_recipient_restrictions", context: "recipient", tries_again: false };
const LIMITS: List = List { param: "smtpd_data_restrictions", context: "data", tries_again: true };

/// The checks that are made of each list.
const CHECKS: [Check; 11] = [
    c::CHECK_MISSING,
    c::CHECK_BYPASSED,
    c::CHECK_WARN_ONLY,
    c::CLOSING_REJECT,
    c::LIMITS_NOT_LAST,
    c::CHECK_CONTEXT,
    c::POLICY_ADDRESS,
    c::CHROOT_PATH,
    c::DEFAULT_ACTION,
    c::POLICY_TIMEOUT,
    c::POLICY_TRY_LIMIT,
];

/// Looks at the lists of main.cf, and at those of services that have their own.
pub(super) fn check(site: &Site, postfix: &Postfix, report: &mut Report) {
    report.add(c::RELAY_RESTRICTIONS, relay(postfix));
    let wanted: Vec<List> =
        [SENDERS, RECIPIENTS, LIMITS].into_iter().filter(|list| is_needed(list, site.rules.as_ref())).collect();
    let chroot = postfix.smtpd().any(|service| service.chroot);
    let mut found = Vec::new();
    for list in &wanted {
        examine(list, postfix.get(list.param), chroot, site, postfix, &mut found);
    }
    for check in CHECKS {
        let of_check = found.iter().filter(|(other, _)| *other == check).map(|(_, fault)| fault.clone());
        report.add(check, of_check.collect::<Vec<_>>());
    }
    report.add(c::SERVICE_OVERRIDE, overrides(&wanted, site, postfix));
}

/// The service that asks for senders, where there is one.
pub(super) fn sender_check(site: &Site, postfix: &Postfix) -> Option<Service> {
    let elements = read(postfix.get(SENDERS.param), postfix);
    let (_, service) = ours(&SENDERS, &elements, &site.config, postfix)?;
    Some(service.clone())
}

/// The lines of a setting as the snippets ship them.
pub(super) fn shipped(param: &str) -> String {
    setting(SHIPPED, param)
}

/// The lines of a setting of a snippet.
pub(super) fn setting(snippet: &str, param: &str) -> String {
    let is_of = |line: &&str| !line.starts_with('#') && !line.trim().is_empty();
    let mut lines = snippet.lines().filter(is_of).skip_while(|line| !line.starts_with(param));
    let first = lines.next().unwrap_or_default();
    let rest = lines.take_while(|line| line.starts_with(' '));
    [first].into_iter().chain(rest).collect::<Vec<_>>().join("\n")
}

fn is_needed(list: &List, rules: Option<&Rules>) -> bool {
    // Whose policy has problems is told so; what it will want is most likely everything.
    let Some(rules) = rules else { return true };
    let domains = rules.limits.iter().any(|limit| limit.key == KeyKind::RecipientDomain && limit.mode != Mode::Off);
    match list.context {
        "sender" => rules.senders.mode != Mode::Off,
        "recipient" => rules.suppression.mode != Mode::Off || rules.recipients.list.is_some() || domains,
        _ => rules.limits.iter().any(|limit| limit.mode != Mode::Off),
    }
}

fn read(text: &str, postfix: &Postfix) -> Vec<Element> {
    restrictions(text, &|name| postfix.class(name))
}

/// Where gatepost's check stands in a list. By its address; else by what names it.
fn ours<'e>(list: &List, elements: &'e [Element], config: &Config, postfix: &Postfix) -> Option<(usize, &'e Service)> {
    let services = || {
        elements.iter().enumerate().filter_map(|(at, element)| match element {
            Element::Service(service) if at > 0 && elements[at - 1].word() == POLICY_SERVICE => Some((at, service)),
            _ => None,
        })
    };
    let is_context = |service: &Service| service.settings.get("policy_context").is_some_and(|c| c == list.context);
    let answers = |service: &Service| [false, true].iter().any(|chroot| is_answered(service, *chroot, config, postfix));
    let ranks: [&dyn Fn(&Service) -> bool; 4] = [
        &|service| answers(service) && is_context(service),
        &|service| answers(service),
        &|service| is_context(service),
        &|service| service.address.contains("gatepost"),
    ];
    ranks.iter().find_map(|fits| services().find(|(_, service)| fits(service)))
}

/// Whether gatepost listens where the service is looked for.
fn is_answered(service: &Service, chroot: bool, config: &Config, postfix: &Postfix) -> bool {
    let asked = resolve(&service.address, &postfix.queue(), chroot);
    asked.is_some_and(|asked| config.delegation_listen.iter().any(|listen| is_same(listen, &asked)))
}

/// Everything that is wrong with one list.
fn examine(list: &List, text: &str, chroot: bool, site: &Site, postfix: &Postfix, found: &mut Vec<(Check, Fault)>) {
    let elements = read(text, postfix);
    let Some((at, service)) = ours(list, &elements, &site.config, postfix) else {
        let what = format!("{}: gatepost is not asked (policy_context={})", list.param, list.context);
        found.push((c::CHECK_MISSING, Fault::new(what, shipped(list.param))));
        return;
    };
    let (before, after) = (&elements[..at - 1], &elements[at + 1..]);
    let (check, others) = (&elements[at - 1..=at], || before.iter().chain(after).cloned());
    order(list, before, check, others().collect(), found);
    behind(list, before, after, check, found);
    settings(list, service, site, postfix, found);
    address(list, service, chroot, site, postfix, found);
}

/// What stands before the check.
fn order(list: &List, before: &[Element], check: &[Element], others: Vec<Element>, found: &mut Vec<(Check, Fault)>) {
    let param = list.param;
    let rest: Vec<Element> = others.iter().filter(|e| e.word() != "warn_if_reject").cloned().collect();
    let first = [check, &rest[..]].concat();
    if before.last().is_some_and(|element| element.word() == "warn_if_reject") {
        let what = format!("{param}: warn_if_reject stands before gatepost's check");
        found.push((c::CHECK_WARN_ONLY, Fault::new(what, format!("{param} = {}", written(&first)))));
    }
    if let Some(permit) = before.iter().find(|element| element.permits()) {
        // (In the data list the check is last, and a permit that ends the list before it has nothing to do.)
        let kept: Vec<Element> = rest.iter().filter(|element| !element.permits()).cloned().collect();
        let mended = if list.context == "data" { [&kept, check].concat() } else { first };
        let what = format!("{param}: {permit} stands before gatepost's check");
        found.push((c::CHECK_BYPASSED, Fault::new(what, format!("{param} = {}", written(&mended)))));
    }
}

/// What stands behind it.
fn behind(list: &List, before: &[Element], after: &[Element], check: &[Element], found: &mut Vec<(Check, Fault)>) {
    let param = list.param;
    let closing = after.iter().position(Element::refuses_all);
    if let Some(at) = closing
        && !after[..at].iter().any(Element::permits)
    {
        let rest: Vec<Element> = after.iter().filter(|element| !element.refuses_all()).cloned().collect();
        let what = format!("{param}: a closing {} stands behind gatepost's check", after[at]);
        let mended = written(&[before, check, &rest].concat());
        found.push((c::CLOSING_REJECT, Fault::new(what, format!("{param} = {mended}"))));
    }
    if list.context == "data" && closing.is_none() && !after.is_empty() {
        let what = format!("{param}: {} stands behind gatepost's limits", written(after));
        let mended = written(&[before, after, check].concat());
        found.push((c::LIMITS_NOT_LAST, Fault::new(what, format!("{param} = {mended}"))));
    }
}

fn settings(list: &List, service: &Service, site: &Site, postfix: &Postfix, found: &mut Vec<(Check, Fault)>) {
    let fix = || shipped(list.param);
    let param = list.param;
    let set = |name: &str| service.settings.get(name).map(String::as_str);
    let or_default = |name: &str| set(name).unwrap_or_else(|| postfix.get(&format!("smtpd_policy_service_{name}")));
    if set("policy_context") != Some(list.context) {
        let has = set("policy_context").map_or("none".to_owned(), |context| format!("{context:?}"));
        let what = format!("{param}: policy_context is {has}, not {:?}", list.context);
        found.push((c::CHECK_CONTEXT, Fault::new(what, fix())));
    }
    let action = or_default("default_action");
    if let Some(wrong) = default_action(list, action, site) {
        let what = format!("{param}: default_action is \"{action}\": {wrong}");
        found.push((c::DEFAULT_ACTION, Fault::new(what, fix())));
    }
    let timeout = or_default("timeout");
    if seconds(timeout).is_some_and(|s| s > MAX_TIMEOUT) {
        let what = format!("{param}: timeout is {timeout}");
        found.push((c::POLICY_TIMEOUT, Fault::new(what, fix())));
    }
    let tries: u32 = or_default("try_limit").parse().unwrap_or(2);
    if (tries > 1) != list.tries_again {
        found.push((c::POLICY_TRY_LIMIT, Fault::new(format!("{param}: try_limit is {tries}"), fix())));
    }
}

/// What is wrong with what counts while gatepost is away.
fn default_action(list: &List, action: &str, site: &Site) -> Option<&'static str> {
    let word = action.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    let refuses = matches!(word.as_str(), "reject" | "defer" | "defer_if_permit" | "hangup")
        || word.starts_with(['4', '5']) && word.len() == 3;
    let opens = matches!(word.as_str(), "dunno" | "ok" | "permit" | "relay");
    let enforced = site.rules.as_ref().is_none_or(|rules| rules.senders.mode == Mode::Enforce);
    match list.context {
        _ if refuses => Some("without gatepost all mail is refused"),
        "sender" if opens && enforced => Some("without gatepost everybody may send as anybody"),
        "sender" => None,
        _ if word != "dunno" => Some("only DUNNO lets the rest of the list decide"),
        _ => None,
    }
}

fn address(
    list: &List,
    service: &Service,
    chroot: bool,
    site: &Site,
    postfix: &Postfix,
    found: &mut Vec<(Check, Fault)>,
) {
    if is_answered(service, chroot, &site.config, postfix) {
        return;
    }
    let (param, address) = (list.param, &service.address);
    if chroot && is_answered(service, false, &site.config, postfix) {
        let what =
            format!("{param}: {address}: smtpd is chrooted, and looks for it below {}", postfix.queue().display());
        found.push((c::CHROOT_PATH, Fault::new(what, shipped(param))));
        return;
    }
    let listen: Vec<String> = site.config.delegation_listen.iter().map(ToString::to_string).collect();
    let what = format!("{param} asks {address}, and gatepost listens at {}", listen.join(", "));
    found.push((c::POLICY_ADDRESS, Fault::new(what, shipped(param))));
}

/// Whether a stranger is refused, and only a stranger is one.
fn relay(postfix: &Postfix) -> Verdict {
    let fix = || shipped("smtpd_relay_restrictions");
    let refuses = |element: &Element| {
        element.refuses_all() || matches!(element.word(), "reject_unauth_destination" | "defer_unauth_destination")
    };
    let closed = ["smtpd_relay_restrictions", "smtpd_recipient_restrictions"].iter().any(|param| {
        let elements = read(postfix.get(param), postfix);
        let end = elements.iter().position(refuses);
        end.is_some_and(|end| !elements[..end].iter().any(|element| element.word() == "permit"))
    });
    if !closed {
        let what = "no smtpd_relay_restrictions or smtpd_recipient_restrictions has reject_unauth_destination";
        return Fault::new(what, fix()).into();
    }
    let everybody = postfix.get("mynetworks").split([',', ' ', '\t']).find(|net| net.ends_with("/0"));
    everybody
        .map(|net| {
            Fault::new(format!("mynetworks holds {net}: everybody may relay"), "mynetworks = 127.0.0.0/8, 10.0.0.0/16")
        })
        .into()
}

/// Services whose own settings go round the checks.
fn overrides(wanted: &[List], site: &Site, postfix: &Postfix) -> Vec<Fault> {
    let mut faults = Vec::new();
    for service in postfix.smtpd() {
        for list in wanted {
            let Some(text) = service.overrides.get(list.param) else { continue };
            let mut found = Vec::new();
            examine(list, text, service.chroot, site, postfix, &mut found);
            if let Some((_, fault)) = found.first() {
                let what = format!("master.cf: {}: its own {}", service.name, fault.what);
                let line = shipped(list.param).split_whitespace().collect::<Vec<_>>().join(" ");
                let fix = format!(
                    "# below {} in master.cf, or take its own {} out\n  -o {{ {line} }}",
                    service.name, list.param
                );
                faults.push(Fault::new(what, fix));
            }
        }
    }
    faults
}

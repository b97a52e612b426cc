//! The milter lists of main.cf, beside `[milter]` of gatepost.toml.

use super::catalogue as c;
use super::finding::{Check, Fault, Report, Verdict};
use super::postconf::Postfix;
use super::restrictions::{Service, milters};
use super::site::{Site, is_same, resolve, seconds};
use crate::daemon::listeners::Endpoint;

const SHIPPED: &str = include_str!("../../postfix-snippets/main.cf.milter");

/// Longest sound connect, command and content timeouts. The snippets have 5, 10 and 30 s; Postfix itself 30, 30, 300.
const MAX_TIMEOUTS: [(&str, u64); 3] = [("connect_timeout", 10), ("command_timeout", 30), ("content_timeout", 60)];

/// The checks that are made of each list.
const CHECKS: [Check; 4] = [c::MILTER_UNSERVED, c::MILTER_DEFAULT_ACTION, c::MILTER_TIMEOUTS, c::MILTER_PROTOCOL];

/// One list of main.cf.
struct List<'a> {
    check: Check,
    param: &'static str,
    listen: &'a [Endpoint],
    /// The program that talks to these milters.
    program: &'static str,
    actions: &'static [&'static str],
}

/// Looks at both lists, and at what of Postfix's own mail goes to them.
pub(super) fn check(site: &Site, postfix: &Postfix, report: &mut Report) {
    let section = site.config.milter.as_ref();
    let lists = [
        List {
            check: c::MILTER_SMTPD,
            param: "smtpd_milters",
            listen: section.map_or(&[], |milter| &milter.listen),
            program: "smtpd",
            actions: &["accept", "tempfail"],
        },
        List {
            check: c::MILTER_LOCAL,
            param: "non_smtpd_milters",
            listen: section.map_or(&[], |milter| &milter.listen_local),
            program: "cleanup",
            actions: &["tempfail"],
        },
    ];
    let mut found = Vec::new();
    for list in &lists {
        report.add(list.check, examine(list, postfix, &mut found));
    }
    for check in CHECKS {
        let of_check = found.iter().filter(|(other, _)| *other == check).map(|(_, fault)| fault.clone());
        report.add(check, of_check.collect::<Vec<Fault>>());
    }
    report.add(c::BOUNCE_FILTER, bounces(site, postfix));
}

fn examine(list: &List<'_>, postfix: &Postfix, found: &mut Vec<(Check, Fault)>) -> Vec<Fault> {
    let chroot = postfix.services.iter().any(|service| service.program == list.program && service.chroot);
    let named = milters(postfix.get(list.param));
    let is_ours = |service: &&Service, chroot| {
        let asked = resolve(&service.address, &postfix.queue(), chroot);
        asked.is_some_and(|asked| list.listen.iter().any(|listen| is_same(listen, &asked)))
    };
    let ours = named.iter().find(|service| is_ours(service, chroot));
    let stray = named.iter().find(|service| service.address.contains("gatepost") && !is_ours(service, chroot));
    if let Some(stray) = stray {
        let served: Vec<String> = list.listen.iter().map(ToString::to_string).collect();
        let served = if served.is_empty() { "nothing".to_owned() } else { served.join(", ") };
        let what = format!("{} names {}, and for it gatepost.toml has {served}", list.param, stray.address);
        found.push((c::MILTER_UNSERVED, Fault::new(what, shipped(list.param))));
    }
    let mut faults = Vec::new();
    if let Some(service) = ours {
        settings(list, service, postfix, found);
    } else if !list.listen.is_empty() && stray.is_none() {
        faults.push(Fault::new(format!("{} does not name gatepost's milter", list.param), shipped(list.param)));
    }
    faults.extend(overrides(list, postfix));
    faults
}

/// Services that go round the milter.
fn overrides(list: &List<'_>, postfix: &Postfix) -> Vec<Fault> {
    if list.listen.is_empty() {
        return Vec::new();
    }
    let goes_round = |service: &&super::postconf::Service| {
        let own = service.overrides.get(list.param).is_some_and(|own| own != postfix.get(list.param));
        let none = service.overrides.get("receive_override_options").is_some_and(|own| own.contains("no_milters"));
        // (What comes back from a content filter was stamped before.)
        service.program == list.program && (own || none) && !service.name.contains("127.0.0.1")
    };
    let fault = |service: &super::postconf::Service| {
        let what = format!("master.cf: {}: its own settings go round gatepost's milter", service.name);
        Fault::new(what, format!("take \"-o {}\" and no_milters out of {}", list.param, service.name))
    };
    postfix.services.iter().filter(goes_round).map(fault).collect()
}

fn settings(list: &List<'_>, service: &Service, postfix: &Postfix, found: &mut Vec<(Check, Fault)>) {
    let fix = || shipped(list.param);
    let set = |name: &str| service.settings.get(name).map(String::as_str);
    let action = set("default_action").or_else(|| postfix.set("milter_default_action"));
    if !action.is_some_and(|action| list.actions.contains(&action)) {
        let has = action.map_or("not stated".to_owned(), |action| format!("\"{action}\""));
        found.push((c::MILTER_DEFAULT_ACTION, Fault::new(format!("{}: default_action is {has}", list.param), fix())));
    }
    for (name, most) in MAX_TIMEOUTS {
        let timeout = set(name).unwrap_or_else(|| postfix.get(&format!("milter_{name}")));
        if seconds(timeout).is_some_and(|s| s > most) {
            found.push((c::MILTER_TIMEOUTS, Fault::new(format!("{}: {name} is {timeout}", list.param), fix())));
        }
    }
    let protocol = set("protocol").unwrap_or_else(|| postfix.get("milter_protocol"));
    if protocol.parse().is_ok_and(|version: u32| version < 6) {
        let what = format!("{}: milter_protocol is {protocol}", list.param);
        found.push((c::MILTER_PROTOCOL, Fault::new(what, "milter_protocol = 6")));
    }
}

/// Postfix's own bounces have no sender until the milter gives them one.
fn bounces(site: &Site, postfix: &Postfix) -> Verdict {
    let wanted = site.config.milter.as_ref().is_some_and(|milter| milter.bounce_sender.is_some());
    let classes = postfix.get("internal_mail_filter_classes");
    let given = classes.split([',', ' ', '\t']).any(|class| class == "bounce");
    match (wanted, given) {
        (true, false) => {
            let what = "[milter] bounce_sender is set, and internal_mail_filter_classes does not hold bounce";
            Fault::new(what, "internal_mail_filter_classes = bounce").into()
        }
        (false, true) if site.config.milter.is_some() => {
            let what = "internal_mail_filter_classes holds bounce, and [milter] names no bounce_sender";
            Fault::new(what, "[milter]\nbounce_sender = \"bounces@example.com\"").into()
        }
        _ => Verdict::Sound,
    }
}

fn shipped(param: &str) -> String {
    super::lists::setting(SHIPPED, param)
}

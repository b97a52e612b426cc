//! What Postfix does about senders while gatepost is away: the restriction class, and the table in it.

use super::catalogue as c;
use super::finding::{Check, Fault, Report, Verdict};
use super::lists::{sender_check, shipped};
use super::postconf::Postfix;
use super::restrictions::{Element, restrictions};
use super::site::Site;
use crate::rules::Mode;
use crate::rules::load::ALLOWED_SENDERS;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const TABLE: [Check; 4] = [c::FALLBACK_TABLE, c::FALLBACK_TYPE, c::FALLBACK_STALE, c::FALLBACK_DUPLICATES];

/// Looks at both.
pub(super) fn check(site: &Site, postfix: &Postfix, report: &mut Report) {
    let all = [&[c::RESTRICTION_CLASS, c::FALLBACK_CLASS], &TABLE[..]].concat();
    let service = sender_check(site, postfix);
    let Some(name) = service.as_ref().and_then(|service| service.settings.get("default_action")) else {
        return report.skip(&all, "no sender check names a class as its default_action");
    };
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_action = ["dunno", "ok", "permit", "reject", "defer", "relay"].contains(&&*name.to_ascii_lowercase());
    if !is_plain || is_action || name.starts_with(['2', '4', '5']) {
        return report.skip(&all, &format!("the sender check's default_action {name} is no class"));
    }
    let Some(text) = postfix.class(name) else {
        let what = format!("{name} is not in smtpd_restriction_classes");
        report.add(c::RESTRICTION_CLASS, Fault::new(what, format!("smtpd_restriction_classes = {name}")));
        return report.skip(&all[1..], &format!("{name} is no class"));
    };
    let missing = !postfix.knows(name) || text.is_empty();
    let fix = shipped("gatepost_down").replace("gatepost_down", name);
    report.add(c::RESTRICTION_CLASS, Verdict::fault_if(missing, format!("{name} has no value"), &fix));
    let elements = restrictions(&text, &|name| postfix.class(name));
    report.add(c::FALLBACK_CLASS, class(site, name, &elements, &fix));
    match table(&elements) {
        Some((kind, path)) => look_at_table(site, &kind, &path, report),
        None => report.skip(&TABLE, &format!("{name} names no table")),
    }
}

/// The class has to fit the mode.
fn class(site: &Site, name: &str, elements: &[Element], fix: &str) -> Verdict {
    let Some(rules) = &site.rules else { return Verdict::skipped("the policy has problems") };
    let closes = elements.iter().any(Element::refuses_all);
    let asks = elements.iter().any(|element| element.word() == "check_sender_access");
    let early = elements.first().is_some_and(Element::permits);
    match rules.senders.mode {
        Mode::Enforce if early || !asks && !closes => {
            Fault::new(format!("{name} lets everybody send as anybody"), fix).into()
        }
        Mode::Enforce if !asks => Fault::new(format!("{name} refuses every sender"), fix).into(),
        Mode::Enforce if !closes => {
            Fault::new(format!("{name} refuses nobody: its closing reject is missing"), fix).into()
        }
        Mode::Observe | Mode::Off if closes => {
            let what =
                format!("{name} refuses unlisted senders, and senders.mode is \"{}\"", rules.senders.mode.as_str());
            Fault::new(what, format!("{name} = permit")).into()
        }
        _ => Verdict::Sound,
    }
}

/// Type and path of the table that the class asks.
fn table(elements: &[Element]) -> Option<(String, PathBuf)> {
    let at = elements.iter().position(|element| element.word() == "check_sender_access")?;
    let (kind, path) = elements.get(at + 1)?.word().split_once(':')?;
    Some((kind.to_owned(), path.into()))
}

fn look_at_table(site: &Site, kind: &str, path: &Path, report: &mut Report) {
    let ours = site.config.policy_dir.join(ALLOWED_SENDERS);
    let link = format!("ln -sf {} {}", ours.display(), path.display());
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return report.skip(&TABLE, &format!("{}: {error}: run this as root", path.display()));
        }
        Err(error) => {
            report.add(c::FALLBACK_TABLE, Fault::new(format!("{}: {error}", path.display()), link));
            return report.skip(&TABLE[1..], &format!("{} cannot be read", path.display()));
        }
    };
    report.add(c::FALLBACK_TABLE, index(kind, path));
    let class = format!("texthash:{}", path.display());
    let what = format!("{kind}:{} counts only after postmap", path.display());
    report.add(c::FALLBACK_TYPE, Verdict::fault_if(kind != "texthash", what, class));
    let stale = match fs::read(&ours) {
        Ok(list) if list == text => Verdict::Sound,
        Ok(_) => Fault::new(format!("{} is not the same as {}", path.display(), ours.display()), link).into(),
        Err(error) => Verdict::skipped(format!("{}: {error}", ours.display())),
    };
    report.add(c::FALLBACK_STALE, stale);
    report.add(c::FALLBACK_DUPLICATES, duplicates(path, &text));
}

/// An indexed table needs its index, made after the last edit.
fn index(kind: &str, path: &Path) -> Verdict {
    if !matches!(kind, "hash" | "btree" | "lmdb" | "cdb") {
        return Verdict::Sound;
    }
    stale_index(kind, path).into()
}

/// What is wrong with the index of `kind:path`.
pub(super) fn stale_index(kind: &str, path: &Path) -> Option<Fault> {
    let suffix = match kind {
        "hash" | "btree" => "db",
        "lmdb" => "lmdb",
        "cdb" => "cdb",
        _ => return None,
    };
    let file = PathBuf::from(format!("{}.{suffix}", path.display()));
    let changed = |path: &Path| fs::metadata(path).and_then(|about| about.modified()).ok();
    let (text, index): (Option<SystemTime>, Option<SystemTime>) = (changed(path), changed(&file));
    let fix = format!("postmap {kind}:{}", path.display());
    match (text, index) {
        (None, None) => Some(Fault::new(format!("{} is not there", path.display()), fix)),
        (Some(_), None) => Some(Fault::new(format!("{} is not there", file.display()), fix)),
        (Some(text), Some(index)) if index < text => {
            Some(Fault::new(format!("{} is older than {}", file.display(), path.display()), fix))
        }
        _ => None,
    }
}

/// Keys that stand twice; texthash folds them to lower case.
fn duplicates(path: &Path, text: &[u8]) -> Vec<Fault> {
    let text = String::from_utf8_lossy(text).to_lowercase();
    let mut seen = HashSet::new();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with([' ', '\t', '#']));
    let keys = lines.filter_map(|(n, line)| Some((n + 1, line.split_whitespace().next()?)));
    let twice = keys.filter(|(_, key)| !seen.insert(key.to_string()));
    let fault = |(line, key)| {
        let what = format!("{}:{line}: {key} is listed twice", path.display());
        Fault::new(what, format!("take line {line} out"))
    };
    twice.map(fault).collect()
}

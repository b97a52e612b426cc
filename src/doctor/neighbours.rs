//! Programs beside gatepost that can undo what it does: journald drops lines, fail2ban bans clients.

use super::catalogue as c;
use super::finding::{Fault, Report, Verdict};
use super::logs::text_of;
use super::site::{Site, seconds};
use crate::daemon::event_log::Output;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// journald.conf(5): 10,000 messages in 30 s for each service.
const DEFAULT_BURST: u64 = 10_000;
const DEFAULT_INTERVAL: u64 = 30;

/// Settings of a section, by name.
type Section = BTreeMap<String, String>;

/// Looks at both.
pub(super) fn check(site: &Site, report: &mut Report) {
    report.add(c::JOURNALD, journald(site));
    report.add(c::FAIL2BAN, fail2ban(site));
}

/// Postfix's lines go through it where they go to syslog; those of gatepost's own unit are exempt.
fn journald(site: &Site) -> Verdict {
    let by_file = site.postfix.as_ref().is_ok_and(|postfix| !postfix.get("maillog_file").is_empty());
    if by_file && site.config.event_log_output != Output::Syslog {
        return Verdict::Sound;
    }
    let journal = read(site, "/etc/systemd/journald.conf", "/etc/systemd/journald.conf.d", &[".conf"]);
    let Some(section) = journal.get("Journal") else { return Verdict::Sound };
    let set = |name: &str| section.get(name).map(|value| value.replace("min", "m"));
    let interval = set("RateLimitIntervalSec").map_or(Some(DEFAULT_INTERVAL), |value| seconds(&value));
    let burst = set("RateLimitBurst").map_or(Some(DEFAULT_BURST), |value| value.parse().ok());
    let (Some(interval), Some(burst)) = (interval, burst) else { return Verdict::Sound };
    // Either being 0 turns it off.
    let low = interval > 0 && burst > 0 && burst * DEFAULT_INTERVAL < DEFAULT_BURST * interval;
    let what = format!("journald takes {burst} lines in {interval} s from a service, less than its default");
    Verdict::fault_if(low, what, "# /etc/systemd/journald.conf.d/mail.conf\n[Journal]\nRateLimitBurst=0")
}

/// Jails that read Postfix's refusals, and do not know the clients.
fn fail2ban(site: &Site) -> Verdict {
    let Ok(postfix) = &site.postfix else { return Verdict::skipped("Postfix's settings cannot be read") };
    let mut jails = Section::new();
    let mut all: BTreeMap<String, Section> = BTreeMap::new();
    for (folder, suffixes) in [("/etc/fail2ban/jail.conf", [".conf"]), ("/etc/fail2ban/jail.local", [".local"])] {
        for (name, section) in read(site, folder, "/etc/fail2ban/jail.d", &suffixes) {
            all.entry(name).or_default().extend(section);
        }
    }
    let default = all.remove("DEFAULT").unwrap_or_default();
    let or_default = |section: &Section, name: &str| section.get(name).or_else(|| default.get(name)).cloned();
    for (name, section) in &all {
        let filter = section.get("filter").map_or(name.as_str(), String::as_str);
        let about_mail =
            [name.as_str(), filter].iter().any(|word| word.contains("postfix") || word.contains("gatepost"));
        if about_mail && or_default(section, "enabled").is_some_and(|on| on.trim() == "true") {
            jails.insert(name.clone(), or_default(section, "ignoreip").unwrap_or_default());
        }
    }
    let networks: Vec<&str> = postfix.get("mynetworks").split([',', ' ', '\t']).filter(is_remote).collect();
    let fault = |(jail, ignored): (&String, &String)| {
        let unknown: Vec<&str> = networks.iter().copied().filter(|net| !ignored.contains(net)).collect();
        let what = format!("the jail {jail} bans clients in {} for refused recipients", unknown.join(", "));
        let fix = format!(
            "# /etc/fail2ban/jail.d/gatepost.local\n[{jail}]\nignoreip = 127.0.0.1/8 ::1 {}",
            networks.join(" ")
        );
        (!unknown.is_empty()).then(|| Fault::new(what, fix))
    };
    jails.iter().filter_map(fault).collect::<Vec<_>>().into()
}

fn is_remote(network: &&str) -> bool {
    !network.is_empty() && !["127.", "[::1]", "[::ffff:127."].iter().any(|loopback| network.starts_with(loopback))
}

/// The sections of an ini file and of those beside it, the later over the earlier.
fn read(site: &Site, file: &str, folder: &str, suffixes: &[&str]) -> BTreeMap<String, Section> {
    let beside = std::fs::read_dir(site.file(folder)).into_iter().flatten().flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| suffixes.iter().any(|suffix| path.to_string_lossy().ends_with(suffix));
    let mut paths: Vec<PathBuf> = beside.filter(fits).collect();
    paths.sort();
    let mut sections = BTreeMap::new();
    for path in [vec![site.file(file)], paths].concat() {
        add(&path, &mut sections);
    }
    sections
}

fn add(path: &Path, sections: &mut BTreeMap<String, Section>) {
    let text = text_of(path).unwrap_or_default();
    let mut name = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(section) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name = section.to_owned();
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.split(" #").next().unwrap_or_default().trim();
            sections.entry(name.clone()).or_default().insert(key.trim().to_owned(), value.to_owned());
        }
    }
}

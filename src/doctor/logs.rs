//! The mail logs: there, readable for the daemon over rotation too, understood, and with everybody's lines in them.

use super::access::{READ, User, mode_of};
use super::aws::SES_TAKES;
use super::balancer;
use super::catalogue as c;
use super::finding::{Fault, Report, Verdict};
use super::service::user;
use super::site::Site;
use crate::daemon::Config;
use crate::daemon::event_log::Output;
use crate::journey::glob;
use crate::lines::read::{Entry, LogLine};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// How much is read at the end of each log: some 5,000 lines.
const MAX_READ: u64 = 1 << 20;

/// Fewer lines than this say nothing about what is usual.
const LEAST_LINES: usize = 20;

/// Which share of lines may be of another form, in percent: other programs write to the mail facility too.
const MOST_UNKNOWN: usize = 10;

/// How Postfix tells of a client that says nothing.
const WENT_SILENTLY: &[u8] = b"lost connection after CONNECT from ";

/// What the ends of the logs hold.
#[derive(Debug, Default)]
pub(super) struct Scan {
    lines: usize,
    unknown: usize,
    of_postfix: usize,
    of_gatepost: usize,
    pub(super) arrivals: usize,
    /// Who brought mail.
    pub(super) clients: HashSet<IpAddr>,
    /// Who connected and went without a word, as the health check of a load balancer does.
    pub(super) silent: HashSet<IpAddr>,
    /// Mails that SES took long ago.
    sent: usize,
    of_events: usize,
}

impl Scan {
    /// Reads the ends of the logs of `site`.
    pub(super) fn of(site: &Site) -> Self {
        let mut scan = Self::default();
        let old = Timestamp::now().as_second() - SES_TAKES;
        for path in files(&site.config).0.iter().filter(|path| path.extension().is_none_or(|ext| ext != "gz")) {
            // What cannot be read is told elsewhere.
            let Ok(text) = end_of(path) else { continue };
            text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).for_each(|line| scan.take(line, old));
        }
        scan
    }

    /// How many mails went to SES long ago, where no event at all is in the logs.
    pub(super) fn sent_unanswered(&self) -> usize {
        if self.of_events == 0 { self.sent } else { 0 }
    }

    fn take(&mut self, line: &[u8], old: i64) {
        self.lines += 1;
        let Some(line) = LogLine::parse(line) else {
            self.unknown += 1;
            return;
        };
        match line.ident.rsplit(|b| *b == b'/').next() {
            Some(b"ses-events") => (self.of_events, self.of_gatepost) = (self.of_events + 1, self.of_gatepost + 1),
            Some(b"gatepost") => self.of_gatepost += 1,
            _ if line.ident.contains(&b'/') => {
                self.of_postfix += 1;
                self.silent.extend(line.text.strip_prefix(WENT_SILENTLY).and_then(address));
            }
            _ => {}
        }
        match line.entry() {
            Some(Entry::Arrived(arrival)) if !arrival.client.is_empty() => {
                self.arrivals += 1;
                self.clients.extend(address(arrival.client));
            }
            Some(Entry::Attempt(attempt)) if attempt.ses_id().is_some() => {
                let at = line.stamp.resolve(Timestamp::now(), &TimeZone::system());
                self.sent += usize::from(at.is_some_and(|at| at.as_second() < old));
            }
            _ => {}
        }
    }
}

/// Looks at all of it.
pub(super) fn check(site: &Site, scan: &Scan, report: &mut Report) {
    let (files, closed) = files(&site.config);
    let journal = site.config.logs.as_ref().is_some_and(|logs| logs.journal);
    let named = patterns(&site.config).join(", ");
    let none = files.is_empty() && closed.is_empty() && !journal;
    let fix = "# or journal = true\n[logs]\npaths = [\"/var/log/mail.log*\"]";
    report.add(c::LOGS_THERE, Verdict::fault_if(none, format!("no file is there that {named} names"), fix));
    readable(site, &files, closed, report);
    report.add(c::LOGS_OF_POSTFIX, of_postfix(site, &files, scan, journal));
    let share = scan.unknown * 100 / scan.lines.max(1);
    let what = format!("{share} % of the last {} lines of {named} are in no form that is known", scan.lines);
    let unknown = scan.lines >= LEAST_LINES && share > MOST_UNKNOWN;
    let fix = "$template of rsyslog: RSYSLOG_FileFormat (RFC 3339) or RSYSLOG_TraditionalFileFormat";
    report.add(c::LOGS_PARSED, Verdict::fault_if(unknown, what, fix));
    report.add(c::LOGS_OF_GATEPOST, of_gatepost(site, &files, scan, journal));
    report.add(c::CLIENTS, balancer::clients(site, scan));
}

/// The files of the logs, and the folders that cannot be looked into.
pub(super) fn files(config: &Config) -> (Vec<PathBuf>, Vec<(PathBuf, io::Error)>) {
    let (mut files, mut closed) = (Vec::new(), Vec::new());
    for pattern in patterns(config) {
        match glob::files(&pattern) {
            Ok(found) => files.extend(found),
            Err(error) => closed.push(error),
        }
    }
    files.retain(|path| path.exists());
    files.sort();
    files.dedup();
    (files, closed)
}

fn patterns(config: &Config) -> Vec<String> {
    match &config.logs {
        Some(logs) if logs.journal || !logs.paths.is_empty() => logs.paths.clone(),
        _ => glob::USUAL.map(str::to_owned).to_vec(),
    }
}

/// The end of a file, from the first whole line on.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(MAX_READ);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(MAX_READ).read_to_end(&mut text)?;
    if skipped > 0 {
        let begin = text.iter().position(|b| *b == b'\n').map_or(text.len(), |at| at + 1);
        text.drain(..begin);
    }
    Ok(text)
}

/// The newest log of each folder is the one that is written; the others were, before a rotation.
fn readable(site: &Site, files: &[PathBuf], closed: Vec<(PathBuf, io::Error)>, report: &mut Report) {
    let Some(user) = user(site) else {
        return report.skip(&[c::LOGS_READABLE, c::LOGS_ROTATED], "no daemon runs, and there is no user gatepost");
    };
    let (old, new): (Vec<&PathBuf>, Vec<&PathBuf>) = files.iter().partition(|path| is_rotated(path, files));
    let fault = |path: &&PathBuf| {
        let obstacle = user.obstacle(READ, path, Path::new("/"))?;
        let what =
            format!("{} may not read {}: {} is {}", user.name, path.display(), obstacle.display(), mode_of(&obstacle));
        Some(Fault::new(what, group_of(path)))
    };
    let mut faults: Vec<Fault> = new.iter().filter_map(fault).collect();
    faults.extend(
        closed
            .into_iter()
            .map(|(folder, error)| Fault::new(format!("{}: {error}", folder.display()), group_of(&folder))),
    );
    report.add(c::LOGS_READABLE, faults);
    let mut faults: Vec<Fault> = old.iter().filter_map(fault).collect();
    faults.extend(by_postlogd(site, &user, files));
    report.add(c::LOGS_ROTATED, faults);
}

fn group_of(path: &Path) -> String {
    format!(
        "# systemctl edit gatepost; and: chgrp adm {0} && chmod 0640 {0}\n[Service]\nSupplementaryGroups=postfix adm",
        path.display()
    )
}

/// `mail.log.1` beside `mail.log`, `mail.log-20261123` beside it, `mail.log.2.gz`.
fn is_rotated(path: &Path, files: &[PathBuf]) -> bool {
    let name = path.to_string_lossy();
    let is_of = |other: &&PathBuf| {
        let rest = name.strip_prefix(&*other.to_string_lossy());
        rest.is_some_and(|rest| rest.starts_with(['.', '-']))
    };
    files.iter().any(|other| is_of(&other))
}

/// `postfix logrotate` makes the new file anew, and Postfix's own for root alone (before 3.9 always).
fn by_postlogd(site: &Site, user: &User, files: &[PathBuf]) -> Option<Fault> {
    let postfix = site.postfix.as_ref().ok()?;
    let file = PathBuf::from(postfix.get("maillog_file"));
    if user.uid == 0 || !files.contains(&file) {
        return None;
    }
    let mode = u32::from_str_radix(postfix.get("maillog_file_permissions"), 8).unwrap_or(0o600);
    let what =
        format!("postfix logrotate makes {} with mode {mode:04o}, which {} may not read", file.display(), user.name);
    let fix = if postfix.knows("maillog_file_permissions") {
        "maillog_file_permissions = 0644".to_owned()
    } else {
        format!(
            "# log by syslog; or rotate {} by logrotate with \"create 0640 root adm\"\nmaillog_file =",
            file.display()
        )
    };
    (mode & 0o044 == 0).then(|| Fault::new(what, fix))
}

fn of_postfix(site: &Site, files: &[PathBuf], scan: &Scan, journal: bool) -> Verdict {
    let file = site.postfix.as_ref().map(|postfix| postfix.get("maillog_file")).unwrap_or_default();
    let named = patterns(&site.config);
    if !file.is_empty() && file != "/dev/stdout" && !files.iter().any(|path| path == Path::new(file)) {
        let what = format!("Postfix writes {file}, and {} does not name it", named.join(", "));
        return Fault::new(what, format!("[logs]\npaths = [\"{}\", \"{file}*\"]", named.join("\", \""))).into();
    }
    let silent = scan.lines >= LEAST_LINES && scan.of_postfix == 0 && !journal;
    let what = format!("none of the last {} lines of {} is Postfix's", scan.lines, named.join(", "));
    Verdict::fault_if(
        silent,
        what,
        "# the file of the syslog's facility mail\n[logs]\npaths = [\"/var/log/mail.log*\"]",
    )
}

fn of_gatepost(site: &Site, files: &[PathBuf], scan: &Scan, journal: bool) -> Verdict {
    match &site.config.event_log_output {
        Output::Stdout => Verdict::skipped("event_log.output is \"stdout\""),
        Output::File(path) => {
            let what = format!(
                "gatepost writes {}, and {} does not name it",
                path.display(),
                patterns(&site.config).join(", ")
            );
            let missing = !files.contains(path);
            let paths = patterns(&site.config).join("\", \"");
            Verdict::fault_if(missing, what, format!("[logs]\npaths = [\"{paths}\", \"{}*\"]", path.display()))
        }
        Output::Syslog if journal => Verdict::Sound,
        Output::Syslog if !site.file("/dev/log").exists() => Fault::new(
            "event_log.output is \"syslog\", and there is no /dev/log",
            "[event_log]\noutput = \"file:/var/log/gatepost/mail.log\"",
        )
        .into(),
        Output::Syslog => {
            let written = site.running.sum("gatepost_events_lines_written_total");
            let what = format!(
                "gatepost wrote {written} lines to syslog, and none is in {}",
                patterns(&site.config).join(", ")
            );
            let fix = "# the file of the syslog's facility mail\n[logs]\npaths = [\"/var/log/mail.log*\"]";
            Verdict::fault_if(written > 0.0 && scan.of_gatepost == 0, what, fix)
        }
    }
}

/// The address in `host[10.0.0.1]`.
fn address(client: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(client).ok()?;
    text.rsplit_once('[')?.1.trim_end_matches(']').parse().ok()
}

/// The text of a file, where it is there.
pub(super) fn text_of(path: &Path) -> Option<String> {
    fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

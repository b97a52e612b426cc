//! The daemon: its files, its answers, its folders, its limits.

use super::access::{ENTER, READ, User, WRITE, mode_of};
use super::catalogue as c;
use super::finding::{Check, Fault, Report, Verdict};
use super::running::Asked;
use super::site::Site;
use crate::daemon::Config;
use crate::daemon::config::EventSource;
use crate::rules::Problem;
use crate::store::{Reader, StoreError};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The user of the shipped unit.
const SERVICE_USER: &str = "gatepost";

/// Files of its own, beside connections: database, logs, watches, threads.
const OWN_FILES: usize = 100;

/// How far a file's time may lie in the future: clocks of network disks differ.
const SLACK: Duration = Duration::from_secs(60);

/// Looks at all of it.
pub(super) fn check(site: &Site, report: &mut Report) {
    files(site, report);
    report.add(c::CONFIG_ACCESS, config_access(site));
    answers(site, report);
    report.add(c::VERSION, version(site));
    report.add(c::SECOND_INSTANCE, second_instances(site));
    store(site, report);
    folders(site, report);
    report.add(c::CLOCK, clock(site));
    report.add(c::FD_LIMIT, open_files(site));
}

/// The user that the daemon runs as, or will.
pub(super) fn user(site: &Site) -> Option<User> {
    site.running.pid().and_then(User::of_process).or_else(|| User::named(SERVICE_USER))
}

fn files(site: &Site, report: &mut Report) {
    let of_policy = |problem: &&Problem| problem.file.starts_with(&site.config.policy_dir);
    let pairs: [(Check, bool, bool); 4] = [
        (c::CONFIG, false, false),
        (c::CONFIG_WARNINGS, false, true),
        (c::POLICY, true, false),
        (c::POLICY_WARNINGS, true, true),
    ];
    for (check, policy, warning) in pairs {
        let found = site.problems.iter().filter(|p| of_policy(p) == policy && p.is_warning() == warning);
        let fault = |problem: &Problem| {
            let place = format!("$EDITOR {} +{}", problem.file.display(), problem.line.max(1));
            Fault::new(problem.to_string(), place)
        };
        report.add(check, found.map(fault).collect::<Vec<_>>());
    }
}

/// A password of a store stands in it, or not.
fn config_access(site: &Site) -> Verdict {
    let file = &site.config_file;
    let secret = site.config.fleet.stores().iter().any(|store| store.has_password());
    let Ok(about) = fs::metadata(file) else { return Verdict::Sound };
    let fix = format!("chown root:{SERVICE_USER} {0} && chmod 0640 {0}", file.display());
    if secret && about.permissions().mode() & 0o007 != 0 {
        let what = format!("{} has a password in it, and everybody may read it: {}", file.display(), mode_of(file));
        return Fault::new(what, fix).into();
    }
    let obstacle = user(site).and_then(|user| user.obstacle(READ, file, Path::new("/")));
    let fault = |obstacle: PathBuf| {
        Fault::new(
            format!("the daemon may not read {}: {} is {}", file.display(), obstacle.display(), mode_of(&obstacle)),
            fix,
        )
    };
    obstacle.map(fault).into()
}

fn answers(site: &Site, report: &mut Report) {
    let running = &site.running;
    report.add(c::DAEMON_POLICY, silent(&running.delegation));
    report.add(c::DAEMON_MILTER, silent(&running.milter));
    report.add(c::DAEMON_ADMIN, silent(&running.admin));
    report.add(c::HEALTH, health(running.health.as_ref()));
}

fn silent(asked: &[Asked]) -> Verdict {
    let troubles = || asked.iter().filter_map(|asked| Some((&asked.endpoint, asked.trouble.as_ref()?)));
    let faults = troubles().filter(|(_, trouble)| !trouble.denied).map(|(endpoint, trouble)| {
        let fix = "systemctl restart gatepost   # and look at: journalctl -u gatepost";
        Fault::new(format!("{endpoint}: {}", trouble.words), fix)
    });
    let faults: Vec<Fault> = faults.collect();
    match troubles().find(|(_, trouble)| trouble.denied) {
        Some((endpoint, trouble)) if faults.is_empty() => {
            Verdict::skipped(format!("{endpoint}: {}: run this as root", trouble.words))
        }
        _ => faults.into(),
    }
}

fn health(said: Option<&Value>) -> Verdict {
    let Some(health) = said else { return Verdict::skipped("the admin socket does not answer") };
    if health["status"] == "ok" {
        return Verdict::Sound;
    }
    let mut troubles: Vec<&str> = Vec::new();
    for name in ["policy_problems", "events"] {
        troubles.extend(health[name].as_array().into_iter().flatten().filter_map(Value::as_str));
    }
    troubles.extend(health["suppression_store"].as_str());
    let fault = |trouble: &&str| Fault::new(*trouble, "journalctl -u gatepost   # says more");
    troubles.iter().map(fault).collect::<Vec<_>>().into()
}

fn version(site: &Site) -> Verdict {
    let Some(health) = &site.running.health else { return Verdict::skipped("the admin socket does not answer") };
    let installed = env!("CARGO_PKG_VERSION");
    let fix = "systemctl restart gatepost";
    let runs = health["version"].as_str().unwrap_or("an older one");
    if runs != installed {
        return Fault::new(format!("gatepost {runs} runs, and {installed} is installed"), fix).into();
    }
    let exe = site.running.pid().and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    let replaced = exe.is_some_and(|exe| exe.to_string_lossy().ends_with(" (deleted)"));
    Verdict::fault_if(replaced, "the program was replaced since the daemon started", fix)
}

/// Daemons of other configurations that share what only one may have.
fn second_instances(site: &Site) -> Vec<Fault> {
    let ours = claims(&site.config);
    let known = site.running.pid();
    let fault = |(pid, file): (u32, Option<PathBuf>)| {
        let theirs = Config::load(file.as_deref()).ok().map(|(config, _)| claims(&config))?;
        let shared = ours.intersection(&theirs).next()?;
        let what = format!("process {pid} is a second gatepost with {shared}");
        Some(Fault::new(what, format!("kill {pid}   # and take its unit out of the system")))
    };
    let others = daemons().into_iter().filter(|(pid, _)| known.is_some_and(|known| known != *pid));
    others.filter_map(fault).collect()
}

/// What no second daemon may have.
fn claims(config: &Config) -> BTreeSet<String> {
    let mut claims =
        BTreeSet::from([config.store_path().display().to_string(), config.state_dir.display().to_string()]);
    match config.events.as_ref().map(|events| &events.source) {
        // A fleet has one list, whoever of it reads an event.
        Some(EventSource::Sqs(_)) if config.fleet.suppression.is_some() => {}
        Some(EventSource::Sqs(urls)) => claims.extend(urls.iter().cloned()),
        Some(EventSource::Spool(folder)) => _ = claims.insert(folder.display().to_string()),
        None => {}
    }
    claims
}

/// Every `gatepost serve` of this machine, with its configuration.
fn daemons() -> Vec<(u32, Option<PathBuf>)> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let daemon = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<String> = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        let name = Path::new(words.first()?).file_name()?;
        if name != "gatepost" || !words.iter().any(|word| word == "serve") {
            return None;
        }
        let at = words.iter().position(|word| word == "--config");
        let equals = words.iter().find_map(|word| word.strip_prefix("--config="));
        let file = equals.map(str::to_owned).or_else(|| words.get(at? + 1).cloned());
        Some((pid, file.map(PathBuf::from)))
    };
    processes.flatten().filter_map(daemon).collect()
}

fn store(site: &Site, report: &mut Report) {
    let path = site.config.store_path();
    let rest = [c::STORE_INTEGRITY, c::STORE_WRITABLE];
    let fix = format!("sqlite3 {} \"PRAGMA integrity_check\"", path.display());
    match Reader::open(&path).and_then(|reader| reader.quick_check()) {
        Ok(found) => {
            report.add(c::STORE, Verdict::Sound);
            let fault = |what: String| Fault::new(format!("{}: {what}", path.display()), &fix);
            report.add(c::STORE_INTEGRITY, found.into_iter().map(fault).collect::<Vec<_>>());
        }
        Err(StoreError::Missing { .. }) if site.running.pid().is_none() => {
            return report.skip(&[&[c::STORE], &rest[..]].concat(), "there is no database yet; the daemon makes it");
        }
        Err(error @ StoreError::Corrupt { .. }) => {
            report.add(c::STORE, Verdict::Sound);
            report.add(c::STORE_INTEGRITY, Fault::new(error.to_string(), fix));
        }
        Err(error @ StoreError::Denied { .. }) if !rustix::process::geteuid().is_root() => {
            return report.skip(&[&[c::STORE], &rest[..]].concat(), &format!("{error}: run this as root"));
        }
        Err(error) => {
            report.add(c::STORE, Fault::new(error.to_string(), fix));
            return report.skip(&rest, "the database cannot be read");
        }
    }
    // Beside it SQLite keeps what is not in it yet.
    let files = ["", "-wal", "-shm"].map(|suffix| PathBuf::from(format!("{}{suffix}", path.display())));
    report.add(c::STORE_WRITABLE, writable(site, &files));
}

fn folders(site: &Site, report: &mut Report) {
    let state = [site.config.state_dir.clone(), site.config.state_dir.join(crate::rules::load::LAST_GOOD_DIR)];
    report.add(c::STATE_DIR, writable(site, &state));
    let spool = match site.config.events.as_ref().map(|events| &events.source) {
        Some(EventSource::Spool(folder)) => vec![folder.clone()],
        _ => Vec::new(),
    };
    let missing: Vec<Fault> = spool
        .iter()
        .filter(|folder| !folder.is_dir())
        .map(|folder| Fault::new(format!("{} is not there", folder.display()), install(folder)))
        .collect();
    report.add(c::SPOOL_DIR, if missing.is_empty() { writable(site, &spool) } else { missing.into() });
}

/// Whether the daemon may write these, as far as they are there.
fn writable(site: &Site, paths: &[PathBuf]) -> Verdict {
    let Some(user) = user(site) else {
        return Verdict::skipped(format!("no daemon runs, and there is no user {SERVICE_USER}"));
    };
    let fault = |path: &PathBuf| {
        let what = if path.is_dir() { WRITE | ENTER } else { WRITE };
        let obstacle = user.obstacle(what, path, Path::new("/"))?;
        let words =
            format!("{} may not write {}: {} is {}", user.name, path.display(), obstacle.display(), mode_of(&obstacle));
        Some(Fault::new(words, format!("chown {} {}", user.uid, obstacle.display())))
    };
    paths.iter().filter_map(fault).collect::<Vec<_>>().into()
}

fn install(folder: &Path) -> String {
    format!("install -d -o {SERVICE_USER} -g {SERVICE_USER} -m 0770 {}", folder.display())
}

/// Files that are written all the while cannot be of tomorrow.
fn clock(site: &Site) -> Verdict {
    let store = site.config.store_path();
    let newest = |path: &Path| fs::metadata(path).and_then(|about| about.modified()).ok();
    let latest = SystemTime::now() + SLACK;
    let state = fs::read_dir(&site.config.state_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let logs = super::logs::files(&site.config).0.into_iter().filter(|path| path.is_file());
    let ahead = state.chain([store]).chain(logs).find(|path| newest(path).is_some_and(|at| at > latest));
    let fault = ahead.map(|path| {
        let what = format!("{} was written in the future: the clock was set back, or is slow", path.display());
        Fault::new(what, "timedatectl set-ntp true   # and: timedatectl timesync-status")
    });
    fault.into()
}

fn open_files(site: &Site) -> Verdict {
    let Some(pid) = site.running.pid() else { return Verdict::skipped("the daemon does not tell its process id") };
    let Ok(limits) = fs::read_to_string(format!("/proc/{pid}/limits")) else {
        return Verdict::skipped(format!("/proc/{pid}/limits cannot be read: run this as root"));
    };
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft: usize = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(usize::MAX);
    let milter = site.config.milter.as_ref().map_or(0, |milter| milter.max_connections);
    let needs = site.config.max_connections + milter + OWN_FILES;
    let what = format!("the daemon may open {soft} files, and max_connections allow {needs}");
    Verdict::fault_if(soft < needs, what, format!("# systemctl edit gatepost\n[Service]\nLimitNOFILE={}", needs * 2))
}

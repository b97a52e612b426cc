//! Faults of the running daemon, its folders and sockets: put into the installation itself, and taken out again.

use super::Seed;
use super::install::{Install, USER};
use crate::gatepost::{BINARY, both};
use crate::wait;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

fn found(
    install: &Install,
    id: &'static str,
    severity: &'static str,
    says: &'static str,
    follows: &'static [&'static str],
) {
    let seed = Seed { id, severity, says, follows, put: |_| {} };
    seed.must_be(&install.trial().examine(&[]));
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn wrong_modes_and_owners_are_found() {
    let install = Install::new();
    let (socket, folder) = (install.path("queue/gatepost/policy.sock"), install.path("queue/gatepost"));

    mode(&socket, 0o600);
    found(&install, "socket-access", "error", "policy.sock is 0600", &[]);
    mode(&socket, 0o660);
    mode(&folder, 0o700);
    found(&install, "socket-access", "error", "gatepost is 0700", &[]);
    mode(&folder, 0o755);
    mode(&socket, 0o666);
    found(&install, "socket-open", "warning", "policy.sock", &[]);
    mode(&socket, 0o660);
    mode(&folder, 0o750);

    let database = install.path("state/gatepost.db");
    chown(&database, Some(0), Some(0)).unwrap();
    mode(&database, 0o644);
    found(&install, "store-writable", "error", "gatepost.db is 0644, uid 0", &[]);
    chown(&database, Some(USER), Some(USER)).unwrap();

    chown(install.path("state/spool"), Some(0), Some(0)).unwrap();
    found(&install, "spool-dir", "error", "spool", &[]);
    chown(install.path("state/spool"), Some(USER), Some(USER)).unwrap();

    chown(install.path("state"), Some(0), Some(0)).unwrap();
    found(&install, "state-dir", "error", "state", &[]);
    chown(install.path("state"), Some(USER), Some(USER)).unwrap();

    let log = install.path("log/mail.log");
    mode(&log, 0o600);
    found(&install, "logs-readable", "error", "mail.log is 0600", &["health"]);
    mode(&log, 0o644);
    fs::write(install.path("log/mail.log.1"), "").unwrap();
    mode(&install.path("log/mail.log.1"), 0o600);
    found(&install, "logs-rotated", "warning", "mail.log.1", &["health"]);
    fs::remove_file(install.path("log/mail.log.1")).unwrap();
    let trial = install.trial();
    trial.set(&format!("maillog_file = {}", log.display()));
    let seed = Seed { id: "logs-rotated", severity: "warning", says: "postfix logrotate", follows: &[], put: |_| {} };
    seed.must_be(&trial.examine(&[]));

    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    fs::File::options().append(true).open(&log).unwrap().set_modified(tomorrow).unwrap();
    found(&install, "clock", "warning", "mail.log", &[]);
    fs::File::options().append(true).open(&log).unwrap().set_modified(SystemTime::now()).unwrap();
    assert_eq!(install.trial().examine(&[]), []);
}

#[test]
fn a_broken_policy_is_found() {
    let install = Install::new();
    let list = install.path("policy/allowed_senders");
    let sound = fs::read_to_string(&list).unwrap();
    fs::write(&list, format!("{sound}new@example.com OK clents=10.0.0.0/8\n")).unwrap();
    install.daemon.says(&["allowed_senders:3:"]);
    found(&install, "policy", "error", "allowed_senders:3:", &["health", "fallback-class"]);
    found(&install, "health", "error", "allowed_senders:3:", &["policy"]);
    fs::write(&list, format!("{sound}@example.org OK\n")).unwrap();
    wait::true_within("the mended list", wait::LONG, || {
        let found = install.trial().examine(&[]);
        !found.iter().any(|found| found.id == "health")
    });
    found(&install, "policy-warnings", "warning", "@example.org", &[]);
}

#[test]
fn a_second_instance_is_found() {
    let install = Install::new();
    let config = fs::read_to_string(install.path("gatepost.toml")).unwrap();
    let other = install.path("other");
    fs::create_dir(&other).unwrap();
    chown(&other, Some(USER), Some(USER)).unwrap();
    let here = install.path("").display().to_string();
    let here = here.trim_end_matches('/');
    // Everything of its own, but the spool.
    let spool = format!("spool_dir = \"{here}/state/spool\"");
    let moved = config
        .replace(&format!("{here}/queue/gatepost"), &format!("{here}/other"))
        .replace(&format!("{here}/run"), &format!("{here}/other"))
        .replace(&format!("{here}/state"), &format!("{here}/other"))
        .replace(&format!("spool_dir = \"{here}/other/spool\""), &spool);
    fs::write(other.join("gatepost.toml"), moved).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("--config").arg(other.join("gatepost.toml")).arg("serve");
    let second = crate::gatepost::Daemon::of(command);
    second.says(&[" is ready."]);
    found(&install, "second-instance", "error", "state/spool", &[]);
}

#[test]
fn a_program_that_was_replaced_is_found() {
    let mut install = Install::new();
    let copy = install.path("gatepost");
    fs::copy(BINARY, &copy).unwrap();
    install.restart_with(&[], &copy);
    fs::remove_file(&copy).unwrap();
    found(&install, "version", "warning", "replaced", &[]);
}

#[test]
fn too_few_open_files_are_found() {
    let mut install = Install::new();
    install.restart_with(&["prlimit", "--nofile=1024:1024"], Path::new(BINARY));
    found(&install, "fd-limit", "warning", "1024", &[]);
}

#[test]
fn a_damaged_database_is_found() {
    let install = Install::new();
    // Large enough to have pages that opening it does not read.
    let list: String = (0..3_000).map(|n| format!("gone{n}@example.net\n")).collect();
    fs::write(install.path("list.txt"), list).unwrap();
    let import = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.arg("--config").arg(install.path("gatepost.toml")).args(args);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", both(&out));
    };
    import(&["suppress", "import", install.path("list.txt").to_str().unwrap()]);
    let trial = install.trial();
    let copy = trial.path("copy.db");
    let db = sqlite_backup(&install.path("state/gatepost.db"), &copy);
    assert!(db.success());
    let mut bytes = fs::read(&copy).unwrap();
    let half = bytes.len() / 2;
    bytes[half..half + 8_192].fill(0xa5);
    fs::write(&copy, bytes).unwrap();
    chown(&copy, Some(USER), Some(USER)).unwrap();
    let config = fs::read_to_string(trial.path("gatepost.toml")).unwrap();
    let section = format!("[suppression]\nstore = \"sqlite:{}\"\n", copy.display());
    fs::write(trial.path("gatepost.toml"), config + &section).unwrap();
    let seed =
        Seed { id: "store-integrity", severity: "error", says: "copy.db", follows: &["store-writable"], put: |_| {} };
    seed.must_be(&trial.examine(&[]));
    fs::write(&copy, "no database\n").unwrap();
    let seed = Seed { id: "store", severity: "error", says: "copy.db", follows: &[], put: |_| {} };
    seed.must_be(&trial.examine(&[]));
}

/// A copy by SQLite's own tool.
fn sqlite_backup(from: &Path, to: &Path) -> std::process::ExitStatus {
    Command::new("sqlite3").arg(from).arg(format!(".backup {}", to.display())).status().expect("sqlite3")
}

#[test]
fn a_gatepost_that_is_stuck_is_found() {
    let install = Install::new();
    install.daemon.signal("STOP");
    found(&install, "daemon-policy", "error", "policy.sock: no answer in time", &["daemon-milter", "daemon-admin"]);
    install.daemon.signal("CONT");
}

/// What only root may see is skipped, and nothing is made of it.
#[test]
fn who_is_not_root_is_told_what_was_not_seen() {
    let install = Install::new();
    let trial = install.trial();
    let doctor = trial.command(&[]);
    let mut stranger = Command::new("setpriv");
    stranger
        .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
        .arg(doctor.get_program())
        .args(doctor.get_args());
    let out = stranger.output().unwrap();
    let said = both(&out);
    assert!(out.status.success() && said.contains("0 errors, 0 warnings, 0 notes"), "{said}");
    assert!(
        said.contains("skipped  socket-access: ") && said.contains("policy.sock cannot be seen: run this as root"),
        "{said}"
    );
    assert!(said.contains("skipped  daemon-policy: "), "{said}");
}

#[test]
fn a_gatepost_that_is_gone_is_found() {
    let mut install = Install::new();
    install.daemon.signal("TERM");
    install.daemon.wait_for_end(wait::LONG);
    found(&install, "socket-missing", "error", "policy.sock", &["daemon-policy", "daemon-milter", "daemon-admin"]);
    found(&install, "daemon-policy", "error", "policy.sock", &["socket-missing", "daemon-milter", "daemon-admin"]);
}

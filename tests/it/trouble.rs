//! The daemon in trouble: a database that is damaged, gone, locked or out of reach, a full disk, a log
//! that cannot be written. Policy goes on, suppression is open, `/health` says so, and a repair is taken.

use crate::asker::{Asker, DUNNO, Question};
use crate::gatepost::{Daemon, Home, OPEN, both, text};
use crate::reload::in_force;
use crate::reload_trouble::give;
use crate::wait;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const SENDERS: &str = "info@example.com OK\nsome@example.com OK\n";

/// A user of its own.
const STRANGER: u32 = 64_125;

fn suppressed(asker: &mut Asker, recipient: &str) -> bool {
    let answer = asker.ask(&Question::rcpt("info@example.com", recipient));
    assert!(answer == DUNNO || answer.starts_with("550 5.1.1 Suppressed since "), "{answer}");
    answer != DUNNO
}

fn standing() -> (Home, Daemon) {
    let home = Home::alone(SENDERS, "");
    home.run(&["suppress", "add", "first@example.net", "second@example.net"]);
    let daemon = home.start();
    (home, daemon)
}

fn database(home: &Home) -> PathBuf {
    home.path("state/gatepost.db")
}

/// All files of the database, as far as they are there.
fn parts(home: &Home) -> Vec<PathBuf> {
    let path = database(home).display().to_string();
    ["", "-wal", "-shm"].iter().map(|end| PathBuf::from(format!("{path}{end}"))).filter(|p| p.exists()).collect()
}

fn healthy(home: &Home, is_healthy: bool) {
    wait::until(&format!("the store to be healthy: {is_healthy}"), wait::LONG, || {
        let (status, health) = home.health();
        let metric = home.metric("gatepost_suppression_store_healthy");
        let all = [status == 200, health["suppression_store"].is_null(), metric == 1.0];
        all.iter().all(|part| *part == is_healthy).then_some(())
    });
}

/// Policy is answered, whatever became of the store.
fn policy_goes_on(home: &Home) {
    assert_eq!(home.ask_sender("info@example.com"), DUNNO);
    assert_eq!(home.ask_sender("other@example.com"), "554 5.7.1 Sender not allowed here");
}

#[test]
fn a_database_that_is_damaged_at_the_start() {
    let home = Home::alone(SENDERS, "");
    fs::write(database(&home), "this is no database, but it is long enough to be taken for one".repeat(100)).unwrap();
    let daemon = home.start();
    daemon.says(&["ERROR", "suppression list: ", "gatepost.db"]);
    healthy(&home, false);
    policy_goes_on(&home);
    assert!(!suppressed(&mut home.asker(), "first@example.net"));
    let out = home.command(&["suppress", "add", "first@example.net"]).output().unwrap();
    assert_eq!(out.status.code(), Some(69), "{}", both(&out));
    // Repaired: moved away, and made anew.
    fs::rename(database(&home), home.path("state/damaged")).unwrap();
    home.run(&["suppress", "add", "first@example.net"]);
    healthy(&home, true);
    assert!(suppressed(&mut home.asker(), "first@example.net"));
}

#[test]
fn a_database_that_is_damaged_while_it_is_in_use() {
    let (home, daemon) = standing();
    let mut asker = home.asker();
    assert!(suppressed(&mut asker, "first@example.net"));
    let kept: Vec<_> = parts(&home).into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
    // All at one moment: what the daemon writes between two of the files would mend a part of it.
    daemon.signal("STOP");
    for (path, bytes) in &kept {
        fs::write(path, vec![0x5a; bytes.len()]).unwrap();
    }
    daemon.signal("CONT");
    healthy(&home, false);
    daemon.says(&["ERROR", "suppression list: "]);
    policy_goes_on(&home);
    // What SQLite still has in memory may be confirmed; the question is answered either way.
    suppressed(&mut asker, "second@example.net");
    // A backup is put in its place.
    parts(&home).iter().for_each(|path| fs::remove_file(path).unwrap());
    let aside = home.path("state/restored");
    fs::write(&aside, &kept[0].1).unwrap();
    if let Some((_, wal)) = kept.iter().find(|(path, _)| path.to_string_lossy().ends_with("-wal")) {
        fs::write(home.path("state/gatepost.db-wal"), wal).unwrap();
    }
    fs::rename(&aside, database(&home)).unwrap();
    healthy(&home, true);
    wait::until("the list to be in force again", wait::LONG, || {
        suppressed(&mut asker, "second@example.net").then_some(())
    });
}

#[test]
fn a_database_that_is_deleted_while_it_is_in_use() {
    let (home, daemon) = standing();
    parts(&home).iter().for_each(|path| fs::remove_file(path).unwrap());
    healthy(&home, false);
    let mut asker = home.asker();
    // What cannot be confirmed passes, and is counted and told.
    assert!(!suppressed(&mut asker, "second@example.net"));
    assert_eq!(home.metric("gatepost_suppression_unconfirmed_total"), 1.0);
    daemon.says(&["ERROR", "suppression is open, the mail passes"]);
    policy_goes_on(&home);
    home.run(&["suppress", "add", "third@example.net"]);
    healthy(&home, true);
    wait::until("the new list", wait::LONG, || suppressed(&mut asker, "third@example.net").then_some(()));
    assert!(!suppressed(&mut asker, "first@example.net"));
}

/// A writer that holds the whole database: in WAL mode readers go on.
#[test]
fn a_database_that_is_locked() {
    let (home, _daemon) = standing();
    let mut asker = home.asker();
    let lock = rusqlite::Connection::open(database(&home)).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert!(suppressed(&mut asker, "first@example.net"));
    policy_goes_on(&home);
    assert_eq!(home.health().0, 200);
    drop(lock);
    home.run(&["suppress", "add", "third@example.net"]);
    wait::until("the new entry", wait::LONG, || suppressed(&mut asker, "third@example.net").then_some(()));
}

/// Somebody took it out of WAL mode and holds it exclusively: it cannot be read at all.
#[test]
fn a_database_that_is_locked_against_readers() {
    let home = Home::alone(SENDERS, "");
    home.run(&["suppress", "add", "first@example.net"]);
    let lock = rusqlite::Connection::open(database(&home)).unwrap();
    lock.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let daemon = home.start();
    daemon.says(&["ERROR", "suppression list: ", "another process"]);
    healthy(&home, false);
    policy_goes_on(&home);
    let mut asker = home.asker();
    assert!(!suppressed(&mut asker, "first@example.net"));
    drop(lock);
    healthy(&home, true);
    wait::until("the list", wait::LONG, || suppressed(&mut asker, "first@example.net").then_some(()));
}

/// As a user who may read nothing of it, and may not write where it stands.
#[test]
fn a_database_out_of_reach() {
    let home = Home::alone(SENDERS, "");
    let shut = home.path("shut");
    fs::create_dir(&shut).unwrap();
    let store = shut.join("gatepost.db");
    let store_line = format!("[suppression]\nstore = \"sqlite:{}\"", store.display());
    home.configure(&store_line, "");
    home.run(&["suppress", "add", "first@example.net"]);
    give(home.config().parent().unwrap(), STRANGER);
    chown(&shut, Some(0), Some(0)).unwrap();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o700)).unwrap();
    let uid = STRANGER.to_string();
    let daemon = home.start_by("setpriv", &["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    daemon.says(&["ERROR", "suppression list: ", "not allowed"]);
    healthy(&home, false);
    policy_goes_on(&home);
    // An operator sees to the modes.
    give(&shut, STRANGER);
    healthy(&home, true);
    assert!(suppressed(&mut home.asker(), "first@example.net"));
    drop(daemon);
    // Without its state folder the daemon does not start.
    chown(home.path("state"), Some(0), Some(0)).unwrap();
    fs::set_permissions(home.path("state"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", crate::gatepost::BINARY]);
    let out = command.args(["serve", "--config"]).arg(home.config()).output().unwrap();
    assert_eq!(out.status.code(), Some(73), "{}", both(&out));
    let state = home.path("state");
    let expected =
        format!("gatepost: {}: cannot use the state folder: Permission denied (os error 13)\n", state.display());
    assert!(text(&out.stderr).ends_with(&expected), "{}", both(&out));
}

/// A small file system; unmounted at the end.
pub struct Small(PathBuf);

impl Small {
    /// One of this size, as mount(8) reads it.
    pub fn at(path: &Path, size: &str) -> Self {
        let size = format!("size={size}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).status().unwrap();
        assert!(status.success(), "mount");
        Self(path.to_owned())
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|n| n > 0) {}
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_full() {
    let home = Home::alone(SENDERS, "");
    let small = Small::at(&home.path("state"), "512k");
    home.run(&["suppress", "add", "first@example.net"]);
    let log = home.path("state/mail.log");
    home.configure(&format!("[event_log]\noutput = \"file:{}\"", log.display()), "");
    let mut daemon = home.start();
    let filler = small.fill();
    let mut asker = home.asker();
    assert!(suppressed(&mut asker, "first@example.net"));
    policy_goes_on(&home);
    let out = home.command(&["suppress", "add", "second@example.net"]).output().unwrap();
    assert_eq!(out.status.code(), Some(74), "{}", both(&out));
    // An edit is in force all the same; only its copy cannot be kept.
    home.append_policy("allowed_senders", "new@example.com OK");
    in_force(&home, Instant::now(), "new@example.com", true);
    daemon.says(&["ERROR", "Cannot keep a copy of the last good policy"]);
    daemon.says(&["ERROR", "Cannot write to the event log; its lines wait"]);
    fs::remove_file(&filler).unwrap();
    daemon.says(&["INFO", "The event log can be written again"]);
    wait::until("the lines that waited", wait::LONG, || {
        let text = fs::read_to_string(&log).unwrap();
        (text.contains("from=<other@example.com>") && text.ends_with('\n')).then_some(())
    });
    let lines = fs::read_to_string(&log).unwrap();
    assert!(lines.lines().all(|line| line.matches("decision=").count() == 1), "{lines}");
    home.run(&["suppress", "add", "second@example.net"]);
    wait::until("the entry", wait::LONG, || suppressed(&mut asker, "second@example.net").then_some(()));
    // Full again at the end: it ends in time, and says what was lost.
    small.fill();
    daemon.signal("TERM");
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
    assert!(took < wait::promised(Duration::from_secs(1)), "{took:?}");
}

#[test]
fn a_log_that_is_rotated_and_one_that_cannot_be_opened() {
    let home = Home::alone(SENDERS, "");
    let daemon = home.start();
    let refused = |n: u32| assert!(home.ask_sender(&format!("no{n}@example.com")).starts_with("554"));
    refused(1);
    home.log_line(&["no1@"]);
    let (log, old) = (home.path("mail.log"), home.path("mail.log.1"));
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o640);
    fs::rename(&log, &old).unwrap();
    refused(2);
    home.log_line(&["no2@"]);
    assert!(!home.log().contains("no1@") && !fs::read_to_string(&old).unwrap().contains("no2@"));
    // copytruncate
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    refused(3);
    let line = home.log_line(&["no3@"]);
    assert_eq!(home.log(), line + "\n");
    // A folder in its place: the lines wait, the answers do not.
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    (4..8).for_each(refused);
    daemon.says(&["ERROR", "Cannot write to the event log; its lines wait"]);
    fs::remove_dir(&log).unwrap();
    home.log_line(&["no7@"]);
    assert_eq!(home.log().lines().count(), 4, "{}", home.log());
    daemon.says(&["INFO", "The event log can be written again"]);
    drop(daemon);
    // At the start it is said at once.
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    let mut daemon = home.spawn();
    assert_eq!(daemon.wait_for_end(wait::LONG).0.code(), Some(73));
    assert!(daemon.stderr().contains("cannot open the event log: "), "{}", daemon.stderr());
}

/// In a mount namespace of its own, where there is no `/dev/log`, whatever the machine has.
#[test]
fn no_syslog_daemon_holds_up_nobody() {
    let home = Home::alone(SENDERS, OPEN);
    home.write_policy("allowed_recipients", "example.net OK\n");
    home.configure("[event_log]\noutput = \"syslog\"", "");
    let hide = "[ -e /dev/log ] && mount --bind /dev/null /dev/log; exec \"$@\"";
    let mut daemon = home.start_by("unshare", &["--mount", "sh", "-c", hide, "sh"]);
    let mut asker = home.asker();
    let refused = Question::rcpt("info@example.com", "user@example.org");
    assert!(asker.ask(&refused).starts_with("554"));
    daemon.says(&["ERROR", "Cannot write to the event log; its lines wait"]);
    // More than may wait: dropped and counted.
    for _ in 0..200 {
        asker.send(&refused.bytes().repeat(100));
        (0..100).for_each(|_| assert!(asker.answer().unwrap().starts_with("554")));
    }
    let dropped = home.metric("gatepost_log_lines_dropped_total");
    assert!((3_000.0..4_000.0).contains(&dropped), "{dropped}");
    assert_eq!(home.health().0, 200);
    daemon.signal("TERM");
    let (status, took) = daemon.wait_for_end(wait::LONG);
    assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
    assert!(took < wait::promised(Duration::from_secs(1)), "{took:?}");
    // Whichever of the two gave up first, the writer or who waited for it.
    let told = ["the event log did not take its last lines", "The event log does not take its lines"];
    assert!(told.iter().any(|words| daemon.stderr().contains(words)), "{}", daemon.stderr());
}

//! Edits that go wrong: half-written, broken, gone, or where no file event comes. The last good rules
//! stay in force, loudly, and a repair is taken.

use crate::asker::DUNNO;
use crate::gatepost::{Daemon, Home, OPEN, both, text};
use crate::reload::{IN_FORCE, in_force, list, passes};
use crate::wait;
use rustix::fs::inotify;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn standing(senders: &str) -> (Home, Daemon) {
    let home = Home::alone(senders, "");
    let daemon = home.start();
    (home, daemon)
}

/// The place of a problem, as logged and as `gatepost check` prints it.
fn place(home: &Home, file: &str, at: &str) -> String {
    format!("{}:{at}:", home.policy_dir().join(file).display())
}

#[test]
fn every_broken_file_keeps_the_last_good_rules_and_says_where() {
    let (home, daemon) = standing(&list(4));
    for (n, (file, broken, at)) in [
        ("allowed_senders", list(5) + "x@example.com OK clents=10.0.0.1\n", "6:18"),
        ("allowed_recipients", "example.net OK\nuser@example.com\n".to_owned(), "2:17"),
        ("policy.toml", "[[limit]]\nname = \"a\"\nkey = \"all\"\nrate = \"0/h\"\n".to_owned(), "4:9"),
    ]
    .into_iter()
    .enumerate()
    {
        let good = fs::read(home.policy_dir().join(file)).ok();
        home.write_policy(file, &broken);
        let place = place(&home, file, at);
        let took = wait::true_within("the problem to be known", wait::LONG, || home.health().0 == 503);
        assert!(took <= wait::promised(IN_FORCE), "{took:?}");
        daemon.says(&["ERROR", &place]);
        let (_, health) = home.health();
        assert!(health["policy_problems"][0].as_str().unwrap().starts_with(&place), "{health}");
        assert_eq!(health["status"], "degraded");
        assert_eq!(home.metric("gatepost_reload_failed"), 1.0);
        assert_eq!(home.metric("gatepost_reload_failures_total"), f64::from(n as u32 + 1));
        let check = home.command(&["check"]).output().unwrap();
        assert!(text(&check.stdout).contains(&place), "{}", both(&check));
        assert_eq!(check.status.code(), Some(78));
        assert_eq!(home.ask_sender("s3@example.com"), DUNNO);
        assert!(home.ask_sender("s4@example.com").starts_with("554"));
        match good {
            Some(good) => fs::write(home.policy_dir().join(file), good).unwrap(),
            None => fs::remove_file(home.policy_dir().join(file)).unwrap(),
        }
        let took = wait::true_within("the repair", wait::LONG, || home.health().0 == 200);
        assert!(took <= wait::promised(IN_FORCE), "{took:?}");
        assert_eq!(home.metric("gatepost_reload_failed"), 0.0);
    }
}

#[test]
fn a_good_file_beside_a_broken_one_is_not_in_force() {
    let (home, daemon) = standing(&list(4));
    home.write_policy("policy.toml", "[senders]\nmode = \"enforced\"\n");
    daemon.says(&["policy.toml:2:8:"]);
    home.write_policy("allowed_senders", &(list(4) + "new@example.com OK\n"));
    wait::until("the second edit to be read", wait::LONG, || {
        (home.metric("gatepost_reload_failures_total") == 2.0).then_some(())
    });
    assert!(home.ask_sender("new@example.com").starts_with("554"));
    home.write_policy("policy.toml", "[senders]\nmode = \"enforce\"\n");
    in_force(&home, Instant::now(), "new@example.com", true);
}

#[test]
fn a_list_that_goes_keeps_the_last_one_and_may_come_back() {
    let (home, daemon) = standing(&list(4));
    fs::remove_file(home.policy_dir().join("allowed_senders")).unwrap();
    daemon.says(&["ERROR", &place(&home, "allowed_senders", "1:1"), "is not there"]);
    assert_eq!(home.ask_sender("s3@example.com"), DUNNO);
    home.write_policy("allowed_senders", &list(5));
    in_force(&home, Instant::now(), "s4@example.com", true);
    fs::remove_dir_all(home.policy_dir()).unwrap();
    daemon.says(&["ERROR", "the policy folder is not there"]);
    assert_eq!(home.ask_sender("s4@example.com"), DUNNO);
    fs::create_dir(home.policy_dir()).unwrap();
    home.write_policy("allowed_senders", &list(6));
    in_force(&home, Instant::now(), "s5@example.com", true);
}

#[test]
fn what_is_written_slowly_is_not_taken_before_it_is_closed() {
    let (home, daemon) = standing(&list(4));
    let mut asker = home.asker();
    let mut file = fs::File::create(home.policy_dir().join("allowed_senders")).unwrap();
    // Longer than the poll; a line at a time, as the condition is asked.
    let (start, mut last) = (Instant::now(), Instant::now());
    file.write_all(b"s0@example.com OK\n").unwrap();
    while start.elapsed() < Duration::from_millis(2_500) {
        assert!(passes(&mut asker, "s3@example.com"), "half a file was taken: {}", daemon.stderr());
        if last.elapsed() > Duration::from_millis(100) {
            file.write_all(b"x@example.com OK\n").unwrap();
            last = Instant::now();
        }
    }
    assert_eq!(home.metric("gatepost_reload_generation"), 1.0);
    file.write_all(b"new@example.com OK\n").unwrap();
    drop(file);
    in_force(&home, Instant::now(), "new@example.com", true);
}

#[test]
fn a_loss_of_more_than_half_waits_five_seconds() {
    let (home, daemon) = standing(&list(10));
    home.write_policy("allowed_senders", &list(4));
    let saved = Instant::now();
    daemon.says(&["WARN", "lost more than half of its entries (10 before, 4 now)", "SIGHUP takes it at once"]);
    let mut asker = home.asker();
    wait::until("the shorter list", wait::LONG, || (!passes(&mut asker, "s9@example.com")).then_some(()));
    let took = saved.elapsed();
    assert!(took > Duration::from_millis(4_900) && took < wait::promised(Duration::from_secs(6)), "{took:?}");
    // Half is not more than half.
    home.write_policy("allowed_senders", &list(2));
    in_force(&home, Instant::now(), "s3@example.com", false);
}

#[test]
fn a_loss_that_is_made_good_is_never_in_force() {
    let (home, daemon) = standing(&list(10));
    home.write_policy("allowed_senders", &list(4));
    daemon.says(&["lost more than half"]);
    home.write_policy("allowed_senders", &(list(10) + "new@example.com OK\n"));
    in_force(&home, Instant::now(), "new@example.com", true);
    assert_eq!(home.ask_sender("s9@example.com"), DUNNO);
    // SIGHUP: somebody says that it is meant.
    home.write_policy("allowed_senders", &list(3));
    wait::until("the second warning", wait::LONG, || {
        (daemon.stderr().matches("lost more than half").count() == 2).then_some(())
    });
    daemon.signal("HUP");
    in_force(&home, Instant::now(), "s9@example.com", false);
}

#[test]
fn a_restart_with_a_broken_folder_uses_the_last_good_rules_loudly() {
    let home = Home::alone(&list(4), "");
    let mut daemon = home.start();
    home.append_policy("allowed_senders", "last@example.com OK");
    in_force(&home, Instant::now(), "last@example.com", true);
    home.append_policy("allowed_senders", "broken@example.com");
    daemon.says(&["allowed_senders:6:19:"]);
    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    let daemon = home.start();
    daemon.says(&["ERROR", &place(&home, "allowed_senders", "6:19")]);
    daemon.says(&["ERROR", "starting with the last good rules"]);
    assert_eq!(home.ask_sender("last@example.com"), DUNNO);
    assert_eq!((home.health().0, home.metric("gatepost_reload_failed")), (503, 1.0));
    home.write_policy("allowed_senders", &list(5));
    in_force(&home, Instant::now(), "s4@example.com", true);
    assert_eq!((home.health().0, home.metric("gatepost_reload_failed")), (200, 0.0));
}

#[test]
fn a_first_start_is_refused_with_the_reason() {
    let refused = |home: &Home, senders: Option<&str>, at: &str, message: &str| {
        let path = home.policy_dir().join("allowed_senders");
        match senders {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let mut daemon = home.spawn();
        let (status, _) = daemon.wait_for_end(wait::LONG);
        assert_eq!(status.code(), Some(78), "{}", daemon.stderr());
        let expected = format!(
            "{} {message}\ngatepost: the policy folder has problems, and there is no last good copy to start with\n",
            place(home, "allowed_senders", at)
        );
        assert_eq!(daemon.stderr(), expected);
        assert!(!home.socket.exists());
    };
    let home = Home::alone(&list(1), "");
    refused(
        &home,
        Some("info@example.com\n"),
        "1:17",
        "no action after \"info@example.com\": write \"info@example.com OK\"",
    );
    refused(
        &home,
        Some("# all commented out\n"),
        "1:1",
        "no entries, which would refuse everybody: add some, or the line \"# gatepost: empty on purpose\" if that \
         is meant",
    );
    refused(
        &home,
        None,
        "1:1",
        "is not there, and without it every sender would be refused; create it (for an empty list, write the line \
         \"# gatepost: empty on purpose\" into it), or set mode = \"off\" in [senders] of policy.toml",
    );
    // On purpose, or off, it starts.
    home.write_policy("allowed_senders", "# gatepost: empty on purpose\n");
    drop(home.start());
    let off = Home::alone(&list(1), OPEN);
    fs::remove_file(off.policy_dir().join("allowed_senders")).unwrap();
    let _daemon = off.start();
    assert_eq!(off.ask_sender("anyone@example.com"), DUNNO);
}

#[test]
fn sighup_says_what_needs_a_restart_and_a_broken_config_changes_nothing() {
    let (home, daemon) = standing(&list(4));
    daemon.signal("HUP");
    daemon.says(&["INFO", "The policy folder is unchanged", "generation=1"]);
    home.configure("socket_mode = \"0600\"\nmax_connections = 2000", "");
    daemon.signal("HUP");
    daemon.says(&["WARN", "only in force after a restart: delegation.socket_mode, delegation.max_connections."]);
    let sound = fs::read_to_string(home.config()).unwrap();
    fs::write(home.config(), sound.clone() + "[nonsense]\n").unwrap();
    daemon.signal("HUP");
    daemon.says(&["ERROR", "gatepost.toml:", "nonsense"]);
    daemon.says(&["ERROR", "gatepost.toml has problems; the settings in force stay."]);
    assert_eq!(home.ask_sender("s0@example.com"), DUNNO);
    // What is live: the policy folder and [postfix].
    fs::create_dir(home.path("other")).unwrap();
    fs::write(home.path("other/allowed_senders"), list(6)).unwrap();
    fs::write(home.config(), sound.replace("/policy\"", "/other\"")).unwrap();
    daemon.signal("HUP");
    in_force(&home, Instant::now(), "s5@example.com", true);
    fs::write(home.path("other/allowed_senders"), list(7)).unwrap();
    in_force(&home, Instant::now(), "s6@example.com", true);
    assert!(home.ask_sender("s0").starts_with("DUNNO"), "myorigin");
    fs::write(home.config(), sound.replace("/policy\"", "/other\"").replace("\"example.com\"", "\"example.org\""))
        .unwrap();
    daemon.signal("HUP");
    in_force(&home, Instant::now(), "s0", false);
    // With a broken folder [postfix] waits until it is mended, and that is said.
    fs::write(home.path("other/allowed_senders"), "broken\n").unwrap();
    fs::write(home.config(), sound.replace("/policy\"", "/other\"")).unwrap();
    daemon.signal("HUP");
    daemon.says(&["WARN", "[postfix] of gatepost.toml has changed"]);
    fs::write(home.path("other/allowed_senders"), list(7)).unwrap();
    in_force(&home, Instant::now(), "s0", true);
}

/// The user for whom the file events run out.
const NOBODY_ELSE: u32 = 64_123;

/// Holds all inotify instances of its user until its input ends; part of the test below.
#[test]
#[ignore = "part of another test"]
fn part_that_holds_all_file_events() {
    if std::env::var_os("GATEPOST_TEST_HOLD").is_none() {
        return;
    }
    let held: Vec<_> = std::iter::from_fn(|| inotify::init(inotify::CreateFlags::CLOEXEC).ok()).collect();
    println!("held {}", held.len());
    let _ = std::io::stdin().read(&mut [0]);
}

/// Ends with its input.
struct Holder(Child);

impl Holder {
    fn start(uid: u32) -> Self {
        let uid = uid.to_string();
        let mut child = Command::new("setpriv")
            .args(["--reuid", &uid, "--regid", &uid, "--clear-groups"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "reload_trouble::part_that_holds_all_file_events"])
            .env("GATEPOST_TEST_HOLD", "1")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut said, mut byte) = (String::new(), [0]);
        let out = child.stdout.as_mut().unwrap();
        while !(said.contains("held ") && said.ends_with('\n')) {
            assert_eq!(out.read(&mut byte).unwrap(), 1, "{said}");
            said.push(char::from(byte[0]));
        }
        assert!(!said.contains("held 0\n"), "{said}");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives all of a home to a user.
pub fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), uid));
    }
}

#[test]
fn where_no_file_events_come_the_poll_takes_an_edit() {
    let home = Home::alone(&list(4), "");
    give(home.config().parent().unwrap(), NOBODY_ELSE);
    let holder = Holder::start(NOBODY_ELSE);
    let uid = NOBODY_ELSE.to_string();
    let daemon = home.start_by("setpriv", &["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    daemon.says(&["WARN", "No file events"]);
    home.append_policy("allowed_senders", "polled@example.com OK");
    let saved = Instant::now();
    let mut asker = home.asker();
    wait::until("the poll", wait::LONG, || passes(&mut asker, "polled@example.com").then_some(()));
    // Two seconds, and two more in which it must be quiet.
    let took = saved.elapsed();
    assert!(took > Duration::from_millis(1_900) && took < wait::promised(Duration::from_secs(5)), "{took:?}");
    assert_eq!(daemon.stderr().matches("No file events").count(), 1, "{}", daemon.stderr());
    drop(holder);
    daemon.says(&["INFO", "File events come again"]);
    home.append_policy("allowed_senders", "event@example.com OK");
    in_force(&home, Instant::now(), "event@example.com", true);
}

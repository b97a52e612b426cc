//! Events while the database, the disk, the log or the clock is in trouble: nothing leaves the queue that is not
//! on disk, and all of it is there once the trouble is over.

use crate::gatepost::{Daemon, Home};
use crate::queue::{Asking, Sample, Scene, Settings, configure};
use crate::reload_trouble::give;
use crate::trouble::Small;
use crate::wait;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// A user of its own.
const STRANGER: u32 = 64_126;

/// Long enough for several tries of the daemon.
const A_WHILE: Duration = Duration::from_secs(4);

/// How often the daemon complains of the store.
fn complaints(daemon: &Daemon) -> Vec<String> {
    let stderr = daemon.stderr();
    stderr.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).map(str::to_owned).collect()
}

/// Events come, and for a while none is deleted; questions are answered. Gives what the daemon complained of.
fn nothing_leaves(scene: &Scene, daemon: &Daemon, events: std::ops::Range<u64>) -> Vec<String> {
    let asking = Asking::begin(scene.home());
    let deleted = scene.queue.tally().deleted;
    scene.send(events);
    std::thread::sleep(A_WHILE);
    assert_eq!(scene.queue.tally().deleted, deleted);
    asking.undisturbed();
    complaints(daemon)
}

#[test]
fn a_disk_that_is_full() {
    let scene = Scene::new();
    let home = scene.home();
    let small = Small::at(&home.path("state"), "16m");
    let daemon = scene.start();
    scene.send(0..20);
    scene.drained();
    let filler = small.fill();
    // What SQLite can still write over takes a few events more.
    wait::until("the disk to be too full for an event", wait::LONG, || {
        let n = scene.queue.tally().sent;
        scene.send(n..n + 1);
        std::thread::sleep(Duration::from_millis(20));
        (scene.queue.left() > 5).then_some(())
    });
    let sent = scene.queue.tally().sent;
    let said = nothing_leaves(&scene, &daemon, sent..sent + 20);
    assert!((1..=4).contains(&said.len()), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("full")), "{said:#?}");
    assert!(home.metric("gatepost_events_store_errors_total") >= 1.0);
    fs::remove_file(filler).unwrap();
    scene.complete(sent + 20);
}

/// As a user who may read the database and not write it.
#[test]
fn a_database_that_may_only_be_read() {
    let scene = Scene::new();
    let home = scene.home();
    home.run(&["suppress", "add", "first@example.net"]);
    give(home.config().parent().unwrap(), STRANGER);
    let database = home.path("state/gatepost.db");
    chown(&database, Some(0), Some(0)).unwrap();
    fs::set_permissions(&database, Permissions::from_mode(0o644)).unwrap();
    let uid = STRANGER.to_string();
    let daemon = scene.start_in(home, &["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"]);
    let said = nothing_leaves(&scene, &daemon, 0..20);
    assert!((1..=4).contains(&said.len()), "{said:#?}");
    chown(&database, Some(STRANGER), Some(STRANGER)).unwrap();
    scene.complete(20);
}

#[test]
fn a_database_that_is_damaged_at_the_start() {
    let scene = Scene::new();
    let home = scene.home();
    let database = home.path("state/gatepost.db");
    fs::write(&database, "this is no database, but it is long enough to be taken for one".repeat(100)).unwrap();
    let daemon = scene.start();
    let said = nothing_leaves(&scene, &daemon, 0..20);
    assert!((1..=4).contains(&said.len()), "{said:#?}");
    assert_eq!(home.health().0, 503);
    // Moved away, and made anew by an operator's command.
    fs::rename(&database, home.path("state/damaged")).unwrap();
    home.run(&["suppress", "add", "first@example.net"]);
    scene.complete(20);
    wait::until("the daemon to be well", wait::LONG, || (home.health().0 == 200).then_some(()));
}

/// Another program writes for a long time.
#[test]
fn a_database_that_is_locked() {
    let scene = Scene::new();
    let daemon = scene.start();
    scene.send(0..10);
    scene.complete(10);
    let lock = rusqlite::Connection::open(scene.home().path("state/gatepost.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    nothing_leaves(&scene, &daemon, 10..30);
    drop(lock);
    scene.complete(30);
}

/// Sets the daemon's clock, and only that of the day: the monotonic one goes on, as in the kernel.
struct Clock(PathBuf);

impl Clock {
    fn start(scene: &Scene) -> (Self, Daemon) {
        let clock = Self(scene.home().path("clock"));
        clock.set("+0");
        let library = fs::read_dir("/usr/lib")
            .unwrap()
            .map(|entry| entry.unwrap().path().join("faketime/libfaketime.so.1"))
            .find(|path| path.exists())
            .expect("Debian's package faketime is installed");
        let env = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", clock.0.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        let daemon = scene.spawn_in(scene.home(), &[], &env);
        daemon.says(&[" is ready."]);
        (clock, daemon)
    }

    fn set(&self, offset: &str) {
        fs::write(&self.0, format!("{offset}\n")).unwrap();
    }
}

#[test]
fn a_clock_that_is_set_back() {
    let scene = Scene::new();
    let (clock, mut daemon) = Clock::start(&scene);
    scene.send(0..20);
    scene.complete(20);
    let asking = Asking::begin(scene.home());
    // Before all that the events tell of, then half of the way back.
    for (offset, from) in [("-900d", 20), ("-1d", 40), ("+0", 60)] {
        clock.set(offset);
        scene.send(from..from + 20);
        scene.complete(from + 20);
    }
    asking.undisturbed();
    assert!(daemon.ended().is_none());
    // What is known stays known, whenever it was seen.
    let log = scene.home().log();
    assert!(log.lines().any(|line| line.starts_with(&year(-900))), "the clock was not set\n{log}");
    // (What was seen 900 days ago may be forgotten.)
    (0..20).chain(40..80).for_each(|n| scene.send_again(n));
    scene.complete(80);
}

/// The year of so many days from now.
fn year(days: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    jiff::Timestamp::from_second(now + days * 86_400).unwrap().strftime("%Y-").to_string()
}

/// Two daemons, each with a state of its own, share a queue: each event is one's or the other's.
#[test]
fn two_daemons_on_one_queue() {
    let settings = Settings { visibility: Duration::from_secs(10), ..Settings::default() };
    let scene = Scene::of(settings, Sample::MIXED, 2);
    let daemons: Vec<_> = scene.homes.iter().map(|home| scene.start_in(home, &[])).collect();
    scene.send(0..2000);
    scene.complete(2000);
    assert!(scene.queue.records().iter().all(|r| r.deleted.is_some() && r.delete_calls == r.received));
    for home in &scene.homes {
        assert!(home.metric("gatepost_events_lines_total") > 0.0, "one of the two had nothing to do");
    }
    drop(daemons);
}

/// `/dev/log` as a daemon in a mount namespace of its own sees it: a `/dev` of ours, in which the socket comes and
/// goes. What comes is written to the home's log.
struct Syslog {
    socket: PathBuf,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Syslog {
    fn start(home: &Home) -> Self {
        let socket = home.path("log.sock");
        let listener = UnixDatagram::bind(&socket).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
        let mut log = File::options().create(true).append(true).open(home.path("mail.log")).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let thread = std::thread::spawn(move || {
            let mut datagram = [0; 4096];
            // What has arrived is read to the end: syslogd has taken it.
            loop {
                listener.set_nonblocking(stop.load(SeqCst)).unwrap();
                match listener.recv(&mut datagram) {
                    Ok(n) => log.write_all(&[&datagram[..n], b"\n"].concat()).unwrap(),
                    Err(_) if stop.load(SeqCst) => return,
                    Err(_) => {}
                }
            }
        });
        Self { socket, over, thread }
    }

    /// It goes: first nobody can reach it, then it ends.
    fn stop(self) {
        fs::remove_file(&self.socket).unwrap();
        self.over.store(true, SeqCst);
        self.thread.join().unwrap();
    }
}

/// What puts a `/dev` of ours in the place of the machine's, for one process.
fn namespace(home: &Home) -> Vec<String> {
    let dev = home.path("dev");
    let log = home.path("log.sock");
    fs::create_dir_all(&dev).unwrap();
    let script = format!(
        "mount -t tmpfs tmpfs {dev} && cp -a /dev/null /dev/zero /dev/random /dev/urandom {dev}/ && \
         ln -s {log} {dev}/log && mount --bind {dev} /dev && exec \"$@\"",
        dev = dev.display(),
        log = log.display()
    );
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).into()
}

#[test]
fn syslog_goes_and_comes_back() {
    let scene = Scene::new();
    let home = scene.home();
    configure(home, &scene.queue, "[event_log]\noutput = \"syslog\"");
    let by = namespace(home);
    let by: Vec<&str> = by.iter().map(String::as_str).collect();
    let syslog = Syslog::start(home);
    let mut daemon = scene.start_in(home, &by);
    scene.send(0..20);
    scene.complete(20);
    let asking = Asking::begin(home);
    syslog.stop();
    // Events go on: their lines are on disk.
    scene.send(20..60);
    scene.drained();
    wait::until("the lines to wait", wait::LONG, || {
        (home.metric("gatepost_events_outbox_lines") >= 40.0).then_some(())
    });
    assert!((1..=2).contains(&complaints(&daemon).len()), "{}", daemon.stderr());
    assert_eq!(scene.watch.lines().len(), 20);
    let syslog = Syslog::start(home);
    scene.complete(60);
    asking.undisturbed();
    wait::until("no line to wait", wait::LONG, || (home.metric("gatepost_events_outbox_lines") == 0.0).then_some(()));
    // The same over a crash.
    syslog.stop();
    scene.send(60..80);
    scene.drained();
    daemon.signal("KILL");
    daemon.wait_for_end(wait::LONG);
    let syslog = Syslog::start(home);
    let _daemon = scene.start_in(home, &by);
    scene.complete(80);
    let priority =
        |n: u64| home.log().lines().find(|l| l.contains(&crate::queue::sample::message_id(n))).map(str::to_owned);
    assert!(priority(0).is_some_and(|line| line.starts_with("<22>")), "{:?}", priority(0));
    assert!(priority(2).is_some_and(|line| line.starts_with("<20>")), "{:?}", priority(2));
    syslog.stop();
}

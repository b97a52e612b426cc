//! The suppression list from end to end: store, index, following, and the commands.

use crate::brake::bounce_to;
use crate::wait;
use gatepost::cli::output::{Console, Failure};
use gatepost::cli::signals::Signals;
use gatepost::cli::suppress::{
    AboutArgs, AddArgs, ExportArgs, ExportFormat, FilterArgs, Format, ImportArgs, ListArgs, RemoveArgs,
    SuppressCommand, run,
};
use gatepost::daemon::Config;
use gatepost::mail::Address;
use gatepost::store::{
    Batch, Entry, Filter, MAX_CHANGES, MAX_EVIDENCE_BYTES, OnExisting, Op, Origin, Reader, Reason, Store, StoreError,
};
use gatepost::suppression::{Confirmer, Follower, Index};
use proptest::prelude::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NOW: i64 = 1_800_000_000;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("gatepost.db");
    (folder, path)
}

fn entry(address: &str) -> Entry {
    Entry {
        address: Address::parse(address).expect(address),
        spelling: None,
        reason: Reason::Bounce,
        evidence: "smtp; 550 5.1.1 user unknown".into(),
        source: Origin::Event,
        created: NOW,
        expires: None,
    }
}

fn put(store: &mut Store, addresses: &[&str]) {
    let entries: Vec<_> = addresses.iter().map(|a| entry(a)).collect();
    store.put(&entries, OnExisting::Replace, NOW).expect("put");
}

fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn within(limit: Duration, what: &str, done: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

/// What a command printed.
struct Ran {
    code: Result<u8, Failure>,
    out: String,
    err: String,
}

fn cli_with(path: &Path, json: bool, input: Option<&str>, command: &SuppressCommand) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut answers = input.unwrap_or("").as_bytes();
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        input: &mut answers,
        input_is_terminal: input.is_some(),
        err_is_terminal: false,
        now: NOW,
        signals: &Signals::default(),
    };
    let config = Config { suppression_store: path.to_owned(), ..Config::default() };
    let code = run(command, &config, json, &mut console);
    Ran { code, out: String::from_utf8(out).expect("UTF-8"), err: String::from_utf8(err).expect("UTF-8") }
}

fn cli(path: &Path, command: &SuppressCommand) -> Ran {
    cli_with(path, false, None, command)
}

fn about() -> AboutArgs {
    AboutArgs { reason: Reason::Manual, note: None, ttl: "never".into() }
}

fn add_args(addresses: &[&str]) -> AddArgs {
    AddArgs { addresses: addresses.iter().map(ToString::to_string).collect(), about: about() }
}

fn import_args(file: PathBuf) -> ImportArgs {
    ImportArgs { file, format: None, about: about() }
}

fn list(path: &Path) -> String {
    let ran = cli_with(path, true, None, &SuppressCommand::List(ListArgs::default()));
    assert_eq!(ran.code, Ok(0), "{}", ran.err);
    ran.out
}

#[test]
fn an_entry_is_kept_whole() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let full = Entry {
        spelling: Some("Gone.User@Example.com".into()),
        expires: Some(NOW + 60),
        reason: Reason::MailboxFull,
        ..entry("gone.user@example.com")
    };
    store.put(std::slice::from_ref(&full), OnExisting::Replace, NOW).expect("put");
    assert_eq!(Reader::open(&path).expect("reader").get("gone.user@example.com"), Ok(Some(full)));
    let long = Entry { evidence: format!("a\r\nb\0c{}", "é".repeat(3_000)), ..entry("x@example.com") };
    store.put(&[long], OnExisting::Replace, NOW).expect("put");
    let kept = store.get("x@example.com").expect("get").expect("entry").evidence;
    assert!(kept.starts_with("a  b cé") && kept.len() <= MAX_EVIDENCE_BYTES && kept.len() > MAX_EVIDENCE_BYTES - 2);
}

#[test]
fn an_existing_entry_is_replaced_or_prolonged() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    put(&mut store, &["a@example.com"]);
    let later = Entry {
        created: NOW + 9,
        evidence: String::new(),
        reason: Reason::Manual,
        expires: Some(NOW + 100),
        ..entry("a@example.com")
    };
    let counts = store.put(std::slice::from_ref(&later), OnExisting::KeepLonger, NOW).expect("put");
    assert_eq!((counts.added, counts.renewed, counts.unchanged), (0, 0, 1), "never is longer");
    let counts = store.put(std::slice::from_ref(&later), OnExisting::Replace, NOW).expect("put");
    assert_eq!((counts.added, counts.renewed, counts.unchanged), (0, 1, 0));
    let now = store.get("a@example.com").expect("get").expect("entry");
    assert_eq!((now.reason, now.created, now.expires), (Reason::Manual, NOW, Some(NOW + 100)));
    assert_eq!(now.evidence, "smtp; 550 5.1.1 user unknown", "an empty note does not erase the bounce");
    store.put(&[later], OnExisting::KeepLonger, NOW + 100).expect("put");
    let now = store.get("a@example.com").expect("get").expect("entry");
    assert_eq!(now.created, NOW + 9, "what has expired is replaced");
}

/// Whether an event makes `entry`.
fn comes_back(store: &mut Store, entry: Entry, now: i64) -> bool {
    let effects = [bounce_to(entry)];
    let batch = Batch { effects: &effects, quarantine: &[], now, brake: None, written: None, late_until: None };
    store.apply(&batch).expect("apply").added == 1
}

#[test]
fn an_older_event_does_not_bring_back_what_was_removed() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    put(&mut store, &["a@example.com", "b@example.org", "c@example.org"]);
    store.remove(&[Address::parse("a@example.com").expect("address")], NOW + 10).expect("remove");
    let of_org = Filter { domain: Some("example.org".into()), ..Filter::default() };
    assert_eq!(store.remove_matching(&of_org, NOW + 20).expect("remove").entries, 2);
    let event = |address: &str, created| Entry { created, ..entry(address) };
    for (address, created, may) in [
        ("a@example.com", NOW + 10, false),
        ("a@example.com", NOW + 11, true),
        ("b@example.org", NOW + 20, false),
        ("new@example.org", NOW + 20, false),
        ("new@example.org", NOW + 21, true),
        ("new@sub.example.org", NOW, true),
        ("new@example.com", NOW, true),
    ] {
        assert_eq!(comes_back(&mut store, event(address, created), NOW + 30), may, "{address} {created}");
    }
    let gone = [Address::parse("a@example.com").expect("address")];
    store.remove(&gone, NOW + 30).expect("remove");
    let added = Entry { expires: Some(NOW + 35), ..entry("a@example.com") };
    store.put(&[added], OnExisting::Replace, NOW + 30).expect("put");
    assert!(comes_back(&mut store, event("a@example.com", NOW), NOW + 40), "what an operator adds lifts the tombstone");
}

#[test]
fn purging_drops_expired_entries_and_old_tombstones() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    store.put(&[Entry { expires: Some(NOW + 5), ..entry("a@example.com") }], OnExisting::Replace, NOW).expect("put");
    store.remove(&[Address::parse("b@example.com").expect("address")], NOW).expect("remove");
    store.remove_matching(&Filter { text: Some("x".into()), ..Filter::default() }, NOW).expect("remove");
    store.purge(NOW + 4).expect("purge");
    assert!(store.get("a@example.com").expect("get").is_some());
    assert!(!comes_back(&mut store, entry("b@example.com"), NOW + 4));
    let later = NOW + gatepost::store::TOMBSTONE_SECONDS;
    store.purge(later).expect("purge");
    assert_eq!(store.get("a@example.com"), Ok(None));
    assert!(comes_back(&mut store, Entry { evidence: "x".into(), ..entry("b@example.com") }, later));
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let (folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    put(&mut store, &["a@example.com"]);
    // what is on disk at this moment, with the connection still open
    let copy = folder.path().join("copy.db");
    for suffix in ["", "-wal"] {
        let name = |p: &Path| format!("{}{suffix}", p.display());
        std::fs::copy(name(&path), name(&copy)).expect("copy");
    }
    assert!(Store::open(&copy).expect("open").get("a@example.com").expect("get").is_some());
}

#[test]
fn the_feed_tells_every_change_and_knows_a_foreign_mark() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let reader = Reader::open(&path).expect("reader");
    let mark = reader.mark().expect("mark");
    put(&mut store, &["a@example.com"]);
    store.put(&[Entry { expires: Some(NOW + 9), ..entry("a@example.com") }], OnExisting::Replace, NOW).expect("put");
    store.remove(&[Address::parse("a@example.com").expect("address")], NOW).expect("remove");
    let mut seen = Vec::new();
    assert_eq!(reader.changes(&mark, |c| seen.push((c.op, c.expires))), Ok(true));
    assert_eq!(seen, [(Op::Add, None), (Op::Update, Some(NOW + 9)), (Op::Remove, None)]);
    let (_other_folder, other_path) = self::folder();
    let other = Store::open(&other_path).expect("open");
    assert_eq!(other.changes(&mark, |_| ()), Ok(false), "the mark of another database");
}

#[test]
fn a_database_that_is_not_ours_or_newer_is_refused() {
    let (folder, path) = folder();
    drop(Store::open(&path).expect("open"));
    let change = |path: &Path, sql: &str| {
        rusqlite::Connection::open(path).and_then(|db| db.execute_batch(sql)).expect("change");
    };
    change(&path, "PRAGMA user_version = 99");
    for e in [Store::open(&path).expect_err("newer"), Reader::open(&path).expect_err("newer")] {
        assert!(matches!(e, StoreError::TooNew { found: 99, .. }), "{e}");
        assert!(e.to_string().starts_with(&format!("{}: written by a newer gatepost", path.display())), "{e}");
    }
    let other = folder.path().join("other.db");
    change(&other, "CREATE TABLE t (x)");
    assert!(matches!(Store::open(&other), Err(StoreError::NotADatabase { .. })));
    std::fs::write(&other, "alice@example.com REJECT\n".repeat(100)).expect("write");
    assert!(matches!(Store::open(&other), Err(StoreError::NotADatabase { .. })));
    let nowhere = folder.path().join("a/b/gatepost.db");
    assert!(matches!(Store::open(&nowhere), Err(StoreError::Missing { .. })));
}

#[test]
fn a_second_writer_waits_and_then_says_so() {
    let (_folder, path) = folder();
    drop(Store::open(&path).expect("open"));
    let holder = rusqlite::Connection::open(&path).expect("open");
    holder.execute_batch("BEGIN IMMEDIATE").expect("begin");
    let mut store = Store::open_idle(&path).expect("open");
    assert!(matches!(store.purge(NOW), Err(StoreError::Busy { .. })));
    assert_eq!(store.get("a@example.com"), Ok(None), "reading does not wait");
}

#[test]
fn a_full_disk_changes_nothing_and_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let mount = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(folder.path()).output();
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs"]).is_ok_and(|o| o.status.success()) {
        eprintln!("no small file system can be mounted here: not tested");
        return;
    }
    let path = folder.path().join("gatepost.db");
    let outcome = std::panic::catch_unwind(|| {
        let mut store = Store::open(&path).expect("open");
        put(&mut store, &["a@example.com"]);
        let follower = Follower::start(&path, Arc::default(), Arc::new(Confirmer::new(&path))).expect("follower");
        let many: Vec<_> = (0..5_000).map(|n| entry(&format!("u{n}@example.com"))).collect();
        let error = store.put(&many, OnExisting::Replace, NOW).expect_err("full");
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert_eq!(store.count(&Filter::default()), Ok(1));
        assert_eq!((follower.status().entries, follower.status().trouble), (1, None));
    });
    let unmounted = mount(&["umount"]).is_ok_and(|o| o.status.success());
    assert!(outcome.is_ok() && unmounted);
}

/// The part of the next test that runs as another user.
#[test]
#[ignore = "a part of another test"]
fn part_as_another_user() {
    let Some(path) = std::env::var_os("GATEPOST_TEST_STORE").map(PathBuf::from) else { return };
    if std::env::var_os("GATEPOST_TEST_DENIED").is_some() {
        let error = Store::open(&path).and_then(|mut s| s.purge(0)).expect_err("denied");
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        let ran = cli(&path, &SuppressCommand::Add(add_args(&["b@example.com"])));
        assert_eq!(ran.code.expect_err("denied").code, 77);
        return;
    }
    let mut store = Store::open(&path).expect("open as another user");
    put(&mut store, &["theirs@example.com"]);
    assert!(store.get("ours@example.com").expect("get").is_some());
}

fn as_another_user(path: &Path, denied: bool) -> bool {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(std::env::current_exe().expect("the test program"));
    command.args(["--exact", "suppress::part_as_another_user", "--ignored", "--nocapture"]);
    command.env("GATEPOST_TEST_STORE", path);
    if denied {
        command.env("GATEPOST_TEST_DENIED", "1");
    }
    let output = command.output().expect("setpriv");
    eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

fn can_be_another_user() -> bool {
    let program = std::env::current_exe().expect("the test program");
    let probe = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .arg("--list")
        .output();
    let can = probe.is_ok_and(|o| o.status.success());
    if !can {
        eprintln!("not root, or no setpriv: not tested");
    }
    can
}

#[test]
fn what_root_makes_first_the_daemon_can_write() {
    if !can_be_another_user() {
        return;
    }
    let (folder, path) = folder();
    std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534)).expect("chown");
    let mut store = Store::open(&path).expect("open");
    put(&mut store, &["ours@example.com"]);
    for suffix in ["", "-wal", "-shm"] {
        let about = std::fs::metadata(format!("{}{suffix}", path.display())).expect("file");
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o777), (65_534, 65_534, 0o640), "{suffix}");
    }
    assert!(as_another_user(&path, false), "while root has it open");
    drop(store);
    assert!(as_another_user(&path, false), "after root closed it");
    assert!(Store::open(&path).expect("open").get("theirs@example.com").expect("get").is_some());
}

#[test]
fn who_may_not_write_is_told_so() {
    if !can_be_another_user() {
        return;
    }
    let (folder, path) = folder();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut store = Store::open(&path).expect("open");
    put(&mut store, &["ours@example.com"]);
    drop(store);
    assert!(as_another_user(&path, true), "neither file nor folder");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(as_another_user(&path, true), "a readable file");
    assert!(as_another_user(&folder.path().join("new.db"), true), "no file");
}

fn follow(path: &Path) -> (Follower, Arc<Index>, Arc<Confirmer>) {
    let (index, confirmer) = (Arc::new(Index::default()), Arc::new(Confirmer::new(path)));
    let follower = Follower::start(path, Arc::clone(&index), Arc::clone(&confirmer)).expect("follower");
    (follower, index, confirmer)
}

#[test]
fn a_change_is_in_force_within_a_second() {
    let (_folder, path) = folder();
    let (follower, index, confirmer) = follow(&path);
    assert!(index.is_empty() && follower.status().trouble.is_none());
    let now = unix_now();
    let second = wait::promised(Duration::from_secs(1));
    let ran = cli(&path, &SuppressCommand::Add(add_args(&["Gone@Example.com"])));
    assert_eq!((ran.code, ran.out.as_str()), (Ok(0), "1 added, 0 renewed, 0 unchanged\n"));
    within(second, "add", || index.contains(b"gone@example.com", now));
    let found = confirmer.lookup(b"gone@example.com", now).expect("lookup").expect("entry");
    assert_eq!(found.original(), "Gone@Example.com");
    let again =
        AddArgs { about: AboutArgs { note: Some("left".into()), ..about() }, ..add_args(&["gone@example.com"]) };
    assert_eq!(cli(&path, &SuppressCommand::Add(again)).out, "0 added, 1 renewed, 0 unchanged\n");
    within(second, "the cache is told", || confirmer.cached(b"gone@example.com", now).is_none());
    assert_eq!(confirmer.lookup(b"gone@example.com", now).expect("lookup").expect("entry").evidence, "left");
    let remove = RemoveArgs { addresses: vec!["gone@example.com".into()], ..RemoveArgs::default() };
    assert_eq!(cli(&path, &SuppressCommand::Remove(remove)).code, Ok(0));
    within(second, "remove", || !index.contains(b"gone@example.com", now));
    within(second, "the cache is told", || confirmer.cached(b"gone@example.com", now).is_none());
    assert_eq!(confirmer.lookup(b"gone@example.com", now), Ok(None));
    assert_eq!(follower.status().loads, 1);
    let began = Instant::now();
    follower.stop();
    assert!(began.elapsed() < second);
}

#[test]
fn more_changes_than_the_feed_holds_are_followed_by_reading_all() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let (follower, index, _) = follow(&path);
    let many: Vec<_> =
        (0..=MAX_CHANGES).map(|n| Entry { evidence: String::new(), ..entry(&format!("u{n}@x.y")) }).collect();
    store.put(&many, OnExisting::Replace, NOW).expect("put");
    within(wait::LONG, "add", || index.len() == many.len());
    assert_eq!(follower.status().loads, 2);
    store.remove_matching(&Filter::default(), NOW).expect("remove");
    within(wait::LONG, "remove", || index.is_empty());
    assert_eq!(follower.status().loads, 3);
}

#[test]
fn a_database_that_is_replaced_gone_or_damaged_leaves_the_list_in_force() {
    let (folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    put(&mut store, &["old@example.com"]);
    drop(store);
    let (follower, index, _confirmer) = follow(&path);
    let (now, soon) = (unix_now(), wait::LONG);
    let clear = |path: &Path| {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
    };
    std::fs::remove_file(&path).expect("remove");
    clear(&path);
    within(soon, "gone", || matches!(follower.status().trouble, Some(StoreError::Missing { .. })));
    assert!(index.contains(b"old@example.com", now));
    std::fs::write(&path, "garbage ".repeat(1000)).expect("write");
    within(soon, "damaged", || matches!(follower.status().trouble, Some(StoreError::NotADatabase { .. })));
    assert!(index.contains(b"old@example.com", now));
    let other = folder.path().join("other.db");
    put(&mut Store::open(&other).expect("open"), &["new@example.com"]);
    std::fs::rename(&other, &path).expect("rename");
    within(soon, "replaced", || index.contains(b"new@example.com", now));
    assert!(!index.contains(b"old@example.com", now));
    within(soon, "in order again", || follower.status().trouble.is_none());
}

#[test]
fn a_database_that_is_damaged_at_the_start_leaves_the_list_open() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    put(&mut store, &["a@example.com"]);
    let many: Vec<_> = (0..2_000).map(|n| entry(&format!("u{n}@example.com"))).collect();
    store.put(&many, OnExisting::Replace, NOW).expect("put");
    drop(store);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes.iter_mut().skip(4096).for_each(|b| *b = 0xa5);
    std::fs::write(&path, &bytes).expect("write");
    let (follower, index, confirmer) = follow(&path);
    assert!(matches!(follower.status().trouble, Some(StoreError::Corrupt { .. })), "{:?}", follower.status());
    assert!(index.is_empty());
    assert!(confirmer.lookup(b"a@example.com", 0).is_err());
    let ran = cli(&path, &SuppressCommand::List(ListArgs::default()));
    assert_eq!(ran.code.expect_err("damaged").code, 69);
}

#[test]
fn a_restored_older_copy_is_noticed() {
    let (folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    put(&mut store, &["a@example.com"]);
    let copy = folder.path().join("copy.db");
    let db = rusqlite::Connection::open(&path).expect("open");
    db.backup("main", &copy, None::<fn(rusqlite::backup::Progress)>).expect("backup");
    put(&mut store, &["b@example.com"]);
    let (_follower, index, _) = follow(&path);
    assert_eq!(index.len(), 2);
    rusqlite::Connection::open(&path)
        .and_then(|mut db| db.restore("main", &copy, None::<fn(rusqlite::backup::Progress)>))
        .expect("restore");
    within(wait::LONG, "restored", || index.len() == 1);
}

#[test]
fn expired_entries_are_not_loaded_nor_answered() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let now = i64::try_from(unix_now()).expect("fits");
    let expired = Entry { expires: Some(now - 1), ..entry("past@example.com") };
    let soon = Entry { expires: Some(now + 3600), ..entry("soon@example.com") };
    store.put(&[expired, soon], OnExisting::Replace, now).expect("put");
    let (_follower, index, confirmer) = follow(&path);
    assert_eq!(index.len(), 1);
    assert!(index.contains(b"soon@example.com", unix_now()));
    assert!(!index.contains(b"soon@example.com", unix_now() + 7200));
    assert_eq!(confirmer.lookup(b"past@example.com", unix_now()), Ok(None));
}

#[test]
fn without_a_database_reading_finds_an_empty_list_and_makes_none() {
    let (_folder, path) = folder();
    for command in [
        SuppressCommand::List(ListArgs::default()),
        SuppressCommand::Export(ExportArgs::default()),
        SuppressCommand::Remove(RemoveArgs { all: true, dry_run: true, ..RemoveArgs::default() }),
    ] {
        let ran = cli(&path, &command);
        assert_eq!((ran.code, ran.out.as_str()), (Ok(0), ""));
        assert!(ran.err.contains("no database yet"), "{}", ran.err);
    }
    let ran = cli(&path, &SuppressCommand::Show { address: "a@example.com".into() });
    assert_eq!(ran.code, Err(Failure::new(1, "a@example.com: not suppressed")));
    assert!(!path.exists());
}

#[test]
fn list_and_show_print_the_entries() {
    let (_folder, path) = folder();
    let gone = AboutArgs { note: Some("550 gone\u{1b}[31m".into()), ttl: "14d".into(), ..about() };
    let add = AddArgs { about: gone, ..add_args(&["Gone@example.com"]) };
    assert_eq!(cli(&path, &SuppressCommand::Add(add)).code, Ok(0));
    let ran = cli(&path, &SuppressCommand::List(ListArgs::default()));
    assert_eq!(
        ran.out,
        "gone@example.com  manual  cli  since 2027-01-15T08:00:00Z  expires 2027-01-29T08:00:00Z  550 gone [31m\n"
    );
    assert_eq!(
        list(&path),
        "{\"address\":\"gone@example.com\",\"reason\":\"manual\",\"source\":\"cli\",\
         \"created\":\"2027-01-15T08:00:00Z\",\"expires\":\"2027-01-29T08:00:00Z\",\
         \"spelling\":\"Gone@example.com\",\"evidence\":\"550 gone [31m\"}\n"
    );
    let ran = cli(&path, &SuppressCommand::Show { address: "GONE@example.com".into() });
    assert!(ran.code == Ok(0) && ran.out.contains("written:  Gone@example.com\n"), "{}", ran.out);
    let add = AddArgs { about: AboutArgs { ttl: "soon".into(), ..about() }, ..add_args(&["x@example.com"]) };
    assert_eq!(cli(&path, &SuppressCommand::Add(add)).code.expect_err("usage").code, 64);
    let wrong = cli(&path, &SuppressCommand::Add(add_args(&["y@example.com", "nonsense"])));
    assert_eq!(wrong.code, Err(Failure::new(64, "nonsense: no @ in the address")));
    assert_eq!(list(&path).lines().count(), 1, "all or nothing");
}

#[test]
fn filters_choose() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let entries = [
        Entry { reason: Reason::Complaint, ..entry("a@example.com") },
        Entry { created: NOW - 10 * 86_400, ..entry("b@example.com") },
        Entry { evidence: "Mailbox DISABLED".into(), ..entry("c@example.org") },
        Entry { source: Origin::Import, ..entry("d@sub.example.com") },
    ];
    store.put(&entries, OnExisting::Replace, NOW).expect("put");
    let names = |filter: FilterArgs| {
        let ran = cli(&path, &SuppressCommand::List(ListArgs { filter, limit: None, held: false }));
        assert_eq!(ran.code, Ok(0));
        ran.out.lines().map(|l| l[..1].to_owned()).collect::<String>()
    };
    assert_eq!(names(FilterArgs { reason: vec![Reason::Complaint], ..FilterArgs::default() }), "a");
    assert_eq!(names(FilterArgs { domain: Some("Example.COM".into()), ..FilterArgs::default() }), "ab");
    assert_eq!(names(FilterArgs { since: Some("7d".into()), ..FilterArgs::default() }), "acd");
    assert_eq!(names(FilterArgs { until: Some("2027-01-10".into()), ..FilterArgs::default() }), "b");
    assert_eq!(names(FilterArgs { text: Some("disabled".into()), ..FilterArgs::default() }), "c");
    assert_eq!(names(FilterArgs { source: Some(Origin::Import), ..FilterArgs::default() }), "d");
    let limited = cli(&path, &SuppressCommand::List(ListArgs { limit: Some(2), ..ListArgs::default() }));
    assert_eq!(limited.out.lines().count(), 2);
}

#[test]
fn remove_asks_shows_and_tells_of_the_list_of_ses() {
    let (_folder, path) = folder();
    let mut store = Store::open(&path).expect("open");
    let gone = Entry { spelling: Some("Gone@example.com".into()), ..entry("gone@example.com") };
    store.put(&[gone], OnExisting::Replace, NOW).expect("put");
    put(&mut store, &["b@example.com", "c@example.org"]);
    let remove = |args: RemoveArgs| SuppressCommand::Remove(args);
    let named = RemoveArgs { addresses: vec!["gone@example.com".into(), "x@y.z".into()], ..RemoveArgs::default() };
    let ran = cli(&path, &remove(RemoveArgs { dry_run: true, ..named.clone() }));
    assert_eq!(ran.out, "would remove 1 entry\n");
    let ran = cli(&path, &remove(named));
    assert_eq!(ran.out, "removed 1 entry\n");
    assert!(
        ran.err.contains("aws sesv2 delete-suppressed-destination --email-address Gone@example.com\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("x@y.z: was not on the list"), "{}", ran.err);
    assert_eq!(cli(&path, &remove(RemoveArgs::default())).code.expect_err("usage").code, 64);
    let org = FilterArgs { domain: Some("example.org".into()), ..FilterArgs::default() };
    let both = RemoveArgs { all: true, filter: org.clone(), ..RemoveArgs::default() };
    assert_eq!(cli(&path, &remove(both)).code.expect_err("usage").code, 64);
    let ran = cli(&path, &remove(RemoveArgs { filter: org.clone(), dry_run: true, ..RemoveArgs::default() }));
    assert_eq!(ran.out, "would remove 1 entry\n");
    let ran = cli_with(&path, true, None, &remove(RemoveArgs { filter: org, ..RemoveArgs::default() }));
    assert_eq!(ran.out, "{\"removed\":1}\n");
    assert!(ran.err.contains("1 of them for a bounce or a complaint"), "{}", ran.err);
    let all = RemoveArgs { all: true, ..RemoveArgs::default() };
    assert_eq!(cli(&path, &remove(all.clone())).code.expect_err("nobody to ask").code, 64);
    let ran = cli_with(&path, false, Some("n\n"), &remove(all.clone()));
    assert!(ran.code == Ok(0) && ran.err.contains("Remove all 1 entry? [y/N] nothing was removed"), "{}", ran.err);
    let ran = cli_with(&path, false, Some("y\n"), &remove(all.clone()));
    assert_eq!(ran.out, "removed 1 entry\n");
    assert_eq!(cli(&path, &remove(RemoveArgs { yes: true, ..all })).out, "removed 0 entries\n");
}

#[test]
fn import_reads_what_is_there_and_names_what_is_wrong() {
    let (folder, path) = folder();
    let file = folder.path().join("list");
    let import = |text: &str| {
        std::fs::write(&file, text).expect("write");
        cli(&path, &SuppressCommand::Import(import_args(file.clone())))
    };
    let ran = import("# from the old relay\nA@example.com\n\nnot an address\n  b@example.com  \na@example.com\n");
    assert_eq!(ran.code, Ok(65));
    assert_eq!(ran.out, "2 added, 0 renewed, 1 unchanged, 1 refused\n");
    assert_eq!(
        ran.err,
        format!(
            "{}:4: \"not an address\": a character that no address may hold, or an unbalanced quote\n",
            file.display()
        )
    );
    let ran = import("EmailAddress,Reason,LastUpdateTime\nc@example.com,BOUNCE,2026-01-01T00:00:00Z\nd@e.f,odd,\n");
    assert_eq!((ran.code, ran.out.as_str()), (Ok(65), "1 added, 0 renewed, 0 unchanged, 1 refused\n"));
    assert!(ran.err.contains(":3: \"odd\" is no reason: expected one of bounce,"), "{}", ran.err);
    let ran = import(
        r#"{ "SuppressedDestinationSummaries": [
            { "EmailAddress": "E@Example.com", "Reason": "COMPLAINT", "LastUpdateTime": "2020-04-10T21:03:05.123000-04:00" },
            { "EmailAddress": "f@example.com", "Reason": "BOUNCE", "LastUpdateTime": 1586560985.0 } ] }"#,
    );
    assert_eq!((ran.code, ran.out.as_str()), (Ok(0), "2 added, 0 renewed, 0 unchanged, 0 refused\n"));
    let store = Reader::open(&path).expect("open");
    let e = store.get("e@example.com").expect("get").expect("entry");
    assert_eq!((e.reason, e.original(), e.created), (Reason::Complaint, "E@Example.com", 1_586_566_985));
    assert_eq!(store.get("f@example.com").expect("get").expect("entry").created, 1_586_560_985);
    let missing = cli(&path, &SuppressCommand::Import(import_args(folder.path().join("nowhere"))));
    assert_eq!(missing.code.expect_err("no file").code, 66);
    std::fs::write(&file, "g@example.com\n").expect("write");
    let as_list = ImportArgs { format: Some(Format::List), ..import_args(file) };
    let ran = cli_with(&path, true, None, &SuppressCommand::Import(as_list));
    assert_eq!(ran.out, "{\"added\":1,\"renewed\":0,\"unchanged\":0,\"refused\":0}\n");
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let reason = prop::sample::select(&Reason::ALL[..]);
    let source = prop::sample::select(&Origin::ALL[..]);
    let address = r"[a-c#'+-]{1,3}@(example\.com|example\.org|sub\.example\.com)";
    let evidence = prop_oneof![Just(String::new()), "[xyX,\"#;{}']{1,9}", "[^ ].{0,40}[^ ]"];
    let expires = prop::option::of(NOW + 1..NOW + 1000);
    (address, any::<bool>(), reason, source, evidence, NOW - 1000..NOW, expires).prop_map(
        |(address, upper, reason, source, evidence, created, expires)| Entry {
            spelling: upper.then(|| address.to_uppercase()),
            reason,
            source,
            evidence,
            created,
            expires,
            ..entry(&address)
        },
    )
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let reasons = prop::collection::vec(prop::sample::select(&Reason::ALL[..]), 0..3);
    let domain = prop::option::of(prop::sample::select(vec!["example.com".to_owned(), "ample.org".to_owned()]));
    let source = prop::option::of(prop::sample::select(&Origin::ALL[..]));
    let time = || prop::option::of(NOW - 1000..NOW + 1000);
    let text = prop::option::of("[xyX]{0,2}");
    (reasons, domain, source, time(), time(), text, time()).prop_map(
        |(reasons, domain, source, since, until, text, in_force_at)| Filter {
            reasons,
            domain,
            source,
            since,
            until,
            text,
            in_force_at,
        },
    )
}

fn everything(path: &Path) -> Vec<Entry> {
    let mut all = Vec::new();
    let each = |e| -> Result<(), StoreError> {
        all.push(e);
        Ok(())
    };
    Reader::open(path).expect("reader").scan(&Filter::default(), None, each).expect("scan");
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_filter_means_the_same_in_sql_and_for_one_entry(
        entries in prop::collection::vec(any_entry(), 0..40),
        filters in prop::collection::vec(any_filter(), 20),
    ) {
        let (_folder, path) = folder();
        Store::open(&path).expect("open").put(&entries, OnExisting::Replace, NOW).expect("put");
        let all = everything(&path);
        let reader = Reader::open(&path).expect("reader");
        for filter in filters {
            let mut found = Vec::new();
            reader.scan(&filter, None, |e| -> Result<(), StoreError> { found.push(e); Ok(()) }).expect("scan");
            let expected: Vec<_> = all.iter().filter(|e| filter.matches(e)).cloned().collect();
            prop_assert_eq!(reader.count(&filter).expect("count"), expected.len() as u64);
            prop_assert_eq!(found, expected, "{:?}", filter);
        }
    }

    #[test]
    fn an_export_is_imported_as_it_was(
        entries in prop::collection::vec(any_entry(), 1..30),
        json in any::<bool>(),
    ) {
        let (folder, path) = folder();
        Store::open(&path).expect("open").put(&entries, OnExisting::Replace, NOW).expect("put");
        let format = if json { ExportFormat::Json } else { ExportFormat::Csv };
        let exported = cli(&path, &SuppressCommand::Export(ExportArgs { format, ..ExportArgs::default() }));
        prop_assert_eq!(exported.code, Ok(0));
        let (file, copy) = (folder.path().join("export"), folder.path().join("copy.db"));
        std::fs::write(&file, &exported.out).expect("write");
        let ran = cli(&copy, &SuppressCommand::Import(import_args(file)));
        prop_assert_eq!(ran.code, Ok(0), "{}{}", ran.err, exported.out);
        prop_assert_eq!(everything(&copy), everything(&path));
    }
}

/// Measures what a big list costs. `cargo test --release --test it -- --ignored --nocapture ten_million`,
/// with `GATEPOST_TEST_BIG` naming a folder that keeps the database for the next time.
#[test]
#[ignore = "minutes, and gigabytes of disk"]
fn ten_million_are_loaded_in_two_seconds_and_350_mib() {
    let kept = std::env::var_os("GATEPOST_TEST_BIG").map(PathBuf::from);
    let (folder, scratch) = folder();
    let path = kept.map_or(scratch, |k| k.join("gatepost.db"));
    let file = folder.path().join("list");
    if !path.exists() {
        let lines: String = (0..10_000_000_u64)
            .map(|n| format!("user{}@domain{}.example.com\n", n.wrapping_mul(0x9e37_79b9) >> 7, n % 9973))
            .collect();
        std::fs::write(&file, lines).expect("write");
        let began = Instant::now();
        let ran = cli(&path, &SuppressCommand::Import(import_args(file)));
        eprintln!("import: {:?}, {}", began.elapsed(), ran.out);
    }
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("status");
        let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap_or_default().to_owned();
        format!("{} {}", line("VmRSS"), line("VmHWM"))
    };
    eprintln!("before: {}", resident());
    for _ in 0..3 {
        let began = Instant::now();
        let (follower, index, confirmer) = follow(&path);
        eprintln!("load: {:?}, {} entries, {}", began.elapsed(), index.len(), resident());
        let (now, mut hits) = (unix_now(), 0);
        let began = Instant::now();
        for n in 0..1_000_000_u64 {
            hits += usize::from(index.contains(&n.wrapping_mul(77).to_be_bytes(), now));
        }
        eprintln!("contains: {:?} each, {hits} hits", began.elapsed() / 1_000_000);
        let address = everything_up_to(&path, 1).remove(0).address;
        let began = Instant::now();
        for _ in 0..10_000 {
            confirmer.read(address.as_str().as_bytes(), now).expect("read");
        }
        eprintln!("read: {:?} each", began.elapsed() / 10_000);
        assert!(follower.status().trouble.is_none());
    }
}

fn everything_up_to(path: &Path, limit: u64) -> Vec<Entry> {
    let mut all = Vec::new();
    let each = |e| -> Result<(), StoreError> {
        all.push(e);
        Ok(())
    };
    Reader::open(path).expect("reader").scan(&Filter::default(), Some(limit), each).expect("scan");
    all
}

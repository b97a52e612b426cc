//! Faults of a fleet's store and of the relays in it.

use super::Seed;
use super::install::{Found, Install, Trial};
use crate::gatepost::both;
use crate::valkey::{FORGETFUL, LASTING, Valkey};
use crate::wait;
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Puts the trial's relay into the fleet of a store.
fn join(trial: &Trial<'_>, url: &str) {
    trial.append("gatepost.toml", &format!("[suppression]\nstore = \"{url}\"\n[limits]\nstore = \"{url}\"\n"));
}

/// What is found beside that the daemon, which is not in the trial's fleet, has to be started anew.
fn examine(trial: &Trial<'_>) -> Vec<Found> {
    let (daemon, others): (Vec<Found>, Vec<Found>) =
        trial.examine(&[]).into_iter().partition(|found| found.id == "fleet-daemon");
    let restart = |found: &Found| found.what.contains("was started before") && found.severity == "error";
    assert!(!daemon.is_empty() && daemon.iter().all(restart), "{daemon:?}");
    others
}

fn must_be(id: &'static str, severity: &'static str, says: &'static str, found: &[Found]) {
    Seed { id, severity, says, follows: &[], put: |_| {} }.must_be(found);
}

#[test]
fn a_sound_fleet_gives_no_finding_and_a_store_that_goes_away_is_found() {
    let mut store = Valkey::start(LASTING);
    let spool = "[events]\nsource = \"spool\"\nspool_dir = \"DIR/state/spool\"\naccounts = [\"123456789012\"]\n";
    let url = store.url();
    let shared =
        format!("[suppression]\nstore = \"{url}\"\n[limits]\nstore = \"{url}\"\n[fleet]\nname = \"relay-1\"\n");
    let install = Install::with(&format!("{spool}{shared}"), &[]);
    let trial = install.trial();
    let verbose = || both(&trial.command(&["--verbose"]).output().unwrap());
    wait::true_within("the relay's sign of life", wait::LONG, || {
        verbose().contains("ok       fleet-members: relay-1 ")
    });
    assert_eq!(trial.examine(&[]), []);
    store.kill();
    wait::true_within("the daemon to notice", wait::LONG, || {
        let found = trial.examine(&[]);
        let of = |id: &str, says: &str| found.iter().filter(|f| f.id == id && f.what.contains(says)).count();
        of("fleet-store", "refused") == 1 && of("fleet-daemon", "as the daemon has it") == 2 && found.len() == 3
    });
}

/// A store that is sound until a few words are said to it, and what is found then.
struct Case {
    words: &'static [&'static [&'static str]],
    id: &'static str,
    severity: &'static str,
    says: &'static str,
    follows: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        words: &[&["REPLICAOF", "127.0.0.1", "1"]],
        id: "fleet-writes",
        severity: "error",
        says: "READONLY",
        follows: &[],
    },
    Case {
        words: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        id: "fleet-writes",
        severity: "error",
        says: "NOREPLICAS",
        follows: &[],
    },
    Case {
        words: &[&["ACL", "SETUSER", "default", "-set"]],
        id: "fleet-writes",
        severity: "error",
        says: "NOPERM",
        follows: &[],
    },
    Case {
        words: &[&["CONFIG", "SET", "maxmemory", "1mb"]],
        id: "fleet-writes",
        severity: "error",
        says: "OOM",
        follows: &["fleet-memory"],
    },
    Case {
        words: &[&["CONFIG", "SET", "maxmemory", "1mb"]],
        id: "fleet-memory",
        severity: "warning",
        says: "% of its maxmemory",
        follows: &["fleet-writes"],
    },
    Case {
        words: &[&["CONFIG", "SET", "maxmemory", "1gb"], &["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]],
        id: "fleet-eviction",
        severity: "error",
        says: "volatile-lru",
        follows: &[],
    },
    Case {
        words: &[&["CONFIG", "SET", "appendonly", "no"]],
        id: "fleet-persistence",
        severity: "warning",
        says: "neither appendonly nor save",
        follows: &[],
    },
    Case {
        words: &[&["HSET", "{other}:members", "relay-9", "{}"]],
        id: "fleet-namespace",
        severity: "warning",
        says: "another fleet: other",
        follows: &[],
    },
    Case {
        words: &[&["CONFIG", "SET", "requirepass", "secret"]],
        id: "fleet-store",
        severity: "error",
        says: "NOAUTH",
        follows: &[],
    },
];

#[test]
fn faults_of_the_store_are_found() {
    let install = Install::new();
    for case in CASES {
        let store = Valkey::start(LASTING);
        let trial = install.trial();
        join(&trial, &store.url());
        assert_eq!(examine(&trial), []);
        for words in case.words {
            store.ask::<redis::Value>(words).unwrap();
        }
        let Case { id, severity, says, follows, .. } = *case;
        Seed { id, severity, says, follows, put: |_| {} }.must_be(&examine(&trial));
    }
}

/// A relay in the store that was heard of so many seconds ago, and what it knows of the changes.
fn member(store: &Valkey, name: &str, ago: i64, position: &str, twice: bool) {
    let seen = jiff::Timestamp::now().as_millisecond() - ago * 1_000;
    let member = json!({"run": "r", "seen": seen, "version": "0.1.0", "position": position, "twice": twice});
    store.ask::<redis::Value>(&["HSET", "{gatepost}:members", name, &member.to_string()]).unwrap();
}

#[test]
fn faults_of_other_relays_are_found() {
    let (install, store) = (Install::new(), Valkey::start(LASTING));
    let trial = install.trial();
    join(&trial, &store.url());
    member(&store, "relay-8", 1, "", false);
    assert_eq!(examine(&trial), []);
    let said = both(&trial.command(&["--verbose"]).output().unwrap());
    assert!(said.contains("ok       fleet-members: relay-8 ") && said.contains("s behind, gatepost 0.1.0"), "{said}");

    member(&store, "relay-9", 60, "", false);
    must_be("fleet-members", "warning", "relay-9 has been silent for 6", &examine(&trial));
    member(&store, "relay-9", 1, "", true);
    must_be("fleet-name", "error", "under the name relay-9", &examine(&trial));
    member(&store, "relay-9", 1, "0-0", false);
    let change = format!("{}-0", jiff::Timestamp::now().as_millisecond() - 60_000);
    store.ask::<redis::Value>(&["XADD", "{gatepost}:changes", &change, "a", "b"]).unwrap();
    must_be("fleet-lag", "warning", "relay-9 has not heard of changes of the last 6", &examine(&trial));
    member(&store, "relay-9", 1, &change, false);
    assert_eq!(examine(&trial), []);
}

#[test]
fn a_store_that_cannot_be_reached_is_found() {
    let install = Install::new();
    let mut store = Valkey::start(FORGETFUL);
    let at = |url: &str| {
        let trial = install.trial();
        join(&trial, url);
        examine(&trial)
    };
    must_be("fleet-persistence", "warning", "keeps nothing", &at(&store.url()));
    must_be("fleet-store", "error", "rediss://", &at(&store.url().replace("redis:", "rediss:")));
    let trial = install.trial();
    join(&trial, &store.url().replace("redis:", "rediss:"));
    trial.append("gatepost.toml", "[fleet]\nca_file = \"/nowhere/ca.pem\"\n");
    must_be("fleet-store", "error", "/nowhere/ca.pem: No such file", &examine(&trial));
    store.kill();
    must_be("fleet-store", "error", "refused", &at(&store.url()));
}

#[test]
fn a_clock_that_is_not_the_stores_is_found() {
    let (install, store) = (Install::new(), Valkey::start(LASTING));
    let trial = install.trial();
    join(&trial, &store.url());
    let doctor = trial.command(&["--json"]);
    let mut ahead = Command::new("faketime");
    ahead.args(["-f", "+1m"]).arg(doctor.get_program()).args(doctor.get_args());
    let said = both(&ahead.output().unwrap());
    assert!(said.contains("\"fleet-clock\"") && said.contains("clock is 60 s before that of redis://"), "{said}");
}

#[test]
fn what_is_shared_by_half_is_noted() {
    let (install, store) = (Install::new(), Valkey::start(LASTING));
    for (section, says) in [("limits", "suppression list of its own"), ("suppression", "counts limits for itself")] {
        let trial = install.trial();
        trial.append("gatepost.toml", &format!("[{section}]\nstore = \"{}\"\n", store.url()));
        let found = examine(&trial);
        assert!(found.len() == 1 && found[0].id == "fleet-shares" && found[0].what.contains(says), "{found:?}");
    }
}

#[test]
fn a_password_that_everybody_may_read_is_found() {
    let (install, store) = (Install::new(), Valkey::start(LASTING));
    store.ask::<redis::Value>(&["CONFIG", "SET", "requirepass", "secret"]).unwrap();
    let trial = install.trial();
    join(&trial, &store.url().replace("127.", ":secret@127."));
    let file = trial.path("gatepost.toml");
    let found = examine(&trial);
    must_be("config-access", "error", "everybody may read it", &found);
    assert!(!found[0].what.contains("secret"), "{found:?}");
    // As the finding says, but for the group: the daemon here is in that of Postfix.
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    must_be("config-access", "error", "the daemon may not read", &examine(&trial));
    let group = crate::postfix::id_of("postfix").1;
    std::os::unix::fs::chown(&file, None, Some(group)).unwrap();
    assert_eq!(examine(&trial), []);
}

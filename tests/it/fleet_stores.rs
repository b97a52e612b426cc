//! The kinds of stores that a fleet's limits may be counted in, and their troubles: TLS, users, Sentinel, a cluster; no
//! memory, read-only, connections killed, scripts forgotten, a store that flaps. Whatever it is, mail goes on.

use crate::asker::{DUNNO, Question};
use crate::fleet_limits::{Messages, answered, counts_together, fallbacks, is_away, relay};
use crate::gatepost::{self, Daemon, Home};
use crate::proxy::{OPEN, Proxy, Way};
use crate::valkey::{FORGETFUL, Valkey};
use crate::wait;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// More than any of this asks for.
const PLENTY: &str = "100/h burst 1000";

/// The least that a user of the store must be allowed, where only limits are counted in it.
const LEAST: &str = "+evalsha +script|load +time +get +set +mget +del +scan +hgetall +hset +hdel +ping";

fn shared(url: &str, more: &str) -> (Home, Daemon) {
    let (home, daemon) = relay(url, "one", PLENTY, more);
    counts_together(&home);
    let messages = Messages::to(&home);
    asked(&home, || assert!(messages.passes()));
    (home, daemon)
}

/// Asks until ten questions in a row were answered by the store: on a busy machine, some may take too long.
fn asked(home: &Home, mut ask: impl FnMut()) {
    wait::until("ten questions to be answered by the store", wait::LONG, || {
        let (before, fell_back) = (answered(home), fallbacks(home));
        (0..10).for_each(|_| ask());
        (answered(home) == before + 10.0 && fallbacks(home) == fell_back).then_some(())
    });
}

/// Mail goes on while the store is in trouble, which `/health` names with `words`; and when it is over, the store is
/// asked again.
fn rides_out(home: &Home, words: &[&str], over: impl FnOnce()) {
    let mut n = 0;
    let mut ask = || {
        n += 1;
        assert_eq!(home.ask(&Question::data(&format!("trouble.{}.{n}", words.concat()))), DUNNO, "{words:?}");
    };
    (0..20).for_each(|_| ask());
    is_away(home);
    wait::until(&format!("{words:?} in /health"), wait::LONG, || {
        let (status, health) = home.health();
        assert_eq!(status, 200);
        words.iter().all(|word| health["limits_store"].as_str().unwrap().contains(word)).then_some(())
    });
    over();
    counts_together(home);
    asked(home, ask);
}

#[test]
fn without_memory_read_only_and_back() {
    let valkey = Valkey::start(FORGETFUL);
    let (home, _daemon) = shared(&valkey.url(), "");
    let set = |words: &[&str]| valkey.ask::<()>(words).unwrap();
    set(&["CONFIG", "SET", "maxmemory", "1"]);
    rides_out(&home, &["OOM"], || set(&["CONFIG", "SET", "maxmemory", "0"]));
    set(&["REPLICAOF", "127.0.0.1", "1"]);
    rides_out(&home, &["read only replica"], || set(&["REPLICAOF", "NO", "ONE"]));
}

#[test]
fn killed_connections_and_forgotten_scripts_cost_moments() {
    let valkey = Valkey::start(FORGETFUL);
    let (home, _daemon) = shared(&valkey.url(), "");
    for trouble in [&["CLIENT", "KILL", "TYPE", "normal"][..], &["SCRIPT", "FLUSH"]] {
        let _: redis::Value = valkey.ask(trouble).unwrap();
        let mut n = 0;
        let mut ask = || {
            n += 1;
            assert_eq!(home.ask(&Question::data(&format!("{trouble:?}.{n}"))), DUNNO, "{trouble:?}");
        };
        (0..20).for_each(|_| ask());
        counts_together(&home);
        asked(&home, ask);
    }
}

#[test]
fn a_store_that_flaps_is_told_of_once() {
    let valkey = Valkey::start(FORGETFUL);
    let (home, daemon) = shared(&valkey.url(), "");
    for round in 0..4 {
        valkey.signal(Signal::STOP);
        for n in 0..5 {
            home.ask(&Question::data(&format!("{round}.{n}")));
        }
        is_away(&home);
        valkey.signal(Signal::CONT);
        counts_together(&home);
    }
    let said = |words: &str| daemon.stderr().matches(words).count();
    assert_eq!((said("is away; this relay counts"), said("limits is back")), (1, 1), "{}", daemon.stderr());
}

#[test]
fn a_store_that_is_slow_is_not_waited_for() {
    let valkey = Valkey::start(FORGETFUL);
    let proxy = Proxy::to(valkey.port());
    let (home, daemon) = shared(&format!("redis://127.0.0.1:{}/0", proxy.port()), "");
    proxy.set(Way::Open(Duration::from_millis(30)));
    rides_out(&home, &["in time"], || {
        let took = |n: u32| {
            let began = Instant::now();
            assert_eq!(home.ask(&Question::data(&format!("slow.{n}"))), DUNNO);
            began.elapsed()
        };
        let waited = (0..50).map(took).filter(|took| *took > Duration::from_millis(15)).count();
        assert!(waited < 3, "{waited} of 50 questions waited");
        proxy.set(OPEN);
    });
    proxy.set(Way::Cut);
    rides_out(&home, &[], || proxy.set(OPEN));
    assert_eq!(daemon.stderr().matches("is away; this relay counts").count(), 1, "{}", daemon.stderr());
}

#[test]
fn a_user_needs_no_more_than_this_and_a_wrong_password_is_told_without_it() {
    let valkey = Valkey::start(FORGETFUL);
    let user = format!("ACL SETUSER gate on >s3cret ~{{gatepost}}:* {LEAST}");
    let _: () = valkey.ask(&user.split(' ').collect::<Vec<_>>()).unwrap();
    let url = |password: &str| format!("redis://gate:{password}@127.0.0.1:{}/0", valkey.port());
    let (home, _daemon) = shared(&url("s3cret"), "");
    assert!(home.run(&["limits", "show"]).contains("all all: "));
    assert_eq!(home.run(&["limits", "reset", "--all"]), "1 counters were reset\n");
    let (home, daemon) = relay(&url("wr0ng"), "two", PLENTY, "");
    assert_eq!(Messages::to(&home).pass(10), 10);
    let line = daemon.says(&["WARN", "is away; this relay counts by itself"]);
    assert!(line.contains("uthentication") && !daemon.stderr().contains("wr0ng"), "{line}");
    assert!(!home.health().1.to_string().contains("wr0ng"));
}

/// A certificate for 127.0.0.1, and the authority that signed it: `ca.pem`, `server.pem`, `server.key`.
fn certificates(dir: &Path) {
    let openssl = |words: &str| {
        let out = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().expect("openssl");
        assert!(out.status.success(), "openssl {words}: {}", crate::gatepost::both(&out));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"));
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=valkey"));
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.pem");
}

/// A store that also listens with TLS: and where.
fn with_tls(dir: &Path) -> (Valkey, u16) {
    certificates(dir);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = |name: &str| dir.join(name).display().to_string();
    let tls = format!(
        "--tls-port {port} --tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {} --tls-auth-clients no",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    );
    (Valkey::start(&FORGETFUL.iter().copied().chain(tls.split(' ')).collect::<Vec<_>>()), port)
}

#[test]
fn tls_by_the_operators_own_authority_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (_valkey, port) = with_tls(dir.path());
    let url = format!("rediss://127.0.0.1:{port}/0");
    let _shared = shared(&url, &format!("ca_file = \"{}\"\n", dir.path().join("ca.pem").display()));
    // The system's authorities do not know it.
    let (home, daemon) = relay(&url, "two", PLENTY, "");
    assert_eq!(Messages::to(&home).pass(10), 10);
    assert!(daemon.says(&["is away; this relay counts by itself"]).contains("UnknownIssuer"), "{}", daemon.stderr());
    assert_eq!(answered(&home), 0.0);
    // Nor is a file that is not there one.
    let home = Home::alone("", gatepost::OPEN);
    let fleet = format!("[limits]\nstore = \"{url}\"\n[fleet]\nca_file = \"/nowhere/ca.pem\"\n");
    crate::aws::add_section(&home, &fleet);
    let out = home.command(&["serve"]).output().unwrap();
    assert_eq!(out.status.code(), Some(71));
    assert!(
        crate::gatepost::text(&out.stderr).contains("cannot share with the fleet: /nowhere/ca.pem: No such file"),
        "{out:?}"
    );
}

#[test]
fn sentinel_names_the_next_master() {
    let mut master = Valkey::start(FORGETFUL);
    let replica = master.replica(FORGETFUL);
    let sentinel = master.watched();
    let (home, daemon) = shared(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port()), "");
    master.kill();
    rides_out(&home, &[], || ());
    daemon.says(&["limits is back"]);
    assert!(replica.ask::<String>(&["INFO", "replication"]).unwrap().contains("role:master"));
    assert_eq!(replica.ask::<usize>(&["EXISTS", "{gatepost}:limit:all:all:messages:all"]).unwrap(), 1);
}

#[test]
fn a_cluster_has_them_all_in_one_slot() {
    let cluster = Valkey::cluster();
    let (home, _daemon) = shared(&format!("redis+cluster://127.0.0.1:{}", cluster.port()), "");
    assert!(home.run(&["limits", "show"]).contains("all all: "));
    assert_eq!(home.run(&["limits", "reset", "--all"]), "1 counters were reset\n");
    let set = |words: &[&str]| cluster.ask::<()>(words).unwrap();
    set(&["CONFIG", "SET", "maxmemory", "1"]);
    rides_out(&home, &["OOM"], || set(&["CONFIG", "SET", "maxmemory", "0"]));
    cluster.signal(Signal::STOP);
    rides_out(&home, &[], || cluster.signal(Signal::CONT));
}

#[test]
fn a_node_that_has_not_the_slot_is_away_until_it_has() {
    let cluster = Valkey::cluster();
    let neighbour = cluster.cluster_neighbour();
    let slot: u16 = cluster.ask(&["CLUSTER", "KEYSLOT", "{gatepost}"]).unwrap();
    let (home, _daemon) = shared(&format!("redis://127.0.0.1:{}", cluster.port()), "");
    let give = |id: &str| {
        for node in [&neighbour, &cluster] {
            let _: () = node.ask(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", id]).unwrap();
        }
    };
    cluster.until_info("cluster", "cluster_known_nodes:2");
    let _: () = cluster.ask(&["FLUSHALL"]).unwrap();
    give(&neighbour.cluster_id());
    rides_out(&home, &["Moved", "redis+cluster://"], || give(&cluster.cluster_id()));
}

#[test]
fn a_store_that_reads_its_data_is_away() {
    let slow =
        ["--rdbcompression", "no", "--key-load-delay", "200000", "--loading-process-events-interval-bytes", "1024"];
    let mut valkey = Valkey::start(&[FORGETFUL, &slow].concat());
    let (home, _daemon) = shared(&valkey.url(), "");
    for n in 0..40 {
        let _: () = valkey.ask(&["SET", &format!("key{n}"), &"x".repeat(2000)]).unwrap();
    }
    let _: () = valkey.ask(&["SAVE"]).unwrap();
    valkey.kill();
    valkey.begin();
    rides_out(&home, &["loading the dataset"], || ());
}

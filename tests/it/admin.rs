//! The admin listener: health, metrics in a form that Prometheus reads, limits over the Unix socket only.

use crate::asker::{DUNNO, Question, http, http_tcp};
use crate::gatepost::{Daemon, Home, text};
use crate::sockets::free;
use crate::wait;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

const POLICY: &str = "[[limit]]\nname = \"per-client\"\nkey = \"client_address\"\nrate = \"2/h\"\n";

fn standing() -> (Home, Daemon, String) {
    let home = Home::alone("info@example.com OK\n", POLICY);
    let tcp = free("127.0.0.1");
    home.configure("", &format!(", \"inet:{tcp}\""));
    let daemon = home.start();
    (home, daemon, tcp)
}

/// Checks a text as OpenMetrics wants it, and gives its samples.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut types, mut helps, mut samples) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helps.insert(name.to_owned()) && help.len() > 5, "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let family = ["_total", "_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| types.contains_key(*family)).unwrap_or(name);
            assert!(helps.contains(family), "no HELP before {line}");
            assert_eq!(types[family] == "counter", name.ends_with("_total"), "{line}");
            assert!(name.starts_with("gatepost_"), "{line}");
            assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        }
    }
    samples
}

#[test]
fn metrics_are_well_formed_and_move() {
    let (home, _daemon, tcp) = standing();
    let scrape = || {
        let answered = http(&home.path("admin.sock"), "GET", "/metrics");
        assert_eq!(answered.status, 200);
        assert!(
            answered.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{}",
            answered.head
        );
        samples(&answered.body)
    };
    let before = scrape();
    assert_eq!(home.ask_sender("info@example.com"), DUNNO);
    assert!(home.ask_sender("other@example.com").starts_with("554"));
    for n in 0..3 {
        home.ask(&Question::data(&n.to_string()));
    }
    home.run(&["suppress", "add", "gone@example.net"]);
    let mut asker = home.asker();
    wait::until("the entry in the metrics", wait::LONG, || {
        (scrape()["gatepost_suppressed_entries"] == 1.0).then_some(())
    });
    assert!(asker.ask(&Question::rcpt("info@example.com", "gone@example.net")).starts_with("550"));
    // Counted once the answer is written.
    wait::until("six answers", wait::LONG, || (scrape()["gatepost_decision_seconds_count"] == 6.0).then_some(()));
    let after = scrape();
    let moved = |name: &str| after[name] - before.get(name).copied().unwrap_or(0.0);
    for (name, by) in [
        ("gatepost_decisions_total{check=\"none\",answer=\"dunno\"}", 3.0),
        ("gatepost_decisions_total{check=\"senders\",answer=\"reject\"}", 1.0),
        ("gatepost_decisions_total{check=\"limits\",answer=\"defer\"}", 1.0),
        ("gatepost_decisions_total{check=\"suppression\",answer=\"reject\"}", 1.0),
        ("gatepost_decision_seconds_count", 6.0),
        ("gatepost_decision_seconds_bucket{le=\"+Inf\"}", 6.0),
        ("gatepost_connections_accepted_total", 6.0),
        ("gatepost_limiter_keys", 1.0),
        ("gatepost_limit_warnings_total", 1.0),
        ("gatepost_reload_generation", 0.0),
        ("gatepost_log_lines_dropped_total", 0.0),
    ] {
        assert_eq!(moved(name), by, "{name}");
    }
    assert!(moved("gatepost_decision_seconds_sum") > 0.0);
    for (name, value) in [
        ("gatepost_reload_generation", 1.0),
        ("gatepost_reload_failed", 0.0),
        ("gatepost_allowed_senders_entries", 1.0),
        ("gatepost_suppression_store_healthy", 1.0),
        ("gatepost_connections", 1.0),
    ] {
        assert_eq!(after[name], value, "{name}");
    }
    // Buckets only grow.
    for histogram in ["gatepost_decision_seconds", "gatepost_milter_message_seconds"] {
        let start = format!("{histogram}_bucket{{le=\"");
        let buckets = |(name, value): (&String, &f64)| Some((name.strip_prefix(&start)?.to_owned(), *value));
        let mut counts: Vec<_> = after.iter().filter_map(buckets).map(|(le, n)| (le.replace("\"}", ""), n)).collect();
        counts.sort_by(|a, b| bound(&a.0).total_cmp(&bound(&b.0)));
        assert!(counts.len() > 10 && counts.windows(2).all(|w| w[0].1 <= w[1].1), "{counts:?}");
    }
    // The same over TCP.
    assert_eq!(samples(&http_tcp(&tcp, "GET", "/metrics").body).len(), after.len());
}

fn bound(le: &str) -> f64 {
    if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() }
}

#[test]
fn health_says_what_is_wrong_and_over_tcp_no_addresses() {
    let (home, daemon, tcp) = standing();
    let (status, health) = home.health();
    assert_eq!((status, &health["status"], &health["generation"]), (200, &"ok".into(), &1.into()));
    assert_eq!(health["suppression_store"], serde_json::Value::Null);
    assert_eq!(http_tcp(&tcp, "GET", "/health").status, 200);
    assert_eq!(http_tcp(&tcp, "GET", "/healthz").status, 200);
    home.append_policy("allowed_senders", "secret@example.com");
    daemon.says(&["secret@example.com"]);
    let (status, health) = home.health();
    assert_eq!(status, 503);
    assert!(health["policy_problems"][0].as_str().unwrap().contains("secret@example.com"), "{health}");
    let short = http_tcp(&tcp, "GET", "/health");
    assert_eq!(short.status, 503);
    assert!(!short.body.contains('@'), "{}", short.body);
    let place = format!("{}:2:19", home.policy_dir().join("allowed_senders").display());
    assert_eq!(short.json()["policy_problems"], serde_json::json!([place]));
}

#[test]
fn limits_are_shown_and_reset_over_the_unix_socket_only() {
    let (home, _daemon, tcp) = standing();
    assert_eq!(home.run(&["limits", "show"]), "no counter is in use\n");
    for (n, client) in ["10.0.0.1", "10.0.0.1", "10.0.0.2"].iter().enumerate() {
        assert_eq!(home.ask(&Question::data(&n.to_string()).with("client_address", client)), DUNNO);
    }
    assert_eq!(
        home.run(&["limits", "show"]),
        "per-client 10.0.0.1: 2 of 2 used, 0 free, rate 2/h\nper-client 10.0.0.2: 1 of 2 used, 1 free, rate 2/h\n"
    );
    let shown = http(&home.path("admin.sock"), "GET", "/limits?key=10.0.0.1").json();
    assert_eq!((shown.as_array().unwrap().len(), &shown[0]["used"]), (1, &2.into()));
    assert!(shown[0]["next_free_seconds"].as_f64().unwrap() > 1_000.0);
    assert_eq!(home.run(&["limits", "show", "--most", "1"]).lines().count(), 1);
    for action in ["show", "reset"] {
        let typo = home.command(&["limits", action, "--limit", "per-cleint"]).output().unwrap();
        assert_eq!((typo.status.code(), text(&typo.stdout)), (Some(64), String::new()));
        let said = "gatepost: no limit has the name \"per-cleint\"; policy.toml has [\"per-client\"]\n";
        assert_eq!(text(&typo.stderr), said);
    }
    assert!(home.ask(&Question::data("more")).starts_with("450"));
    assert_eq!(home.run(&["limits", "reset", "--key", "10.0.0.1"]), "1 counters were reset\n");
    assert_eq!(home.ask(&Question::data("more")), DUNNO);
    assert_eq!(home.run(&["limits", "reset", "--all", "--json"]), "{\"reset\":2}\n");
    // TCP shows no addresses and changes nothing; and a GET changes nothing anywhere.
    for (method, path, status) in [("GET", "/limits", 404), ("POST", "/limits/reset", 404)] {
        assert_eq!(http_tcp(&tcp, method, path).status, status, "{path}");
    }
    assert_eq!(http(&home.path("admin.sock"), "GET", "/limits/reset").status, 405);
    let meta = std::fs::metadata(home.path("admin.sock")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
}

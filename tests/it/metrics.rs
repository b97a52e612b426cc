//! The papers and dashboards of the metrics, held to what is served: the table of names, the alarms and their runbooks,
//! and every query, run by a real Prometheus that scrapes a gatepost under load.

use crate::asker::{Question, http};
use crate::aws::add_section;
use crate::gatepost::{Daemon, Home, both};
use crate::postfix::shipped;
use crate::sockets::free;
use crate::valkey::{FORGETFUL, Valkey};
use crate::wait;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

fn paper(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap()
}

/// The rows of docs/metrics.md: name and type.
fn table() -> BTreeMap<String, String> {
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        assert!(cells.len() == 7 && cells[2..5].iter().all(|cell| !cell.is_empty()), "{line}");
        Some((name.to_owned(), cells[2].to_owned()))
    };
    paper("docs/metrics.md").lines().filter_map(row).collect()
}

/// A daemon that has all there is, a fleet too, and a spool for its events.
fn standing() -> (Home, Daemon, String, PathBuf, Valkey) {
    let store = Valkey::start(FORGETFUL);
    let home = Home::alone("info@example.com OK\n", "[[limit]]\nname = \"all\"\nkey = \"all\"\nrate = \"20/h\"\n");
    let (tcp, spool) = (free("127.0.0.1"), home.path("spool"));
    fs::create_dir(&spool).unwrap();
    home.configure("", &format!(", \"inet:{tcp}\""));
    let (url, spooling) = (store.url(), spool.display());
    let shared = format!("[limits]\nstore = \"{url}\"\n");
    add_section(&home, &format!("[events]\nsource = \"spool\"\nspool_dir = \"{spooling}\"\n{shared}"));
    let daemon = home.start();
    (home, daemon, tcp, spool, store)
}

#[test]
fn every_name_served_stands_in_the_table_and_the_other_way_round() {
    let (home, _daemon, ..) = standing();
    let served = || -> BTreeMap<String, String> {
        let text = http(&home.path("admin.sock"), "GET", "/metrics").body;
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let name = |name: &str, kind: &str| format!("{name}{}", if kind == "counter" { "_total" } else { "" });
        types.map(|(family, kind)| (name(family, kind), kind.to_owned())).collect()
    };
    let age = "gatepost_events_last_success_age_seconds";
    let served = wait::until("the source to be asked", wait::LONG, || Some(served()).filter(|s| s.contains_key(age)));
    assert_eq!(served, table());
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let found = text.match_indices("gatepost_").filter(|(at, _)| !text[..*at].ends_with(is_word));
    found.map(|(at, _)| text[at..].split(|c| !is_word(c)).next().unwrap_or_default()).collect()
}

#[test]
fn alarms_and_dashboard_name_what_there_is() {
    let table = table();
    for file in
        ["dashboards/alerts.yml", "dashboards/alerts.test.yml", "dashboards/gatepost.json", "docs/operations.md"]
    {
        let text = paper(file);
        for name in names(&text) {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(table.contains_key(family) || name == "gatepost_", "{file}: {name} is not in docs/metrics.md");
        }
    }
}

#[test]
fn every_alarm_has_a_runbook_and_a_test_and_rings_in_its_case() {
    let (rules, operations, tests) =
        (paper("dashboards/alerts.yml"), paper("docs/operations.md"), paper("dashboards/alerts.test.yml"));
    let alarms: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let chapters: Vec<_> = operations.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(alarms.len() > 20 && alarms == chapters, "{alarms:?} {chapters:?}");
    for alarm in &alarms {
        let runbook = format!("runbook: docs/operations.md#{}\n", alarm.to_lowercase());
        assert!(rules.contains(&runbook), "{runbook}");
        assert!(tests.contains(&format!("alertname=\"{alarm}\"")), "{alarm} has no test");
    }
    for part in ["severity: ", "summary: ", "description: "] {
        assert_eq!(rules.matches(part).count(), alarms.len(), "{part}");
    }
    for args in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let out = Command::new("promtool").args(args).current_dir(shipped("dashboards")).output();
        let out = out.expect("Debian's package prometheus is installed");
        assert!(out.status.success(), "promtool {args:?}: {}", both(&out));
    }
}

/// Questions and events, until it is dropped.
struct Load(Arc<AtomicBool>, Vec<JoinHandle<()>>);

impl Load {
    fn on(home: &Home, spool: PathBuf) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (asking, spooling, socket) = (stop.clone(), stop.clone(), home.socket.clone());
        let questions = thread::spawn(move || {
            let mut asker = crate::asker::Asker::at(&socket);
            for n in 0_u64.. {
                asker.ask(&Question::rcpt("info@example.com", "user@example.net"));
                asker.ask(&Question::data(&n.to_string()));
                asker.ask(&Question::rcpt("new@example.com", "user@example.net"));
                if asking.load(Relaxed) {
                    break;
                }
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        let events = thread::spawn(move || {
            let bodies = ["send-three", "delivery-display-name", "bounce-permanent-general-no-dsn", "complaint-abuse"]
                .map(|kind| fs::read(shipped(&format!("tests/events/{kind}.json"))).unwrap());
            for n in 0_u64.. {
                for (body, kind) in bodies.iter().zip(0..) {
                    let made = spool.join(format!(".{n}-{kind}"));
                    fs::write(&made, body).unwrap();
                    fs::rename(&made, spool.join(format!("{n}-{kind}.json"))).unwrap();
                }
                if spooling.load(Relaxed) {
                    break;
                }
                thread::park_timeout(Duration::from_millis(200));
            }
        });
        Self(stop, vec![questions, events])
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        for thread in self.1.drain(..) {
            thread.thread().unpark();
            // It panicked because what it loads is gone, with the test.
            let _ = thread.join();
        }
    }
}

/// A Prometheus that scrapes one gatepost twice a second, with the shipped rules.
struct Prometheus {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn scraping(target: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (config, address) = (dir.path().join("prometheus.yml"), free("127.0.0.1"));
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs: [{{job_name: gatepost, static_configs: [{{targets: [\"{target}\"]}}]}}]\n",
            shipped("dashboards/alerts.yml").display()
        );
        fs::write(&config, text).unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .expect("Debian's package prometheus is installed");
        let prometheus = Self { process, address, _dir: dir };
        wait::until("Prometheus to be ready", Duration::from_secs(120), || {
            prometheus.get("/-/ready").filter(|(status, _)| *status == 200)
        });
        prometheus
    }

    /// Status and body; `None` where nobody listens.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// The values of a query, which must be a valid one.
    fn query(&self, expr: &str) -> Vec<f64> {
        let encoded: String = expr.bytes().map(|b| format!("%{b:02X}")).collect();
        let (status, body) = self.get(&format!("/api/v1/query?query={encoded}")).expect("an answer");
        assert_eq!(status, 200, "{expr}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let rows = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{expr}: {body}"));
        rows.iter().map(|row| row["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn every_query_runs_on_a_prometheus_that_scrapes_a_gatepost_under_load() {
    let (home, _daemon, tcp, spool, _store) = standing();
    let _load = Load::on(&home, spool);
    let prometheus = Prometheus::scraping(&tcp);
    let dashboard: Value = serde_json::from_str(&paper("dashboards/gatepost.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut seen = 0;
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let expr = target["expr"].as_str().unwrap();
        let asked = expr.replace("$instance", ".*").replace("$__rate_interval", "20s").replace("$__range", "5m");
        assert!(!asked.contains('$'), "{asked}");
        // Nothing comes by the milter here, and none of nothing is no number.
        let may_be_nothing = expr.contains("gatepost_milter_message_seconds");
        wait::until(&format!("data for {asked}"), Duration::from_secs(60), || {
            let values = prometheus.query(&asked);
            (!values.is_empty() && (may_be_nothing || values.iter().all(|value| value.is_finite()))).then_some(())
        });
        seen += 1;
    }
    assert!(panels.len() > 21 && seen > 45, "{} {seen}", panels.len());
    for (query, at_least) in [
        ("sum(gatepost_decisions_total{check=\"limits\",answer=\"defer\"})", 1.0),
        ("sum(gatepost_decisions_total{check=\"senders\",answer=\"reject\"})", 1.0),
        ("sum(rate(gatepost_decision_seconds_count[20s]))", 0.1),
        ("gatepost_events_lag_seconds_count", 4.0),
        ("time() - gatepost_start_timestamp_seconds < 600", 0.0),
    ] {
        let values = prometheus.query(query);
        assert!(values.iter().any(|value| *value >= at_least), "{query}: {values:?}");
    }
    // The rules, loaded and evaluated, and each by itself.
    let rules = wait::until("the rules to be evaluated", Duration::from_secs(60), || {
        let answer: Value = serde_json::from_str(&prometheus.get("/api/v1/rules")?.1).ok()?;
        let rules = answer["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    assert!(rules.len() > 20);
    for rule in &rules {
        prometheus.query(rule["query"].as_str().unwrap());
    }
}

//! The papers for operators, held to the code: every key and default of the two configuration files, in
//! docs/configuration.md and in the man pages, and what other papers say of clients, greps and commands, as
//! far as it can be tried here.

use crate::asker::Question;
use crate::aws::add_section;
use crate::gatepost::Home;
use crate::ingest::{bounce, delivery};
use crate::postfix::{Postfix, shipped};
use crate::valkey::{FORGETFUL, Valkey};
use crate::wait;
use gatepost::daemon::{Config, config};
use gatepost::rules::Problem;
use gatepost::rules::policy::{self, Policy};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The findings of a parser about a text.
type Findings = fn(&str) -> Vec<Problem>;

const PARSERS: [(&str, Findings); 2] = [("gatepost.toml", of_config), ("policy.toml", of_policy)];

fn of_config(text: &str) -> Vec<Problem> {
    config::salvage(Path::new("f"), text.as_bytes()).findings
}

fn of_policy(text: &str) -> Vec<Problem> {
    policy::salvage(Path::new("f"), text.as_bytes()).1
}

/// The keys that a parser knows in a table: it lists them where it finds one that it does not know. `None` where
/// `path` is no table with keys of its own.
fn known_in(findings: Findings, path: &str) -> Option<Vec<String>> {
    let heads = [format!("[{path}]\n"), format!("[[{path}]]\n")];
    let heads = if path.is_empty() { vec![String::new()] } else { heads.into() };
    heads.iter().find_map(|head| {
        let found = findings(&format!("{head}no-such-key = 0\n"));
        let told = found.iter().find(|f| f.message.contains("unknown key \"no-such-key\""))?;
        let (_, known) = told.message.split_once("known here: ")?;
        Some(known.split(", ").map(str::to_owned).collect())
    })
}

/// Every key with the tables that lead to it.
fn keys(findings: Findings, path: &str, all: &mut BTreeSet<String>) {
    for key in known_in(findings, path).expect("a table") {
        let path = if path.is_empty() { key } else { format!("{path}.{key}") };
        match known_in(findings, &path) {
            Some(_) => keys(findings, &path, all),
            None => drop(all.insert(path)),
        }
    }
}

/// The rows of the part of docs/configuration.md about a file: key and default.
fn rows(file: &str) -> Vec<(String, String)> {
    let paper = fs::read_to_string(shipped("docs/configuration.md")).unwrap();
    let (_, part) = paper.split_once(&format!("\n## {file}\n")).expect(file);
    let part = part.split("\n## ").next().unwrap();
    let row = |line: &str| {
        let cells: Vec<_> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let key = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((key.to_owned(), cells.get(2)?.to_string()))
    };
    part.lines().filter(|line| line.starts_with("| ")).filter_map(row).collect()
}

/// The keys of a man page: `.SS [table]`, then `.B key` behind each `.TP`.
fn in_man_page(page: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(shipped("man").join(page)).unwrap();
    let (mut table, mut found, mut before) = (String::new(), BTreeSet::new(), "");
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".SS ") {
            let name = name.trim_matches(['[', ']', '"']);
            table = if name.starts_with("Top") { String::new() } else { format!("{name}.") };
        } else if let (".TP", Some(key)) = (before, line.strip_prefix(".B ")) {
            found.insert(format!("{table}{key}"));
        }
        before = line;
    }
    found
}

#[test]
fn every_key_stands_in_the_table_and_the_man_page_and_the_other_way_round() {
    for (file, findings) in PARSERS {
        let mut known = BTreeSet::new();
        keys(findings, "", &mut known);
        assert!(known.len() > 20, "{known:?}");
        let told: Vec<_> = rows(file).into_iter().map(|(key, _)| key).collect();
        assert_eq!(told.len(), told.iter().collect::<BTreeSet<_>>().len(), "{file}: a key stands twice");
        assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), known, "docs/configuration.md, {file}");
        let page = if file == "policy.toml" { "gatepost-policy.5" } else { "gatepost.toml.5" };
        assert_eq!(in_man_page(page), known, "man/{page}");
    }
}

/// `key = value` for each row of a table whose default is a value, where `is_wanted`.
fn defaults(file: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let line = |(key, value): (String, String)| {
        let value = value.strip_prefix('`')?.strip_suffix('`')?;
        is_wanted(&key).then(|| format!("{key} = {value}\n"))
    };
    rows(file).into_iter().filter_map(line).collect()
}

/// The same of one table, whose name is left out.
fn defaults_in(file: &str, table: &str) -> String {
    defaults(file, |key| key.starts_with(table)).replace(table, "")
}

#[test]
fn every_default_in_the_table_is_the_one_in_force() {
    let config = |text: &str| config::parse(Path::new("f"), text.as_bytes()).expect(text);
    let text = defaults("gatepost.toml", |key| !["milter.", "events.", "logs."].iter().any(|t| key.starts_with(t)));
    assert!(text.lines().count() > 14, "{text}");
    assert_eq!(config(&text), (Config::default(), Vec::new()));
    for (table, needed) in [("milter.", "[milter]\nlisten = \"unix:/x\"\n"), ("logs.", "[logs]\npaths = [\"/x\"]\n")] {
        let text = defaults_in("gatepost.toml", table);
        assert!(!text.is_empty());
        assert_eq!(config(&format!("{needed}{text}")), config(needed), "{text}");
    }

    let policy = |text: &str| policy::parse(Path::new("f"), text.as_bytes()).expect(text);
    let text = defaults("policy.toml", |key| !key.starts_with("limit."));
    assert!(text.lines().count() > 11, "{text}");
    assert_eq!(policy(&text), (Policy::default(), Vec::new()));
    let needed = "[[limit]]\nname = \"a\"\nkey = \"client_address\"\nrate = \"1/s\"\n";
    let text = defaults_in("policy.toml", "limit.");
    assert_eq!(text.lines().count(), 4, "{text}");
    assert_eq!(policy(&format!("{needed}{text}")), policy(needed));
}

/// A relay where one of three recipients is suppressed, and what becomes of the mail that a client sends it.
fn with_one_refused(program: &str, args: impl Fn(u16) -> Vec<String>) -> (Output, Vec<String>) {
    let postfix = Postfix::shipped();
    let home = Home::beside(&postfix, "info@example.com OK\n", "");
    home.run(&["suppress", "add", "gone@example.net"]);
    let _daemon = home.start();
    // The first look into the store may be slower than a question waits.
    wait::true_within("the refusal", wait::LONG, || {
        postfix.session().ask("info@example.com", "gone@example.net").code == 550
    });
    let out = Command::new(program).args(args(postfix.port())).output().expect(program);
    (out, postfix.sink.message("three").to)
}

#[test]
fn smtplib_goes_on_and_says_who_was_refused() {
    let script = "import smtplib, sys\n\
                  to = ['a@example.net', 'gone@example.net', 'b@example.net']\n\
                  session = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))\n\
                  print(session.sendmail('info@example.com', to, 'Subject: three\\n\\nx'))";
    let (out, to) = with_one_refused("python3", |port| vec!["-c".into(), script.into(), port.to_string()]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(
        said.starts_with("{'gone@example.net': (550, b'5.1.1 <gone@example.net>: Recipient address rejected:"),
        "{said}"
    );
    assert_eq!(to, ["a@example.net", "b@example.net"]);
}

#[test]
fn swaks_goes_on_and_exits_with_0() {
    let to = "a@example.net,gone@example.net,b@example.net";
    let (out, to) = with_one_refused("swaks", |port| {
        let port = port.to_string();
        let args = ["-s", "127.0.0.1", "-p", &port, "-f", "info@example.com", "-t", to, "--h-Subject", "three"];
        args.map(str::to_owned).into()
    });
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!(to, ["a@example.net", "b@example.net"]);
}

/// docs/migrate.md: what operators grep for in the lines of the poller that gatepost replaces.
#[test]
fn the_greps_of_before_keep_working() {
    let home = Home::alone("info@example.com OK\n", "");
    let mut gone = bounce("Gone@example.net");
    gone["bounce"]["bouncedRecipients"][0]["diagnosticCode"] = "smtp; 550 5.1.1 unknown (really)".into();
    fs::write(home.path("events.json"), format!("{gone}\n{}\n", delivery("user@example.org"))).unwrap();
    home.run(&["ingest", home.path("events.json").to_str().unwrap()]);
    let grep = |pipe: &str| {
        let out = Command::new("sh").arg("-c").arg(pipe).current_dir(home.path("")).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    for (pipe, said) in [
        ("grep -c status=delivered mail.log", "1\n"),
        ("grep -c status=bounced mail.log", "1\n"),
        ("grep -c bounce_type=Permanent mail.log", "1\n"),
        ("grep -c type=Permanent mail.log", "1\n"),
        (r"grep status=delivered mail.log | grep -oP 'delay=\K\d+'", "841\n"),
        (
            r"grep status=bounced mail.log | grep bounce_type=Permanent | grep -oP 'to=<\K[^>]+' | sort -u",
            "gone@example.net\n",
        ),
        (r"grep -oP 'to=<[^@]+@\K[^>]+' mail.log", "example.net\nexample.org\n"),
        (r"grep -oP 'reason=\(\K[^\)]+' mail.log", "smtp; 550 5.1.1 unknown (really]\n"),
        ("grep -c ']: 0109019c-delivered: to=<user@example.org>, relay=amazonses.com, dsn=2.0.0,' mail.log", "1\n"),
    ] {
        assert_eq!(grep(pipe), said, "{pipe}\n{}", home.log());
    }
}

/// The commands of a paper that takes a machine from fresh to working: paragraphs of its first block of shell.
#[test]
fn a_working_relay_takes_ten_commands() {
    for paper in ["docs/install-debian.md", "docs/install-amazon-linux.md"] {
        let text = fs::read_to_string(shipped(paper)).unwrap();
        let block = text.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect(paper);
        let commands: Vec<_> = block.split("\n\n").map(str::trim).filter(|c| !c.is_empty()).collect();
        assert_eq!(commands.len(), 10, "{paper}: {commands:#?}");
        let is_one = |command: &&str| command.lines().rev().skip(1).all(|line| line.ends_with(['\\', '&']));
        assert!(commands.iter().all(is_one), "{paper}: {commands:#?}");
    }
}

/// The login of docs/fleet.md lets a relay do all that it does in a store: nothing that it asks is denied.
#[test]
fn the_rights_of_a_fleets_login_are_enough() {
    let paper = fs::read_to_string(shipped("docs/fleet.md")).unwrap();
    let line = paper.lines().map(str::trim).find(|line| line.starts_with("ACL SETUSER gatepost ")).expect("the login");
    let store = Valkey::start(FORGETFUL);
    store.ask::<()>(&line.replace("PASSWORD", "s3cret").split(' ').collect::<Vec<_>>()).unwrap();
    let limit = "[[limit]]\nname = \"all\"\nkey = \"all\"\nrate = \"100/h\"\n";
    let home = Home::alone("info@example.com OK\n", limit);
    let url = store.url().replace("127.", "gatepost:s3cret@127.").replace("/0", "/1");
    let spool = home.path("spool");
    fs::create_dir(&spool).unwrap();
    home.configure(&format!("[suppression]\nstore = \"{url}\"\n[limits]\nstore = \"{url}\"\n"), "");
    add_section(&home, &format!("[events]\nsource = \"spool\"\nspool_dir = \"{}\"\n", spool.display()));
    let _daemon = home.start();
    home.run(&["suppress", "add", "gone@example.net"]);
    fs::write(home.path("event"), bounce("dead@example.org").to_string()).unwrap();
    fs::rename(home.path("event"), spool.join("event.json")).unwrap();
    let parts = "redis.call('SELECT', 1) return #redis.call('KEYS', ARGV[1])";
    wait::until("both entries in the store", wait::LONG, || {
        (store.ask::<u64>(&["EVAL", parts, "0", "{gatepost}:entries:*"]).ok()? == 2).then_some(())
    });
    wait::until("a limit to be counted by the store", wait::LONG, || {
        home.ask(&Question::data("x"));
        (home.metric("gatepost_limits_shared_total{result=\"answered\",reason=\"none\"}") > 0.0).then_some(())
    });
    assert!(home.run(&["limits", "show"]).contains("all all: "));
    home.run(&["limits", "reset", "--all"]);
    let _ = home.command(&["doctor"]).output().unwrap();
    let denied: redis::Value = store.ask(&["ACL", "LOG"]).unwrap();
    assert_eq!(denied, redis::Value::Array(Vec::new()));
}

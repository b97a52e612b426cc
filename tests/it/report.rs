//! `gatepost report`: the counts of a made-up day whose truth is known, of a real Postfix's day beside pflogsumm, targets,
//! pages, mail, exit codes.

use crate::gatepost::{Daemon, Home, OPEN, both, text};
use crate::pflogsumm;
use crate::postfix::{Options, Postfix};
use crate::report_world::{Truth, World, ZONE};
use crate::wait;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A home whose logs are those of a folder.
fn home_with_logs(dir: &Path) -> Home {
    let home = Home::alone("", OPEN);
    let config = fs::read_to_string(home.config()).unwrap();
    fs::write(home.config(), format!("{config}\n[logs]\npaths = [\"{}/*\"]\n", dir.display())).unwrap();
    home
}

fn run(home: &Home, args: &[&str]) -> Output {
    home.command(&["report"]).args(args).env("TZ", ZONE).output().unwrap()
}

/// The report; an alert is none of its own faults.
fn report(home: &Home, args: &[&str]) -> Value {
    let out = run(home, &[args, &["--json", "--no-queue"]].concat());
    assert!(matches!(out.status.code(), Some(0 | 1)), "{}", both(&out));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", both(&out)));
    assert_eq!(report["alert"].as_bool(), Some(out.status.code() == Some(1)));
    report
}

/// Three days ago in the zone: its date, and its first second.
fn a_past_day() -> (String, i64) {
    let date = Timestamp::now().to_zoned(TimeZone::get(ZONE).unwrap()).date().checked_sub(3.days()).unwrap();
    (date.to_string(), date.to_zoned(TimeZone::get(ZONE).unwrap()).unwrap().timestamp().as_second())
}

fn by_name(list: &Value) -> BTreeMap<String, u64> {
    let name = |entry: &Value| (entry["name"].as_str().unwrap().to_owned(), entry["count"].as_u64().unwrap());
    list.as_array().unwrap().iter().map(name).collect()
}

#[test]
fn the_counts_are_what_happened() {
    for seed in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        let (day, start) = a_past_day();
        let truth = World::new(seed, start, 3_000).write(dir.path());
        let home = home_with_logs(dir.path());
        let shown = report(&home, &["--day", &day, "--top", "1000"]);
        compare(&shown, &truth);
        // The same span, told otherwise.
        let at = |at: i64| Timestamp::from_second(at).unwrap().to_string();
        let mut again = report(&home, &["--since", &at(start), "--until", &at(start + 86_400), "--top", "1000"]);
        again["made"] = shown["made"].clone();
        assert_eq!(again, shown);
    }
}

fn compare(shown: &Value, truth: &Truth) {
    let t = truth;
    let said = |status: &str| t.said(status);
    let refused: u64 = t.refused_by_us.values().sum();
    let bounced = said("bounced");
    let said_of = |kind: &str, sub: &str| t.said.iter().filter(|said| said.3 == kind && said.4 == sub).count();
    for (path, expected) in [
        ("/accepted/smtpd", t.smtpd),
        ("/accepted/pickup", t.pickup),
        ("/accepted/total", t.smtpd + t.pickup),
        ("/accepted/again", t.again),
        ("/accepted/bytes", t.bytes),
        ("/refused/gatepost", refused),
        ("/refused/postfix", t.refused_by_postfix),
        ("/refused/total", refused + t.refused_by_postfix),
        ("/refused/postfix_lines", refused + t.refused_by_postfix),
        ("/refused/would_refuse", t.would_refuse),
        ("/sent/total", t.sent),
        ("/sent/ses", t.to_ses),
        ("/sent/elsewhere", t.sent - t.to_ses),
        ("/delivered", said("delivered")),
        ("/bounced/ses", bounced),
        ("/bounced/relay_none", t.relay_none),
        ("/bounced/by_relay", t.by_relay),
        ("/bounced/total", bounced + t.relay_none + t.by_relay),
        ("/complaints", said("complaint")),
        ("/deferred/messages", t.deferred),
        ("/deferred/attempts", t.attempts),
        ("/expired", t.expired),
        ("/held", t.held),
        ("/ses/accepted", said("accepted")),
        ("/ses/rejected", said("rejected")),
        ("/ses/opened", said("opened")),
        ("/ses/clicked", said("clicked")),
        ("/ses/repeated", t.repeated),
        ("/ses/events", t.said.len() as u64),
        ("/unheard/recipients", t.unheard),
        ("/unheard/waiting", 0),
        ("/unheard/undecided", t.undecided),
        ("/measures/0/count", t.delivered_in_the_end),
        (
            "/measures/0/of",
            t.delivered_in_the_end
                + t.bounced_in_the_end
                + t.rejected_in_the_end
                + t.unheard
                + t.relay_none
                + t.by_relay
                + t.expired,
        ),
        ("/measures/1/count", t.bounced_in_the_end),
        ("/measures/1/of", t.delivered_in_the_end + t.bounced_in_the_end + t.rejected_in_the_end),
        ("/measures/2/count", said("complaint")),
        ("/measures/2/of", t.delivered_in_the_end),
    ] {
        assert_eq!(shown.pointer(path), Some(&json!(expected)), "{path} in {shown:#}");
    }
    for (name, curve) in [("sent", t.sent), ("delivered", said("delivered")), ("accepted", t.smtpd + t.pickup)] {
        let values = shown["series"][name].as_array().unwrap();
        assert_eq!((values.len(), values.iter().map(|n| n.as_u64().unwrap()).sum::<u64>()), (24, curve), "{name}");
    }
    let nonzero = |map: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        map.iter().filter(|(_, n)| **n > 0).map(|(name, n)| (name.clone(), *n)).collect()
    };
    let by_check: BTreeMap<String, u64> = nonzero(&t.refused_by_us);
    assert_eq!(by_name(&shown["refused"]["by_check"]), by_check);
    assert_eq!(by_name(&shown["senders"]), nonzero(&t.senders));
    assert_eq!(by_name(&shown["clients"]), nonzero(&t.clients));
    for bounce in shown["bounced"]["by_type"].as_array().unwrap() {
        let (kind, sub) = (bounce["type"].as_str().unwrap(), bounce["subtype"].as_str().unwrap());
        assert_eq!(bounce["count"], said_of(kind, sub), "{bounce}");
    }
    domains(shown, truth);
}

fn domains(shown: &Value, truth: &Truth) {
    let domains = shown["domains"].as_array().unwrap();
    for (name, sent) in &truth.sent_to {
        let domain =
            domains.iter().find(|d| d["name"] == **name).unwrap_or_else(|| panic!("no {name} in {domains:#?}"));
        assert_eq!(domain["sent"], *sent, "{domain}");
    }
    for (name, delays) in &truth.delays {
        let domain =
            domains.iter().find(|d| d["name"] == **name).unwrap_or_else(|| panic!("no {name} in {domains:#?}"));
        let mut delays = delays.clone();
        delays.sort_unstable();
        assert_eq!(domain["delay"]["count"], delays.len(), "{domain}");
        for percent in [50, 90, 99] {
            let exact = delays[(delays.len() * percent).div_ceil(100) - 1] as f64;
            let got = domain["delay"][format!("p{percent}_ms")].as_u64().unwrap() as f64;
            assert!((got - exact).abs() <= exact * 0.0625 + 1.0, "{percent} % of {name}: {got}, not {exact}");
        }
    }
}

/// Mail of every fate through a real Postfix: what it counts, and what pflogsumm does.
#[test]
fn beside_pflogsumm_the_counts_are_the_same() {
    let transports = "transport_maps = inline:{ {bounce.example = error:5.1.2 no such host}, {later.example = \
                      retry:4.4.1 not now} }";
    let postfix = Postfix::start(&Options { set: vec![transports.to_owned()], ..Options::default() });
    let (home, _daemon) = Daemon::beside(&postfix, "info@example.com OK\nheld@example.com HOLD for review\n", "");
    let mut session = postfix.session();
    session.mail("info@example.com", &["a@example.net", "b@example.org"], "two").expect(250, &[]);
    session.mail("info@example.com", &["d@example.net"], "one").expect(250, &[]);
    session.mail("held@example.com", &["a@example.net"], "held").expect(250, &[]);
    for _ in 0..3 {
        session.ask("other@example.com", "a@example.net").expect(554, &[]);
    }
    // smtpd would refuse where a transport only fails.
    for to in [&["a@bounce.example", "b@bounce.example", "c@example.net"][..], &["a@later.example"]] {
        let mut local = Command::new("sendmail");
        local.args(["-f", "info@example.com"]).args(to).env("MAIL_CONFIG", config_of(&postfix));
        let mut child = local.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"Subject: local\n\nx\n").unwrap();
        assert!(child.wait().unwrap().success());
    }
    wait::true_within("all mail to be done", wait::LONG, || {
        let log = postfix.log();
        // The notice of the bounce among them.
        let count = |word: &str| log.matches(word).count();
        (count("status=sent"), count("status=bounced"), count("status=deferred")) == (5, 2, 1)
    });
    let log = tempfile::NamedTempFile::new().unwrap();
    fs::write(log.path(), postfix.log()).unwrap();

    let theirs = pflogsumm::summary(&fs::read_to_string(log.path()).unwrap());
    let out =
        home.command(&["report", "--json", "--no-queue", "--since", "2d", "--log"]).arg(log.path()).output().unwrap();
    let ours: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", both(&out)));
    for (word, pointer) in [
        ("received", "/accepted/total"),
        ("delivered", "/sent/total"),
        ("forwarded", "/sent/forwarded"),
        ("deferred", "/deferred/messages"),
        ("bounced", "/bounced/total"),
        ("rejected", "/refused/postfix_lines"),
        ("held", "/held"),
        ("discarded", "/discarded"),
        ("bytes received", "/accepted/bytes"),
    ] {
        let n = ours.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {ours:#}"));
        // `      3   rejected (23%)`
        let counted = theirs.lines().find_map(|line| {
            let (count, rest) = line.trim_start().split_once(' ')?;
            (rest.split('(').next()?.trim() == word).then(|| count.parse::<u64>().ok())?
        });
        assert_eq!(counted, Some(n), "{word} in {theirs}");
    }
    assert_eq!(ours["bounced"]["relay_none"], 2, "{ours:#}");
    assert_eq!((&ours["accepted"]["pickup"], &ours["deferred"]["attempts"]), (&json!(2), &json!(1)));
}

/// Where a scratch Postfix's main.cf is, for programs that start others.
fn config_of(postfix: &Postfix) -> std::ffi::OsString {
    postfix.tool("postconf").get_args().nth(1).unwrap().to_owned()
}

/// A log with so many delivered, bounced, complained and unheard of.
fn log_of(delivered: usize, bounced: usize, complaints: usize, unheard: usize) -> String {
    let mut log = String::new();
    let mut line = |id: usize, who: &str, rest: &str| {
        log.push_str(&format!(
            "2026-11-10T10:00:00+00:00 relay postfix/{who}: {}\n",
            rest.replace("ID", &format!("0102-{id:06x}"))
        ));
    };
    for id in 0..delivered + bounced + unheard {
        line(
            id,
            "smtp[1]",
            &format!("{:010X}: to=<u@d>, relay=h, delay=1, dsn=2.0.0, status=sent (250 Ok ID)", id + 0x8000),
        );
    }
    for id in 0..delivered {
        line(id, "ses-events[2]", "ID: to=<u@d>, relay=amazonses.com, dsn=2.0.0, status=delivered, delay=5ms");
    }
    for id in 0..complaints {
        line(id, "ses-events[2]", "ID: to=<u@d>, relay=amazonses.com, status=complaint");
    }
    for id in delivered..delivered + bounced {
        line(
            id,
            "ses-events[2]",
            "ID: to=<u@d>, relay=amazonses.com, dsn=5.1.1, status=bounced, bounce_type=Permanent",
        );
    }
    log
}

/// Exit code and report of such a log.
fn judged(log: &str, args: &[&str]) -> (i32, Value) {
    let home = Home::alone("", OPEN);
    let path = home.path("judged.log");
    fs::write(&path, log).unwrap();
    let mut command = home.command(&["report", "--json", "--no-queue", "--day", "2026-11-10", "--log"]);
    let out = command.arg(path).args(args).env("TZ", "UTC").output().unwrap();
    (out.status.code().unwrap(), serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", both(&out))))
}

#[test]
fn an_alert_ends_with_1_and_its_bounds_do_not() {
    for (log, code, states) in [
        (log_of(960, 40, 0, 0), 0, ["good", "good", "good"]),
        (log_of(950, 50, 0, 0), 0, ["warning", "warning", "good"]),
        (log_of(900, 100, 0, 0), 0, ["warning", "warning", "good"]),
        (log_of(899, 101, 0, 0), 1, ["alert", "alert", "good"]),
        (log_of(1_000, 0, 5, 0), 0, ["good", "good", "warning"]),
        (log_of(1_000, 0, 6, 0), 1, ["good", "good", "alert"]),
        // A configuration set that is lost: nothing is heard of.
        (log_of(0, 0, 0, 60), 1, ["alert", "unknown", "unknown"]),
        // Too little to judge.
        (log_of(20, 29, 1, 0), 0, ["unknown", "unknown", "unknown"]),
        (log_of(0, 0, 0, 0), 0, ["unknown", "unknown", "unknown"]),
    ] {
        let (ended, report) = judged(&log, &[]);
        let got: Vec<_> = (0..3).map(|n| report["measures"][n]["state"].as_str().unwrap()).collect();
        assert_eq!((ended, &got[..]), (code, &states[..]), "{report:#}");
        assert_eq!(report["measures"][3]["state"], "unknown");
    }
    assert_eq!(judged(&log_of(20, 29, 1, 0), &["--min-mail", "49"]).0, 1);
}

#[test]
fn what_is_silent_is_told() {
    let (_, report) = judged(&log_of(0, 0, 0, 60), &[]);
    assert_eq!(report["unheard"]["recipients"], 60);
    let notes = report["notes"].to_string();
    assert!(notes.contains("no event of SES's in these logs"), "{notes}");
    // A hundred years have not passed.
    let (code, report) = judged(&log_of(0, 0, 0, 60), &["--unheard-after", "8760"]);
    assert_eq!((code, &report["unheard"]["waiting"]), (0, &json!(60)), "{report:#}");
}

/// Over 100 messages in the queue are an alert, 100 are none.
#[test]
fn the_queue_is_asked() {
    let postfix = Postfix::shipped();
    let (home, _daemon) = Daemon::beside(&postfix, "held@example.com HOLD for review\n", "");
    let mut session = postfix.session();
    for n in 0..101 {
        session.mail("held@example.com", &["a@example.net"], &format!("mail {n}")).expect(250, &[]);
    }
    let conf = config_of(&postfix);
    let ask = || {
        let mut command = home.command(&["report", "--json", "--log"]);
        let out = command.arg(postfix.log_path()).env("MAIL_CONFIG", &conf).output().unwrap();
        let report: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", both(&out)));
        (out.status.code(), report)
    };
    let (code, report) = ask();
    assert_eq!((code, &report["queue"]["by_queue"]["hold"]), (Some(1), &json!(101)), "{report:#}");
    assert_eq!((&report["measures"][3]["state"], &report["measures"][3]["count"]), (&json!("alert"), &json!(101)));
    let first = postfix.log_line(&["message-id="]);
    let id = first.split("]: ").nth(1).unwrap().split(':').next().unwrap();
    assert!(postfix.tool("postsuper").args(["-d", id]).status().unwrap().success());
    let (code, report) = ask();
    assert_eq!((code, &report["measures"][3]["state"]), (Some(0), &json!("warning")), "{report:#}");

    // A Postfix that cannot be asked is told, and is no alert.
    let mut command = home.command(&["report", "--json", "--log"]);
    let out = command.arg(postfix.log_path()).env("MAIL_CONFIG", "/nonexistent").output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), &report["queue"]), (Some(0), &Value::Null), "{report:#}");
    assert!(report["notes"].to_string().contains("queue is not known"), "{report:#}");
}

#[test]
fn the_page_is_whole_and_safe() {
    let home = Home::alone("", OPEN);
    let mut log = log_of(900, 200, 2, 0);
    let evil = "<script src=//evil.example/x></script>&\"'";
    log.push_str(&format!(
        "2026-11-10T10:00:00+00:00 relay postfix/qmgr[1]: A1B2C3: from=<x{}@y>, size=1, nrcpt=1 (queue active)\n",
        evil.replace('>', "")
    ));
    log.push_str(&format!("2026-11-10T10:00:00+00:00 relay postfix/smtp[1]: A1B2C3: to=<a@b>, relay=none, delay=1, dsn=5.0.0, status=bounced ({evil})\n"));
    fs::write(home.path("page.log"), log).unwrap();
    let page = home.path("report.html");
    let args =
        ["--no-queue", "--day", "2026-11-10", "--log", home.path("page.log").to_str().unwrap()].map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = run(&home, &[&args[..], &["--html", page.to_str().unwrap()]].concat());
    assert_eq!((out.status.code(), both(&out)), (Some(1), String::new()));
    let written = fs::read_to_string(&page).unwrap();
    let printed = run(&home, &[&args[..], &["--html", "-"]].concat());
    assert_eq!(without_time(&text(&printed.stdout)), without_time(&written));
    assert!(!written.contains("<script"), "{written}");
    for word in ["http:", "https:", "src=", "href=", "url(", "@import", "//evil"] {
        let plain =
            written.replace("&lt;script src=//evil.example/x&gt;", "").replace("&lt;script src=//evil.example/x@y", "");
        let plain = plain.replace("&lt;script src=//evil.example/x", "");
        assert!(!plain.contains(word), "{word} in {plain}");
    }
    for word in ["<svg", "prefers-color-scheme: dark", "default-src 'none'", "ALERT", "aria-label", "&lt;script"] {
        assert!(written.contains(word), "no {word} in {written}");
    }
    for entry in fs::read_dir(page.parent().unwrap()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("report.html."), "{name} was left");
    }
}

fn without_time(page: &str) -> String {
    page.lines().filter(|line| !line.contains("gatepost report of")).collect()
}

#[test]
fn text_is_plain_and_as_wide_as_it_may_be() {
    let home = Home::alone("", OPEN);
    let path = home.path("text.log");
    fs::write(&path, log_of(900, 200, 2, 3)).unwrap();
    let out = run(&home, &["--no-queue", "--day", "2026-11-10", "--log", path.to_str().unwrap()]);
    let shown = text(&out.stdout);
    assert!(shown.is_ascii() && !shown.contains('\x1b'), "{shown}");
    assert!(shown.lines().all(|line| line.len() <= 80 && line.trim_end() == line), "{shown}");
    for word in ["delivery", "81.", "ALERT", "1,103", "delivered", "Permanent"] {
        assert!(shown.contains(word), "no {word} in\n{shown}");
    }
}

#[test]
fn the_report_is_mailed() {
    let postfix = Postfix::shipped();
    let home = Home::alone("", OPEN);
    let path = home.path("mailed.log");
    fs::write(&path, log_of(899, 101, 0, 0)).unwrap();
    let mut command = home.command(&["report", "--no-queue", "--day", "2026-11-10", "--log", path.to_str().unwrap()]);
    command.args(["--mail", "ops@example.net", "--mail", "more@example.net", "--mail-from", "report@example.com"]);
    let out = command.env("MAIL_CONFIG", config_of(&postfix)).env("TZ", "UTC").output().unwrap();
    assert_eq!((out.status.code(), both(&out)), (Some(1), String::new()));
    let mail = wait::until("the mail", wait::LONG, || postfix.sink.messages().pop());
    assert_eq!(
        (&*mail.from, &mail.to[..]),
        ("<report@example.com> BODY=8BITMIME", &["more@example.net", "ops@example.net"].map(str::to_owned)[..])
    );
    for words in [
        "2026-11-10: ALERT: delivery, bounces\n",
        "From: gatepost <report@example.com>\n",
        "Content-Type: multipart/alternative; boundary=\"gatepost-",
        "Content-Type: text/plain; charset=utf-8\n",
        "Content-Type: text/html; charset=utf-8\n",
        "<!DOCTYPE html>\n",
        "bounces",
    ] {
        assert!(mail.content.contains(words), "no {words} in {}", mail.content);
    }
    let boundary = mail.content.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(mail.content.matches(&format!("--{boundary}\n")).count(), 2);
    assert!(mail.content.trim_end().ends_with(&format!("--{boundary}--")), "{}", mail.content);
    assert!(mail.content.lines().all(|line| line.len() < 990), "a line too long for SMTP");
}

#[test]
fn wrong_input_is_told() {
    let home = Home::alone("", OPEN);
    let log = home.path("some.log");
    fs::write(&log, log_of(1, 0, 0, 0)).unwrap();
    let log = log.to_str().unwrap();
    for (args, code, words) in [
        (&["--day", "tomorrow"][..], 64, "expected today, yesterday or a date"),
        (&["--since", "soon"], 64, "--since: \"soon\" is no time"),
        (&["--since", "2d", "--until", "never"], 64, "--until: \"never\" is no time"),
        (&["--since", "1h", "--until", "2h"], 64, "is not behind"),
        (&["--until", "1h"], 64, "--since"),
        (&["--day", "today", "--since", "1h"], 64, "cannot be used with"),
        (&["--unheard-after", "0"], 64, "--unheard-after"),
        (&["--top", "0"], 64, "--top"),
        (&["--min-mail", "0"], 64, "--min-mail"),
        (&["--mail", "nobody"], 64, "is no mail address"),
        (&["--mail-from", "a@b"], 64, "--mail"),
        (&["--json", "--html", "-"], 64, "both write to standard output"),
        (&["--html", "/nonexistent/x.html"], 74, "/nonexistent/x.html"),
        (&["--log", "/nonexistent/mail.log"], 66, "/nonexistent/mail.log"),
    ] {
        let more: &[&str] = if args.contains(&"--log") { &[] } else { &["--log", log] };
        let out = run(&home, &[args, more, &["--no-queue"]].concat());
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", both(&out));
        assert!(text(&out.stderr).contains(words), "{args:?}: {}", both(&out));
        assert!(out.stdout.is_empty() || code == 74, "{args:?}: {}", both(&out));
    }
    let empty = tempfile::tempdir().unwrap();
    let out = run(&home_with_logs(empty.path()), &[]);
    assert_eq!(out.status.code(), Some(66), "{}", both(&out));
    assert!(text(&out.stderr).contains("there are no logs"), "{}", both(&out));
    // One log of two is away: the other is read, and the report says which is not in it.
    let out = run(&home, &["--no-queue", "--json", "--day", "2026-11-10", "--log", "/nonexistent/m", "--log", log]);
    assert_eq!(out.status.code(), Some(0), "{}", both(&out));
    assert!(text(&out.stdout).contains("/nonexistent/m: ") && text(&out.stderr).contains("/nonexistent/m"));
}

//! The commands as an operator runs them: exit codes, what they print, JSON, pipes that close.

use crate::asker::{DUNNO, Question};
use crate::gatepost::{BINARY, Home, both, text};
use crate::wait;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SENDERS: &str = "info@example.com OK\nbound@example.com OK clients=10.0.1.0/24\nheld@example.com HOLD for review\n\
                       no@example.com REJECT go away\n";

const POLICY: &str = "[[limit]]\nname = \"per-client\"\nkey = \"client_address\"\nrate = \"2/h\"\n";

fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).stdin(Stdio::null()).output().unwrap()
}

fn code(out: &Output) -> i32 {
    out.status.code().unwrap_or_else(|| panic!("{}", out.status))
}

#[test]
fn exit_codes_are_those_of_sysexits() {
    let home = Home::alone(SENDERS, POLICY);
    let config = home.config().display().to_string();
    let with = |args: &[&str]| run(&[&["--config", &config], args].concat());
    for wrong in [&[][..], &["nonsense"], &["--nonsense"], &["check", "extra"], &["suppress"], &["explain"]] {
        let out = with(wrong);
        assert_eq!(code(&out), 64, "{wrong:?}: {}", both(&out));
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{wrong:?}");
    }
    for right in [&["--help"][..], &["--version"], &["suppress", "--help"], &["check"], &["suppress", "list"]] {
        let out = with(right);
        assert_eq!(code(&out), 0, "{right:?}: {}", both(&out));
    }
    for (args, expected) in [
        (&["limits", "reset"][..], 64),
        (&["limits", "reset", "--all", "--key", "x"], 64),
        (&["limits", "show"], 69),
        (&["suppress", "show", "user@example.net"], 1),
        (&["suppress", "add", "no address"], 64),
        (&["suppress", "import", "/nowhere/list.csv"], 66),
        (&["explain", "--sender", "a@b", "--client", "nonsense"], 64),
        (&["man", "/nowhere"], 74),
    ] {
        let out = with(args);
        assert_eq!(code(&out), expected, "{args:?}: {}", both(&out));
        // No text of Rust's own, no place in the source.
        assert!(!both(&out).contains("panicked"), "{}", both(&out));
    }
}

#[test]
fn a_config_that_is_named_must_be_there_before_or_behind_the_command() {
    let home = Home::alone(SENDERS, POLICY);
    let config = home.config().display().to_string();
    for args in [
        &["--config", config.as_str(), "check"][..],
        &["check", "--config", &config],
        &["suppress", "--config", &config, "list"],
        &["suppress", "list", "--config", &config],
    ] {
        assert_eq!(code(&run(args)), 0, "{args:?}");
    }
    let missing = "/nowhere/gatepost.toml:1:1: is not there; name the configuration with --config FILE";
    for command in [
        &["serve"][..],
        &["check"],
        &["explain", "--sender", "a@b"],
        &["suppress", "list"],
        &["suppress", "add", "a@b"],
        &["limits", "show"],
    ] {
        for args in [
            [&["--config", "/nowhere/gatepost.toml"], command].concat(),
            [command, &["--config", "/nowhere/gatepost.toml"]].concat(),
        ] {
            let out = run(&args);
            assert_eq!(code(&out), 78, "{args:?}");
            assert!(both(&out).contains(missing), "{args:?}: {}", both(&out));
        }
    }
}

#[test]
fn check_prints_every_problem_or_that_all_is_sound() {
    let home = Home::alone(SENDERS, POLICY);
    let check = |json: bool| home.command(if json { &["check", "--json"] } else { &["check"] }).output().unwrap();
    let sound = check(false);
    assert_eq!(code(&sound), 0);
    assert!(text(&sound.stderr).ends_with("are sound: 4 entries, 1 limit\n"), "{}", text(&sound.stderr));
    home.append_policy("allowed_senders", "broken@example.com\nevil\x1b[31m@example.com OK");
    home.append_policy("policy.toml", "colour = \"red\"");
    let out = check(false);
    assert_eq!(code(&out), 78);
    let (dir, said) = (home.policy_dir().display().to_string(), text(&out.stdout));
    let mut places: Vec<_> =
        said.lines().map(|line| line.strip_prefix(&dir).unwrap_or_else(|| panic!("{line}"))).collect();
    assert!(places.len() >= 3, "{places:?}");
    places.sort_unstable();
    assert!(places.iter().any(|line| line.starts_with("/allowed_senders:5:19: ")), "{places:?}");
    assert!(places.iter().any(|line| line.starts_with("/policy.toml:5:1: ")), "{places:?}");
    assert!(!said.replace('\n', "").chars().any(char::is_control), "{said:?}");
    let json = check(true);
    assert_eq!(code(&json), 78);
    for line in text(&json.stdout).lines() {
        let finding: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(finding["line"].as_u64().unwrap() > 0 && finding["message"].is_string(), "{finding}");
    }
}

#[test]
fn explain_says_the_answer_and_why() {
    let home = Home::alone(SENDERS, POLICY);
    home.write_policy("allowed_recipients", "example.net OK\n");
    home.run(&["suppress", "add", "gone@example.net", "--reason", "bounce", "--note", "smtp; 550 user unknown"]);
    let dir = home.policy_dir().display().to_string();
    let explain = |args: &[&str]| home.run(&[&["explain"], args].concat());
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&home.run(&[&["explain", "--json"], args].concat())).unwrap()
    };
    for (args, answer, rule) in [
        (
            &["--sender", "other@example.com"][..],
            "554 5.7.1 Sender not allowed here",
            "/allowed_senders (no entry matches)",
        ),
        (&["--sender", "no@example.com"], "554 5.7.1 go away", "/allowed_senders:4"),
        (&["--sender", "held@example.com"], "HOLD for review", "/allowed_senders:3"),
        (
            &["--sender", "bound@example.com", "--client", "10.0.2.1"],
            "554 5.7.1 Sender not allowed from this client or login",
            "/allowed_senders:2 (a condition does not hold)",
        ),
        (
            &["--sender", "info@example.com", "--recipient", "user@example.org"],
            "554 5.7.1 Recipient not allowed here",
            "/allowed_recipients (no entry matches)",
        ),
    ] {
        let check = if answer.contains("Recipient") { "recipients" } else { "senders" };
        let expected = format!("answer: {answer}\ncheck: {check}\nmode: enforce\nrule: {dir}{rule}\n");
        assert_eq!(explain(args), expected, "{args:?}");
        let said = json(args);
        assert_eq!(
            (said["answer"].as_str(), said["rule"].as_str()),
            (Some(answer), Some(format!("{dir}{rule}").as_str()))
        );
    }
    let passing = ["--sender", "Info@Example.COM", "--recipient", "user@example.net", "--client", "10.0.0.1"];
    assert_eq!(
        explain(&passing),
        format!(
            "answer: DUNNO\nlimit: per-client would be charged 1 for 10.0.0.1 (rate 2/h, mode enforce)\n  \
             rule: {dir}/policy.toml:1 (per-client)\n"
        )
    );
    assert_eq!(json(&passing)["limits"][0]["charge"], 1);
    assert_eq!(explain(&[&passing[..], &["--state", "MAIL"]].concat()), "answer: DUNNO\n");
    let gone = ["--sender", "info@example.com", "--recipient", "gone@example.net", "--state", "rcpt"];
    let said = json(&gone);
    let answer = said["answer"].as_str().unwrap();
    assert!(
        answer.starts_with("550 5.1.1 Suppressed since 2") && answer.ends_with(": smtp; 550 user unknown"),
        "{said}"
    );
    assert_eq!(said["check"], "suppression");
    // Observed: what would have been.
    home.write_policy("policy.toml", "[senders]\nmode = \"observe\"\n[suppression]\nmode = \"observe\"\n");
    let said = json(&["--sender", "other@example.com", "--recipient", "gone@example.net"]);
    assert_eq!(said["answer"], DUNNO);
    let checks: Vec<_> = said["observed"].as_array().unwrap().iter().map(|o| o["check"].as_str().unwrap()).collect();
    assert_eq!(checks, ["senders", "suppression"]);
    let words = explain(&["--sender", "other@example.com"]);
    assert!(
        words.contains("observed: check senders would have answered: 554 5.7.1 Sender not allowed here"),
        "{words}"
    );
    // A folder with problems has no answer.
    home.append_policy("allowed_senders", "broken@example.com");
    let out = home.command(&["explain", "--sender", "a@b"]).output().unwrap();
    assert_eq!(code(&out), 78);
    assert!(text(&out.stderr).contains("allowed_senders:5:19: "), "{}", both(&out));
}

#[test]
fn the_suppression_list_is_in_force_within_a_second_with_the_daemon_up_and_kept_while_it_is_down() {
    let home = Home::alone(SENDERS, "");
    home.run(&["suppress", "add", "before@example.net", "--note", "added while down"]);
    let mut daemon = home.start();
    let mut asker = home.asker();
    let mut ask = |recipient: &str| asker.ask(&Question::rcpt("info@example.com", recipient));
    assert!(ask("before@example.net").contains("added while down"));
    let mut in_force = |recipient: &str, is_suppressed: bool| {
        let since = Instant::now();
        wait::until(recipient, wait::LONG, || {
            (ask(recipient).starts_with("550 5.1.1 ") == is_suppressed).then_some(())
        });
        let took = since.elapsed();
        assert!(took <= wait::promised(Duration::from_secs(1)), "{recipient}: {took:?}");
    };
    home.run(&["suppress", "add", "Gone@Example.NET", "also@example.net"]);
    in_force("gone@example.net", true);
    in_force("also@example.net", true);
    let shown = home.run(&["suppress", "show", "gone@example.net", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["address"], &shown["reason"], &shown["source"]),
        (&"gone@example.net".into(), &"manual".into(), &"cli".into())
    );
    let dry = home.run(&["suppress", "remove", "gone@example.net", "--dry-run"]);
    assert!(dry.contains('1'), "{dry}");
    in_force("gone@example.net", true);
    home.run(&["suppress", "remove", "gone@example.net"]);
    in_force("gone@example.net", false);
    // From a file, with exempt addresses.
    std::fs::write(home.path("list"), "a@example.net\nb@example.net\npostmaster@example.net\n").unwrap();
    home.write_policy("policy.toml", "[suppression]\nexempt_recipients = [\"postmaster@example.net\"]\n");
    home.run(&["suppress", "import", &home.path("list").display().to_string()]);
    in_force("b@example.net", true);
    in_force("postmaster@example.net", false);
    daemon.signal("TERM");
    daemon.wait_for_end(wait::LONG);
    home.run(&["suppress", "remove", "--all", "--yes"]);
    home.run(&["suppress", "add", "after@example.net"]);
    let _daemon = home.start();
    let answers = ["before@example.net", "after@example.net"].map(|r| home.ask(&Question::rcpt("info@example.com", r)));
    assert_eq!(answers[0], DUNNO);
    assert!(answers[1].starts_with("550"), "{answers:?}");
    // All of it is JSON, an object a line.
    let listed = home.run(&["suppress", "list", "--json"]);
    let listed: Vec<serde_json::Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((listed.len(), &listed[0]["address"]), (1, &"after@example.net".into()));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::alone(SENDERS, POLICY);
    let list: String = (0..30_000).map(|n| format!("user{n}@example.net\n")).collect();
    std::fs::write(home.path("list"), list).unwrap();
    home.run(&["suppress", "import", &home.path("list").display().to_string()]);
    let _daemon = home.start();
    for n in 0..3_000 {
        home.write_policy("unused", &n.to_string());
    }
    for args in [
        &["suppress", "list"][..],
        &["suppress", "list", "--json"],
        &["suppress", "export"],
        &["suppress", "export", "--format", "json"],
        &["explain", "--sender", "other@example.com"],
        &["limits", "show"],
        &["limits", "show", "--json"],
        &["check"],
        &["check", "--json"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = home.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        let said = text(&out.stderr);
        assert!(!said.contains("panicked") && !said.contains("Broken pipe"), "{args:?}: {said}");
        assert_eq!(code(&out), 0, "{args:?}: {said}");
    }
    // Nobody reads the messages either.
    for (args, expected) in
        [(&["explain", "--sender", "x"][..], 78), (&["suppress", "add", "no address"], 64), (&["limits", "reset"], 64)]
    {
        home.write_policy("policy.toml", "broken");
        let mut child = home.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(expected), "{args:?}");
    }
}

#[test]
fn hostile_text_is_printable() {
    let home = Home::alone(SENDERS, POLICY);
    let evil = "smtp; 550 \x1b]0;owned\x07\x1b[2J\u{9b}31m\r\nBcc: x\u{2028}y";
    home.run(&["suppress", "add", "gone@example.net", "--note", evil]);
    let _daemon = home.start();
    let attributes = [("client_address", "10.0.0.1"), ("sasl_username", "\x1b[31muser")];
    let data = attributes.iter().fold(Question::data("\x1b[1m"), |q, (name, value)| q.with(name, value));
    (0..4).for_each(|n| drop(home.ask(&data.clone().with("instance", format!("\x1b[1m{n}")))));
    let answer = home.ask(&Question::rcpt("info@example.com", "gone@example.net"));
    assert!(answer.starts_with("550 5.1.1 ") && answer.is_ascii(), "{answer:?}");
    home.log_line(&["decision=reject", "check=suppression"]);
    for printed in [
        answer,
        home.log(),
        home.run(&["suppress", "list"]),
        home.run(&["suppress", "list", "--json"]),
        home.run(&["suppress", "show", "gone@example.net"]),
        home.run(&["suppress", "export"]),
        home.run(&["limits", "show"]),
        home.run(&["explain", "--sender", "x\x1b[31m@example.com", "--recipient", "gone@example.net"]),
        home.run(&["explain", "--json", "--sender", "info@example.com", "--sasl-user", "\x1b[31m"]),
        both(&home.command(&["suppress", "show", "x\x1b[31m@example.com"]).output().unwrap()),
        both(&home.command(&["suppress", "add", "x\x1b[31m y@example.com"]).output().unwrap()),
    ] {
        let is_bad = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}' | '\u{2029}');
        assert!(!printed.chars().any(is_bad), "{printed:?}");
    }
}

#[test]
fn completions_and_man_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let out = run(&["completions", shell]);
        assert_eq!(code(&out), 0);
        let script = text(&out.stdout);
        for word in ["suppress", "explain", "limits", "config"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(&run(&["man", &dir.path().display().to_string()])), 0);
    let main = std::fs::read_to_string(dir.path().join("gatepost.1")).unwrap();
    assert!(main.starts_with(".ie") || main.contains(".TH gatepost 1"), "{main}");
    for page in ["gatepost-serve.1", "gatepost-suppress.1", "gatepost-suppress-add.1", "gatepost-limits-show.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
}

/// `gatepost serve` says what it does in the form that is asked for.
#[test]
fn own_messages_are_text_or_json() {
    let home = Home::alone(SENDERS, "");
    let daemon = home.start_by("env", &["LC_ALL=C"]);
    daemon.says(&["INFO", "is ready", "generation=1"]);
    drop(daemon);
    let mut command = home.command(&["serve", "--log-format", "json"]);
    command.env_remove("JOURNAL_STREAM");
    let daemon = crate::gatepost::Daemon::of(command);
    let line = daemon.says(&["is ready"]);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["fields"]["generation"]), (&"INFO".into(), &1.into()));
}

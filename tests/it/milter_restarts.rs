//! Gatepost is started anew again and again under mail that smtp-source(1) sends, on sockets that are held meanwhile: what
//! of it is lost, refused, or arrives unstamped. A few times here; `make restarts` does it a hundred times.

use crate::gatepost::Home;
use crate::milter_life::Kept;
use crate::postfix::Postfix;
use crate::sink::Message;
use crate::stamped::{COMPLETE, home, postfix_with, snippet, stamps, unstamped};
use crate::wait;
use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// How many times, where the environment does not say.
const RESTARTS: usize = 4;

/// The most mail that arrives in the life of one gatepost.
const LIFE: usize = 150;

/// How many sessions send at once.
const SESSIONS: usize = 4;

/// How many messages one smtp-source sends.
const MESSAGES: usize = 200;

/// What became of the mail; none of it was lost.
#[derive(Debug, PartialEq)]
struct Figures {
    refused: usize,
    unstamped: usize,
}

fn restarts() -> usize {
    std::env::var("GATEPOST_RESTARTS").ok().and_then(|n| n.parse().ok()).unwrap_or(RESTARTS)
}

fn content() -> String {
    format!("Subject: under load\n{COMPLETE}\nBody\n.leading\n\n")
}

/// Sends until `done`: how many messages, and how many of them were refused.
fn load(postfix: &Postfix, home: &Home, more: &[&str], done: &AtomicBool) -> (usize, usize) {
    let file = home.path("message");
    // smtp-source puts an empty line behind it.
    std::fs::write(&file, content().strip_suffix('\n').unwrap()).unwrap();
    let (mut sent, mut refused) = (0, 0);
    for round in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let mut command = Command::new("smtp-source");
        command.args(["-A", "-N", "-s", &SESSIONS.to_string(), "-m", &MESSAGES.to_string()]).args(more);
        command.arg("-F").arg(&file).args(["-f", "info@example.com", "-t", &format!("-{round}@example.net")]);
        let out = command.arg(format!("127.0.0.1:{}", postfix.port())).output().expect("smtp-source");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        sent += MESSAGES;
        refused += said.lines().filter(|line| line.contains("rejected: ")).count();
    }
    (sent, refused)
}

/// Ends gatepost by `signal` when some mail has come through it, again and again.
fn under_load(postfix: &Postfix, home: &Home, default_action: &str, more: &[&str], signal: &str) -> Figures {
    std::fs::write(postfix.allowed_senders(), "info@example.com OK\n").unwrap();
    let kept = Kept::start(home, postfix);
    let (start, done) = (Instant::now(), AtomicBool::new(false));
    let (sent, refused) = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(postfix, home, more, &done));
        for _ in 0..restarts() {
            let enough = postfix.sink.count() + fastrand::usize(1..LIFE);
            wait::true_within("more mail", wait::LONG, || postfix.sink.count() >= enough);
            kept.restart(signal);
        }
        done.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    wait::true_within("all of the mail", wait::LONG, || postfix.sink.count() >= sent - refused);
    let messages = postfix.sink.messages();
    let recipients: HashSet<_> = messages.iter().flat_map(|m| &m.to).collect();
    assert_eq!((recipients.len(), messages.len()), (sent - refused, sent - refused), "mail is lost, or doubled");
    let (whole, bare): (Vec<_>, Vec<_>) = messages.iter().partition(|m| m.content.contains("X-Correlation-ID"));
    let id = |m: &&Message| stamps(m).stand_on(content()).id.clone();
    assert_eq!(whole.iter().map(id).collect::<HashSet<_>>().len(), whole.len());
    bare.iter().for_each(|m| unstamped(m, &content()));
    let sessions = if more.is_empty() { "a connection per message" } else { "kept sessions" };
    let (arrived, unstamped) = (messages.len(), bare.len());
    println!(
        "{} restarts by SIG{signal} in {:.0?}, {sessions}, {default_action}: {sent} sent, {arrived} arrived, 0 lost, {refused} refused, \
         {unstamped} unstamped",
        restarts(),
        start.elapsed()
    );
    Figures { refused, unstamped }
}

/// With the milter's line as it is shipped, or with this in place of its `default_action=accept`.
fn figures(default_action: &str, more: &[&str], signal: &str) -> Figures {
    let milters = snippet("main.cf.milter").remove(0);
    assert!(milters.starts_with("smtpd_milters = ") && milters.contains("default_action=accept"), "{milters}");
    let postfix = postfix_with(&[&milters.replace("default_action=accept", default_action)]);
    under_load(&postfix, &home(&postfix, "", ""), default_action, more, signal)
}

const NOTHING: Figures = Figures { refused: 0, unstamped: 0 };

#[test]
fn restarts_cost_new_connections_nothing() {
    assert_eq!(figures("default_action=accept", &[], "TERM"), NOTHING);
}

/// The sessions that are open are served to their end.
#[test]
fn restarts_cost_kept_sessions_nothing() {
    assert_eq!(figures("default_action=accept", &["-d"], "TERM"), NOTHING);
}

/// A kill cuts what is under way: a message of each open session, no more.
#[test]
fn kills_cost_new_connections_the_stamps_of_what_is_under_way() {
    let figures = figures("default_action=accept", &[], "KILL");
    assert!(figures.refused == 0 && figures.unstamped <= restarts() * SESSIONS, "{figures:?}");
}

#[test]
fn kills_cost_kept_sessions_the_stamps_of_the_rest() {
    let figures = figures("default_action=accept", &["-d"], "KILL");
    assert!(figures.refused == 0 && figures.unstamped <= restarts() * MESSAGES, "{figures:?}");
}

#[test]
fn kept_sessions_are_told_to_try_again_where_main_cf_says_tempfail() {
    let figures = figures("default_action=tempfail", &["-d"], "KILL");
    assert!(figures.unstamped == 0 && figures.refused <= restarts() * MESSAGES, "{figures:?}");
}

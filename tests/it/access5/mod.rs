//! access(5) lookups against Postfix's own: the same table and the same sender must give the same
//! answer, but for the differences on purpose, which [`DIFFERENCES`] lists.
//!
//! The senders that our side looks up are those that Postfix's smtpd put into a policy question, so
//! the whole way of a production question is covered.

mod postfix;
mod random;

use gatepost::mail::{Canonical, Rewriting};
use gatepost::rules::{Action, Allowlist};
use postfix::{Listener, Postfix};
use random::{Random, World};
use std::path::Path;
use std::sync::Mutex;

const SEED: u64 = 20_240_611;
const TABLES_PER_SETTING: usize = 10;
const SENDERS_PER_TABLE: usize = 60;

/// What a sender is told.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Allowed,
    /// No entry, or one that says DUNNO.
    Unlisted,
    /// Codes and text.
    Refused(String),
}

impl Answer {
    fn of_postfix(reply: &str) -> Self {
        match reply.rsplit_once(" rejected: ") {
            None if reply.starts_with("250") => Self::Allowed,
            Some((_, "unlisted")) => Self::Unlisted,
            Some((codes, text)) => Self::Refused(format!("{} {text}", &codes[..9])),
            None => Self::Refused(reply.to_owned()),
        }
    }

    fn of_ours(list: &Allowlist, sender: &[u8], rewriting: &Rewriting) -> Self {
        let mut canonical = Canonical::default();
        canonical.set_internal(sender, rewriting);
        let Some(found) = list.lookup(&canonical, rewriting) else {
            return Self::Unlisted;
        };
        let here = Some(std::net::Ipv4Addr::LOCALHOST.into());
        match &found.entry.action {
            Action::Allow if found.entry.binding.holds(here, b"") => Self::Allowed,
            Action::Allow | Action::Unlisted => Self::Unlisted,
            Action::Reject(text) => Self::Refused(format!("554 5.7.1 {}", text.as_deref().unwrap_or("Access denied"))),
            Action::Pass(text) => Self::Refused(text.replace("DEFER ", "450 ")),
        }
    }
}

fn rewriting(listener: &Listener) -> Rewriting {
    Rewriting {
        myorigin: "origin.example".into(),
        recipient_delimiter: listener.recipient_delimiter.into(),
        parent_domain_matches_subdomains: listener.parents,
    }
}

/// What one table's senders came to.
#[derive(Default)]
struct Tally {
    compared: usize,
    listed: usize,
    differences: Vec<String>,
}

#[test]
fn lookups_answer_as_postfix_does() {
    let seed = std::env::var("ACCESS5_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
    let mut random = Random(seed);
    let mut worlds = Vec::new();
    let mut listeners = Vec::new();
    for recipient_delimiter in ["", "+", "+-"] {
        for parents in [true, false] {
            for _ in 0..TABLES_PER_SETTING {
                let world = World::new(&mut random);
                let table = world.table(&mut random);
                listeners.push(Listener { table, recipient_delimiter, parents, closed: true });
                worlds.push(world);
            }
        }
    }
    let postfix = Postfix::start(&listeners);
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for (i, (listener, world)) in listeners.iter().zip(&worlds).enumerate() {
            let senders: Vec<String> = (0..SENDERS_PER_TABLE).map(|_| world.sender(&mut random)).collect();
            let (postfix, total) = (&postfix, &total);
            scope.spawn(move || {
                let tally = compare(postfix, i, listener, &senders);
                let mut total = total.lock().expect("no panic");
                total.compared += tally.compared;
                total.listed += tally.listed;
                total.differences.extend(tally.differences);
            });
        }
    });
    let total = total.into_inner().expect("no panic");
    println!("seed {seed}: {} pairs compared, {} of them listed", total.compared, total.listed);
    assert!(
        total.differences.is_empty(),
        "seed {seed} (ACCESS5_SEED): {} of {} pairs differ:\n{}",
        total.differences.len(),
        total.compared,
        total.differences[..total.differences.len().min(8)].join("\n")
    );
    assert!(total.compared >= 2_000, "only {} pairs came through", total.compared);
    assert!(total.listed * 3 >= total.compared, "only {} of {} senders were listed", total.listed, total.compared);
}

fn compare(postfix: &Postfix, number: usize, listener: &Listener, senders: &[String]) -> Tally {
    let rewriting = rewriting(listener);
    let list = match Allowlist::parse(Path::new("table"), listener.table.as_bytes()) {
        Ok((list, _)) => list,
        Err(problems) => panic!("{}: {problems:?}", listener.table),
    };
    let mut tally = Tally::default();
    let mut session = postfix.session(number);
    for sender in senders {
        let (asked, reply) = session.mail_from(sender);
        let Some(asked) = asked else {
            assert!(reply.starts_with("501"), "{sender}: {reply}");
            continue;
        };
        let theirs = Answer::of_postfix(&reply);
        let ours = Answer::of_ours(&list, &asked, &rewriting);
        tally.compared += 1;
        tally.listed += usize::from(theirs != Answer::Unlisted);
        if ours != theirs {
            tally.differences.push(format!(
                "<{sender}>, asked as {:?}\n  Postfix {theirs:?}\n  gatepost {ours:?}\n  {rewriting:?}\n{}",
                String::from_utf8_lossy(&asked),
                listener.table
            ));
        }
    }
    tally
}

/// What our side makes of a table and a sender.
enum Ours {
    Is(Answer),
    /// The file is refused.
    Problem,
}

/// One difference on purpose.
struct Difference {
    why: &'static str,
    table: &'static str,
    sender: &'static str,
    closed: bool,
    postfix: Answer,
    ours: Ours,
}

fn difference(why: &'static str, table: &'static str, sender: &'static str, postfix: &str, ours: &str) -> Difference {
    Difference { why, table, sender, closed: true, postfix: answer(postfix), ours: Ours::Is(answer(ours)) }
}

fn refused_file(why: &'static str, table: &'static str, sender: &'static str, postfix: &str) -> Difference {
    Difference { ours: Ours::Problem, ..difference(why, table, sender, postfix, "") }
}

fn answer(text: &str) -> Answer {
    match text {
        "allowed" => Answer::Allowed,
        "unlisted" => Answer::Unlisted,
        other => Answer::Refused(other.into()),
    }
}

/// Every difference on purpose.
fn differences() -> Vec<Difference> {
    vec![
        difference(
            "`@domain` is understood as `domain`",
            "@one.example 550 5.7.0 x",
            "a@one.example",
            "unlisted",
            "550 5.7.0 x",
        ),
        difference(
            "an IDN entry matches its xn-- spelling",
            "m\u{fc}nchen.example 550 5.7.0 x",
            "a@xn--mnchen-3ya.example",
            "unlisted",
            "550 5.7.0 x",
        ),
        difference(
            "an xn-- entry matches its IDN spelling",
            "xn--mnchen-3ya.example 550 5.7.0 x",
            "a@m\u{fc}nchen.example",
            "unlisted",
            "550 5.7.0 x",
        ),
        difference(
            "a condition binds the sender",
            "a@one.example OK clients=10.0.0.0/8",
            "a@one.example",
            "allowed",
            "unlisted",
        ),
        difference(
            "local parts have case beyond ASCII",
            "\u{fc}@one.example OK",
            "\u{dc}@one.example",
            "allowed",
            "unlisted",
        ),
        difference(
            "routing through a domain of the relay is not followed",
            "a@one.example OK",
            "a%one.example@[127.0.0.1]",
            "allowed",
            "unlisted",
        ),
        difference(
            "source routes are stripped to the last",
            "a@one.example OK",
            "@r.example:@s.example:@t.example:a@one.example",
            "unlisted",
            "allowed",
        ),
        difference(
            "of equal keys the first counts, as in hash: and lmdb:",
            "a@one.example OK\nA@one.example REJECT",
            "a@one.example",
            "451 4.3.5 Server configuration error",
            "allowed",
        ),
        Difference {
            closed: false,
            ..difference(
                "what is not listed is refused without a closing reject",
                "b@one.example OK",
                "a@one.example",
                "allowed",
                "unlisted",
            )
        },
        refused_file("a line that Postfix skips", "b@one.example\na@one.example OK", "a@one.example", "allowed"),
        refused_file("two @ outside quotes", "a@b@one.example OK", "\"a@b\"@one.example", "allowed"),
        refused_file("a restriction as an action", "a@one.example permit", "a@one.example", "allowed"),
        refused_file(
            "an action that Postfix does not know",
            "a@one.example ALLOW",
            "a@one.example",
            "451 4.3.5 Server configuration error",
        ),
        refused_file(
            "an unknown reply code",
            "a@one.example 650 x",
            "a@one.example",
            "451 4.3.5 Server configuration error",
        ),
        refused_file("an unknown condition", "a@one.example OK client=10.0.0.0/8", "a@one.example", "allowed"),
        refused_file("FILTER without a destination", "a@one.example FILTER", "a@one.example", "unlisted"),
        refused_file("an empty file", "# nothing", "a@one.example", "unlisted"),
    ]
}

#[test]
fn each_difference_on_purpose_is_there() {
    let differences = differences();
    let listener = |d: &Difference| Listener {
        table: format!("{}\n", d.table),
        recipient_delimiter: "",
        parents: true,
        closed: d.closed,
    };
    let listeners: Vec<Listener> = differences.iter().map(listener).collect();
    let postfix = Postfix::start(&listeners);
    for (i, (difference, listener)) in differences.iter().zip(&listeners).enumerate() {
        let why = difference.why;
        let (asked, reply) = postfix.session(i).mail_from(difference.sender);
        assert_eq!(Answer::of_postfix(&reply), difference.postfix, "{why}: {reply}\n{}", postfix.log());
        let asked = asked.unwrap_or_else(|| panic!("{why}: Postfix did not ask: {reply}"));
        let parsed = Allowlist::parse(Path::new("table"), listener.table.as_bytes());
        match (&difference.ours, parsed) {
            (Ours::Problem, Err(_)) => {}
            (Ours::Is(answer), Ok((list, _))) => {
                assert_eq!(&Answer::of_ours(&list, &asked, &rewriting(listener)), answer, "{why}");
            }
            (_, parsed) => panic!("{why}: {parsed:?}"),
        }
    }
}

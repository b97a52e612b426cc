//! A million-line allowlist that is edited while it is asked: how soon a saved edit is in force, and
//! what reloading does to those who ask meanwhile.

use crate::args::Args;
use crate::common::Result;
use crate::common::figures::{Sample, verdict};
use crate::common::install::{Installation, Workplace, allowlist};
use crate::common::question::{Kind, text};
use crate::common::rounds;
use crate::common::server::{Server, ask};
use crate::load::{Figures, Plan};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest time from the close or rename to the new answer, in seconds.
const MAX_IN_FORCE: f64 = 1.0;

/// The most that the 99.9th percentile may rise while the list is reloaded, in milliseconds.
const MAX_RISE: f64 = 5.0;

/// The pause from one edit to the next under load.
const EVERY: Duration = Duration::from_secs(2);

/// How long an edit may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The sender that comes and goes.
const PROBE: &str = "probe@reload.example.com";

/// Sets up, measures, prints.
pub fn run(args: &Args) -> Result<()> {
    let place = Workplace::new(args.dir.as_deref())?;
    let gatepost = Installation::new("gatepost", place.path(), args.entries)?;
    gatepost.import(1_000)?;
    let server = gatepost.serve()?;
    let lists = Lists::new(&gatepost, args.entries)?;
    let in_force = in_force(args, &lists, &server)?;
    let undisturbed = undisturbed(args, &lists, &server)?;
    println!("reload: {}", verdict(in_force && undisturbed));
    Ok(())
}

/// The edits of one run under load.
#[derive(Clone, Copy, Debug, Default)]
struct Edits {
    made: usize,
    /// Not yet in force when the next one was due.
    late: usize,
}

/// The two contents of the allowlist, without and with the probe.
struct Lists<'a> {
    gatepost: &'a Installation,
    without: String,
    with: String,
}

impl<'a> Lists<'a> {
    fn new(gatepost: &'a Installation, lines: usize) -> Result<Self> {
        let without = allowlist(lines);
        let with = format!("{without}{PROBE} OK\n");
        fs::write(gatepost.dir().join("with"), &with)?;
        fs::write(gatepost.dir().join("without"), &without)?;
        Ok(Self { gatepost, without, with })
    }

    fn text(&self, probe: bool) -> &str {
        if probe { &self.with } else { &self.without }
    }

    /// Saves as an editor does that writes in place; returns when the file is closed.
    fn write(&self, probe: bool) -> Result<()> {
        Ok(fs::write(self.gatepost.allowed_senders(), self.text(probe))?)
    }

    /// Saves by rename what was written once: an edit that costs the machine nothing but the reload.
    fn link(&self, probe: bool) -> Result<()> {
        let dir = self.gatepost.dir();
        let (kept, new) = (dir.join(if probe { "with" } else { "without" }), dir.join("new"));
        fs::hard_link(kept, &new)?;
        Ok(fs::rename(new, self.gatepost.allowed_senders())?)
    }

    /// Saves as vim, sed -i and rsync do: a new file, renamed; it is written outside the policy folder.
    fn rename(&self, probe: bool) -> Result<()> {
        let new = self.gatepost.dir().join("new");
        fs::write(&new, self.text(probe))?;
        Ok(fs::rename(new, self.gatepost.allowed_senders())?)
    }
}

/// Times edits, in place and by rename in turn, from close or rename to the first new answer.
fn in_force(args: &Args, lists: &Lists<'_>, server: &Server) -> Result<bool> {
    let (mut in_place, mut by_rename) = (Vec::new(), Vec::new());
    for n in 0..args.edits.max(2) {
        // Off the beat of any poll.
        std::thread::sleep(Duration::from_millis(300 + (n as u64 * 370) % 2_000));
        // Pairs of edits, so that both ways of saving add and remove.
        let (probe, rename) = (n % 2 == 0, n / 2 % 2 == 1);
        if rename {
            lists.rename(probe)?;
            by_rename.push(until(server, probe)?.as_secs_f64());
        } else {
            lists.write(probe)?;
            in_place.push(until(server, probe)?.as_secs_f64());
        }
    }
    println!("{} lines: from the close of an edit to the new answer, median (smallest–largest)", args.entries);
    let mut all_met = true;
    for (how, times) in [("in place", in_place), ("by rename", by_rename)] {
        if times.is_empty() {
            continue;
        }
        let (count, sample) = (times.len(), times.into_iter().collect::<Sample>());
        let met = sample.max() <= MAX_IN_FORCE;
        println!("  {how:<10} {} s in {count} edits  ≤ {MAX_IN_FORCE}: {}", sample.show(3), verdict(met));
        all_met &= met;
    }
    println!();
    Ok(all_met)
}

/// Asks until the answer is the new one; how long that took.
fn until(server: &Server, probe: bool) -> Result<Duration> {
    let began = Instant::now();
    while allowed(&server.socket)? != probe {
        if began.elapsed() > PATIENCE {
            return Err(format!("the edit is not in force after {PATIENCE:?}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(began.elapsed())
}

/// Whether the probe is allowed now.
fn allowed(socket: &Path) -> Result<bool> {
    let question = text(Kind::Rcpt, "sender", PROBE, "rcpt0000001@r0001.example.org", "10.1.1.1", "1.1.1.3");
    let answer = ask(socket, &question)?;
    match answer.get(..5) {
        Some("DUNNO") => Ok(true),
        Some("554 5") => Ok(false),
        _ => Err(format!("unexpected answer: {answer}").into()),
    }
}

/// What the closed loop is measured under.
const CASES: [&str; 3] = ["at rest", "reloading", "at rest again"];

/// A closed loop with and without edits, in turn, and a second time without (A/A).
fn undisturbed(args: &Args, lists: &Lists<'_>, server: &Server) -> Result<bool> {
    let mut all_met = true;
    for (kind, connections) in args.questions.iter().flat_map(|k| args.connections.iter().map(|c| (*k, *c))) {
        let plan = Plan {
            socket: &server.socket,
            pid: server.pid(),
            kind,
            connections,
            threads: args.threads_for(connections),
            seconds: args.seconds,
        };
        let (mut rounds, mut edits) = (Vec::new(), Edits::default());
        for n in 0..args.rounds {
            eprintln!("round {} of {}", n + 1, args.rounds);
            rounds.push(round(&plan, n, lists, server, &mut edits)?);
        }
        println!(
            "{} on {connections} connections, {} rounds of {} s each, interleaved. {} edits, {} of them not in force \
             after {} s. Times in µs.",
            kind.as_str(),
            args.rounds,
            args.seconds,
            edits.made,
            edits.late,
            EVERY.as_secs()
        );
        all_met &= print_rounds(&rounds);
    }
    Ok(all_met)
}

/// One round: the figures of each case.
fn round(plan: &Plan<'_>, round: usize, lists: &Lists<'_>, server: &Server, edits: &mut Edits) -> Result<[Figures; 3]> {
    rounds::round(round, |case| {
        let mut load = plan.start()?;
        if case == 1 {
            let more = edit_while(lists, server, || load.ended())?;
            *edits = Edits { made: edits.made + more.made, late: edits.late + more.late };
        }
        load.figures()
    })
}

/// Prints the figures and how much higher p99.9 was; whether that is within the target.
fn print_rounds(rounds: &[[Figures; 3]]) -> bool {
    for (n, case) in CASES.into_iter().enumerate() {
        let of = |field: fn(&Figures) -> f64| rounds.iter().map(|r| field(&r[n])).collect::<Sample>();
        println!(
            "  {case:<14} questions/s {}, p50 {}, p99 {}, p99.9 {}, longest {}",
            of(|f| f.rate).show(0),
            of(|f| f.p50).show(0),
            of(|f| f.p99).show(0),
            of(|f| f.p999).show(0),
            of(|f| f.max).show(0)
        );
    }
    let rise = |n: usize| rounds.iter().map(|r| (r[n].p999 - r[0].p999) / 1e3).collect::<Sample>();
    let met = rise(1).median() <= MAX_RISE;
    println!(
        "  p99.9 higher by {} ms while reloading (A/A {} ms)  ≤ {MAX_RISE}: {}\n",
        rise(1).show(2),
        rise(2).show(2),
        verdict(met)
    );
    met
}

/// Edits every two seconds until the load has ended, then brings the list back.
fn edit_while(lists: &Lists<'_>, server: &Server, mut ended: impl FnMut() -> Result<bool>) -> Result<Edits> {
    let (mut probe, mut edits, mut last) = (false, Edits::default(), None::<Instant>);
    while !ended()? {
        std::thread::sleep(Duration::from_millis(20));
        if last.is_some_and(|edit| edit.elapsed() < EVERY) {
            continue;
        }
        if last.is_some() && allowed(&server.socket)? != probe {
            edits.late += 1;
        }
        probe = !probe;
        lists.link(probe)?;
        (edits.made, last) = (edits.made + 1, Some(Instant::now()));
    }
    until(server, probe)?;
    if probe {
        lists.link(false)?;
        until(server, false)?;
    }
    Ok(edits)
}

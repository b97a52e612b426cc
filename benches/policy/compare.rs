//! Interleaved rounds over three servers: a baseline, the subject, and the baseline again. The ratio
//! of the two baselines (A/A) says how far apart two equal servers come out, and so how much of the
//! subject's ratio means anything.

use crate::Result;
use crate::args::Args;
use crate::figures::{Sample, verdict};
use crate::load::{Figures, Plan};
use crate::process::Server;
use crate::question::Kind;

/// What is held against each other; in every round each is measured once, in turning order.
#[derive(Clone, Copy, Debug)]
pub struct Trio<'a> {
    /// What the ratios divide by.
    pub baseline: &'a Server,
    /// What is judged.
    pub subject: &'a Server,
    /// The baseline a second time.
    pub again: &'a Server,
}

/// What the subject's ratios should be; `None`: printed only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Targets {
    /// The least part of the baseline's rate.
    pub rate: Option<f64>,
    /// The most times the baseline's CPU time per question.
    pub cpu: Option<f64>,
    /// The most times the baseline's 99th percentile.
    pub p99: Option<f64>,
}

/// The rounds of one question over one number of connections: baseline, subject, again.
#[derive(Clone, Debug)]
struct Cell {
    kind: Kind,
    connections: usize,
    rounds: Vec<[Figures; 3]>,
}

/// Measures and prints; whether every target is met.
pub fn run(args: &Args, trio: Trio<'_>, targets: Targets) -> Result<bool> {
    let mut cells: Vec<Cell> = (args.connections.iter())
        .flat_map(|c| args.questions.iter().map(|k| Cell { kind: *k, connections: *c, rounds: Vec::new() }))
        .collect();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        for cell in &mut cells {
            let figures = measure(args, trio, cell, round)?;
            cell.rounds.push(figures);
        }
    }
    println!(
        "{} rounds of {} s each, interleaved. Median (smallest–largest); times in µs.\n",
        args.rounds, args.seconds
    );
    let mut all_met = true;
    for cell in &cells {
        cell.print_figures(trio);
        all_met &= cell.print_ratios(trio, targets);
    }
    Ok(all_met)
}

/// One round of a cell. The order turns, so that no server always comes first after another.
fn measure(args: &Args, trio: Trio<'_>, cell: &Cell, round: usize) -> Result<[Figures; 3]> {
    let servers = [trio.baseline, trio.subject, trio.again];
    let mut figures = [None; 3];
    for turn in 0..servers.len() {
        let n = (round + turn) % servers.len();
        let plan = Plan {
            socket: &servers[n].socket,
            pid: servers[n].pid(),
            kind: cell.kind,
            connections: cell.connections,
            threads: args.threads_for(cell.connections),
            seconds: args.seconds,
        };
        let measured = plan.start()?.figures().map_err(|e| format!("{}: {e}", servers[n].name))?;
        figures[n] = Some(measured);
    }
    match figures {
        [Some(baseline), Some(subject), Some(again)] => Ok([baseline, subject, again]),
        _ => Err("a server was left out".into()),
    }
}

impl Cell {
    fn print_figures(&self, trio: Trio<'_>) {
        println!("{} on {} connections", self.kind.as_str(), self.connections);
        println!(
            "  {:<12} {:>26} {:>22} {:>20} {:>22} {:>24}",
            "", "questions/s", "CPU per question", "p50", "p99", "p99.9"
        );
        for (n, server) in [trio.baseline, trio.subject, trio.again].into_iter().enumerate() {
            let of = |field: fn(&Figures) -> f64| self.rounds.iter().map(|r| field(&r[n])).collect::<Sample>();
            println!(
                "  {:<12} {:>26} {:>22} {:>20} {:>22} {:>24}",
                server.name,
                of(|f| f.rate).show(0),
                of(|f| f.cpu).show(2),
                of(|f| f.p50).show(0),
                of(|f| f.p99).show(0),
                of(|f| f.p999).show(0),
            );
        }
    }

    /// The ratios within each round, their medians, and whether the targets are met.
    fn print_ratios(&self, trio: Trio<'_>, targets: Targets) -> bool {
        let ratio = |n: usize, field: fn(&Figures) -> f64| -> Sample {
            self.rounds.iter().map(|r| field(&r[n]) / field(&r[0])).collect()
        };
        println!("  {:<12} {:>26} {:>22}", "ratio", trio.subject.name, "A/A");
        let line = |what, field: fn(&Figures) -> f64, at_least: bool, target: Option<f64>| {
            let (subject, again) = (ratio(1, field), ratio(2, field));
            let met = target.is_none_or(|t| if at_least { subject.median() >= t } else { subject.median() <= t });
            let sign = if at_least { "≥" } else { "≤" };
            let judged = target.map_or(String::new(), |t| format!("  {sign} {t}: {}", verdict(met)));
            println!("  {what:<12} {:>26} {:>22}{judged}", subject.show(3), again.show(3));
            met
        };
        let rate = line("rate", |f| f.rate, true, targets.rate);
        let cpu = line("CPU", |f| f.cpu, false, targets.cpu);
        let p99 = line("p99", |f| f.p99, false, targets.p99);
        println!();
        rate & cpu & p99
    }
}

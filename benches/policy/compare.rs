//! Three servers under the same load.

use crate::args::Args;
use crate::common::Result;
use crate::common::figures::Sample;
use crate::common::question::Kind;
use crate::common::rounds::{self, Target, print_ratio, print_ratios_head};
use crate::common::server::Server;
use crate::load::{Figures, Plan};

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

/// What the subject's ratios should be.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// Of the rate.
    pub rate: Target,
    /// Of the CPU time per question.
    pub cpu: Target,
    /// Of the 99th percentile.
    pub p99: Target,
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

/// One round of a cell.
fn measure(args: &Args, trio: Trio<'_>, cell: &Cell, round: usize) -> Result<[Figures; 3]> {
    let servers = [trio.baseline, trio.subject, trio.again];
    rounds::round(round, |n| {
        let plan = Plan {
            socket: &servers[n].socket,
            pid: servers[n].pid(),
            kind: cell.kind,
            connections: cell.connections,
            threads: args.threads_for(cell.connections),
            seconds: args.seconds,
        };
        plan.start()?.figures().map_err(|e| format!("{}: {e}", servers[n].name).into())
    })
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
        print_ratios_head(&trio.subject.name);
        let rate = print_ratio("rate", &self.rounds, |f| f.rate, targets.rate);
        let cpu = print_ratio("CPU", &self.rounds, |f| f.cpu, targets.cpu);
        let p99 = print_ratio("p99", &self.rounds, |f| f.p99, targets.p99);
        println!();
        rate & cpu & p99
    }
}

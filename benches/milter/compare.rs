//! The three listeners under the same load, with a new connection for each message and with kept sessions.

use crate::args::Args;
use crate::common::Result;
use crate::common::figures::{Sample, verdict};
use crate::common::install::Workplace;
use crate::common::question::SENDERS;
use crate::common::rounds::{self, Target, print_ratio, print_ratios_head};
use crate::relay::{Figures, NAMES, Relay};

/// What the relay may lose with all checks and stamps, held against one that decides nothing.
const RATE: Target = Target::AtLeast(0.95);

/// How smtp-source connects, and whether it keeps its sessions.
const MODES: [(&str, bool); 2] = [("a new connection for each message", false), ("kept sessions", true)];

/// Sets up, measures, prints.
pub fn run(args: &Args) -> Result<()> {
    let place = Workplace::new(args.dir.as_deref())?;
    let relay = Relay::start(args, place.path(), SENDERS as usize)?;
    relay.prove();
    relay.drain();
    // The processes of Postfix are there before the first measurement.
    let few = Args { messages: args.messages / 10, ..args.clone() };
    for n in 0..NAMES.len() {
        relay.measure(&few, false, n)?;
    }
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        for ((_, keep), rounds) in MODES.iter().zip(&mut rounds) {
            rounds.push(rounds::round(round, |n| relay.measure(args, *keep, n))?);
        }
    }
    relay.prove_stamped(1 + few.messages + MODES.len() * args.rounds * args.messages);
    println!(
        "Postfix with gatepost's checks and stamps beside an echo server and the smallest stamping milter: {SENDERS} \
         senders, 3 limits, {} suppressed.\n{} rounds of {} messages of {} bytes by {} sessions, interleaved. Median \
         (smallest–largest).\n",
        args.entries, args.rounds, args.messages, args.size, args.sessions
    );
    let mut met = true;
    for ((mode, _), rounds) in MODES.iter().zip(&rounds) {
        met &= print(mode, rounds);
    }
    println!("milter: {}", verdict(met));
    Ok(())
}

fn print(mode: &str, rounds: &[[Figures; 3]]) -> bool {
    println!("{mode}\n  {:<12} {:>26} {:>22} {:>24}", "", "messages/s", "CPU/message, µs", "Postfix's, µs");
    for (n, name) in NAMES.iter().enumerate() {
        let of = |field: fn(&Figures) -> f64| rounds.iter().map(|r| field(&r[n])).collect::<Sample>().show(0);
        println!("  {name:<12} {:>26} {:>22} {:>24}", of(|f| f.rate), of(|f| f.hooks), of(|f| f.postfix));
    }
    print_ratios_head(NAMES[1]);
    let met = print_ratio("rate", rounds, |f| f.rate, RATE);
    print_ratio("CPU", rounds, |f| f.hooks, Target::None);
    print_ratio("all CPU", rounds, |f| f.hooks + f.postfix, Target::None);
    println!();
    met
}

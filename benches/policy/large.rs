//! Ten million suppressed: how long the import takes, how soon the daemon answers, what it holds in
//! memory, and what a question costs beside a daemon with a million.

use crate::args::Args;
use crate::common::Result;
use crate::common::figures::{Sample, verdict};
use crate::common::install::{Installation, Workplace};
use crate::common::process::{Memory, memory};
use crate::common::question::SENDERS;
use crate::common::rounds::Target;
use crate::compare::{self, Targets, Trio};

/// The most memory, in MiB.
const MAX_RSS: f64 = 350.0;

/// The longest time from exec to the first answer, in seconds.
const MAX_START: f64 = 3.0;

/// The most CPU time per question, in times that of the smaller list.
const TARGETS: Targets = Targets { rate: Target::None, cpu: Target::AtMost(1.1), p99: Target::None };

/// The smaller list is this many times smaller.
const SMALLER: usize = 10;

/// How often the daemon is started.
const STARTS: usize = 5;

/// Sets up, measures, prints.
pub fn run(args: &Args) -> Result<()> {
    let place = Workplace::new(args.dir.as_deref())?;
    let [small, large, again] =
        ["small", "large", "small again"].map(|name| Installation::new(name, place.path(), SENDERS as usize));
    let (small, large, again) = (small?, large?, again?);
    small.import(args.entries / SMALLER)?;
    again.copy_store(&small)?;
    let import = large.import(args.entries)?.as_secs_f64();
    println!("{} suppressed: imported in {import:.1} s ({:.0} a second).", args.entries, args.entries as f64 / import);

    let mut starts = Vec::new();
    for _ in 1..STARTS {
        let server = large.serve()?;
        starts.push(server.started_in.as_secs_f64());
    }
    let subject = large.serve()?;
    starts.push(subject.started_in.as_secs_f64());
    let starts: Sample = starts.into_iter().collect();
    let start_met = starts.max() <= MAX_START;
    println!(
        "exec to first answer, page cache warm: {} s in {STARTS} starts  ≤ {MAX_START}: {}",
        starts.show(2),
        verdict(start_met)
    );
    print_memory("after the start", memory(subject.pid())?);

    large.prove(&subject)?;
    let (baseline, again) = (small.serve()?, again.serve()?);
    println!("\n{} suppressed beside {}, the same daemon:", args.entries, args.entries / SMALLER);
    let cpu_met = compare::run(args, Trio { baseline: &baseline, subject: &subject, again: &again }, TARGETS)?;
    let held = memory(subject.pid())?;
    print_memory("after the load", held);
    println!("resident ≤ {MAX_RSS} MiB: {}", verdict(held.rss <= MAX_RSS));
    println!("large list: {}", verdict(start_met && cpu_met && held.rss <= MAX_RSS));
    Ok(())
}

fn print_memory(when: &str, m: Memory) {
    println!("memory {when}: VmRSS {:.0} MiB, Pss {:.0} MiB, RssAnon {:.0} MiB", m.rss, m.pss, m.anonymous);
}

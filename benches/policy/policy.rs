//! gatepost beside the echo server: 1,000 senders, three limits, a million suppressed.

use crate::args::Args;
use crate::common::Result;
use crate::common::figures::verdict;
use crate::common::install::{Installation, Workplace};
use crate::common::question::SENDERS;
use crate::common::rounds::Target;
use crate::common::server::Server;
use crate::compare::{self, Targets, Trio};

/// What an answer may cost, held against a server that decides nothing.
const TARGETS: Targets = Targets { rate: Target::AtLeast(0.85), cpu: Target::AtMost(1.3), p99: Target::AtMost(1.3) };

/// Sets up, measures, prints.
pub fn run(args: &Args) -> Result<()> {
    let place = Workplace::new(args.dir.as_deref())?;
    let gatepost = Installation::new("gatepost", place.path(), SENDERS as usize)?;
    gatepost.import(args.entries)?;
    let subject = gatepost.serve()?;
    gatepost.prove(&subject)?;
    let (baseline, again) = (Server::echo("echo", place.path())?, Server::echo("echo again", place.path())?);
    println!("gatepost beside an echo server: {SENDERS} senders, 3 limits, {} suppressed.", args.entries);
    let met = compare::run(args, Trio { baseline: &baseline, subject: &subject, again: &again }, TARGETS)?;
    println!("policy service: {}", verdict(met));
    Ok(())
}

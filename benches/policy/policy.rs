//! gatepost beside the echo server: 1,000 senders, three limits, a million suppressed.

use crate::Result;
use crate::args::Args;
use crate::compare::{self, Targets, Trio};
use crate::figures::verdict;
use crate::install::{Installation, Workplace};
use crate::process::Server;
use crate::question::SENDERS;

/// What an answer may cost, held against a server that decides nothing.
const TARGETS: Targets = Targets { rate: Some(0.85), cpu: Some(1.3), p99: Some(1.3) };

/// Sets up, measures, prints.
pub fn run(args: &Args) -> Result<()> {
    let place = Workplace::new(args)?;
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

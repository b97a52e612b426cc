//! The bench of a fleet's limits: checks by a relay's limiter beside the same script called by the driver alone in a bare
//! loop, and a relay whose store hangs beside relays without one. `benches/README.md` says what it prints.

mod args;
mod shared;
mod store;

#[path = "../policy/compare.rs"]
mod compare;
#[allow(dead_code, reason = "the policy bench uses more of it")]
#[path = "../policy/load.rs"]
mod load;

#[allow(dead_code, reason = "the other benches use other parts of it")]
#[path = "../common/mod.rs"]
mod common;

use args::Args;
use common::figures::verdict;
use common::install::{Installation, Workplace};
use common::question::{Kind, SENDERS, text};
use common::rounds::Target;
use common::server::{Server, ask};
use common::{Result, cli};
use compare::{Targets, Trio};
use std::process::ExitCode;
use store::Store;

/// What a decision may take while the store hangs, held against a relay that has none.
const STOPPED: Targets = Targets { rate: Target::None, cpu: Target::None, p99: Target::AtMost(1.2) };

fn main() -> ExitCode {
    cli::main("fleet", args::USAGE, &[(load::ROLE, load::run)], bench)
}

fn bench(args: &[String]) -> Result<()> {
    let args = Args::parse(args)?;
    shared::run(&args)?;
    stopped(&args)
}

/// A relay whose store hangs, beside two that count for themselves.
fn stopped(args: &Args) -> Result<()> {
    let place = Workplace::new(args.dir.as_deref())?;
    let store = Store::start(place.path())?;
    let relay = |name: &str, more: &str| -> Result<Server> {
        Installation::with_section(name, place.path(), SENDERS as usize, more)?.serve()
    };
    let (baseline, again) = (relay("embedded", "")?, relay("embedded again", "")?);
    let subject = relay("store hangs", &format!("\n[limits]\nstore = \"{}\"\n", store.url()))?;
    store.stop()?;
    // The first few wait; then it is known.
    for n in 0..10 {
        let question = text(Kind::Data, "data", "user001@s01.example.com", "", "10.1.1.1", &format!("stopped.{n}"));
        ask(&subject.socket, &question)?;
    }
    println!("\nA relay whose store hangs beside relays without one: {SENDERS} senders, 3 limits.");
    let met = compare::run(args, Trio { baseline: &baseline, subject: &subject, again: &again }, STOPPED)?;
    println!("decisions without the store: {}", verdict(met));
    Ok(())
}

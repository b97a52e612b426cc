//! The bench of the event side: gatepost beside the boto3 loop that relays run today, on one stand-in for SQS, in
//! interleaved rounds of one run; and the memory of a million events. `benches/README.md` says what it prints.

mod args;
mod clients;
mod compare;
mod million;
#[allow(dead_code, reason = "the tests use other parts of it")]
mod queue;
#[allow(dead_code, reason = "the tests use other parts of it")]
mod sample;
mod stand_in;

#[allow(dead_code, reason = "the other benches use other parts of it")]
#[path = "../common/mod.rs"]
mod common;

use args::{Args, Part};
use common::{Result, cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main("events", args::USAGE, &[(stand_in::ROLE, stand_in::serve)], bench)
}

fn bench(args: &[String]) -> Result<()> {
    let args = Args::parse(args)?;
    match args.part {
        Part::Compare => compare::run(&args),
        Part::Million => million::run(&args),
    }
}

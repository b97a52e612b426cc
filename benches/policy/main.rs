//! The bench of the policy service: gatepost beside an echo server that answers DUNNO to everything,
//! under one load, in interleaved rounds of one run. `benches/README.md` says what each part prints
//! and how to read it.

mod args;
mod compare;
mod large;
mod load;
mod policy;
mod reload;

#[allow(dead_code, reason = "the other benches use other parts of it")]
#[path = "../common/mod.rs"]
mod common;

use args::{Args, Part};
use common::{Result, cli, echo};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main("policy", args::USAGE, &[(echo::ROLE, echo::run), (load::ROLE, load::run)], bench)
}

fn bench(args: &[String]) -> Result<()> {
    let args = Args::parse(args)?;
    match args.part {
        Part::Policy => policy::run(&args),
        Part::Large => large::run(&args),
        Part::Reload => reload::run(&args),
    }
}

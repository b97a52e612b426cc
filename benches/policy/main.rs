//! The bench of the policy service: gatepost beside an echo server that answers DUNNO to everything,
//! under one load, in interleaved rounds of one run. `benches/README.md` says what each part prints
//! and how to read it.
//!
//! The runner starts itself again as the echo server and as the load generator, so that each is a
//! process of its own whose CPU time can be told apart.

mod args;
mod compare;
mod echo;
mod figures;
mod install;
mod large;
mod load;
mod policy;
mod process;
mod question;
mod reload;

use args::{Args, Part};
use std::process::ExitCode;

/// What can go wrong: a server that does not start, an answer that is not the one expected. Slow
/// figures are not errors.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ended = match args.first().map(String::as_str) {
        Some(echo::ROLE) => echo::run(&args[1..]),
        Some(load::ROLE) => load::run(&args[1..]),
        _ => bench(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("policy bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &[String]) -> Result<()> {
    let args = Args::parse(args)?;
    if args.smoke && args.part != Part::Help {
        println!("A smoke run: that it works; the figures mean nothing.");
    }
    match args.part {
        Part::Help => {
            println!("{}", args::USAGE);
            Ok(())
        }
        Part::Policy => policy::run(&args),
        Part::Large => large::run(&args),
        Part::Reload => reload::run(&args),
    }
}

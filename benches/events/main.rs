//! The bench of the event side: gatepost beside the boto3 loop that relays run today, on one stand-in for SQS, in
//! interleaved rounds of one run; and the memory of a million events. `benches/README.md` says what it prints.
//!
//! The runner starts itself again as the stand-in, so that each is a process of its own whose CPU time can be told
//! apart.

mod args;
mod clients;
mod compare;
mod million;
mod processes;
#[allow(dead_code, reason = "the tests use other parts of it")]
mod queue;
#[allow(dead_code, reason = "the tests use other parts of it")]
mod sample;

#[allow(dead_code, reason = "the other bench uses other parts of it")]
#[path = "../policy/figures.rs"]
mod figures;

use args::{Args, Part};
use std::process::ExitCode;

/// What can go wrong: a process that does not start, an event that is lost. Slow figures are not errors.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ended = match args.first().map(String::as_str) {
        Some(processes::QUEUE_ROLE) => processes::serve_queue(&args[1..]),
        _ => bench(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("events bench: {error}");
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
        Part::Compare => compare::run(&args),
        Part::Million => million::run(&args),
    }
}

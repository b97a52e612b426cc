//! The bench of the whole relay: one Postfix with the hooks of the snippets on gatepost, beside the same Postfix with the
//! same hooks on an echo policy server and the smallest milter that stamps, in interleaved rounds of one run.
//! `benches/README.md` says what it prints.

mod args;
mod compare;
mod relay;
mod stamper;

#[allow(dead_code, reason = "the other benches use other parts of it")]
#[path = "../common/mod.rs"]
mod common;

#[path = "../../tests/it/ports.rs"]
mod ports;
/// The scratch Postfix of the tests.
#[allow(dead_code, clippy::unwrap_used, reason = "the tests use other parts of it")]
#[path = "../../tests/it/postfix.rs"]
mod postfix;
#[allow(dead_code, clippy::unwrap_used, reason = "the tests use other parts of it")]
#[path = "../../tests/it/sink.rs"]
mod sink;
#[allow(dead_code, clippy::unwrap_used, reason = "the tests use other parts of it")]
#[path = "../../tests/it/smtp.rs"]
mod smtp;
#[allow(dead_code, reason = "the tests use other parts of it")]
#[path = "../../tests/it/wait.rs"]
mod wait;

use args::Args;
use common::{Result, cli, echo};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main("milter", args::USAGE, &[(echo::ROLE, echo::run), (stamper::ROLE, stamper::run)], bench)
}

fn bench(args: &[String]) -> Result<()> {
    compare::run(&Args::parse(args)?)
}

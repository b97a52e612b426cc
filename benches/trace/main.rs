//! The bench of `gatepost trace`: logs that a real run made, multiplied, and the time to find the messages of an address
//! in them beside that of `grep -F`. `benches/README.md` says what it prints.

mod measure;
mod multiply;

#[allow(dead_code, reason = "the other benches use other parts of it")]
#[path = "../common/mod.rs"]
mod common;

use common::Result;
use common::cli::{self, Flags, is_smoke};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo bench --bench trace -- [OPTIONS]
options
  --rounds N             interleaved rounds                     (10)
  --size MIB             of the logs                            (1024)
  --messages N           that are really sent                   (400)
  --dir DIR              where to work, on the disk to measure  (below Cargo's target folder)
  --smoke                seconds instead of minutes: shows that it works, measures nothing";

/// The runner's options; USAGE says what they mean.
#[derive(Debug)]
struct Args {
    rounds: usize,
    mib: u64,
    messages: usize,
    dir: PathBuf,
}

fn main() -> ExitCode {
    cli::main("trace", USAGE, &[], |args| bench(&Args::parse(args)?))
}

impl Args {
    fn parse(args: &[String]) -> Result<Self> {
        let (rounds, mib, messages) = if is_smoke(args) { (1, 8, 40) } else { (10, 1024, 400) };
        let mut read = Self { rounds, mib, messages, dir: env!("CARGO_TARGET_TMPDIR").into() };
        let mut flags = Flags::new(args);
        while let Some(flag) = flags.next() {
            match flag {
                "--rounds" => read.rounds = flags.value()?,
                "--size" => read.mib = flags.value()?,
                "--messages" => read.messages = flags.value()?,
                "--dir" => read.dir = flags.value()?,
                _ => return flags.unknown(),
            }
        }
        Ok(read)
    }
}

fn bench(args: &Args) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("gatepost-trace-").tempdir_in(&args.dir)?;
    record(args.messages, dir.path())?;
    let logs = multiply::multiply(dir.path(), args.mib << 20)?;
    let size: u64 = logs.files.iter().map(|file| file.metadata().map_or(0, |about| about.len())).sum();
    println!("{} messages in {} MiB of logs, of {} that were sent", logs.messages, size >> 20, args.messages);
    measure::run(&logs, args.rounds)
}

/// A real run: Postfix, gatepost and what stands for SES; its logs are left in `into`.
fn record(messages: usize, into: &Path) -> Result<()> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new(repository.join("demo/run"))
        .arg(env!("CARGO_BIN_EXE_gatepost"))
        .arg(repository.join("benches/trace/send.py"))
        .arg(messages.to_string())
        .arg(into)
        .status()?;
    if status.success() { Ok(()) } else { Err(format!("demo/run: {status}").into()) }
}

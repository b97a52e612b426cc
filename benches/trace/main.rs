//! The bench of `gatepost trace`: logs that a real run made, multiplied, and the time to find the messages of an address
//! in them beside that of `grep -F`. `benches/README.md` says what it prints.

mod measure;
mod multiply;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What can go wrong: a log that is not made, a message that is not found. Slow figures are not errors.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

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
    match Args::parse().and_then(|args| args.map_or(Ok(()), |args| bench(&args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trace bench: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    /// Without the `--bench` that `cargo bench` adds, as under `cargo test --benches`, it is a smoke run. `None`: only
    /// the options were asked for.
    fn parse() -> Result<Option<Self>> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| args.iter().any(|a| a == flag);
        if has("--help") || has("-h") {
            println!("{USAGE}");
            return Ok(None);
        }
        let dir = env!("CARGO_TARGET_TMPDIR").into();
        let mut read = if has("--smoke") || !has("--bench") {
            println!("A smoke run: that it works; the figures mean nothing.");
            Self { rounds: 1, mib: 8, messages: 40, dir }
        } else {
            Self { rounds: 10, mib: 1024, messages: 400, dir }
        };
        let mut rest = args.iter();
        while let Some(flag) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
            match flag.as_str() {
                "--bench" | "--smoke" => {}
                "--rounds" => read.rounds = value()?.parse()?,
                "--size" => read.mib = value()?.parse()?,
                "--messages" => read.messages = value()?.parse()?,
                "--dir" => read.dir = value()?.into(),
                _ => return Err(format!("unknown option {flag}\n{USAGE}").into()),
            }
        }
        Ok(Some(read))
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

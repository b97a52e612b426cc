//! The bench of `gatepost report`: beside pflogsumm (Debian's package) on the same plain log of Postfix's, in interleaved
//! rounds of one run, with the largest memory of each; what both count must be the same. `benches/README.md` says what it
//! prints.

mod log;
mod run;

#[allow(dead_code, reason = "the other benches use other parts of it")]
#[path = "../common/mod.rs"]
mod common;

use common::cli::{self, Flags, is_smoke};
use common::figures::{Sample, verdict};
use common::{Result, rounds};
use run::{Ran, Who};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo bench --bench report -- [OPTIONS]
  --bytes N    how large the log is              (1073741824)
  --rounds N   interleaved rounds                (5)
  --dir DIR    where the log is                  (below Cargo's target folder)
  --smoke      seconds instead of minutes: shows that it works, measures nothing";

/// The least times that pflogsumm takes longer.
const TIMES: f64 = 20.0;

/// The most memory, in MiB: two full tables, and the lists of two threads.
const MIB: f64 = 256.0;

struct Args {
    bytes: u64,
    rounds: usize,
    dir: PathBuf,
}

fn main() -> ExitCode {
    cli::main("report", USAGE, &[], |args| bench(&Args::parse(args)?))
}

impl Args {
    fn parse(args: &[String]) -> Result<Self> {
        let (bytes, rounds) = if is_smoke(args) { (4 << 20, 1) } else { (1 << 30, 5) };
        let mut read = Self { bytes, rounds, dir: env!("CARGO_TARGET_TMPDIR").into() };
        let mut flags = Flags::new(args);
        while let Some(flag) = flags.next() {
            match flag {
                "--bytes" => read.bytes = flags.value()?,
                "--rounds" => read.rounds = flags.value()?,
                "--dir" => read.dir = flags.value()?,
                _ => return flags.unknown(),
            }
        }
        Ok(read)
    }
}

fn bench(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.dir)?;
    let dir = tempfile::Builder::new().prefix("report-").tempdir_in(&args.dir)?;
    let log = dir.path().join("mail.log");
    let lines = log::write(&log, args.bytes)?;
    let mut all = Vec::new();
    for n in 0..args.rounds {
        eprintln!("round {} of {}", n + 1, args.rounds);
        all.push(rounds::round(n, |at| {
            run::measure(if at == 1 { Who::Gatepost } else { Who::Pflogsumm }, &log, dir.path())
        })?);
    }
    let each = |at: usize| all.iter().map(|round| &round[at]).collect::<Vec<&Ran>>();
    let (theirs, ours, again) = (each(0), each(1), each(2));
    compare_counts(&ours, &theirs)?;
    println!(
        "{} rounds, interleaved: median (smallest–largest). {lines} lines, {} MiB.",
        args.rounds,
        args.bytes >> 20
    );
    println!("\n  {:<12} {:>24} {:>24} {:>26}", "", "seconds", "CPU seconds", "most memory, MiB");
    print("gatepost", &ours);
    print("pflogsumm", &theirs);
    let times = ratio(&theirs, &ours);
    println!("\n  times as fast     {:>22}  ≥ {TIMES}: {}", times.show(1), verdict(times.median() >= TIMES));
    println!("  A/A               {:>22}", ratio(&theirs, &again).show(2));
    let memory: Sample = ours.iter().map(|ran| ran.mib).collect();
    println!("  memory, MiB       {:>22}  ≤ {MIB}: {}", memory.show(0), verdict(memory.max() <= MIB));
    Ok(())
}

fn ratio(a: &[&Ran], b: &[&Ran]) -> Sample {
    a.iter().zip(b).map(|(a, b)| a.seconds / b.seconds).collect()
}

fn print(name: &str, runs: &[&Ran]) {
    let of = |field: fn(&Ran) -> f64| runs.iter().map(|ran| field(ran)).collect::<Sample>();
    let (seconds, cpu, mib) = (of(|ran| ran.seconds), of(|ran| ran.cpu), of(|ran| ran.mib));
    println!("  {name:<12} {:>24} {:>24} {:>26}", seconds.show(2), cpu.show(2), mib.show(0));
}

/// A fast answer that is wrong is none.
fn compare_counts(ours: &[&Ran], theirs: &[&Ran]) -> Result<()> {
    let (Some(ours), Some(theirs)) = (ours.first(), theirs.first()) else { return Err("no rounds".into()) };
    for (word, pointer) in [
        ("received", "/accepted/total"),
        ("delivered", "/sent/total"),
        ("deferred", "/deferred/messages"),
        ("bounced", "/bounced/total"),
        ("rejected", "/refused/postfix_lines"),
        ("bytes received", "/accepted/bytes"),
    ] {
        let ours: serde_json::Value = serde_json::from_str(&ours.said)?;
        let n = ours.pointer(pointer).and_then(serde_json::Value::as_u64).ok_or_else(|| format!("no {pointer}"))?;
        let counted = run::counted(&theirs.said, word).ok_or_else(|| format!("pflogsumm does not say {word}"))?;
        if !run::is_same(n, counted) || n == 0 {
            return Err(format!("{word}: {n}, pflogsumm {counted}").into());
        }
    }
    Ok(())
}

/// Where the package has it; it is a script.
fn pflogsumm() -> &'static Path {
    Path::new("/usr/sbin/pflogsumm")
}

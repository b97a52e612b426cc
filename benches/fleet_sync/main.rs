//! The bench of a fleet's list: how long a relay that was away while a million entries changed takes until it knows the
//! same as the others, and a new one with ten million in the store until it refuses the first of them; and the most memory
//! that each held. One redis-server, one relay, one machine. `benches/README.md` says what it prints.

mod world;

#[allow(dead_code, reason = "the other benches use other parts of it")]
#[path = "../common/mod.rs"]
mod common;

use common::Result;
use common::cli::{self, Flags, is_smoke};
use common::figures::verdict;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use world::{Fleet, Relay, Started};

const USAGE: &str = "usage: cargo bench --bench fleet_sync -- [OPTIONS]
  --entries N  how many a new relay finds        (10000000)
  --changes N  how many change while one is away (1000000)
  --dir DIR    where databases are               (below Cargo's target folder)
  --smoke      seconds instead of minutes: shows that it works, measures nothing";

/// Within what a new relay must be serving.
const SERVING: Duration = Duration::from_secs(60);

struct Args {
    entries: usize,
    changes: usize,
    dir: PathBuf,
}

fn main() -> ExitCode {
    cli::main("fleet_sync", USAGE, &[], |args| bench(&Args::parse(args)?))
}

impl Args {
    fn parse(args: &[String]) -> Result<Self> {
        let (entries, changes) = if is_smoke(args) { (20_000, 10_000) } else { (10_000_000, 1_000_000) };
        let mut read = Self { entries, changes, dir: env!("CARGO_TARGET_TMPDIR").into() };
        let mut flags = Flags::new(args);
        while let Some(flag) = flags.next() {
            match flag {
                "--entries" => read.entries = flags.value()?,
                "--changes" => read.changes = flags.value()?,
                "--dir" => read.dir = flags.value()?,
                _ => return flags.unknown(),
            }
        }
        Ok(read)
    }
}

fn bench(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.dir)?;
    let dir = tempfile::Builder::new().prefix("fleet-").tempdir_in(&args.dir)?;
    let fleet = Fleet::start(dir.path())?;
    away(&fleet, &Relay::new(&fleet, "away", dir.path())?, args.changes)?;
    new(&fleet, &Relay::new(&fleet, "new", dir.path())?, args.entries)
}

/// Half of a list is removed while a relay is away, and as many entries come.
fn away(fleet: &Fleet, relay: &Relay, changes: usize) -> Result<()> {
    fleet.put(0..changes)?;
    drop(relay.start(0)?);
    fleet.remove(0..changes / 2)?;
    fleet.put(changes..changes + changes / 2)?;
    let started = relay.start(changes - 1)?;
    let agreed = started.agreed(|| knows(relay, changes))?;
    println!("Away while {changes} entries of {changes} changed:");
    println!("  serving after {:.1?}, agreed after {agreed:.1?}, {}", started.ready, most(&started)?);
    Ok(())
}

/// Whether a relay knows what was changed, as far as some changes from all over tell.
fn knows(relay: &Relay, changes: usize) -> Result<bool> {
    for n in (0..changes / 2).step_by((changes / 200).max(1)) {
        if relay.refuses(n)? || !relay.refuses(changes + n)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A relay that knows nothing comes to a fleet that knows much.
fn new(fleet: &Fleet, relay: &Relay, entries: usize) -> Result<()> {
    fleet.clear()?;
    fleet.put(0..entries)?;
    println!("New, with {entries} entries in the store ({:.0} MiB there):", fleet.mebibytes()?);
    let started = relay.start(entries - 1)?;
    let met = verdict(started.ready <= SERVING);
    println!("  the first refusal after {:.1?}  ≤ {SERVING:?}: {met}; {}", started.ready, most(&started)?);
    Ok(())
}

fn most(started: &Started) -> Result<String> {
    Ok(format!("at most {:.0} MiB of memory", started.most_memory()?))
}

//! The runner's options.

use crate::common::Result;
use crate::common::cli::{Flags, is_smoke};
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "usage: cargo bench --bench events -- [PART] [OPTIONS]
parts
  (none)                 gatepost beside the boto3 loop
  --million              a million events: memory over time; then a minute of nothing
options
  --baseline PYTHON      a Python that has boto3                (without: gatepost alone)
  --rounds N             interleaved rounds                     (5)
  --events N             events of each measurement; the loop gets a tenth  (100000; with --million 1000000)
  --recipients N         how many recipients there are, 0: as many as events  (0; with --million 50000)
  --dir DIR              where to work, on the disk to measure  (below Cargo's target folder)
  --smoke                seconds instead of minutes: shows that it works, measures nothing";

/// Which part of the bench to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// gatepost beside the boto3 loop.
    Compare,
    /// Memory.
    Million,
}

/// The runner's options; USAGE says what they mean.
#[derive(Clone, Debug)]
pub struct Args {
    pub part: Part,
    pub baseline: Option<PathBuf>,
    pub rounds: usize,
    pub events: u64,
    pub recipients: u64,
    pub dir: PathBuf,
    pub smoke: bool,
}

impl Args {
    /// Reads the command line.
    pub fn parse(args: &[String]) -> Result<Self> {
        let part = if args.iter().any(|a| a == "--million") { Part::Million } else { Part::Compare };
        let mut read = Self::of(part, is_smoke(args));
        let mut flags = Flags::new(args);
        while let Some(flag) = flags.next() {
            match flag {
                "--million" => {}
                "--baseline" => read.baseline = Some(flags.value()?),
                "--rounds" => read.rounds = flags.value()?,
                "--events" => read.events = flags.value()?,
                "--recipients" => read.recipients = flags.value()?,
                "--dir" => read.dir = flags.value()?,
                _ => return flags.unknown(),
            }
        }
        Ok(read)
    }

    fn of(part: Part, smoke: bool) -> Self {
        let million = part == Part::Million;
        Self {
            part,
            baseline: None,
            rounds: if smoke { 1 } else { 5 },
            events: match (smoke, million) {
                (true, _) => 2_000,
                (false, true) => 1_000_000,
                (false, false) => 100_000,
            },
            recipients: if million { 50_000 } else { 0 },
            dir: env!("CARGO_TARGET_TMPDIR").into(),
            smoke,
        }
    }
}

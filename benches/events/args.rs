//! The runner's options.

use crate::Result;
use std::path::PathBuf;
use std::str::FromStr;

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
    /// Print the options.
    Help,
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
    /// Reads the command line. Without the `--bench` that `cargo bench` adds, as under
    /// `cargo test --benches`, it is a smoke run.
    pub fn parse(args: &[String]) -> Result<Self> {
        let has = |flag: &str| args.iter().any(|a| a == flag);
        let part = match () {
            () if has("--help") || has("-h") => Part::Help,
            () if has("--million") => Part::Million,
            () => Part::Compare,
        };
        let mut read = Self::of(part, has("--smoke") || !has("--bench"));
        let mut rest = args.iter();
        while let Some(flag) = rest.next() {
            let mut value = || rest.next().map(String::as_str).ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
            match flag.as_str() {
                "--bench" | "--smoke" | "--million" | "--help" | "-h" => {}
                "--baseline" => read.baseline = Some(value()?.into()),
                "--rounds" => read.rounds = number(flag, value()?)?,
                "--events" => read.events = number(flag, value()?)?,
                "--recipients" => read.recipients = number(flag, value()?)?,
                "--dir" => read.dir = value()?.into(),
                _ => return Err(format!("unknown option {flag}\n{USAGE}").into()),
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

fn number<T: FromStr>(flag: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| format!("{flag}: bad value {text:?}\n{USAGE}").into())
}

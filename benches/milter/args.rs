//! The runner's options.

use crate::common::Result;
use crate::common::cli::{Flags, is_smoke};
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "usage: cargo bench --bench milter -- [OPTIONS]
options
  --rounds N             interleaved rounds                      (12)
  --messages N           messages of each measurement            (2000)
  --sessions N           SMTP sessions at once                   (20)
  --size N               bytes of a message                      (1024)
  --entries N            suppressed                              (1000000)
  --dir DIR              where gatepost works                    (a temporary folder; Postfix always works in one)
  --smoke                seconds instead of minutes: shows that it works, measures nothing";

/// The runner's options; USAGE says what they mean.
#[derive(Clone, Debug)]
pub struct Args {
    pub rounds: usize,
    pub messages: usize,
    pub sessions: usize,
    pub size: usize,
    pub entries: usize,
    pub dir: Option<PathBuf>,
}

impl Args {
    /// Reads the command line.
    pub fn parse(args: &[String]) -> Result<Self> {
        let (rounds, messages, entries) = if is_smoke(args) { (1, 100, 1_000) } else { (12, 2_000, 1_000_000) };
        let mut read = Self { rounds, messages, sessions: 20, size: 1_024, entries, dir: None };
        let mut flags = Flags::new(args);
        while let Some(flag) = flags.next() {
            match flag {
                "--rounds" => read.rounds = flags.value()?,
                "--messages" => read.messages = flags.value()?,
                "--sessions" => read.sessions = flags.value()?,
                "--size" => read.size = flags.value()?,
                "--entries" => read.entries = flags.value()?,
                "--dir" => read.dir = Some(flags.value()?),
                _ => return flags.unknown(),
            }
        }
        Ok(read)
    }
}

//! The runner's options.

use crate::common::Result;
use crate::common::cli::{Flags, is_smoke};
use crate::common::question::Kind;
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "usage: cargo bench --bench fleet -- [OPTIONS]
  --rounds N             interleaved rounds                      (12)
  --seconds S            length of each measurement              (2)
  --checks N,…           limit checks in flight at once          (1,8,64)
  --connections N,…      connections that ask for decisions      (8)
  --dir DIR              where to work                           (a temporary folder)
  --smoke                seconds instead of minutes: shows that it works, measures nothing";

/// The runner's options; USAGE says what they mean.
#[derive(Clone, Debug)]
pub struct Args {
    pub rounds: usize,
    pub seconds: f64,
    pub checks: Vec<usize>,
    pub connections: Vec<usize>,
    pub questions: Vec<Kind>,
    pub dir: Option<PathBuf>,
}

impl Args {
    /// How many threads drive so many connections: one each, as smtpd.
    pub fn threads_for(&self, connections: usize) -> usize {
        connections
    }

    /// Reads the command line.
    pub fn parse(args: &[String]) -> Result<Self> {
        let (rounds, seconds) = if is_smoke(args) { (1, 0.1) } else { (12, 2.0) };
        let questions = vec![Kind::Rcpt, Kind::Data];
        let mut read = Self { rounds, seconds, checks: vec![1, 8, 64], connections: vec![8], questions, dir: None };
        let mut flags = Flags::new(args);
        while let Some(flag) = flags.next() {
            match flag {
                "--rounds" => read.rounds = flags.value()?,
                "--seconds" => read.seconds = flags.value()?,
                "--checks" => read.checks = flags.values()?,
                "--connections" => read.connections = flags.values()?,
                "--dir" => read.dir = Some(flags.value()?),
                _ => return flags.unknown(),
            }
        }
        Ok(read)
    }
}

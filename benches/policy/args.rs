//! The runner's options.

use crate::common::Result;
use crate::common::cli::{Flags, is_smoke};
use crate::common::question::Kind;
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "usage: cargo bench --bench policy -- [PART] [OPTIONS]
parts
  (none)                 gatepost beside the echo server
  --large                ten million suppressed: import, memory, start, CPU
  --reload               a million-line allowlist edited while it is asked
options
  --rounds N             interleaved rounds                      (12; with --reload 3)
  --seconds S            length of each measurement              (2; with --reload 20)
  --connections N,…      connections in each measurement         (8,64; with --reload 8)
  --questions KIND,…     rcpt, rcpt-plain, data, data-plain      (all; with --large rcpt,data; with --reload rcpt-plain)
  --threads N            threads of the load generator           (one a connection, as smtpd)
  --entries N            suppressed, or lines of the allowlist   (1000000; with --large 10000000)
  --edits N              timed edits of --reload                 (20)
  --dir DIR              where to work                           (a temporary folder)
  --smoke                seconds instead of minutes: shows that it works, measures nothing";

/// Which part of the bench to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// gatepost beside the echo server.
    Policy,
    /// Many suppressed.
    Large,
    /// A large allowlist, edited.
    Reload,
}

/// The runner's options; USAGE says what they mean.
#[derive(Clone, Debug)]
pub struct Args {
    pub part: Part,
    pub rounds: usize,
    pub seconds: f64,
    pub connections: Vec<usize>,
    pub questions: Vec<Kind>,
    /// 0: one a connection.
    pub threads: usize,
    pub entries: usize,
    pub edits: usize,
    pub dir: Option<PathBuf>,
}

impl Args {
    /// How many threads drive so many connections.
    pub fn threads_for(&self, connections: usize) -> usize {
        if self.threads == 0 { connections } else { self.threads.min(connections) }
    }

    /// Reads the command line.
    pub fn parse(args: &[String]) -> Result<Self> {
        let has = |flag: &str| args.iter().any(|a| a == flag);
        let part = match () {
            () if has("--large") => Part::Large,
            () if has("--reload") => Part::Reload,
            () => Part::Policy,
        };
        let mut read = if is_smoke(args) { Self::smoke(part) } else { Self::normal(part) };
        let mut flags = Flags::new(args);
        while let Some(flag) = flags.next() {
            match flag {
                "--large" | "--reload" => {}
                "--rounds" => read.rounds = flags.value()?,
                "--seconds" => read.seconds = flags.value()?,
                "--connections" => read.connections = flags.values()?,
                "--questions" => read.questions = flags.values()?,
                "--threads" => read.threads = flags.value()?,
                "--entries" => read.entries = flags.value()?,
                "--edits" => read.edits = flags.value()?,
                "--dir" => read.dir = Some(flags.value()?),
                _ => return flags.unknown(),
            }
        }
        Ok(read)
    }

    fn normal(part: Part) -> Self {
        let policy = Self {
            part,
            rounds: 12,
            seconds: 2.0,
            connections: vec![8, 64],
            questions: Kind::ALL.to_vec(),
            threads: 0,
            entries: 1_000_000,
            edits: 20,
            dir: None,
        };
        match part {
            Part::Large => Self { entries: 10_000_000, questions: vec![Kind::Rcpt, Kind::Data], ..policy },
            Part::Reload => {
                Self { rounds: 3, seconds: 20.0, connections: vec![8], questions: vec![Kind::RcptPlain], ..policy }
            }
            _ => policy,
        }
    }

    fn smoke(part: Part) -> Self {
        let questions = if part == Part::Policy { Kind::ALL.to_vec() } else { vec![Kind::RcptPlain] };
        let seconds = if part == Part::Reload { 0.5 } else { 0.1 };
        Self { rounds: 1, seconds, connections: vec![8], questions, entries: 5_000, edits: 2, ..Self::normal(part) }
    }
}

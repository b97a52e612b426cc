//! One run of one program: how long, how much CPU time and memory, and what it printed.

use crate::common::Result;
use crate::pflogsumm;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The release binary that Cargo built beside the bench.
const GATEPOST: &str = env!("CARGO_BIN_EXE_gatepost");

/// How often memory is looked at; the kernel keeps the highest.
const LOOK: Duration = Duration::from_millis(2);

/// Which program.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    Gatepost,
    Pflogsumm,
}

/// What a run took.
#[derive(Clone, Debug)]
pub struct Ran {
    pub seconds: f64,
    pub cpu: f64,
    pub mib: f64,
    pub said: String,
}

/// Runs it on the log.
pub fn measure(who: Who, log: &Path, dir: &Path) -> Result<Ran> {
    let mut command = match who {
        Who::Pflogsumm => Command::new(pflogsumm()),
        Who::Gatepost => {
            let mut command = Command::new(GATEPOST);
            command.args(["report", "--json", "--no-queue", "--since", "2000-01-01", "--log"]);
            command
        }
    };
    // No reports of single mails: they are not what is compared.
    let out = dir.join("out");
    command.arg(log).env("TZ", "UTC").stdin(Stdio::null()).stdout(File::create(&out)?).stderr(Stdio::inherit());
    let began = Instant::now();
    let mut child = command.spawn()?;
    let (mut mib, mut cpu) = (0.0_f64, 0.0);
    let status = loop {
        let seen = usage(child.id());
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Some((now, ticks)) = seen {
            mib = mib.max(now);
            cpu = ticks;
        }
        std::thread::sleep(LOOK);
    };
    let seconds = began.elapsed().as_secs_f64();
    // 1: an alert stands, for nothing is heard of SES in this log.
    if !matches!(status.code(), Some(0 | 1)) {
        return Err(format!("{who:?} ended with {status}").into());
    }
    Ok(Ran { seconds, cpu, mib, said: fs::read_to_string(out)? })
}

/// The most memory so far, in MiB, and the CPU time so far, in seconds.
fn usage(pid: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    let ticks = ticks()? + ticks()?;
    // USER_HZ is 100 on every Linux that is in use.
    Some((most.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0, ticks / 100.0))
}

/// A number of pflogsumm's grand totals, as it prints it: `115839 `, `4985m`.
pub fn counted<'s>(said: &'s str, word: &str) -> Option<&'s str> {
    said.lines().find_map(|line| {
        let (count, rest) = line.trim_start().split_once(' ')?;
        (rest.split('(').next()?.trim() == word).then_some(count)
    })
}

/// Whether it is the same: pflogsumm cuts large numbers to their upper digits.
pub fn is_same(n: u64, counted: &str) -> bool {
    let (digits, unit) = match counted.strip_suffix(['k', 'm']) {
        Some(digits) if counted.ends_with('k') => (digits, 1 << 10),
        Some(digits) => (digits, 1 << 20),
        None => (counted, 1),
    };
    digits.parse::<u64>().is_ok_and(|digits| digits == n / unit)
}

//! Processes: started, looked at in /proc, ended.

use super::Result;
use std::fs::read_to_string;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end before it is killed.
const END: Duration = Duration::from_secs(5);

/// A process that runs; it ends with this value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).spawn()?))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, where it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let began = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if began.elapsed() > END {
                let _ = self.0.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The CPU time of a process: its threads' time on a CPU, in the kernel too (schedstat counts
/// nanoseconds; utime and stime of /proc/PID/stat have ticks of 10 ms).
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end in between.
        let Ok(stat) = read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanos = stat.split(' ').next().and_then(|n| n.parse().ok()).ok_or("no schedstat")?;
        total += Duration::from_nanos(nanos);
    }
    Ok(total)
}

/// The CPU time of a process, its children, and those of its children that have ended. In ticks of 10 ms a process.
pub fn family_cpu_time(pid: u32) -> Result<Duration> {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")? {
        // A process may end in between: then its parent has its time.
        let Ok(stat) = read_to_string(entry?.path().join("stat")) else { continue };
        let Some((number, rest)) = stat.split_once(' ') else { continue };
        // proc(5): behind the name in brackets come state, parent and, from the 14th field on, the times.
        let fields: Vec<u64> =
            rest.rsplit(')').next().unwrap_or_default().split(' ').map(|f| f.parse().unwrap_or(0)).collect();
        let [_, _, parent, .., own, system, childrens, childrens_system] = *fields.get(..16).unwrap_or_default() else {
            continue;
        };
        if number.parse() == Ok(pid) {
            ticks += own + system + childrens + childrens_system;
        } else if parent == u64::from(pid) {
            ticks += own + system;
        }
    }
    Ok(Duration::from_millis(ticks * 10))
}

/// The memory of a process, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// VmRSS: all pages in memory, shared and file-backed ones too.
    pub rss: f64,
    /// Pss: shared pages counted in parts.
    pub pss: f64,
    /// RssAnon: its own heap and stacks.
    pub anonymous: f64,
}

/// What a process holds in memory now.
pub fn memory(pid: u32) -> Result<Memory> {
    let (status, rollup) =
        (read_to_string(format!("/proc/{pid}/status"))?, read_to_string(format!("/proc/{pid}/smaps_rollup"))?);
    let field = |text: &str, name: &str| -> Result<f64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
        Ok(value.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    Ok(Memory { rss: field(&status, "VmRSS:")?, pss: field(&rollup, "Pss:")?, anonymous: field(&status, "RssAnon:")? })
}

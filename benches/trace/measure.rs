//! `trace` beside `grep -F`, in interleaved rounds, and how much memory it takes.

use crate::common::figures::{Sample, verdict};
use crate::common::{Result, rounds};
use crate::multiply::{FEW, Logs, MANY};
use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How much longer than `grep` it may take, for few messages and for many.
const MOST_TIMES: [f64; 2] = [2.0, 8.0];

/// How much it may have in memory.
const MOST_MIB: f64 = 100.0;

/// Measures and prints.
pub fn run(logs: &Logs, times: usize) -> Result<()> {
    for file in &logs.files {
        // What follows finds it in the page cache.
        io::copy(&mut fs::File::open(file)?, &mut io::sink())?;
    }
    let mut resident = 0.0_f64;
    println!("{:<22} {:>14} {:>14} {:>20} {:>20}", "messages of an address", "grep -F, s", "trace, s", "ratio", "A/A");
    for ((address, count), most) in [FEW, MANY].into_iter().zip(MOST_TIMES) {
        resident = resident.max(check(logs, address, count)?);
        let mut all = Vec::new();
        for n in 0..times {
            all.push(rounds::round(n, |at| {
                timed(&mut if at == 1 { trace(logs, address) } else { grep(logs, address) })
            })?);
        }
        let each = |of: fn(&[f64; 3]) -> f64| all.iter().map(of).collect::<Sample>();
        let ratio = each(|[grep, trace, _]| trace / grep);
        println!(
            "{count:<22} {:>14.3} {:>14.3} {:>20} {:>20}  at most {most}: {}",
            each(|round| round[0]).median(),
            each(|round| round[1]).median(),
            ratio.show(2),
            each(|[grep, _, again]| again / grep).show(2),
            verdict(ratio.median() <= most),
        );
    }
    println!("resident at most {resident:.0} MiB, at most {MOST_MIB} allowed: {}", verdict(resident <= MOST_MIB));
    Ok(())
}

fn trace(logs: &Logs, address: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
    command.args(["trace", "--json", address]);
    for file in &logs.files {
        command.arg("--log").arg(file);
    }
    command
}

fn grep(logs: &Logs, address: &str) -> Command {
    let mut command = Command::new("grep");
    // The fastest that it can: without a look at the characters.
    command.env("LC_ALL", "C").args(["-hF", address]).args(&logs.files);
    command
}

/// How long a command takes, in seconds, what it prints read by somebody: grep ends early where nobody does.
fn timed(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let out = command.stderr(Stdio::inherit()).output()?;
    if !out.status.success() || out.stdout.is_empty() {
        return Err(format!("{command:?}: {}", out.status).into());
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// That all messages are found, from their submission to what SES made of them; how many MiB that took.
fn check(logs: &Logs, address: &str, count: usize) -> Result<f64> {
    let mut child = trace(logs, address).stdout(Stdio::piped()).spawn()?;
    let mut out = child.stdout.take().ok_or("no stdout")?;
    let reader = std::thread::spawn(move || io::read_to_string(&mut out));
    let mut resident = 0.0_f64;
    while child.try_wait()?.is_none() {
        resident = resident.max(highest(child.id()).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(1));
    }
    let shown = reader.join().map_err(|_| "the reader ended")??;
    let mut whole = 0;
    for line in shown.lines() {
        let journey: serde_json::Value = serde_json::from_str(line)?;
        let has = |what: &str| line.contains(&format!("\"what\":\"{what}\""));
        let one = journey["recipients"].as_array().is_some_and(|to| to.len() == 1 && to[0]["address"] == address);
        whole += usize::from(one && ["submitted", "stamped", "queued", "sent", "delivered"].into_iter().all(has));
    }
    let found = shown.lines().count();
    if (found, whole) == (count, count) {
        return Ok(resident);
    }
    Err(format!("{found} messages of {address} are found, {whole} of them whole; they are {count}").into())
}

/// The most that a process had in memory so far (VmHWM), in MiB.
fn highest(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(value.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

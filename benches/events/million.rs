//! Many events one after the other: what the daemon holds in memory meanwhile; and, afterwards, how often it asks
//! an empty queue.

use crate::args::Args;
use crate::clients::{Client, Who};
use crate::common::Result;
use crate::common::figures::verdict;
use crate::common::process::{cpu_time, memory};
use crate::compare::until;
use crate::stand_in::{Load, StandIn};
use std::time::Duration;

/// How many samples of the memory are printed.
const SAMPLES: u64 = 20;

/// The most that memory may grow from the second quarter of the events to the last, as a factor: buffers and
/// caches are full by then. (The first quarter fills them, and the index of the recipients.)
const GROWTH: f64 = 1.05;

/// The most calls a minute while there is nothing.
const IDLE_CALLS: u64 = 4;

/// Runs the part.
pub fn run(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.dir)?;
    let events = args.events;
    let stand_in = StandIn::start(Load { events, recipients: args.recipients, beforehand: false })?;
    let mut client = Client::start(&Who::Gatepost, &stand_in, &args.dir)?;
    let pid = client.pid();
    println!("{events} events of {} recipients. VmRSS in MiB:", args.recipients);
    let mut samples = Vec::new();
    let mut next = 0;
    let seen = until(&stand_in, &mut client, |seen| {
        if seen.deleted >= next {
            let rss = resident(pid);
            println!("  {:>9} events  {rss:>7.1}", seen.deleted);
            next = seen.deleted - seen.deleted % (events / SAMPLES) + events / SAMPLES;
        }
        samples.push((seen.deleted, resident(pid)));
        seen.deleted >= events
    })?;
    while client.lines()? < events {
        client.check()?;
        std::thread::sleep(Duration::from_millis(10));
    }
    let largest = |from: u64, to: u64| {
        let part = samples.iter().filter(|(n, _)| (from..=to).contains(&(n * 4 / events)));
        part.map(|(_, rss)| *rss).fold(0.0, f64::max)
    };
    let (second, last) = (largest(1, 1), largest(3, 4));
    println!(
        "\n  {:.0} events/s, {:.3} calls per event",
        events as f64 / seen.span.as_secs_f64(),
        seen.calls as f64 / events as f64
    );
    let flat = last <= second * GROWTH;
    println!("  largest in the second quarter {second:.1}, in the last {last:.1}  ≤ × {GROWTH}: {}", verdict(flat));
    idle(args, &stand_in, pid)
}

/// A minute of nothing.
fn idle(args: &Args, stand_in: &StandIn, pid: u32) -> Result<()> {
    let minute = Duration::from_secs(if args.smoke { 1 } else { 60 });
    // Pollers that were needed wait for the last time.
    std::thread::sleep(if args.smoke { Duration::ZERO } else { Duration::from_secs(21) });
    let (calls, cpu) = (stand_in.seen()?.calls, cpu_time(pid)?);
    std::thread::sleep(minute);
    let (calls, cpu) = (stand_in.seen()?.calls - calls, cpu_time(pid)? - cpu);
    let met = calls <= IDLE_CALLS;
    println!("  idle for {minute:?}: {calls} calls, {cpu:.0?} of CPU  ≤ {IDLE_CALLS} calls: {}", verdict(met));
    Ok(())
}

/// VmRSS, in MiB.
fn resident(pid: u32) -> f64 {
    memory(pid).map_or(f64::NAN, |memory| memory.rss)
}

//! gatepost beside the boto3 loop: how many events a second each takes out of the queue for good.

use crate::args::Args;
use crate::clients::{Client, Who};
use crate::common::Result;
use crate::common::figures::{Sample, verdict};
use crate::common::process::cpu_time;
use crate::stand_in::{Load, Seen, StandIn};
use std::time::{Duration, Instant};

/// The least events a second.
const RATE: f64 = 8_000.0;

/// The least times the loop's rate.
const TIMES: f64 = 10.0;

/// The most calls of the queue's API for an event.
const CALLS: f64 = 0.25;

/// How long nothing may happen before a run is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Events a second, from the first receive until the last is deleted and has its line.
    rate: f64,
    /// Calls for an event.
    calls: f64,
    /// The client's CPU time for an event, in µs.
    cpu: f64,
    /// The stand-in's.
    stand_in: f64,
}

/// Measures in rounds, and prints.
pub fn run(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.dir)?;
    let python = args.baseline.clone().map(Who::Loop);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        // In turning order, so that neither always comes first.
        for turn in 0..2 {
            match (&python, (round + turn) % 2) {
                (_, 1) => ours.push(measure(args, &Who::Gatepost, args.events)?),
                (Some(who), _) => theirs.push(measure(args, who, (args.events / 10).max(100))?),
                (None, _) => {}
            }
        }
    }
    println!(
        "{} rounds, interleaved: median (smallest–largest). {} events each, the loop a tenth.",
        args.rounds, args.events
    );
    println!(
        "\n  {:<10} {:>24} {:>22} {:>20} {:>20}",
        "", "events/s", "calls per event", "CPU/event, µs", "stand-in's, µs"
    );
    print("gatepost", &ours);
    if theirs.is_empty() {
        println!("  no --baseline PYTHON: nothing to compare with");
    } else {
        print("boto3 loop", &theirs);
    }
    judge(&ours, &theirs);
    Ok(())
}

fn judge(ours: &[Figures], theirs: &[Figures]) {
    let median = |of: fn(&Figures) -> f64| ours.iter().map(of).collect::<Sample>().median();
    println!("\n  events/s         {:>8.0}  ≥ {RATE}: {}", median(|f| f.rate), verdict(median(|f| f.rate) >= RATE));
    println!("  calls per event  {:>8.3}  ≤ {CALLS}: {}", median(|f| f.calls), verdict(median(|f| f.calls) <= CALLS));
    if !theirs.is_empty() {
        let times: Sample = ours.iter().zip(theirs).map(|(a, b)| a.rate / b.rate).collect();
        println!("  times the loop   {:>8}  ≥ {TIMES}: {}", times.show(1), verdict(times.median() >= TIMES));
    }
}

fn print(name: &str, figures: &[Figures]) {
    let of = |field: fn(&Figures) -> f64| figures.iter().map(field).collect::<Sample>();
    println!(
        "  {name:<10} {:>24} {:>22} {:>20} {:>20}",
        of(|f| f.rate).show(0),
        of(|f| f.calls).show(3),
        of(|f| f.cpu).show(0),
        of(|f| f.stand_in).show(0)
    );
}

/// One client on a queue of its own, until the queue is empty and every event has its line.
fn measure(args: &Args, who: &Who, events: u64) -> Result<Figures> {
    let stand_in = StandIn::start(Load { events, recipients: args.recipients, beforehand: true })?;
    let mut client = Client::start(who, &stand_in, &args.dir)?;
    until(&stand_in, &mut client, |seen| seen.receives > 0)?;
    let (cpu, stand_ins) = (cpu_time(client.pid())?, cpu_time(stand_in.pid())?);
    let seen = until(&stand_in, &mut client, |seen| seen.deleted >= events)?;
    let emptied = Instant::now();
    // Lines that come after the last delete count as late.
    let mut late = Duration::ZERO;
    while client.lines()? < events {
        if emptied.elapsed() > PATIENCE {
            return Err(format!("{} of {events} events have a line", client.lines()?).into());
        }
        std::thread::sleep(Duration::from_millis(2));
        late = emptied.elapsed();
    }
    let (cpu, stand_ins) = (cpu_time(client.pid())? - cpu, cpu_time(stand_in.pid())? - stand_ins);
    if client.lines()? != events {
        return Err(format!("{} lines for {events} events", client.lines()?).into());
    }
    if matches!(who, Who::Gatepost) && args.recipients == 0 {
        let suppressed = client.suppressed()?;
        if suppressed < events / 2 {
            return Err(format!("{suppressed} suppressed after {events} events, half of which suppress").into());
        }
    }
    let per_event = |time: Duration| time.as_secs_f64() * 1e6 / events as f64;
    Ok(Figures {
        rate: events as f64 / (seen.span + late).as_secs_f64(),
        calls: seen.calls as f64 / events as f64,
        cpu: per_event(cpu),
        stand_in: per_event(stand_ins),
    })
}

/// Asks the stand-in until it has seen this.
pub fn until(stand_in: &StandIn, client: &mut Client, mut holds: impl FnMut(&Seen) -> bool) -> Result<Seen> {
    let (mut last, mut since) = (Seen::default(), Instant::now());
    loop {
        let seen = stand_in.seen()?;
        if holds(&seen) {
            return Ok(seen);
        }
        if seen.calls != last.calls {
            (last, since) = (seen, Instant::now());
        }
        client.check()?;
        if since.elapsed() > PATIENCE {
            return Err(format!("nothing happens any more: {seen:?}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

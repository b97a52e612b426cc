//! `gatepost trace`: the way of a message, from the mail logs: who submitted it, what Postfix and SES did with it for
//! each recipient, and how long each step took.

use super::exit;
use super::output::{Console, Failure};
use crate::daemon::Config;
use crate::journey::{self, Journey, Logs, MAX_KEPT_BYTES, Query, Recipient, Search, Station, Tail, Unread};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// `gatepost trace`
#[derive(Clone, Debug, clap::Args)]
pub struct TraceArgs {
    /// A queue id, a correlation id, an SES id, a Message-ID, or the address of a recipient or sender
    #[arg(value_name = "ID|ADDRESS")]
    what: String,
    /// Read these files instead of those of `[logs]`, or - for standard input; gzip too
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// Then go on, and print what is written to the logs from now on
    #[arg(long, short)]
    follow: bool,
}

/// How often growing logs are looked at.
const PAUSE: Duration = Duration::from_millis(250);

/// Prints the journeys; 1 where there is none.
///
/// # Errors
/// A text for the operator and the exit code.
pub fn run(args: &TraceArgs, config: &Config, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let Some(query) = Query::new(&args.what) else {
        return Err(Failure::new(exit::USAGE, "neither an id nor an address: give at least three characters of one"));
    };
    let (logs, mut unread) = open(&args.logs, None, config, console);
    let mut search = Search::new(query, TimeZone::system());
    unread.extend(search.run(&logs));
    for wrong in &unread {
        writeln!(console.err, "gatepost: {}: cannot be read: {}", wrong.name, wrong.error)?;
    }
    if logs.is_empty() || unread.len() >= logs.len() && search.found().is_empty() && !unread.is_empty() {
        let hint = if unread.is_empty() { ": there are no logs; name them in [logs] or with --log" } else { "" };
        return Err(Failure::new(exit::NOINPUT, format!("nothing could be read{hint}")));
    }
    let journeys = journey::join(&search.found());
    for journey in &journeys {
        show(journey, json, console.out)?;
    }
    console.out.flush()?;
    if search.is_cut() {
        // Behind them: what comes first is out of sight by then.
        let text = "what is printed is a part; ask for one of the ids, or name fewer logs with --log";
        let mib = MAX_KEPT_BYTES >> 20;
        writeln!(console.err, "gatepost: more than {mib} MiB of lines are about it: {text}")?;
    }
    if args.follow {
        return follow(&mut search, &logs, json, console);
    }
    Ok(if journeys.is_empty() { exit::NOT_FOUND } else { exit::OK })
}

/// The logs that are asked for (those of the configuration, where `files` names none), and what of them cannot be read.
/// Of the journal, what was written before `since` is left out.
pub(super) fn open(
    files: &[PathBuf],
    since: Option<Timestamp>,
    config: &Config,
    console: &mut Console<'_>,
) -> (Logs, Vec<Unread>) {
    if !files.is_empty() {
        let (mut logs, mut unread) = (Logs::default(), Vec::new());
        for path in files {
            let added = match path {
                path if path == Path::new("-") => logs.add_stream("stdin", &mut *console.input),
                path => logs.add(path),
            };
            unread.extend(added.err().map(|error| Unread { name: path.display().to_string(), error }));
        }
        return (logs, unread);
    }
    let usual = || journey::glob::USUAL.map(str::to_owned).to_vec();
    let patterns = config.logs.as_ref().map_or_else(usual, |logs| logs.paths.clone());
    let (mut logs, mut unread) = Logs::of_patterns(&patterns);
    if config.logs.as_ref().is_some_and(|logs| logs.journal) {
        unread.extend(logs.add_journal(since).err().map(|error| Unread { name: "the journal".to_owned(), error }));
    }
    (logs, unread)
}

/// Prints what is written from now on, until SIGTERM or SIGINT.
fn follow(search: &mut Search, logs: &Logs, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let mut tails: Vec<Tail> = logs.growing().iter().map(|(path, offset)| Tail::from_offset(path, *offset)).collect();
    let away = |e: io::Error| Failure::new(exit::IOERR, format!("the journal cannot be followed: {e}"));
    let mut journal = logs.follow_journal().transpose().map_err(away)?;
    if tails.is_empty() && journal.is_none() {
        return Err(Failure::new(exit::USAGE, "--follow needs a log file that grows, or the journal"));
    }
    let wrong = |e: io::Error| Failure::new(exit::IOERR, format!("cannot wait for signals: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrong)?;
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate()).map_err(wrong)?, signal(SignalKind::interrupt()).map_err(wrong)?)
    };
    loop {
        let mut new = Vec::new();
        for tail in &mut tails {
            // A log that is away for a moment is being rotated.
            let _ = tail.read(|_, line| new.extend(search.offer(line, Timestamp::now())));
        }
        if let Some(journal) = &mut journal {
            journal.read(|line| new.extend(search.offer(line, Timestamp::now()))).map_err(away)?;
        }
        for journey in new.iter().filter_map(journey::tell_one) {
            if json { show(&journey, true, console.out)? } else { show_new(&journey, console.out)? }
        }
        console.out.flush()?;
        let ended = runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => true,
                _ = int.recv() => true,
                () = tokio::time::sleep(PAUSE) => false,
            }
        });
        if ended {
            return Ok(exit::OK);
        }
    }
}

fn show(journey: &Journey, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, journey)?;
        return writeln!(out);
    }
    writeln!(out, "{}", head(journey))?;
    for station in &journey.stations {
        show_station(station, "  ", out)?;
    }
    for recipient in &journey.recipients {
        writeln!(out, "  to {}", name(recipient))?;
        for station in &recipient.stations {
            show_station(station, "    ", out)?;
        }
    }
    writeln!(out)
}

/// One line for each thing that happened, with what it happened to.
fn show_new(journey: &Journey, out: &mut dyn Write) -> io::Result<()> {
    let ids = journey.queue_ids.first().or(journey.ses_ids.first()).map_or("", String::as_str);
    for station in &journey.stations {
        writeln!(out, "{:.3} {ids} {} {}", station.time, station.what, station.text)?;
    }
    for recipient in &journey.recipients {
        for station in &recipient.stations {
            let to = name(recipient);
            writeln!(out, "{:.3} {ids} {} to {to} {}", station.time, station.what, station.text)?;
        }
    }
    Ok(())
}

/// What the message is: its ids, sender, size.
fn head(journey: &Journey) -> String {
    let ids = if journey.queue_ids.is_empty() { "no queue id".to_owned() } else { journey.queue_ids.join(" -> ") };
    let mut head = ids;
    if let Some(id) = &journey.message_id {
        head.push_str(&format!("  <{id}>"));
    }
    if let Some(from) = &journey.from {
        head.push_str(&format!("  from <{from}>"));
    }
    if let Some(nrcpt) = journey.nrcpt {
        head.push_str(&format!("  {nrcpt} recipient{}", if nrcpt == 1 { "" } else { "s" }));
    }
    for id in &journey.correlation_ids {
        head.push_str(&format!("  correlation {id}"));
    }
    for relay in &journey.sent_by {
        head.push_str(&format!("  sent by {relay}"));
    }
    head
}

fn name(recipient: &Recipient) -> String {
    let orig_to = recipient.orig_to.as_ref().map(|orig| format!(" (for {orig})"));
    format!("{}{}", recipient.address, orig_to.unwrap_or_default())
}

fn show_station(station: &Station, indent: &str, out: &mut dyn Write) -> io::Result<()> {
    let after = station.after_ms.map(after).unwrap_or_default();
    let by = if station.by == "ses" { "ses " } else { "" };
    let what = format!("{by}{}", station.what);
    let mut line = format!("{indent}{:.3} {after:>9}  {what:<14}", station.time);
    for word in [&station.dsn, &station.text] {
        if !word.is_empty() {
            line.push(' ');
            line.push_str(word);
        }
    }
    writeln!(out, "{}", line.trim_end())
}

/// A time between, as short as it says enough.
fn after(ms: i64) -> String {
    match ms {
        ..0 => format!("{ms}ms"),
        0..1_000 => format!("+{ms}ms"),
        1_000..120_000 => format!("+{}.{}s", ms / 1_000, ms % 1_000 / 100),
        120_000..7_200_000 => format!("+{}min", ms / 60_000),
        _ => format!("+{}h{:02}", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_between() {
        for (ms, shown) in
            [(0, "+0ms"), (999, "+999ms"), (3_558, "+3.5s"), (180_000, "+3min"), (7_260_000, "+2h01"), (-5, "-5ms")]
        {
            assert_eq!(after(ms), shown);
        }
    }
}

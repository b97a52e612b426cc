//! `gatepost report`: what a day or any span of the mail logs says of the relay, to a terminal, as JSON, as a page, or by
//! mail; 1 where an alert stands.

mod mail;

use super::exit;
use super::output::{Console, Failure};
use super::time;
use super::trace;
use crate::daemon::Config;
use crate::journey::Unread;
use crate::mail::Address;
use crate::report::{self, Report, Settings, Span, Style};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// `gatepost report`
#[derive(Clone, Debug, clap::Args)]
pub struct ReportArgs {
    /// The day: today, yesterday or 2026-01-31, in this host's time zone
    #[arg(long, default_value = "today", conflicts_with_all = ["since", "until"])]
    day: String,
    /// From then on instead: 2026-01-31T12:00:00Z, 2026-01-31 (its first second, UTC), or a length of time ago such as 24h
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Until then [default: now]
    #[arg(long, value_name = "TIME", requires = "since")]
    until: Option<String>,
    /// After how many hours mail should have been heard of
    #[arg(long, value_name = "HOURS", default_value = "6", value_parser = clap::value_parser!(u32).range(1..=8_760))]
    unheard_after: u32,
    /// How many names each list has
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    top: u16,
    /// Judge no rate of less than so many recipients
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u64).range(1..))]
    min_mail: u64,
    /// Read these files instead of those of `[logs]`, or - for standard input; gzip too
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// Do not ask Postfix for its queue
    #[arg(long)]
    no_queue: bool,
    /// Write a page with charts into this file, or - for standard output, instead of printing
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Mail the report to this address by sendmail(1), instead of printing; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    mail: Vec<String>,
    /// The sender of that mail [default: sendmail's own, the user's name at $myorigin]
    #[arg(long, value_name = "ADDRESS", requires = "mail")]
    mail_from: Option<String>,
}

/// Counts, and shows what was counted; 1 where an alert stands.
///
/// # Errors
/// A text for the operator and the exit code.
pub fn run(args: &ReportArgs, config: &Config, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let to_stdout = args.html.as_deref() == Some(Path::new("-"));
    if json && to_stdout {
        return Err(Failure::new(exit::USAGE, "--json and --html - both write to standard output"));
    }
    let (mail_to, mail_from) = (addresses(&args.mail)?, addresses(args.mail_from.as_slice())?);
    let zone = TimeZone::system();
    let span = span(args, &zone, console.now)?;
    let report = make(args, config, span, zone, console)?;
    match args.html.as_deref() {
        Some(_) if to_stdout => console.out.write_all(report::html(&report).as_bytes())?,
        Some(file) => write_file(file, &report::html(&report))?,
        None => {}
    }
    if !mail_to.is_empty() {
        mail::send(&report, &mail_to, mail_from.first())?;
    }
    if json {
        serde_json::to_writer(&mut *console.out, &report).map_err(std::io::Error::from)?;
        writeln!(console.out)?;
    } else if args.html.is_none() && mail_to.is_empty() {
        let style = if std::io::stdout().is_terminal() { terminal() } else { Style::PLAIN };
        console.out.write_all(report::text(&report, style).as_bytes())?;
    }
    console.out.flush()?;
    Ok(if report.alert { exit::FAULTS } else { exit::OK })
}

/// Reads the logs, and draws up the report.
fn make(
    args: &ReportArgs,
    config: &Config,
    span: Span,
    zone: TimeZone,
    console: &mut Console<'_>,
) -> Result<Report, Failure> {
    let earliest = Timestamp::from_second(span.earliest()).unwrap_or(Timestamp::MIN);
    let (mut logs, mut unread) = trace::open(&args.logs, Some(earliest), config, console);
    if logs.is_empty() {
        tell(&unread, console)?;
        let hint = if unread.is_empty() { ": there are no logs; name them in [logs] or with --log" } else { "" };
        return Err(Failure::new(exit::NOINPUT, format!("nothing could be read{hint}")));
    }
    let files = logs.len();
    logs.skip_before(earliest);
    let (counter, tables, wrong) = report::count(&logs, span, &zone);
    if !logs.is_empty() && wrong.len() == logs.len() {
        tell(&wrong, console)?;
        return Err(Failure::new(exit::NOINPUT, "nothing could be read"));
    }
    unread.extend(wrong);
    tell(&unread, console)?;
    let unread = unread.iter().map(|log| format!("{}: {}", log.name, log.error)).collect();
    let queue = (!args.no_queue).then(report::queue);
    let settings = Settings {
        unheard_after: i64::from(args.unheard_after) * 3_600,
        top: usize::from(args.top),
        min_mail: args.min_mail,
        now: console.now,
        zone,
    };
    Ok(Report::of(counter, tables, (files, unread), queue, &settings))
}

fn tell(unread: &[Unread], console: &mut Console<'_>) -> Result<(), Failure> {
    for log in unread {
        writeln!(console.err, "gatepost: {}: cannot be read: {}", log.name, log.error)?;
    }
    Ok(())
}

fn span(args: &ReportArgs, zone: &TimeZone, now: i64) -> Result<Span, Failure> {
    let wrong = |option: &str, why: String| Failure::new(exit::USAGE, format!("{option}: {why}"));
    let Some(since) = &args.since else { return day(&args.day, zone, now).map_err(|why| wrong("--day", why)) };
    let since = time::point(since, now).map_err(|why| wrong("--since", why))?;
    // The second that has begun is part of it.
    let until = args.until.as_deref().map_or(Ok(now + 1), |until| time::point(until, now));
    let until = until.map_err(|why| wrong("--until", why))?;
    if until <= since {
        return Err(wrong("--until", format!("{} is not behind {}", time::rfc3339(until), time::rfc3339(since))));
    }
    Ok(Span { since, until })
}

/// From midnight to midnight, in the zone: 23 or 25 hours where its clocks are changed.
fn day(text: &str, zone: &TimeZone, now: i64) -> Result<Span, String> {
    let expected = || format!("{text:?} is no day: expected today, yesterday or a date such as 2026-01-31");
    let today = || Timestamp::from_second(now).map(|now| now.to_zoned(zone.clone()).date());
    let day: Date = match text {
        "today" => today(),
        "yesterday" => today().and_then(Date::yesterday),
        date => date.parse(),
    }
    .map_err(|_| expected())?;
    let midnight = |day: Date| day.to_zoned(zone.clone()).map(|zoned| zoned.timestamp().as_second());
    let next = day.checked_add(1.day()).and_then(midnight).map_err(|_| expected())?;
    Ok(Span { since: midnight(day).map_err(|_| expected())?, until: next })
}

/// What `--mail` names, as sendmail(1) takes it.
fn addresses(texts: &[String]) -> Result<Vec<Address>, Failure> {
    let read = |text: &String| {
        Address::parse(text).map_err(|why| Failure::new(exit::USAGE, format!("{text:?} is no mail address: {why}")))
    };
    texts.iter().map(read).collect()
}

/// Whoever reads the page sees the old one or the new one.
fn write_file(file: &Path, text: &str) -> Result<(), Failure> {
    let wrong = |e: std::io::Error| Failure::new(exit::IOERR, format!("{}: cannot be written: {e}", file.display()));
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = file.with_file_name(name);
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, file));
    written.inspect_err(|_| drop(fs::remove_file(&new))).map_err(wrong)
}

/// As wide as the terminal, in colours unless they are not wanted (no-color.org).
fn terminal() -> Style {
    let width = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let colour = !dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Style { colour, blocks: !dumb, width: if width == 0 { Style::PLAIN.width } else { width } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(text: &str, zone: &str) -> i64 {
        let zone = TimeZone::get(zone).expect("a zone");
        let span = day(text, &zone, 1_795_000_000).expect("a day");
        (span.until - span.since) / 3_600
    }

    #[test]
    fn days_are_those_of_the_zone() {
        assert_eq!((hours("2026-03-29", "Europe/Berlin"), hours("2026-10-25", "Europe/Berlin")), (23, 25));
        assert_eq!((hours("today", "UTC"), hours("yesterday", "Asia/Kolkata")), (24, 24));
        // 1,795,000,000 is 2026-11-18T14:26:40Z: in Auckland the next day has begun.
        let of = |zone: &str| day("today", &TimeZone::get(zone).expect("a zone"), 1_795_000_000).expect("a day").since;
        assert_eq!((of("UTC"), of("Pacific/Auckland")), (1_794_960_000, 1_794_999_600));
        for wrong in ["", "tomorrow", "2026-02-30", "23", "2026-11-18T00:00:00Z x", "9999-12-31"] {
            assert!(day(wrong, &TimeZone::UTC, 0).is_err(), "{wrong}");
        }
    }
}

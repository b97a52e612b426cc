//! `gatepost doctor`: checks the whole installation, and says of each fault what it is, why it matters and what to change.
//! With `--send-test` mail goes the whole way instead.

use super::output::{Console, Failure};
use super::{check, exit};
use crate::daemon::Config;
use crate::daemon::config::DEFAULT_PATH;
use crate::doctor::send_test::{self, SendError, SendTest, Step};
use crate::doctor::{Check, Fault, Group, Report, Severity, Site, Verdict, examine};
use crate::mail::Address;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `gatepost doctor`
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// The folder of main.cf and master.cf [default: the system's]
    #[arg(long, value_name = "DIR")]
    postfix_dir: Option<PathBuf>,
    /// Look for the settings of other programs (journald, fail2ban, SELinux) below this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Show what is sound, too
    #[arg(long, short)]
    verbose: bool,
    /// Send mail to SES's simulator through the relay instead, and follow it until its events are back
    #[arg(long, requires = "from")]
    send_test: bool,
    /// The sender of the test: an address that SES has verified and policy/allowed_senders allows
    #[arg(long, value_name = "ADDRESS", requires = "send_test")]
    from: Option<String>,
    /// Where the relay takes the test's mail
    #[arg(long, value_name = "HOST:PORT", requires = "send_test", default_value = "127.0.0.1:25")]
    server: String,
    /// How long the test's mail may take, such as 60s
    #[arg(long, value_name = "TIME", requires = "send_test", default_value = "60s", value_parser = super::time::seconds)]
    wait: i64,
}

const GROUPS: [Group; 5] = [Group::Postfix, Group::Daemon, Group::Fleet, Group::Aws, Group::Logs];

/// Looks, and prints what it found; 1 where anything is an error or a warning.
///
/// # Errors
/// Where the result cannot be written.
pub fn run(args: &DoctorArgs, config: Option<&Path>, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let read = check::read(config);
    if let Some(from) = args.from.as_deref().filter(|_| args.send_test) {
        return send(args, from, &read.config, json, console);
    }
    let file = config.unwrap_or(Path::new(DEFAULT_PATH)).to_owned();
    let site = Site::visit(file, read.config, read.rules, read.findings, args.postfix_dir.clone(), args.root.clone());
    let report = examine(&site);
    let shown = report.verdicts.iter().filter(|(_, verdict)| args.verbose || !verdict.is_sound());
    let shown: Vec<&(Check, Verdict)> = shown.collect();
    if json {
        shown.iter().try_for_each(|(check, verdict)| write_objects(check, verdict, console.out))?;
    } else {
        let paint = Paint { on: io::stdout().is_terminal() };
        GROUPS.iter().try_for_each(|group| write_group(*group, &shown, paint, console.out))?;
        writeln!(console.out, "{}", summary(&report))?;
    }
    console.out.flush()?;
    Ok(if report.asks_for_action() { exit::FAULTS } else { exit::OK })
}

/// The account of a test, step by step; 1 where a link of the chain stayed silent.
fn send(args: &DoctorArgs, from: &str, config: &Config, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let from = Address::parse(from).map_err(|e| Failure::new(exit::USAGE, format!("--from {from}: {e}")))?;
    let wait = Duration::from_secs(args.wait.unsigned_abs());
    let test = SendTest { from, server: args.server.clone(), wait };
    let paint = Paint { on: io::stdout().is_terminal() };
    let mut written = Ok(());
    let whole = send_test::run(&test, config, &mut |step| {
        let line = if json { object_of(step) } else { line_of(step, paint) };
        // It goes on where nobody reads: what it made must go again.
        let now = writeln!(console.out, "{line}").and_then(|()| console.out.flush());
        written = std::mem::replace(&mut written, Ok(())).and(now);
    });
    written?;
    let whole = whole.map_err(|error| {
        let code = match error {
            SendError::Store(error) => return Failure::from(error),
            SendError::Relay { .. } | SendError::Refused { .. } | SendError::Io(_) => exit::UNAVAILABLE,
        };
        Failure::new(code, error.to_string())
    })?;
    Ok(if whole { exit::OK } else { exit::FAULTS })
}

fn object_of(step: &Step) -> String {
    let (ms, good) = (u64::try_from(step.after.as_millis()).unwrap_or(u64::MAX), step.good);
    serde_json::json!({"after_ms": ms, "mail": step.mail, "good": good, "what": step.what}).to_string()
}

fn line_of(step: &Step, paint: Paint) -> String {
    let word = if step.good { paint.green("ok   ") } else { paint.with("31", "WRONG") };
    format!("{:>7.1} s  {word}  {:<10} {}", step.after.as_secs_f64(), step.mail, step.what)
}

/// One object for each finding; its fields are stable.
fn write_objects(check: &Check, verdict: &Verdict, out: &mut dyn Write) -> io::Result<()> {
    let object = |severity: &str, what: &str, why: Option<&str>, fix: Option<&str>| {
        serde_json::json!({
            "id": check.id, "group": check.group.as_str(), "severity": severity, "what": what, "why": why, "fix": fix,
        })
    };
    match verdict {
        Verdict::Sound => writeln!(out, "{}", object("ok", check.sound, None, None)),
        Verdict::Seen(what) => writeln!(out, "{}", object("ok", what, None, None)),
        Verdict::Skipped(why) => writeln!(out, "{}", object("skipped", why, None, None)),
        Verdict::Faults(faults) => faults.iter().try_for_each(|fault| {
            let object = object(check.severity.as_str(), &fault.what, Some(check.why), Some(&fault.fix));
            writeln!(out, "{object}")
        }),
    }
}

fn write_group(group: Group, shown: &[&(Check, Verdict)], paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    let of_group: Vec<_> = shown.iter().filter(|(check, _)| check.group == group).collect();
    if of_group.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}", paint.bold(group.as_str()))?;
    for (check, verdict) in of_group {
        match verdict {
            Verdict::Sound => writeln!(out, "  {}       {}: {}", paint.green("ok"), check.id, check.sound)?,
            Verdict::Seen(what) => writeln!(out, "  {}       {}: {what}", paint.green("ok"), check.id)?,
            Verdict::Skipped(why) => writeln!(out, "  skipped  {}: {why}", check.id)?,
            Verdict::Faults(faults) => faults.iter().try_for_each(|fault| write_fault(check, fault, paint, out))?,
        }
    }
    writeln!(out)
}

fn write_fault(check: &Check, fault: &Fault, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  {}  {}: {}", paint.severity(check.severity), check.id, fault.what)?;
    writeln!(out, "           why: {}", check.why)?;
    writeln!(out, "           change:")?;
    fault.fix.lines().try_for_each(|line| writeln!(out, "             {line}"))
}

fn summary(report: &Report) -> String {
    let count = |severity| {
        let faults = report.verdicts.iter().filter(|(check, _)| check.severity == severity);
        faults.map(|(_, verdict)| if let Verdict::Faults(faults) = verdict { faults.len() } else { 0 }).sum::<usize>()
    };
    let counted = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let sound = report.verdicts.iter().filter(|(_, verdict)| verdict.is_sound()).count();
    let skipped = report.verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Skipped(_))).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    format!(
        "{}, {}, {}; {sound} checks found nothing, {skipped} were skipped",
        counted(errors, "error"),
        counted(warnings, "warning"),
        counted(notes, "note")
    )
}

/// Colours, on a terminal.
#[derive(Clone, Copy)]
struct Paint {
    on: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    /// All words of one width.
    fn severity(self, severity: Severity) -> String {
        let code = match severity {
            Severity::Error => "31",
            Severity::Warning => "33",
            Severity::Note => "36",
        };
        self.with(code, &format!("{:<7}", severity.as_str()))
    }
}

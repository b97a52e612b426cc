//! The report as a mail: text and page in one message, by sendmail(1), which keeps it also where smtpd is down.

use crate::cli::exit;
use crate::cli::output::Failure;
use crate::mail::Address;
use crate::report::{self, Report, Style};
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Cron's PATH has no sbin.
const PROGRAMS: [&str; 2] = ["sendmail", "/usr/sbin/sendmail"];

/// Hands the report to sendmail(1).
///
/// # Errors
/// Where that is not there, or refuses.
pub(super) fn send(report: &Report, to: &[Address], from: Option<&Address>) -> Result<(), Failure> {
    let run = |program: &str| {
        let mut command = Command::new(program);
        // A dot alone on a line does not end the mail.
        command.arg("-i").args(from.iter().flat_map(|from| ["-f", from.as_str()]));
        command.arg("--").args(to.iter().map(Address::as_str));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    };
    let wrong = |e: io::Error| Failure::new(exit::UNAVAILABLE, format!("the report cannot be mailed: sendmail: {e}"));
    let mut child = run(PROGRAMS[0]).or_else(|_| run(PROGRAMS[1])).map_err(wrong)?;
    let message = message(report, to, from);
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(message.as_bytes()));
    let out = child.wait_with_output().map_err(wrong)?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let said = said.lines().next().unwrap_or("failed").to_owned();
        return Err(Failure::new(exit::UNAVAILABLE, format!("the report cannot be mailed: {said}")));
    }
    written.map_err(wrong)
}

/// Postfix adds the date, the id and, where none is given, the sender.
fn message(report: &Report, to: &[Address], from: Option<&Address>) -> String {
    let part = format!("gatepost-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let to: Vec<&str> = to.iter().map(Address::as_str).collect();
    let from = from.map_or(String::new(), |from| format!("From: gatepost <{}>\n", from.as_str()));
    format!(
        "{from}To: {}\nSubject: {}\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\nContent-Type: \
         multipart/alternative; boundary=\"{part}\"\n\n\
         --{part}\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{}\n\
         --{part}\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{}\n--{part}--\n",
        to.join(",\n "),
        subject(report),
        report::text(report, Style::PLAIN),
        report::html(report),
    )
}

/// What is to be seen in a list of mails: whether somebody has to look.
fn subject(report: &Report) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(|c| c.is_ascii_graphic()).collect();
    let alerts: Vec<&str> = report.alerts().map(|measure| measure.name).collect();
    let said = if alerts.is_empty() { "no alert".to_owned() } else { format!("ALERT: {}", alerts.join(", ")) };
    format!("gatepost {host} {}: {said}", report.since.get(..10).unwrap_or_default())
}

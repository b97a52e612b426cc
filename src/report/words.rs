//! Numbers, delays and times as people read them, the same on a terminal and on the page.

use super::judge::{Measure, State};
use super::shape::{Report, Unheard};

/// `1,234,567`
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `350 ms`, `3.6 s`, `12 min`, `2.1 h`
pub(super) fn delay(ms: Option<u64>) -> String {
    let Some(ms) = ms else { return "-".to_owned() };
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        60_000..5_400_000 => format!("{:.0} min", ms as f64 / 6e4),
        _ => format!("{:.1} h", ms as f64 / 3.6e6),
    }
}

/// `12.3 MB`
pub(super) fn bytes(n: u64) -> String {
    match n {
        ..1_000 => format!("{n} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

/// `2026-11-22 13:00` of RFC 3339.
pub(super) fn minute(time: &str) -> String {
    time.get(..16).unwrap_or(time).replace('T', " ")
}

/// `15 min`, `1 h`
pub(super) fn step(seconds: i64) -> String {
    match seconds {
        ..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `96.41 %`, or the number where it is of nothing.
pub(super) fn value(measure: &Measure) -> String {
    match (measure.of, measure.percent) {
        (_, Some(percent)) => format!("{percent:.2} %"),
        (Some(_), None) => "-".to_owned(),
        (None, _) if measure.state == State::Unknown => "-".to_owned(),
        (None, _) => number(measure.count),
    }
}

pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Good => "good",
        State::Warning => "warning",
        State::Alert => "ALERT",
        State::Unknown => "not judged",
    }
}

/// What the value is one of: `12,345 of 12,800`.
pub(super) fn basis(measure: &Measure) -> String {
    let too_few = if measure.state == State::Unknown { ", too few to judge" } else { "" };
    match measure.of {
        Some(of) => format!("{} of {}{too_few}", number(measure.count), number(of)),
        None if measure.state == State::Unknown => "not known".to_owned(),
        None => "messages wait".to_owned(),
    }
}

/// The counts: what, how many, and what to know of it.
pub(super) fn counts(report: &Report) -> Vec<(&'static str, u64, String)> {
    let Report { accepted, refused, sent, bounced, deferred, ses, unheard, .. } = report;
    let by_check: Vec<String> = refused.by_check.iter().map(|c| format!("{} {}", c.name, number(c.count))).collect();
    let by_type: Vec<String> =
        bounced.by_type.iter().map(|b| format!("{}/{} {}", b.kind, b.subtype, number(b.count))).collect();
    let part = |name: &str, n: u64| if n > 0 { format!("; {name} {}", number(n)) } else { String::new() };
    let in_brackets =
        |parts: Vec<String>| if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    vec![
        (
            "accepted",
            accepted.total,
            format!(
                "messages: smtpd {}, pickup {}; {}{}",
                number(accepted.smtpd),
                number(accepted.pickup),
                bytes(accepted.bytes),
                part("requeued or filtered", accepted.again)
            ),
        ),
        (
            "refused",
            refused.total,
            format!(
                "gatepost {}{}, Postfix {}{}{}",
                number(refused.gatepost),
                in_brackets(by_check),
                number(refused.postfix),
                part("would refuse", refused.would_refuse),
                part("recipients taken out", refused.dropped)
            ),
        ),
        ("sent", sent.total, format!("recipients: SES {}, elsewhere {}", number(sent.ses), number(sent.elsewhere))),
        (
            "delivered",
            report.delivered,
            format!("recipients; opened {}, clicked {}", number(ses.opened), number(ses.clicked)),
        ),
        (
            "bounced",
            bounced.total,
            format!(
                "SES {}{}, refused by the relay {}, by Postfix itself (relay=none) {}",
                number(bounced.ses),
                in_brackets(by_type),
                number(bounced.by_relay),
                number(bounced.relay_none)
            ),
        ),
        ("complaints", report.complaints, String::new()),
        (
            "deferred",
            deferred.messages,
            format!("messages, {} attempts; SES delayed {}", number(deferred.attempts), number(ses.delayed)),
        ),
        ("expired", report.expired, "messages that Postfix gave up".to_owned()),
        ("held", report.held, format!("by Postfix{}", part("discarded", report.discarded))),
        ("unheard of", unheard.recipients, heard(unheard, ses.rejected + ses.failed)),
    ]
}

fn heard(unheard: &Unheard, rejected: u64) -> String {
    format!(
        "recipients sent more than {} h ago without an event; {} wait, {} undecided, SES rejected {}",
        unheard.after_seconds / 3_600,
        number(unheard.waiting),
        number(unheard.undecided),
        number(rejected)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_easily() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([350, 3_558, 720_000, 7_500_000].map(|ms| delay(Some(ms))), ["350 ms", "3.6 s", "12 min", "2.1 h"]);
        assert_eq!([10, 1_500, 2_500_000].map(bytes), ["10 bytes", "1.5 kB", "2.5 MB"]);
    }
}

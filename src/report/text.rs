//! The report for a terminal, or plain, for a mail or a pipe.

use super::judge::State;
use super::shape::{DomainShown, Named, Report};
use super::words;
use std::fmt::Write;

/// How it may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// With escape codes.
    pub colour: bool,
    /// With characters that fonts for terminals have.
    pub blocks: bool,
    /// Columns.
    pub width: usize,
}

impl Style {
    /// For mails and pipes.
    pub const PLAIN: Self = Self { colour: false, blocks: false, width: 80 };
}

/// Narrower than this nothing can be told from anything.
const MIN_WIDTH: usize = 40;

/// Wider than this lines are not read easily.
const MAX_WIDTH: usize = 120;

/// The name at the begin of a line.
const LABEL: usize = 12;

/// The report, lines no wider than the style says.
#[must_use]
pub fn text(report: &Report, style: Style) -> String {
    let mut page = Page { out: String::new(), style, width: style.width.clamp(MIN_WIDTH, MAX_WIDTH) };
    page.head(report);
    page.measures(report);
    page.counts(report);
    page.curves(report);
    page.domains(&report.domains);
    page.rules(report);
    let reasons: Vec<Named> = report
        .refused
        .reasons
        .iter()
        .map(|r| Named { name: format!("{}: {}", r.by, r.name), count: r.count })
        .collect();
    for (title, list) in [
        ("Senders, messages", &report.senders),
        ("Clients, messages", &report.clients),
        ("Why mail bounced, recipients", &report.bounce_reasons),
        ("Why mail is deferred, attempts", &report.defer_reasons),
        ("Why mail was refused", &reasons),
    ] {
        page.list(title, list);
    }
    page.foot(report);
    page.out
}

struct Page {
    out: String,
    style: Style,
    width: usize,
}

impl Page {
    fn head(&mut self, report: &Report) {
        let (since, until) = (words::minute(&report.since), words::minute(&report.until));
        let zone = report.since.get(19..).unwrap_or_default();
        self.line(&format!("Mail from {since} to {until} ({zone})"), Some("1"));
        for note in &report.notes {
            self.wrapped("! ", note, Some("33"));
        }
        self.out.push('\n');
    }

    fn measures(&mut self, report: &Report) {
        for measure in &report.measures {
            let colour = match measure.state {
                State::Good => "32",
                State::Warning => "33",
                State::Alert => "1;31",
                State::Unknown => "2",
            };
            let label =
                format!("{:LABEL$}{:>10}  {:10}  ", measure.name, words::value(measure), words::state(measure.state));
            let bounds = format!("{}; target {}, alert {}", words::basis(measure), measure.target, measure.alert);
            self.wrapped(&label, &bounds, Some(colour));
        }
        self.out.push('\n');
    }

    fn counts(&mut self, report: &Report) {
        for (name, count, more) in words::counts(report) {
            self.wrapped(&format!("{name:LABEL$}{:>10}  ", words::number(count)), &more, None);
        }
        self.wrapped(
            &format!("{:LABEL$}{:>10}  ", "delay", words::delay(report.delay.p50_ms)),
            &format!(
                "half of {} deliveries; 90 % within {}, 99 % within {}, from submission",
                words::number(report.delay.count),
                words::delay(report.delay.p90_ms),
                words::delay(report.delay.p99_ms)
            ),
            None,
        );
        if let Some(queue) = &report.queue {
            let by: Vec<String> =
                queue.by_queue.iter().map(|(name, n)| format!("{name} {}", words::number(*n))).collect();
            self.wrapped(&format!("{:LABEL$}{:>10}  ", "queue", words::number(queue.messages)), &by.join(", "), None);
        }
        self.out.push('\n');
    }

    fn curves(&mut self, report: &Report) {
        let series = &report.series;
        let curves = [
            ("accepted", &series.accepted),
            ("refused", &series.refused),
            ("sent", &series.sent),
            ("delivered", &series.delivered),
            ("bounced", &series.bounced),
            ("deferred", &series.deferred),
        ];
        self.line(&format!("Over time, {} each", words::step(series.step_seconds)), Some("1"));
        for (name, values) in curves {
            let top = values.iter().copied().max().unwrap_or_default();
            let line = format!("{name:LABEL$}{:>10}  {}", words::number(top), self.sparkline(values, top));
            self.line(&line, None);
        }
        let width = series.sent.len().saturating_sub(10);
        let line = format!("{:LABEL$}{:>10}  {:width$}{}", "", "at most", clock(&report.since), clock(&report.until));
        self.line(&line, Some("2"));
        self.out.push('\n');
    }

    fn domains(&mut self, domains: &[DomainShown]) {
        if domains.is_empty() {
            return;
        }
        // Four counts and three delays, each as wide as its head and its numbers need.
        let name = self.width.saturating_sub(9 + 10 + 9 + 9 + 3 * 8).clamp(14, 40);
        self.line("Recipient domains; delay from submission to delivery: half, 90 %, 99 % within", Some("1"));
        let head = format!("{:name$}     sent delivered  bounced deferred    50 %    90 %    99 %", "");
        self.line(&head, Some("2"));
        for domain in domains {
            let mut line = format!("{:name$}", cut(&domain.name, name - 1));
            for (n, width) in [(domain.sent, 9), (domain.delivered, 10), (domain.bounced, 9), (domain.deferred, 9)] {
                let _ = write!(line, "{:>width$}", words::number(n));
            }
            for ms in [domain.delay.p50_ms, domain.delay.p90_ms, domain.delay.p99_ms] {
                let _ = write!(line, "{:>8}", words::delay(ms));
            }
            self.line(&line, None);
        }
        self.out.push('\n');
    }

    fn rules(&mut self, report: &Report) {
        let rules: Vec<Named> = report
            .refused
            .by_rule
            .iter()
            .map(|rule| Named { name: format!("{} {}: {}", rule.decision, rule.check, rule.rule), count: rule.count })
            .collect();
        self.list("Decisions by rule", &rules);
    }

    fn list(&mut self, title: &str, names: &[Named]) {
        if names.is_empty() {
            return;
        }
        self.line(title, Some("1"));
        let top = names.iter().map(|named| named.count).max().unwrap_or_default();
        for named in names {
            let line = format!("{:>10}  {}  {}", words::number(named.count), self.bar(named.count, top), named.name);
            self.line(&line, None);
        }
        self.out.push('\n');
    }

    fn foot(&mut self, report: &Report) {
        let logs = &report.logs;
        let line = format!(
            "lines read: {}, of {} logs; {} in the span; events that came again: {}",
            words::number(logs.lines),
            logs.files,
            words::number(logs.lines_in_span),
            words::number(report.ses.repeated)
        );
        self.wrapped("", &line, Some("2"));
        if logs.strange_lines > 0 {
            self.wrapped("", &format!("{} lines are none of a mail log", words::number(logs.strange_lines)), Some("2"));
        }
        for unread in &logs.unread {
            self.wrapped("! not read: ", unread, Some("33"));
        }
    }

    /// A bar of ten columns.
    fn bar(&self, count: u64, top: u64) -> String {
        const COLUMNS: u64 = 10;
        let filled = (count * COLUMNS).div_ceil(top.max(1)) as usize;
        let full = if self.style.blocks { "\u{2588}" } else { "#" };
        full.repeat(filled) + &" ".repeat(COLUMNS as usize - filled.min(COLUMNS as usize))
    }

    fn sparkline(&self, values: &[u64], top: u64) -> String {
        let steps: Vec<char> = if self.style.blocks {
            " \u{2581}\u{2582}\u{2583}\u{2584}\u{2585}\u{2586}\u{2587}\u{2588}"
        } else {
            " .:-=+*#@"
        }
        .chars()
        .collect();
        let last = steps.len() as u64 - 1;
        values.iter().map(|n| steps[(n * last).div_ceil(top.max(1)).min(last) as usize]).collect()
    }

    /// One line, cut where it is too wide.
    fn line(&mut self, text: &str, colour: Option<&str>) {
        let text = cut(text.trim_end(), self.width);
        match colour.filter(|_| self.style.colour) {
            Some(colour) => {
                let _ = writeln!(self.out, "\x1b[{colour}m{text}\x1b[0m");
            }
            None => {
                self.out.push_str(&text);
                self.out.push('\n');
            }
        }
    }

    /// A text behind a label, on as many lines as it needs.
    fn wrapped(&mut self, label: &str, text: &str, colour: Option<&str>) {
        let indent = label.chars().count();
        let mut line = label.to_owned();
        let mut begun = false;
        for word in text.split(' ') {
            if begun && line.chars().count() + 1 + word.chars().count() > self.width {
                self.line(&line, colour);
                line = " ".repeat(indent);
                begun = false;
            }
            if begun {
                line.push(' ');
            }
            line.push_str(word);
            begun = true;
        }
        self.line(&line, colour);
    }
}

/// Not wider than so many columns.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(2)).collect();
    out.push_str("..");
    out
}

/// `13:00` of RFC 3339.
fn clock(time: &str) -> &str {
    time.get(11..16).unwrap_or_default()
}

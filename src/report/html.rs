//! The report as a page: one file, nothing in it comes from elsewhere, charts are inline SVG. Light or dark as the reader's
//! system is; every chart has its words for those who do not see it.

use super::judge::{Measure, State};
use super::shape::{DomainShown, Named, Report};
use super::words;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// The page.
#[must_use]
pub fn html(report: &Report) -> String {
    let span = format!("{} to {}", words::minute(&report.since), words::minute(&report.until));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Mail, {span}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<header>\n<h1>Mail from {span}</h1>\n<p>{}</p>\n</header>\n<main>\n",
        escaped(&format!("gatepost report of {}, times {}", report.made, report.since.get(19..).unwrap_or_default()))
    );
    for note in &report.notes {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", escaped(note));
    }
    push_measures(&mut out, &report.measures);
    push_counts(&mut out, report);
    push_curves(&mut out, report);
    push_domains(&mut out, &report.domains);
    push_lists(&mut out, report);
    let logs = &report.logs;
    let _ = writeln!(
        out,
        "</main>\n<footer><p>Lines read: {}, of {} logs; {} in the span.</p>",
        words::number(logs.lines),
        logs.files,
        words::number(logs.lines_in_span)
    );
    for unread in &logs.unread {
        let _ = writeln!(out, "<p class=\"note\">Not read: {}</p>", escaped(unread));
    }
    out.push_str("</footer>\n</body>\n</html>\n");
    out
}

fn push_measures(out: &mut String, measures: &[Measure]) {
    out.push_str("<section aria-label=\"Targets\" class=\"cards\">\n");
    for measure in measures {
        let (class, sign) = match measure.state {
            State::Good => ("good", "\u{2713}"),
            State::Warning => ("warning", "!"),
            State::Alert => ("alert", "\u{2717}"),
            State::Unknown => ("unknown", "?"),
        };
        let _ = writeln!(
            out,
            "<div class=\"card {class}\">\n<h2>{}</h2>\n<p class=\"value\">{}</p>\n\
             <p class=\"state\"><span aria-hidden=\"true\">{sign}</span> {}</p>\n\
             <p>{}: {}.</p>\n<p>Target {}, alert {}.</p>\n</div>",
            measure.name,
            words::value(measure),
            words::state(measure.state),
            words::basis(measure),
            measure.means,
            measure.target,
            measure.alert
        );
    }
    out.push_str("</section>\n");
}

fn push_counts(out: &mut String, report: &Report) {
    out.push_str("<section>\n<h2>Counts</h2>\n<table><tbody>\n");
    for (name, count, more) in words::counts(report) {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{name}</th><td class=\"n\">{}</td>\n<td>{}</td></tr>",
            words::number(count),
            escaped(&more)
        );
    }
    if let Some(queue) = &report.queue {
        let by: Vec<String> = queue.by_queue.iter().map(|(name, n)| format!("{name} {}", words::number(*n))).collect();
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">queue now</th><td class=\"n\">{}</td>\n<td>{}</td></tr>",
            words::number(queue.messages),
            escaped(&by.join(", "))
        );
    }
    out.push_str("</tbody></table>\n</section>\n");
}

fn push_curves(out: &mut String, report: &Report) {
    let series = &report.series;
    out.push_str("<section>\n<h2>Over time</h2>\n<div class=\"charts\">\n");
    for (name, values) in [
        ("accepted messages", &series.accepted),
        ("refusals", &series.refused),
        ("sent recipients", &series.sent),
        ("delivered recipients", &series.delivered),
        ("bounced recipients", &series.bounced),
        ("deferred attempts", &series.deferred),
    ] {
        push_chart(out, name, values, report);
    }
    out.push_str("</div>\n</section>\n");
}

/// A chart is so high and wide, in its own units.
const WIDTH: usize = 480;
const HEIGHT: u64 = 100;

fn push_chart(out: &mut String, name: &str, values: &[u64], report: &Report) {
    let top = values.iter().copied().max().unwrap_or_default();
    let all: u64 = values.iter().sum();
    let (since, until) = (words::minute(&report.since), words::minute(&report.until));
    let _ = writeln!(
        out,
        "<figure>\n<figcaption>{name}: {}, at most {} in {}</figcaption>\n\
         <svg role=\"img\" aria-label=\"{name} from {since} to {until}: {} in all, at most {} at a time\" \
         viewBox=\"0 0 {WIDTH} {}\">",
        words::number(all),
        words::number(top),
        words::step(report.series.step_seconds),
        words::number(all),
        words::number(top),
        HEIGHT + 22
    );
    let step = WIDTH as f64 / values.len().max(1) as f64;
    for (at, n) in values.iter().enumerate().filter(|(_, n)| **n > 0) {
        let height = (n * HEIGHT) as f64 / top.max(1) as f64;
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{}</title></rect>",
            at as f64 * step,
            HEIGHT as f64 - height,
            (step - 1.0).max(0.5),
            words::number(*n)
        );
    }
    let _ = writeln!(
        out,
        "<line x1=\"0\" x2=\"{WIDTH}\" y1=\"{HEIGHT}\" y2=\"{HEIGHT}\"/>\n<text x=\"0\" y=\"{0}\">{since}</text>\n\
         <text x=\"{WIDTH}\" y=\"{0}\" text-anchor=\"end\">{until}</text>\n</svg>\n</figure>",
        HEIGHT + 19
    );
}

fn push_domains(out: &mut String, domains: &[DomainShown]) {
    if domains.is_empty() {
        return;
    }
    out.push_str(
        "<section>\n<h2>Recipient domains</h2>\n<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">domain</th>\
         <th scope=\"col\">sent</th><th scope=\"col\">delivered</th><th scope=\"col\">bounced</th>\
         <th scope=\"col\">deferred</th>\n<th scope=\"col\">half within</th><th scope=\"col\">90 % within</th>\
         <th scope=\"col\">99 % within</th><th scope=\"col\">90 %, compared</th></tr></thead>\n<tbody>\n",
    );
    let slowest = domains.iter().filter_map(|domain| domain.delay.p90_ms).max().unwrap_or_default();
    for domain in domains {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escaped(&domain.name));
        for n in [domain.sent, domain.delivered, domain.bounced, domain.deferred] {
            let _ = write!(out, "<td class=\"n\">{}</td>", words::number(n));
        }
        out.push('\n');
        for ms in [domain.delay.p50_ms, domain.delay.p90_ms, domain.delay.p99_ms] {
            let _ = write!(out, "<td class=\"n\">{}</td>", words::delay(ms));
        }
        let _ = writeln!(out, "<td>{}</td></tr>", bar(domain.delay.p90_ms.unwrap_or_default(), slowest));
    }
    out.push_str("</tbody></table></div>\n<p>Delays are from submission to delivery.</p>\n</section>\n");
}

fn push_lists(out: &mut String, report: &Report) {
    let refused = &report.refused;
    let rules = refused.by_rule.iter();
    let rules: Vec<Named> = rules
        .map(|rule| Named { name: format!("{} {}: {}", rule.decision, rule.check, rule.rule), count: rule.count })
        .collect();
    let reasons = refused.reasons.iter().map(|r| Named { name: format!("{}: {}", r.by, r.name), count: r.count });
    let reasons: Vec<Named> = reasons.collect();
    for (title, names) in [
        ("Senders, by messages", &report.senders),
        ("Clients, by messages", &report.clients),
        ("Why mail bounced", &report.bounce_reasons),
        ("Why mail is deferred", &report.defer_reasons),
        ("Decisions by rule", &rules),
        ("Why mail was refused", &reasons),
    ] {
        push_list(out, title, names);
    }
}

fn push_list(out: &mut String, title: &str, names: &[Named]) {
    if names.is_empty() {
        return;
    }
    let top = names.iter().map(|named| named.count).max().unwrap_or_default();
    let _ = writeln!(out, "<section>\n<h2>{title}</h2>\n<table class=\"list\"><tbody>");
    for named in names {
        let _ = writeln!(
            out,
            "<tr><td class=\"n\">{}</td><td>{}</td>\n<th scope=\"row\">{}</th></tr>",
            words::number(named.count),
            bar(named.count, top),
            escaped(&named.name)
        );
    }
    out.push_str("</tbody></table>\n</section>\n");
}

/// For the eye: the number stands beside it.
fn bar(count: u64, top: u64) -> String {
    let width = (count * 80) as f64 / top.max(1) as f64;
    format!(
        "<svg class=\"bar\" aria-hidden=\"true\" viewBox=\"0 0 80 10\"><rect width=\"{width:.1}\" height=\"10\"/></svg>"
    )
}

/// What comes from the logs is text, never markup.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

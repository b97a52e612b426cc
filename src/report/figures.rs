//! Draws the report up from what was counted.

use super::count::{Counter, Tables};
use super::delays::Delays;
use super::follow::Fates;
use super::judge::{self, Measure, State};
use super::queue::Queue;
use super::reason;
use super::shape::*;
use super::tally::{Counts, Curve, Domain, Names};
use super::top::{Top, Weigh};
use crate::mail::Printable;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What the report is to say besides what is counted.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long after it was sent mail should have been heard of, in seconds.
    pub unheard_after: i64,
    /// How many names each list has.
    pub top: usize,
    /// Of less than so many no rate is judged.
    pub min_mail: u64,
    /// Unix seconds.
    pub now: i64,
    /// In which days and hours are shown.
    pub zone: TimeZone,
}

impl Report {
    /// Draws it up from what was counted.
    #[must_use]
    pub fn of(
        counter: Counter,
        tables: Tables,
        logs: (usize, Vec<String>),
        queue: Option<Result<Queue, String>>,
        settings: &Settings,
    ) -> Self {
        let Counter { span, counts: c, names, curves, .. } = counter;
        let fates = tables.recipients.fates(settings.now - settings.unheard_after);
        let messages = tables.messages.into_parts().flatten();
        let bytes = messages.filter(|(_, message)| message.is_mail()).map(|(_, message)| u64::from(message.size)).sum();
        let n = settings.top;
        let measures = measures(&c, &fates, messages_in(&queue), settings.min_mail);
        let [accepted, refused, sent, delivered, bounced, deferred] = curves;
        debug_assert_eq!(Curve::Deferred as usize, 5);
        let all_bounces = by_type(&names.bounces);
        let bounced_at_ses = all_bounces.iter().map(|bounce| bounce.count).sum();
        Self {
            since: shown(span.since, &settings.zone),
            until: shown(span.until, &settings.zone),
            made: shown(settings.now, &settings.zone),
            alert: measures.iter().any(|measure| measure.state == State::Alert),
            notes: notes(&c, &names, &fates, &queue, settings),
            measures,
            logs: LogsRead {
                files: logs.0,
                lines: c.lines,
                lines_in_span: c.within,
                strange_lines: c.strange,
                unread: logs.1,
            },
            accepted: Accepted {
                total: c.by_smtpd + c.by_pickup,
                smtpd: c.by_smtpd,
                pickup: c.by_pickup,
                again: c.again,
                bytes,
            },
            refused: refusals(&c, &names, n),
            sent: Sent { total: c.sent, ses: c.to_ses, elsewhere: c.sent - c.to_ses, forwarded: c.forwarded },
            delivered: c.delivered,
            bounced: Bounced {
                total: bounced_at_ses + c.bounced_by_relay + c.bounced_without_relay,
                ses: bounced_at_ses,
                by_type: all_bounces,
                by_relay: c.bounced_by_relay,
                relay_none: c.bounced_without_relay,
            },
            complaints: c.complaints,
            deferred: Deferred { messages: c.deferred, attempts: c.attempts_deferred },
            expired: c.expired,
            held: c.held,
            discarded: c.discarded,
            ses: Ses {
                events: c.events,
                repeated: c.repeated,
                accepted: c.accepted_by_ses,
                delayed: c.delayed,
                rejected: c.rejected_by_ses,
                failed: c.failed,
                opened: c.opened,
                clicked: c.clicked,
                subscriptions: c.subscriptions,
            },
            unheard: Unheard {
                recipients: fates.unheard,
                waiting: fates.waiting,
                undecided: fates.undecided,
                after_seconds: settings.unheard_after,
            },
            delay: all_delays(&names.domains),
            domains: names.domains.first(n).into_iter().map(|(name, domain)| domain_shown(name, domain)).collect(),
            senders: named(&names.senders, n, "<>"),
            clients: named(&names.clients, n, "unknown"),
            bounce_reasons: named(&names.bounce_reasons, n, "no reason given"),
            defer_reasons: named(&names.defer_reasons, n, "no reason given"),
            series: Series { step_seconds: span.step(), accepted, refused, sent, delivered, bounced, deferred },
            queue: queue.and_then(Result::ok),
        }
    }

    /// The measures that are alerts.
    pub fn alerts(&self) -> impl Iterator<Item = &Measure> {
        self.measures.iter().filter(|measure| measure.state == State::Alert)
    }
}

fn messages_in(queue: &Option<Result<Queue, String>>) -> Option<u64> {
    queue.as_ref()?.as_ref().ok().map(|queue| queue.messages)
}

fn measures(c: &Counts, fates: &Fates, queue: Option<u64>, least: u64) -> Vec<Measure> {
    let delivered = fates.delivered + c.delivered_unfollowed;
    let bounced = fates.bounced + c.bounced_unfollowed;
    let told = delivered + bounced + fates.rejected + c.rejected_unfollowed;
    let judged = told + fates.unheard + c.bounced_by_relay + c.bounced_without_relay + c.expired;
    vec![
        judge::delivery(delivered, judged, least),
        judge::bounces(bounced, told, least),
        judge::complaints(c.complaints, delivered, least),
        judge::queue(queue),
    ]
}

/// Postfix's line of a refusal of ours has our words: what it says more often than we do is its own.
fn refusals(c: &Counts, names: &Names, n: usize) -> Refused {
    let mut known = 0;
    let mut own = 0;
    for (_, refusals) in names.refusals.iter() {
        known += refusals.postfix;
        own += refusals.postfix.saturating_sub(refusals.gatepost);
    }
    let postfix = own + (c.refused - known);
    let mut rules: Vec<Rule> =
        names.decisions.first(usize::MAX).into_iter().map(|(key, count)| rule(key, *count)).collect();
    let count = |word: &str| rules.iter().filter(|rule| rule.decision == word).map(|rule| rule.count).sum::<u64>();
    let (would_refuse, dropped) = (count("would-reject"), count("drop"));
    let mut by_check: Top<u64> = Top::default();
    for rule in rules.iter().filter(|rule| matches!(&*rule.decision, "reject" | "bounce")) {
        *by_check.of(rule.check.as_bytes()) += rule.count;
    }
    let gatepost = by_check.iter().map(|(_, count)| *count).sum();
    rules.truncate(n);
    let words = names.refusals.first(n).into_iter().map(|(name, refusals)| Reason {
        name: printable(name),
        count: refusals.weight(),
        by: if refusals.gatepost > 0 { "gatepost" } else { "postfix" },
    });
    Refused {
        total: gatepost + postfix,
        gatepost,
        postfix,
        postfix_lines: c.refused,
        would_refuse,
        dropped,
        by_check: named(&by_check, usize::MAX, ""),
        by_rule: rules,
        reasons: words.collect(),
    }
}

/// What must be known to read the rest.
fn notes(
    c: &Counts,
    names: &Names,
    fates: &Fates,
    queue: &Option<Result<Queue, String>>,
    settings: &Settings,
) -> Vec<String> {
    let mut notes = Vec::new();
    let hours = settings.unheard_after as f64 / 3_600.0;
    if c.within == 0 {
        notes.push("the logs have no line of this span".to_owned());
    }
    if c.to_ses > 0 && c.events == 0 {
        notes.push(
            "no event of SES's in these logs: is gatepost's own log among [logs], and does the configuration set publish?"
                .to_owned(),
        );
    } else if fates.unheard > 0 {
        notes.push(format!(
            "{} recipients were sent to SES more than {hours} h ago and never heard of: a configuration set is missing, or \
             events are lost",
            fates.unheard
        ));
    }
    if let Some(Err(error)) = queue {
        notes.push(format!("Postfix's queue is not known: {error}"));
    }
    if c.unfollowed > 0 {
        notes.push(format!(
            "{} lines were counted without being followed, since a table was full: repeated events, deferred messages and \
             unheard recipients are not exact; take a shorter span",
            c.unfollowed
        ));
    }
    let lost = [names.senders.lost(), names.clients.lost(), names.bounce_reasons.lost(), names.defer_reasons.lost()];
    let lost = lost.into_iter().chain([names.domains.lost(), names.refusals.lost()]).max().unwrap_or_default();
    if lost > 0 {
        notes.push(format!("there were more names than are kept: a count in the lists may lack up to {lost}"));
    }
    notes
}

fn by_type(bounces: &Top<u64>) -> Vec<BounceType> {
    let parts = |key: &[u8], count: &u64| {
        let mut words = key.split(|b| *b == 0).map(printable);
        let (kind, subtype) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        BounceType { kind, subtype, count: *count }
    };
    bounces.first(usize::MAX).into_iter().map(|(key, count)| parts(key, count)).collect()
}

fn rule(key: &[u8], count: u64) -> Rule {
    let mut words = key.splitn(3, |b| *b == 0).map(printable);
    let mut next = || words.next().unwrap_or_default();
    Rule { decision: next(), check: next(), rule: next(), count }
}

fn all_delays(domains: &Top<Domain>) -> DelayShown {
    let mut all = Delays::default();
    for (_, domain) in domains.iter() {
        all.merge(&domain.delays);
    }
    delay_shown(&all)
}

fn delay_shown(delays: &Delays) -> DelayShown {
    let at = |percent| delays.percentile(percent);
    DelayShown { count: delays.count(), p50_ms: at(50), p90_ms: at(90), p99_ms: at(99) }
}

fn domain_shown(name: &[u8], domain: &Domain) -> DomainShown {
    let Domain { sent, delivered, bounced, deferred, delays } = domain;
    let delay = delay_shown(delays);
    DomainShown {
        name: printable(name),
        sent: *sent,
        delivered: *delivered,
        bounced: *bounced,
        deferred: *deferred,
        delay,
    }
}

fn named(top: &Top<u64>, n: usize, nameless: &str) -> Vec<Named> {
    let name = |name: &[u8]| if name.is_empty() { nameless.to_owned() } else { printable(name) };
    top.first(n).into_iter().map(|(key, count)| Named { name: name(key), count: *count }).collect()
}

fn printable(raw: &[u8]) -> String {
    Printable::new(raw, reason::MAX_REASON_BYTES * 2).as_str().to_owned()
}

/// RFC 3339, in the zone.
fn shown(at: i64, zone: &TimeZone) -> String {
    let Ok(at) = Timestamp::from_second(at) else { return format!("@{at}") };
    at.display_with_offset(zone.to_offset(at)).to_string()
}

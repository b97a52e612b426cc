//! The Prometheus names of what the event side counts.

use super::metrics::{counter, gauge, histogram};
use crate::events::stats::{LAG_BOUNDS_US, unix_now};
use crate::events::{Kind, Stats};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

/// Writes them all.
pub(super) fn encode(stats: &Stats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    by_type(stats, encoder)?;
    for (name, help, value) in [
        ("identity_notifications", "Events read that an identity sent, not a configuration set", &stats.notifications),
        ("not_events", "Bodies that are no events, such as a topic's validation text", &stats.not_events),
        ("foreign", "Events of accounts that are not in events.accounts", &stats.foreign),
        ("unknown", "Events of types that are not known", &stats.unknown),
        ("unreadable", "Bodies that could not be read", &stats.unreadable),
        ("oddities", "Events read in spite of something odd", &stats.oddities),
        ("duplicates", "Effects that were seen before", &stats.duplicates),
        ("entries_added", "Suppression entries made by events", &stats.added),
        ("entries_renewed", "Suppression entries changed by events", &stats.renewed),
        ("entries_braked", "Suppression entries recorded and not enforced, by the brake", &stats.braked),
        ("entries_removed", "Suppression entries not made because an operator removed the address", &stats.removed),
        ("entries_taken_back", "Suppression entries that a delivery took back", &stats.taken_back),
        ("lines", "Mail log lines put into the outbox", &stats.lines),
        ("lines_joined", "Lines that got queue id and correlation id from the mail log", &stats.joined),
        ("lines_written", "Mail log lines written out of the outbox", &stats.written),
        ("elsewhere", "Bodies left in their queue because another relay was at work on them", &stats.elsewhere),
        ("unasked", "Events applied though the fleet's store did not say whose they are", &stats.unasked),
        ("unmarked", "Effects applied and not marked as done in the fleet's store", &stats.unmarked),
        ("ids_found", "SES ids that the fleet told of", &stats.ids_found),
        ("ids_published", "SES ids of this relay's mail that the fleet was told of", &stats.ids_published),
        ("ids_dropped", "SES ids of this relay's mail that the fleet was not told of", &stats.ids_dropped),
        ("commits", "Transactions with events", &stats.commits),
        ("store_errors", "Transactions with events that failed", &stats.store_errors),
        ("api_calls", "Calls to the queue's API that were answered", &stats.api_calls),
        ("api_errors", "Calls to the queue's API that failed", &stats.api_errors),
        ("damaged", "Messages whose body did not match its MD5", &stats.damaged),
        ("dead_lettered", "Unreadable messages left to the dead-letter queue", &stats.dead_lettered),
        ("failed_deletes", "Deletes that the queue refused, message by message", &stats.failed_deletes),
    ] {
        counter(encoder, &format!("events_{name}"), help, value.load(Relaxed))?;
    }
    for (name, help, value) in gauges(stats) {
        gauge(encoder, &format!("events_{name}"), help, value)?;
    }
    let help = "Time from an event's happening, as SES dates it, to its effect here";
    histogram(encoder, "events_lag_seconds", help, &stats.lag.read(&LAG_BOUNDS_US))
}

fn gauges(stats: &Stats) -> Vec<(&'static str, &'static str, u64)> {
    let now = unix_now();
    let past = |time: i64| time.max(0).unsigned_abs();
    let mut gauges = vec![
        ("pollers", "Pollers at work", stats.pollers.load(Relaxed)),
        (
            "last_success_timestamp_seconds",
            "When a source last answered; 0: not yet",
            past(stats.last_success.load(Relaxed)),
        ),
        (
            "last_event_timestamp_seconds",
            "When an event was last taken; 0: not yet",
            past(stats.last_event.load(Relaxed)),
        ),
        ("outbox_lines", "Mail log lines that wait in the outbox", stats.outbox_lines.load(Relaxed)),
        ("outbox_age_seconds", "How long the oldest of them has waited", past(stats.outbox_age(now))),
        ("quarantine_bodies", "Bodies in the quarantine", stats.quarantined.load(Relaxed)),
        ("brake_on", "1 while new entries are recorded and not enforced", u64::from(stats.brake_on.load(Relaxed))),
        (
            "mail_logs_unreadable",
            "1 while a log of [logs] cannot be followed",
            u64::from(stats.mail_logs.words().is_some()),
        ),
        ("fleet_away", "1 while events go on without the fleet's store", u64::from(stats.fleet_away.load(Relaxed))),
        ("held_entries", "Entries that are recorded and not enforced", stats.held.load(Relaxed)),
    ];
    if let Some(silence) = stats.silence(now) {
        let help = "For how long the source that is silent the longest has not answered";
        gauges.push(("last_success_age_seconds", help, past(silence)));
    }
    gauges
}

fn by_type(stats: &Stats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let counter = ConstCounter::new(0u64);
    let mut family = encoder.encode_descriptor("events_read", "Events read, by type", None, counter.metric_type())?;
    for (kind, count) in Kind::ALL.into_iter().zip(&stats.events) {
        let labels = [("type", kind.as_str())];
        ConstCounter::new(count.load(Relaxed)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

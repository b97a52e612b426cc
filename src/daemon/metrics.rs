//! The Prometheus names of what the daemon counts. The counters live where they are counted; this
//! reads them when somebody scrapes.

use crate::decide::Check;
use crate::delegation::House;
use crate::delegation::stats::{Buckets, Kind, LATENCY_BOUNDS_US};
use crate::events::Stats;
use crate::fleet::{Fallback, Limiter};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::event_log::WriterDesk;
use super::fleet_view::FleetView;
use super::reload::ReloadState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Everything that is scraped.
pub struct Sources {
    /// Decisions, latency, connections, limits.
    pub house: Arc<House>,
    /// Generation and failures.
    pub reload: Arc<ReloadState>,
    /// The writer of the mail log.
    pub writer: Arc<WriterDesk>,
    /// When the daemon started, Unix seconds.
    pub started: i64,
    /// The health of the suppression store.
    pub store_healthy: Box<dyn Fn() -> bool + Send + Sync>,
    /// The event side.
    pub events: Arc<Stats>,
    /// The milter.
    pub milter: Arc<crate::milter::Stats>,
    /// The fleet.
    pub fleet: Arc<FleetView>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// A registry that reads `sources` at every scrape.
#[must_use]
pub fn registry(sources: Sources) -> Registry {
    let mut registry = Registry::with_prefix("gatepost");
    registry.register_collector(Box::new(sources));
    registry
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.decisions(&mut encoder)?;
        Self::build_info(&mut encoder)?;
        let help = "Time from the last byte of a question to its answer";
        histogram(&mut encoder, "decision_seconds", help, &self.house.stats.latency())?;
        let stats = &self.house.stats;
        for (name, help, value) in [
            ("connections_accepted", "Delegation connections accepted", &stats.accepted),
            ("connections_turned_away", "Delegation connections closed, being over the bound", &stats.turned_away),
            ("wire_errors", "Delegation connections closed for bytes that are no policy request", &stats.wire_errors),
            ("accept_errors", "Failures of accept, such as EMFILE", &stats.accept_errors),
            ("repeated_questions", "Questions whose charge had been made already", &stats.repeats),
            ("suppression_unconfirmed", "Suppression hits passed because the store did not answer", &stats.unconfirmed),
            ("limit_warnings", "Keys that passed 80 percent of a limit", &stats.near_limit),
            ("reload_failures", "Policy edits that were not taken", &self.reload.failures),
            ("reloads", "Policies taken since the start", &self.reload.reloads),
            ("log_lines_lost", "Mail log lines that could not be written", &self.writer.lost),
        ] {
            counter(&mut encoder, name, help, value.load(Relaxed))?;
        }
        let meters = &self.house.meters;
        counter(
            &mut encoder,
            "log_lines_dropped",
            "Mail log lines dropped, the queue being full",
            self.house.outlet.dropped(),
        )?;
        counter(&mut encoder, "limiter_keys_evicted", "Limiter keys given up at the bound", meters.evicted_live())?;
        let rules = self.house.rules.load();
        let past = |time: i64| time.max(0).unsigned_abs();
        for (name, help, value) in [
            ("connections", "Delegation connections open", stats.connections.load(Relaxed)),
            ("reload_generation", "Generation of the policy in force", rules.generation),
            (
                "reload_failed",
                "1 while the policy folder has problems and the last good rules are in force",
                u64::from(self.reload.is_failed()),
            ),
            (
                "allowed_senders_entries",
                "Entries of allowed_senders",
                rules.senders.list.as_ref().map_or(0, |l| l.len() as u64),
            ),
            ("suppressed_entries", "Addresses in the suppression index", self.house.index.len() as u64),
            (
                "suppression_store_healthy",
                "1 while the suppression store can be read",
                u64::from((self.store_healthy)()),
            ),
            ("limiter_keys", "Keys with a limiter state", meters.len() as u64),
            ("reload_timestamp_seconds", "When the policy in force was taken", past(self.reload.taken.load(Relaxed))),
            ("start_timestamp_seconds", "When the daemon started", past(self.started)),
            (
                "log_blocked",
                "1 while the mail log takes no decision lines",
                u64::from(self.writer.trouble.words().is_some()),
            ),
        ] {
            gauge(&mut encoder, name, help, value)?;
        }
        self.shared_limits(&mut encoder)?;
        super::fleet_metrics::encode(&self.fleet, &mut encoder)?;
        super::event_metrics::encode(&self.events, &mut encoder)?;
        super::milter::encode(&self.milter, &mut encoder)
    }
}

impl Sources {
    fn decisions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counter = ConstCounter::new(0u64);
        let mut family =
            encoder.encode_descriptor("decisions", "Decisions by check and answer", None, counter.metric_type())?;
        for check in [None].into_iter().chain(Check::ALL.map(Some)) {
            for kind in Kind::ALL {
                let count = self.house.stats.decisions(check, kind);
                // Every check can refuse; DUNNO is only ever said without one.
                if count == 0 && check.is_none() != (kind == Kind::Dunno) {
                    continue;
                }
                let labels = [("check", check.map_or("none", Check::as_str)), ("answer", kind.as_str())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// The limits that the fleet counts together; all 0 where it does not.
    fn shared_limits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let shared = self.house.shared.as_deref();
        let help = "Questions about limits of a fleet, answered by its store or by this relay's own meters";
        let metric = ConstCounter::new(0u64);
        let mut family = encoder.encode_descriptor("limits_shared", help, None, metric.metric_type())?;
        let answered = ("answered", "none", shared.map_or(0, Limiter::answered));
        let fell_back = |why| ("fallback", Fallback::as_str(why), shared.map_or(0, |limiter| limiter.fallbacks(why)));
        for (result, reason, count) in [answered].into_iter().chain(Fallback::ALL.map(fell_back)) {
            let labels = [("result", result), ("reason", reason)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let away = shared.is_some_and(|limiter| limiter.trouble().is_some());
        gauge(encoder, "limits_store_away", "1 while the store of the fleet's limits is away", u64::from(away))?;
        let relays = shared.map_or(0, |limiter| limiter.relays().into());
        gauge(encoder, "limits_relays", "Relays that share the limits, as last counted", relays)?;
        let help = "Time that the limits of a fleet took, by the store or without it";
        histogram(encoder, "limits_shared_seconds", help, &self.house.stats.limits_asked.read(&LATENCY_BOUNDS_US))
    }

    /// What says which gatepost this is; always 1.
    fn build_info(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metric = ConstGauge::new(1u64);
        let help = "1, with the version of the running gatepost";
        let mut family = encoder.encode_descriptor("build_info", help, None, metric.metric_type())?;
        metric.encode(family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?)
    }
}

pub(super) fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    let family = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(family)
}

pub(super) fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    let family = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(family)
}

pub(super) fn histogram(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, read: &Buckets) -> fmt::Result {
    let (buckets, sum) = read;
    let count = buckets.iter().map(|(_, n)| n).sum();
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
}

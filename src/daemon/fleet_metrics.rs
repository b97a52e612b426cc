//! The Prometheus names of how the shared list goes, and of the relays of the fleet; all 0 where there is none.

use super::fleet_view::FleetView;
use super::metrics::{counter, gauge};
use crate::events::stats::unix_now;
use prometheus_client::encoding::DescriptorEncoder;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Writes them all.
pub(super) fn encode(view: &FleetView, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let list = view.list.as_deref();
    let seen = list.map(|status| status.seen());
    let away = seen.as_ref().is_some_and(|seen| seen.trouble.is_some());
    let silence = seen.as_ref().map_or(0, |seen| unix_now().unsigned_abs().saturating_sub(seen.last_contact));
    let lag = list.map_or(0, |status| status.lag_ms.load(Relaxed) / 1_000);
    let (relays, behind) = view.roster.at_work();
    for (name, help, value) in [
        ("store_away", "1 while the store of the fleet's list is away, or takes no changes", u64::from(away)),
        ("last_contact_age_seconds", "For how long the store of the fleet's list has not answered", silence),
        ("lag_seconds", "For how long the newest change of the fleet has waited for this relay", lag),
        ("relays", "Relays at work, as last read", relays as u64),
        ("behind_seconds", "For how long the relay that is behind the most has been", behind.as_secs()),
    ] {
        gauge(encoder, &format!("fleet_{name}"), help, value)?;
    }
    let count = |of: fn(&crate::fleet::sync::Status) -> &AtomicU64| list.map_or(0, |status| of(status).load(Relaxed));
    for (name, help, value) in [
        ("changes_pushed", "Changes of the list that were written into the store", count(|status| &status.pushed)),
        ("changes_applied", "Addresses that changed here by what others said", count(|status| &status.applied)),
        ("snapshots", "How often the whole list of the store was read", count(|status| &status.snapshots)),
        ("records_unreadable", "Records in the store that could not be read", count(|status| &status.unreadable)),
    ] {
        counter(encoder, &format!("fleet_{name}"), help, value)?;
    }
    Ok(())
}

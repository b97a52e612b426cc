//! The milter side of the daemon: from `[milter]` to listeners, and the Prometheus names of what it counts.

use super::config::{Config, Milter as Section};
use super::listeners::{Endpoint, Opened, OwnFile};
use super::metrics::{counter, gauge, histogram};
use crate::delegation::House;
use crate::milter::stamp::Settings;
use crate::milter::{Bounds, Milter, Server, Setup, Side, Stats};
use prometheus_client::encoding::DescriptorEncoder;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::task::JoinSet;

/// Where the ids that were issued are kept in the state folder.
const ISSUED_FILE: &str = "issued.state";

/// The running milter.
pub(super) struct MilterSide {
    /// What the sessions share.
    pub(super) milter: Arc<Milter>,
    server: Arc<Server>,
    files: Vec<OwnFile>,
}

impl MilterSide {
    /// The milter that `[milter]` describes; `None` where there is no such section.
    pub(super) fn new(config: &Config, house: &Arc<House>, stats: &Arc<Stats>) -> Option<Self> {
        let section = config.milter.as_ref()?;
        let milter = Milter::new(house.clone(), setup(section), stats.clone());
        if let Err(error) = milter.issued.restore(&config.state_dir.join(ISSUED_FILE)) {
            tracing::warn!("The saved correlation ids {error}; mail that comes back from a filter gets new ones.");
        }
        let bounds = Bounds { max_connections: section.max_connections };
        Some(Self { server: Server::new(milter.clone(), bounds), milter, files: Vec::new() })
    }

    /// Serves one socket.
    pub(super) fn serve(&mut self, endpoint: &Endpoint, opened: Opened, side: Side, tasks: &mut JoinSet<()>) {
        self.files.extend(opened.file);
        let what = match side {
            Side::Smtpd => "Stamping mail that comes by smtpd.",
            Side::Local => "Stamping and judging local submissions.",
        };
        tracing::info!(%endpoint, "{what}");
        tasks.spawn(self.server.clone().serve(opened.listener, side, endpoint.to_string()));
    }

    /// Takes no new sessions, lets the open ones end for some seconds, and ends what is left.
    pub(super) async fn end(self) {
        drop(self.files);
        if !self.server.drained().await {
            tracing::warn!("Milter sessions were still open; ending them.");
        }
        self.server.end();
    }
}

/// Saves what a restart must not forget. It blocks.
pub(super) fn save(milter: &Milter, state_dir: &Path) {
    if let Err(error) = milter.issued.save(&state_dir.join(ISSUED_FILE)) {
        tracing::error!(%error, "Cannot save the correlation ids that were issued.");
    }
}

/// The addresses of `[milter]` with what each serves.
pub(super) fn endpoints(config: &Config) -> Vec<(Endpoint, Side)> {
    let Some(section) = &config.milter else { return Vec::new() };
    let smtpd = section.listen.iter().map(|endpoint| (endpoint.clone(), Side::Smtpd));
    smtpd.chain(section.listen_local.iter().map(|endpoint| (endpoint.clone(), Side::Local))).collect()
}

fn setup(section: &Section) -> Setup {
    Setup {
        stamps: Settings {
            correlation_header: section.correlation_header.clone(),
            configuration_set: section.ses_configuration_set.clone(),
        },
        trusted: section.trusted_networks.clone(),
        bounce_sender: section.bounce_sender.clone(),
    }
}

/// Writes what the milter counts.
pub(super) fn encode(stats: &Stats, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    for (name, help, value) in [
        ("messages_stamped", "Messages stamped", &stats.stamped),
        ("tags_merged", "Tags of applications merged with those of the stamps", &stats.tags_merged),
        ("headers_removed", "Headers removed: forged, repeated, malformed, or not allowed", &stats.headers_removed),
        ("recipients_dropped", "Recipients taken out of messages", &stats.recipients_dropped),
        ("messages_held", "Local submissions put into the hold queue", &stats.held),
        ("messages_refused", "Messages refused at their end", &stats.refused),
        ("messages_discarded", "Messages discarded", &stats.discarded),
        ("senders_changed", "Bounces that were given a sender", &stats.senders_changed),
        ("failures", "Messages whose changes Postfix did not take, or not in time", &stats.failed),
        ("sessions_accepted", "Milter sessions accepted", &stats.accepted),
        ("sessions_turned_away", "Milter sessions closed, being over the bound", &stats.turned_away),
        ("accept_errors", "Failures of accept, such as EMFILE", &stats.accept_errors),
    ] {
        counter(encoder, &format!("milter_{name}"), help, value.load(Relaxed))?;
    }
    gauge(encoder, "milter_sessions", "Milter sessions open", stats.sessions.load(Relaxed))?;
    let help = "Time from the end of a message to the last word about it";
    histogram(encoder, "milter_message_seconds", help, &stats.times())
}

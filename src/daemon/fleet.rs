//! The fleet's side of the daemon: what keeps this relay's list in step with that of the others.

use super::config::Config;
use crate::fleet::sync::{Settings, Sync};
use crate::fleet::{Keys, Relay, StoreUrl};
use std::io;
use std::time::Duration;

/// How long a start waits for a store that does not answer.
const STORE_WAIT: Duration = Duration::from_secs(5);

/// How long a relay that is new in the fleet waits for all that the others know: twice what ten million entries may take.
const LIST_WAIT: Duration = Duration::from_secs(120);

/// The threads of the fleet; stop it to end them.
#[derive(Debug, Default)]
pub struct FleetSide {
    /// The shared suppression list.
    pub list: Option<Sync>,
}

impl FleetSide {
    /// Starts what the configuration says.
    ///
    /// # Errors
    /// Where a certificate cannot be read, or there is no thread to be had.
    pub fn start(config: &Config) -> io::Result<Self> {
        let Some(url) = config.fleet.suppression.clone() else { return Ok(Self::default()) };
        let settings = settings(config, url.clone())?;
        let relay = settings.relay.name.clone();
        let list = Sync::start(settings)?;
        tracing::info!(store = %url, relay, "Sharing the suppression list.");
        Ok(Self { list: Some(list) })
    }

    /// Waits until a relay that was never in step with its fleet knows what the others know; not for a store that is
    /// away.
    pub async fn first_list(&self, config: &Config) {
        let (Some(list), Some(url)) = (&self.list, &config.fleet.suppression) else { return };
        let extend = u32::try_from((STORE_WAIT + LIST_WAIT).as_micros()).unwrap_or(u32::MAX);
        let _ = sd_notify::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(extend)]);
        let waited = tokio::time::timeout(LIST_WAIT, in_step(list)).await;
        if !waited.unwrap_or(false) {
            tell_incomplete(url);
        }
    }

    /// Ends it.
    pub fn stop(&self) {
        if let Some(list) = &self.list {
            list.stop();
        }
    }
}

/// What the configuration says of this relay and its fleet, whose list is at `url`.
///
/// # Errors
/// Where the certificate cannot be read.
pub fn settings(config: &Config, url: StoreUrl) -> io::Result<Settings> {
    Ok(Settings {
        database: config.store_path(),
        url,
        ca: config.fleet.ca()?,
        keys: Keys::new(&config.fleet.namespace),
        relay: Relay::new(config.fleet.name.as_deref()),
    })
}

/// `false` where the store does not answer.
async fn in_step(list: &Sync) -> bool {
    let mut in_step = list.status().in_sync();
    let known = in_step.wait_for(|known| *known);
    tokio::pin!(known);
    loop {
        tokio::select! {
            known = &mut known => return known.is_ok(),
            () = tokio::time::sleep(STORE_WAIT) => {
                if !list.status().seen().is_connected {
                    return false;
                }
            }
        }
    }
}

fn tell_incomplete(store: &StoreUrl) {
    tracing::error!(
        %store,
        "This relay does not know the fleet's list yet, and starts without: what only others know passes until it does."
    );
}

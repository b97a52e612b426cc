//! What the daemon does about limits beside asking them: counters survive a restart, and those of a fleet get what keeps
//! them in reach.

use super::config::Config;
use crate::delegation::answer::unix_time;
use crate::delegation::{Gate, House};
use crate::fleet::{Keeper, Keys, Limiter, Relay, Roster, Setup};
use crate::meters::{self, Meters};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Where the counters are kept in the state folder.
const COUNTERS: &str = "limits.state";

/// Where the number of relays is: a start while the store is away must not take a share for the whole.
const RELAYS: &str = "limits.relays";

/// Takes over what the counters were when the last daemon ended.
pub(super) fn restore(meters: &Meters, state_dir: &Path) {
    match meters::restore(meters, &state_dir.join(COUNTERS), unix_time()) {
        Ok(0) => {}
        Ok(keys) => tracing::info!(keys, "Limiter counters are back."),
        Err(error) => tracing::warn!(%error, "The saved limiter counters cannot be used; starting from zero."),
    }
}

/// Saves what a restart must not forget. It blocks.
pub(super) fn save(house: &House, state_dir: &Path) {
    if let Err(error) = meters::save(&house.meters, &state_dir.join(COUNTERS)) {
        tracing::error!(%error, "Cannot save the limiter counters.");
    }
    if let Some(shared) = &house.shared
        && let Err(error) = std::fs::write(state_dir.join(RELAYS), shared.relays().to_string())
    {
        tracing::error!(%error, "Cannot save how many relays there are.");
    }
}

/// The limits that are counted in the store of a fleet, which is asked once: a store that is away keeps nobody from being
/// answered.
///
/// # Errors
/// Where the certificate cannot be read.
pub(super) async fn shared(
    config: &Config,
    meters: &Arc<Meters>,
    roster: &Arc<Roster>,
) -> io::Result<Option<(Arc<Limiter>, Keeper)>> {
    let Some(url) = config.fleet.limits.clone() else { return Ok(None) };
    // Where the list is in the same store, the relay says there that it is at work.
    let beats = config.fleet.suppression.as_ref() != Some(&url);
    let relays = std::fs::read_to_string(config.state_dir.join(RELAYS));
    let setup = Setup {
        url,
        ca: config.fleet.ca()?,
        keys: Keys::new(&config.fleet.namespace),
        beats_as: beats.then(|| Relay::new(config.fleet.name.as_deref())),
        relays: relays.ok().and_then(|relays| relays.parse().ok()).unwrap_or(1),
        // Else what follows the list reads the members, and where they are in it.
        roster: config.fleet.suppression.is_none().then(|| roster.clone()),
    };
    let (limiter, mut keeper) = Keeper::new(setup, meters.clone());
    keeper.greet().await;
    Ok(Some((limiter, keeper)))
}

/// Keeps them in reach until the gate closes.
pub(super) async fn keep(keeper: Keeper, gate: Arc<Gate>) {
    tokio::select! {
        () = gate.closed() => {}
        () = keeper.keep() => {}
    }
}

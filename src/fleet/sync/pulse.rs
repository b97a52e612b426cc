//! A relay's signs of life in the store that has the list, whatever its session is at: a relay that reads ten million
//! entries is at work.

use super::{Settings, Status};
use crate::fleet::members::{BEAT, Heart};
use crate::fleet::{Patience, connect};
use std::convert::Infallible;
use std::time::Duration;

const PATIENCE: Patience = Patience { connect: Duration::from_secs(2), answer: Duration::from_secs(5) };

/// Says every [`BEAT`] that the relay is there, and notes who else is.
pub(super) async fn pulse(settings: &Settings, status: &Status) -> Infallible {
    let mut heart = Heart::new(settings.relay.clone());
    loop {
        // Trouble with the store is the session's to tell.
        if let Ok(mut link) = connect(&settings.url, settings.ca.as_deref(), PATIENCE).await {
            while let Ok(members) = heart.beat(&mut link, &settings.keys, &status.seen().position).await {
                status.roster.note(&members);
                tokio::time::sleep(BEAT).await;
            }
        }
        // not all relays at once
        tokio::time::sleep(BEAT.mul_f64(0.5 + fastrand::f64())).await;
    }
}

//! What the log is told of a store that goes and comes: a line when it is away, a line when it is back, however it
//! flaps.

use super::Limiter;
use super::limiter::Fallback;
use std::time::{Duration, Instant};

/// After one line about the store being away, so long until the next.
const QUIET: Duration = Duration::from_secs(60);

/// What was told, and what was not.
#[derive(Debug, Default)]
pub(super) struct News {
    away: Option<Away>,
    /// When the last line about it was written.
    told: Option<Instant>,
    /// Interruptions that were not told of.
    untold: u64,
}

/// A time without the store.
#[derive(Debug)]
struct Away {
    since: Instant,
    /// How many questions were answered without the store before.
    before: u64,
    is_told: bool,
}

impl News {
    /// The store is away, or still is.
    pub(super) fn away(&mut self, limiter: &Limiter) {
        let away =
            self.away.get_or_insert_with(|| Away { since: Instant::now(), before: missed(limiter), is_told: false });
        if away.is_told || self.told.is_some_and(|told| told.elapsed() < QUIET) {
            return;
        }
        (away.is_told, self.told) = (true, Some(Instant::now()));
        tracing::warn!(
            trouble = limiter.trouble(),
            relays = limiter.relays(),
            interruptions_before = std::mem::take(&mut self.untold),
            "The store of the fleet's limits is away; this relay counts by itself, by its share of each limit."
        );
    }

    /// The store is back.
    pub(super) fn back(&mut self, limiter: &Limiter) {
        let Some(away) = self.away.take() else { return };
        if !away.is_told {
            self.untold += 1;
            return;
        }
        tracing::info!(
            seconds = away.since.elapsed().as_secs_f64(),
            counted_here = missed(limiter) - away.before,
            "The store of the fleet's limits is back."
        );
    }
}

fn missed(limiter: &Limiter) -> u64 {
    Fallback::ALL.into_iter().map(|why| limiter.fallbacks(why)).sum()
}

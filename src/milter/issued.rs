//! The correlation ids that were stamped in the last hours: a message that a content filter brings back keeps its id,
//! and an id that somebody made up is known as such.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long an id is known, at least; at most twice as long. A content filter is a matter of minutes.
const GENERATION: Duration = Duration::from_secs(4 * 3600);

/// Most ids of one generation, 18 a second for all of it: with both, 10 MB.
const MAX_IDS: usize = 262_144;

/// The ids, shared by all sessions. Of each, 64 bits of a keyed hash.
#[derive(Debug, Default)]
pub struct Issued {
    key: RandomState,
    ids: Mutex<Ids>,
}

#[derive(Debug, Default)]
struct Ids {
    young: HashSet<u64>,
    old: HashSet<u64>,
    since: Duration,
}

impl Issued {
    /// Remembers an id. `now` is Unix time.
    pub fn remember(&self, id: &str, now: Duration) {
        let hash = self.key.hash_one(id);
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.turn(now);
        ids.young.insert(hash);
    }

    /// Whether the id was stamped lately.
    #[must_use]
    pub fn knows(&self, id: &str, now: Duration) -> bool {
        let hash = self.key.hash_one(id);
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.turn(now);
        ids.young.contains(&hash) || ids.old.contains(&hash)
    }
}

impl Ids {
    /// Begins a new generation where the young one is old or full.
    fn turn(&mut self, now: Duration) {
        let age = now.saturating_sub(self.since);
        if age < GENERATION && self.young.len() < MAX_IDS {
            return;
        }
        let young = std::mem::take(&mut self.young);
        self.old = if age < GENERATION.saturating_mul(2) { young } else { HashSet::new() };
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_for_hours() {
        let (issued, start) = (Issued::default(), Duration::from_secs(1_800_000_000));
        issued.remember("a", start);
        assert!(issued.knows("a", start + GENERATION - Duration::from_secs(1)));
        assert!(!issued.knows("b", start));
        issued.remember("b", start + GENERATION);
        assert!(issued.knows("a", start + GENERATION));
        assert!(!issued.knows("a", start + GENERATION * 2) && issued.knows("b", start + GENERATION * 2));
        assert!(!issued.knows("b", start + GENERATION * 5));
    }

    #[test]
    fn they_are_bounded() {
        let (issued, now) = (Issued::default(), Duration::from_secs(1_800_000_000));
        for n in 0..=2 * MAX_IDS {
            issued.remember(&n.to_string(), now);
        }
        assert!(!issued.knows("0", now) && issued.knows(&(2 * MAX_IDS).to_string(), now));
        let ids = issued.ids.lock().unwrap();
        assert!(ids.young.len() + ids.old.len() <= 2 * MAX_IDS);
    }
}

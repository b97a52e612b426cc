//! The limits in force, by what makes them the same limit over reloads.

use super::Charge;
use super::gcra::Gauge;
use super::table::{LimitId, Secrets};
use crate::rules::{Limit, Quota, Rate};
use std::collections::HashMap;
use std::sync::Arc;

/// The limits in force.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    by_id: HashMap<LimitId, Arc<Limit>>,
    /// The same, to be found by the place in memory, which costs no hash; the `Arc` here keeps
    /// another limit from coming to stand there. A policy has some few limits.
    known: Vec<Known>,
}

/// What need not be worked out for each charge.
#[derive(Clone, Debug)]
struct Known {
    limit: Arc<Limit>,
    id: LimitId,
    /// For the keys without an override.
    gauge: Option<(Rate, Gauge)>,
}

impl Limits {
    pub(super) fn new(limits: &[Arc<Limit>], secrets: &Secrets) -> Self {
        let known: Vec<_> = limits.iter().map(|limit| Known::new(secrets.limit(limit), limit)).collect();
        Self { by_id: known.iter().map(|k| (k.id, Arc::clone(&k.limit))).collect(), known }
    }

    /// These and one more.
    pub(super) fn with(&self, id: LimitId, limit: &Arc<Limit>) -> Self {
        let mut more = self.clone();
        more.by_id.insert(id, Arc::clone(limit));
        more.known.push(Known::new(id, limit));
        more
    }

    pub(super) fn get(&self, id: LimitId) -> Option<&Arc<Limit>> {
        self.by_id.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LimitId, &Arc<Limit>)> {
        self.by_id.iter().map(|(id, limit)| (*id, limit))
    }

    /// The id of a charge's limit, in force or not, and what to count it by, where that is known.
    #[inline]
    pub(super) fn of(&self, charge: &Charge<'_>, secrets: &Secrets) -> (LimitId, Option<&Gauge>) {
        match self.known.iter().find(|known| Arc::ptr_eq(&known.limit, charge.limit)) {
            Some(known) => (known.id, known.gauge.as_ref().filter(|(rate, _)| *rate == charge.rate).map(|(_, g)| g)),
            None => (secrets.limit(charge.limit), None),
        }
    }
}

impl Known {
    fn new(id: LimitId, limit: &Arc<Limit>) -> Self {
        let gauge = match limit.rate {
            Quota::Limited(rate) => Some((rate, Gauge::new(rate))),
            Quota::Unlimited => None,
        };
        Self { limit: Arc::clone(limit), id, gauge }
    }
}

//! Who sent the mail behind an event, and under which ids: told by the mail log of this relay, or by the fleet. Events of
//! identities carry no tags, and so no ids of ours; and the relay that reads an event is seldom the one that sent the mail.

use super::{Sharing, Stats};
use crate::fleet::sent::Sent;
use crate::lines::EventLine;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// By SES's id: Postfix's queue id, and the correlation id where the message was stamped.
pub type EventIds = Arc<dyn Fn(&str) -> Option<(String, Option<String>)> + Send + Sync>;

/// Most ids that the fleet is asked for at once.
const MAX_ASKED: usize = 1_000;

/// What tells it.
#[derive(Clone, Default)]
pub struct Origins {
    /// The mail log of this relay, where it is followed.
    pub log: Option<EventIds>,
    /// The fleet.
    pub sharing: Option<Sharing>,
}

impl Origins {
    /// Whether anything tells.
    #[must_use]
    pub fn are_told(&self) -> bool {
        self.log.is_some() || self.sharing.is_some()
    }

    /// What the log of this relay tells of a mail.
    #[must_use]
    pub fn in_log(&self, ses_id: &str) -> Option<Sent> {
        let (queue_id, correlation_id) = self.log.as_ref()?(ses_id)?;
        let relay = self.sharing.as_ref().map(|sharing| sharing.relay().to_owned());
        Some(Sent { queue_id, correlation_id, relay })
    }

    /// Whether a line lacks what can be told.
    #[must_use]
    pub fn are_wanted(&self, line: &EventLine) -> bool {
        line.queue_id.is_none() || (self.sharing.is_some() && line.sent_by.is_none())
    }

    /// What the log, or else the fleet, tells of these mails.
    #[must_use]
    pub fn find(&self, ses_ids: &[&str], stats: &Stats) -> HashMap<String, Sent> {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        for &ses_id in ses_ids {
            match self.in_log(ses_id) {
                Some(sent) => drop(found.insert(ses_id.to_owned(), sent)),
                None if unknown.len() < MAX_ASKED => unknown.push(ses_id.to_owned()),
                None => {}
            }
        }
        if let (Some(sharing), false) = (&self.sharing, unknown.is_empty())
            && let Some(told) = sharing.ask(Vec::new(), unknown.clone())
        {
            found.extend(in_fleet(unknown, told.sent, stats));
        }
        found
    }
}

/// What the fleet told, counted.
pub(super) fn in_fleet(
    ses_ids: Vec<String>,
    told: Vec<Option<Sent>>,
    stats: &Stats,
) -> impl Iterator<Item = (String, Sent)> {
    let found = ses_ids.into_iter().zip(told).filter_map(|(ses_id, sent)| Some((ses_id, sent?)));
    found.inspect(|_| {
        stats.ids_found.fetch_add(1, Relaxed);
    })
}

/// Puts into a line what it lacks. `true`: the ids were among it.
pub(super) fn fill_in(line: &mut EventLine, sent: &Sent) -> bool {
    let lacks_ids = line.queue_id.is_none();
    if lacks_ids {
        line.queue_id = Some(sent.queue_id.clone());
        line.correlation_id = line.correlation_id.take().or_else(|| sent.correlation_id.clone());
    }
    line.sent_by.clone_from(&sent.relay);
    lacks_ids
}

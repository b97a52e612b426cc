//! Events that were read and are to be applied together; in a fleet, less those that are another relay's.

use super::digest::{Digest, Verdict};
use super::origins::{self, Origins};
use super::{Sharing, Stats};
use crate::fleet::claims::Share;
use crate::store::{Effect, SeenKey};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;

/// Events and their effects.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Of all events, in their order.
    pub effects: Vec<Effect>,
    events: Vec<Event>,
}

#[derive(Debug)]
struct Event {
    /// Where its body stood.
    place: Place,
    /// How many effects it has.
    effects: usize,
    /// When it happened, Unix milliseconds, where it says so.
    happened: Option<i64>,
}

/// Where a body stood: in which parcel, as which of its bodies.
pub type Place = (usize, usize);

impl Gathered {
    /// Adds what a body is, if it is an event, with what the mail log of this relay tells of its mail.
    pub fn add(&mut self, place: Place, digest: &mut Digest, origins: &Origins, stats: &Stats) {
        if !matches!(digest.verdict, Verdict::Event { .. }) {
            return;
        }
        for effect in digest.effects.iter_mut().filter(|effect| origins.are_wanted(&effect.line)) {
            if let Some(sent) = origins.in_log(&effect.line.ses_id) {
                stats.joined.fetch_add(u64::from(origins::fill_in(&mut effect.line, &sent)), Relaxed);
            }
        }
        self.events.push(Event { place, effects: digest.effects.len(), happened: digest.happened });
        self.effects.append(&mut digest.effects);
    }

    /// How many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// When they happened, those that say so.
    #[must_use]
    pub fn happened(&self) -> Vec<i64> {
        self.events.iter().filter_map(|event| event.happened).collect()
    }

    /// Where the bodies stood.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.events.iter().map(|event| event.place)
    }

    /// Claims the events, forgets those that another relay has done, and fills in who sent the mails of the rest. What
    /// another relay is at work on is returned. `None`: the fleet did not answer, and nothing was changed.
    #[must_use]
    pub fn share(&mut self, sharing: &Sharing, origins: &Origins, stats: &Stats) -> Option<Self> {
        let wanted = self.effects.iter().filter(|effect| origins.are_wanted(&effect.line));
        let ses_ids: BTreeSet<_> = wanted.map(|effect| &effect.line.ses_id).collect();
        let ses_ids: Vec<_> = ses_ids.into_iter().cloned().collect();
        let told = sharing.ask(self.keys(), ses_ids.clone())?;
        let known: HashMap<_, _> = origins::in_fleet(ses_ids, told.sent, stats).collect();
        for effect in self.effects.iter_mut().filter(|effect| origins.are_wanted(&effect.line)) {
            if let Some(sent) = known.get(&effect.line.ses_id) {
                origins::fill_in(&mut effect.line, sent);
            }
        }
        let (elsewhere, done) = self.leave(told.shares);
        stats.elsewhere.fetch_add(elsewhere.len() as u64, Relaxed);
        stats.duplicates.fetch_add(done, Relaxed);
        Some(elsewhere)
    }

    /// What makes each effect the same effect wherever it is read, event by event.
    fn keys(&self) -> Vec<Vec<SeenKey>> {
        let mut effects = self.effects.iter();
        let keys = |event: &Event| effects.by_ref().take(event.effects).map(|effect| effect.seen).collect();
        self.events.iter().map(keys).collect()
    }

    /// Leaves only what is ours: what another relay is at work on, and how many effects are done.
    fn leave(&mut self, shares: Vec<Vec<Share>>) -> (Self, u64) {
        let (mut elsewhere, mut done) = (Self::default(), 0);
        let Self { effects, events } = std::mem::take(self);
        let mut effects = effects.into_iter();
        for (event, shares) in events.into_iter().zip(shares) {
            let its_own: Vec<_> = effects.by_ref().take(event.effects).collect();
            if shares.contains(&Share::Elsewhere) {
                elsewhere.effects.extend(its_own);
                elsewhere.events.push(event);
                continue;
            }
            let before = self.effects.len();
            let ours = its_own.into_iter().zip(shares).filter(|(_, share)| *share == Share::Ours);
            self.effects.extend(ours.map(|(effect, _)| effect));
            let kept = self.effects.len() - before;
            done += (event.effects - kept) as u64;
            if kept > 0 || event.effects == 0 {
                self.events.push(Event { effects: kept, ..event });
            }
        }
        (elsewhere, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Settings, digest};
    use crate::rules::SuppressionRules;

    fn event(id: &str, to: &[&str]) -> Digest {
        let to = serde_json::to_string(to).expect("JSON");
        let body = format!(r#"{{"eventType":"Send","mail":{{"messageId":"{id}","destination":{to}}},"send":{{}}}}"#);
        let rules = SuppressionRules::default();
        let settings = Settings { rules: &rules, accounts: &[], correlation_header: "X-ID", now: 1_800_000_000 };
        digest(body.as_bytes(), &settings)
    }

    fn lines(gathered: &Gathered) -> Vec<String> {
        gathered.effects.iter().map(|effect| format!("{} {}", effect.line.ses_id, effect.line.to)).collect()
    }

    #[test]
    fn only_what_is_ours_is_left() {
        use Share::{Done, Elsewhere, Ours};
        let (mut gathered, stats) = (Gathered::default(), Stats::default());
        for (nth, to) in [&["a@x", "b@x"][..], &["c@x", "d@x"], &["e@x"], &["f@x"]].into_iter().enumerate() {
            gathered.add((0, nth), &mut event(&format!("id{nth}"), to), &Origins::default(), &stats);
        }
        assert_eq!(gathered.keys().iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1, 1]);
        let shares = vec![vec![Ours, Done], vec![Elsewhere, Elsewhere], vec![Done], vec![Ours]];
        let (elsewhere, done) = gathered.leave(shares);
        assert_eq!((lines(&gathered), done), (vec!["id0 a@x".to_owned(), "id3 f@x".to_owned()], 2));
        assert_eq!(gathered.places().collect::<Vec<_>>(), [(0, 0), (0, 3)]);
        assert_eq!(lines(&elsewhere), ["id1 c@x", "id1 d@x"]);
        assert_eq!((elsewhere.places().collect::<Vec<_>>(), elsewhere.keys()[0].len()), (vec![(0, 1)], 2));
        // and once more, of what is left
        let (elsewhere, done) = gathered.leave(vec![vec![Elsewhere], vec![Ours]]);
        assert_eq!((lines(&gathered), lines(&elsewhere), done), (vec!["id3 f@x".into()], vec!["id0 a@x".into()], 0));
    }
}

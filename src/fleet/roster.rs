//! The relays of the fleet as this one last read them, for whoever looks at it: with how long ago that was, since a relay
//! that does not reach the store sees none of them go.

use super::members::{BEAT, Member};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was last read.
#[derive(Debug, Default)]
pub struct Roster(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    read: Option<Instant>,
    members: Vec<Member>,
    /// Who has yet to reach a change that another had reached, and since when.
    behind: HashMap<String, (Position, Instant)>,
}

/// Milliseconds and number, by which changes are ordered.
type Position = (u64, u64);

/// A relay, as it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it said.
    pub member: Member,
    /// For how long it has been missing a change that another relay has; a few seconds are the beat's.
    pub behind: Duration,
}

impl Roster {
    /// The members were read.
    pub fn note(&self, members: &[Member]) {
        let (mut known, now) = (self.known(), Instant::now());
        let newest = members.iter().filter_map(position).max();
        let mut behind = HashMap::new();
        for member in members {
            let Some((at, newest)) = position(member).zip(newest) else { continue };
            let before = known.behind.remove(&member.name).filter(|(aim, _)| at < *aim);
            if let Some(aim) = before.or((at < newest).then_some((newest, now))) {
                behind.insert(member.name.clone(), aim);
            }
        }
        *known = Known { read: Some(now), members: members.to_vec(), behind };
    }

    /// How long ago the members were read, and what was read; `None`: never yet.
    #[must_use]
    pub fn seen(&self) -> Option<(Duration, Vec<Row>)> {
        let known = self.known();
        let behind =
            |member: &Member| known.behind.get(&member.name).map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let row = |member: &Member| Row { behind: behind(member), member: member.clone() };
        Some((known.read?.elapsed(), known.members.iter().map(row).collect()))
    }

    /// How many are at work, as far as is known, and the longest that one of them is behind.
    #[must_use]
    pub fn at_work(&self) -> (usize, Duration) {
        let rows = self.seen().map(|(_, rows)| rows).unwrap_or_default();
        let at_work = rows.iter().filter(|row| row.member.is_present());
        (
            at_work.clone().count(),
            at_work.map(|row| row.behind).max().filter(|behind| *behind > BEAT * 2).unwrap_or_default(),
        )
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` where it follows no stream.
fn position(member: &Member) -> Option<Position> {
    let (ms, number) = member.position.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, position: &str) -> Member {
        Member {
            name: name.into(),
            run: "r".into(),
            seen: 1,
            version: "0.1.0".into(),
            position: position.into(),
            twice: false,
            silent: Duration::ZERO,
        }
    }

    fn behind(roster: &Roster) -> Vec<bool> {
        roster.seen().expect("noted").1.iter().map(|row| row.behind > Duration::ZERO).collect()
    }

    #[test]
    fn who_reaches_what_another_had_is_behind_no_more() {
        let roster = Roster::default();
        assert_eq!(roster.seen(), None);
        roster.note(&[member("a", "9-0"), member("b", "10-1"), member("c", "")]);
        assert_eq!(behind(&roster), [true, false, false]);
        // It is where b was, which went on meanwhile: counted anew.
        let since = roster.known().behind["a"].1;
        roster.note(&[member("a", "10-1"), member("b", "11-0")]);
        assert!(roster.known().behind["a"].1 > since);
        // It stays: counted on.
        let since = roster.known().behind["a"].1;
        roster.note(&[member("a", "10-1"), member("b", "12-0")]);
        assert_eq!(roster.known().behind["a"].1, since);
        roster.note(&[member("a", "12-0"), member("b", "12-0")]);
        assert_eq!(behind(&roster), [false, false]);
        assert_eq!(roster.at_work(), (2, Duration::ZERO));
    }
}

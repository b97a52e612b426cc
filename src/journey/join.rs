//! From lines to journeys: which lines are of one message, whatever ids they name it by.

use super::search::Found;
use super::tell::{Journey, Line, tell};
use crate::lines::read::{Entry, Stamped};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;

/// The journeys that found lines tell, by time.
#[must_use]
pub fn join(found: &[&Found]) -> Vec<Journey> {
    let mut desk = Desk::default();
    let lines: Vec<Line<'_>> = found.iter().filter_map(|found| Line::of(found)).collect();
    // Events last: the line that tells SES's id may come after the first of its events. Ours before them, for they too
    // stand in a log of their own.
    for part in [Part::Postfix, Part::Ours, Part::Events] {
        lines.iter().filter(|line| Part::of(&line.entry) == part).for_each(|line| desk.take(line, part));
    }
    desk.journeys()
}

/// In which order lines are joined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Postfix's, and what was refused before there was a queue id: Postfix's line of that and ours come side by side.
    Postfix,
    /// Ours that name a queue id.
    Ours,
    Events,
}

impl Part {
    fn of(entry: &Entry<'_>) -> Self {
        match entry {
            Entry::Event(_) => Self::Events,
            Entry::Stamped(_) => Self::Ours,
            Entry::Decided(decided) if !decided.queue_id.is_empty() => Self::Ours,
            _ => Self::Postfix,
        }
    }
}

/// How long after `removed` a line still is of the same message: logs of seconds and of microseconds meet.
const AFTERMATH: SignedDuration = SignedDuration::from_secs(2);

/// How far apart Postfix's line of a refusal and ours are.
const SAME_REFUSAL: SignedDuration = SignedDuration::from_secs(2);

/// What is known of one stay in one queue, or of one refusal.
#[derive(Default)]
struct Stay<'f> {
    /// Which journey it is part of: the number of another stay, or its own.
    part_of: usize,
    direct: bool,
    begun: Timestamp,
    removed: Option<Timestamp>,
    /// Sender and recipient, of a refusal.
    refusal: Option<(&'f [u8], &'f [u8])>,
    lines: Vec<&'f Line<'f>>,
}

#[derive(Default)]
struct Desk<'f> {
    stays: Vec<Stay<'f>>,
    by_queue_id: HashMap<(&'f [u8], &'f [u8]), Vec<usize>>,
    by_queue_id_alone: HashMap<&'f [u8], Vec<usize>>,
    by_ses_id: HashMap<&'f [u8], usize>,
    by_correlation_id: HashMap<&'f [u8], Vec<(usize, &'f [u8])>>,
}

impl<'f> Desk<'f> {
    fn take(&mut self, line: &'f Line<'f>, part: Part) {
        let id = line.entry.queue_id();
        let at = match part {
            Part::Postfix if id.is_empty() => self.refusal(line),
            Part::Postfix => self.stay(line, id),
            Part::Ours => self.stay_of_ours(line, id),
            Part::Events => self.stay_of_event(line),
        };
        let stay = &mut self.stays[at];
        stay.direct |= line.direct;
        stay.lines.push(line);
        match line.entry {
            Entry::Removed { .. } => stay.removed = Some(line.at),
            Entry::Stamped(stamped) => self.same_correlation(at, &stamped),
            _ => {}
        }
        let ses_id = line.entry.ses_id();
        if !ses_id.is_empty() {
            self.by_ses_id.entry(ses_id).or_insert(at);
        }
        let other = line.entry.other_queue_id();
        if !other.is_empty()
            && let Some(other) = self.nearest_under(other, line.at, at)
        {
            self.unite(at, other);
        }
    }

    /// The stay of a line with a queue id: short ids are used again once their message is gone.
    fn stay(&mut self, line: &'f Line<'f>, id: &'f [u8]) -> usize {
        let last = self.by_queue_id.get(&(line.host, id)).and_then(|stays| stays.last().copied());
        if let Some(last) = last.filter(|last| !self.begins_anew(*last, line)) {
            return last;
        }
        self.begin_under(line, id)
    }

    /// The stay that a line of ours is of. Where Postfix writes its log itself, it names the host by `myhostname`, and
    /// not as we do.
    fn stay_of_ours(&mut self, line: &'f Line<'f>, id: &'f [u8]) -> usize {
        let same_host = self.by_queue_id.get(&(line.host, id));
        let stays = same_host.or_else(|| self.by_queue_id_alone.get(id));
        let known = stays.and_then(|stays| self.nearest(stays, line.at, usize::MAX));
        known.unwrap_or_else(|| self.begin_under(line, id))
    }

    fn begin_under(&mut self, line: &'f Line<'f>, id: &'f [u8]) -> usize {
        let at = self.begin(line);
        self.by_queue_id.entry((line.host, id)).or_default().push(at);
        self.by_queue_id_alone.entry(id).or_default().push(at);
        at
    }

    fn begins_anew(&self, stay: usize, line: &Line<'_>) -> bool {
        let Some(removed) = self.stays[stay].removed else { return false };
        let arrives = matches!(line.entry, Entry::Arrived(_));
        arrives || line.at.duration_since(removed) > AFTERMATH
    }

    fn begin(&mut self, line: &Line<'_>) -> usize {
        let at = self.stays.len();
        self.stays.push(Stay { part_of: at, begun: line.at, ..Stay::default() });
        at
    }

    /// What was refused before there was a queue id: Postfix's line of it and ours are one.
    fn refusal(&mut self, line: &'f Line<'f>) -> usize {
        let about = (line.entry.from().unwrap_or_default(), line.entry.to()[0]);
        let same = self
            .stays
            .iter()
            .enumerate()
            .rev()
            .take_while(|(_, stay)| line.at.duration_since(stay.begun) <= SAME_REFUSAL);
        let is_one = |stay: &Stay<'_>| {
            stay.refusal
                .is_some_and(|(from, to)| from.eq_ignore_ascii_case(about.0) && to.eq_ignore_ascii_case(about.1))
                && stay.lines.iter().all(|other| is_ours(&other.entry) != is_ours(&line.entry))
        };
        let same = same.into_iter().find(|(_, stay)| is_one(stay)).map(|(at, _)| at);
        same.unwrap_or_else(|| {
            let at = self.begin(line);
            self.stays[at].refusal = Some(about);
            at
        })
    }

    /// Behind a content filter a message keeps its correlation id. One that a client sets may stand on many messages.
    fn same_correlation(&mut self, at: usize, stamped: &Stamped<'f>) {
        let known = self.by_correlation_id.entry(stamped.correlation_id).or_default();
        let same = known.iter().find(|(_, message_id)| *message_id == stamped.message_id).map(|(other, _)| *other);
        known.push((at, stamped.message_id));
        if let Some(other) = same {
            self.unite(at, other);
        }
    }

    fn stay_of_event(&mut self, line: &'f Line<'f>) -> usize {
        let Entry::Event(event) = line.entry else { return self.begin(line) };
        let known = self.by_ses_id.get(event.ses_id).copied();
        let known = known.or_else(|| self.nearest_under(event.queue_id, line.at, usize::MAX));
        let known = known.or_else(|| self.by_correlation_id.get(event.correlation_id)?.last().map(|(at, _)| *at));
        known.unwrap_or_else(|| self.begin(line))
    }

    fn nearest_under(&self, queue_id: &[u8], at: Timestamp, not: usize) -> Option<usize> {
        self.nearest(self.by_queue_id_alone.get(queue_id)?, at, not)
    }

    /// The last of the stays that began before `at`, or the first that did later; another than `not`.
    fn nearest(&self, stays: &[usize], at: Timestamp, not: usize) -> Option<usize> {
        let others = || stays.iter().copied().filter(|stay| *stay != not);
        others().rfind(|stay| self.stays[*stay].begun <= at).or_else(|| others().next())
    }

    fn root(&self, mut at: usize) -> usize {
        while self.stays[at].part_of != at {
            at = self.stays[at].part_of;
        }
        at
    }

    fn unite(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.stays[one.max(other)].part_of = one.min(other);
    }

    fn journeys(self) -> Vec<Journey> {
        let mut lines: HashMap<usize, (bool, Vec<&Line<'f>>)> = HashMap::new();
        for (at, stay) in self.stays.iter().enumerate() {
            let (direct, of) = lines.entry(self.root(at)).or_default();
            *direct |= stay.direct;
            of.extend(&stay.lines);
        }
        let mut wanted: Vec<Vec<&Line<'f>>> =
            lines.into_values().filter(|(direct, _)| *direct).map(|(_, lines)| lines).collect();
        for lines in &mut wanted {
            lines.sort_by_key(|line| line.at);
        }
        wanted.sort_by_key(|lines| lines.first().map(|line| line.at));
        wanted.iter().map(|lines| tell(lines)).collect()
    }
}

fn is_ours(entry: &Entry<'_>) -> bool {
    matches!(entry, Entry::Decided(_))
}

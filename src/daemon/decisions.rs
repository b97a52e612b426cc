//! What the status page shows of single decisions: the latest refusals, and what each rule did in a day. Filled by the
//! thread that writes the mail log, from the lines that it writes anyway: no question pays for it.

use crate::lines::Line;
use crate::lines::read::Decided;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many refusals are kept, and as many that would have been: with the longest lines 400 KB.
const MAX_LATEST: usize = 100;

/// How many rules are counted in an hour, far above what a person writes who reads them; what other rules did is
/// counted together. With a day's hours, 2 MB at most.
const MAX_RULES: usize = 500;

/// How many hours are counted, the one in progress among them.
const HOURS: usize = 24;

/// Seconds.
const HOUR: i64 = 3_600;

/// What was decided lately.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    refused: VecDeque<Noted>,
    observed: VecDeque<Noted>,
    hours: VecDeque<Hour>,
}

/// A decision line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// When it was written, Unix seconds.
    pub at: i64,
    /// Its text.
    pub text: String,
}

#[derive(Debug)]
struct Hour {
    hour: i64,
    /// By the part of the line that names decision, check, mode and rule.
    rules: HashMap<Box<str>, u64>,
    others: u64,
}

/// What rules did.
#[derive(Debug, Default)]
pub struct ByRule {
    /// The begin of the decision lines, and how many there were; the most first.
    pub rules: Vec<(Box<str>, u64)>,
    /// Decisions of further rules, which were too many to be counted one by one.
    pub others: u64,
    /// From when on it is counted, Unix seconds.
    pub since: i64,
}

impl Decisions {
    /// Takes notice of a line of the mail log, written at `now` (Unix seconds).
    pub fn note(&self, line: &Line, now: i64) {
        // The rule ends where the generation begins; other lines have none.
        let Some(end) = line.text.find(", generation=").filter(|_| line.text.starts_with("decision=")) else { return };
        let mut kept = self.kept();
        kept.count(&line.text[..end], now);
        let latest = match Decided::parse(line.text.as_bytes()).word {
            b"pass" | b"near-limit" => return,
            b"would-reject" => &mut kept.observed,
            _ => &mut kept.refused,
        };
        latest.truncate(MAX_LATEST - 1);
        latest.push_front(Noted { at: now, text: line.text.clone() });
    }

    /// The latest refusals and those that would have been, the newest first.
    #[must_use]
    pub fn latest(&self) -> Vec<Noted> {
        let kept = self.kept();
        let mut latest: Vec<_> = kept.refused.iter().chain(&kept.observed).cloned().collect();
        drop(kept);
        latest.sort_by_key(|noted| std::cmp::Reverse(noted.at));
        latest
    }

    /// What each rule did in the hours before `now` (Unix seconds).
    #[must_use]
    pub fn by_rule(&self, now: i64) -> ByRule {
        let mut sum: HashMap<Box<str>, u64> = HashMap::new();
        let (mut others, since) = (0, (hour(now) + 1 - HOURS as i64) * HOUR);
        for hour in self.kept().hours.iter().filter(|hour| hour.hour * HOUR >= since) {
            others += hour.others;
            for (rule, count) in &hour.rules {
                *sum.entry(rule.clone()).or_default() += count;
            }
        }
        let mut rules: Vec<_> = sum.into_iter().collect();
        rules.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
        ByRule { rules, others, since }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn count(&mut self, rule: &str, now: i64) {
        let now = hour(now);
        // Also where the clock was set back.
        if self.hours.back().is_none_or(|last| last.hour != now) {
            self.hours.push_back(Hour { hour: now, rules: HashMap::new(), others: 0 });
        }
        if self.hours.len() > HOURS {
            self.hours.pop_front();
        }
        let Some(hour) = self.hours.back_mut() else { return };
        if let Some(count) = hour.rules.get_mut(rule) {
            *count += 1;
        } else if hour.rules.len() < MAX_RULES {
            hour.rules.insert(rule.into(), 1);
        } else {
            hour.others += 1;
        }
    }
}

fn hour(unix_seconds: i64) -> i64 {
    unix_seconds.div_euclid(HOUR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::Priority;

    fn note(decisions: &Decisions, word: &str, rule: &str, now: i64) {
        let text = format!("decision={word}, check=senders, mode=enforce, rule={rule}, generation=1, from=<a@x>");
        decisions.note(&Line { ident: "postfix/gatepost", priority: Priority::Info, text }, now);
    }

    #[test]
    fn keeps_the_newest_refusals_and_as_many_that_would_have_been() {
        let decisions = Decisions::default();
        for now in 0..300 {
            note(&decisions, "reject", "list:1", now);
            note(&decisions, "pass", "list:2", now);
            note(&decisions, "near-limit", "list:3", now);
        }
        note(&decisions, "would-reject", "list:4", 250);
        let text = "4ZabcD1Yxz1: correlation_id=x, message-id=<decision=reject, rule=a, generation=1>".to_owned();
        decisions.note(&Line { ident: "postfix/gatepost", priority: Priority::Info, text }, 301);
        let latest = decisions.latest();
        assert_eq!((latest.len(), latest[0].at, latest[100].at), (101, 299, 200));
        assert!(latest.iter().filter(|noted| noted.text.contains("=would-reject,")).all(|noted| noted.at == 250));
        assert_eq!(decisions.by_rule(300).rules.len(), 4);
    }

    #[test]
    fn rules_are_counted_for_a_day_and_so_many() {
        let decisions = Decisions::default();
        for now in [0, HOUR, HOUR + 1, 23 * HOUR] {
            note(&decisions, "reject", "list:1", now);
        }
        let counted = |now| decisions.by_rule(now).rules.first().map_or(0, |(_, count)| *count);
        assert_eq!([23, 24, 25, 46, 47].map(|hours| counted(hours * HOUR)), [4, 3, 1, 1, 0]);
        for n in 0..2 * MAX_RULES {
            note(&decisions, "reject", &format!("list:{n}"), 23 * HOUR);
        }
        let by_rule = decisions.by_rule(23 * HOUR);
        assert_eq!((by_rule.rules.len(), by_rule.others, by_rule.since), (MAX_RULES, MAX_RULES as u64, 0));
        assert_eq!(by_rule.rules[0], ("decision=reject, check=senders, mode=enforce, rule=list:1".into(), 5));
        for hours in 24..100 {
            note(&decisions, "reject", "list:1", hours * HOUR);
        }
        assert_eq!(decisions.kept().hours.len(), HOURS);
    }
}

//! What the log told of mails and nobody was told yet: for a fleet, in which the relay that sends a mail is seldom the one
//! that reads its events.

use super::follow::Known;
use jiff::Timestamp;
use std::collections::VecDeque;

/// Most ids that wait: as many as are known at a time.
const MAX_WAITING: usize = super::follow::MAX_IDS;

/// SES ids that nobody was told of.
#[derive(Debug)]
pub(super) struct Fresh {
    /// Older lines are passed by.
    since: Timestamp,
    /// With the times of their lines, in the order of the log.
    waiting: VecDeque<(Timestamp, Box<[u8]>)>,
    /// Those that lacked a correlation id when they were first asked for: it may stand in another log.
    later: Vec<(Timestamp, Box<[u8]>)>,
    /// How many were too many.
    lost: u64,
}

/// Mails to tell of.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// By SES's ids.
    pub known: Vec<(String, Known)>,
    /// When the last of their lines was written.
    pub until: Option<Timestamp>,
    /// How many were given up since the last time, being too many.
    pub lost: u64,
}

impl Fresh {
    pub(super) fn since(since: Timestamp) -> Self {
        Self { since, waiting: VecDeque::new(), later: Vec::new(), lost: 0 }
    }

    pub(super) fn add(&mut self, at: Timestamp, ses_id: &[u8]) {
        if at < self.since {
            return;
        }
        self.waiting.push_back((at, ses_id.into()));
        if self.waiting.len() > MAX_WAITING {
            self.waiting.pop_front();
            self.lost += 1;
        }
    }

    /// Takes `most` and those that were put off. `lookup` tells what is known by now.
    pub(super) fn take(&mut self, most: usize, lookup: impl Fn(&[u8]) -> Option<Known>) -> News {
        let mut news = News { lost: std::mem::take(&mut self.lost), ..News::default() };
        let put_off = std::mem::take(&mut self.later);
        let is_first = std::iter::repeat_n(false, put_off.len()).chain(std::iter::repeat(true));
        let some = self.waiting.drain(..most.min(self.waiting.len()));
        for ((at, ses_id), is_first) in put_off.into_iter().chain(some).zip(is_first) {
            match lookup(&ses_id) {
                Some(known) if known.correlation_id.is_none() && is_first => self.later.push((at, ses_id)),
                Some(known) => {
                    news.known.push((super::follow::text(&ses_id), known));
                    news.until = news.until.max(Some(at));
                }
                // Given up meanwhile, with the oldest.
                None => news.lost += 1,
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn known(correlation_id: Option<&str>) -> Option<Known> {
        Some(Known { queue_id: "AAAAA1".into(), correlation_id: correlation_id.map(str::to_owned) })
    }

    #[test]
    fn what_lacks_a_correlation_id_is_told_the_next_time() {
        let mut fresh = Fresh::since(at(5));
        for (second, id) in [(4, "old"), (5, "stamped"), (6, "bare"), (7, "last")] {
            fresh.add(at(second), id.as_bytes());
        }
        let lookup = |id: &[u8]| known((id == b"stamped").then_some("c"));
        let told = |news: News| news.known.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        let first = fresh.take(2, lookup);
        assert_eq!((first.until, told(first)), (Some(at(5)), vec!["stamped".to_owned()]));
        let second = fresh.take(2, lookup);
        assert_eq!((second.until, told(second)), (Some(at(6)), vec!["bare".to_owned()]));
        assert_eq!(told(fresh.take(2, lookup)), ["last"]);
        assert_eq!(fresh.take(2, lookup), News::default());
    }

    #[test]
    fn of_too_many_the_oldest_are_given_up() {
        let mut fresh = Fresh::since(at(0));
        for n in 0..MAX_WAITING + 3 {
            fresh.add(at(1), n.to_string().as_bytes());
        }
        let news = fresh.take(1, |_| known(Some("c")));
        assert_eq!((news.lost, news.known[0].0.as_str()), (3, "3"));
        assert_eq!(fresh.take(1, |_| None), News { lost: 1, ..News::default() });
    }
}

//! The targets of a relay that sends by SES, and whether they are met.

use serde::Serialize;

/// How a measure stands to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The target is met.
    Good,
    /// It is not.
    Warning,
    /// By so much that somebody has to look.
    Alert,
    /// There is too little mail to tell, or nothing could be measured.
    Unknown,
}

/// Something that has a target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// `delivery`, `bounces`, `complaints` or `queue`.
    pub name: &'static str,
    /// How many.
    pub count: u64,
    /// Of how many; none for the queue.
    pub of: Option<u64>,
    /// In percent; none where there is nothing to take a part of.
    pub percent: Option<f64>,
    /// How that stands to the target.
    pub state: State,
    /// What should be.
    pub target: &'static str,
    /// What is an alert.
    pub alert: &'static str,
    /// What the percentage is one of.
    pub means: &'static str,
}

/// Where a percentage is good and where it is an alert, in thousandths.
struct Bounds {
    good: u64,
    alert: u64,
    more_is_better: bool,
}

impl Bounds {
    /// Exact at the bounds: more than 95 % is good, 95 % is not; less than 90 % is an alert, 90 % is not.
    fn state(&self, count: u64, of: u64) -> State {
        let part = u128::from(count) * 1_000;
        let [good, alert] = [self.good, self.alert].map(|bound| u128::from(of) * u128::from(bound));
        let (is_good, is_alert) =
            if self.more_is_better { (part > good, part < alert) } else { (part < good, part > alert) };
        match (is_good, is_alert) {
            (_, true) => State::Alert,
            (true, _) => State::Good,
            _ => State::Warning,
        }
    }
}

/// Over how many a queue is an alert.
const QUEUE_ALERT: u64 = 100;

/// `delivered` of `judged`.
pub(super) fn delivery(delivered: u64, judged: u64, least: u64) -> Measure {
    let bounds = Bounds { good: 950, alert: 900, more_is_better: true };
    let texts =
        ["over 95 %", "under 90 %", "delivered, of all whose fate is known or who should have been heard of by now"];
    rate("delivery", delivered, judged, least, &bounds, texts)
}

/// `bounced` of those of whom SES told the fate.
pub(super) fn bounces(bounced: u64, told: u64, least: u64) -> Measure {
    let bounds = Bounds { good: 50, alert: 100, more_is_better: false };
    let texts = ["under 5 %", "over 10 %", "bounced at SES, of those whose fate SES told"];
    rate("bounces", bounced, told, least, &bounds, texts)
}

/// `complaints` of `delivered`.
pub(super) fn complaints(complaints: u64, delivered: u64, least: u64) -> Measure {
    let bounds = Bounds { good: 1, alert: 5, more_is_better: false };
    rate(
        "complaints",
        complaints,
        delivered,
        least,
        &bounds,
        ["under 0.1 %", "over 0.5 %", "complaints, of what was delivered"],
    )
}

/// How many messages wait in Postfix's queue, where that is known.
pub(super) fn queue(messages: Option<u64>) -> Measure {
    let state = match messages {
        None => State::Unknown,
        Some(0) => State::Good,
        Some(n) if n > QUEUE_ALERT => State::Alert,
        Some(_) => State::Warning,
    };
    let count = messages.unwrap_or_default();
    let [target, alert, means] = ["0", "over 100", "messages in Postfix's queue on this host, now"];
    Measure { name: "queue", count, of: None, percent: None, state, target, alert, means }
}

fn rate(name: &'static str, count: u64, of: u64, least: u64, bounds: &Bounds, texts: [&'static str; 3]) -> Measure {
    let state = if of < least.max(1) { State::Unknown } else { bounds.state(count, of) };
    let percent = (of > 0).then(|| (count as f64 * 1e5 / of as f64).round() / 1e3);
    let [target, alert, means] = texts;
    Measure { name, count, of: Some(of), percent, state, target, alert, means }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Alert, Good, Unknown, Warning};

    #[test]
    fn the_bounds_themselves_are_neither_good_nor_an_alert() {
        for (measure, expected) in [
            (delivery(951, 1_000, 50), Good),
            (delivery(950, 1_000, 50), Warning),
            (delivery(900, 1_000, 50), Warning),
            (delivery(899, 1_000, 50), Alert),
            (delivery(0, 49, 50), Unknown),
            (delivery(0, 50, 50), Alert),
            (delivery(0, 0, 0), Unknown),
            (bounces(49, 1_000, 50), Good),
            (bounces(50, 1_000, 50), Warning),
            (bounces(100, 1_000, 50), Warning),
            (bounces(101, 1_000, 50), Alert),
            (complaints(0, 1_000, 50), Good),
            (complaints(1, 1_000, 50), Warning),
            (complaints(5, 1_000, 50), Warning),
            (complaints(6, 1_000, 50), Alert),
            (queue(Some(0)), Good),
            (queue(Some(1)), Warning),
            (queue(Some(100)), Warning),
            (queue(Some(101)), Alert),
            (queue(None), Unknown),
        ] {
            assert_eq!(measure.state, expected, "{measure:?}");
        }
        assert_eq!(bounces(1, 3, 1).percent, Some(33.333));
    }
}

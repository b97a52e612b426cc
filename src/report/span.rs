//! The span of a report, and the parts of it that its charts show.

/// From when to when, in Unix seconds; the end is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first second.
    pub since: i64,
    /// The second behind the last.
    pub until: i64,
}

/// How long a part may be, in seconds: what is easily read off an axis.
const STEPS: [i64; 9] = [60, 300, 900, 3_600, 10_800, 21_600, 86_400, 604_800, 31_536_000];

/// How many parts a chart has at most: more are not told apart on a terminal.
const MAX_STEPS: i64 = 48;

/// How long before the span a message may have been submitted whose delivery falls into it.
const BEFORE: i64 = 24 * 3_600;

/// How long behind the span events are looked for, for what was sent within it: SES tries for up to 14 hours, and a queue of
/// events may be behind.
const BEHIND: i64 = 72 * 3_600;

/// Where a time lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Less than a day before the span.
    Before,
    /// In the span: the number of its part.
    Within(usize),
    /// Less than three days behind it.
    Behind,
    /// Further away.
    Away,
}

impl Span {
    /// The length of a part, in seconds.
    #[must_use]
    pub fn step(&self) -> i64 {
        let length = self.until - self.since;
        STEPS.into_iter().find(|step| length <= step * MAX_STEPS).unwrap_or(STEPS[STEPS.len() - 1])
    }

    /// How many parts there are.
    #[must_use]
    pub fn steps(&self) -> usize {
        usize::try_from((self.until - self.since + self.step() - 1) / self.step()).unwrap_or_default()
    }

    /// The earliest time of a line that is of interest.
    #[must_use]
    pub fn earliest(&self) -> i64 {
        self.since - BEFORE
    }

    pub(super) fn place(&self, at: i64, step: i64) -> Place {
        match at {
            at if at >= self.since && at < self.until => {
                Place::Within(usize::try_from((at - self.since) / step).unwrap_or_default())
            }
            at if at < self.since && at >= self.earliest() => Place::Before,
            at if at >= self.until && at < self.until + BEHIND => Place::Behind,
            _ => Place::Away,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_hours_and_ends_before_the_next() {
        let day = Span { since: 86_400, until: 172_800 };
        assert_eq!((day.step(), day.steps()), (3_600, 24));
        let place = |at| day.place(at, day.step());
        assert_eq!((place(86_399), place(86_400), place(90_000)), (Place::Before, Place::Within(0), Place::Within(1)));
        assert_eq!((place(172_799), place(172_800)), (Place::Within(23), Place::Behind));
        assert_eq!((place(-1), place(172_800 + BEHIND)), (Place::Away, Place::Away));
        assert!(Span { since: 0, until: 400 * 86_400 }.steps() <= 60 && Span { since: 0, until: 1 }.steps() == 1);
    }
}

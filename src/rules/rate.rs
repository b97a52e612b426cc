//! Rates and spans of time as operators write them: `100/min burst 200`, `unlimited`, `14d`.
//! Pure; an error names the byte at which the text goes wrong.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The largest count of a rate, and the largest burst: one cell a nanosecond, the finest step of
/// the meters.
pub const MAX_COUNT: u32 = 1_000_000_000;

/// The longest time in which a burst may fill up again: the meters count nanoseconds in 64 bits
/// (584 years), and a hundred years is for ever in mail.
pub const MAX_FILL: Duration = Duration::from_secs(100 * 366 * DAY);

/// The longest span of time that may be written (ten years); longer means `never`.
pub const MAX_SPAN: Duration = Duration::from_secs(3660 * DAY);

const DAY: u64 = 86_400;

/// A rate: `count` per `per`, with room for `burst` at once. Accepted in t seconds is at most
/// `burst + t * count / per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// From 1.
    pub count: u32,
    /// One of second, minute, hour, day.
    pub per: Per,
    /// From 1; the rate's count where it is not written.
    pub burst: u32,
}

/// The unit of time of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Per {
    /// `s`, `sec`, `second`
    Second,
    /// `m`, `min`, `minute`
    Minute,
    /// `h`, `hr`, `hour`
    Hour,
    /// `d`, `day`
    Day,
}

/// A rate, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quota {
    /// At most this.
    Limited(Rate),
    /// `"unlimited"`: not counted.
    Unlimited,
}

/// Where and why a text is no rate or span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct RateError {
    /// The byte of the text, from 0.
    pub at: usize,
    /// What is wrong there, and what to write instead.
    pub fault: Fault,
}

/// What is wrong with a rate or span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No digit where a number must stand.
    #[error("expected a whole number, as in \"100/min\" or \"14d\"")]
    NoNumber,
    /// A comma that does not group by three.
    #[error("a comma may only group thousands, as in \"1,000/h\"")]
    Grouping,
    /// Over [`MAX_COUNT`].
    #[error("the number is too large, at most 1,000,000,000 can be counted")]
    TooLarge,
    /// A rate of zero.
    #[error(
        "a rate of zero would stop all mail; to count nothing write \"unlimited\", to refuse a sender strike it off allowed_senders"
    )]
    ZeroRate,
    /// A burst of zero.
    #[error("a burst of zero would stop all mail; leave \"burst\" out and it is the rate's count")]
    ZeroBurst,
    /// No `/` after the count.
    #[error("expected \"/\" and a unit after the number, as in \"100/min\"")]
    NoSlash,
    /// No known unit.
    #[error("expected a unit of time: s, min, h or d, as in \"100/min\" or \"14d\"")]
    NoUnit,
    /// Something after the end.
    #[error("expected nothing more here, or \"burst\" and a number, as in \"100/min burst 200\"")]
    Trailing,
    /// Over [`MAX_FILL`].
    #[error("a burst so large would take over a hundred years to fill at this rate; write a smaller burst")]
    SlowFill,
    /// A span of zero.
    #[error("a time of zero would have no effect; write at least \"1s\"")]
    ZeroSpan,
    /// Over [`MAX_SPAN`].
    #[error("longer than ten years; write a shorter time, or \"never\" where that is allowed")]
    LongSpan,
    /// Something after a span.
    #[error("expected nothing after the unit: one number and one unit, as in \"14d\"")]
    TrailingSpan,
}

impl Rate {
    /// What may pass at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// The time in which one cell comes back, rounded up to a nanosecond, so that rounding never
    /// grants more than was written.
    #[must_use]
    pub fn replenish(&self) -> Duration {
        Duration::from_nanos(self.per.nanos().div_ceil(u64::from(self.count.max(1))))
    }

    /// The part of one of `relays`, in which `n` still pass at once where they do in the whole. Rounded down, but
    /// never to nothing.
    #[must_use]
    pub fn share(self, relays: u32, n: u32) -> Self {
        let relays = relays.max(1);
        let burst = (self.burst / relays).max(n.min(self.burst)).max(1);
        let mut share = Self { burst, ..self };
        // In a longer unit less is lost by rounding.
        while share.count < relays.saturating_mul(1000)
            && let Some((times, longer)) = share.per.longer()
        {
            (share.count, share.per) = (share.count.saturating_mul(times), longer);
        }
        Self { count: (share.count / relays).max(1), ..share }
    }

    fn checked(self, burst_at: usize) -> Result<Self, RateError> {
        // At most a day in nanoseconds times u32::MAX: fits u128 by far.
        let fill = self.replenish().as_nanos() * u128::from(self.burst);
        if fill > MAX_FILL.as_nanos() { fault(burst_at, Fault::SlowFill) } else { Ok(self) }
    }
}

impl Per {
    /// The unit in seconds.
    #[must_use]
    pub fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => DAY,
        }
    }

    fn nanos(self) -> u64 {
        self.seconds() * 1_000_000_000
    }

    /// The next longer unit, and how many of this one it has.
    fn longer(self) -> Option<(u32, Self)> {
        match self {
            Self::Second => Some((60, Self::Minute)),
            Self::Minute => Some((60, Self::Hour)),
            Self::Hour => Some((24, Self::Day)),
            Self::Day => None,
        }
    }

    /// The unit as [`Rate`]'s `Display` writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
            Self::Day => "d",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "s" | "sec" | "secs" | "second" | "seconds" => Self::Second,
            "m" | "min" | "mins" | "minute" | "minutes" => Self::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Self::Hour,
            "d" | "day" | "days" => Self::Day,
            _ => return None,
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.as_str())?;
        if self.burst != self.count {
            write!(f, " burst {}", self.burst)?;
        }
        Ok(())
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(rate) => rate.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let mut scan = Scan { text, at: 0 };
        let at = scan.skip_blanks();
        let count = scan.number()?;
        if count == 0 {
            return fault(at, Fault::ZeroRate);
        }
        let slash = scan.skip_blanks();
        if !scan.take(b'/') {
            return fault(slash, Fault::NoSlash);
        }
        let per = scan.unit()?;
        let word_at = scan.skip_blanks();
        if scan.is_done() {
            return Self { count, per, burst: count }.checked(at);
        }
        if !scan.word().eq_ignore_ascii_case("burst") {
            return fault(word_at, Fault::Trailing);
        }
        let burst_at = scan.skip_blanks();
        let burst = scan.number()?;
        if burst == 0 {
            return fault(burst_at, Fault::ZeroBurst);
        }
        scan.end(Fault::Trailing)?;
        Self { count, per, burst }.checked(burst_at)
    }
}

impl FromStr for Quota {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        if text.trim_matches(BLANKS).eq_ignore_ascii_case("unlimited") {
            return Ok(Self::Unlimited);
        }
        text.parse().map(Self::Limited)
    }
}

/// Reads a span of time such as `14d`, `12h`, `30min`, `2w`: one number, one unit; that of a rate, or weeks.
///
/// # Errors
/// Anything else, zero, and more than [`MAX_SPAN`].
pub fn parse_span(text: &str) -> Result<Duration, RateError> {
    let mut scan = Scan { text, at: 0 };
    let at = scan.skip_blanks();
    let count = scan.number()?;
    if count == 0 {
        return fault(at, Fault::ZeroSpan);
    }
    let unit_at = scan.skip_blanks();
    let unit = match scan.word().to_ascii_lowercase().as_str() {
        "w" | "week" | "weeks" => 7 * DAY,
        word => Per::from_word(word).ok_or(RateError { at: unit_at, fault: Fault::NoUnit })?.seconds(),
    };
    scan.end(Fault::TrailingSpan)?;
    // A u32 times a week's seconds fits u64.
    let span = Duration::from_secs(u64::from(count) * unit);
    if span > MAX_SPAN { fault(at, Fault::LongSpan) } else { Ok(span) }
}

/// Writes a span of time as [`parse_span`] reads it, in the largest unit that holds it whole.
/// Parts of a second are dropped.
#[must_use]
pub fn span_text(span: Duration) -> String {
    let seconds = span.as_secs();
    let per =
        [Per::Day, Per::Hour, Per::Minute].into_iter().find(|p| seconds > 0 && seconds.is_multiple_of(p.seconds()));
    let per = per.unwrap_or(Per::Second);
    format!("{}{}", seconds / per.seconds(), per.as_str())
}

const BLANKS: [char; 2] = [' ', '\t'];

fn fault<T>(at: usize, fault: Fault) -> Result<T, RateError> {
    Err(RateError { at, fault })
}

/// A cursor over the text; `at` is always a character boundary.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn is_done(&self) -> bool {
        self.rest().is_empty()
    }

    /// Skips blanks; returns where it stands then.
    fn skip_blanks(&mut self) -> usize {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(BLANKS).len();
        self.at
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.rest().as_bytes().first() == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn word(&mut self) -> &'a str {
        self.take_while(|c| c.is_ascii_alphabetic())
    }

    /// Digits, plain or grouped by commas.
    fn number(&mut self) -> Result<u32, RateError> {
        let at = self.skip_blanks();
        let digits = self.take_while(|c| c.is_ascii_digit() || c == ',');
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return fault(at, Fault::NoNumber);
        }
        let mut groups = digits.split(',');
        let first = groups.next().unwrap_or("");
        if digits.contains(',') && (first.len() > 3 || groups.any(|group| group.len() != 3)) {
            return fault(at, Fault::Grouping);
        }
        let mut value = 0u32;
        for digit in digits.bytes().filter(u8::is_ascii_digit) {
            // MAX_COUNT * 10 exceeds u32: check each step.
            value = match value.checked_mul(10).and_then(|v| v.checked_add(u32::from(digit - b'0'))) {
                Some(v) if v <= MAX_COUNT => v,
                _ => return fault(at, Fault::TooLarge),
            };
        }
        Ok(value)
    }

    fn unit(&mut self) -> Result<Per, RateError> {
        let at = self.skip_blanks();
        Per::from_word(self.word()).ok_or(RateError { at, fault: Fault::NoUnit })
    }

    fn end(&mut self, otherwise: Fault) -> Result<(), RateError> {
        let at = self.skip_blanks();
        if self.is_done() { Ok(()) } else { fault(at, otherwise) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(count: u32, per: Per, burst: u32) -> Rate {
        Rate { count, per, burst }
    }

    #[test]
    fn rates_are_read_as_operators_write_them() {
        for (text, expected) in [
            ("100/min burst 200", rate(100, Per::Minute, 200)),
            ("10/s", rate(10, Per::Second, 10)),
            ("1000/hour", rate(1000, Per::Hour, 1000)),
            ("5 / d", rate(5, Per::Day, 5)),
            (" 1,000/H  BURST 12,345,678 ", rate(1000, Per::Hour, 12_345_678)),
            ("7/Seconds burst 1", rate(7, Per::Second, 1)),
            ("7/m", rate(7, Per::Minute, 7)),
            ("7/hrs\t", rate(7, Per::Hour, 7)),
            ("1000000000/s", rate(MAX_COUNT, Per::Second, MAX_COUNT)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert_eq!(" Unlimited".parse(), Ok(Quota::Unlimited));
        assert_eq!("5/d".parse(), Ok(Quota::Limited(rate(5, Per::Day, 5))));
    }

    #[test]
    fn wrong_rates_name_the_byte() {
        for (text, at, fault) in [
            ("", 0, Fault::NoNumber),
            ("-5/min", 0, Fault::NoNumber),
            (",100/min", 0, Fault::NoNumber),
            ("0/min", 0, Fault::ZeroRate),
            (" 000/min", 1, Fault::ZeroRate),
            ("1.5/min", 1, Fault::NoSlash),
            ("100", 3, Fault::NoSlash),
            ("100 per min", 4, Fault::NoSlash),
            ("100/", 4, Fault::NoUnit),
            ("100/5min", 4, Fault::NoUnit),
            ("100/week", 4, Fault::NoUnit),
            ("100/\u{e9}", 4, Fault::NoUnit),
            ("1,00/min", 0, Fault::Grouping),
            ("1000,000/min", 0, Fault::Grouping),
            ("1,/min", 0, Fault::Grouping),
            ("1000000001/min", 0, Fault::TooLarge),
            ("99999999999999999999/min", 0, Fault::TooLarge),
            ("100/min bursts 3", 8, Fault::Trailing),
            ("100/min, burst 3", 7, Fault::Trailing),
            ("100/min burst", 13, Fault::NoNumber),
            ("100/min burst 0", 14, Fault::ZeroBurst),
            ("100/min burst 3 x", 16, Fault::Trailing),
            ("1/d burst 1000000", 10, Fault::SlowFill),
        ] {
            assert_eq!(text.parse::<Rate>(), Err(RateError { at, fault }), "{text}");
        }
    }

    #[test]
    fn rates_print_short() {
        assert_eq!("100/minute burst 200".parse::<Rate>().expect("rate").to_string(), "100/min burst 200");
        assert_eq!("1,000/hour burst 1000".parse::<Rate>().expect("rate").to_string(), "1000/h");
        assert_eq!(Quota::Unlimited.to_string(), "unlimited");
    }

    #[test]
    fn a_share_is_no_more_than_its_part_and_lets_a_message_pass() {
        let share = |text: &str, relays, n| text.parse::<Rate>().expect(text).share(relays, n);
        assert_eq!(share("100/min burst 30", 3, 1), rate(2_000, Per::Hour, 10));
        assert_eq!(share("10/s", 3, 1), rate(12_000, Per::Hour, 3));
        assert_eq!(share("100/min", 3, 50), rate(2_000, Per::Hour, 50));
        assert_eq!(share("100/min", 3, 500), rate(2_000, Per::Hour, 100));
        assert_eq!(share("2/d", 3, 1), rate(1, Per::Day, 1));
        assert_eq!(share("1000000000/s", 2, 1), rate(500_000_000, Per::Second, 500_000_000));
        for whole in ["7/min", "1000/h burst 5000", "90/d"] {
            assert_eq!(share(whole, 1, 1).replenish(), whole.parse::<Rate>().expect(whole).replenish());
        }
    }

    #[test]
    fn a_cell_comes_back_no_sooner_than_written() {
        assert_eq!(rate(3, Per::Second, 3).replenish(), Duration::from_nanos(333_333_334));
        assert_eq!(rate(MAX_COUNT, Per::Second, 1).replenish(), Duration::from_nanos(1));
    }

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds) in [
            ("14d", 14 * DAY),
            ("12h", 43_200),
            ("30min", 1800),
            ("90 s", 90),
            ("2w", 14 * DAY),
            ("1 Week", 7 * DAY),
            ("3660d", 3660 * DAY),
        ] {
            let span = parse_span(text).expect(text);
            assert_eq!(span, Duration::from_secs(seconds), "{text}");
            assert_eq!(parse_span(&span_text(span)), Ok(span));
        }
        assert_eq!(span_text(Duration::from_secs(1209600)), "14d");
        for (text, at, fault) in [
            ("14", 2, Fault::NoUnit),
            ("d", 0, Fault::NoNumber),
            ("0d", 0, Fault::ZeroSpan),
            ("3661d", 0, Fault::LongSpan),
            ("1h30min", 2, Fault::TrailingSpan),
        ] {
            assert_eq!(parse_span(text), Err(RateError { at, fault }), "{text}");
        }
    }

    fn any_per() -> impl Strategy<Value = Per> {
        prop_oneof![Just(Per::Second), Just(Per::Minute), Just(Per::Hour), Just(Per::Day)]
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same(count in 1..=MAX_COUNT, per in any_per(), burst in 1u32..30_000) {
            let rate = rate(count, per, burst);
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        }

        #[test]
        fn no_text_panics_and_faults_lie_inside(text in "[0-9,]{0,11}[ /\\t]{0,2}\\PC{0,12}") {
            for at in [text.parse::<Rate>().err(), text.parse::<Quota>().err(), parse_span(&text).err()].into_iter().flatten() {
                prop_assert!(at.at <= text.len() && text.is_char_boundary(at.at));
            }
        }
    }
}

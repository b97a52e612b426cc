//! The times at the head of log lines: RFC 3339, as rsyslog and our own file write them, and the older form of RFC 3164
//! and postlogd(8), which has neither year nor zone.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// When a line was written, as far as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// A point in time.
    Exact(Timestamp),
    /// Local time of an unnamed year.
    Yearless(Yearless),
}

/// `Nov 23 05:28:57`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Yearless {
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// The longest RFC 3339 time that is read, with nanoseconds and offset.
const MAX_STAMP_BYTES: usize = 40;

/// `Nov 23 05:28:57`
const YEARLESS_BYTES: usize = 15;

/// How far a line may lie in the future of its file's last change: the zone of who wrote the log may be another.
const SLACK: SignedDuration = SignedDuration::from_hours(24);

/// February 29 comes again within eight years.
const YEARS: i16 = 8;

impl Stamp {
    /// Reads the time at the head of a line; what follows the blank behind it.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<(Self, &[u8])> {
        if line.first()?.is_ascii_digit() { exact(line) } else { yearless(line) }
    }

    /// The point in time, where the line was written before `latest` by a clock in `zone`: of the years that the stamp
    /// could mean, the last.
    #[must_use]
    pub fn resolve(&self, latest: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let stamp = match self {
            Self::Exact(at) => return Some(*at),
            Self::Yearless(stamp) => stamp,
        };
        let bound = latest.checked_add(SLACK).unwrap_or(latest);
        let last = bound.to_zoned(zone.clone()).year();
        (0..=YEARS).filter_map(|back| stamp.in_year(last - back, zone)).find(|at| *at <= bound)
    }
}

impl Yearless {
    fn in_year(self, year: i16, zone: &TimeZone) -> Option<Timestamp> {
        let civil = DateTime::new(year, self.month, self.day, self.hour, self.minute, self.second, 0).ok()?;
        Some(zone.to_ambiguous_zoned(civil).compatible().ok()?.timestamp())
    }
}

fn exact(line: &[u8]) -> Option<(Stamp, &[u8])> {
    let end = memchr::memchr(b' ', &line[..line.len().min(MAX_STAMP_BYTES)])?;
    let at = std::str::from_utf8(&line[..end]).ok()?.parse().ok()?;
    Some((Stamp::Exact(at), &line[end + 1..]))
}

fn yearless(line: &[u8]) -> Option<(Stamp, &[u8])> {
    let (stamp, rest) = line.split_at_checked(YEARLESS_BYTES)?;
    let month = MONTHS.iter().position(|name| stamp.starts_with(*name))?;
    let [b' ', day @ .., b' '] = &stamp[3..7] else { return None };
    let [hour @ .., b':', _, _, b':', _, _] = &stamp[7..] else { return None };
    let stamp = Yearless {
        month: i8::try_from(month).ok()? + 1,
        day: number(day)?,
        hour: number(hour)?,
        minute: number(&stamp[10..12])?,
        second: number(&stamp[13..])?,
    };
    // A leap second is the second before it.
    let stamp = Yearless { second: stamp.second.min(59), ..stamp };
    Some((Stamp::Yearless(stamp), rest.strip_prefix(b" ")?))
}

/// Two digits, the first of which may be a blank.
fn number(text: &[u8]) -> Option<i8> {
    let [tens @ (b' ' | b'0'..=b'9'), ones @ b'0'..=b'9'] = text else { return None };
    let tens = if *tens == b' ' { 0 } else { tens - b'0' };
    i8::try_from(tens * 10 + (ones - b'0')).ok()
}

//! Times as SES and what stands between write them.

use super::json::Json;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Amazon SES opened in January 2011: an earlier time is a mistake, and as good as none.
const EARLIEST: i64 = 1_293_840_000;

/// No form that is read here is longer, with nanoseconds and all.
const MAX_STAMP_BYTES: usize = 64;

/// A number over this is of milliseconds: as seconds it is the year 5138, as milliseconds 1973.
const MOST_SECONDS: f64 = 1e11;

/// The time in a value: `2026-11-19T10:00:05.123Z`, as live events have it; `2018-10-08T14:05:45 +0000`, as
/// the documentation has it once; a number of seconds or milliseconds. Without an offset it is UTC.
pub(super) fn read(value: &Json<'_>) -> Option<Timestamp> {
    let time = match value {
        Json::Text(text) => from_text(text.trim()).or_else(|| from_number(value.as_number()?)),
        _ => from_number(value.as_number()?),
    };
    time.filter(|t| t.as_second() >= EARLIEST)
}

fn from_text(text: &str) -> Option<Timestamp> {
    if text.len() > MAX_STAMP_BYTES {
        return None;
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    if let Some((time, offset)) = text.rsplit_once(' ')
        && let Ok(time) = format!("{}{}", time.trim_end(), if offset == "UTC" { "Z" } else { offset }).parse()
    {
        return Some(time);
    }
    if let Ok(time) = text.parse::<DateTime>() {
        return time.to_zoned(TimeZone::UTC).ok().map(|t| t.timestamp());
    }
    jiff::fmt::rfc2822::parse(text).ok().map(|t| t.timestamp())
}

fn from_number(n: f64) -> Option<Timestamp> {
    let milliseconds = if n.abs() > MOST_SECONDS { n } else { n * 1_000.0 };
    Timestamp::from_millisecond(milliseconds as i64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_in_every_form() {
        for (text, time) in [
            ("2018-10-08T14:05:45.000Z", "2018-10-08T14:05:45Z"),
            ("2018-10-08T14:05:45.123Z", "2018-10-08T14:05:45.123Z"),
            ("2018-10-08T14:05:45 +0000", "2018-10-08T14:05:45Z"),
            ("2018-10-08T14:05:45 +0200", "2018-10-08T12:05:45Z"),
            ("2018-10-08T14:05:45+02:00", "2018-10-08T12:05:45Z"),
            ("2018-10-08 14:05:45 UTC", "2018-10-08T14:05:45Z"),
            ("2018-10-08 14:05:45", "2018-10-08T14:05:45Z"),
            (" 2018-10-08T14:05:45 ", "2018-10-08T14:05:45Z"),
            ("Mon, 8 Oct 2018 14:05:45 +0000", "2018-10-08T14:05:45Z"),
            ("1539007545", "2018-10-08T14:05:45Z"),
            ("1539007545123", "2018-10-08T14:05:45.123Z"),
        ] {
            assert_eq!(read(&Json::Text(text.into())).map(|t| t.to_string()).as_deref(), Some(time), "{text}");
        }
        assert_eq!(read(&Json::Whole(1_539_007_545)).map(|t| t.as_second()), Some(1_539_007_545));
        assert_eq!(read(&Json::Float(1_539_007_545.25)).map(|t| t.as_millisecond()), Some(1_539_007_545_250));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "yesterday", "2018-13-08T14:05:45Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1e300"] {
            assert_eq!(read(&Json::Text(text.into())), None, "{text}");
        }
        for value in [Json::Null, Json::Bool(true), Json::Whole(-1), Json::Whole(i64::MAX), Json::List(Vec::new())] {
            assert_eq!(read(&value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(text in any::<String>(), n in any::<f64>()) {
            let _ = read(&Json::Text(text.into()));
            let _ = read(&Json::Float(n));
        }
    }
}

//! Times and lengths of time as operators write them.

use crate::rules::rate::parse_span;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// Reads a length of time as policy.toml has them, such as `14d`, `36h`, `90m`, `45s` or `2w`; in seconds, more than
/// zero.
///
/// # Errors
/// What was expected.
pub fn seconds(text: &str) -> Result<i64, String> {
    let span = parse_span(text).map_err(|e| format!("{text:?}: {e}"))?;
    i64::try_from(span.as_secs()).map_err(|e| e.to_string())
}

/// Reads a point in time: RFC 3339, a date (its first second, UTC), or a length of time before
/// `now`, such as `7d`. In Unix seconds.
///
/// # Errors
/// What was expected.
pub fn point(text: &str, now: i64) -> Result<i64, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_second());
    }
    if let Some(time) = text.parse::<Date>().ok().and_then(|d| d.to_zoned(TimeZone::UTC).ok()) {
        return Ok(time.timestamp().as_second());
    }
    seconds(text).map(|s| now.saturating_sub(s)).map_err(|_| {
        format!("{text:?} is no time: expected 2026-01-31T12:00:00Z, 2026-01-31, or a length of time ago such as 7d")
    })
}

/// Unix seconds in RFC 3339, UTC.
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| format!("@{seconds}"), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        for (text, s) in
            [("14d", 1_209_600), ("36h", 129_600), ("1m", 60), ("45s", 45), ("2w", 1_209_600), ("14 days", 1_209_600)]
        {
            assert_eq!(seconds(text), Ok(s));
        }
        for wrong in ["", "d", "14", "0d", "-1d", "+1d", "1.5d", "1y", "d14", "99999999999999999999d", "90000d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn points_in_time_are_read_and_written() {
        assert_eq!(point("2026-01-31T12:00:00+02:00", 0), Ok(1_769_853_600));
        assert_eq!(point("2026-01-31", 0), Ok(1_769_817_600));
        assert_eq!(point("7d", 1_000_000), Ok(395_200));
        assert!(point("yesterday", 0).is_err_and(|e| e.starts_with("\"yesterday\" is no time")));
        assert_eq!(rfc3339(1_769_817_600), "2026-01-31T00:00:00Z");
    }
}

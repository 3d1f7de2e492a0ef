//! Times as text. One form for all that a stage writes itself: `2025-07-12 02:32:59.555`, UTC, to the millisecond.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The text form of `at`.
pub fn milliseconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string()
}

/// The text form of a moment in milliseconds since 1970; empty where it lies beyond all calendars.
pub fn at_millisecond(at: i64) -> String {
    Timestamp::from_millisecond(at).map(milliseconds).unwrap_or_default()
}

/// Reads the text form; `None` for any other text.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// Reads a moment as people write it: `2025-07-11T17:35:55+08:00`, or the text form, which is UTC.
pub fn moment(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().or_else(|| parse(text))
}

/// Now, for the shell around the pure code.
pub fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_always() {
        let at = Timestamp::from_microsecond(1_752_226_555_100_999).unwrap();
        assert_eq!(milliseconds(at), "2025-07-11 09:35:55.100");
        assert_eq!(parse("2025-07-11 09:35:55.100"), Timestamp::from_microsecond(1_752_226_555_100_000).ok());
        assert_eq!(at_millisecond(1_752_226_555_100), "2025-07-11 09:35:55.100");
        assert_eq!(parse("now"), None);
        assert_eq!(moment("2025-07-11T17:35:55.1+08:00"), parse("2025-07-11 09:35:55.100"));
        assert_eq!(moment("2025-07-11 09:35"), parse("2025-07-11 09:35:00"));
        assert_eq!(moment("yesterday"), None);
    }
}

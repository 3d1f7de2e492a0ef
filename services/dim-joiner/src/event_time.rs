//! Times in rows, as PostgreSQL writes them: made into one number, so that facts and dimensions can be compared.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// Microseconds since 1970; `infinity` and `-infinity` are the ends of the scale. `None` for text that is no time, and for times before
/// the year 1 or after 9999.
pub fn microseconds(text: &str, zone: &TimeZone) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    if text.ends_with('Z') {
        return text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
    }
    let local = match text.len() {
        10 => text.parse::<Date>().ok()?.to_datetime(jiff::civil::Time::midnight()),
        _ => text.parse::<DateTime>().ok()?,
    };
    // A time that the clocks skipped or showed twice is taken as RFC 5545 does: an hour later, and the first of the two.
    zone.to_ambiguous_timestamp(local).compatible().ok().map(Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_forms_stand_on_one_scale() {
        let shanghai = TimeZone::get("Asia/Shanghai").unwrap();
        let at = |text: &str, zone: &TimeZone| microseconds(text, zone);
        assert_eq!(at("2025-07-11 12:00:00.000", &shanghai), Some(1_752_206_400_000_000));
        for text in ["2025-07-11 04:00:00.000Z", "2025-07-11 04:00:00Z"] {
            assert_eq!(at(text, &shanghai), at("2025-07-11 12:00:00", &shanghai), "{text}");
        }
        assert_eq!(at("2025-07-11", &TimeZone::UTC), at("2025-07-11 00:00:00", &TimeZone::UTC));
        assert_eq!((at("infinity", &shanghai), at("-infinity", &shanghai)), (Some(i64::MAX), Some(i64::MIN)));
        for text in ["", "x", "2025-13-01 00:00:00", "0044-03-15 00:00:00 BC"] {
            assert_eq!(at(text, &shanghai), None, "{text}");
        }
    }
}

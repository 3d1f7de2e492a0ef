//! Dates and times as PostgreSQL writes them: taken apart as text, compared, and moved into another time zone.

use jiff::civil;
use jiff::tz::TimeZone;

/// `2025-07-11 17:25:55.145`, `2025-07-11 09:25:55.145Z`, `2025-07-11`; behind it ` BC` for the years before 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment<'a> {
    /// The date as it is written, without the era.
    date: &'a str,
    is_before_christ: bool,
    has_time: bool,
    /// It ends in `Z`: UTC.
    pub has_zone: bool,
    year: i32,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
    nanosecond: i32,
}

/// Where a moment stands among others of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(i32, i8, i8, i8, i8, i8, i32);

impl Place {
    /// The place of a moment or of PostgreSQL's `infinity`, and whether it is of a time with a zone, where that can be seen.
    pub fn parse(text: &str) -> Option<(Self, Option<bool>)> {
        match text {
            "infinity" => Some((Place(i32::MAX, 0, 0, 0, 0, 0, 0), None)),
            "-infinity" => Some((Place(i32::MIN, 0, 0, 0, 0, 0, 0), None)),
            _ => Moment::parse(text).map(|moment| (moment.place(), Some(moment.has_zone))),
        }
    }
}

/// The two digits of a number that is not above `most`.
fn two_digits(text: &[u8], at: usize, most: i8) -> Option<i8> {
    let digit = |at: usize| text.get(at)?.checked_sub(b'0').filter(|digit| *digit < 10);
    let number = i8::try_from(digit(at)? * 10 + digit(at + 1)?).ok()?;
    (number <= most).then_some(number)
}

impl<'a> Moment<'a> {
    /// `None` for `infinity` and for whatever is no date.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (text, is_before_christ) = match text.strip_suffix(" BC") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let bytes = text.as_bytes();
        let year_len = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (month, day) = (two_digits(bytes, year_len + 1, 12)?, two_digits(bytes, year_len + 4, 31)?);
        if year_len < 4 || [year_len, year_len + 3].iter().any(|at| bytes.get(*at) != Some(&b'-')) {
            return None;
        }
        let date = text.get(..year_len + 6)?;
        let time = match bytes.get(date.len()) {
            Some(b' ' | b'T') => Some(text.get(date.len() + 1..)?),
            Some(_) => return None,
            None => None,
        };
        let (time, has_zone) = match time.map(|time| (time, time.strip_suffix('Z'))) {
            Some((_, Some(time))) => (Some(time), true),
            Some((time, None)) => (Some(time), false),
            None => (None, false),
        };
        let (hour, minute, second, nanosecond) = match time {
            Some(time) => clock(time)?,
            None => (0, 0, 0, 0),
        };
        let year = text.get(..year_len)?.parse().ok()?;
        let has_time = time.is_some();
        let moment =
            Moment { date, is_before_christ, has_time, has_zone, year, month, day, hour, minute, second, nanosecond };
        Some(moment)
    }

    /// The date as it is written, to be put behind each other: `0044-03-15`, ` BC`.
    pub fn date(&self) -> (&'a str, &'static str) {
        (self.date, if self.is_before_christ { " BC" } else { "" })
    }

    /// `None` for a date without a time.
    pub fn hour(&self) -> Option<i8> {
        self.has_time.then_some(self.hour)
    }

    pub fn place(&self) -> Place {
        let year = if self.is_before_christ { -self.year } else { self.year };
        Place(year, self.month, self.day, self.hour, self.minute, self.second, self.nanosecond)
    }

    /// The same moment on the clocks of `zones`; `None` where it cannot be told: no zone is known for it, or it is outside of the years
    /// 1 to 9999. A time that the clocks skipped or showed twice is taken as RFC 5545 does: an hour later, and the first of the two.
    pub fn in_zone(&self, zones: &Zones) -> Option<civil::DateTime> {
        let from = if self.has_zone { TimeZone::UTC } else { zones.assumed.clone()? };
        if self.is_before_christ || !self.has_time {
            return None;
        }
        let year = i16::try_from(self.year).ok()?;
        let (month, day) = (self.month, self.day);
        let here = civil::DateTime::new(year, month, day, self.hour, self.minute, self.second, self.nanosecond).ok()?;
        let at = from.to_ambiguous_timestamp(here).compatible().ok()?;
        Some(zones.target.to_datetime(at))
    }
}

/// Hours, minutes, seconds, nanoseconds.
fn clock(time: &str) -> Option<(i8, i8, i8, i32)> {
    let bytes = time.as_bytes();
    let (hour, minute) = (two_digits(bytes, 0, 23)?, two_digits(bytes, 3, 59)?);
    let second = match (bytes.get(2), bytes.get(5)) {
        (Some(b':'), None) => return Some((hour, minute, 0, 0)),
        (Some(b':'), Some(b':')) => two_digits(bytes, 6, 59)?,
        _ => return None,
    };
    let nanosecond = match bytes.get(8..)? {
        [] => 0,
        [b'.', digits @ ..] if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => {
            let scale = 9 - u32::try_from(digits.len()).ok()?;
            time.get(9..)?.parse::<i32>().ok()? * 10_i32.pow(scale)
        }
        _ => return None,
    };
    Some((hour, minute, second, nanosecond))
}

/// From which clocks to which.
#[derive(Debug, Clone)]
pub struct Zones {
    /// Of a time that is written without a zone.
    pub assumed: Option<TimeZone>,
    pub target: TimeZone,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moment(text: &str) -> Moment<'_> {
        Moment::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    fn shanghai(assumed: Option<&str>) -> Zones {
        let zone = |name: &str| TimeZone::get(name).unwrap();
        Zones { assumed: assumed.map(zone), target: zone("Asia/Shanghai") }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "infinity",
            "-infinity",
            "2025-07",
            "2025-13-01",
            "2025-7-1",
            "25-07-01",
            "2025-07-11 24:00:00",
            "2025-07-11 1:02:03",
            "2025-07-11 01:02:03.",
            "2025-07-11 01:02:03+08",
            "x-y-z 01:02:03",
        ] {
            assert!(Moment::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn moments_compare_by_time() {
        let ascending = [
            "0044-03-15 00:00:00.000 BC",
            "2025-07-11",
            "2025-07-11 17:25:55.145",
            "2025-07-11 17:25:55.1451",
            "10000-01-01 00:00:00.000",
        ];
        assert!(ascending.is_sorted_by(|a, b| moment(a).place() < moment(b).place()));
    }

    #[test]
    fn a_time_moves_to_the_clocks_of_another_zone() {
        let there = |text: &str, zones: &Zones| moment(text).in_zone(zones).map(|at| at.to_string());
        assert_eq!(there("2025-07-11 17:25:55.145Z", &shanghai(None)).unwrap(), "2025-07-12T01:25:55.145");
        assert_eq!(there("2025-07-11 17:25:55.145", &shanghai(None)), None, "no zone is known for it");
        assert_eq!(there("2025-07-11 17:25:55.145", &shanghai(Some("UTC"))).unwrap(), "2025-07-12T01:25:55.145");
        assert_eq!(
            there("2025-07-11 17:25:55.145", &shanghai(Some("Asia/Shanghai"))).unwrap(),
            "2025-07-11T17:25:55.145"
        );
        assert_eq!(there("10000-01-01 00:00:00.000Z", &shanghai(None)), None);
        assert_eq!(there("2025-02-30 00:00:00.000Z", &shanghai(None)), None);
        // The clocks of New York went from 2 to 3.
        let zones = Zones { assumed: Some(TimeZone::get("America/New_York").unwrap()), target: TimeZone::UTC };
        assert_eq!(there("2025-03-09 02:30:00.000", &zones).unwrap(), "2025-03-09T07:30:00");
        // They went back from 2 to 1: the first of the two is meant, still in summer time.
        assert_eq!(there("2025-11-02 01:30:00.000", &zones).unwrap(), "2025-11-02T05:30:00");
        assert_eq!(there("2025-11-02 02:00:00.000", &zones).unwrap(), "2025-11-02T07:00:00");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_but_never_panics(text in "\\PC*") {
            let _ = Moment::parse(&text).map(|found| found.in_zone(&shanghai(Some("UTC"))));
        }
    }
}

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

fn digit(letter: u8) -> Option<u8> {
    letter.checked_sub(b'0').filter(|digit| *digit < 10)
}

/// Two digits as a number that is not above `most`.
fn two_digits(letters: [u8; 2], most: i8) -> Option<i8> {
    let [tens, ones] = letters;
    let number = i8::try_from(digit(tens)? * 10 + digit(ones)?).ok()?;
    (number <= most).then_some(number)
}

/// The digits that a text begins with, four at least, as a number, and what stands behind them.
fn year(text: &[u8]) -> Option<(i32, &[u8])> {
    let (mut number, mut rest) = (0_i32, text);
    while let [letter, behind @ ..] = rest
        && let Some(digit) = digit(*letter)
    {
        number = number.checked_mul(10)?.checked_add(digit.into())?;
        rest = behind;
    }
    (text.len() - rest.len() >= 4).then_some((number, rest))
}

impl<'a> Moment<'a> {
    /// `None` for `infinity` and for whatever is no date.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (text, is_before_christ) = match text.strip_suffix(" BC") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (year, behind) = year(text.as_bytes())?;
        let [b'-', month_tens, month_ones, b'-', day_tens, day_ones, behind @ ..] = behind else { return None };
        let month = two_digits([*month_tens, *month_ones], 12)?;
        let day = two_digits([*day_tens, *day_ones], 31)?;
        let date = text.get(..text.len() - behind.len())?;
        let (time, has_zone) = match behind {
            [] => (None, false),
            [b' ' | b'T', time @ .., b'Z'] => (Some(time), true),
            [b' ' | b'T', time @ ..] => (Some(time), false),
            _ => return None,
        };
        let (hour, minute, second, nanosecond) = match time {
            Some(time) => clock(time)?,
            None => (0, 0, 0, 0),
        };
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
fn clock(time: &[u8]) -> Option<(i8, i8, i8, i32)> {
    let [hour_tens, hour_ones, b':', minute_tens, minute_ones, behind @ ..] = time else { return None };
    let hour = two_digits([*hour_tens, *hour_ones], 23)?;
    let minute = two_digits([*minute_tens, *minute_ones], 59)?;
    let (second, fraction) = match behind {
        [] => (0, behind),
        [b':', tens, ones, fraction @ ..] => (two_digits([*tens, *ones], 59)?, fraction),
        _ => return None,
    };
    let nanosecond = match fraction {
        [] => 0,
        [b'.', digits @ ..] if !digits.is_empty() => nanoseconds(digits)?,
        _ => return None,
    };
    Some((hour, minute, second, nanosecond))
}

/// One to nine digits behind a point.
fn nanoseconds(digits: &[u8]) -> Option<i32> {
    let (mut number, mut unit) = (0, 100_000_000);
    for letter in digits {
        if unit == 0 {
            return None;
        }
        number += i32::from(digit(*letter)?) * unit;
        unit /= 10;
    }
    Some(number)
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
            "2025-07-11 01:02:03.0123456789",
            "2025-07-11 01:02:03.01x",
            "2025-07-11 01:02:0",
            "2025-07-11 01:60",
            "2025-07-32",
            "2025-07-11x",
            "99999999999-07-11",
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
        fn a_moment_is_what_was_written(
            (year, month, day) in (0..20_000_i32, 0..=12_i8, 0..=31_i8),
            time in prop::option::of((0..24_i8, 0..60_i8, prop::option::of((0..60_i8, "(\\.[0-9]{1,9})?")))),
            (zone, era) in ("Z?", "( BC)?"),
        ) {
            let date = format!("{year:04}-{month:02}-{day:02}");
            let clock = time.as_ref().map(|(hour, minute, second)| {
                let second = second.as_ref().map(|(second, fraction)| format!(":{second:02}{fraction}"));
                format!(" {hour:02}:{minute:02}{}{zone}", second.unwrap_or_default())
            });
            let text = format!("{date}{}{era}", clock.as_deref().unwrap_or_default());
            let found = moment(&text);
            let (hour, minute, second) = time.clone().unwrap_or_default();
            let (second, fraction) = second.unwrap_or_default();
            let nanosecond = format!("{:0<9}", fraction.trim_start_matches('.')).parse().unwrap();
            let signed = if era.is_empty() { year } else { -year };
            prop_assert_eq!(found.place(), Place(signed, month, day, hour, minute, second, nanosecond));
            prop_assert_eq!(found.date(), (date.as_str(), era.as_str()));
            prop_assert_eq!((found.hour(), found.has_zone), (time.map(|_| hour), clock.is_some_and(|clock| clock.ends_with('Z'))));
        }

        #[test]
        fn any_text_is_refused_or_read_but_never_panics(text in "\\PC*") {
            let _ = Moment::parse(&text).map(|found| found.in_zone(&shanghai(Some("UTC"))));
        }
    }
}

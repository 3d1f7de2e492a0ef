//! Exact decimals: the digits of a number's text as a whole number and a scale. No float is on the way.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `-12.50` is -1250 with scale 2. It holds 38 digits, the most that a `numeric` column of a warehouse usually has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Decimal {
    digits: i128,
    scale: u32,
}

/// Digits behind the point, and zeros that an exponent may ask for.
const SCALE_MAX: i64 = 400;

impl Decimal {
    /// Reads `5999`, `5999.00`, `-0.5`, `1.5e+20`. `None` for anything else, and for more digits than it holds.
    pub fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
            None => (text, 0),
        };
        let (negative, plain) = match mantissa.strip_prefix('-') {
            Some(plain) => (true, plain),
            None => (false, mantissa),
        };
        let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
        if whole.is_empty() || (fraction.is_empty() && plain.contains('.')) {
            return None;
        }
        let mut digits: i128 = 0;
        for byte in whole.bytes().chain(fraction.bytes()) {
            let digit = byte.is_ascii_digit().then(|| i128::from(byte - b'0'))?;
            digits = digits.checked_mul(10)?.checked_add(digit)?;
        }
        let digits = if negative { -digits } else { digits };
        let scale = i64::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
        if scale.abs() > SCALE_MAX {
            return None;
        }
        match u32::try_from(scale) {
            Ok(scale) => Some(Decimal { digits, scale }),
            Err(_) => Decimal { digits, scale: 0 }.shifted(u32::try_from(-scale).ok()?),
        }
    }

    /// Times ten to the power of `places`.
    fn shifted(self, places: u32) -> Option<Self> {
        if self.digits == 0 {
            return Some(self);
        }
        Some(Decimal { digits: self.digits.checked_mul(10_i128.checked_pow(places)?)?, scale: self.scale })
    }

    /// The same number with as few digits behind the point as it needs.
    fn short(mut self) -> Self {
        while self.scale > 0 && self.digits % 10 == 0 {
            self.digits /= 10;
            self.scale -= 1;
        }
        self
    }

    /// The same number with at least this many digits behind the point.
    fn at_scale(self, scale: u32) -> Option<Self> {
        let places = scale.checked_sub(self.scale)?;
        let digits = if self.digits == 0 { 0 } else { self.digits.checked_mul(10_i128.checked_pow(places)?)? };
        Some(Decimal { digits, scale })
    }

    /// The exact product; `None` where it has more digits than are held.
    pub fn times(self, other: Self) -> Option<Self> {
        let (a, b) = (self.short(), other.short());
        let product = Decimal { digits: a.digits.checked_mul(b.digits)?, scale: a.scale + b.scale };
        // As many digits behind the point as numeric gives it, where they fit.
        Some(product.at_scale(self.scale + other.scale).unwrap_or(product))
    }

    /// The exact sum; `None` where it has more digits than are held.
    pub fn plus(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let digits = self.at_scale(scale)?.digits.checked_add(other.at_scale(scale)?.digits)?;
        Some(Decimal { digits, scale })
    }

    pub fn minus(self, other: Self) -> Option<Self> {
        self.plus(Decimal { digits: other.digits.checked_neg()?, scale: other.scale })
    }

    pub fn magnitude(self) -> Self {
        Decimal { digits: self.digits.checked_abs().unwrap_or(i128::MAX), scale: self.scale }
    }

    /// At most `scale` digits behind the point, half away from zero, as PostgreSQL rounds numeric.
    pub fn rounded(self, scale: u32) -> Self {
        let Some(places) = self.scale.checked_sub(scale).filter(|places| *places > 0) else { return self };
        let Some(unit) = 10_i128.checked_pow(places) else { return Decimal { digits: 0, scale } };
        let (whole, rest) = (self.digits / unit, self.digits % unit);
        let up = if rest.unsigned_abs() * 2 >= unit.unsigned_abs() { self.digits.signum() } else { 0 };
        Decimal { digits: whole + up, scale }
    }

    /// Rounded to `scale` digits behind the point, or filled up to them.
    pub fn with_scale(self, scale: u32) -> Self {
        let rounded = self.rounded(scale);
        rounded.at_scale(scale).unwrap_or(rounded)
    }

    pub fn scale(self) -> u32 {
        self.scale
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        match (self.at_scale(scale), other.at_scale(scale)) {
            (Some(a), Some(b)) => a.digits.cmp(&b.digits),
            // What does not fit when it is scaled up is larger than all that does.
            (None, _) => self.digits.cmp(&0),
            (_, None) => 0.cmp(&other.digits),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.digits < 0 { "-" } else { "" };
        let digits = self.digits.unsigned_abs().to_string();
        let scale = self.scale as usize;
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let filled = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = filled.split_at(filled.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// In the settings a decimal stands in quotes, or is a whole number: TOML would make a float of the rest.
impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(value)? {
            serde_json::Value::String(text) => Decimal::parse(&text),
            serde_json::Value::Number(number) if !number.is_f64() => Decimal::parse(&number.to_string()),
            serde_json::Value::Number(_) => {
                return Err(de::Error::custom("a number with a point stands in quotes: \"99.99\""));
            }
            _ => None,
        }
        .ok_or_else(|| de::Error::custom("not a decimal number of up to 38 digits: \"99.99\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn text_is_read_exactly_and_comes_back() {
        for text in ["0", "5999.00", "-12.50", "0.001", "-0.5", "99999999999999999999999999999999999999"] {
            assert_eq!(decimal(text).to_string(), text);
        }
        assert_eq!(decimal("1.5e+3").to_string(), "1500");
        assert_eq!(decimal("15e-3").to_string(), "0.015");
        for text in ["", "-", ".", "1.", ".5", "1.2.3", "NaN", "Infinity", "1e", "+1", "0x1", "1e999", "1 000"] {
            assert!(Decimal::parse(text).is_none(), "{text}");
        }
        assert!(Decimal::parse(&"9".repeat(40)).is_none());
    }

    #[test]
    fn numbers_compare_whatever_their_scale() {
        assert_eq!(decimal("1.0"), decimal("1"));
        assert!(decimal("0.1") < decimal("0.11") && decimal("-1") < decimal("-0.99"));
        let (huge, fine) = ("9".repeat(38), format!("0.{}", "1".repeat(37)));
        assert!(decimal(&huge) > decimal(&fine) && decimal(&fine) < decimal(&huge));
        assert!(decimal(&format!("-{huge}")) < decimal(&fine));
    }

    #[test]
    fn products_are_those_of_numeric() {
        assert_eq!(decimal("3").times(decimal("0.10")).unwrap().to_string(), "0.30");
        assert_eq!(decimal("2").times(decimal("499.50")).unwrap(), decimal("999"));
        assert!(decimal(&"9".repeat(30)).times(decimal(&"9".repeat(30))).is_none());
    }

    #[test]
    fn halves_go_away_from_zero() {
        for (text, scale, rounded) in
            [("2.345", 2, "2.35"), ("-2.345", 2, "-2.35"), ("2.344", 2, "2.34"), ("0.5", 0, "1"), ("7", 2, "7.00")]
        {
            assert_eq!(decimal(text).with_scale(scale).to_string(), rounded, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arithmetic_is_that_of_whole_numbers(a in -1_000_000i64..1_000_000, b in -1_000_000i64..1_000_000) {
            let hundredths = |n: i64| Decimal { digits: i128::from(n), scale: 2 };
            let thousandths = |n: i64| Decimal { digits: i128::from(n), scale: 3 };
            prop_assert_eq!(hundredths(a).plus(hundredths(b)).unwrap(), hundredths(a + b));
            prop_assert_eq!(hundredths(a).minus(hundredths(b)).unwrap(), hundredths(a - b));
            let product = Decimal { digits: i128::from(a) * i128::from(b), scale: 5 };
            prop_assert_eq!(hundredths(a).times(thousandths(b)).unwrap(), product);
            prop_assert_eq!(hundredths(a).cmp(&thousandths(b)), (a * 10).cmp(&b));
            prop_assert_eq!(decimal(&hundredths(a).to_string()), hundredths(a));
        }
    }
}

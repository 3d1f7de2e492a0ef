//! Numbers and times as people read them. Amounts stay text: no digit of them is lost.

/// Commas between the thousands: `1234567.80` becomes `1,234,567.80`. What is no number stays.
pub fn grouped(text: &str) -> String {
    let (sign, rest) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = rest.find('.').map_or((rest, ""), |dot| rest.split_at(dot));
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.to_owned();
    }
    let mut out = sign.to_owned();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + fraction
}

/// A number of seconds as a time that can be grasped.
pub fn lasting(seconds: &str) -> String {
    let Ok(seconds) = seconds.parse::<f64>() else { return seconds.to_owned() };
    match seconds.abs() {
        ..1.0 => format!("{:.0} ms", seconds * 1_000.0),
        ..120.0 => format!("{seconds:.1} s"),
        ..7_200.0 => format!("{:.1} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

/// A number in few signs, for an axis.
pub fn short(number: f64) -> String {
    let (divided, unit) = match number.abs() {
        1e9.. => (number / 1e9, "G"),
        1e6.. => (number / 1e6, "M"),
        1e3.. => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let text = format!("{divided:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_commas_and_no_digit_is_lost() {
        let texts = ["0", "999", "1000", "-1234567.80", "123456789012345678901.01", "NaN", "", "2025-07-11"];
        let wanted = ["0", "999", "1,000", "-1,234,567.80", "123,456,789,012,345,678,901.01", "NaN", "", "2025-07-11"];
        assert_eq!(texts.map(grouped), wanted);
    }

    #[test]
    fn times_and_axes_are_short() {
        assert_eq!(
            ["0.0042", "59.94", "600", "7200", "172800", "x"].map(lasting),
            ["4 ms", "59.9 s", "10.0 min", "2.0 h", "2.0 days", "x"]
        );
        assert_eq!([0.0, 12.5, 1_000.0, 1_500_000.0, 2e9].map(short), ["0", "12.5", "1k", "1.5M", "2G"]);
    }
}

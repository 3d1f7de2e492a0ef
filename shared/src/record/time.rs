//! Times as text. One form for all that a stage writes itself: `2025-07-12 02:32:59.555`, UTC, to the millisecond.

use jiff::Timestamp;

/// The text form of `at`.
pub fn milliseconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string()
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
    }
}

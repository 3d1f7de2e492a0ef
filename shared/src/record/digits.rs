//! Numbers as text, of which every record's header has a dozen. All digits of a number are made at once, in one word, and those that are not
//! wanted are cut off: a loop over them, or a copy of a text that was just written byte by byte, takes several times as long.

/// A one in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

/// How far `A` stands behind what would come after `9`.
const LETTERS: u64 = (b'A' - b'9' - 1) as u64;

const EIGHT_DIGITS: u64 = 100_000_000;

/// Appends a number in hexadecimal, without zeros in front.
pub(crate) fn push_hexadecimal(number: u64, out: &mut Vec<u8>) {
    let [upper, lower] = [number >> 32, number & 0xFFFF_FFFF].map(hexadecimal);
    match number >> 32 {
        0 => push_without_zeros(lower, out),
        _ => {
            push_without_zeros(upper, out);
            out.extend_from_slice(&text(lower));
        }
    }
}

/// Appends a number in decimal, without zeros in front.
pub(crate) fn push_decimal(number: u64, out: &mut Vec<u8>) {
    match (number / EIGHT_DIGITS, decimal(number % EIGHT_DIGITS)) {
        (0, lower) => push_without_zeros(lower, out),
        (upper, lower) => {
            push_decimal(upper, out);
            out.extend_from_slice(&text(lower));
        }
    }
}

/// The eight digits of a number of 32 bits as numbers, one a byte, the first in the lowest.
fn hexadecimal(number: u64) -> u64 {
    let pairs = (number | (number << 16)) & 0x0000_FFFF_0000_FFFF;
    let halves = (pairs | (pairs << 8)) & 0x00FF_00FF_00FF_00FF;
    ((halves | (halves << 4)) & 0x0F0F_0F0F_0F0F_0F0F).swap_bytes()
}

/// The same in decimal, of a number below 10^8. Halves are divided side by side, by a factor and a shift that are exact for numbers so small.
fn decimal(number: u64) -> u64 {
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007F_0000_007F;
    let twos = hundreds | ((fours - 100 * hundreds) << 16);
    let tens = ((twos * 103) >> 10) & 0x000F_000F_000F_000F;
    tens | ((twos - 10 * tens) << 8)
}

/// Digits as letters.
fn text(digits: u64) -> [u8; 8] {
    let above_nine = ((digits + 6 * ONES) >> 4) & ONES;
    (digits + u64::from(b'0') * ONES + above_nine * LETTERS).to_le_bytes()
}

fn push_without_zeros(digits: u64, out: &mut Vec<u8>) {
    // Of eight zeros one is left.
    let zeros = digits.trailing_zeros().min(u64::BITS - 1) / u8::BITS;
    out.extend_from_slice(&text(digits >> (zeros * u8::BITS)));
    out.truncate(out.len() - zeros as usize);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both(number: u64) -> [String; 2] {
        [push_decimal, push_hexadecimal].map(|push| {
            let mut out = b"x".to_vec();
            push(number, &mut out);
            String::from_utf8(out).unwrap()
        })
    }

    proptest! {
        #[test]
        fn digits_are_those_of_the_formatter(number in any::<u64>(), shift in 0..64_u32) {
            let number = number >> shift;
            prop_assert_eq!(both(number), [format!("x{number}"), format!("x{number:X}")]);
        }
    }

    #[test]
    fn every_four_digits_come_out_in_each_place() {
        for small in 0..10_000 {
            for number in [small, small * 10_000, small + 10_000 * EIGHT_DIGITS, small * 10_000 * EIGHT_DIGITS] {
                assert_eq!(both(number), [format!("x{number}"), format!("x{number:X}")]);
            }
        }
        for number in (0..u64::BITS).flat_map(|bit| [(1 << bit) - 1, 1 << bit, u64::MAX >> bit]) {
            assert_eq!(both(number), [format!("x{number}"), format!("x{number:X}")]);
        }
    }
}

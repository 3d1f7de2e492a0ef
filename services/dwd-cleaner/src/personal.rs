//! Personal values: hashed with a key, or masked.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// HMAC-SHA256 with the key of the settings: the same value gives the same text, so that rows can be joined and counted by it, and
/// nobody without the key can try out all phone numbers.
#[derive(Clone)]
pub struct Hasher {
    keyed: Hmac<Sha256>,
    digits: usize,
}

/// Hexadecimal digits of a whole hash.
pub const HASH_DIGITS: usize = 64;
/// With fewer, two values of a large table may get one hash.
pub const HASH_DIGITS_MIN: usize = 16;
/// A shorter key could be guessed.
pub const KEY_BYTES_MIN: usize = 16;

impl Hasher {
    /// `digits` of the hash are written. `None` for a key that HMAC does not take.
    pub fn new(key: &str, digits: usize) -> Option<Self> {
        Some(Hasher { keyed: Hmac::new_from_slice(key.as_bytes()).ok()?, digits })
    }

    pub fn append(&self, text: &str, out: &mut String) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut mac = self.keyed.clone();
        mac.update(text.as_bytes());
        let digits = mac.finalize().into_bytes().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let letters = digits.filter_map(|digit| HEX.get(usize::from(digit)).map(|letter| char::from(*letter)));
        out.extend(letters.take(self.digits));
    }
}

/// The key is not shown.
impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({} digits)", self.digits)
    }
}

/// What of a value stays readable.
#[derive(Debug, Clone)]
pub struct Mask {
    /// Characters at its beginning.
    pub keep_first: usize,
    /// Characters at its end.
    pub keep_last: usize,
    /// All from the last occurrence of this on: `@` of an address.
    pub keep_from: Option<String>,
    /// Stands for the rest. Always the same, so that the length is not told.
    pub mask: String,
}

impl Mask {
    /// Appends `138****5678`, `z***@example.com`. A value that would show whole is masked whole.
    pub fn append(&self, text: &str, out: &mut String) {
        let cut = self.keep_from.as_deref().and_then(|mark| text.rfind(mark));
        if cut == Some(0) {
            return out.push_str(&self.mask);
        }
        let (open, kept) = cut.and_then(|at| text.split_at_checked(at)).unwrap_or((text, ""));
        let letters = open.chars().count();
        if self.keep_first + self.keep_last >= letters {
            out.push_str(&self.mask);
        } else {
            out.extend(open.chars().take(self.keep_first));
            out.push_str(&self.mask);
            out.extend(open.chars().skip(letters - self.keep_last));
        }
        out.push_str(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(mask: &Mask, text: &str) -> String {
        let mut out = String::new();
        mask.append(text, &mut out);
        out
    }

    #[test]
    fn phones_and_addresses_keep_what_they_may_show() {
        let phone = Mask { keep_first: 3, keep_last: 4, keep_from: None, mask: "****".into() };
        for (text, shown) in [
            ("13812345678", "138****5678"),
            ("1381234", "****"),
            ("", "****"),
            ("壹贰叁肆伍陆柒捌", "壹贰叁****伍陆柒捌"),
        ] {
            assert_eq!(masked(&phone, text), shown);
        }
        let email = Mask { keep_first: 1, keep_last: 0, keep_from: Some("@".into()), mask: "***".into() };
        for (text, shown) in [
            ("zhangsan@example.com", "z***@example.com"),
            ("z@example.com", "***@example.com"),
            ("no address", "n***"),
            ("@", "***"),
            ("@zhangsan", "***"),
            ("@z@example.com", "@***@example.com"),
            ("张三@例子.公司", "张***@例子.公司"),
        ] {
            assert_eq!(masked(&email, text), shown);
        }
    }

    #[test]
    fn a_hash_is_that_of_rfc_4231() {
        let mut out = String::new();
        Hasher::new("Jefe", HASH_DIGITS).unwrap().append("what do ya want for nothing?", &mut out);
        assert_eq!(out, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        out.clear();
        Hasher::new("Jefe", 16).unwrap().append("what do ya want for nothing?", &mut out);
        assert_eq!(out, "5bdcc146bf60754e");
    }
}

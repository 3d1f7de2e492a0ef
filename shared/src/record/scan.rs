//! One pass over the text of a JSON object, field by field.
//!
//! Rows are flat and plain: a name, a short string or number, and the next. Those are told apart here, eight bytes at a time; whatever is
//! rarer (escapes, nested values, exponents) is left to serde_json, which also says what is wrong with what is no object.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// Calls `visit` with the name and the text of each field, in the order of the object. `None` where the text is no JSON object: then some
/// fields may have been visited.
pub fn object<'a>(text: &'a str, mut visit: impl FnMut(&str, &'a str)) -> Option<()> {
    let mut scan = Scan::new(text);
    scan.skip_blanks();
    scan.take(b'{')?;
    scan.skip_blanks();
    if scan.take(b'}').is_none() {
        loop {
            let name = scan.name()?;
            scan.skip_blanks();
            scan.take(b':')?;
            scan.skip_blanks();
            let value = scan.value()?;
            visit(&name, value);
            scan.skip_blanks();
            if scan.take(b',').is_none() {
                scan.take(b'}')?;
                break;
            }
            scan.skip_blanks();
        }
    }
    scan.skip_blanks();
    (scan.at == text.len()).then_some(())
}

/// A place in a text.
pub(super) struct Scan<'a> {
    text: &'a str,
    pub(super) at: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Scan { text, at: 0 }
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes().get(self.at..).unwrap_or_default()
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn name(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        if self.plain_string().is_some() {
            return self.text.get(start + 1..self.at - 1).map(Cow::Borrowed);
        }
        #[derive(serde::Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        self.rare::<Name<'a>>().map(|name| name.0)
    }

    /// The text of the value that begins here.
    fn value(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.pass_value()?;
        self.text.get(start..self.at)
    }

    /// Goes behind the value that begins here. No value begins with a blank.
    #[inline(always)]
    pub(super) fn pass_value(&mut self) -> Option<()> {
        let plain = match self.peek()? {
            b' ' | b'\t' | b'\n' | b'\r' => return None,
            b'"' => self.plain_string(),
            b'-' | b'0'..=b'9' => self.plain_number(),
            b'n' => self.word("null"),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            _ => None,
        };
        plain.or_else(|| self.rare::<&RawValue>().map(|_| ()))
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let rest = self.bytes().get(self.at..)?;
        rest.starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    /// A string without escapes.
    #[inline(always)]
    fn plain_string(&mut self) -> Option<()> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let inside = self.bytes().get(self.at + 1..)?;
        let length = plain_len(inside);
        (inside.get(length) == Some(&b'"')).then(|| self.at += length + 2)
    }

    /// A number without exponent.
    #[inline(always)]
    fn plain_number(&mut self) -> Option<()> {
        let rest = self.bytes().get(self.at..)?;
        let mut length = usize::from(rest.first() == Some(&b'-'));
        let whole = digits(rest.get(length..)?);
        if whole == 0 || (whole > 1 && rest.get(length) == Some(&b'0')) {
            return None;
        }
        length += whole;
        if rest.get(length) == Some(&b'.') {
            let fraction = digits(rest.get(length + 1..)?);
            if fraction == 0 {
                return None;
            }
            length += 1 + fraction;
        }
        if matches!(rest.get(length), Some(b'e' | b'E')) {
            return None;
        }
        self.at += length;
        Some(())
    }

    #[cold]
    #[inline(never)]
    fn rare<T: serde::Deserialize<'a>>(&mut self) -> Option<T> {
        let rest = self.text.get(self.at..)?;
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<T>();
        let value = values.next()?.ok()?;
        self.at += values.byte_offset();
        Some(value)
    }
}

/// How many bytes from the start are digits.
fn digits(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word) ^ (EACH * u64::from(b'0'));
        // A digit is below ten now; what is not reaches the high bit, and no byte reaches into the next.
        let marks = (((word & !HIGH) + EACH * (0x80 - 10)) | word) & HIGH;
        if marks != 0 {
            return at * 8 + marks.trailing_zeros() as usize / 8;
        }
    }
    bytes.len() - rest.len() + rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len())
}

const EACH: u64 = u64::MAX / 0xFF;
const HIGH: u64 = EACH << 7;

/// The high bit of each byte that is zero; where one is, bytes above it may be marked wrongly.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(EACH) & !word & HIGH
}

/// How many bytes from the start are neither quote, backslash nor control character: those stand in a JSON string as they are.
pub fn plain_len(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        if let Some(plain) = plain_of_word(word) {
            return at * 8 + plain;
        }
    }
    match bytes.last_chunk::<8>() {
        // The first of these bytes are known to be plain.
        Some(word) => bytes.len() - 8 + plain_of_word(word).unwrap_or(8),
        None => {
            let is_plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
            rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len())
        }
    }
}

/// How many bytes of a word are plain; `None` for all.
fn plain_of_word(word: &[u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(*word);
    let controls = word.wrapping_sub(EACH * 0x20) & !word & HIGH;
    // The lowest mark is always right.
    let marks = zeros(word ^ (EACH * u64::from(b'"'))) | zeros(word ^ (EACH * u64::from(b'\\'))) | controls;
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A JSON value of one of seven kinds.
    pub(in crate::record) fn value(name: &str, text: &str, kind: u8) -> String {
        match kind {
            0 => serde_json::to_string(text).unwrap(),
            1 => format!("[{}]", serde_json::to_string(text).unwrap()),
            2 => format!("{}", text.len()),
            3 => format!("-{}.{:03}", text.len(), name.len()),
            4 => "null".to_owned(),
            5 => format!("{}e-{}", text.len(), name.len()),
            _ => format!("{{\"x\":{}}}", text.is_empty()),
        }
    }

    fn fields(text: &str) -> Option<Vec<(String, String)>> {
        let mut found = Vec::new();
        object(text, |name, value| found.push((name.to_owned(), value.to_owned())))?;
        Some(found)
    }

    /// What serde_json makes of it.
    fn expected(text: &str) -> Option<Vec<(String, String)>> {
        use serde::de::{Deserializer as _, MapAccess, Visitor};
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Vec<(String, String)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    found.push((name, value.get().to_owned()));
                }
                Ok(found)
            }
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let found = json.deserialize_map(All).ok()?;
        json.end().ok().map(|()| found)
    }

    #[test]
    fn rows_are_read_as_serde_json_reads_them() {
        for text in [
            r#"{"order_id":2001,"name":"iPhone 15 手机","price":5999.00,"gone":null,"ok":true,"no":false}"#,
            " {\n\"a\" :\t[1, {\"b\":\"}\"}] , \"\\u0061\":\"x\\\"y\", \"c\":-0.5e+3 } ",
            "{}",
            " { } ",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":1.5.2}",
            "{\"a\":nul}",
            "{\"a\":nulll}",
            "{\"a\":\"tab\there\"}",
            "{\"a\":\"unended}",
            "{\"a\" 1}",
            "{a:1}",
            "{\"a\":1}x",
            "{\"a\":1}{}",
            "[1]",
            "",
            "{",
            "{\"a\":12345678901234567890123456789.000000000000000000001}",
        ] {
            assert_eq!(fields(text), expected(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn objects_of_any_values_are_read_as_serde_json_reads_them(
            members in prop::collection::vec(("[a-z\"\\\\é ]{0,12}", "[ -~é\u{1}\n]{0,40}", 0..7u8), 0..6),
            blank in "[ \n]{0,2}",
        ) {
            let members: Vec<String> = members.iter().map(|(name, text, kind)| {
                format!("{}{blank}:{blank}{}", serde_json::to_string(name).unwrap(), value(name, text, *kind))
            }).collect();
            let text = format!("{blank}{{{blank}{}{blank}}}{blank}", members.join(","));
            prop_assert!(expected(&text).is_some());
            prop_assert_eq!(fields(&text), expected(&text));
        }

        #[test]
        fn any_text_is_read_or_refused_as_serde_json_does(text in "[{}\\[\\]:,\"\\\\0-9.eEnulltrue +\\-é\u{1}]{0,24}") {
            prop_assert_eq!(fields(&text), expected(&text));
            let object = format!("{{\"a\":{text}}}");
            prop_assert_eq!(fields(&object), expected(&object));
            let string = format!("{{\"a\":\"{text}\",\"b\":1}}");
            prop_assert_eq!(fields(&string), expected(&string));
        }

        #[test]
        fn digits_are_counted_to_the_first_byte_that_is_none(digits in "[0-9]{0,20}", behind in any::<Vec<u8>>()) {
            let bytes: Vec<u8> = digits.bytes().chain(behind).collect();
            let first = bytes.iter().position(|byte| !byte.is_ascii_digit());
            prop_assert_eq!(super::digits(&bytes), first.unwrap_or(bytes.len()));
        }

        #[test]
        fn plain_bytes_are_counted_to_the_first_that_is_not(text in "[a-zé\u{1f}\"\\\\ ]{0,40}") {
            let first = text.bytes().position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\');
            prop_assert_eq!(plain_len(text.as_bytes()), first.unwrap_or(text.len()));
        }
    }
}

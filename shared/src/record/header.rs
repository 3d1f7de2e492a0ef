//! What is not the row: one small Kafka header, written by every stage and read by the next.
//!
//! ```text
//! tidemill: op=u v=1.16B3748.0.0 tx=742 ts=1752226555145000 in=81
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `op` | `r` snapshot, `c` insert, `u` update, `d` delete |
//! | `v` | version of the row (of the fact, in a result) |
//! | `u` | versions of the dimension rows that were joined, with commas between, in the order of dim-joiner's settings; `0.0.0.1` where none was known |
//! | `tx` | transaction id at the source |
//! | `ts` | commit time at the source of what caused this record, microseconds since 1970; absent for snapshot rows |
//! | `in` | offset of the input record that this output partition has come to: a restarted stage goes on behind it |
//! | `re` | put back in by a replay: the version that the partition had come to. The record's own version is an older one, above all others of its key |
//! | `n` | length in bytes of the cleaned row at the start of a result's value |

use super::digits::push_decimal;
use crate::position::{JoinedVersions, ResultVersion, Version};

/// The header's name.
pub const NAME: &str = "tidemill";

/// What happened to the row at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    Snapshot,
    Insert,
    Update,
    Delete,
}

impl Operation {
    /// The one-letter form of the header, also the label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Snapshot => "r",
            Operation::Insert => "c",
            Operation::Update => "u",
            Operation::Delete => "d",
        }
    }

    fn letter(self) -> u8 {
        self.as_str().as_bytes().first().copied().unwrap_or_default()
    }

    fn of(letter: u8) -> Option<Self> {
        Some(match letter {
            b'r' => Operation::Snapshot,
            b'c' => Operation::Insert,
            b'u' => Operation::Update,
            b'd' => Operation::Delete,
            _ => return None,
        })
    }
}

/// The parsed header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub operation: Operation,
    pub version: Version,
    pub joined: JoinedVersions,
    pub transaction: u32,
    /// Microseconds since 1970.
    pub commit_time_us: Option<i64>,
    pub input_offset: Option<i64>,
    pub put_back_at: Option<Version>,
    pub cleaned_bytes: Option<usize>,
}

/// A header that a stage cannot read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    #[error("the record has no header `{NAME}`: it was not written by a stage of this pipeline")]
    Missing,
    #[error("header `{NAME}` is not readable at {0:?}")]
    Unreadable(String),
}

impl Header {
    /// A header with nothing but what every record has.
    pub fn new(operation: Operation, version: Version) -> Self {
        Header {
            operation,
            version,
            joined: JoinedVersions::default(),
            transaction: 0,
            commit_time_us: None,
            input_offset: None,
            put_back_at: None,
            cleaned_bytes: None,
        }
    }

    /// What results are compared by.
    pub fn result_version(&self) -> ResultVersion {
        ResultVersion { fact: self.version, joined: self.joined.clone() }
    }

    /// The version that the partition of an ODS or DWD topic has come to with this record: it never falls.
    pub fn partition_version(&self) -> Version {
        self.put_back_at.unwrap_or(self.version)
    }

    /// The text form by itself.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        self.write(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Appends the text form to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"op=");
        out.push(self.operation.letter());
        out.extend_from_slice(b" v=");
        self.version.write(out);
        for (at, joined) in self.joined.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b" u=" } else { b"," });
            joined.write(out);
        }
        out.extend_from_slice(b" tx=");
        push_decimal(self.transaction.into(), out);
        if let Some(commit_time_us) = self.commit_time_us {
            out.extend_from_slice(b" ts=");
            push_signed(commit_time_us, out);
        }
        if let Some(input_offset) = self.input_offset {
            out.extend_from_slice(b" in=");
            push_signed(input_offset, out);
        }
        if let Some(put_back_at) = self.put_back_at {
            out.extend_from_slice(b" re=");
            put_back_at.write(out);
        }
        if let Some(cleaned_bytes) = self.cleaned_bytes {
            out.extend_from_slice(b" n=");
            push_decimal(cleaned_bytes as u64, out);
        }
    }

    /// Appends the text form with the offset of the record that has this header, of which `text` is the text form: it goes on as it is, and what
    /// a newer stage wrote in it as well.
    pub fn write_onward(&self, text: &[u8], offset: i64, out: &mut Vec<u8>) {
        if self.input_offset.is_some() {
            return Header { input_offset: Some(offset), ..self.clone() }.write(out);
        }
        out.extend_from_slice(text);
        out.extend_from_slice(b" in=");
        push_signed(offset, out);
    }

    /// The version of a record for a line of the log, which is written of records that cannot be read as well.
    pub fn version_in(bytes: Option<&[u8]>) -> Option<Version> {
        Header::parse(bytes).ok().map(|header| header.version)
    }

    /// Reads the text form, in one pass. Fields that it does not know are passed over, so that a newer stage may write more.
    pub fn parse(text: Option<&[u8]>) -> Result<Self, HeaderError> {
        let text = text.ok_or(HeaderError::Missing)?;
        let (mut operation, mut version) = (None, None);
        let mut header = Header::new(Operation::Snapshot, Version::default());
        let mut field = text;
        loop {
            let behind = match field {
                [b'o', b'p', b'=', value @ ..] => put(&mut operation, operation_in(value)),
                [b'v', b'=', value @ ..] => put(&mut version, Version::take(value)),
                [b'u', b'=', value @ ..] => set(&mut header.joined, JoinedVersions::take(value)),
                [b't', b'x', b'=', value @ ..] => set(&mut header.transaction, decimal(value)),
                [b't', b's', b'=', value @ ..] => put(&mut header.commit_time_us, decimal(value)),
                [b'i', b'n', b'=', value @ ..] => put(&mut header.input_offset, decimal(value)),
                [b'r', b'e', b'=', value @ ..] => put(&mut header.put_back_at, Version::take(value)),
                [b'n', b'=', value @ ..] => put(&mut header.cleaned_bytes, decimal(value)),
                _ => unknown(field),
            };
            match behind {
                Some([]) => break,
                Some([b' ', next @ ..]) => field = next,
                _ => return Err(unreadable(field.get(..field_len(field)).unwrap_or_default())),
            }
        }
        header.operation = operation.ok_or_else(|| unreadable(text))?;
        header.version = version.ok_or_else(|| unreadable(text))?;
        Ok(header)
    }
}

fn unreadable(text: &[u8]) -> HeaderError {
    HeaderError::Unreadable(String::from_utf8_lossy(text).into_owned())
}

/// A value that a text begins with, and what stands behind it.
type Taken<'a, T> = Option<(T, &'a [u8])>;

/// What was taken goes to its place.
fn set<'a, T>(place: &mut T, taken: Taken<'a, T>) -> Option<&'a [u8]> {
    let (value, behind) = taken?;
    *place = value;
    Some(behind)
}

fn put<'a, T>(place: &mut Option<T>, taken: Taken<'a, T>) -> Option<&'a [u8]> {
    set(place, taken.map(|(value, behind)| (Some(value), behind)))
}

/// A field ends at the next blank.
fn field_len(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b' ').unwrap_or(text.len())
}

/// Behind a field of a newer stage.
fn unknown(text: &[u8]) -> Option<&[u8]> {
    let (field, behind) = text.split_at_checked(field_len(text))?;
    field.contains(&b'=').then_some(behind)
}

fn operation_in(text: &[u8]) -> Taken<'_, Operation> {
    let (letter, behind) = text.split_first()?;
    Some((Operation::of(*letter)?, behind))
}

/// A number, which may be below zero.
fn decimal<T: TryFrom<i64>>(text: &[u8]) -> Taken<'_, T> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let (mut below_zero, mut length) = (0_i64, 0);
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        below_zero = below_zero.checked_mul(10)?.checked_sub(digit.into())?;
        length += 1;
    }
    let number = if digits.len() < text.len() { below_zero } else { below_zero.checked_neg()? };
    let behind = digits.get(length..).filter(|_| length > 0)?;
    Some((T::try_from(number).ok()?, behind))
}

fn push_signed(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    push_decimal(number.unsigned_abs(), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;
    use proptest::prelude::*;

    #[test]
    fn text_is_reversible() {
        let version = Version { epoch: 1, lsn: Lsn(0x16B_3748), index: 2, part: 0 };
        let full = Header {
            joined: [version, Version::default(), version].into_iter().collect(),
            transaction: 742,
            commit_time_us: Some(i64::MIN),
            input_offset: Some(i64::MAX),
            put_back_at: Some(Version { epoch: 2, ..version }),
            cleaned_bytes: Some(300),
            ..Header::new(Operation::Update, version)
        };
        for header in [full, Header::new(Operation::Snapshot, version)] {
            let text = header.text();
            assert_eq!(Header::parse(Some(text.as_bytes())).as_ref(), Ok(&header), "{text}");
        }
    }

    #[test]
    fn a_text_goes_on_with_the_offset_of_its_record() {
        let onward = |text: &str| {
            let mut out = Vec::new();
            Header::parse(Some(text.as_bytes())).unwrap().write_onward(text.as_bytes(), 81, &mut out);
            String::from_utf8(out).unwrap()
        };
        let header =
            Header { transaction: 742, commit_time_us: Some(5), ..Header::new(Operation::Update, Version::default()) };
        let with_offset = Header { input_offset: Some(81), ..header.clone() };
        assert_eq!(onward(&header.text()), with_offset.text());
        assert_eq!(onward(&Header { input_offset: Some(7), ..header }.text()), with_offset.text());
        assert_eq!(onward("op=c v=1.2.3.4 new=x"), "op=c v=1.2.3.4 new=x in=81");
    }

    #[test]
    fn what_is_no_header_is_refused_and_what_is_new_is_passed_over() {
        assert_eq!(Header::parse(None), Err(HeaderError::Missing));
        for text in [
            "",
            "op=c",
            "v=1.2.3.4",
            "op=x v=1.2.3.4",
            "op=c v=1",
            "op=c v=1.2.3.4 ts=a",
            "op=c v=1.2.3.4 ts=",
            "op=c v=1.2.3.4 tx=4294967296",
            "op=c v=1.2.3.4 in=9223372036854775808",
            "op=c v=1.2.3.4  tx=1",
            "op=c v=1.2.3.4 ",
            " op=c v=1.2.3.4",
            "op=cc v=1.2.3.4",
            "op=c v=1.2.3.4 op=",
            "op=c v=1.2.3.4.5",
            "op=c v=1.2.3.4 new",
            "op=c v=1.2.3.4 u=1.2.3.4,",
            "op=c v=1.2.3.4 n=-1",
            "op=c v=1.2.3.4 n=--1",
        ] {
            assert!(Header::parse(Some(text.as_bytes())).is_err(), "{text}");
        }
        for text in ["op=c v=1.2.3.4 new=1", "=1 op=c v=1.2.3.4", "opx=c op=c vv=1 v=1.2.3.4 n= op=c"] {
            assert_eq!(Header::parse(Some(text.as_bytes())).is_err(), text.contains("n= "), "{text}");
        }
        for byte in 0..=u8::MAX {
            let with = |text: &[u8]| Header::parse(Some(&[text, &[byte]].concat())).is_ok();
            assert_eq!(with(b"op=c v=1.2.3.4 ts=1"), byte.is_ascii_digit(), "{byte}");
            assert_eq!(with(b"op=c ts=1 v=1.2.3.4"), byte.is_ascii_hexdigit(), "{byte}");
        }
        let twice = Header::parse(Some(b"op=c v=1.2.3.4 op=u")).unwrap();
        assert_eq!(twice.operation, Operation::Update, "of two of one name the last counts");
    }

    fn number<T: TryFrom<i64>>(text: &str) -> Option<T> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        is_plain.then(|| text.parse::<i64>().ok()).flatten().and_then(|number| T::try_from(number).ok())
    }

    fn version(text: &str) -> Option<Version> {
        let hexadecimal = |text: &str| {
            let is_plain = text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
        };
        let numbers: Vec<u64> = text.split('.').map(hexadecimal).collect::<Option<_>>()?;
        let [epoch, lsn, index, part] = numbers[..] else { return None };
        let short = |number| u32::try_from(number).ok();
        Some(Version { epoch: short(epoch)?, lsn: Lsn(lsn), index: short(index)?, part: short(part)? })
    }

    /// The plain way to read a header.
    fn by_splitting(text: &str) -> Option<Header> {
        let (mut header, mut has) = (Header::new(Operation::Snapshot, Version::default()), [false; 2]);
        for field in text.split(' ') {
            let (name, value) = field.split_once('=')?;
            match name {
                "op" if value.len() == 1 => (header.operation, has[0]) = (Operation::of(value.as_bytes()[0])?, true),
                "op" => return None,
                "v" => (header.version, has[1]) = (version(value)?, true),
                "u" => header.joined = value.split(',').map(version).collect::<Option<_>>()?,
                "tx" => header.transaction = number(value)?,
                "ts" => header.commit_time_us = Some(number(value)?),
                "in" => header.input_offset = Some(number(value)?),
                "re" => header.put_back_at = Some(version(value)?),
                "n" => header.cleaned_bytes = Some(number(value)?),
                _ => {}
            }
        }
        (has == [true; 2]).then_some(header)
    }

    proptest! {
        #[test]
        fn one_pass_reads_what_splitting_does(
            fields in prop::collection::vec(("(op|v|u|tx|ts|in|re|n|x|)", "=?", "([ruc]|-?[0-9]{0,20}|[/-:]{1,3}|1\\.[/-:@-G`-g]{1,3}\\.0\\.0|[0-9A-Fa-f]{0,9}(\\.[0-9A-F]{0,17}){2,4}|[0-9.,A-F]{0,30}|1\\.A\\.0\\.0(,1\\.B\\.0\\.0)*)"), 0..9),
            known in any::<bool>(),
        ) {
            let begin = if known { "op=u v=1.16B3748.0.0" } else { "" };
            let fields = fields.iter().map(|(name, is, value)| format!("{name}{is}{value}"));
            let text = [begin.to_owned()].into_iter().chain(fields).collect::<Vec<_>>().join(" ");
            let text = text.strip_prefix(' ').unwrap_or(&text);
            prop_assert_eq!(Header::parse(Some(text.as_bytes())).ok(), by_splitting(text), "{}", text);
        }
    }
}

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

use crate::position::{JoinedVersions, ResultVersion, Version, VersionText};

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

    fn parse(text: &[u8]) -> Option<Self> {
        Some(match text {
            b"r" => Operation::Snapshot,
            b"c" => Operation::Insert,
            b"u" => Operation::Update,
            b"d" => Operation::Delete,
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

    /// Appends the text form to `out`.
    pub fn write(&self, out: &mut String) {
        let mut version = [0; size_of::<VersionText>()];
        out.push_str("op=");
        out.push_str(self.operation.as_str());
        out.push_str(" v=");
        out.push_str(self.version.text(&mut version));
        for (at, joined) in self.joined.iter().enumerate() {
            out.push_str(if at == 0 { " u=" } else { "," });
            out.push_str(joined.text(&mut version));
        }
        write_number(" tx=", Some(self.transaction), out);
        write_number(" ts=", self.commit_time_us, out);
        write_number(" in=", self.input_offset, out);
        if let Some(put_back_at) = self.put_back_at {
            out.push_str(" re=");
            out.push_str(put_back_at.text(&mut version));
        }
        write_number(" n=", self.cleaned_bytes, out);
    }

    /// The version of a record for a line of the log, which is written of records that cannot be read as well.
    pub fn version_in(bytes: Option<&[u8]>) -> Option<Version> {
        Header::parse(bytes).ok().map(|header| header.version)
    }

    /// Reads the text form. Fields that it does not know are passed over, so that a newer stage may write more.
    pub fn parse(text: Option<&[u8]>) -> Result<Self, HeaderError> {
        let text = text.ok_or(HeaderError::Missing)?;
        let (mut operation, mut version) = (None, None);
        let mut header = Header::new(Operation::Snapshot, Version::default());
        for field in text.split(|byte| *byte == b' ') {
            let (name, value) = field.split_at_checked(name_len(field)).unwrap_or_default();
            let value = value.strip_prefix(b"=").ok_or_else(|| unreadable(field))?;
            let is_read = match name {
                b"op" => put(&mut operation, Operation::parse(value)),
                b"v" => put(&mut version, Version::parse(value)),
                b"u" => JoinedVersions::parse(value).map(|joined| header.joined = joined),
                b"tx" => decimal(value).map(|transaction| header.transaction = transaction),
                b"ts" => put(&mut header.commit_time_us, decimal(value)),
                b"in" => put(&mut header.input_offset, decimal(value)),
                b"re" => put(&mut header.put_back_at, Version::parse(value)),
                b"n" => put(&mut header.cleaned_bytes, decimal(value)),
                _ => Some(()),
            };
            is_read.ok_or_else(|| unreadable(field))?;
        }
        header.operation = operation.ok_or_else(|| unreadable(text))?;
        header.version = version.ok_or_else(|| unreadable(text))?;
        Ok(header)
    }
}

fn unreadable(text: &[u8]) -> HeaderError {
    HeaderError::Unreadable(String::from_utf8_lossy(text).into_owned())
}

/// What was read goes to its place.
fn put<T>(place: &mut Option<T>, read: Option<T>) -> Option<()> {
    *place = Some(read?);
    Some(())
}

/// Names are short: a plain loop finds their end soonest.
fn name_len(field: &[u8]) -> usize {
    field.iter().position(|byte| *byte == b'=').unwrap_or(field.len())
}

/// A number as [`write_number`] writes it.
fn decimal<T: TryFrom<i64>>(text: &[u8]) -> Option<T> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let mut number = Some(0_i64).filter(|_| !digits.is_empty());
    for byte in digits {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number = number?.checked_mul(10)?.checked_add(digit.into());
    }
    let number = number?;
    T::try_from(if digits.len() < text.len() { -number } else { number }).ok()
}

fn write_number(name: &str, number: Option<impl itoa::Integer>, out: &mut String) {
    if let Some(number) = number {
        out.push_str(name);
        out.push_str(itoa::Buffer::new().format(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;

    #[test]
    fn text_is_reversible() {
        let version = Version { epoch: 1, lsn: Lsn(0x16B_3748), index: 2, part: 0 };
        let full = Header {
            joined: [version, Version::default(), version].into_iter().collect(),
            transaction: 742,
            commit_time_us: Some(-1_752_226_555_145_000),
            input_offset: Some(i64::MAX),
            put_back_at: Some(Version { epoch: 2, ..version }),
            cleaned_bytes: Some(300),
            ..Header::new(Operation::Update, version)
        };
        for header in [full, Header::new(Operation::Snapshot, version)] {
            let mut text = String::new();
            header.write(&mut text);
            assert_eq!(Header::parse(Some(text.as_bytes())).as_ref(), Ok(&header), "{text}");
        }
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
        ] {
            assert!(Header::parse(Some(text.as_bytes())).is_err(), "{text}");
        }
        assert!(Header::parse(Some(b"op=c v=1.2.3.4 new=1")).is_ok());
    }
}

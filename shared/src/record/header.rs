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

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "r" => Operation::Snapshot,
            "c" => Operation::Insert,
            "u" => Operation::Update,
            "d" => Operation::Delete,
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
    pub fn parse(bytes: Option<&[u8]>) -> Result<Self, HeaderError> {
        let bytes = bytes.ok_or(HeaderError::Missing)?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| HeaderError::Unreadable(String::from_utf8_lossy(bytes).into()))?;
        let (mut operation, mut version) = (None, None);
        let mut header = Header::new(Operation::Snapshot, Version::default());
        let mut rest = Some(text);
        while let Some(text) = rest {
            let field = part(text, b' ', &mut rest);
            let bad = || HeaderError::Unreadable(field.to_owned());
            let mut value = None;
            let name = part(field, b'=', &mut value);
            let value = value.ok_or_else(bad)?;
            match name {
                "op" => operation = Some(Operation::parse(value).ok_or_else(bad)?),
                "v" => version = Some(value.parse().map_err(|_| bad())?),
                "u" => header.joined = value.parse().map_err(|_| bad())?,
                "tx" => header.transaction = value.parse().map_err(|_| bad())?,
                "ts" => header.commit_time_us = Some(value.parse().map_err(|_| bad())?),
                "in" => header.input_offset = Some(value.parse().map_err(|_| bad())?),
                "re" => header.put_back_at = Some(value.parse().map_err(|_| bad())?),
                "n" => header.cleaned_bytes = Some(value.parse().map_err(|_| bad())?),
                _ => {}
            }
        }
        let missing = || HeaderError::Unreadable(text.to_owned());
        header.operation = operation.ok_or_else(missing)?;
        header.version = version.ok_or_else(missing)?;
        Ok(header)
    }
}

fn write_number(name: &str, number: Option<impl itoa::Integer>, out: &mut String) {
    if let Some(number) = number {
        out.push_str(name);
        out.push_str(itoa::Buffer::new().format(number));
    }
}

/// What stands before a byte; behind it goes to `rest`. Headers are short: a plain loop finds it soonest.
fn part<'a>(text: &'a str, between: u8, rest: &mut Option<&'a str>) -> &'a str {
    let found = text.bytes().position(|byte| byte == between);
    *rest = found.and_then(|at| text.get(at + 1..));
    found.and_then(|at| text.get(..at)).unwrap_or(text)
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
            commit_time_us: Some(1_752_226_555_145_000),
            input_offset: Some(81),
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
        for text in ["", "op=c", "v=1.2.3.4", "op=x v=1.2.3.4", "op=c v=1", "op=c v=1.2.3.4 ts=a"] {
            assert!(Header::parse(Some(text.as_bytes())).is_err(), "{text}");
        }
        assert!(Header::parse(Some(b"op=c v=1.2.3.4 new=1")).is_ok());
    }
}

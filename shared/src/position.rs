//! Where a change stands in the history of the source: the version that every record carries and every stage compares.

use std::fmt;
use std::str::FromStr;

use smallvec::SmallVec;

use crate::record::digits::push_hexadecimal;

/// A write-ahead log position of PostgreSQL, as `pg_lsn` prints it (`16/B374D848`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = PositionError;
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let bad = || PositionError { what: "LSN", text: text.to_owned() };
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Lsn((u64::from(high) << 32) | u64::from(low)))
    }
}

/// Text that should be a position and is not.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct PositionError {
    what: &'static str,
    text: String,
}

/// The place of one row change in the source's history. For a key it only grows.
///
/// * `epoch` grows whenever LSNs may start again (another server, another timeline, a new slot).
/// * `lsn` is the commit record's LSN (`final_lsn` of Begin): the stream comes in commit order, while the WAL positions of
///   single rows interleave. For a snapshot row it is the LSN that the stream had passed when the row entered it.
/// * `index` is the change's ordinal in its transaction; [`Version::SNAPSHOT`] for snapshot rows, so that they stand
///   behind every change of the transaction at their LSN.
/// * `part` tells the records apart that one change becomes (tombstone and insert of a changed key, the tombstones of a
///   TRUNCATE), and counts snapshot rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    pub epoch: u32,
    pub lsn: Lsn,
    pub index: u32,
    pub part: u32,
}

impl Version {
    /// The index of a snapshot row.
    pub const SNAPSHOT: u32 = u32::MAX;
    /// Of a dimension's row that was never known: a fact that was joined with nothing has it, and not the lowest one, which says that it
    /// was not joined with that dimension at all.
    pub const UNKNOWN: Version = Version { epoch: 0, lsn: Lsn(0), index: 0, part: 1 };
    /// Length of [`Version::to_bytes`].
    pub const BYTES: usize = 20;

    /// Big-endian bytes: they compare (memcmp, SQL `bytea`) as the versions do.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (epoch, rest) = bytes.split_at_mut(4);
        let (lsn, rest) = rest.split_at_mut(8);
        let (index, part) = rest.split_at_mut(4);
        epoch.copy_from_slice(&self.epoch.to_be_bytes());
        lsn.copy_from_slice(&self.lsn.0.to_be_bytes());
        index.copy_from_slice(&self.index.to_be_bytes());
        part.copy_from_slice(&self.part.to_be_bytes());
        bytes
    }
}

impl Version {
    /// Appends `epoch.lsn.index.part`, the numbers in hexadecimal: `1.16B3748.0.0`. Every record has several, so it is written without the
    /// detour over a formatter.
    pub fn write(self, out: &mut Vec<u8>) {
        push_hexadecimal(self.epoch.into(), out);
        out.push(b'.');
        push_hexadecimal(self.lsn.0, out);
        out.push(b'.');
        push_hexadecimal(self.index.into(), out);
        out.push(b'.');
        push_hexadecimal(self.part.into(), out);
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { epoch, lsn, index, part } = self;
        write!(f, "{epoch:X}.{:X}.{index:X}.{part:X}", lsn.0)
    }
}

impl Version {
    /// Reads the text form.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Version::take(text).filter(|(_, behind)| behind.is_empty()).map(|(version, _)| version)
    }

    /// Reads the version that a text begins with; gives what stands behind it as well.
    pub(crate) fn take(text: &[u8]) -> Option<(Self, &[u8])> {
        let (epoch, behind) = hexadecimal(text)?;
        let (lsn, behind) = hexadecimal(behind.strip_prefix(b".")?)?;
        let (index, behind) = hexadecimal(behind.strip_prefix(b".")?)?;
        let (part, behind) = hexadecimal(behind.strip_prefix(b".")?)?;
        let [epoch, index, part] = [epoch, index, part].map(|number| u32::try_from(number).ok());
        Some((Version { epoch: epoch?, lsn: Lsn(lsn), index: index?, part: part? }, behind))
    }
}

impl FromStr for Version {
    type Err = PositionError;
    fn from_str(text: &str) -> Result<Self, PositionError> {
        Version::parse(text.as_bytes()).ok_or_else(|| PositionError { what: "version", text: text.to_owned() })
    }
}

/// Of each byte the hexadecimal digit that it is.
const DIGITS: [u8; 256] = digits();
const NO_DIGIT: u8 = u8::MAX;

#[expect(clippy::indexing_slicing, reason = "the compiler does it")]
const fn digits() -> [u8; 256] {
    let mut digits = [NO_DIGIT; 256];
    let mut byte = 0;
    while byte < digits.len() {
        digits[byte] = match byte as u8 {
            digit @ b'0'..=b'9' => digit - b'0',
            digit @ b'A'..=b'F' => digit - b'A' + 10,
            digit @ b'a'..=b'f' => digit - b'a' + 10,
            _ => NO_DIGIT,
        };
        byte += 1;
    }
    digits
}

/// The number of 1 to 16 digits that a text begins with, and what stands behind it. Every record has a dozen.
fn hexadecimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let (mut number, mut length) = (0_u64, 0);
    for byte in text {
        let digit = DIGITS.get(usize::from(*byte)).copied().unwrap_or(NO_DIGIT);
        if digit == NO_DIGIT {
            break;
        }
        number = number << 4 | u64::from(digit);
        length += 1;
    }
    let behind = text.get(length..)?;
    (1..=16).contains(&length).then_some((number, behind))
}

/// The versions of the dimension rows that a result was joined with, in the order of the settings; [`Version::UNKNOWN`] where none was
/// known. The lowest one is of a dimension that it was not joined with; such ones at the end are left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JoinedVersions(SmallVec<[Version; 1]>);

impl JoinedVersions {
    /// The version of one dimension's row; the lowest where it was not joined with that dimension.
    pub fn of(&self, dimension: usize) -> Version {
        self.0.get(dimension).copied().unwrap_or_default()
    }

    /// In the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = Version> {
        self.0.iter().copied()
    }

    /// It was not joined with anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Version> for JoinedVersions {
    fn from_iter<I: IntoIterator<Item = Version>>(versions: I) -> Self {
        // Most often it is one: collecting makes ready for many, and takes longer than all the rest.
        let mut joined = SmallVec::new();
        for version in versions {
            joined.push(version);
        }
        JoinedVersions::trimmed(joined)
    }
}

/// With commas between: `1.16B3748.0.0,0.0.0.0,1.16B2F10.0.0`.
impl fmt::Display for JoinedVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, version) in self.0.iter().enumerate() {
            let between = if at > 0 { "," } else { "" };
            write!(f, "{between}{version}")?;
        }
        Ok(())
    }
}

impl JoinedVersions {
    fn trimmed(mut versions: SmallVec<[Version; 1]>) -> Self {
        while versions.last() == Some(&Version::default()) {
            versions.pop();
        }
        JoinedVersions(versions)
    }

    /// Reads the text form that a text begins with; gives what stands behind it as well.
    pub(crate) fn take(text: &[u8]) -> Option<(Self, &[u8])> {
        let mut versions = SmallVec::new();
        let mut next = text;
        loop {
            let (version, behind) = Version::take(next)?;
            versions.push(version);
            match behind.strip_prefix(b",") {
                Some(further) => next = further,
                None => return Some((JoinedVersions::trimmed(versions), behind)),
            }
        }
    }
}

/// The version of a joined row: first the fact's, then those of its dimension rows. The fact's first, because an order that moves to
/// another user may meet a user whose last change is older. With the same fact, every dimension's version only grows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ResultVersion {
    pub fact: Version,
    pub joined: JoinedVersions,
}

/// See [`ResultVersion::to_bytes`]. With one dimension it takes no room of its own.
pub type ResultBytes = SmallVec<[u8; 2 * Version::BYTES]>;

impl ResultVersion {
    /// Big-endian bytes: they compare (memcmp, SQL `bytea`) as the versions do. 20 for the fact, and 20 for each dimension, at
    /// least one.
    pub fn to_bytes(&self) -> ResultBytes {
        let dimensions = self.joined.0.len().max(1);
        let joined = (0..dimensions).map(|dimension| self.joined.of(dimension));
        std::iter::once(self.fact).chain(joined).flat_map(Version::to_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn versions() -> impl Strategy<Value = Version> {
        (0..3u32, 0..3u64, prop_oneof![0..3u32, Just(Version::SNAPSHOT)], any::<u32>())
            .prop_map(|(epoch, lsn, index, part)| Version { epoch, lsn: Lsn(lsn << 31), index, part })
    }

    proptest! {
        #[test]
        fn bytes_compare_as_versions_do(a in versions(), b in versions()) {
            prop_assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(&b));
        }

        #[test]
        fn text_is_reversible(version in versions()) {
            prop_assert_eq!(version.to_string().parse::<Version>().unwrap(), version);
            prop_assert_eq!(version.lsn.to_string().parse::<Lsn>().unwrap(), version.lsn);
        }
    }

    #[test]
    fn a_result_compares_by_fact_then_dimensions() {
        let version = |lsn| Version { lsn: Lsn(lsn), ..Version::default() };
        let result = |fact, joined: &[u64]| ResultVersion {
            fact: version(fact),
            joined: joined.iter().copied().map(version).collect(),
        };
        let growing = [
            result(1, &[]),
            result(1, &[0, 3]),
            result(1, &[1]),
            result(1, &[1, 2]),
            result(1, &[2, 2]),
            result(2, &[0, 1]),
        ];
        for pair in growing.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes(), "{pair:?}");
        }
        assert_eq!(result(1, &[0, 0]), result(1, &[]));
        assert_eq!(result(1, &[]).to_bytes(), result(1, &[0]).to_bytes());
    }

    #[test]
    fn joined_versions_are_reversible() {
        for text in ["1.A.0.0", "0.0.0.0,1.16B3748.FFFFFFFF.2"] {
            let with_more = format!("{text} tx=1");
            let (versions, behind) = JoinedVersions::take(with_more.as_bytes()).unwrap();
            assert_eq!((versions.to_string().as_str(), behind), (text, &b" tx=1"[..]));
        }
        assert!(JoinedVersions::take(b"1.A.0.0,").is_none());
    }

    #[test]
    fn text_that_is_no_version_is_refused() {
        for text in [
            "",
            "1",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4 ",
            "g.0.0.0",
            "1..0.0",
            "1.0.100000000.0",
            "1.00000000000000000.0.0",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}

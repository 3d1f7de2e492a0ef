//! Where a change stands in the history of the source: the version that every record carries and every stage compares.

use std::fmt;
use std::str::FromStr;

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

/// `epoch.lsn.index.part`, the numbers in hexadecimal: `1.16B3748.0.0`.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}.{:X}.{:X}.{:X}", self.epoch, self.lsn.0, self.index, self.part)
    }
}

impl FromStr for Version {
    type Err = PositionError;
    fn from_str(text: &str) -> Result<Self, PositionError> {
        let bad = || PositionError { what: "version", text: text.to_owned() };
        let mut parts = text.split('.');
        let mut next = || parts.next().and_then(|part| u64::from_str_radix(part, 16).ok()).ok_or_else(bad);
        let (epoch, lsn, index, part) = (next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Version {
            epoch: epoch.try_into().map_err(|_| bad())?,
            lsn: Lsn(lsn),
            index: index.try_into().map_err(|_| bad())?,
            part: part.try_into().map_err(|_| bad())?,
        })
    }
}

/// The version of a joined row: first the order's, then the user's. Order first, because an order that moves to another
/// user may meet a user whose last change is older. A user that is not known has the lowest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ResultVersion {
    pub order: Version,
    pub user: Version,
}

impl ResultVersion {
    /// Big-endian bytes: they compare (memcmp, SQL `bytea`) as the versions do.
    pub fn to_bytes(self) -> [u8; 2 * Version::BYTES] {
        let mut bytes = [0; 2 * Version::BYTES];
        let (order, user) = bytes.split_at_mut(Version::BYTES);
        order.copy_from_slice(&self.order.to_bytes());
        user.copy_from_slice(&self.user.to_bytes());
        bytes
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
    fn a_result_compares_by_order_then_user() {
        let low = Version { lsn: Lsn(1), ..Version::default() };
        let high = Version { lsn: Lsn(2), ..Version::default() };
        let moved = ResultVersion { order: high, user: low };
        let before = ResultVersion { order: low, user: high };
        assert!(moved > before && moved.to_bytes() > before.to_bytes());
    }

    #[test]
    fn text_that_is_no_version_is_refused() {
        for text in ["", "1", "1.2.3", "1.2.3.4.5", "g.0.0.0", "1.0.100000000.0"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}

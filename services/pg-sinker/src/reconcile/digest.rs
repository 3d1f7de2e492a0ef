//! The sum of the rows of a range: how many, and the sums of two hashes of each. It does not depend on the order of the rows, it is exact, and
//! the sum of a part is the whole's less the other part's.

use std::ops::Sub;

use shared::failure::{Failure, FailureKind};

/// The two hashes of a row.
pub type RowHash = (i64, i64);

/// The sum of some rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    pub rows: u64,
    one: i128,
    other: i128,
}

impl Digest {
    /// From the server's answer: `sum(bigint)` is `numeric`, which has no bound; a trillion rows stay far from that of this type.
    pub fn read(rows: i64, one: &str, other: &str) -> Result<Self, Failure> {
        let number = |text: &str| text.parse::<i128>();
        let unreadable = || Failure::new(FailureKind::Data, "the sum of a range cannot be read");
        let rows = u64::try_from(rows).map_err(|error| unreadable().caused_by(error))?;
        let one = number(one).map_err(|error| unreadable().caused_by(error))?;
        let other = number(other).map_err(|error| unreadable().caused_by(error))?;
        Ok(Digest { rows, one, other })
    }
}

impl Sub for Digest {
    type Output = Digest;

    fn sub(self, part: Digest) -> Digest {
        Digest {
            rows: self.rows.saturating_sub(part.rows),
            one: self.one.wrapping_sub(part.one),
            other: self.other.wrapping_sub(part.other),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn of(rows: impl Iterator<Item = RowHash>) -> Digest {
        rows.fold(Digest::default(), |sum, (one, other)| Digest {
            rows: sum.rows + 1,
            one: sum.one + i128::from(one),
            other: sum.other + i128::from(other),
        })
    }

    #[test]
    fn a_part_is_the_whole_less_the_other_part() {
        let (one, other) = ([(i64::MAX, 1), (i64::MAX, 2)], [(i64::MIN, i64::MIN), (3, 4)]);
        let whole = of(one.into_iter().chain(other));
        assert_eq!(whole - of(one.into_iter()), of(other.into_iter()));
    }

    #[test]
    fn sums_beyond_the_servers_integers_are_read() {
        let read = Digest::read(3, "27670116110564327421", "-5").unwrap();
        assert_eq!(read, of([(i64::MAX, -5), (i64::MAX, 0), (i64::MAX, 0)].into_iter()));
        assert!(Digest::read(1, "1.5", "0").is_err() && Digest::read(-1, "0", "0").is_err());
    }
}

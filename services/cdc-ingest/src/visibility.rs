//! Which transactions a database snapshot sees: the value of `pg_current_snapshot()`.

use std::str::FromStr;

/// `xmin:xmax:xip,…` as PostgreSQL prints it (documentation, "Transaction ID and Snapshot Information Functions").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSnapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

/// Text that is not a snapshot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a pg_snapshot")]
pub struct SnapshotError(String);

impl FromStr for DatabaseSnapshot {
    type Err = SnapshotError;
    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        let bad = || SnapshotError(text.to_owned());
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or_else(bad);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().ok_or_else(bad)?;
        let in_progress = list
            .split(',')
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        Ok(DatabaseSnapshot { xmin, xmax, in_progress })
    }
}

impl DatabaseSnapshot {
    /// Whether the snapshot sees the committed transaction `xid`. The stream names transactions by 32 bits, the snapshot by 64: the
    /// full id is the one nearest to the snapshot.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = widen(xid, self.xmax);
        xid < self.xmin || (xid < self.xmax && !self.in_progress.contains(&xid))
    }
}

fn widen(xid: u32, near: u64) -> u64 {
    let low = u64::from(xid);
    let era = near >> 32;
    let candidates = [era.checked_sub(1), Some(era), Some(era + 1)];
    let full = candidates.into_iter().flatten().map(|era| (era << 32) | low);
    full.min_by_key(|full| full.abs_diff(near)).unwrap_or(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_what_had_ended() {
        let snapshot: DatabaseSnapshot = "10:20:12,15".parse().unwrap();
        let seen: Vec<u32> = (9..22).filter(|&xid| snapshot.sees(xid)).collect();
        assert_eq!(seen, [9, 10, 11, 13, 14, 16, 17, 18, 19]);
        assert!("10:20:".parse::<DatabaseSnapshot>().unwrap().sees(12));
        assert!("10:20".parse::<DatabaseSnapshot>().is_err());
        assert!("a:b:c".parse::<DatabaseSnapshot>().is_err());
    }

    #[test]
    fn ids_are_compared_over_the_wrap_of_32_bits() {
        let era = 1_u64 << 32;
        let snapshot: DatabaseSnapshot = format!("{}:{}:", era + 5, era + 10).parse().unwrap();
        assert!(snapshot.sees(u32::MAX), "the last of the era before");
        assert!(snapshot.sees(9) && !snapshot.sees(10));
        let snapshot: DatabaseSnapshot = format!("{}:{}:", era - 5, era - 2).parse().unwrap();
        assert!(!snapshot.sees(3), "the first of the era behind");
    }
}

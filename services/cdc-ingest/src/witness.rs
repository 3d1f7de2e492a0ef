//! Whether the stream still tells the history that was captured.
//!
//! After a restart the server sends again what was not confirmed. Among it must be the transactions whose records stand last in the
//! topics, and the last one that the state has noted (a copy of a table leaves no transaction at the end of its topic): the same id and
//! commit time at the same position. A server that was restored from a copy of its disk, or a standby that was
//! promoted without its last transactions, has others there, or none.

use std::collections::BTreeMap;

use shared::position::Lsn;
use shared::record::header::Header;

use crate::state::Streamed;

/// The transactions that must come again.
#[derive(Debug, Default)]
pub struct Witnesses {
    /// By commit position: transaction id and commit time.
    expected: BTreeMap<Lsn, (u32, Option<i64>)>,
}

/// The stream tells another history.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "transaction {xid} was captured with its commit at {lsn}, and the server has {found} there: it was restored, or failed over without its last transactions"
)]
pub struct Diverged {
    pub xid: u32,
    pub lsn: Lsn,
    pub found: String,
}

impl Witnesses {
    /// `tails` are the last records of the topics, `noted` is what the state has of this epoch; the server sends from `confirmed` on.
    pub fn new<'a>(
        tails: impl Iterator<Item = &'a Header>,
        noted: Option<Streamed>,
        epoch: u32,
        confirmed: Lsn,
    ) -> Self {
        let of_epoch = tails.filter(|header| header.transaction != 0 && header.version.epoch == epoch);
        let known = of_epoch.map(|header| (header.version.lsn, (header.transaction, header.commit_time_us)));
        let noted = noted.map(|noted| (noted.lsn, (noted.xid, Some(noted.commit_time_us))));
        Witnesses { expected: known.chain(noted).filter(|(lsn, _)| *lsn >= confirmed).collect() }
    }

    /// A transaction begins.
    pub fn begin(&mut self, lsn: Lsn, xid: u32, commit_time_us: i64) -> Result<(), Diverged> {
        match self.expected.remove(&lsn) {
            Some((known, time)) if known != xid || time.is_some_and(|time| time != commit_time_us) => {
                Err(Diverged { xid: known, lsn, found: format!("transaction {xid}") })
            }
            _ => self.passed(lsn),
        }
    }

    /// The stream has passed a position.
    pub fn passed(&mut self, lsn: Lsn) -> Result<(), Diverged> {
        match self.expected.first_key_value() {
            Some((&missed, &(xid, _))) if missed < lsn => Err(Diverged { xid, lsn: missed, found: "none".into() }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::position::Version;
    use shared::record::header::Operation;

    fn witnesses() -> Witnesses {
        let header = |epoch, lsn, transaction| Header {
            transaction,
            commit_time_us: Some(5),
            ..Header::new(Operation::Update, Version { epoch, lsn: Lsn(lsn), ..Version::default() })
        };
        // One of an older epoch, one that is confirmed, one of a snapshot, and two that must come again.
        let tails = [header(1, 50, 1), header(2, 10, 2), header(2, 60, 0), header(2, 30, 3), header(2, 40, 4)];
        Witnesses::new(tails.iter(), None, 2, Lsn(20))
    }

    #[test]
    fn the_same_history_is_taken() {
        let mut witnesses = witnesses();
        for (lsn, xid) in [(25, 9), (30, 3), (35, 10), (40, 4), (70, 11)] {
            assert_eq!(witnesses.begin(Lsn(lsn), xid, 5), Ok(()), "{lsn}");
        }
        assert_eq!(witnesses.passed(Lsn(100)), Ok(()));
    }

    #[test]
    fn what_the_state_has_noted_must_come_again_unless_it_is_confirmed() {
        let noted = |lsn| Some(Streamed { lsn: Lsn(lsn), xid: 3, commit_time_us: 5 });
        let witnesses = |lsn| Witnesses::new([].into_iter(), noted(lsn), 2, Lsn(20));
        assert_eq!(witnesses(30).begin(Lsn(30), 3, 5), Ok(()));
        assert_eq!(witnesses(30).begin(Lsn(31), 4, 5).unwrap_err().lsn, Lsn(30));
        assert_eq!(witnesses(19).begin(Lsn(31), 4, 5), Ok(()));
    }

    #[test]
    fn another_history_is_noticed() {
        assert_eq!(witnesses().begin(Lsn(30), 8, 5).unwrap_err().xid, 3);
        assert_eq!(witnesses().begin(Lsn(30), 3, 6).unwrap_err().lsn, Lsn(30));
        assert_eq!(witnesses().begin(Lsn(31), 8, 5).unwrap_err().lsn, Lsn(30));
        assert_eq!(witnesses().passed(Lsn(31)).unwrap_err().found, "none");
        assert_eq!(witnesses().passed(Lsn(30)), Ok(()));
    }
}

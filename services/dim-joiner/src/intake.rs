//! How far a partition has been taken in: which records come again, and where it goes on after a restart.

use shared::failure::Failure;
use shared::position::{JoinedVersions, ResultVersion, Version};
use shared::record::header::Header;

use crate::facts::PartitionFacts;
use crate::read_back::Ticket;
use crate::waiting::Waiting;

/// The state of one partition beside its facts.
#[derive(Debug, Default)]
pub struct Intake {
    /// Of this assignment.
    pub ticket: Ticket,
    /// The last input offset that was taken in.
    pub last_offset: Option<i64>,
    /// The highest fact version that was taken in.
    pub handled: Version,
    /// Mode `wait`: up to this version a record may have been sent by the instance before, or have waited in it.
    pub unsure_up_to: Version,
    pub waiting: Waiting,
}

impl Intake {
    /// The first offset that is not done: what waits is not.
    pub fn next_offset(&self) -> Option<i64> {
        self.waiting.first_offset().or(self.last_offset.map(|last| last + 1))
    }

    /// Whether this record, or a newer one of its key, was taken in before. In a partition versions only grow. A record that a replay put
    /// back in has an older one: it is new where the partition has come no further than it had then, and its key is not as far.
    pub fn is_repeat(&self, header: &Header, key: &[u8], facts: &PartitionFacts) -> Result<bool, Failure> {
        let at = header.partition_version();
        if at > self.unsure_up_to {
            match header.put_back_at {
                None => return Ok(at <= self.handled),
                Some(at) if at < self.handled => return Ok(true),
                Some(_) => {}
            }
        }
        self.has_of_key(header.version, key, facts)
    }

    fn has_of_key(&self, version: Version, key: &[u8], facts: &PartitionFacts) -> Result<bool, Failure> {
        if self.waiting.newest(key).is_some_and(|newest| newest >= version) {
            return Ok(true);
        }
        let has_this = facts.version_of(key)?.is_some_and(|known| known.fact == version);
        Ok(has_this || facts.has_newer(key, &ResultVersion { fact: version, joined: JoinedVersions::default() })?)
    }
}

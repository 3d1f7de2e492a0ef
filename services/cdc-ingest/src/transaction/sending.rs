//! What goes out: versions, partitions, and what was sent before a restart.

use shared::batch::Outgoing;
use shared::kafka::partitioner::partition;
use shared::position::Version;
use shared::record::header::{Header, Operation};

use super::{Assembler, Position, Transaction};

impl Assembler {
    /// Tombstones for live keys: of a TRUNCATE (`number` is its ordinal), or of rows that a re-read did not find.
    pub fn tombstones<'k>(
        &mut self,
        table: usize,
        number: Option<u32>,
        keys: impl Iterator<Item = &'k [u8]>,
        out: &mut Outgoing<Position>,
    ) {
        for key in keys {
            let Some(place) = self.place(table, key) else { return };
            let header = match (number, self.transaction) {
                (Some(index), Some(transaction)) => {
                    let Some(version) = self.tombstone_version(table, place.1, transaction, index) else {
                        self.repeats += 1;
                        continue;
                    };
                    Header {
                        transaction: transaction.xid,
                        commit_time_us: Some(transaction.commit_time_us),
                        ..Header::new(Operation::Delete, version)
                    }
                }
                _ => Header::new(Operation::Delete, self.next_snapshot_version()),
            };
            self.send(table, place, key, &header, None, out);
        }
    }

    /// The version of a TRUNCATE's next tombstone in a partition. A repeat after a restart goes on behind the tombstones that were sent;
    /// `None` where the partition has something newer already: then all of them were sent, and the live keys are newer rows.
    fn tombstone_version(&self, table: usize, partition: i32, transaction: Transaction, index: u32) -> Option<Version> {
        let first = Version { epoch: self.epoch, lsn: transaction.commit_lsn, index, part: 0 };
        match self.sent.get(&(table, partition)).copied().filter(|sent| *sent >= first) {
            None => Some(first),
            Some(sent) if sent < (Version { part: u32::MAX, ..first }) => {
                Some(Version { part: sent.part + 1, ..first })
            }
            Some(_) => None,
        }
    }

    pub(super) fn touch(&mut self, table: usize, key: &[u8]) {
        if let (Some(merge), Some(transaction)) = (self.merges.get_mut(&table), self.transaction) {
            merge.touch(transaction.xid, key, self.bounds.touched_keys_max);
        }
    }

    pub(super) fn place(&self, table: usize, key: &[u8]) -> Option<(usize, i32)> {
        let captured = self.tables.get(table)?;
        Some((captured.topic, partition(key, captured.partitions)))
    }

    /// `(index, part)` is the change's place in the open transaction.
    pub(super) fn emit(
        &mut self,
        table: usize,
        (index, part): (u32, u32),
        operation: Operation,
        key: &[u8],
        value: Option<&[u8]>,
        out: &mut Outgoing<Position>,
    ) {
        let (Some(place), Some(transaction)) = (self.place(table, key), self.transaction) else { return };
        *self.taken.entry((table, operation)).or_default() += 1;
        let version = Version { epoch: self.epoch, lsn: transaction.commit_lsn, index, part };
        if self.sent.get(&(table, place.1)).is_some_and(|sent| *sent >= version) {
            self.repeats += 1;
            return;
        }
        let header = Header {
            transaction: transaction.xid,
            commit_time_us: Some(transaction.commit_time_us),
            ..Header::new(operation, version)
        };
        self.send(table, place, key, &header, value, out);
    }

    pub(super) fn send(
        &mut self,
        table: usize,
        (topic, partition): (usize, i32),
        key: &[u8],
        header: &Header,
        value: Option<&[u8]>,
        out: &mut Outgoing<Position>,
    ) {
        self.sent.insert((table, partition), header.version);
        self.last = self.last.max(header.version);
        out.push(topic, partition, key, header, value);
    }

    /// A version behind all that was sent, and before every transaction that comes.
    pub(super) fn next_snapshot_version(&mut self) -> Version {
        let part = if self.last.index == Version::SNAPSHOT { self.last.part + 1 } else { 0 };
        self.last = Version { epoch: self.epoch, lsn: self.last.lsn, index: Version::SNAPSHOT, part };
        self.last
    }
}

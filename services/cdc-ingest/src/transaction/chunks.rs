//! Chunks of copies: watched for, offered, and merged between transactions.

use shared::batch::Outgoing;
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};

use super::{Assembler, ChunkDone, Position};
use crate::merge::{Chunk, Merge, Offered};

impl Assembler {
    /// A chunk of a table is about to be read: from here on its changed keys are recorded.
    pub fn watch(&mut self, table: usize, ask: u64) {
        let open = self.transaction.map(|transaction| transaction.xid);
        self.merges.insert(table, Merge::new(ask, &self.recent, open));
    }

    /// Nobody waits for a chunk of the table any more.
    pub fn give_up(&mut self, table: usize) {
        self.merges.remove(&table);
    }

    /// A chunk was read.
    pub fn offer(&mut self, chunk: Chunk, out: &mut Outgoing<Position>) -> Offered {
        let Some(merge) = self.merges.get_mut(&chunk.table) else { return Offered::Stale };
        let offered = merge.offer(chunk, &self.recent);
        if offered == Offered::Taken {
            self.merge_due(out);
        }
        offered
    }

    /// Tables whose chunk became void while it waited: it must be taken again.
    pub fn take_void(&mut self) -> Vec<usize> {
        let spoilt = self.merges.iter().filter(|(_, merge)| merge.is_spoilt()).map(|(table, _)| *table);
        let spoilt: Vec<usize> = spoilt.collect();
        spoilt.iter().for_each(|table| self.give_up(*table));
        spoilt
    }

    pub(super) fn merge_due(&mut self, out: &mut Outgoing<Position>) {
        if self.transaction.is_some() {
            return;
        }
        let tables: Vec<usize> = self.merges.keys().copied().collect();
        for table in tables {
            let due = self.merges.get_mut(&table).and_then(|merge| merge.take_due(self.passed));
            if let Some((chunk, merge)) = due.and_then(|chunk| Some((chunk, self.merges.remove(&table)?))) {
                self.merge(&merge, chunk, out);
            }
        }
    }

    fn merge(&mut self, merge: &Merge, chunk: Chunk, out: &mut Outgoing<Position>) {
        let newer = merge.newer(&chunk);
        let behind = Lsn(chunk.read_at.0.saturating_sub(1));
        self.last = self.last.max(Version { epoch: self.epoch, lsn: behind, index: Version::SNAPSHOT, part: 0 });
        for row in chunk.rows.iter().filter(|row| !newer.contains(row.key.as_slice())) {
            let Some(place) = self.place(chunk.table, &row.key) else { continue };
            let operation = if row.value.is_some() { Operation::Snapshot } else { Operation::Delete };
            let header = Header::new(operation, self.next_snapshot_version());
            self.send(chunk.table, place, &row.key, &header, row.value.as_deref(), out);
        }
        let rows = chunk.rows.len() as u64;
        *self.taken.entry((chunk.table, Operation::Snapshot)).or_default() += rows;
        out.position.chunks.push(ChunkDone { table: chunk.table, ask: chunk.ask, rows, last_key: chunk.last_key });
    }
}

//! From the stream to numbered records: transactions, their order, and the chunks of copies that enter between them.
//!
//! Everything here is a function of what was seen; it knows no client and no clock.
//!
//! ```text
//!  Begin ─▶ Relation · Insert · Update · Delete · Truncate ─▶ Commit        by commit LSN, then the change's ordinal
//!                 │ described       │ change: old and new key, row
//!                 ▼                 ▼
//!            Outcome: done, or what the shell must do first                 chunks enter between transactions (merge)
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use shared::batch::Outgoing;
use shared::kafka::partitioner::partition;
use shared::pg::TableName;
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};

use crate::change::{Change, Keys, Reread};
use crate::decode::{DecodeError, Message, Old, Relation, Tuple, decode, relation_of};
use crate::described::Described;
use crate::merge::{Chunk, Merge, Offered, Recent};
use crate::row::Shape;
use crate::state::Streamed;
use crate::visibility::DatabaseSnapshot;
use crate::witness::{Diverged, Witnesses};

/// A captured table.
#[derive(Debug, Clone)]
pub struct Captured {
    pub oid: u32,
    /// For messages.
    pub name: TableName,
    /// Index in the publisher's list of topics.
    pub topic: usize,
    pub partitions: i32,
    /// Names of the key's columns, in its order.
    pub key: Vec<String>,
    /// Its changes go into the topic. Otherwise they are passed over, and the table is read again before it is carried again.
    pub carried: bool,
    /// Changes that were committed before are passed over: the table is read behind that.
    pub since: Lsn,
}

/// What holds once all records so far are acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The slot may be confirmed up to here: the end of a commit, or an idle server's position.
    pub confirm: Option<Lsn>,
    /// The state topic knows that the server may be told this.
    pub tell: Option<Lsn>,
    /// Chunks whose rows are all in.
    pub chunks: Vec<ChunkDone>,
}

/// A chunk that was merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkDone {
    pub table: usize,
    pub ask: u64,
    pub rows: u64,
    /// The chunk's last key, as text; `None` when the table had no more rows.
    pub last_key: Option<Vec<String>>,
}

/// What the shell must do before the stream goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// A TOASTed value is not in the stream: read the row by its key and call [`Assembler::change`] again with it.
    NeedsRow {
        table: usize,
        key: Vec<String>,
    },
    /// These types may be domains: look up what is beneath, tell [`Assembler::learn_types`], and call [`Assembler::change`] again.
    NeedsTypes(Vec<u32>),
    /// These tables (indexes) were emptied: find their live keys and call [`Assembler::tombstones`] for each.
    Truncated {
        tables: Vec<usize>,
        number: u32,
    },
    /// The table's key is another one than before. It is carried no longer until somebody has looked at it.
    Unsettled {
        table: usize,
    },
    /// The table cannot be carried on. The others go on.
    Stopped {
        table: usize,
        why: String,
    },
}

/// Why the stream cannot be carried on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the WAL stream cannot be read")]
    Decode(#[from] DecodeError),
    #[error("a row came for relation {0}, which was not described before")]
    UnknownRelation(u32),
    #[error("a row came outside of a transaction")]
    NoTransaction,
    #[error("the server tells another history than the one that was captured")]
    Diverged(#[from] Diverged),
}

#[derive(Debug, Clone, Copy)]
struct Transaction {
    xid: u32,
    commit_lsn: Lsn,
    commit_time_us: i64,
    next_index: u32,
}

/// Bounds of the assembler.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Transactions remembered to find one that was streamed and is not visible yet.
    pub recent_transactions_max: usize,
    /// Keys remembered while a chunk is on its way; beyond it the chunk is taken again.
    pub touched_keys_max: usize,
    /// Larger records are not taken by Kafka.
    pub record_bytes_max: usize,
}

/// What a restart knows of the time before.
#[derive(Debug, Default)]
pub struct Before {
    pub epoch: u32,
    /// The version of the last record of each partition, by (table, partition).
    pub sent: HashMap<(usize, i32), Version>,
    /// Transactions that were streamed and may not be visible yet.
    pub unseen: Vec<u32>,
    pub witnesses: Witnesses,
}

/// What a change is written into before it goes out; used again for the next.
#[derive(Debug, Default)]
struct Buffers {
    old_key: Vec<u8>,
    new_key: Vec<u8>,
    value: Vec<u8>,
}

/// Numbers the stream's rows and merges chunks.
pub struct Assembler {
    epoch: u32,
    tables: Vec<Captured>,
    by_oid: HashMap<u32, usize>,
    /// The chunk that each table waits for.
    merges: BTreeMap<usize, Merge>,
    /// By relation id.
    described: HashMap<u32, Described>,
    /// What is beneath a type that may be a domain.
    types: HashMap<u32, u32>,
    transaction: Option<Transaction>,
    /// The last version of each partition, by (table, partition): what is at or below it was sent before a restart.
    sent: HashMap<(usize, i32), Version>,
    last: Version,
    passed: Lsn,
    recent: Recent,
    /// The last transaction that is whole.
    streamed: Option<Streamed>,
    witnesses: Witnesses,
    bounds: Bounds,
    buffers: Buffers,
    /// Rows taken in since the shell last looked, by table and operation.
    pub taken: BTreeMap<(usize, Operation), u64>,
    /// Changes of tables that are not carried, by table.
    pub passed_over: BTreeMap<usize, u64>,
    /// Tables whose columns or names changed.
    pub reshaped: Vec<usize>,
    /// Changes that were skipped since they had been sent before a restart.
    pub repeats: u64,
    /// Rows read again for an unchanged TOASTed value that are gone by now.
    pub vanished: u64,
}

/// The size of a record as Kafka counts it, at most.
pub fn record_bytes(key: &[u8], value: &[u8]) -> usize {
    const OVERHEAD_BYTES: usize = 512;
    key.len() + value.len() + OVERHEAD_BYTES
}

impl Assembler {
    pub fn new(tables: Vec<Captured>, before: Before, bounds: Bounds) -> Self {
        let first = Version { epoch: before.epoch, ..Version::default() };
        let last = before.sent.values().copied().max().unwrap_or(first).max(first);
        Assembler {
            epoch: before.epoch,
            by_oid: tables.iter().enumerate().map(|(index, captured)| (captured.oid, index)).collect(),
            tables,
            merges: BTreeMap::new(),
            described: HashMap::new(),
            types: HashMap::new(),
            transaction: None,
            sent: before.sent,
            last,
            passed: Lsn(0),
            recent: Recent::new(&before.unseen, bounds.recent_transactions_max),
            streamed: None,
            witnesses: before.witnesses,
            bounds,
            buffers: Buffers::default(),
            taken: BTreeMap::new(),
            passed_over: BTreeMap::new(),
            reshaped: Vec::new(),
            repeats: 0,
            vanished: 0,
        }
    }

    pub fn tables(&self) -> &[Captured] {
        &self.tables
    }

    /// A further table; gives its index. `sent` are the last versions in its topic, by partition.
    pub fn add(&mut self, table: Captured, sent: &HashMap<i32, Version>) -> usize {
        let index = self.tables.len();
        self.sent.extend(sent.iter().map(|(partition, version)| ((index, *partition), *version)));
        self.last = sent.values().copied().max().map_or(self.last, |sent| self.last.max(sent));
        self.by_oid.insert(table.oid, index);
        self.tables.push(table);
        index
    }

    /// A table is not carried from here on; a chunk of it that is on its way is of no use.
    pub fn set_aside(&mut self, table: usize) {
        self.merges.remove(&table);
        if let Some(captured) = self.tables.get_mut(table) {
            captured.carried = false;
        }
    }

    /// A table is carried from here on, as what it is now. It must be read anew; what was committed before `since` is passed over.
    pub fn settle(&mut self, table: usize, oid: u32, name: TableName, key: Vec<String>, since: Lsn) {
        self.merges.remove(&table);
        let Some(captured) = self.tables.get_mut(table) else { return };
        // What it was may be another one's by now.
        if self.by_oid.get(&captured.oid) == Some(&table) {
            self.by_oid.remove(&captured.oid);
        }
        self.by_oid.insert(oid, table);
        *captured = Captured { oid, name, key, since, carried: true, ..captured.clone() };
        if let Some(described) = self.described.get_mut(&oid) {
            described.forget_shape();
        }
    }

    /// The name that messages show.
    pub fn rename(&mut self, table: usize, name: TableName) {
        if let Some(captured) = self.tables.get_mut(table) {
            captured.name = name;
        }
    }

    /// Names of a table's columns as the stream last described it, for reading a row again.
    pub fn columns(&self, table: usize) -> Vec<String> {
        let oid = self.tables.get(table).map(|captured| captured.oid);
        let described = oid.and_then(|oid| self.described.get(&oid));
        described.map(|found| found.column_names().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// What is beneath types that may be domains. A type that is gone is taken as it stands.
    pub fn learn_types(&mut self, asked: &[u32], beneath: &HashMap<u32, u32>) {
        self.types.extend(asked.iter().map(|oid| (*oid, beneath.get(oid).copied().unwrap_or(*oid))));
    }

    /// Others see the transactions of this snapshot.
    pub fn forget_seen(&mut self, snapshot: &DatabaseSnapshot) {
        self.recent.forget_seen(snapshot);
    }

    /// Transactions that were streamed and that others may not see yet.
    pub fn unseen(&self) -> Vec<u32> {
        self.recent.unseen()
    }

    /// The last transaction that the stream brought since the start.
    pub fn streamed(&self) -> Option<Streamed> {
        self.streamed
    }

    /// The highest version so far: whatever a copy finds gets a higher one.
    pub fn last(&self) -> Version {
        self.last
    }

    /// Whether the table's topic has anything of an earlier time.
    pub fn has_sent(&self, table: usize) -> bool {
        self.sent.keys().any(|(sent, _)| *sent == table)
    }

    /// How far the stream has come.
    pub fn passed(&self) -> Lsn {
        self.passed
    }

    /// Begin of a transaction. A chunk whose time has come goes in before it.
    pub fn begin(
        &mut self,
        commit_lsn: Lsn,
        xid: u32,
        commit_time_us: i64,
        out: &mut Outgoing<Position>,
    ) -> Result<(), StreamError> {
        self.witnesses.begin(commit_lsn, xid, commit_time_us)?;
        self.pass(commit_lsn, out);
        self.transaction = Some(Transaction { xid, commit_lsn, commit_time_us, next_index: 0 });
        Ok(())
    }

    /// Commit: everything up to here is whole.
    pub fn commit(&mut self, end_lsn: Lsn, out: &mut Outgoing<Position>) {
        if let Some(Transaction { xid, commit_lsn: lsn, commit_time_us, .. }) = self.transaction.take() {
            self.recent.push(xid);
            self.streamed = Some(Streamed { lsn, xid, commit_time_us });
        }
        out.position.confirm = Some(end_lsn);
        self.pass(end_lsn, out);
    }

    /// The server has nothing before this position that it has not sent.
    pub fn keepalive(&mut self, wal_end: Lsn, out: &mut Outgoing<Position>) -> Result<(), StreamError> {
        if self.transaction.is_some() {
            return Ok(());
        }
        self.witnesses.passed(wal_end)?;
        out.position.confirm = out.position.confirm.max(Some(wal_end));
        self.pass(wal_end, out);
        Ok(())
    }

    fn pass(&mut self, position: Lsn, out: &mut Outgoing<Position>) {
        self.passed = self.passed.max(position);
        self.merge_due(out);
    }

    /// One message of the open transaction.
    pub fn change(
        &mut self,
        bytes: &[u8],
        reread: Option<&Reread>,
        out: &mut Outgoing<Position>,
    ) -> Result<Outcome, StreamError> {
        let message = match decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.unreadable(bytes, error),
        };
        match message {
            Message::Relation(relation) => Ok(self.describe(&relation)),
            Message::Ignored => Ok(Outcome::Done),
            Message::Insert { relation, new } => {
                self.row_change(relation, Operation::Insert, None, Some(new), reread, out)
            }
            Message::Update { relation, old, new } => {
                self.row_change(relation, Operation::Update, old, Some(new), reread, out)
            }
            Message::Delete { relation, old } => {
                self.row_change(relation, Operation::Delete, Some(old), None, reread, out)
            }
            Message::Truncate { relations } => self.truncate(&relations),
        }
    }

    /// A row that cannot be read stops its table only.
    fn unreadable(&mut self, bytes: &[u8], error: DecodeError) -> Result<Outcome, StreamError> {
        let Some(relation) = relation_of(bytes).filter(|_| error == DecodeError::NotUtf8) else {
            return Err(error.into());
        };
        self.number()?;
        match self.carried(relation) {
            Some(table) => Ok(self.stop(table, error.to_string())),
            None => Ok(Outcome::Done),
        }
    }

    fn stop(&mut self, table: usize, why: String) -> Outcome {
        self.set_aside(table);
        Outcome::Stopped { table, why }
    }

    /// The index of the table that a relation is, if the open transaction's changes of it are carried.
    fn carried(&self, relation: u32) -> Option<usize> {
        let table = *self.by_oid.get(&relation)?;
        let captured = self.tables.get(table)?;
        let committed = self.transaction.map_or(Lsn(0), |transaction| transaction.commit_lsn);
        (captured.carried && committed >= captured.since).then_some(table)
    }

    fn describe(&mut self, relation: &Relation<'_>) -> Outcome {
        let described = Described::new(relation);
        let before = self.described.insert(relation.id, described);
        let Some(table) = self.carried(relation.id) else { return Outcome::Done };
        if let (Some(before), Some(now)) = (before, self.described.get(&relation.id))
            && !before.is_alike(now)
        {
            self.reshaped.push(table);
        }
        self.shape(relation.id, table).err().unwrap_or(Outcome::Done)
    }

    /// The shape of a table's rows, or what must be done first.
    fn shape(&mut self, relation: u32, table: usize) -> Result<Arc<Shape>, Outcome> {
        let (Some(described), Some(captured)) = (self.described.get_mut(&relation), self.tables.get(table)) else {
            return Err(Outcome::Unsettled { table });
        };
        if let Some(shape) = described.shape() {
            return Ok(Arc::clone(shape));
        }
        let unknown = described.unknown_types(&self.types);
        if !unknown.is_empty() {
            return Err(Outcome::NeedsTypes(unknown));
        }
        let shape = match described.bears(&captured.key) {
            true => described.make_shape(&captured.name, &captured.key, &self.types).ok(),
            false => None,
        };
        shape.ok_or_else(|| {
            self.set_aside(table);
            Outcome::Unsettled { table }
        })
    }

    fn row_change(
        &mut self,
        relation: u32,
        operation: Operation,
        old: Option<Old<'_>>,
        new: Option<Tuple<'_>>,
        reread: Option<&Reread>,
        out: &mut Outgoing<Position>,
    ) -> Result<Outcome, StreamError> {
        if !self.described.contains_key(&relation) {
            return Err(StreamError::UnknownRelation(relation));
        }
        let Some(table) = self.carried(relation) else {
            // Counted as well, so that a change's number does not depend on what is captured.
            self.number()?;
            self.pass_over(relation);
            return Ok(Outcome::Done);
        };
        let shape = match self.shape(relation, table) {
            Ok(shape) => shape,
            Err(outcome @ Outcome::Unsettled { .. }) => {
                self.number()?;
                return Ok(outcome);
            }
            Err(outcome) => return Ok(outcome),
        };
        let change = Change { shape: &shape, old, new };
        if change.lacks_values() && reread.is_none() {
            return Ok(Outcome::NeedsRow { table, key: change.key_values() });
        }
        let number = self.number()?;
        let mut buffers = std::mem::take(&mut self.buffers);
        let done = self.carry(table, number, operation, &change, reread, &mut buffers, out);
        self.buffers = buffers;
        Ok(done)
    }

    /// One change of a carried table: a tombstone for a key that goes, the row under the key that comes.
    #[expect(clippy::too_many_arguments, reason = "one change, spelled out")]
    fn carry(
        &mut self,
        table: usize,
        number: u32,
        operation: Operation,
        change: &Change<'_>,
        reread: Option<&Reread>,
        Buffers { old_key, new_key, value }: &mut Buffers,
        out: &mut Outgoing<Position>,
    ) -> Outcome {
        let keys = change.write_keys(old_key, new_key);
        let Keys { goes, comes } = match keys {
            Ok(keys) => keys,
            Err(error) => return self.stop(table, error.to_string()),
        };
        if goes {
            self.touch(table, old_key);
            self.emit(table, (number, 0), Operation::Delete, old_key, None, out);
        }
        if !comes {
            return Outcome::Done;
        }
        self.touch(table, new_key);
        value.clear();
        if !change.write_value(reread, value) {
            self.vanished += 1;
            return Outcome::Done;
        }
        let bytes = record_bytes(new_key, value);
        if bytes > self.bounds.record_bytes_max {
            return self.stop(table, too_large(new_key, bytes, self.bounds.record_bytes_max));
        }
        self.emit(table, (number, 1), operation, new_key, Some(value), out);
        Outcome::Done
    }

    fn truncate(&mut self, relations: &[u32]) -> Result<Outcome, StreamError> {
        let mut tables = Vec::new();
        for relation in relations {
            match self.carried(*relation) {
                Some(table) => {
                    // A chunk that is on its way was read before: all of its rows may be gone.
                    self.merges.get_mut(&table).into_iter().for_each(Merge::make_void);
                    tables.push(table);
                }
                None => self.pass_over(*relation),
            }
        }
        Ok(Outcome::Truncated { tables, number: self.number()? })
    }

    /// The ordinal of the next change in the open transaction.
    fn number(&mut self) -> Result<u32, StreamError> {
        let transaction = self.transaction.as_mut().ok_or(StreamError::NoTransaction)?;
        let index = transaction.next_index;
        transaction.next_index += 1;
        Ok(index)
    }

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

    /// A transaction is open in the stream.
    pub fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// A change that is not carried: a chunk that is on its way must have seen it.
    fn pass_over(&mut self, relation: u32) {
        let Some(&table) = self.by_oid.get(&relation) else { return };
        *self.passed_over.entry(table).or_default() += 1;
        if let (Some(merge), Some(transaction)) = (self.merges.get_mut(&table), self.transaction) {
            merge.pass_over(transaction.xid);
        }
    }

    fn touch(&mut self, table: usize, key: &[u8]) {
        if let (Some(merge), Some(transaction)) = (self.merges.get_mut(&table), self.transaction) {
            merge.touch(transaction.xid, key, self.bounds.touched_keys_max);
        }
    }

    fn place(&self, table: usize, key: &[u8]) -> Option<(usize, i32)> {
        let captured = self.tables.get(table)?;
        Some((captured.topic, partition(key, captured.partitions)))
    }

    /// `(index, part)` is the change's place in the open transaction.
    fn emit(
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

    fn send(
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

    fn merge_due(&mut self, out: &mut Outgoing<Position>) {
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
            let header = Header::new(Operation::Snapshot, self.next_snapshot_version());
            self.send(chunk.table, place, &row.key, &header, Some(&row.value), out);
        }
        let rows = chunk.rows.len() as u64;
        *self.taken.entry((chunk.table, Operation::Snapshot)).or_default() += rows;
        out.position.chunks.push(ChunkDone { table: chunk.table, ask: chunk.ask, rows, last_key: chunk.last_key });
    }

    /// A version behind all that was sent, and before every transaction that comes.
    fn next_snapshot_version(&mut self) -> Version {
        let part = if self.last.index == Version::SNAPSHOT { self.last.part + 1 } else { 0 };
        self.last = Version { epoch: self.epoch, lsn: self.last.lsn, index: Version::SNAPSHOT, part };
        self.last
    }
}

/// Why a row cannot be carried that is larger than Kafka takes.
pub fn too_large(key: &[u8], bytes: usize, max: usize) -> String {
    format!(
        "the row with key {} would be a record of {bytes} bytes, and kafka.topics.record_bytes_max is {max}: raise it, and max.message.bytes of the topics",
        String::from_utf8_lossy(key)
    )
}

#[cfg(test)]
mod tests;

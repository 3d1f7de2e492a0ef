//! From the stream to numbered records: transactions, their order, and the chunks of a snapshot that enter between them.
//!
//! Everything here is a function of what was seen; it knows no client and no clock.
//!
//! A chunk's rows were read at some moment in a database snapshot S; `L` is a WAL position behind that moment. They enter the stream
//! once it has passed `L`. By then every transaction that S sees has been streamed before. A transaction that S does not see and that
//! was streamed since the chunk was asked for has newer rows: their keys ([`Merge::touched`]) are left out of the chunk. If a
//! transaction streamed *before* that is not visible to S (its commit is in the WAL a moment before it is visible), the chunk is
//! taken again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use shared::batch::Outgoing;
use shared::kafka::partitioner::partition;
use shared::pg::TableName;
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};

use crate::decode::{Cell, DecodeError, Message, Old, Relation, Tuple, decode};
use crate::row::{Shape, ShapeError};
use crate::visibility::DatabaseSnapshot;

/// A captured table, as configured.
#[derive(Debug, Clone)]
pub struct Captured {
    pub table: TableName,
    /// Index in the publisher's list of topics.
    pub topic: usize,
    pub partitions: i32,
    /// Names of the primary key's columns, in its order.
    pub key: Vec<String>,
}

/// What holds once all records so far are acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The slot may be confirmed up to here: the end of a commit, or an idle server's position.
    pub confirm: Option<Lsn>,
    /// A chunk whose rows are all in.
    pub chunk: Option<ChunkDone>,
}

/// A chunk that was merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkDone {
    pub table: usize,
    pub rows: u64,
    /// The chunk's last key, as text; `None` when the table had no more rows.
    pub last_key: Option<Vec<String>>,
}

/// Rows of a table that were read in one database snapshot.
#[derive(Debug)]
pub struct Chunk {
    /// Index of the captured table.
    pub table: usize,
    pub snapshot: DatabaseSnapshot,
    /// The WAL's insert position after the rows were read.
    pub read_at: Lsn,
    pub rows: Vec<ChunkRow>,
    pub last_key: Option<Vec<String>>,
}

/// One row of a chunk, as JSON.
#[derive(Debug)]
pub struct ChunkRow {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
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
    /// These tables (indexes) were emptied: find their live keys and call [`Assembler::tombstones`] for each.
    Truncated {
        tables: Vec<usize>,
        number: u32,
    },
}

/// A row that was read again from the source: its columns' text, in the order of the stream's columns; `None` when it is gone.
pub type Reread = Option<Vec<Option<String>>>;

/// What happened to a chunk that was offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    /// It waits for the stream, or went in.
    Taken,
    /// A transaction that was streamed before is not visible in it: take it again.
    TakeAgain,
}

/// Why the stream cannot be carried on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the WAL stream cannot be read")]
    Decode(#[from] DecodeError),
    #[error("a row cannot be carried")]
    Shape(#[from] ShapeError),
    #[error("a row came for relation {0}, which was not described before")]
    UnknownRelation(u32),
    #[error("a row came outside of a transaction")]
    NoTransaction,
}

#[derive(Debug, Clone, Copy)]
struct Transaction {
    xid: u32,
    commit_lsn: Lsn,
    commit_time_us: i64,
    next_index: u32,
}

/// The state of a snapshot's merge into the stream.
#[derive(Debug, Default)]
struct Merge {
    /// A chunk has been asked for: keys are recorded.
    watching: bool,
    /// Transactions streamed before the chunk was asked for: the marks of `recent` at that time.
    streamed_before: u64,
    /// The transaction that was open in the stream at that time: its keys so far are not recorded.
    open_at_watch: Option<u32>,
    /// Keys changed since then, with their transaction.
    touched: Vec<(u32, usize, Vec<u8>)>,
    waiting: Option<Chunk>,
    /// The watch went on for too long, or the table was emptied meanwhile.
    void: bool,
}

/// Bounds of the assembler.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Transactions remembered to find one that was streamed and is not visible yet.
    pub recent_transactions_max: usize,
    /// Keys remembered while a chunk is on its way; beyond it the chunk is taken again.
    pub touched_keys_max: usize,
}

/// A captured table as the stream describes it.
#[derive(Debug)]
struct Described {
    /// Index of the captured table.
    index: usize,
    table: TableName,
    shape: Shape,
}

/// Numbers the stream's rows and merges chunks.
pub struct Assembler {
    epoch: u32,
    tables: Vec<Captured>,
    /// By relation id; `None` for a table of the publication that is not configured here.
    described: HashMap<u32, Option<Arc<Described>>>,
    transaction: Option<Transaction>,
    /// The last version of each partition, by (table, partition): what is at or below it was sent before a restart.
    sent: HashMap<(usize, i32), Version>,
    last: Version,
    passed: Lsn,
    recent: VecDeque<u32>,
    recent_count: u64,
    merge: Merge,
    bounds: Bounds,
    /// Rows taken in since the shell last looked, by table and operation.
    pub taken: BTreeMap<(usize, Operation), u64>,
    /// Changes that were skipped since they had been sent before a restart.
    pub repeats: u64,
    /// Rows read again for an unchanged TOASTed value that are gone by now.
    pub vanished: u64,
}

impl Assembler {
    /// `sent` has the version of the last record of each partition, by index of the table.
    pub fn new(epoch: u32, tables: Vec<Captured>, sent: HashMap<(usize, i32), Version>, bounds: Bounds) -> Self {
        let first = Version { epoch, ..Version::default() };
        let last = sent.values().copied().max().unwrap_or(first).max(first);
        Assembler {
            epoch,
            tables,
            described: HashMap::new(),
            transaction: None,
            sent,
            last,
            passed: Lsn(0),
            recent: VecDeque::new(),
            recent_count: 0,
            merge: Merge::default(),
            bounds,
            taken: BTreeMap::new(),
            repeats: 0,
            vanished: 0,
        }
    }

    pub fn tables(&self) -> &[Captured] {
        &self.tables
    }

    /// Columns of a table as the stream last described it, for reading a row again.
    pub fn columns(&self, table: usize) -> Vec<String> {
        let described = self.described.values().flatten().find(|described| described.index == table);
        described.map(|found| found.shape.column_names().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// Begin of a transaction. A chunk whose time has come goes in before it.
    pub fn begin(&mut self, commit_lsn: Lsn, xid: u32, commit_time_us: i64, out: &mut Outgoing<Position>) {
        self.pass(commit_lsn, out);
        self.transaction = Some(Transaction { xid, commit_lsn, commit_time_us, next_index: 0 });
    }

    /// Commit: everything up to here is whole.
    pub fn commit(&mut self, end_lsn: Lsn, out: &mut Outgoing<Position>) {
        if let Some(transaction) = self.transaction.take() {
            if self.recent.len() >= self.bounds.recent_transactions_max {
                self.recent.pop_front();
            }
            self.recent.push_back(transaction.xid);
            self.recent_count += 1;
        }
        out.position.confirm = Some(end_lsn);
        self.pass(end_lsn, out);
    }

    /// The server has nothing before this position that it has not sent.
    pub fn keepalive(&mut self, wal_end: Lsn, out: &mut Outgoing<Position>) {
        if self.transaction.is_some() {
            return;
        }
        out.position.confirm = out.position.confirm.max(Some(wal_end));
        self.pass(wal_end, out);
    }

    fn pass(&mut self, position: Lsn, out: &mut Outgoing<Position>) {
        self.passed = self.passed.max(position);
        self.merge_chunk(out);
    }

    /// One message of the open transaction.
    pub fn change(
        &mut self,
        bytes: &[u8],
        reread: Option<&Reread>,
        out: &mut Outgoing<Position>,
    ) -> Result<Outcome, StreamError> {
        match decode(bytes)? {
            Message::Relation(relation) => self.describe(&relation).map(|()| Outcome::Done),
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

    fn describe(&mut self, relation: &Relation<'_>) -> Result<(), StreamError> {
        let name = TableName { schema: relation.schema.to_owned(), name: relation.name.to_owned() };
        let captured = self.tables.iter().enumerate().find(|(_, captured)| captured.table == name);
        let described = match captured {
            None => None,
            Some((index, captured)) => {
                let columns = relation.columns.iter().map(|column| (column.name, column.type_oid));
                let shape = Shape::new(&captured.table, columns, &captured.key)?;
                Some(Arc::new(Described { index, table: name, shape }))
            }
        };
        self.described.insert(relation.id, described);
        Ok(())
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
        let described = self.described.get(&relation).ok_or(StreamError::UnknownRelation(relation))?.clone();
        let Some(described) = described else {
            // Counted as well, so that a change's number does not depend on the configuration.
            self.number()?;
            return Ok(Outcome::Done);
        };
        let index = described.index;
        let change = Change { described: &described, old, new };
        if change.lacks_values() && reread.is_none() {
            let key = new.map(|new| described.shape.key_values(new.cells())).unwrap_or_default();
            return Ok(Outcome::NeedsRow { table: index, key });
        }
        let number = self.number()?;
        let (old_key, new_key) = change.keys()?;
        if let Some(old_key) = old_key.filter(|old_key| Some(old_key) != new_key.as_ref()) {
            self.touch(index, &old_key);
            self.emit(index, number, 0, Operation::Delete, &old_key, None, out);
        }
        let Some(new_key) = new_key else { return Ok(Outcome::Done) };
        self.touch(index, &new_key);
        let mut value = Vec::new();
        if change.write_value(reread, &mut value) {
            self.emit(index, number, 1, operation, &new_key, Some(&value), out);
        } else {
            self.vanished += 1;
        }
        Ok(Outcome::Done)
    }

    fn truncate(&mut self, relations: &[u32]) -> Result<Outcome, StreamError> {
        let mut tables = Vec::new();
        for relation in relations {
            let described = self.described.get(relation).ok_or(StreamError::UnknownRelation(*relation))?;
            tables.extend(described.as_ref().map(|described| described.index));
        }
        // A chunk that is on its way was read before: all of its rows may be gone.
        self.merge.void |= self.merge.watching;
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

    fn touch(&mut self, table: usize, key: &[u8]) {
        let Some(transaction) = self.transaction else { return };
        if !self.merge.watching || self.merge.void {
            return;
        }
        if self.merge.touched.len() >= self.bounds.touched_keys_max {
            self.merge.void = true;
            self.merge.touched.clear();
            return;
        }
        self.merge.touched.push((transaction.xid, table, key.to_vec()));
    }

    fn place(&self, table: usize, key: &[u8]) -> Option<(usize, i32)> {
        let captured = self.tables.get(table)?;
        Some((captured.topic, partition(key, captured.partitions)))
    }

    #[expect(clippy::too_many_arguments, reason = "one change, spelled out")]
    fn emit(
        &mut self,
        table: usize,
        index: u32,
        part: u32,
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

    /// A chunk is about to be read: from here on changed keys are recorded.
    pub fn watch(&mut self) {
        self.merge = Merge {
            watching: true,
            streamed_before: self.recent_count,
            open_at_watch: self.transaction.map(|transaction| transaction.xid),
            ..Merge::default()
        };
    }

    /// A chunk was read.
    pub fn offer(&mut self, chunk: Chunk, out: &mut Outgoing<Position>) -> Offered {
        let streamed_since = usize::try_from(self.recent_count - self.merge.streamed_before).unwrap_or(usize::MAX);
        let before = self.recent.len().saturating_sub(streamed_since);
        let mut streamed = self.recent.iter().take(before).chain(&self.merge.open_at_watch);
        if self.merge.void || streamed.any(|&xid| !chunk.snapshot.sees(xid)) {
            return Offered::TakeAgain;
        }
        self.merge.waiting = Some(chunk);
        self.merge_chunk(out);
        Offered::Taken
    }

    /// The chunk that waits became void: it must be taken again.
    pub fn take_void(&mut self) -> bool {
        let void = self.merge.void && self.merge.waiting.is_some();
        if void {
            self.merge.waiting = None;
        }
        void
    }

    /// How far the stream has come.
    pub fn passed(&self) -> Lsn {
        self.passed
    }

    fn merge_chunk(&mut self, out: &mut Outgoing<Position>) {
        let due = self.merge.waiting.as_ref().is_some_and(|chunk| chunk.read_at <= self.passed);
        if !due || self.merge.void || self.transaction.is_some() || out.position.chunk.is_some() {
            return;
        }
        let Some(chunk) = self.merge.waiting.take() else { return };
        let newer: HashSet<&[u8]> = self
            .merge
            .touched
            .iter()
            .filter(|(xid, table, _)| *table == chunk.table && !chunk.snapshot.sees(*xid))
            .map(|(_, _, key)| key.as_slice())
            .collect();
        let rows: Vec<&ChunkRow> = chunk.rows.iter().filter(|row| !newer.contains(row.key.as_slice())).collect();
        self.last = self.last.max(Version {
            epoch: self.epoch,
            lsn: Lsn(chunk.read_at.0.saturating_sub(1)),
            index: Version::SNAPSHOT,
            part: 0,
        });
        let mut numbered = Vec::with_capacity(rows.len());
        for row in rows {
            numbered.push((row, self.next_snapshot_version()));
        }
        for (row, version) in numbered {
            let Some(place) = self.place(chunk.table, &row.key) else { continue };
            self.sent.insert((chunk.table, place.1), version);
            let header = Header::new(Operation::Snapshot, version);
            out.push(place.0, place.1, &row.key, &header, Some(&row.value));
        }
        let rows = chunk.rows.len() as u64;
        *self.taken.entry((chunk.table, Operation::Snapshot)).or_default() += rows;
        out.position.chunk = Some(ChunkDone { table: chunk.table, rows, last_key: chunk.last_key });
        self.merge = Merge::default();
    }

    /// A version behind all that was sent, and before every transaction that comes.
    fn next_snapshot_version(&mut self) -> Version {
        let part = if self.last.index == Version::SNAPSHOT { self.last.part + 1 } else { 0 };
        self.last = Version { epoch: self.epoch, lsn: self.last.lsn, index: Version::SNAPSHOT, part };
        self.last
    }
}

/// A record's key, where the change has one.
type Key = Option<Vec<u8>>;

/// One change of a row, with what is needed to write it.
struct Change<'a> {
    described: &'a Described,
    old: Option<Old<'a>>,
    new: Option<Tuple<'a>>,
}

impl Change<'_> {
    /// The new row's cells; an unchanged one is taken from the old row, where that is whole.
    fn filled(&self) -> Option<impl Iterator<Item = Cell<'_>> + Clone> {
        let old = self.old.filter(|old| old.whole).map(|old| old.tuple);
        let mut old = old.into_iter().flat_map(|old| old.cells());
        let new = self.new?;
        Some(new.cells().map(move |cell| {
            let before = old.next();
            if cell == Cell::Unchanged { before.unwrap_or(Cell::Unchanged) } else { cell }
        }))
    }

    fn lacks_values(&self) -> bool {
        self.new.is_some_and(Tuple::has_unchanged)
            && self.filled().is_some_and(|mut cells| cells.any(|cell| cell == Cell::Unchanged))
    }

    /// The old key (where the stream has one) and the new key, as JSON.
    fn keys(&self) -> Result<(Key, Key), ShapeError> {
        let key = |tuple: Option<Tuple<'_>>| {
            let Some(tuple) = tuple else { return Ok(None) };
            let mut out = Vec::new();
            self.described.shape.write_key(&self.described.table, tuple.cells(), &mut out).map(|()| Some(out))
        };
        Ok((key(self.old.map(|old| old.tuple))?, key(self.new)?))
    }

    /// Writes the row; false when a value is not in the stream and the row is gone at the source.
    fn write_value(&self, reread: Option<&Reread>, out: &mut Vec<u8>) -> bool {
        let Some(cells) = self.filled() else { return false };
        match reread {
            None => self.described.shape.write_row(cells, out),
            Some(None) => return false,
            Some(Some(row)) => {
                let mut row = row.iter().map(|text| text.as_deref().map_or(Cell::Null, Cell::Text));
                let cells = cells.map(|cell| {
                    let read = row.next();
                    if cell == Cell::Unchanged { read.unwrap_or(Cell::Null) } else { cell }
                });
                self.described.shape.write_row(cells, out);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;

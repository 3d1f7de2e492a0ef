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

mod chunks;
mod rows;
mod sending;

use std::collections::{BTreeMap, HashMap};

use shared::batch::Outgoing;
use shared::pg::TableName;
use shared::position::{Lsn, Version};
use shared::record::header::Operation;

use crate::decode::DecodeError;
use crate::described::Described;
use crate::merge::{Merge, Recent};
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

    /// The transaction in hand.
    pub fn xid(&self) -> Option<u32> {
        self.transaction.as_ref().map(|transaction| transaction.xid)
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

    /// A transaction is open in the stream.
    pub fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
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

//! The merge of a chunk of a table into the stream.
//!
//! A chunk's rows were read at some moment in a database snapshot S; `L` is a WAL position behind that moment. They enter the stream
//! once it has passed `L`. By then every transaction that S sees has been streamed before. A transaction that S does not see and that
//! was streamed since the chunk was asked for has newer rows: their keys ([`Merge::touch`]) are left out of the chunk. If a
//! transaction streamed *before* that is not visible to S (its commit is in the WAL a moment before it is visible), the chunk is
//! taken again.

use std::collections::{HashSet, VecDeque};

use shared::position::Lsn;

use crate::visibility::DatabaseSnapshot;

/// Rows of a table that were read in one database snapshot.
#[derive(Debug)]
pub struct Chunk {
    /// Index of the captured table.
    pub table: usize,
    /// The number under which it was asked for.
    pub ask: u64,
    pub snapshot: DatabaseSnapshot,
    /// The WAL's insert position after the rows were read.
    pub read_at: Lsn,
    pub rows: Vec<ChunkRow>,
    /// Rows from this chunk on, by the planner's estimate, where it was asked.
    pub rows_left: Option<i64>,
    /// The chunk's last key, as text; `None` when the table had no more rows.
    pub last_key: Option<Vec<String>>,
}

/// One row of a chunk, as JSON.
#[derive(Debug)]
pub struct ChunkRow {
    pub key: Vec<u8>,
    /// `None`: it was asked for by its key, and is not there.
    pub value: Option<Vec<u8>>,
}

impl ChunkRow {
    /// Of its value.
    pub fn bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Vec::len)
    }
}

/// What happened to a chunk that was offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    /// It waits for the stream, or went in.
    Taken,
    /// A transaction that was streamed before is not visible in it: take it again.
    TakeAgain,
    /// Nobody asks for it any more.
    Stale,
}

/// The transactions that were streamed and may not be visible to others yet, oldest first.
#[derive(Debug)]
pub struct Recent {
    transactions: VecDeque<(u64, u32)>,
    next: u64,
    max: usize,
}

impl Recent {
    /// `unseen` were streamed before a restart. Of more than `max` the oldest are forgotten.
    pub fn new(unseen: &[u32], max: usize) -> Self {
        let mut recent = Recent { transactions: VecDeque::new(), next: 0, max: max.max(1) };
        unseen.iter().for_each(|&xid| recent.push(xid));
        recent
    }

    pub fn push(&mut self, xid: u32) {
        if self.transactions.len() >= self.max {
            self.transactions.pop_front();
        }
        self.transactions.push_back((self.next, xid));
        self.next += 1;
    }

    /// Forgets what others see: any later snapshot sees it too.
    pub fn forget_seen(&mut self, snapshot: &DatabaseSnapshot) {
        self.transactions.retain(|(_, xid)| !snapshot.sees(*xid));
    }

    /// Transaction ids, for the state.
    pub fn unseen(&self) -> Vec<u32> {
        self.transactions.iter().map(|(_, xid)| *xid).collect()
    }

    fn before(&self, number: u64) -> impl Iterator<Item = u32> {
        self.transactions.iter().take_while(move |(at, _)| *at < number).map(|(_, xid)| *xid)
    }
}

/// A chunk that was asked for.
#[derive(Debug)]
pub struct Merge {
    ask: u64,
    /// Transactions that were streamed before the chunk was asked for have lower numbers.
    streamed_before: u64,
    /// The transaction that was open in the stream at that time: its keys so far are not recorded.
    open_then: Option<u32>,
    /// Keys changed since then, with their transaction.
    touched: Vec<(u32, Vec<u8>)>,
    /// Transactions whose changes of this table were passed over since: the chunk must have seen them.
    passed_over: Vec<u32>,
    waiting: Option<Chunk>,
    /// The watch went on for too long, or the table was emptied meanwhile.
    void: bool,
}

impl Merge {
    pub fn new(ask: u64, recent: &Recent, open: Option<u32>) -> Self {
        Merge {
            ask,
            streamed_before: recent.next,
            open_then: open,
            touched: Vec::new(),
            passed_over: Vec::new(),
            waiting: None,
            void: false,
        }
    }

    /// A row was changed in the stream. Of more than `max` keys the chunk becomes void.
    pub fn touch(&mut self, xid: u32, key: &[u8], max: usize) {
        if self.void {
            return;
        }
        if self.touched.len() >= max {
            return self.make_void();
        }
        self.touched.push((xid, key.to_vec()));
    }

    /// A change of the table was passed over.
    pub fn pass_over(&mut self, xid: u32) {
        if self.passed_over.last() != Some(&xid) {
            self.passed_over.push(xid);
        }
    }

    /// What was read is of no use any more.
    pub fn make_void(&mut self) {
        self.void = true;
        self.touched = Vec::new();
    }

    /// The chunk was read.
    pub fn offer(&mut self, chunk: Chunk, recent: &Recent) -> Offered {
        if chunk.ask != self.ask {
            return Offered::Stale;
        }
        let mut streamed = recent.before(self.streamed_before).chain(self.open_then);
        if self.void || streamed.any(|xid| !chunk.snapshot.sees(xid)) {
            return Offered::TakeAgain;
        }
        self.waiting = Some(chunk);
        Offered::Taken
    }

    /// The chunk that waits became void.
    pub fn is_spoilt(&self) -> bool {
        self.void && self.waiting.is_some()
    }

    /// The chunk, once the stream has passed its position.
    pub fn take_due(&mut self, passed: Lsn) -> Option<Chunk> {
        if self.void {
            return None;
        }
        let due = self.waiting.as_ref().filter(|chunk| chunk.read_at <= passed)?;
        if self.passed_over.iter().any(|xid| !due.snapshot.sees(*xid)) {
            self.make_void();
            return None;
        }
        self.waiting.take()
    }

    /// The keys for which the stream has had newer rows than the chunk.
    pub fn newer<'a>(&'a self, chunk: &Chunk) -> HashSet<&'a [u8]> {
        let newer = self.touched.iter().filter(|(xid, _)| !chunk.snapshot.sees(*xid));
        newer.map(|(_, key)| key.as_slice()).collect()
    }
}

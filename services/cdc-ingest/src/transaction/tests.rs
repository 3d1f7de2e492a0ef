use std::collections::BTreeMap;

use proptest::prelude::*;

use shared::kafka::partitioner::partition;
use shared::record::header::Header;

use super::*;
use crate::change::Reread;
use crate::decode::Cell;
use crate::decode::tests::{delete, insert, relation, update};
use crate::merge::{Chunk, ChunkRow, Offered};

const PARTITIONS: i32 = 2;
const BOUNDS: Bounds = Bounds { recent_transactions_max: 1_000, touched_keys_max: 1_000, record_bytes_max: 10_000 };

fn captured(oid: u32, topic: usize) -> Captured {
    let name = TableName::parse("business.orders");
    Captured { oid, name, topic, partitions: PARTITIONS, key: vec!["id".into()], carried: true, since: Lsn(0) }
}

fn assembler(epoch: u32, sent: HashMap<(usize, i32), Version>) -> Assembler {
    let before = Before { epoch, sent, ..Before::default() };
    let mut assembler = Assembler::new(vec![captured(1, 0)], before, BOUNDS);
    let mut out = Outgoing::default();
    let orders = relation(1, "business", "orders", &[("id", 20), ("v", 25)]);
    assert_eq!(assembler.change(&orders, None, &mut out).unwrap(), Outcome::Done);
    assembler.change(&relation(2, "business", "other", &[("id", 20)]), None, &mut out).unwrap();
    assembler
}

fn key_of(id: u8) -> Vec<u8> {
    format!("{{\"id\":{id}}}").into_bytes()
}

/// The topic as a reader would see it.
#[derive(Default)]
struct Topic {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    tails: HashMap<(usize, i32), Version>,
    versions: BTreeMap<Vec<u8>, Version>,
    records: Vec<(Operation, String)>,
}

impl Topic {
    fn take(&mut self, out: Outgoing<Position>) -> Position {
        for record in out.records() {
            let header = Header::parse(Some(record.header)).unwrap();
            let tail = self.tails.entry((0, record.partition)).or_default();
            assert!(header.version > *tail, "{} behind {tail} in partition {}", header.version, record.partition);
            *tail = header.version;
            self.versions.insert(record.key.to_vec(), header.version);
            self.records.push((header.operation, String::from_utf8_lossy(record.value.unwrap_or(b"-")).into_owned()));
            match record.value {
                Some(value) => self.rows.insert(record.key.to_vec(), value.to_vec()),
                None => self.rows.remove(record.key),
            };
        }
        out.position
    }
}

fn text(value: &str) -> Cell<'_> {
    Cell::Text(value)
}

#[test]
fn changes_are_numbered_in_their_transaction() {
    let (mut assembler, mut out) = (assembler(1, HashMap::new()), Outgoing::default());
    assembler.begin(Lsn(100), 7, 55, &mut out).unwrap();
    for message in [
        insert(1, &[text("1"), text("a")]),
        insert(2, &[text("9")]),
        update(1, None, &[text("1"), text("b")]),
        update(1, Some((b'K', &[text("1"), Cell::Null])), &[text("2"), text("b")]),
        delete(1, b'K', &[text("2"), Cell::Null]),
    ] {
        assert_eq!(assembler.change(&message, None, &mut out).unwrap(), Outcome::Done);
    }
    assembler.commit(Lsn(140), &mut out);
    let versions: Vec<String> = out
        .records()
        .map(|r| Header::parse(Some(r.header)).unwrap())
        .map(|h| format!("{} {}", h.operation.as_str(), h.version))
        .collect();
    assert_eq!(versions, ["c 1.64.0.1", "u 1.64.2.1", "d 1.64.3.0", "u 1.64.3.1", "d 1.64.4.0"]);
    assert_eq!(out.position.confirm, Some(Lsn(140)));
    assert_eq!(out.commit_times_us, [55; 5]);
}

#[test]
fn what_was_sent_before_a_restart_is_skipped_by_partition() {
    let transaction = |assembler: &mut Assembler, topic: &mut Topic| {
        let mut out = Outgoing::default();
        assembler.begin(Lsn(100), 7, 55, &mut out).unwrap();
        for id in 0..10 {
            assembler.change(&insert(1, &[text(&id.to_string()), text("a")]), None, &mut out).unwrap();
        }
        assembler.commit(Lsn(140), &mut out);
        topic.take(out);
    };
    let mut whole = Topic::default();
    transaction(&mut assembler(1, HashMap::new()), &mut whole);
    // Partition 1 lost what was in flight; partition 0 has all.
    let mut topic = Topic::default();
    topic.tails.insert((0, 0), whole.tails[&(0, 0)]);
    let mut again = assembler(1, topic.tails.clone());
    transaction(&mut again, &mut topic);
    assert_eq!(topic.rows.len() as u64 + again.repeats, 10);
    assert!(again.repeats > 0 && topic.rows.keys().all(|key| partition(key, PARTITIONS) == 1));
}

#[test]
fn an_unchanged_value_comes_from_the_old_row_or_is_read_again() {
    let (mut assembler, mut out, mut topic) = (assembler(1, HashMap::new()), Outgoing::default(), Topic::default());
    assembler.begin(Lsn(100), 7, 55, &mut out).unwrap();
    let whole = update(1, Some((b'O', &[text("1"), text("long")])), &[text("1"), Cell::Unchanged]);
    assert_eq!(assembler.change(&whole, None, &mut out).unwrap(), Outcome::Done);
    let key_only = update(1, None, &[text("2"), Cell::Unchanged]);
    let needed = Outcome::NeedsRow { table: 0, key: vec!["2".into()] };
    assert_eq!(assembler.change(&key_only, None, &mut out).unwrap(), needed);
    let row: Reread = Some(vec![Some("2".into()), Some("from the source".into())]);
    assert_eq!(assembler.change(&key_only, Some(&row), &mut out).unwrap(), Outcome::Done);
    assert_eq!(assembler.change(&key_only, Some(&None), &mut out).unwrap(), Outcome::Done);
    assert_eq!(assembler.vanished, 1);
    assembler.commit(Lsn(140), &mut out);
    topic.take(out);
    assert_eq!(topic.rows[&key_of(1)], br#"{"id":1,"v":"long"}"#);
    assert_eq!(topic.rows[&key_of(2)], br#"{"id":2,"v":"from the source"}"#);
}

#[test]
fn a_truncate_that_was_cut_short_goes_on_behind_its_tombstones() {
    let (mut first, mut topic) = (assembler(1, HashMap::new()), Topic::default());
    let keys: Vec<Vec<u8>> = (0..6).map(key_of).collect();
    let truncate = [&b"T"[..], &1_u32.to_be_bytes(), &[0], &1_u32.to_be_bytes()].concat();
    let mut out = Outgoing::default();
    first.begin(Lsn(100), 7, 55, &mut out).unwrap();
    let outcome = first.change(&truncate, None, &mut out).unwrap();
    assert_eq!(outcome, Outcome::Truncated { tables: vec![0], number: 0 });
    first.tombstones(0, Some(0), keys[..3].iter().map(Vec::as_slice), &mut out);
    topic.take(out);

    let (mut second, mut out) = (assembler(1, topic.tails.clone()), Outgoing::default());
    second.begin(Lsn(100), 7, 55, &mut out).unwrap();
    second.change(&truncate, None, &mut out).unwrap();
    second.tombstones(0, Some(0), keys[3..].iter().map(Vec::as_slice), &mut out);
    second.change(&insert(1, &[text("1"), text("new")]), None, &mut out).unwrap();
    second.commit(Lsn(140), &mut out);
    topic.take(out);
    assert_eq!(topic.records.iter().filter(|(operation, _)| *operation == Operation::Delete).count(), 6);
    assert_eq!(topic.rows.len(), 1);
}

#[test]
fn a_truncate_that_comes_again_spares_newer_rows() {
    let (mut first, mut topic) = (assembler(1, HashMap::new()), Topic::default());
    let truncate = [&b"T"[..], &1_u32.to_be_bytes(), &[0], &1_u32.to_be_bytes()].concat();
    let mut out = Outgoing::default();
    first.begin(Lsn(100), 7, 55, &mut out).unwrap();
    first.change(&truncate, None, &mut out).unwrap();
    first.commit(Lsn(140), &mut out);
    first.begin(Lsn(200), 8, 55, &mut out).unwrap();
    for id in 0..6 {
        first.change(&insert(1, &[text(&id.to_string()), text("new")]), None, &mut out).unwrap();
    }
    first.commit(Lsn(240), &mut out);
    topic.take(out);

    let (mut second, mut out) = (assembler(1, topic.tails.clone()), Outgoing::default());
    second.begin(Lsn(100), 7, 55, &mut out).unwrap();
    second.change(&truncate, None, &mut out).unwrap();
    let live: Vec<Vec<u8>> = topic.rows.keys().cloned().collect();
    second.tombstones(0, Some(0), live.iter().map(Vec::as_slice), &mut out);
    assert!(out.is_empty());
    assert_eq!(second.repeats, 6);
}

#[test]
fn an_idle_position_is_confirmed_and_never_one_inside_a_transaction() {
    let (mut assembler, mut out) = (assembler(1, HashMap::new()), Outgoing::default());
    assembler.keepalive(Lsn(50), &mut out).unwrap();
    assert_eq!(out.position.confirm, Some(Lsn(50)));
    let mut out = Outgoing::default();
    assembler.begin(Lsn(100), 7, 55, &mut out).unwrap();
    assembler.keepalive(Lsn(120), &mut out).unwrap();
    assert_eq!(out.position.confirm, None);
}

/// What a relation that is captured under topic 0 and a second one under topic 1 bring.
fn two_tables() -> Assembler {
    let tables = vec![captured(1, 0), Captured { name: TableName::parse("business.users"), ..captured(3, 1) }];
    let mut assembler = Assembler::new(tables, Before { epoch: 1, ..Before::default() }, BOUNDS);
    let mut out = Outgoing::default();
    for id in [1, 3] {
        assembler.change(&relation(id, "business", "t", &[("id", 20), ("v", 25)]), None, &mut out).unwrap();
    }
    assembler
}

#[test]
fn a_row_that_cannot_be_carried_stops_its_table_and_no_other() {
    let mut assembler = two_tables();
    let mut out = Outgoing::default();
    assembler.begin(Lsn(100), 7, 55, &mut out).unwrap();
    let mut broken = insert(1, &[text("1"), text("ab")]);
    *broken.last_mut().unwrap() = 0xFF;
    let stopped = assembler.change(&broken, None, &mut out).unwrap();
    assert!(matches!(&stopped, Outcome::Stopped { table: 0, why } if why.contains("UTF-8")), "{stopped:?}");
    let large = "x".repeat(20_000);
    for id in [1, 3] {
        assert_eq!(assembler.change(&insert(id, &[text("2"), text("b")]), None, &mut out).unwrap(), Outcome::Done);
    }
    let stopped = assembler.change(&insert(3, &[text("3"), text(&large)]), None, &mut out).unwrap();
    assert!(matches!(&stopped, Outcome::Stopped { table: 1, why } if why.contains("record_bytes_max")), "{stopped:?}");
    assembler.commit(Lsn(140), &mut out);
    let sent: Vec<_> = out.records().map(|record| (record.topic, record.key.to_vec())).collect();
    assert_eq!(sent, [(1, key_of(2))]);
    assert_eq!(assembler.passed_over[&0], 1);
}

#[test]
fn another_key_sets_the_table_aside_and_what_was_before_the_look_is_passed_over() {
    let mut assembler = two_tables();
    let mut out = Outgoing::default();
    assembler.begin(Lsn(100), 7, 55, &mut out).unwrap();
    let other_key = relation(1, "business", "t", &[("v", 25), ("id", 20)]);
    assert_eq!(assembler.change(&other_key, None, &mut out).unwrap(), Outcome::Unsettled { table: 0 });
    assert_eq!(assembler.change(&insert(1, &[text("a"), text("1")]), None, &mut out).unwrap(), Outcome::Done);
    assembler.commit(Lsn(140), &mut out);
    assembler.settle(0, 1, TableName::parse("business.t"), vec!["v".into()], Lsn(200));
    for (lsn, row) in [(150, "old"), (200, "new")] {
        assembler.begin(Lsn(lsn), 8, 55, &mut out).unwrap();
        assert_eq!(assembler.change(&insert(1, &[text(row), text("1")]), None, &mut out).unwrap(), Outcome::Done);
        assembler.commit(Lsn(lsn + 10), &mut out);
    }
    let keys: Vec<_> = out.records().map(|record| String::from_utf8_lossy(record.key).into_owned()).collect();
    assert_eq!(keys, [r#"{"v":"new"}"#]);
}

#[test]
fn types_that_may_be_domains_are_asked_for_before_the_first_row() {
    let mut assembler = Assembler::new(vec![captured(1, 0)], Before { epoch: 1, ..Before::default() }, BOUNDS);
    let mut out = Outgoing::default();
    let table = relation(1, "business", "t", &[("id", 20), ("price", 20_500)]);
    assert_eq!(assembler.change(&table, None, &mut out).unwrap(), Outcome::NeedsTypes(vec![20_500]));
    assembler.learn_types(&[20_500], &HashMap::from([(20_500, 1700)]));
    assert_eq!(assembler.change(&table, None, &mut out).unwrap(), Outcome::Done);
    assert!(assembler.reshaped.is_empty(), "the same message again is no change");
    assembler.begin(Lsn(100), 7, 55, &mut out).unwrap();
    assembler.change(&insert(1, &[text("1"), text("2.50")]), None, &mut out).unwrap();
    assert_eq!(out.record(0).unwrap().value.unwrap(), br#"{"id":1,"price":2.50}"#);
}

#[test]
fn transactions_that_nobody_saw_before_a_restart_hold_a_chunk_back() {
    let before = Before { epoch: 1, unseen: vec![7], ..Before::default() };
    let mut assembler = Assembler::new(vec![captured(1, 0)], before, BOUNDS);
    let mut out = Outgoing::default();
    let chunk = |snapshot: &str| Chunk {
        table: 0,
        ask: 1,
        snapshot: snapshot.parse().unwrap(),
        read_at: Lsn(10),
        rows: Vec::new(),
        rows_left: None,
        last_key: None,
    };
    assembler.watch(0, 1);
    assert_eq!(assembler.offer(chunk("7:9:7"), &mut out), Offered::TakeAgain);
    assert_eq!(assembler.unseen(), [7]);
    assembler.forget_seen(&"9:9:".parse().unwrap());
    assert!(assembler.unseen().is_empty());
    assert_eq!(assembler.offer(chunk("9:9:"), &mut out), Offered::Taken);
    assert_eq!(assembler.offer(Chunk { ask: 2, ..chunk("9:9:") }, &mut out), Offered::Stale);
}

/// New value of each key; `None` is a delete.
type Changes = Vec<(u8, Option<String>)>;

/// A transaction of the model.
#[derive(Debug, Clone)]
struct Write {
    xid: u32,
    commit_lsn: u64,
    end_lsn: u64,
    visible: bool,
    changes: Changes,
}

/// A server, as far as a snapshot's merge can tell: transactions get their id, commit into the WAL, become visible a moment later,
/// and are streamed some time after their commit.
struct Server {
    lsn: u64,
    next_xid: u32,
    open: Vec<(u32, Changes)>,
    committed: Vec<Write>,
    streamed: usize,
    before: BTreeMap<u8, String>,
}

impl Server {
    fn new() -> Self {
        let before = (0..6).map(|id| (id, "before".to_owned())).collect();
        Server { lsn: 1_000, next_xid: 100, open: Vec::new(), committed: Vec::new(), streamed: 0, before }
    }

    /// A row lock is held until its transaction is visible.
    fn is_locked(&self, id: u8) -> bool {
        let open = self.open.iter().flat_map(|(_, changes)| changes);
        let committed = self.committed.iter().filter(|write| !write.visible).flat_map(|write| &write.changes);
        open.chain(committed).any(|(locked, _)| *locked == id)
    }

    fn begin(&mut self, ids: &[u8]) {
        let mut changes: Vec<(u8, Option<String>)> = Vec::new();
        for &id in ids {
            let id = id % IDS;
            if !self.is_locked(id) && changes.iter().all(|(taken, _)| *taken != id) {
                let value = !(u32::from(id) + self.next_xid % 5).is_multiple_of(4);
                changes.push((id, value.then(|| format!("by {}", self.next_xid))));
            }
        }
        self.open.push((self.next_xid, changes));
        self.next_xid += 1;
    }

    fn commit(&mut self, pick: usize) {
        if self.open.is_empty() {
            return;
        }
        let (xid, changes) = self.open.remove(pick % self.open.len());
        let commit_lsn = self.lsn;
        self.lsn += 10;
        self.committed.push(Write { xid, commit_lsn, end_lsn: self.lsn, visible: false, changes });
    }

    fn show(&mut self, pick: usize) {
        let mut hidden: Vec<_> = self.committed.iter_mut().filter(|write| !write.visible).collect();
        if !hidden.is_empty() {
            let pick = pick % hidden.len();
            hidden[pick].visible = true;
        }
    }

    fn rows(&self, visible_only: bool) -> BTreeMap<u8, String> {
        let mut rows = self.before.clone();
        for write in self.committed.iter().filter(|write| write.visible || !visible_only) {
            for (id, value) in &write.changes {
                match value {
                    Some(value) => rows.insert(*id, value.clone()),
                    None => rows.remove(id),
                };
            }
        }
        rows
    }

    fn snapshot(&self) -> DatabaseSnapshot {
        let ended = self.committed.iter().filter(|write| write.visible).map(|write| write.xid).max();
        let xmax = ended.map_or(100, |xid| xid + 1);
        let hidden = self.committed.iter().filter(|write| !write.visible).map(|write| write.xid);
        let mut running: Vec<u32> =
            hidden.chain(self.open.iter().map(|(xid, _)| *xid)).filter(|xid| *xid < xmax).collect();
        running.sort_unstable();
        let xmin = running.first().copied().unwrap_or(xmax);
        let list: Vec<String> = running.iter().map(u32::to_string).collect();
        format!("{xmin}:{xmax}:{}", list.join(",")).parse().unwrap()
    }

    fn chunk(&self, after: Option<&str>, rows_max: usize) -> Chunk {
        let after = after.map(|id| id.parse::<u8>().unwrap());
        let rows: Vec<(u8, String)> = self
            .rows(true)
            .into_iter()
            .filter(|(id, _)| after.is_none_or(|after| *id > after))
            .take(rows_max)
            .collect();
        let last_key = rows.last().filter(|_| rows.len() == rows_max).map(|(id, _)| vec![id.to_string()]);
        let row = |(id, value): &(u8, String)| ChunkRow {
            key: key_of(*id),
            value: Some(format!("{{\"id\":{id},\"v\":\"{value}\"}}").into_bytes()),
        };
        Chunk {
            table: 0,
            ask: 0,
            rows_left: None,
            snapshot: self.snapshot(),
            read_at: Lsn(self.lsn),
            rows: rows.iter().map(row).collect(),
            last_key,
        }
    }
}

/// The ids that the model's transactions write to.
const IDS: u8 = 8;

impl Chunk {
    /// The same as one of a list of all keys: what it did not find up to its last key is gone.
    fn listed(mut self, after: Option<&str>) -> Self {
        let number = |key: &str| key.parse::<u8>().unwrap();
        let from = after.map_or(0, |after| number(after) + 1);
        let upto = self.last_key.as_ref().map_or(IDS - 1, |key| number(&key[0]));
        let found: Vec<Vec<u8>> = self.rows.iter().map(|row| row.key.clone()).collect();
        let gone = (from..=upto).map(key_of).filter(|key| !found.contains(key));
        self.rows.extend(gone.map(|key| ChunkRow { key, value: None }));
        self
    }
}

/// The capture under test, driven by hand.
struct Run {
    server: Server,
    assembler: Assembler,
    topic: Topic,
    after: Option<String>,
    copied: bool,
    asked: bool,
    asks: u64,
    /// The chunk that was asked for was read and offered.
    offered: bool,
    read: Option<Chunk>,
    /// The transaction that is being streamed, with the changes that are still to come.
    open: Option<Write>,
    /// The copy is of a list of all keys.
    listed: bool,
    /// What is older and not found by the copy is gone.
    sweep_below: Option<Version>,
    /// How the rows stood in the model's stream, to know what an insert and an update is.
    streamed: BTreeMap<u8, String>,
}

impl Run {
    fn new() -> Self {
        let server = Server::new();
        let streamed = server.before.clone();
        Run {
            server,
            assembler: assembler(1, HashMap::new()),
            topic: Topic::default(),
            after: None,
            copied: false,
            asked: false,
            asks: 0,
            offered: false,
            read: None,
            open: None,
            listed: false,
            sweep_below: None,
            streamed,
        }
    }

    /// The table is set aside for a moment, and then carried again and read anew.
    fn settle(&mut self) {
        self.assembler.set_aside(0);
        for _ in 0..3 {
            self.stream();
        }
        let last = self.assembler.last();
        self.sweep_below = Some(Version { part: last.part + 1, ..last });
        let name = TableName::parse("business.orders");
        self.assembler.settle(0, 1, name, vec!["id".into()], Lsn(self.server.lsn));
        (self.after, self.copied, self.asked, self.offered, self.read) = (None, false, false, false, None);
    }

    fn sweep(&mut self) {
        let Some(below) = self.sweep_below else { return };
        let old =
            self.topic.versions.iter().filter(|(key, version)| **version < below && self.topic.rows.contains_key(*key));
        let old: Vec<Vec<u8>> = old.map(|(key, _)| key.clone()).collect();
        let mut out = Outgoing::default();
        self.assembler.tombstones(0, None, old.iter().map(Vec::as_slice), &mut out);
        self.topic.take(out);
    }

    fn take(&mut self, out: Outgoing<Position>) {
        for done in self.topic.take(out).chunks {
            self.asked = false;
            match done.last_key {
                Some(key) => self.after = key.into_iter().next(),
                None => self.copied = true,
            }
        }
    }

    /// One message of the stream: a transaction comes in parts, and chunks are asked for and read between them.
    fn stream(&mut self) {
        let mut out = Outgoing::default();
        match self.open.take() {
            None => match self.server.committed.get(self.server.streamed).cloned() {
                None => self.assembler.keepalive(Lsn(self.server.lsn), &mut out).unwrap(),
                Some(write) => {
                    self.server.streamed += 1;
                    self.assembler.begin(Lsn(write.commit_lsn), write.xid, 1, &mut out).unwrap();
                    self.open = Some(write);
                }
            },
            Some(mut write) if !write.changes.is_empty() => {
                let (id, value) = write.changes.remove(0);
                if let Some(message) = self.message(id, value) {
                    self.assembler.change(&message, None, &mut out).unwrap();
                }
                self.open = Some(write);
            }
            Some(write) => self.assembler.commit(Lsn(write.end_lsn), &mut out),
        }
        self.take(out);
        if !self.assembler.take_void().is_empty() {
            self.asked = false;
        }
    }

    /// The stream's message for a change; none for the delete of a row that was not there.
    fn message(&mut self, id: u8, value: Option<String>) -> Option<Vec<u8>> {
        let id_text = id.to_string();
        let was_there = self.streamed.contains_key(&id);
        match value {
            Some(value) => {
                let cells = [text(&id_text), text(&value)];
                let message = if was_there { update(1, None, &cells) } else { insert(1, &cells) };
                self.streamed.insert(id, value);
                Some(message)
            }
            None => {
                self.streamed.remove(&id);
                was_there.then(|| delete(1, b'K', &[text(&id_text), Cell::Null]))
            }
        }
    }

    /// One step of the copy: ask, read, or offer.
    fn copy(&mut self, rows_max: usize) {
        if self.copied {
            return;
        }
        if !self.asked {
            self.asks += 1;
            self.assembler.watch(0, self.asks);
            (self.asked, self.offered) = (true, false);
        } else if let Some(chunk) = self.read.take() {
            let mut out = Outgoing::default();
            match self.assembler.offer(chunk, &mut out) {
                Offered::TakeAgain => self.asked = false,
                Offered::Taken => self.offered = true,
                Offered::Stale => panic!("the only chunk that was asked for is stale"),
            }
            self.take(out);
        } else if !self.offered {
            let chunk = self.server.chunk(self.after.as_deref(), rows_max);
            let chunk = if self.listed { chunk.listed(self.after.as_deref()) } else { chunk };
            self.read = Some(Chunk { ask: self.asks, ..chunk });
        }
    }

    fn finish(&mut self) {
        while !self.server.open.is_empty() {
            self.server.commit(0);
        }
        for _ in 0..self.server.committed.len() {
            self.server.show(0);
        }
        for _ in 0..600 {
            self.stream();
            self.copy(3);
        }
        assert!(self.copied);
        self.sweep();
        let expected: BTreeMap<Vec<u8>, Vec<u8>> = self
            .server
            .rows(false)
            .into_iter()
            .map(|(id, value)| (key_of(id), format!("{{\"id\":{id},\"v\":\"{value}\"}}").into_bytes()))
            .collect();
        assert_eq!(self.topic.rows, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// Whatever the order of commits, visibility, streaming and chunks: in the end the topic equals the table, and versions only grew.
    #[test]
    fn the_topic_equals_the_table(steps in prop::collection::vec((0..8u8, any::<u8>(), any::<u8>()), 0..160)) {
        let mut run = Run::new();
        for (step, a, b) in steps {
            match step {
                0 => run.server.begin(&[a, b]),
                1 => run.server.commit(a.into()),
                2 => run.server.show(a.into()),
                3..=5 => run.stream(),
                _ => run.copy(usize::from(b % 3) + 1),
            }
        }
        run.finish();
    }

    /// The same for a list of all keys, over a topic that has rows which nobody has and lacks others: each key gets its row or its tombstone.
    #[test]
    fn a_list_of_keys_mends_a_topic_that_is_wrong(steps in prop::collection::vec((0..8u8, any::<u8>(), any::<u8>()), 0..160)) {
        let mut run = Run { listed: true, ..Run::new() };
        run.topic.rows = (0..IDS).step_by(2).map(|id| (key_of(id), b"wrong".to_vec())).collect();
        for (step, a, b) in steps {
            match step {
                0 => run.server.begin(&[a, b]),
                1 => run.server.commit(a.into()),
                2 => run.server.show(a.into()),
                3..=5 => run.stream(),
                _ => run.copy(usize::from(b % 3) + 1),
            }
        }
        run.finish();
    }

    /// The same for a table that is set aside, looked at and read anew at any moment: changes are passed over meanwhile.
    #[test]
    fn the_topic_equals_a_table_that_was_set_aside(
        steps in prop::collection::vec((0..40u8, any::<u8>(), any::<u8>()), 0..160)
    ) {
        let mut run = Run::new();
        for (step, a, b) in steps {
            match step {
                0..=4 => run.server.begin(&[a, b]),
                5..=9 => run.server.commit(a.into()),
                10..=14 => run.server.show(a.into()),
                15..=27 => run.stream(),
                28..=38 => run.copy(usize::from(b % 3) + 1),
                _ => run.settle(),
            }
        }
        run.finish();
    }
}

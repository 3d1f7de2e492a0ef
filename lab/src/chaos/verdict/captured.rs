//! The topics of cdc-ingest: read once, and held against the witness.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use shared::failure::Failure;
use shared::position::{Lsn, Version};
use shared::record::header::Operation;

use super::findings::{Problems, TopicCounts};
use super::order_way::{Open, OrderWay, Passed, Statuses};
use super::suffix::{Mismatch, Seen, held_against, is_same_change};
use super::users::{KnownUsers, UserColumns};
use super::{is_stray, own_key};
use crate::chaos::witness::histories::Histories;
use crate::chaos::witness::subject::Subject;
use crate::layers::{LayerRecord, Layers};

/// The versions of partitions, which only grow.
#[derive(Debug, Default)]
pub struct Growth {
    highest: HashMap<i32, Version>,
}

impl Growth {
    /// Whether the version is above all before it.
    pub fn grows(&mut self, partition: i32, version: Version) -> bool {
        let highest = self.highest.entry(partition).or_default();
        let grows = version > *highest;
        *highest = version.max(*highest);
        grows
    }
}

/// A topic, key by key.
pub struct Captured {
    subject: Subject,
    counts: TopicCounts,
    by_key: BTreeMap<i64, Vec<Passed>>,
    statuses: Statuses,
    users: KnownUsers,
    growth: Growth,
    epochs: Vec<u32>,
    /// The lowest position of any version: the capture ran before what comes behind.
    pub first_lsn: Option<Lsn>,
}

/// Reads the topic. Repeats are counted and left out.
pub fn read(layers: &Layers, subject: Subject, topic: &str, problems: &mut Problems) -> Result<Captured, Failure> {
    let mut captured = Captured {
        subject,
        counts: TopicCounts::of(topic),
        by_key: BTreeMap::new(),
        statuses: Statuses::default(),
        users: KnownUsers::default(),
        growth: Growth::default(),
        epochs: Vec::new(),
        first_lsn: None,
    };
    layers.visit(topic, &layers.begin(topic)?, &layers.end(topic)?, |record| captured.take(&record, problems))?;
    if captured.epochs.len() > 1 {
        let epochs = &captured.epochs;
        problems
            .add(None, format!("{topic} has the epochs {epochs:?}: the slot was lost or the source was another one"));
    }
    Ok(captured)
}

#[derive(Deserialize)]
struct OrderStatus {
    order_status: String,
}

impl Captured {
    fn take(&mut self, record: &LayerRecord, problems: &mut Problems) {
        self.counts.records += 1;
        if is_stray(self.subject, record) {
            self.counts.surplus += 1;
            problems.add(None, format!("{}: {} is nobody's key", self.counts.topic, record.key));
            return;
        }
        let (Some(key), Ok(header)) = (own_key(self.subject, record), &record.header) else {
            self.counts.passed_over += 1;
            return;
        };
        let version = header.version;
        self.first_lsn = Some(self.first_lsn.unwrap_or(version.lsn).min(version.lsn));
        if !self.epochs.contains(&version.epoch) {
            self.epochs.push(version.epoch);
        }
        // A row that cannot be read is told from every row of the witness.
        let digest = |row: &str| self.subject.digest_of_json(row).unwrap_or_default();
        let seen = Seen { version, operation: header.operation, digest: record.value.as_deref().map(digest) };
        if !self.growth.grows(record.partition, version) {
            return self.take_repeat(key, &seen, record, problems);
        }
        if header.operation == Operation::Snapshot {
            self.counts.copies += 1;
        }
        let open = record.value.as_deref().map(Open::of);
        let status = record.value.as_deref().map_or(0, |row| self.note_columns(key, version, row));
        if record.value.is_none() && self.subject == Subject::Users {
            self.users.put(key, version, None);
        }
        self.by_key.entry(key).or_default().push(Passed { seen, open, status });
    }

    /// What later stages need of a row: an order's status, a user's columns.
    fn note_columns(&mut self, key: i64, version: Version, row: &str) -> u8 {
        match self.subject {
            Subject::Orders => serde_json::from_str::<OrderStatus>(row)
                .map_or(u8::MAX, |order| self.statuses.number(&order.order_status)),
            Subject::Users => {
                self.users.put(key, version, UserColumns::of_user(row));
                0
            }
        }
    }

    /// A record that is not above all before it in its partition; readers drop it. A row of a copy may come late from another writer. So may
    /// the tombstone of a TRUNCATE: it is made for each key that is live in the topic, and where the broker takes a request late, keys
    /// that came behind the TRUNCATE are live when it is carried once more. A change that was needed is found as lost.
    fn take_repeat(&mut self, key: i64, seen: &Seen, record: &LayerRecord, problems: &mut Problems) {
        let earlier = self.by_key.get(&key).map(Vec::as_slice).unwrap_or_default();
        let same = earlier.iter().rev().find(|passed| is_same_change(passed.seen.version, seen.version));
        let what = match same {
            Some(passed) if passed.seen.digest == seen.digest => None,
            Some(_) => Some("came again with another row"),
            None if matches!(seen.operation, Operation::Snapshot | Operation::Delete) => None,
            None => Some("came behind a newer one of its partition, and was not there before"),
        };
        let Some(what) = what else {
            self.counts.repeats += 1;
            return;
        };
        self.counts.wrong += 1;
        let (topic, partition, offset) = (&self.counts.topic, record.partition, record.offset);
        problems.add(
            Some((self.subject, key)),
            format!("{topic}, partition {partition}, offset {offset}: version {} {what}", seen.version),
        );
    }

    /// Of the orders: what the later stages are held against.
    pub fn into_ways(self) -> (BTreeMap<i64, OrderWay>, Statuses, TopicCounts) {
        let ways = self.by_key.into_iter().map(|(key, passed)| (key, OrderWay::new(passed)));
        (ways.collect(), self.statuses, self.counts)
    }

    /// Of the users: what orders are joined with.
    pub fn into_users(self) -> (KnownUsers, TopicCounts) {
        (self.users, self.counts)
    }
}

/// Holds every key against its history.
pub fn check(histories: &Histories, captured: &mut Captured, since: Lsn, problems: &mut Problems) {
    let Captured { subject, counts, by_key, .. } = captured;
    let mut keys: Vec<i64> = histories.iter().map(|(key, _)| key).chain(by_key.keys().copied()).collect();
    keys.sort_unstable();
    keys.dedup();
    counts.keys = by_key.len() as u64;
    for key in keys {
        let passed = by_key.get(&key).map(Vec::as_slice).unwrap_or_default();
        let seen: Vec<Seen> = passed.iter().map(|passed| passed.seen).collect();
        counts.versions += seen.len() as u64;
        let what = match held_against(histories.of(key), &seen, since) {
            Ok(repeats) => {
                counts.repeats += repeats;
                continue;
            }
            Err(Mismatch::Lost(lost, what)) => {
                counts.lost += lost;
                what
            }
            Err(Mismatch::Surplus(surplus, what)) => {
                counts.surplus += surplus;
                what
            }
            Err(Mismatch::Wrong(what)) => {
                counts.wrong += 1;
                what
            }
        };
        problems.add(Some((*subject, key)), format!("{}: {what}", counts.topic));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_in_each_partition_for_itself() {
        let version = |lsn| Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() };
        let mut growth = Growth::default();
        assert!(growth.grows(0, version(5)) && growth.grows(1, version(3)) && growth.grows(0, version(6)));
        assert!(!growth.grows(0, version(6)) && !growth.grows(0, version(4)) && growth.grows(1, version(4)));
    }
}

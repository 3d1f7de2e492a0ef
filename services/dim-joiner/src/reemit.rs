//! The lane of changed rows: whose facts are still to be sent again, and where in them it stands.
//!
//! A row stands in the lane once, however often it changes: a newer change makes the walk begin again, and facts that carry it already
//! are passed over.

use std::collections::{BTreeMap, HashSet, VecDeque};

use shared::failure::Failure;
use shared::position::Version;

use crate::facts::{Cursor, Kept, Named, PartitionFacts};
use crate::names::Name;

/// Waiting rows, oldest change first, and the one that is walked. A row is its dimension and its name.
#[derive(Debug, Default)]
pub struct Lane {
    waiting: VecDeque<(usize, Name)>,
    queued: HashSet<(usize, Name)>,
    walk: Option<Walk>,
}

/// A walk over the facts that name one row, newest first.
#[derive(Debug)]
struct Walk {
    row: (usize, Name),
    /// Partitions, and where in each it stands.
    left: Vec<(i32, Cursor)>,
}

/// A fact that lacks a change, and the dimension whose change it was found by.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    pub dimension: usize,
    pub partition: i32,
    pub fact: Kept<'static>,
}

impl Lane {
    /// A row changed.
    pub fn push(&mut self, dimension: usize, name: Name) {
        let row = (dimension, name);
        if self.walk.as_ref().is_some_and(|walk| walk.row == row) {
            self.walk = None;
        }
        if self.queued.insert(row.clone()) {
            self.waiting.push_back(row);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.walk.is_none()
    }

    /// Rows that wait or are walked.
    pub fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.walk.is_some())
    }

    /// A partition is gone: its facts are another instance's.
    pub fn revoked(&mut self, partition: i32) {
        if let Some(walk) = &mut self.walk {
            walk.left.retain(|(owned, _)| *owned != partition);
        }
    }

    /// The next fact to send; `now` gives the version of a row that a fact is sent with. It looks at as many facts as `looks` has
    /// left, so that fresh facts need not wait for a walk over facts that lack nothing.
    pub fn next(
        &mut self,
        partitions: &BTreeMap<i32, PartitionFacts>,
        looks: &mut usize,
        now: &impl Fn(Named<'_>) -> Version,
    ) -> Result<Option<Due>, Failure> {
        loop {
            let walk = match &mut self.walk {
                Some(walk) => walk,
                None => {
                    let Some(row) = self.waiting.pop_front() else { return Ok(None) };
                    self.queued.remove(&row);
                    let cursor_of = |facts: &PartitionFacts| facts.walk(row.0, &row.1);
                    let mut left: Vec<_> =
                        partitions.iter().map(|(partition, facts)| (*partition, cursor_of(facts))).collect();
                    left.sort_unstable_by_key(|(partition, _)| *partition);
                    self.walk.insert(Walk { row, left })
                }
            };
            let Some((partition, cursor)) = walk.left.last_mut() else {
                self.walk = None;
                continue;
            };
            let (dimension, name) = &walk.row;
            let facts = partitions.get(partition);
            let next =
                facts.map(|facts| facts.next_lagging((*dimension, name), cursor, looks, now)).transpose()?.flatten();
            match next {
                Some(fact) => return Ok(Some(Due { dimension: *dimension, partition: *partition, fact })),
                None if *looks == 0 => return Ok(None),
                None => drop(walk.left.pop()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::{kept, put, room, version};
    use shared::position::JoinedVersions;

    fn three_facts() -> BTreeMap<i32, PartitionFacts> {
        let mut partitions: BTreeMap<i32, PartitionFacts> = BTreeMap::new();
        for (partition, key, user) in [(0, "1", "a"), (0, "2", "a"), (1, "3", "a"), (1, "4", "b")] {
            let facts = partitions.entry(partition).or_insert_with(|| PartitionFacts::new(room()));
            put(facts, &kept(key, 1, user, 1)).unwrap();
        }
        partitions
    }

    fn drain(lane: &mut Lane, partitions: &mut BTreeMap<i32, PartitionFacts>, now: u64, most: usize) -> Vec<String> {
        let mut sent = Vec::new();
        while sent.len() < most
            && let Some(due) = lane.next(partitions, &mut 100, &|_| version(now)).unwrap()
        {
            sent.push(String::from_utf8(due.fact.key.to_vec()).unwrap());
            let joined: JoinedVersions = [version(now)].into_iter().collect();
            partitions.get_mut(&due.partition).unwrap().sent_with(due.fact, &joined).unwrap();
        }
        sent
    }

    #[test]
    fn every_fact_of_the_row_is_sent_once_newest_first() {
        let (mut lane, mut partitions) = (Lane::default(), three_facts());
        lane.push(0, "a".into());
        lane.push(0, "a".into());
        assert_eq!(drain(&mut lane, &mut partitions, 2, 9), ["3", "2", "1"]);
        assert!(lane.is_empty());
        lane.push(0, "a".into());
        assert!(drain(&mut lane, &mut partitions, 2, 9).is_empty(), "they carry it already");
    }

    #[test]
    fn a_newer_change_begins_the_walk_again() {
        let (mut lane, mut partitions) = (Lane::default(), three_facts());
        lane.push(0, "a".into());
        assert_eq!(drain(&mut lane, &mut partitions, 2, 1), ["3"]);
        lane.push(0, "a".into());
        assert_eq!(drain(&mut lane, &mut partitions, 3, 9), ["3", "2", "1"]);
        assert_eq!(lane.len(), 0);
    }

    #[test]
    fn a_walk_goes_on_where_it_stopped_looking() {
        let (mut lane, mut partitions) = (Lane::default(), three_facts());
        lane.push(0, "a".into());
        drain(&mut lane, &mut partitions, 2, 9);
        lane.push(0, "a".into());
        for _ in 0..3 {
            assert!(lane.next(&partitions, &mut 1, &|_| version(2)).unwrap().is_none());
            assert!(!lane.is_empty());
        }
        assert!(lane.next(&partitions, &mut 1, &|_| version(2)).unwrap().is_none());
        assert!(lane.is_empty());
    }

    #[test]
    fn a_revoked_partition_is_passed_over() {
        let (mut lane, mut partitions) = (Lane::default(), three_facts());
        lane.push(0, "a".into());
        assert_eq!(drain(&mut lane, &mut partitions, 2, 1), ["3"]);
        partitions.remove(&0);
        lane.revoked(0);
        assert!(drain(&mut lane, &mut partitions, 2, 9).is_empty());
    }
}

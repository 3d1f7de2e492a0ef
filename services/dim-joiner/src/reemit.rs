//! The lane of changed users: whose orders are still to be sent again, and where in them it stands.
//!
//! A user stands in the lane once, however often it changes: a newer change makes the walk begin again, and orders that carry it
//! already are passed over.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::orders::PartitionOrders;
use shared::position::Version;

/// Waiting users, oldest change first, and the one that is walked.
#[derive(Debug, Default)]
pub struct Lane {
    waiting: VecDeque<Box<str>>,
    queued: HashSet<Box<str>>,
    walk: Option<Walk>,
}

/// A walk over one user's orders, newest first.
#[derive(Debug)]
struct Walk {
    user: Box<str>,
    /// Partitions and the number of orders that are left in each.
    left: Vec<(i32, usize)>,
}

/// An order that lacks a change of its user: partition and place in the user's list.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    pub user: Box<str>,
    pub partition: i32,
    pub place: usize,
}

impl Lane {
    /// A user changed.
    pub fn push(&mut self, user: Box<str>) {
        if self.walk.as_ref().is_some_and(|walk| walk.user == user) {
            self.walk = None;
        }
        if self.queued.insert(user.clone()) {
            self.waiting.push_back(user);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.walk.is_none()
    }

    /// Users that wait or are walked.
    pub fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.walk.is_some())
    }

    /// A partition is gone: its orders are another instance's.
    pub fn revoked(&mut self, partition: i32) {
        if let Some(walk) = &mut self.walk {
            walk.left.retain(|(owned, _)| *owned != partition);
        }
    }

    /// The next order to send; `current` gives a user's version.
    pub fn next(
        &mut self,
        partitions: &HashMap<i32, PartitionOrders>,
        current: impl Fn(&str) -> Version,
    ) -> Option<Due> {
        loop {
            let walk = match &mut self.walk {
                Some(walk) => walk,
                None => {
                    let user = self.waiting.pop_front()?;
                    self.queued.remove(&user);
                    let mut left: Vec<_> =
                        partitions.iter().map(|(partition, orders)| (*partition, orders.count_of(&user))).collect();
                    left.sort_unstable();
                    self.walk.insert(Walk { user, left })
                }
            };
            match walk.next_place() {
                None => self.walk = None,
                Some((partition, place)) => {
                    let order = partitions.get(&partition).and_then(|orders| orders.of_user(&walk.user, place));
                    if order.is_some_and(|order| order.user_version < current(&walk.user)) {
                        return Some(Due { user: walk.user.clone(), partition, place });
                    }
                }
            }
        }
    }
}

impl Walk {
    fn next_place(&mut self) -> Option<(i32, usize)> {
        while let Some((partition, left)) = self.left.last_mut() {
            if *left > 0 {
                *left -= 1;
                return Some((*partition, *left));
            }
            self.left.pop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::position::Lsn;

    fn version(lsn: u64) -> Version {
        Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() }
    }

    fn three_orders() -> HashMap<i32, PartitionOrders> {
        let mut partitions: HashMap<i32, PartitionOrders> = HashMap::new();
        for (partition, key, user) in [(0, b"1", "a"), (0, b"2", "a"), (1, b"3", "a"), (1, b"4", "b")] {
            partitions.entry(partition).or_default().put(key, b"{", version(1), user, version(1));
        }
        partitions
    }

    fn drain(
        lane: &mut Lane,
        partitions: &mut HashMap<i32, PartitionOrders>,
        now: u64,
        most: usize,
    ) -> Vec<(i32, usize)> {
        let mut sent = Vec::new();
        while sent.len() < most
            && let Some(due) = lane.next(partitions, |_| version(now))
        {
            partitions.get_mut(&due.partition).unwrap().sent_with(&due.user, due.place, version(now));
            sent.push((due.partition, due.place));
        }
        sent
    }

    #[test]
    fn every_order_of_the_user_is_sent_once_newest_first() {
        let (mut lane, mut partitions) = (Lane::default(), three_orders());
        lane.push("a".into());
        lane.push("a".into());
        assert_eq!(drain(&mut lane, &mut partitions, 2, 9), [(1, 0), (0, 1), (0, 0)]);
        assert!(lane.is_empty());
        lane.push("a".into());
        assert!(drain(&mut lane, &mut partitions, 2, 9).is_empty(), "they carry it already");
    }

    #[test]
    fn a_newer_change_begins_the_walk_again() {
        let (mut lane, mut partitions) = (Lane::default(), three_orders());
        lane.push("a".into());
        assert_eq!(drain(&mut lane, &mut partitions, 2, 1), [(1, 0)]);
        lane.push("a".into());
        assert_eq!(drain(&mut lane, &mut partitions, 3, 9), [(1, 0), (0, 1), (0, 0)]);
        assert_eq!(lane.len(), 0);
    }

    #[test]
    fn a_revoked_partition_is_passed_over() {
        let (mut lane, mut partitions) = (Lane::default(), three_orders());
        lane.push("a".into());
        assert_eq!(drain(&mut lane, &mut partitions, 2, 1), [(1, 0)]);
        partitions.remove(&0);
        lane.revoked(0);
        assert!(drain(&mut lane, &mut partitions, 2, 9).is_empty());
    }
}

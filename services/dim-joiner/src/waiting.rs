//! Mode `wait`: facts of a partition that name a row which is not known yet. Each waits for its rows or for its deadline, and the later
//! ones of the same key wait behind it, so that a key's order stays.
//!
//! Nothing of them is in the output: the partition goes on from in front of the first of them after a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use shared::position::Version;
use shared::record::header::Header;

use crate::fact::Fact;
use crate::names::Name;

/// A record that waits.
#[derive(Debug)]
pub struct Waiter {
    pub offset: i64,
    pub header: Header,
    /// `None` is a tombstone.
    pub row: Option<(Fact, Box<[u8]>)>,
    /// Milliseconds of the caller's clock: it goes out then, whatever is known.
    pub deadline: u64,
}

/// The waiting records of one partition.
#[derive(Debug, Default)]
pub struct Waiting {
    by_key: HashMap<Box<[u8]>, VecDeque<Waiter>>,
    by_name: HashMap<(usize, Name), BTreeSet<i64>>,
    by_deadline: BTreeSet<(u64, i64)>,
    keys: BTreeMap<i64, Box<[u8]>>,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a record of this key waits: the next one must wait behind it.
    pub fn has(&self, key: &[u8]) -> bool {
        self.by_key.contains_key(key)
    }

    /// The offset of the first record that waits.
    pub fn first_offset(&self) -> Option<i64> {
        self.keys.keys().next().copied()
    }

    pub fn first_key(&self) -> Option<Box<[u8]>> {
        self.keys.values().next().cloned()
    }

    /// The version of the last record of a key that waits.
    pub fn newest(&self, key: &[u8]) -> Option<Version> {
        Some(self.by_key.get(key)?.back()?.header.version)
    }

    pub fn push(&mut self, key: &[u8], waiter: Waiter) {
        self.keys.insert(waiter.offset, key.into());
        self.by_deadline.insert((waiter.deadline, waiter.offset));
        for row in waiter.rows() {
            self.by_name.entry(row).or_default().insert(waiter.offset);
        }
        self.by_key.entry(key.into()).or_default().push_back(waiter);
    }

    /// Keys with a record whose deadline has passed, oldest first.
    pub fn overdue(&self, now: u64) -> Vec<Box<[u8]>> {
        let due = self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now);
        due.filter_map(|(_, offset)| self.keys.get(offset).cloned()).collect()
    }

    /// Keys with a record that names this row, oldest first.
    pub fn naming(&self, dimension: usize, name: &Name) -> Vec<Box<[u8]>> {
        let offsets = self.by_name.get(&(dimension, name.clone())).into_iter().flatten();
        offsets.filter_map(|offset| self.keys.get(offset).cloned()).collect()
    }

    /// Whether a record waits that names this row.
    pub fn names(&self, dimension: usize, name: &Name) -> bool {
        self.by_name.contains_key(&(dimension, name.clone()))
    }

    /// The first record of a key, if it need not wait any longer.
    pub fn pop(&mut self, key: &[u8], is_ready: impl FnOnce(&Waiter) -> bool) -> Option<Waiter> {
        let queue = self.by_key.get_mut(key)?;
        if !is_ready(queue.front()?) {
            return None;
        }
        let waiter = queue.pop_front()?;
        if queue.is_empty() {
            self.by_key.remove(key);
        }
        self.keys.remove(&waiter.offset);
        self.by_deadline.remove(&(waiter.deadline, waiter.offset));
        for row in waiter.rows() {
            if let Some(offsets) = self.by_name.get_mut(&row) {
                offsets.remove(&waiter.offset);
                if offsets.is_empty() {
                    self.by_name.remove(&row);
                }
            }
        }
        Some(waiter)
    }
}

impl Waiter {
    /// The rows that it names.
    fn rows(&self) -> Vec<(usize, Name)> {
        let names = self.row.iter().flat_map(|(fact, _)| fact.names.iter().enumerate());
        names.filter_map(|(dimension, name)| Some((dimension, name.clone()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::record::header::Operation;
    use smallvec::smallvec;

    fn waiter(offset: i64, user: Option<&str>, deadline: u64) -> Waiter {
        let fact = |user: &str| Fact { names: smallvec![Some(user.into())], time: None, expires: None };
        let header = Header::new(Operation::Insert, Version::default());
        Waiter { offset, header, row: user.map(|user| (fact(user), Box::default())), deadline }
    }

    #[test]
    fn records_of_a_key_go_in_their_order() {
        let mut waiting = Waiting::default();
        waiting.push(b"a", waiter(5, Some("7"), 100));
        waiting.push(b"b", waiter(6, Some("7"), 50));
        waiting.push(b"a", waiter(7, None, 0));
        assert_eq!((waiting.len(), waiting.first_offset(), waiting.has(b"a")), (3, Some(5), true));
        assert_eq!(waiting.naming(0, &"7".into()), [b"a"[..].into(), b"b"[..].into()]);
        assert!(waiting.names(0, &"7".into()) && !waiting.names(1, &"7".into()) && !waiting.names(0, &"8".into()));
        assert_eq!(waiting.overdue(50), [b"a"[..].into(), b"b"[..].into()], "a deadline behind another of its key");
        assert!(waiting.pop(b"a", |first| first.deadline <= 50).is_none(), "the first of the key still waits");
        assert_eq!(waiting.pop(b"b", |first| first.deadline <= 50).map(|out| out.offset), Some(6));
        assert_eq!(waiting.pop(b"a", |_| true).map(|out| out.offset), Some(5));
        assert!(waiting.naming(0, &"7".into()).is_empty() && !waiting.names(0, &"7".into()));
        assert_eq!((waiting.first_offset(), waiting.first_key().as_deref()), (Some(7), Some(&b"a"[..])));
        assert_eq!(waiting.pop(b"a", |_| true).map(|out| out.offset), Some(7));
        assert_eq!((waiting.len(), waiting.has(b"a"), waiting.first_offset()), (0, false, None));
        assert!(waiting.overdue(1000).is_empty());
    }
}

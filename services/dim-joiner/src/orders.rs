//! The orders of the owned partitions, by key and by user: what a user's change must reach.
//!
//! It is a cache of the output topic: every result has the cleaned row in front, and its header says with which version of the user it
//! was sent. So a restart finds the orders, and which of them still lack a change of their user, in one reading. Fresh orders are joined
//! meanwhile, and put on top of what was read.

use std::collections::HashMap;

use shared::position::{ResultVersion, Version};

/// An order as it was last sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub key: Box<[u8]>,
    /// The cleaned row without its closing brace.
    pub open_row: Box<[u8]>,
    pub version: Version,
    /// The version of the user that it was sent with; the lowest where there was none.
    pub user_version: Version,
    pub user: Box<str>,
    /// Its place in its user's list.
    place: u32,
}

impl Order {
    fn result_version(&self) -> ResultVersion {
        ResultVersion { order: self.version, user: self.user_version }
    }
}

/// The orders of one partition.
#[derive(Debug, Default)]
pub struct PartitionOrders {
    slots: Vec<Option<Order>>,
    free: Vec<u32>,
    by_key: HashMap<Box<[u8]>, u32>,
    by_user: HashMap<Box<str>, Vec<u32>>,
    /// Keys that were removed, with the version of their tombstones: kept while older records of them may still be read.
    gone: Option<HashMap<Box<[u8]>, Version>>,
    /// The last input offset that the output names, or that was handled since.
    pub input_offset: Option<i64>,
    /// The highest order version that was handled.
    pub handled: Version,
}

fn slot_number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl PartitionOrders {
    /// Of a partition whose older records are still to be read, or are read just now.
    pub fn incomplete() -> Self {
        PartitionOrders { gone: Some(HashMap::new()), ..PartitionOrders::default() }
    }

    /// All older records are read.
    pub fn complete(&mut self) {
        self.gone = None;
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn order_mut(&mut self, slot: u32) -> Option<&mut Order> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Remembers an order as it is sent. The newest stands last in its user's list.
    pub fn put(&mut self, key: &[u8], open_row: &[u8], version: Version, user: &str, user_version: Version) {
        if let Some(&slot) = self.by_key.get(key)
            && let Some(order) = self.order_mut(slot)
            && *order.user == *user
        {
            order.open_row = open_row.into();
            order.version = version;
            order.user_version = user_version;
            return;
        }
        self.remove(key);
        if let Some(gone) = &mut self.gone {
            gone.remove(key);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            slot_number(self.slots.len() - 1)
        });
        let list = self.by_user.entry(user.into()).or_default();
        let place = slot_number(list.len());
        list.push(slot);
        let order =
            Order { key: key.into(), open_row: open_row.into(), version, user_version, user: user.into(), place };
        self.by_key.insert(order.key.clone(), slot);
        if let Some(free) = self.slots.get_mut(slot as usize) {
            *free = Some(order);
        }
    }

    /// An order was deleted, by a tombstone of this version.
    pub fn delete(&mut self, key: &[u8], version: Version) {
        self.remove(key);
        if let Some(gone) = &mut self.gone {
            gone.insert(key.into(), version);
        }
    }

    /// Whether this version of an order, joined with this version of its user, is not above what is known of it.
    pub fn has_newer(&self, key: &[u8], version: ResultVersion) -> bool {
        let gone = self.gone.as_ref().and_then(|gone| gone.get(key));
        gone.is_some_and(|known| *known >= version.order) || self.version_of(key).is_some_and(|known| known > version)
    }

    /// Puts what was handled since on top of what was read back.
    pub fn absorb(&mut self, since: PartitionOrders) {
        for (key, version) in since.gone.into_iter().flatten() {
            if !self.has_newer(&key, ResultVersion { order: version, user: Version::default() }) {
                self.delete(&key, version);
            }
        }
        for order in since.slots.into_iter().flatten() {
            if !self.has_newer(&order.key, order.result_version()) {
                self.put(&order.key, &order.open_row, order.version, &order.user, order.user_version);
            }
        }
        self.input_offset = self.input_offset.max(since.input_offset);
        self.handled = self.handled.max(since.handled);
    }

    fn remove(&mut self, key: &[u8]) {
        let Some(slot) = self.by_key.remove(key) else { return };
        let Some(order) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        self.free.push(slot);
        let Some(list) = self.by_user.get_mut(&order.user) else { return };
        if (order.place as usize) < list.len() {
            list.swap_remove(order.place as usize);
        }
        let moved = list.get(order.place as usize).copied();
        if list.is_empty() {
            self.by_user.remove(&order.user);
        }
        if let Some(moved) = moved.and_then(|slot| self.order_mut(slot)) {
            moved.place = order.place;
        }
    }

    /// The version with which an order was last sent.
    pub fn version_of(&self, key: &[u8]) -> Option<ResultVersion> {
        let order = self.slots.get(*self.by_key.get(key)? as usize)?.as_ref()?;
        Some(order.result_version())
    }

    /// How many orders a user has here.
    pub fn count_of(&self, user: &str) -> usize {
        self.by_user.get(user).map_or(0, Vec::len)
    }

    /// The order at `place` of a user's list.
    pub fn of_user(&self, user: &str, place: usize) -> Option<&Order> {
        let slot = *self.by_user.get(user)?.get(place)?;
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Notes that the order at `place` of a user's list was sent with this version of the user.
    pub fn sent_with(&mut self, user: &str, place: usize, user_version: Version) {
        let slot = self.by_user.get(user).and_then(|list| list.get(place)).copied();
        if let Some(order) = slot.and_then(|slot| self.order_mut(slot)) {
            order.user_version = user_version;
        }
    }

    /// The users that orders here name.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.by_user.keys().map(AsRef::as_ref)
    }

    /// Users with an order that was sent with an older version of the user than `current` gives.
    pub fn users_behind(&self, current: impl Fn(&str) -> Version) -> Vec<Box<str>> {
        let behind = self.by_user.iter().filter(|(user, list)| {
            let now = current(user);
            let mut orders = list.iter().filter_map(|&slot| self.slots.get(slot as usize)?.as_ref());
            orders.any(|order| order.user_version < now)
        });
        behind.map(|(user, _)| user.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::position::Lsn;
    use std::collections::BTreeMap;

    fn version(lsn: u64) -> Version {
        Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() }
    }

    proptest! {
        /// Against a plain map: whatever is put and removed, each order is found by its key once, and in its user's list once.
        #[test]
        fn the_two_indexes_agree(steps in prop::collection::vec((0..12u8, prop::option::of(0..4u8)), 1..200)) {
            let mut orders = PartitionOrders::default();
            let mut model: BTreeMap<u8, (u8, u64)> = BTreeMap::new();
            for (number, (key, user)) in steps.into_iter().enumerate() {
                match user {
                    Some(user) => {
                        orders.put(&[key], b"{", version(number as u64), &user.to_string(), Version::default());
                        model.insert(key, (user, number as u64));
                    }
                    None => {
                        orders.remove(&[key]);
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(orders.len(), model.len());
                for user in 0..4u8 {
                    let name = user.to_string();
                    let listed: BTreeMap<u8, u64> = (0..orders.count_of(&name))
                        .map(|place| orders.of_user(&name, place).unwrap())
                        .map(|order| (order.key[0], order.version.lsn.0))
                        .collect();
                    let expected: BTreeMap<u8, u64> =
                        model.iter().filter(|(_, (owner, _))| *owner == user).map(|(key, (_, lsn))| (*key, *lsn)).collect();
                    prop_assert_eq!(orders.count_of(&name), expected.len());
                    prop_assert_eq!(listed, expected);
                }
            }
        }
    }

    #[test]
    fn users_with_orders_of_an_older_version_are_found() {
        let mut orders = PartitionOrders::default();
        orders.put(b"1", b"{", version(1), "a", version(3));
        orders.put(b"2", b"{", version(2), "b", version(5));
        orders.put(b"3", b"{", version(2), "c", Version::default());
        let behind = |user: &str| if user == "c" { Version::default() } else { version(5) };
        assert_eq!(orders.users_behind(behind), ["a".into()]);
        orders.sent_with("a", 0, version(5));
        assert!(orders.users_behind(behind).is_empty());
    }
}

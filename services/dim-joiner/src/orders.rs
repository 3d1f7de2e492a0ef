//! The orders of the owned partitions, by key and by user: what a user's change must reach.
//!
//! It is a cache of the output topic: every result has the cleaned row in front, and its header says with which version of the user it
//! was sent. So a restart finds the orders, and which of them still lack a change of their user, in one reading. Fresh orders are joined
//! meanwhile, and put on top of what was read.
//!
//! There are millions of them, so nothing is kept twice: the indexes hold numbers, and look into the order or the owner for what they mean.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use shared::position::{ResultVersion, Version};

use crate::shapes::Shapes;

/// An order as it was last sent.
#[derive(Debug)]
pub struct Order {
    /// The key, and behind it the values of the row.
    text: Box<[u8]>,
    key_bytes: u32,
    shape: u32,
    /// Its place in its user's list.
    place: u32,
    owner: u32,
    pub version: Version,
    /// The version of the user that it was sent with; the lowest where there was none.
    pub user_version: Version,
}

/// A user with orders.
#[derive(Debug)]
struct Owner {
    user: Box<str>,
    orders: Places,
}

/// The orders of a user, the newest last. Most have one in a partition.
#[derive(Debug)]
enum Places {
    One(u32),
    Many(Vec<u32>),
}

/// The orders of one partition.
#[derive(Debug, Default)]
pub struct PartitionOrders {
    orders: Slots<Order>,
    owners: Slots<Owner>,
    by_key: HashTable<u32>,
    by_user: HashTable<u32>,
    hashes: RandomState,
    shapes: Shapes,
    /// Keys that were removed, with the version of their tombstones: kept while older records of them may still be read.
    gone: Option<HashMap<Box<[u8]>, Version>>,
    /// The last input offset that the output names, or that was handled since.
    pub input_offset: Option<i64>,
    /// The highest order version that was handled.
    pub handled: Version,
}

impl Order {
    pub fn key(&self) -> &[u8] {
        self.text.get(..self.key_bytes as usize).unwrap_or_default()
    }

    fn values(&self) -> &[u8] {
        self.text.get(self.key_bytes as usize..).unwrap_or_default()
    }

    fn result_version(&self) -> ResultVersion {
        ResultVersion { order: self.version, user: self.user_version }
    }
}

impl Places {
    fn as_slice(&self) -> &[u32] {
        match self {
            Places::One(slot) => std::slice::from_ref(slot),
            Places::Many(slots) => slots,
        }
    }

    fn push(&mut self, slot: u32) {
        match self {
            Places::One(first) => *self = Places::Many(vec![*first, slot]),
            Places::Many(slots) => slots.push(slot),
        }
    }

    /// Takes out the order at a place; the last one comes there. True when there is none left.
    fn remove(&mut self, place: u32) -> bool {
        let Places::Many(slots) = self else { return true };
        if (place as usize) < slots.len() {
            slots.swap_remove(place as usize);
        }
        slots.is_empty()
    }
}

/// Things with numbers. A number that is free is given again.
#[derive(Debug)]
struct Slots<T> {
    taken: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { taken: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    fn get(&self, number: u32) -> Option<&T> {
        self.taken.get(number as usize)?.as_ref()
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.taken.get_mut(number as usize)?.as_mut()
    }

    fn put(&mut self, thing: T) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(free) = self.taken.get_mut(number as usize)
        {
            *free = Some(thing);
            return number;
        }
        self.taken.push(Some(thing));
        slot_number(self.taken.len() - 1)
    }

    fn take(&mut self, number: u32) -> Option<T> {
        let thing = self.taken.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(thing)
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.taken.iter().flatten()
    }
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

    fn slot_of(&self, key: &[u8]) -> Option<u32> {
        let is_it = |slot: &u32| self.orders.get(*slot).is_some_and(|order| order.key() == key);
        self.by_key.find(self.hashes.hash_one(key), is_it).copied()
    }

    fn owner_number(&self, user: &str) -> Option<u32> {
        let is_it = |owner: &u32| self.owners.get(*owner).is_some_and(|owner| *owner.user == *user);
        self.by_user.find(self.hashes.hash_one(user), is_it).copied()
    }

    fn owner(&self, user: &str) -> Option<&Owner> {
        self.owners.get(self.owner_number(user)?)
    }

    /// Remembers an order as it is sent. The newest stands last in its user's list.
    pub fn put(&mut self, key: &[u8], open_row: &[u8], version: Version, user: &str, user_version: Version) {
        let mut text = key.to_vec();
        let shape = self.shapes.pack(open_row, &mut text);
        let text = text.into_boxed_slice();
        let known = self.slot_of(key).and_then(|slot| self.orders.get_mut(slot));
        if let Some(order) = known
            && self.owners.get(order.owner).is_some_and(|owner| *owner.user == *user)
        {
            (order.text, order.shape, order.version, order.user_version) = (text, shape, version, user_version);
            return;
        }
        self.remove(key);
        if let Some(gone) = &mut self.gone {
            gone.remove(key);
        }
        let key_bytes = slot_number(key.len());
        let slot = self.orders.put(Order { text, key_bytes, shape, place: 0, owner: 0, version, user_version });
        let (owner, place) = self.enter_owner(user, slot);
        if let Some(order) = self.orders.get_mut(slot) {
            (order.owner, order.place) = (owner, place);
        }
        let (orders, hashes) = (&self.orders, &self.hashes);
        let hash_of = |slot: &u32| orders.get(*slot).map_or(0, |order| hashes.hash_one(order.key()));
        self.by_key.insert_unique(hashes.hash_one(key), slot, hash_of);
    }

    /// Enters an order into its user's list. The number of the owner, and the place in the list.
    fn enter_owner(&mut self, user: &str, slot: u32) -> (u32, u32) {
        if let Some(number) = self.owner_number(user)
            && let Some(owner) = self.owners.get_mut(number)
        {
            owner.orders.push(slot);
            return (number, slot_number(owner.orders.as_slice().len() - 1));
        }
        let number = self.owners.put(Owner { user: user.into(), orders: Places::One(slot) });
        let (owners, hashes) = (&self.owners, &self.hashes);
        let hash_of = |owner: &u32| owners.get(*owner).map_or(0, |owner| hashes.hash_one(&*owner.user));
        self.by_user.insert_unique(hashes.hash_one(user), number, hash_of);
        (number, 0)
    }

    /// An order was deleted, by a tombstone of this version.
    pub fn delete(&mut self, key: &[u8], version: Version) {
        self.remove(key);
        if let Some(gone) = &mut self.gone {
            gone.insert(key.into(), version);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let Some(slot) = self.slot_of(key) else { return };
        if let Ok(entry) = self.by_key.find_entry(self.hashes.hash_one(key), |found| *found == slot) {
            entry.remove();
        }
        let Some(order) = self.orders.take(slot) else { return };
        let Some(owner) = self.owners.get_mut(order.owner) else { return };
        if owner.orders.remove(order.place) {
            return self.remove_owner(order.owner);
        }
        let moved = owner.orders.as_slice().get(order.place as usize).copied();
        if let Some(moved) = moved.and_then(|slot| self.orders.get_mut(slot)) {
            moved.place = order.place;
        }
    }

    fn remove_owner(&mut self, number: u32) {
        let Some(owner) = self.owners.take(number) else { return };
        if let Ok(entry) = self.by_user.find_entry(self.hashes.hash_one(&*owner.user), |found| *found == number) {
            entry.remove();
        }
    }

    /// The version with which an order was last sent.
    pub fn version_of(&self, key: &[u8]) -> Option<ResultVersion> {
        Some(self.orders.get(self.slot_of(key)?)?.result_version())
    }

    /// Whether this version of an order, joined with this version of its user, is not above what is known of it.
    pub fn has_newer(&self, key: &[u8], version: ResultVersion) -> bool {
        let gone = self.gone.as_ref().and_then(|gone| gone.get(key));
        gone.is_some_and(|known| *known >= version.order) || self.version_of(key).is_some_and(|known| known > version)
    }

    /// Puts what was handled since on top of what was read back.
    pub fn absorb(&mut self, since: PartitionOrders) {
        for (key, version) in since.gone.iter().flatten() {
            if !self.has_newer(key, ResultVersion { order: *version, user: Version::default() }) {
                self.delete(key, *version);
            }
        }
        for order in since.orders.iter() {
            if !self.has_newer(order.key(), order.result_version())
                && let Some(owner) = since.owners.get(order.owner)
            {
                self.put(order.key(), &since.open_row(order), order.version, &owner.user, order.user_version);
            }
        }
        self.input_offset = self.input_offset.max(since.input_offset);
        self.handled = self.handled.max(since.handled);
    }

    /// How many orders a user has here.
    pub fn count_of(&self, user: &str) -> usize {
        self.owner(user).map_or(0, |owner| owner.orders.as_slice().len())
    }

    /// The order at `place` of a user's list.
    pub fn of_user(&self, user: &str, place: usize) -> Option<&Order> {
        self.orders.get(*self.owner(user)?.orders.as_slice().get(place)?)
    }

    /// The cleaned row of an order of this partition, without its closing brace.
    pub fn open_row(&self, order: &Order) -> Vec<u8> {
        let mut row = Vec::new();
        self.shapes.unpack(order.shape, order.values(), &mut row);
        row
    }

    /// Notes that the order at `place` of a user's list was sent with this version of the user.
    pub fn sent_with(&mut self, user: &str, place: usize, user_version: Version) {
        let slot = self.owner(user).and_then(|owner| owner.orders.as_slice().get(place)).copied();
        if let Some(order) = slot.and_then(|slot| self.orders.get_mut(slot)) {
            order.user_version = user_version;
        }
    }

    /// The users that orders here name.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.owners.iter().map(|owner| &*owner.user)
    }

    /// Users with an order that was sent with an older version of the user than `current` gives.
    pub fn users_behind(&self, current: impl Fn(&str) -> Version) -> Vec<Box<str>> {
        let behind = self.owners.iter().filter(|owner| {
            let now = current(&owner.user);
            let mut orders = owner.orders.as_slice().iter().filter_map(|slot| self.orders.get(*slot));
            orders.any(|order| order.user_version < now)
        });
        behind.map(|owner| owner.user.clone()).collect()
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

    fn row_of(lsn: u64) -> Vec<u8> {
        format!("{{\"id\":{lsn},\"status\":\"x{lsn}\"").into_bytes()
    }

    /// A step of a history: the key, and the user of its order; none where it was deleted.
    type Step = (u8, Option<u8>);

    /// Takes in steps as the topic has them; the number of a step is its version.
    fn take<'s>(orders: &mut PartitionOrders, steps: impl IntoIterator<Item = (usize, &'s Step)>) {
        for (number, (key, user)) in steps {
            let lsn = number as u64 + 1;
            let of_user = version(user.map_or(0, u64::from));
            match user {
                _ if orders.has_newer(&[*key], ResultVersion { order: version(lsn), user: of_user }) => {}
                Some(user) => orders.put(&[*key], &row_of(lsn), version(lsn), &user.to_string(), of_user),
                None => orders.delete(&[*key], version(lsn)),
            }
        }
    }

    fn everything(orders: &PartitionOrders) -> BTreeMap<(u8, String), (u64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        for user in orders.users() {
            for order in (0..orders.count_of(user)).map(|place| orders.of_user(user, place).unwrap()) {
                found.insert((order.key()[0], user.to_owned()), (order.version.lsn.0, orders.open_row(order)));
            }
        }
        assert_eq!(found.len(), orders.len());
        found
    }

    proptest! {
        /// What was read back, in any order within a few records, with what came since on top, is what one reading of all gives.
        #[test]
        fn fresh_orders_on_top_of_older_ones_are_all(
            steps in prop::collection::vec((0..8u8, prop::option::of(0..4u8)), 1..120),
            cut in 0..120usize,
            late in 0..10usize,
        ) {
            let cut = cut.min(steps.len());
            let (mut all, mut held, mut since) =
                (PartitionOrders::incomplete(), PartitionOrders::incomplete(), PartitionOrders::incomplete());
            take(&mut all, steps.iter().enumerate());
            take(&mut held, steps.iter().enumerate().take(cut));
            // A writer that hung wrote some of it again.
            take(&mut held, steps.iter().enumerate().take(cut).skip(late).take(3));
            take(&mut since, steps.iter().enumerate().skip(cut));
            held.absorb(since);
            prop_assert_eq!(everything(&held), everything(&all));
        }

        /// Against a plain map: whatever is put and removed, each order is found by its key once, and in its user's list once.
        #[test]
        fn the_two_indexes_agree(steps in prop::collection::vec((0..12u8, prop::option::of(0..4u8)), 1..200)) {
            let mut orders = PartitionOrders::default();
            let mut model: BTreeMap<u8, (u8, u64)> = BTreeMap::new();
            for (number, (key, user)) in steps.into_iter().enumerate() {
                match user {
                    Some(user) => {
                        orders.put(&[key], &row_of(number as u64), version(number as u64), &user.to_string(), Version::default());
                        model.insert(key, (user, number as u64));
                    }
                    None => {
                        orders.delete(&[key], version(number as u64));
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(orders.len(), model.len());
                for user in 0..4u8 {
                    let name = user.to_string();
                    let listed: BTreeMap<u8, u64> = (0..orders.count_of(&name))
                        .map(|place| orders.of_user(&name, place).unwrap())
                        .inspect(|order| assert_eq!(orders.open_row(order), row_of(order.version.lsn.0)))
                        .map(|order| (order.key()[0], order.version.lsn.0))
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

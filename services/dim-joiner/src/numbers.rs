//! An index: the numbers of things by the hashes of their names. What it finds has the hash; whether it has the name as well, its owner says.
//!
//! A join asks three of these for each fact, all far larger than a cache. So an entry is one word with the hash in it, open addressing keeps
//! all that a question wants in a line of memory or two, the place of a new entry as well, and growing looks at nothing but the entries.

use crate::hashes::Hash;

#[derive(Debug, Default)]
pub struct Numbers {
    /// A power of two of them, or none. An entry stands at the home of its hash, or behind it with no free one between.
    entries: Vec<Entry>,
    taken: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    hash: Hash,
    /// [`FREE`] of an entry that is free.
    number: u32,
}

const FREE: u32 = u32::MAX;

const FREE_ENTRY: Entry = Entry { hash: Hash(0), number: FREE };

const ENTRIES_MIN: usize = 16;

impl Numbers {
    pub fn count(&self) -> usize {
        self.taken
    }

    /// The homes of hashes ascend with them: what is put into a larger index one after the other stands there in the same order.
    fn home(&self, hash: Hash) -> usize {
        ((u64::from(hash.0) * self.entries.len() as u64) >> u32::BITS) as usize
    }

    fn behind(&self, place: usize) -> usize {
        (place + 1) & (self.entries.len() - 1)
    }

    fn get(&self, place: usize) -> Entry {
        self.entries.get(place).copied().unwrap_or(FREE_ENTRY)
    }

    fn set(&mut self, place: usize, entry: Entry) {
        if let Some(there) = self.entries.get_mut(place) {
            *there = entry;
        }
    }

    /// The place of the first entry with this hash that `is_it` takes, or else the free one where such an entry would stand.
    fn place_of(&self, hash: Hash, mut is_it: impl FnMut(u32) -> bool) -> usize {
        let mut place = self.home(hash);
        loop {
            let entry = self.get(place);
            if entry.number == FREE || (entry.hash == hash && is_it(entry.number)) {
                return place;
            }
            place = self.behind(place);
        }
    }

    /// The number with this hash that `is_it` takes.
    pub fn find(&self, hash: Hash, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let number = self.get(self.place_of(hash, is_it)).number;
        (number != FREE).then_some(number)
    }

    /// The number that most likely has the name with this hash. Reads what [`Numbers::insert`] will want of memory.
    pub fn guess(&self, hash: Hash) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// Enters a number. Several may have one hash.
    pub fn insert(&mut self, hash: Hash, number: u32) {
        debug_assert_ne!(number, FREE);
        if (self.taken + 1) * 4 > self.entries.len() * 3 {
            self.grow();
        }
        let place = self.place_of(hash, |_| false);
        self.set(place, Entry { hash, number });
        self.taken += 1;
    }

    fn grow(&mut self) {
        let wanted = (self.entries.len() * 2).max(ENTRIES_MIN);
        let entries = std::mem::replace(&mut self.entries, vec![FREE_ENTRY; wanted]);
        for entry in entries.into_iter().filter(|entry| entry.number != FREE) {
            let place = self.place_of(entry.hash, |_| false);
            self.set(place, entry);
        }
    }

    /// Takes a number out. Entries behind it that may stand further in front move there, so that no question ends before it comes to them.
    pub fn remove(&mut self, hash: Hash, number: u32) {
        let mut free = self.place_of(hash, |there| there == number);
        if self.get(free).number == FREE {
            return;
        }
        self.taken -= 1;
        let mut place = free;
        loop {
            place = self.behind(place);
            let entry = self.get(place);
            if entry.number == FREE {
                return self.set(free, FREE_ENTRY);
            }
            let far = |from: usize| place.wrapping_sub(from) & (self.entries.len() - 1);
            if far(self.home(entry.hash)) >= far(free) {
                self.set(free, entry);
                free = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of few hashes, at both ends and close together, so that entries wrap around and push each other on.
    fn hash() -> impl Strategy<Value = Hash> {
        prop_oneof![0..4_u32, u32::MAX - 3..=u32::MAX, (0..16_u32).prop_map(|step| step << 28), any::<u32>()]
            .prop_map(Hash)
    }

    proptest! {
        #[test]
        fn it_holds_what_was_entered_and_not_taken_out(steps in prop::collection::vec((0..3_u8, hash(), any::<prop::sample::Index>()), 0..300)) {
            let (mut numbers, mut held) = (Numbers::default(), Vec::new());
            for (number, (step, hash, which)) in (0..).zip(steps) {
                if step > 0 || held.is_empty() {
                    numbers.insert(hash, number);
                    held.push((hash, number));
                } else {
                    let (hash, number) = held.swap_remove(which.index(held.len()));
                    numbers.remove(hash, number);
                    prop_assert_eq!(numbers.find(hash, |there| there == number), None);
                    numbers.remove(hash, number);
                }
                prop_assert_eq!(numbers.count(), held.len());
            }
            for (hash, number) in &held {
                prop_assert_eq!(numbers.find(*hash, |there| there == *number), Some(*number));
                let guess = numbers.guess(*hash).unwrap();
                prop_assert!(held.contains(&(*hash, guess)));
            }
            let free = numbers.entries.iter().filter(|entry| entry.number == FREE).count();
            prop_assert_eq!(numbers.entries.len() - free, held.len());
        }
    }

    #[test]
    fn an_empty_one_finds_nothing() {
        let mut numbers = Numbers::default();
        numbers.remove(Hash(7), 1);
        assert_eq!((numbers.guess(Hash(7)), numbers.count()), (None, 0));
    }
}

//! Which positions are durable: batches complete in any order, positions are released in the order of sending.

use std::collections::VecDeque;

/// Batches that are on their way, oldest first.
#[derive(Debug)]
pub struct Ledger<P> {
    first: u64,
    entries: VecDeque<Entry<P>>,
}

#[derive(Debug)]
struct Entry<P> {
    pending: usize,
    position: P,
}

impl<P> Default for Ledger<P> {
    fn default() -> Self {
        Ledger { first: 0, entries: VecDeque::new() }
    }
}

impl<P> Ledger<P> {
    /// Enters a batch of `pending` records; returns its number.
    pub fn enter(&mut self, pending: usize, position: P) -> u64 {
        self.entries.push_back(Entry { pending, position });
        self.first + self.entries.len() as u64 - 1
    }

    /// One record of batch `number` is acknowledged.
    pub fn acknowledge(&mut self, number: u64) {
        let entry = number.checked_sub(self.first).and_then(|at| self.entries.get_mut(usize::try_from(at).ok()?));
        if let Some(entry) = entry {
            entry.pending = entry.pending.saturating_sub(1);
        }
    }

    /// The next position of which everything, and everything before it, is acknowledged.
    pub fn release(&mut self) -> Option<P> {
        if self.entries.front()?.pending > 0 {
            return None;
        }
        self.first += 1;
        self.entries.pop_front().map(|entry| entry.position)
    }

    /// Batches that are not released.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_later_batch_waits_for_an_earlier_one() {
        let mut ledger = Ledger::default();
        let (first, second) = (ledger.enter(1, "first"), ledger.enter(1, "second"));
        ledger.acknowledge(second);
        assert_eq!(ledger.release(), None);
        ledger.acknowledge(first);
        assert_eq!(ledger.release(), Some("first"));
        assert_eq!(ledger.release(), Some("second"));
        assert_eq!(ledger.enter(0, "empty"), 2);
        assert_eq!(ledger.release(), Some("empty"));
    }

    proptest! {
        #[test]
        fn positions_are_released_in_order_and_never_early(
            sizes in prop::collection::vec(0..4usize, 1..20), picks in prop::collection::vec(any::<u16>(), 80)
        ) {
            let mut ledger = Ledger::default();
            let mut open: Vec<u64> = Vec::new();
            let mut left = sizes.clone();
            for (position, &size) in sizes.iter().enumerate() {
                let number = ledger.enter(size, position);
                open.extend(std::iter::repeat_n(number, size));
            }
            let mut released = Vec::new();
            for pick in picks.into_iter().map(usize::from).chain(std::iter::repeat_n(0, 80)) {
                while let Some(position) = ledger.release() {
                    prop_assert!(left[..=position].iter().all(|&pending| pending == 0));
                    released.push(position);
                }
                if !open.is_empty() {
                    let number = open.swap_remove(pick % open.len());
                    left[number as usize] -= 1;
                    ledger.acknowledge(number);
                }
            }
            prop_assert_eq!(released, (0..sizes.len()).collect::<Vec<_>>());
        }
    }
}

//! What the reading thread and the last stage of a chain know of each other: how much is in flight, and what is done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::generation::{Fate, Lease};
use crate::metrics;

/// Positions behind the acknowledgement, by partition, and the count of batches between.
#[derive(Debug, Clone)]
pub struct Progress {
    shared: Arc<Shared>,
    lease: Lease,
    fate: Fate,
}

#[derive(Debug, Default)]
struct Shared {
    /// A rebalance waits for everything in flight: work that could wait should.
    draining: AtomicBool,
    issued: AtomicU64,
    completed: AtomicU64,
    begun: Mutex<VecDeque<Instant>>,
    positions: Mutex<BTreeMap<i32, i64>>,
}

impl Progress {
    pub fn new(lease: Lease, fate: Fate) -> Self {
        Progress { shared: Arc::default(), lease, fate }
    }

    /// The lease that every writer checks.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    fn positions_mut(&self) -> MutexGuard<'_, BTreeMap<i32, i64>> {
        self.shared.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch goes into the chain.
    pub fn issue(&self) {
        self.begun_mut().push_back(Instant::now());
        self.shared.issued.fetch_add(1, Ordering::SeqCst);
    }

    /// The batch that was issued last did not go: there was no place for it.
    pub(crate) fn take_back(&self) {
        self.begun_mut().pop_back();
        self.shared.completed.fetch_add(1, Ordering::SeqCst);
    }

    /// Since when each batch is in the chain, oldest first. They leave it in the order in which they came; where a stage puts one of its own
    /// between (a replay, a re-emission), two may stand in each other's place here.
    fn begun_mut(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.shared.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch has left the chain for good: all that it became is acknowledged.
    pub fn complete(&self, next_offsets: &[(i32, i64)]) {
        {
            let mut positions = self.positions_mut();
            for &(partition, next) in next_offsets {
                if let Some(position) = positions.get_mut(&partition) {
                    *position = (*position).max(next);
                }
            }
        }
        if let Some(begun) = self.begun_mut().pop_front() {
            metrics::STAGE.observe(begun.elapsed().as_secs_f64());
        }
        self.shared.completed.fetch_add(1, Ordering::SeqCst);
        if !next_offsets.is_empty() {
            self.moved();
        }
    }

    /// What the chain took in is durable behind it.
    pub fn moved(&self) {
        self.fate.moved();
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.shared.draining.store(draining, Ordering::SeqCst);
    }

    /// A rebalance waits for everything in flight: work that could wait should.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    /// Nothing is in flight.
    pub fn is_drained(&self) -> bool {
        self.shared.completed.load(Ordering::SeqCst) == self.shared.issued.load(Ordering::SeqCst)
    }

    pub(crate) fn assign(&self, partition: i32, next_offset: i64) {
        self.positions_mut().insert(partition, next_offset);
    }

    pub(crate) fn revoke(&self, partition: i32) {
        self.positions_mut().remove(&partition);
    }

    /// The next offset to handle, by partition that this instance owns.
    pub fn positions(&self) -> BTreeMap<i32, i64> {
        self.positions_mut().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_batch_that_did_not_go_is_not_in_the_chain() {
        let progress = Progress::new(Lease::new(Duration::from_secs(1)), Fate::default());
        progress.issue();
        let first = progress.begun_mut().front().copied();
        progress.issue();
        progress.take_back();
        let begun: Vec<_> = progress.begun_mut().iter().copied().collect();
        assert_eq!(begun, first.into_iter().collect::<Vec<_>>());
        assert!(!progress.is_drained());
        progress.complete(&[]);
        assert!(progress.is_drained());
        assert!(progress.begun_mut().is_empty());
    }

    #[test]
    fn positions_follow_completed_batches_of_owned_partitions() {
        let progress = Progress::new(Lease::new(Duration::from_secs(1)), Fate::default());
        progress.assign(0, 5);
        progress.issue();
        assert!(!progress.is_drained());
        progress.complete(&[(0, 8), (1, 3)]);
        assert!(progress.is_drained());
        assert_eq!(progress.positions(), BTreeMap::from([(0, 8)]));
        progress.revoke(0);
        assert!(progress.positions().is_empty());
    }
}

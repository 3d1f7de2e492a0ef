//! One generation of a chain: all its actors and threads share one fate.
//!
//! Any part ends the generation with a [`Failure`]; the root (`run`) then takes the whole chain down and builds a new one from
//! durable positions. Half-old state cannot exist. A part that may fail alone has a branch of the fate: it ends with the generation, and not the other way
//! round.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, FailureKind};

/// The fate that all parts of a generation share.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: Mark,
    draining: Mark,
    failure: Mutex<Option<Failure>>,
    /// Threads that wait for the end; held together with `failure`.
    at_end: Condvar,
    moved: AtomicBool,
    /// Sources of the chain that have not drained yet.
    sources: AtomicUsize,
    /// That of the generation, where this is a branch of it.
    trunk: Option<Fate>,
}

/// Something that happens once: waited for by tasks, looked at for every record.
#[derive(Debug, Default)]
struct Mark {
    happened: AtomicBool,
    token: CancellationToken,
}

impl Mark {
    /// One that is waited for together with another: it has happened for who waits when either has.
    fn beside(other: &Mark) -> Self {
        Mark { happened: AtomicBool::default(), token: other.token.child_token() }
    }

    fn set(&self) {
        self.happened.store(true, Ordering::SeqCst);
        self.token.cancel();
    }

    fn is_set(&self) -> bool {
        self.happened.load(Ordering::SeqCst)
    }
}

impl Fate {
    /// That of a part which may end alone: the part ends with the generation, and its failure is only its own. Its sources are the generation's.
    pub fn branch(&self) -> Fate {
        let shared = Shared {
            ended: Mark::beside(&self.shared.ended),
            draining: Mark::beside(&self.shared.draining),
            trunk: Some(self.clone()),
            ..Shared::default()
        };
        Fate { shared: Arc::new(shared) }
    }

    fn trunk(&self) -> Option<&Fate> {
        self.shared.trunk.as_ref()
    }

    /// Ends the generation. The first failure is the one that is reported.
    pub fn end(&self, failure: Failure) {
        self.failure().get_or_insert(failure);
        self.finish();
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the generation without a failure, when it has drained.
    pub fn finish(&self) {
        self.shared.ended.set();
        // A thread looks whether it has ended with the lock held, so it is either told now or has seen it.
        let _held = self.failure();
        self.shared.at_end.notify_all();
    }

    /// The chain has one more source.
    pub fn add_source(&self) {
        if let Some(trunk) = self.trunk() {
            return trunk.add_source();
        }
        self.shared.sources.fetch_add(1, Ordering::SeqCst);
    }

    /// A source has taken in nothing more, and all that it took in is acknowledged. The last one ends the generation.
    pub fn source_drained(&self) {
        if let Some(trunk) = self.trunk() {
            return trunk.source_drained();
        }
        if self.shared.sources.fetch_sub(1, Ordering::SeqCst) <= 1 {
            self.finish();
        }
    }

    /// Asks the sources of the chain to take in nothing more and to finish when all is acknowledged.
    pub fn drain(&self) {
        self.shared.draining.set();
    }

    pub fn has_ended(&self) -> bool {
        self.shared.ended.is_set() || self.trunk().is_some_and(Fate::has_ended)
    }

    pub fn is_draining(&self) -> bool {
        self.shared.draining.is_set() || self.trunk().is_some_and(Fate::is_draining)
    }

    /// Resolves when the generation has ended. Every wait on the outside selects on it.
    pub async fn ended(&self) {
        self.shared.ended.token.cancelled().await;
    }

    /// Blocks a thread until the generation has ended (of a branch: no other part of it), or for as long as `bound`. True when it has ended.
    pub fn ended_within(&self, bound: Duration) -> bool {
        let waited = self.shared.at_end.wait_timeout_while(self.failure(), bound, |_| !self.has_ended());
        drop(waited);
        self.has_ended()
    }

    /// Something that the chain took in is durable behind it.
    pub fn moved(&self) {
        self.shared.moved.store(true, Ordering::Relaxed);
        if let Some(trunk) = self.trunk() {
            trunk.moved();
        }
    }

    /// Whether anything became durable in this generation.
    pub fn has_moved(&self) -> bool {
        self.shared.moved.load(Ordering::Relaxed)
    }

    /// Resolves when the source should take in nothing more.
    pub async fn draining(&self) {
        self.shared.draining.token.cancelled().await;
    }

    /// The failure, once.
    pub fn take_failure(&self) -> Option<Failure> {
        self.failure().take()
    }

    /// An actor of the chain did not take a message: it is gone.
    pub fn end_broken(&self, part: &str) {
        if !self.has_ended() {
            self.end(Failure::new(FailureKind::Broken, format!("the {part} of the chain is gone")));
        }
    }
}

/// Ownership as this process can know it: the moment of the last good poll. A process that was frozen finds on thawing that its
/// lease is old, and must not write before it has looked at the tail again.
#[derive(Debug, Clone)]
pub struct Lease {
    born: Instant,
    renewed_ms: Arc<AtomicU64>,
    lasts: Duration,
}

impl Lease {
    pub fn new(lasts: Duration) -> Self {
        Lease { born: Instant::now(), renewed_ms: Arc::default(), lasts }
    }

    /// How long an owner may be silent.
    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The owner was awake just now. An expired lease stays expired: only a new generation may write again.
    pub fn renew(&self) -> Result<(), Failure> {
        self.check()?;
        self.renewed_ms.store(self.elapsed_ms(), Ordering::Relaxed);
        Ok(())
    }

    /// An error when the process slept for longer than the lease lasts.
    pub fn check(&self) -> Result<(), Failure> {
        let silent = self.elapsed_ms().saturating_sub(self.renewed_ms.load(Ordering::Relaxed));
        if u128::from(silent) <= self.lasts.as_millis() {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Frozen,
            format!("the process did not run for {silent} ms, longer than its lease of {} ms", self.lasts.as_millis()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_one_reported() {
        let fate = Fate::default();
        fate.end(Failure::new(FailureKind::Refused, "first"));
        fate.end_broken("publisher");
        assert!(fate.has_ended());
        assert_eq!(fate.take_failure().unwrap().to_string(), "first");
    }

    #[test]
    fn the_last_source_that_has_drained_ends_the_generation() {
        let fate = Fate::default();
        fate.add_source();
        fate.add_source();
        fate.source_drained();
        assert!(!fate.has_ended());
        fate.source_drained();
        assert!(fate.has_ended() && fate.take_failure().is_none());
    }

    #[tokio::test]
    async fn a_branch_ends_alone_or_with_the_generation() {
        let fate = Fate::default();
        let (one, other) = (fate.branch(), fate.branch());
        one.add_source();
        other.add_source();
        one.end(Failure::new(FailureKind::Refused, "of one"));
        one.ended().await;
        assert!(one.has_ended() && !other.has_ended() && !fate.has_ended());
        assert_eq!(one.take_failure().unwrap().to_string(), "of one");
        other.moved();
        assert!(fate.has_moved() && !one.has_moved());
        fate.drain();
        other.draining().await;
        assert!(other.is_draining());
        one.source_drained();
        assert!(!other.has_ended());
        other.source_drained();
        other.ended().await;
        assert!(other.has_ended() && fate.has_ended() && other.take_failure().is_none());
    }

    #[test]
    fn a_thread_that_waits_for_the_end_is_told_of_it() {
        let fate = Fate::default();
        assert!(!fate.ended_within(Duration::from_millis(1)));
        let waiting = fate.clone();
        let waiter = std::thread::spawn(move || waiting.ended_within(Duration::from_secs(3600)));
        fate.finish();
        assert!(waiter.join().unwrap());
        assert!(fate.ended_within(Duration::from_secs(3600)));
    }

    #[test]
    fn an_expired_lease_cannot_be_renewed() {
        let lease = Lease { born: Instant::now() - Duration::from_secs(5), ..Lease::new(Duration::from_secs(3)) };
        assert_eq!(lease.renew().unwrap_err().kind, FailureKind::Frozen);
        assert!(lease.check().is_err());
        assert!(Lease::new(Duration::from_secs(3)).renew().is_ok());
    }
}

//! One generation of a chain: all its actors and threads share one fate.
//!
//! Any part ends the generation with a [`Failure`]; the root (`run`) then takes the whole chain down and builds a new one from
//! durable positions. Half-old state cannot exist.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    ended: CancellationToken,
    draining: CancellationToken,
    failure: Mutex<Option<Failure>>,
}

impl Fate {
    /// Ends the generation. The first failure is the one that is reported.
    pub fn end(&self, failure: Failure) {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.shared.ended.cancel();
    }

    /// Ends the generation without a failure, when it has drained.
    pub fn finish(&self) {
        self.shared.ended.cancel();
    }

    /// Asks the source of the chain to take in nothing more and to finish when all is acknowledged.
    pub fn drain(&self) {
        self.shared.draining.cancel();
    }

    pub fn has_ended(&self) -> bool {
        self.shared.ended.is_cancelled()
    }

    pub fn is_draining(&self) -> bool {
        self.shared.draining.is_cancelled()
    }

    /// Resolves when the generation has ended. Every wait on the outside selects on it.
    pub async fn ended(&self) {
        self.shared.ended.cancelled().await;
    }

    /// Resolves when the source should take in nothing more.
    pub async fn draining(&self) {
        self.shared.draining.cancelled().await;
    }

    /// The failure, once.
    pub fn take_failure(&self) -> Option<Failure> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
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
    fn an_expired_lease_cannot_be_renewed() {
        let lease = Lease { born: Instant::now() - Duration::from_secs(5), ..Lease::new(Duration::from_secs(3)) };
        assert_eq!(lease.renew().unwrap_err().kind, FailureKind::Frozen);
        assert!(lease.check().is_err());
        assert!(Lease::new(Duration::from_secs(3)).renew().is_ok());
    }
}

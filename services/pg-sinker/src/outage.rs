//! What the connections of a writer know together while the sink takes nothing: the service is not ready, and says why once.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::health::Health;
use shared::said::Said;

/// The health latch that is held while the sink takes nothing.
const LATCH: &str = "sink";

/// The connections that wait.
pub struct Outage {
    health: Health,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeSet<usize>,
    said: Said,
}

impl Outage {
    pub fn new(health: Health) -> Self {
        Outage { health, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection waits because of this. Answers whether it is news.
    pub fn holds_up(&self, connection: usize, why: &str) -> bool {
        let mut state = self.state();
        state.waiting.insert(connection);
        self.health.hold(LATCH, why);
        state.said.is_news(why)
    }

    /// It goes on. Answers whether none waits any more.
    pub fn is_over_for(&self, connection: usize) -> bool {
        let mut state = self.state();
        let was_last = state.waiting.remove(&connection) && state.waiting.is_empty();
        if was_last {
            self.health.release(LATCH);
        }
        was_last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::health::Phase;

    #[test]
    fn it_is_over_when_no_connection_waits() {
        let health = Health::new("pg-sinker", "test");
        health.enter(Phase::Running);
        let outage = Outage::new(health.clone());
        assert!(outage.holds_up(0, "gone") && !outage.holds_up(1, "gone"), "the same is said once");
        assert!(!outage.is_over_for(0) && !health.is_ready());
        assert!(outage.is_over_for(1) && health.is_ready());
        assert!(!outage.is_over_for(1));
    }
}

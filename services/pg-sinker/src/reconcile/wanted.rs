//! Comparisons that were asked for and are not done yet.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Pairs by their names, which are those of the settings. Shared by who takes the commands and who compares.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pairs: Arc<Mutex<BTreeSet<String>>>,
    called: Arc<Notify>,
}

impl Wanted {
    fn pairs(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ask(&self, pair: &str) {
        self.pairs().insert(pair.to_owned());
        self.called.notify_one();
    }

    pub fn has(&self, pair: &str) -> bool {
        self.pairs().contains(pair)
    }

    pub fn done(&self, pair: &str) {
        self.pairs().remove(pair);
    }

    /// Resolves when one was asked for since the last time.
    pub async fn called(&self) {
        self.called.notified().await;
    }
}

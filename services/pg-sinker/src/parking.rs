//! A topic that cannot be written rests, and holds up no other.
//!
//! ```text
//!  start ──▶ written ──failure of its tables──▶ rests ──▶ the chain starts again, and takes it up with the others
//!    └────────── something stands in its way ─────┘
//! ```
//!
//! What stands in its way is looked for every second, so that it is taken up as soon as somebody has mended it. Where nothing is seen in the catalog,
//! the topic is tried again after a while: the others then lose the moment that a start takes. Where no topic can be written the failure is the chain's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::run::Service as _;

use crate::pipeline::PgSinker;
use crate::settings::Settings;
use crate::ways;

/// How often it is looked whether something still stands in the way of a topic that rests.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The health latch that is held while a topic rests.
pub const LATCH: &str = "tables";

/// What the ways of a generation know together.
#[derive(Clone)]
pub struct Parking {
    config: Arc<Settings>,
    /// How many ways are written.
    written: Arc<AtomicUsize>,
    fate: Fate,
    health: Health,
}

impl Parking {
    pub fn new(config: &Settings, written: usize, (fate, health): (&Fate, &Health)) -> Self {
        Parking {
            config: Arc::new(config.clone()),
            written: Arc::new(AtomicUsize::new(written)),
            fate: fate.clone(),
            health: health.clone(),
        }
    }

    /// What the parts of a topic tell stands by itself for the first, beside that for further ones.
    pub fn health_of(&self, topic: &str) -> Health {
        let is_first = self.config.topics().first() == Some(&topic);
        if is_first { self.health.clone() } else { self.health.of(topic) }
    }

    /// Waits for the end of a way, and decides what it means.
    pub async fn watch(self, topic: String, own: Fate) {
        own.ended().await;
        let Some(failure) = own.take_failure() else { return };
        let is_last = || self.written.fetch_sub(1, Ordering::SeqCst) <= 1;
        if !is_of_tables(failure.kind) || self.fate.is_draining() || is_last() {
            return self.fate.end(failure);
        }
        self.fate.source_drained();
        self.rest(topic, failure).await;
    }

    /// The topic rests until it is worth a try.
    pub async fn rest(self, topic: String, why: Failure) {
        tracing::error!(topic, "the topic rests, the others go on: {}", why.chain());
        let since = Instant::now();
        let tried_after = Duration::from_millis(self.config.restart.stable_after_ms);
        let (mut why, mut was_seen) = (why.chain(), false);
        loop {
            self.health_of(&topic).hold(LATCH, format!("the tables of topic {topic}: {why}"));
            tokio::select! {
                biased;
                () = self.fate.ended() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.look(&topic).await {
                Ok(Some(problem)) => (why, was_seen) = (problem.chain(), true),
                Ok(None) if was_seen || since.elapsed() >= tried_after => break,
                // Another look: whether the server answers the others will find out.
                Ok(None) | Err(_) => {}
            }
        }
        self.fate.end(
            Failure::new(FailureKind::Refused, format!("topic {topic} is tried again, which rested")).caused_by(why),
        );
    }

    /// What stands in the way of the topic, as far as the catalog shows it.
    async fn look(&self, topic: &str) -> Result<Option<Failure>, Failure> {
        let mut connection = self.config.sink.connect(PgSinker::NAME).await?;
        let required = ways::required_of(&mut connection, &self.config, topic).await?;
        Ok(required.err())
    }
}

/// Whether a failure is about the tables of one topic. Others are about servers or ownership, which all ways share.
fn is_of_tables(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Settings | FailureKind::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_ways_share_ends_the_chain() {
        use FailureKind::{Broken, Data, Fenced, Frozen, Refused, Settings, Unreachable};
        assert!([Settings, Refused].into_iter().all(is_of_tables));
        assert!(![Unreachable, Fenced, Frozen, Data, Broken].into_iter().any(is_of_tables));
    }
}

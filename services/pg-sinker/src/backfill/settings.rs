//! How fast records are read again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::failure::{Failure, FailureKind};

/// See `config/pg-sinker.toml`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackfillConfig {
    /// Records that are written in a second, at most.
    pub records_per_s: u32,
    /// Records of a chunk, which is one transaction.
    pub chunk_records: u32,
    /// A job that failed is tried again after this; the wait is doubled for each further try.
    pub retry_first_ms: u64,
    /// Longest wait between two tries.
    pub retry_longest_ms: u64,
    /// A job of a command that fails so often, with nothing written between, has failed for good.
    pub tries_max: u32,
}

impl Default for BackfillConfig {
    fn default() -> Self {
        BackfillConfig {
            records_per_s: 5_000,
            chunk_records: 500,
            retry_first_ms: 1_000,
            retry_longest_ms: 30_000,
            tries_max: 5,
        }
    }
}

impl BackfillConfig {
    pub fn validate(&self) -> Result<(), Failure> {
        for (name, is_none) in [
            ("records_per_s", self.records_per_s == 0),
            ("chunk_records", self.chunk_records == 0),
            ("retry_first_ms", self.retry_first_ms == 0),
            ("retry_longest_ms", self.retry_longest_ms == 0),
            ("tries_max", self.tries_max == 0),
        ] {
            if is_none {
                let what = format!("backfill.{name} is 0");
                return Err(Failure::new(FailureKind::Settings, what).cure("set at least 1"));
            }
        }
        Ok(())
    }

    /// The wait behind a try that failed; `tries` is the number of those that did, from 1.
    pub fn retry_wait(&self, tries: u32) -> Duration {
        let doubled = self.retry_first_ms.saturating_mul(1 << tries.saturating_sub(1).min(20));
        Duration::from_millis(doubled.min(self.retry_longest_ms))
    }

    /// How long so many records take at least.
    pub fn time_of(&self, records: usize) -> Duration {
        Duration::from_secs(1).saturating_mul(u32::try_from(records).unwrap_or(u32::MAX)) / self.records_per_s.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_take_their_time() {
        let config = BackfillConfig { records_per_s: 200, ..BackfillConfig::default() };
        assert_eq!(config.time_of(50), Duration::from_millis(250));
        assert!(BackfillConfig { chunk_records: 0, ..config.clone() }.validate().is_err());
        assert!(config_with_tries(0).validate().is_err() && config_with_tries(1).validate().is_ok());
    }

    fn config_with_tries(tries_max: u32) -> BackfillConfig {
        BackfillConfig { tries_max, ..BackfillConfig::default() }
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        let config = BackfillConfig { retry_first_ms: 100, retry_longest_ms: 350, ..BackfillConfig::default() };
        assert_eq!([1, 2, 3, 4000].map(|tries| config.retry_wait(tries).as_millis()), [100, 200, 350, 350]);
    }
}

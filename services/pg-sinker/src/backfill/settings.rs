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
}

impl Default for BackfillConfig {
    fn default() -> Self {
        BackfillConfig { records_per_s: 5_000, chunk_records: 500 }
    }
}

impl BackfillConfig {
    pub fn validate(&self) -> Result<(), Failure> {
        for (name, value) in [("records_per_s", self.records_per_s), ("chunk_records", self.chunk_records)] {
            if value == 0 {
                let what = format!("backfill.{name} is 0");
                return Err(Failure::new(FailureKind::Settings, what).cure("set at least 1"));
            }
        }
        Ok(())
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
        assert!(BackfillConfig { chunk_records: 0, ..config }.validate().is_err());
    }
}

//! How long a stage waits from one batch to the next, so that a steady stream becomes fewer and larger ones: a batch costs each stage, and
//! the broker, as much as some hundred records.
//!
//! ```text
//!  records of the last batch    up to 16              64          a quarter of batch_records_max
//!  from it to the next          batch_interval_ms ─ ─ batch_interval_busy_ms ─ ─ ─ ┤ none: a backlog
//! ```

use std::time::Duration;

use super::KafkaConfig;

/// A batch of no more records is of a stream at which a single change is waited for.
const FEW: u64 = 16;
/// A batch of so many is of a stream that is better carried in larger ones.
const MANY: u64 = 64;
/// A batch with such a part of what it may hold comes from a backlog: there is nothing to wait for.
const LARGE_SHARE: usize = 4;

/// From a batch of so many records to the next; `None` where that follows at once.
pub fn after(records: usize, config: &KafkaConfig) -> Option<Duration> {
    if records >= config.batch_records_max / LARGE_SHARE {
        return None;
    }
    let (least, most) = (config.batch_interval_ms, config.batch_interval_busy_ms.max(config.batch_interval_ms));
    let above_few = (records as u64).saturating_sub(FEW).min(MANY - FEW);
    Some(Duration::from_millis(least + (most - least) * above_few / (MANY - FEW)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(records: usize, change: fn(&mut KafkaConfig)) -> Option<u128> {
        let mut config = KafkaConfig {
            batch_interval_ms: 5,
            batch_interval_busy_ms: 20,
            batch_records_max: 1_000,
            ..KafkaConfig::default()
        };
        change(&mut config);
        after(records, &config).map(|distance| distance.as_millis())
    }

    #[test]
    fn the_more_records_the_longer_until_it_is_a_backlog() {
        let of = |records| milliseconds(records, |_| {});
        assert_eq!([1, 16, 40, 64, 249, 250].map(of), [Some(5), Some(5), Some(12), Some(20), Some(20), None]);
    }

    #[test]
    fn the_longer_distance_is_never_the_shorter_one() {
        assert_eq!(milliseconds(100, |config| config.batch_interval_busy_ms = 1), Some(5));
        assert_eq!(
            milliseconds(100, |config| (config.batch_interval_ms, config.batch_interval_busy_ms) = (0, 0)),
            Some(0)
        );
        assert_eq!(milliseconds(1, |config| config.batch_records_max = 1), None, "batches of one have nothing to gain");
    }
}

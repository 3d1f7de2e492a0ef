//! Many latencies in a few figures.

use serde::Serialize;

/// What is told of many latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    pub count: usize,
    pub average_ms: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Summary {
    /// Of samples in microseconds; `None` where there are none.
    pub fn of(samples_us: &[i64]) -> Option<Self> {
        let mut sorted = samples_us.to_vec();
        sorted.sort_unstable();
        let &max = sorted.last()?;
        let total: i128 = sorted.iter().map(|&sample| i128::from(sample)).sum();
        Some(Summary {
            count: sorted.len(),
            average_ms: milliseconds(i64::try_from(total / sorted.len() as i128).unwrap_or(i64::MAX)),
            p50_ms: milliseconds(percentile(&sorted, 50)),
            p95_ms: milliseconds(percentile(&sorted, 95)),
            p99_ms: milliseconds(percentile(&sorted, 99)),
            max_ms: milliseconds(max),
        })
    }

    /// The headings of [`Summary::cells`].
    pub const HEADINGS: [&str; 6] = ["n", "average ms", "p50 ms", "p95 ms", "p99 ms", "max ms"];

    pub fn cells(&self) -> [String; 6] {
        let figure = |milliseconds: f64| format!("{milliseconds:.2}");
        [
            self.count.to_string(),
            figure(self.average_ms),
            figure(self.p50_ms),
            figure(self.p95_ms),
            figure(self.p99_ms),
            figure(self.max_ms),
        ]
    }
}

fn milliseconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1000.0
}

/// The nearest-rank percentile: the smallest sample that `percent` of all are not above. A value that was measured, never one between.
fn percentile(sorted: &[i64], percent: usize) -> i64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// How many samples lie below a bound, and not below the one before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bucket {
    /// `None` for the last one, which has no bound.
    pub below_ms: Option<u32>,
    pub count: usize,
}

const BOUNDS_MS: [u32; 14] = [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 500, 1_000, 5_000];

/// The samples by size, without the empty buckets at both ends.
pub fn histogram(samples_us: &[i64]) -> Vec<Bucket> {
    let bounds = BOUNDS_MS.iter().map(|&bound| Some(bound)).chain([None]);
    let mut from_us = i64::MIN;
    let mut buckets: Vec<Bucket> = Vec::new();
    for below_ms in bounds {
        let to_us = below_ms.map_or(i64::MAX, |bound| i64::from(bound) * 1000);
        let count = samples_us.iter().filter(|&&sample| sample >= from_us && sample < to_us).count();
        if count > 0 || !buckets.is_empty() {
            buckets.push(Bucket { below_ms, count });
        }
        from_us = to_us;
    }
    while buckets.last().is_some_and(|bucket| bucket.count == 0) {
        buckets.pop();
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<i64> = (1..=200).rev().map(|n| n * 1000).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!((summary.p50_ms, summary.p95_ms, summary.p99_ms, summary.max_ms), (100.0, 190.0, 198.0, 200.0));
        assert_eq!((summary.count, summary.average_ms), (200, 100.5));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_sample_is_all_percentiles() {
        let summary = Summary::of(&[-1500]).unwrap();
        assert_eq!((summary.p50_ms, summary.p99_ms, summary.average_ms), (-1.5, -1.5, -1.5));
    }

    #[test]
    fn the_histogram_loses_no_sample_and_has_no_empty_ends() {
        let buckets = histogram(&[2_000, 2_999, 5_000, 9_000_000]);
        assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<usize>(), 4);
        assert_eq!(buckets.first(), Some(&Bucket { below_ms: Some(3), count: 2 }));
        assert_eq!(buckets.last(), Some(&Bucket { below_ms: None, count: 1 }));
        assert_eq!(histogram(&[]), []);
    }
}

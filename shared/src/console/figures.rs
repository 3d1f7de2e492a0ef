//! The key figures of an instance: rates, waiting and latency of the last while, from the metrics as they stood then and now.
//!
//! Pure: samples in, figures out.

use std::collections::{BTreeMap, VecDeque};

use prometheus::proto::{Metric, MetricFamily};
use serde::Serialize;

/// Rates are those of the last so many seconds: long enough to be steady, short enough to be live.
const RATE_S: f64 = 5.0;

/// A label's value, or several, by what is counted there.
type Counts = BTreeMap<String, f64>;

/// The metrics at one moment, as far as figures are made of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Seconds since any fixed moment.
    pub at_s: f64,
    /// By topic or table.
    pub records_in: Counts,
    pub records_out: Counts,
    /// By reason.
    pub rejected: Counts,
    /// By outcome.
    pub commits: Counts,
    pub waiting_us: f64,
    pub repeats_dropped: f64,
    pub since_commit: Buckets,
    pub in_stage: Buckets,
    /// By topic and partition.
    pub lag: Vec<Lag>,
}

/// A histogram: the upper bound of each bucket in seconds, and how many are at or below it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets(Vec<(f64, u64)>);

/// Records of a partition that are not handled yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lag {
    pub topic: String,
    pub partition: i32,
    pub records: i64,
}

/// What the console shows of an instance, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    pub records_in: Vec<Flow>,
    pub records_out: Vec<Flow>,
    /// From the commit at the source until this stage's output was acknowledged or committed.
    pub since_commit: Option<Latency>,
    /// From the moment this stage took a batch in until all that it became was acknowledged or committed.
    pub in_stage: Option<Latency>,
    /// Share of the time, 0 to 100, in which the first part of the chain waited for the next to take a batch: back-pressure.
    pub waiting_percent: f64,
    pub lag: Vec<Lag>,
    pub lag_records: i64,
    /// Dead letters since the start of the process, by reason.
    pub rejected: BTreeMap<String, u64>,
    pub rejected_total: u64,
    pub repeats_dropped: u64,
    /// Positions made durable since the start of the process, by outcome.
    pub commits: BTreeMap<String, u64>,
}

/// Records of one topic or table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flow {
    pub table: String,
    pub total: u64,
    pub per_second: f64,
}

/// Percentiles of the window, interpolated within a bucket as Prometheus does it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub count: u64,
}

impl Sample {
    /// The metrics as they stand.
    pub fn of(families: &[MetricFamily], at_s: f64) -> Self {
        let mut sample = Sample { at_s, ..Sample::default() };
        for family in families {
            let metrics = family.get_metric();
            match family.name() {
                "tidemill_records_in_total" => sample.records_in = counts(metrics, "table"),
                "tidemill_records_out_total" => sample.records_out = counts(metrics, "table"),
                "tidemill_rejected_total" => sample.rejected = counts(metrics, "reason"),
                "tidemill_position_commits_total" => sample.commits = counts(metrics, "outcome"),
                "tidemill_waiting_microseconds_total" => sample.waiting_us = sum(metrics),
                "tidemill_repeats_dropped_total" => sample.repeats_dropped = sum(metrics),
                "tidemill_end_to_end_seconds" => sample.since_commit = Buckets::of(metrics),
                "tidemill_stage_seconds" => sample.in_stage = Buckets::of(metrics),
                "tidemill_lag_records" => sample.lag = metrics.iter().filter_map(lag).collect(),
                _ => {}
            }
        }
        sample
    }
}

fn label<'m>(metric: &'m Metric, name: &str) -> &'m str {
    metric.get_label().iter().find(|label| label.name() == name).map_or("", |label| label.value())
}

fn counts(metrics: &[Metric], name: &str) -> Counts {
    let mut counts = Counts::new();
    for metric in metrics {
        *counts.entry(label(metric, name).to_owned()).or_default() += metric.get_counter().get_value();
    }
    counts
}

fn sum(metrics: &[Metric]) -> f64 {
    metrics.iter().map(|metric| metric.get_counter().get_value()).sum()
}

fn lag(metric: &Metric) -> Option<Lag> {
    let records = whole(metric.get_gauge().get_value());
    let partition = label(metric, "partition").parse().ok()?;
    Some(Lag { topic: label(metric, "topic").to_owned(), partition, records: i64::try_from(records).ok()? })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and never negative")]
fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}

impl Buckets {
    fn of(metrics: &[Metric]) -> Self {
        let Some(metric) = metrics.first() else { return Buckets::default() };
        let histogram = metric.get_histogram();
        let mut buckets: Vec<(f64, u64)> = histogram
            .get_bucket()
            .iter()
            .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
            .filter(|(bound, _)| bound.is_finite())
            .collect();
        buckets.push((f64::INFINITY, histogram.get_sample_count()));
        Buckets(buckets)
    }

    /// What came since `before`.
    fn since(&self, before: &Buckets) -> Buckets {
        let earlier = |at: usize| before.0.get(at).map_or(0, |(_, count)| *count);
        let grown = |(at, (bound, count)): (usize, &(f64, u64))| (*bound, count.saturating_sub(earlier(at)));
        Buckets(self.0.iter().enumerate().map(grown).collect())
    }

    fn latency(&self) -> Option<Latency> {
        let count = self.0.last().map_or(0, |(_, count)| *count);
        let milliseconds = |share| Some(round(self.quantile(share)? * 1_000.0));
        Some(Latency { p50_ms: milliseconds(0.5)?, p95_ms: milliseconds(0.95)?, p99_ms: milliseconds(0.99)?, count })
    }

    /// In seconds. `None` where there is nothing; the last finite bound for what lies beyond it.
    #[expect(clippy::cast_precision_loss, reason = "a share of a count")]
    fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.0.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
        let rank = share * all as f64;
        let (mut below, mut count_below) = (0.0, 0_u64);
        for &(bound, count) in &self.0 {
            if count as f64 >= rank && count > count_below {
                if bound.is_infinite() {
                    return Some(below);
                }
                let within = (rank - count_below as f64) / (count - count_below) as f64;
                return Some(below + (bound - below) * within.clamp(0.0, 1.0));
            }
            (below, count_below) = (bound, count);
        }
        Some(below)
    }
}

/// Two digits are enough to look at.
fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// The samples of the last while, oldest first.
#[derive(Debug)]
pub struct Window {
    length_s: f64,
    samples: VecDeque<Sample>,
}

impl Window {
    pub fn new(length_s: f64) -> Self {
        Window { length_s, samples: VecDeque::new() }
    }

    /// Takes a sample in, and forgets those that are older than the window, but for the one that it begins with.
    pub fn push(&mut self, sample: Sample) {
        let begin = sample.at_s - self.length_s;
        self.samples.push_back(sample);
        while self.samples.get(1).is_some_and(|second| second.at_s <= begin) {
            self.samples.pop_front();
        }
    }

    /// The figures of the newest sample, against those before it.
    pub fn figures(&self) -> Figures {
        let Some(now) = self.samples.back() else { return Figures::default() };
        let first = self.samples.front().unwrap_or(now);
        let recent = self.samples.iter().find(|sample| sample.at_s >= now.at_s - RATE_S).unwrap_or(now);
        let waited_s = (now.waiting_us - recent.waiting_us).max(0.0) / 1e6;
        let recent_s = now.at_s - recent.at_s;
        let totals = |counts: &Counts| -> BTreeMap<String, u64> {
            counts.iter().map(|(name, count)| (name.clone(), whole(*count))).collect()
        };
        Figures {
            records_in: flows(&now.records_in, &recent.records_in, recent_s),
            records_out: flows(&now.records_out, &recent.records_out, recent_s),
            since_commit: now.since_commit.since(&first.since_commit).latency(),
            in_stage: now.in_stage.since(&first.in_stage).latency(),
            waiting_percent: if recent_s > 0.0 { round((waited_s / recent_s * 100.0).min(100.0)) } else { 0.0 },
            lag_records: now.lag.iter().map(|lag| lag.records).sum(),
            lag: now.lag.clone(),
            rejected_total: whole(now.rejected.values().sum()),
            rejected: totals(&now.rejected),
            repeats_dropped: whole(now.repeats_dropped),
            commits: totals(&now.commits),
        }
    }
}

fn flows(now: &Counts, before: &Counts, seconds: f64) -> Vec<Flow> {
    let flow = |(table, total): (&String, &f64)| {
        let grown = (total - before.get(table).copied().unwrap_or_default()).max(0.0);
        let per_second = if seconds > 0.0 { round(grown / seconds) } else { 0.0 };
        Flow { table: table.clone(), total: whole(*total), per_second }
    };
    now.iter().map(flow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: f64, records: f64, buckets: [u64; 3]) -> Sample {
        let [ten, hundred, all] = buckets;
        Sample {
            at_s,
            records_in: [("ods_orders".to_owned(), records)].into(),
            waiting_us: at_s * 250_000.0,
            since_commit: Buckets(vec![(0.01, ten), (0.1, hundred), (f64::INFINITY, all)]),
            ..Sample::default()
        }
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_latency_of_the_window() {
        let mut window = Window::new(60.0);
        window.push(sample(0.0, 0.0, [1_000, 1_000, 1_000]));
        window.push(sample(55.0, 100.0, [1_000, 1_000, 1_000]));
        window.push(sample(60.0, 150.0, [1_050, 1_100, 1_100]));
        let figures = window.figures();
        assert_eq!(figures.records_in, [Flow { table: "ods_orders".into(), total: 150, per_second: 10.0 }]);
        assert_eq!(figures.waiting_percent, 25.0);
        let latency = figures.since_commit.unwrap();
        assert_eq!((latency.p50_ms, latency.p95_ms, latency.count), (10.0, 91.0, 100));
        assert_eq!(figures.in_stage, None);
    }

    #[test]
    fn a_window_forgets_and_what_lies_beyond_the_last_bound_is_that_bound() {
        let mut window = Window::new(10.0);
        for at in 0..100 {
            window.push(sample(f64::from(at), 0.0, [0, 0, 7]));
        }
        assert_eq!(window.samples.len(), 11);
        assert_eq!(window.figures().since_commit, None, "nothing came in the window");
        assert_eq!(Buckets(vec![(0.01, 0), (0.1, 0), (f64::INFINITY, 7)]).quantile(0.5), Some(0.1));
        assert_eq!(Window::new(1.0).figures(), Figures::default());
    }

    #[test]
    fn the_names_are_those_of_the_metrics() {
        crate::metrics::RECORDS_IN.with_label_values(&["figures_test", "c"]).inc_by(3);
        crate::metrics::RECORDS_IN.with_label_values(&["figures_test", "u"]).inc_by(4);
        crate::metrics::LAG.with_label_values(&["figures_test", "2"]).set(9);
        crate::metrics::STAGE.observe(0.004);
        crate::metrics::END_TO_END.observe(0.004);
        let sample = Sample::of(&prometheus::gather(), 1.0);
        assert_eq!(sample.records_in.get("figures_test"), Some(&7.0));
        assert!(sample.lag.contains(&Lag { topic: "figures_test".into(), partition: 2, records: 9 }));
        assert!(sample.in_stage.latency().is_some() && sample.since_commit.latency().is_some());
    }
}

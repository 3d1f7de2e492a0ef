//! How good the rows are: what became of them at each rule, since the start and over time.

use std::collections::VecDeque;

use serde::Serialize;
use shared::metrics;
use shared::record::time;

use crate::plan::Plan;
use crate::rules::Tally;
use crate::settings::QualityConfig;

/// Rows at one rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Those that came to it: no rule before had rejected them.
    rows: u64,
    rejected: u64,
    marked: u64,
    defaulted: u64,
}

impl Counts {
    fn add(&mut self, rows: u64, tally: Tally) {
        self.rows += rows;
        self.rejected += tally.rejected;
        self.marked += tally.marked;
        self.defaulted += tally.defaulted;
    }

    fn passed(&self) -> u64 {
        self.rows.saturating_sub(self.rejected + self.marked + self.defaulted)
    }

    /// The part of the rows that passed; `None` where there were none.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn pass_rate(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.passed() as f64 / self.rows as f64)
    }
}

/// A rule's rows over time.
#[derive(Debug)]
struct RuleQuality {
    rule: String,
    kind: &'static str,
    total: Counts,
    /// By the number of the interval since 1970, the oldest first; intervals without rows are left out.
    intervals: VecDeque<(i64, Counts)>,
}

/// All rules' rows over time.
#[derive(Debug)]
pub struct Quality {
    interval_s: i64,
    intervals_max: usize,
    rules: Vec<RuleQuality>,
}

/// The quality of a rule's rows in `/api/v1/state`.
#[derive(Debug, Serialize, PartialEq)]
pub struct RuleReport<'a> {
    rule: &'a str,
    kind: &'static str,
    pass_rate: Option<f64>,
    #[serde(flatten)]
    total: Counts,
    /// The newest last.
    intervals: Vec<IntervalReport>,
}

#[derive(Debug, Serialize, PartialEq)]
struct IntervalReport {
    from: String,
    pass_rate: Option<f64>,
    #[serde(flatten)]
    counts: Counts,
}

impl Quality {
    pub fn new(plan: &Plan, config: &QualityConfig) -> Self {
        let rule = |rule: &crate::plan::Rule| RuleQuality {
            rule: rule.name.clone(),
            kind: rule.kind,
            total: Counts::default(),
            intervals: VecDeque::new(),
        };
        Quality {
            interval_s: i64::try_from(config.interval_s).unwrap_or(i64::MAX).max(1),
            intervals_max: config.intervals_max,
            rules: plan.rules.iter().map(rule).collect(),
        }
    }

    /// Enters what the rules made of `rows` rows at a time, seconds since 1970.
    pub fn enter(&mut self, mut rows: u64, tallies: &[Tally], now_s: i64) {
        if rows == 0 {
            return;
        }
        let interval = now_s.div_euclid(self.interval_s);
        for (rule, tally) in self.rules.iter_mut().zip(tallies) {
            rule.total.add(rows, *tally);
            if rule.intervals.back().is_none_or(|(last, _)| *last < interval) {
                rule.intervals.push_back((interval, Counts::default()));
            }
            if rule.intervals.len() > self.intervals_max {
                rule.intervals.pop_front();
            }
            if let Some((_, counts)) = rule.intervals.back_mut() {
                counts.add(rows, *tally);
            }
            count(&rule.rule, rows, *tally);
            // What a rule rejects does not come to the next.
            rows = rows.saturating_sub(tally.rejected);
        }
    }

    pub fn report(&self) -> Vec<RuleReport<'_>> {
        let report = |rule: &'_ RuleQuality| {
            rule.intervals.iter().map(|(number, counts)| self.interval(*number, *counts)).collect::<Vec<_>>()
        };
        self.rules
            .iter()
            .map(|rule| RuleReport {
                rule: &rule.rule,
                kind: rule.kind,
                pass_rate: rule.total.pass_rate(),
                total: rule.total,
                intervals: report(rule),
            })
            .collect()
    }

    fn interval(&self, number: i64, counts: Counts) -> IntervalReport {
        let from = jiff::Timestamp::from_second(number.saturating_mul(self.interval_s)).unwrap_or_default();
        IntervalReport { from: time::milliseconds(from), pass_rate: counts.pass_rate(), counts }
    }
}

/// Enters them into the metrics.
fn count(rule: &str, rows: u64, tally: Tally) {
    let Tally { rejected, marked, defaulted } = tally;
    let passed = rows.saturating_sub(rejected + marked + defaulted);
    for (outcome, count) in [("passed", passed), ("rejected", rejected), ("marked", marked), ("defaulted", defaulted)] {
        if count > 0 || outcome == "passed" {
            metrics::RULE_ROWS.with_label_values(&[rule, outcome]).inc_by(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn rejected(count: u64) -> Tally {
        Tally { rejected: count, ..Tally::default() }
    }

    #[test]
    fn what_a_rule_rejects_does_not_come_to_the_next() {
        let mut quality = Quality::new(&Settings::default().plan().unwrap(), &QualityConfig::default());
        let mut tallies = vec![Tally::default(); 7];
        tallies[0] = Tally { defaulted: 5, ..rejected(1) };
        tallies[1] = rejected(2);
        quality.enter(10, &tallies, 61);
        let report = quality.report();
        assert_eq!(report.iter().map(|rule| rule.total.rows).collect::<Vec<_>>(), [10, 9, 7, 7, 7, 7, 7]);
        assert_eq!((report[0].rule, report[0].pass_rate, report[2].pass_rate), ("category", Some(0.4), Some(1.0)));
    }

    #[test]
    fn intervals_are_kept_up_to_the_bound() {
        let config = QualityConfig { interval_s: 60, intervals_max: 2 };
        let mut quality = Quality::new(&Settings::default().plan().unwrap(), &config);
        for (now, bad) in [(0, 1), (59, 0), (60, 0), (3600, 2)] {
            quality.enter(4, &[rejected(bad), Tally::default()], now);
        }
        let report = quality.report();
        let seen: Vec<_> =
            report[0].intervals.iter().map(|found| (found.from.as_str(), found.counts.rows, found.pass_rate)).collect();
        assert_eq!(seen, [("1970-01-01 00:01:00.000", 4, Some(1.0)), ("1970-01-01 01:00:00.000", 4, Some(0.5))]);
        assert_eq!(report[0].total, Counts { rows: 16, rejected: 3, ..Counts::default() });
    }
}

//! What the figures are held against. Those of Flink are the best of its variants for each figure, on a machine like the one this was written
//! on; see docs/performance.md.

use super::Outcome;
use super::loads::Kind;
use crate::paper::Paper;
use crate::table::Table;

/// A figure, and how it is held against its goal.
struct Goal {
    figure: &'static str,
    wanted: String,
    found: Option<String>,
    is_met: bool,
}

/// Rows a second that Flink takes with large batches, warm.
const FLINK_ROWS_A_SECOND: f64 = 8_114.0;
/// Processor time that it takes for a row, µs.
const FLINK_CPU_A_ROW: f64 = 168.0;
/// Its memory under load, MB.
const FLINK_MEGABYTES: f64 = 3_160.0;
/// Its latency at 5 changes a second, warm: p50 and p99, ms.
const FLINK_LATENCY_MS: (f64, f64) = (22.5, 257.0);

fn at_least(figure: &'static str, found: Option<f64>, least: f64, unit: &str) -> Goal {
    let is_met = found.is_some_and(|found| found >= least);
    Goal {
        figure,
        wanted: format!("at least {least:.0} {unit}"),
        found: found.map(|found| format!("{found:.0}")),
        is_met,
    }
}

fn below(figure: &'static str, found: Option<f64>, most: f64, unit: &str) -> Goal {
    let is_met = found.is_some_and(|found| found <= most);
    Goal {
        figure,
        wanted: format!("at most {most:.1} {unit}"),
        found: found.map(|found| format!("{found:.1}")),
        is_met,
    }
}

fn goals(outcome: &Outcome) -> Vec<Goal> {
    let load = |kind| outcome.loads.iter().find(|load| load.is(kind));
    let latency = |rate| outcome.latencies.iter().find(|latency| latency.rate == rate).map(|found| found.summary);
    let inserts = load(Kind::Inserts);
    let peak: f64 = outcome.memory.iter().map(|service| service.peak).sum();
    let (p50, p99) = FLINK_LATENCY_MS;
    vec![
        at_least("inserts", inserts.map(super::Load::rows_a_second), 3.0 * FLINK_ROWS_A_SECOND, "rows a second"),
        at_least("copy", load(Kind::Copy).map(super::Load::rows_a_second), 3.0 * FLINK_ROWS_A_SECOND, "rows a second"),
        below("5 changes a second, p50", latency(5).map(|found| found.p50_ms), p50 / 3.0, "ms"),
        below("5 changes a second, p99", latency(5).map(|found| found.p99_ms), p99 / 5.0, "ms"),
        below("1,000 changes a second, p99", latency(1_000).map(|found| found.p99_ms), 50.0, "ms"),
        below("memory of the four, peak", Some(peak), FLINK_MEGABYTES / 20.0, "MB"),
        below("CPU of an inserted row", inserts.map(super::Load::cpu_microseconds_a_row), FLINK_CPU_A_ROW / 5.0, "µs"),
        below("idle", Some(outcome.idle * 100.0), 2.0, "% of a processor"),
        below("start until the first row", Some(outcome.first_row_seconds), 3.0, "s"),
    ]
}

pub fn write(outcome: &Outcome, paper: &mut Paper) {
    let mut table = Table::new(&["", "found", "goal", ""]);
    for Goal { figure, wanted, found, is_met } in goals(outcome) {
        let found = found.unwrap_or_else(|| "not measured".to_owned());
        table.row(&[figure.to_owned(), found, wanted, if is_met { "✓" } else { "✗" }.to_owned()]);
    }
    paper.table(&table);
}

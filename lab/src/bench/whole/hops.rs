//! How far each stage is behind the commits: what the stages' own pages say of a time, between two looks at them.

use serde::Serialize;
use shared::failure::Failure;
use shared::page;

use super::Pipeline;
use crate::table::Table;

/// From a commit at the source until a stage's output is acknowledged or committed, on average.
#[derive(Debug, Clone, Serialize)]
pub struct Hop {
    service: &'static str,
    since_commit_ms: f64,
}

/// What each stage has said so far: the sum of all times in seconds, and their number.
pub struct Said(Vec<(&'static str, f64, f64)>);

const METRIC: &str = "tidemill_end_to_end_seconds";

impl Said {
    pub async fn now(pipeline: &Pipeline) -> Result<Self, Failure> {
        let mut said = Vec::new();
        for place in pipeline.places() {
            let found = page::get(&place.url, "/metrics").await?;
            said.push((place.name, value(&found.body, "_sum"), value(&found.body, "_count")));
        }
        Ok(Said(said))
    }

    /// The averages of what came since `before`.
    pub fn since(&self, before: &Said) -> Vec<Hop> {
        let pairs = self.0.iter().zip(&before.0);
        pairs
            .map(|((service, sum, count), (_, sum_before, count_before))| Hop {
                service,
                since_commit_ms: (sum - sum_before) * 1e3 / (count - count_before).max(1.0),
            })
            .collect()
    }
}

fn value(page: &str, of: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(METRIC)?.strip_prefix(of)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
}

/// One line for each rate.
pub fn table<'l>(rates: impl Iterator<Item = (u32, &'l [Hop])>) -> Table {
    let mut table = Table::new(&["changes a second", "after", "ms", "of this stage"]);
    for (rate, hops) in rates {
        let mut before = 0.0;
        for Hop { service, since_commit_ms } in hops {
            let own = since_commit_ms - before;
            before = *since_commit_ms;
            table.row(&[rate.to_string(), (*service).to_owned(), format!("{since_commit_ms:.2}"), format!("{own:.2}")]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_behind_by_what_came_between_two_looks() {
        let page = "# TYPE tidemill_end_to_end_seconds histogram\n\
                    tidemill_end_to_end_seconds_bucket{le=\"0.001\"} 0\n\
                    tidemill_end_to_end_seconds_sum 0.5\n\
                    tidemill_end_to_end_seconds_count 20\n";
        let now = Said(vec![("dwd-cleaner", value(page, "_sum"), value(page, "_count"))]);
        let hops = now.since(&Said(vec![("dwd-cleaner", 0.46, 10.0)]));
        assert!((hops[0].since_commit_ms - 4.0).abs() < 1e-9, "{hops:?}");
    }
}

//! How long each hop took, from the times that the records themselves carry.

use super::layer_records::LayerRecords;
use super::{Seen, Steps};
use crate::layers::LayerRecord;
use crate::percentiles::Summary;
use crate::table::Table;

/// The guide's target from end to end.
const TARGET_MS: f64 = 5_000.0;

/// The times of one change, in microseconds since 1970, in the order of its way.
type Way = [i64; 6];

const HOPS: [&str; 5] = [
    "commit at the source → ODS",
    "ODS → DWD",
    "DWD → result",
    "result → written to the sink",
    "written to the sink → seen by a select",
];

/// Prints the hops of all statuses.
pub fn report(records: &LayerRecords, seen: &[Seen], steps: &mut Steps<'_>) {
    let ways: Vec<Way> = seen.iter().enumerate().filter_map(|(n, seen)| way(records, n, seen)).collect();
    for (seen, way) in seen.iter().zip(&ways) {
        let total_ms = (way[5] - way[0]) as f64 / 1000.0;
        steps
            .paper
            .line(format!("  {}: {total_ms:.2} ms from the commit at the source until seen in the sink", seen.status));
    }
    let mut table = Table::new(&["hop", "average ms", "p50 ms", "max ms"]);
    for (n, hop) in HOPS.iter().enumerate() {
        let samples: Vec<i64> = ways.iter().filter_map(|way| Some(way.get(n + 1)? - way.get(n)?)).collect();
        add(&mut table, hop, Summary::of(&samples));
    }
    let written = Summary::of(&ways.iter().map(|way| way[4] - way[0]).collect::<Vec<_>>());
    let whole = Summary::of(&ways.iter().map(|way| way[5] - way[0]).collect::<Vec<_>>());
    add(&mut table, "commit at the source → written to the sink", written);
    add(&mut table, "commit at the source → seen in the sink", whole);
    steps.paper.table(&table);
    steps
        .paper
        .note("  records and sink tell whole milliseconds, the commit microseconds, so a hop is right to about 1 ms");
    let ok = whole.is_some_and(|whole| whole.count == seen.len() && whole.max_ms < TARGET_MS);
    steps.check(ok, format!("every change is through within the guide's target of {TARGET_MS} ms"));
}

fn add(table: &mut Table, name: &str, summary: Option<Summary>) {
    if let Some(summary) = summary {
        let figure = |milliseconds: f64| format!("{milliseconds:.2}");
        let (average, p50, max) = (figure(summary.average_ms), figure(summary.p50_ms), figure(summary.max_ms));
        table.row(&[name.to_owned(), average, p50, max]);
    }
}

/// The way of the n-th change; `None` where a record does not tell its time.
fn way(records: &LayerRecords, n: usize, seen: &Seen) -> Option<Way> {
    let produced_us = |layer: &[LayerRecord]| Some(layer.get(n)?.produced_ms? * 1000);
    let committed_us = records.ods.get(n)?.header.as_ref().ok()?.commit_time_us?;
    Some([
        committed_us,
        produced_us(&records.ods)?,
        produced_us(&records.dwd)?,
        produced_us(&records.result)?,
        seen.sighting.processed_us,
        seen.sighting.seen_us,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sightings::Sighting;
    use shared::position::Version;
    use shared::record::header::{Header, Operation};

    fn layer(produced_ms: i64) -> Vec<LayerRecord> {
        let header = Header { commit_time_us: Some(1_500), ..Header::new(Operation::Insert, Version::default()) };
        let (key, produced_ms) = (String::new(), Some(produced_ms));
        vec![LayerRecord { partition: 0, offset: 0, produced_ms, key, value: None, header: Ok(header) }]
    }

    #[test]
    fn a_way_goes_through_all_layers() {
        let records = LayerRecords { ods: layer(2), dwd: layer(3), result: layer(4) };
        let sighting =
            Sighting { order_id: 1, updated_at_us: 0, committed_us: None, processed_us: 5_000, seen_us: 6_100 };
        let seen = Seen { status: "PENDING", sighting };
        assert_eq!(way(&records, 0, &seen), Some([1_500, 2_000, 3_000, 4_000, 5_000, 6_100]));
        assert_eq!(way(&records, 1, &seen), None);
    }
}

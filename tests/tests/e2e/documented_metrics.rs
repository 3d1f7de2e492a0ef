//! docs/metrics.md is what the services export: each metric with its type and labels, in the code and in a running pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::busy::make_users_known;
use crate::service_page::get;
use crate::stack::{CDC_INGEST, SERVICES, Stack};
use crate::until::until;

/// Type and labels of a metric.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

fn quoted(text: &str, quote: char) -> BTreeSet<String> {
    text.split(quote).skip(1).step_by(2).map(str::to_owned).collect()
}

fn documented() -> Metrics {
    let page = text("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `tidemill_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let name = format!("tidemill_{}", cells[0].trim_end_matches('`'));
        assert!(cells.len() == 5 || cells.len() == 4, "{row}");
        // An empty cell leaves one separator less.
        let (kind, labels) = cells[1].split_once(" |").unwrap_or((cells[1], ""));
        let labels = if cells.len() == 5 { cells[2] } else { labels };
        (name, (kind.trim().to_owned(), quoted(labels, '`')))
    })
    .collect()
}

/// As they are registered.
fn in_the_code() -> Metrics {
    let code = text("shared/src/metrics.rs");
    let registered = code.split("metric!(").skip(1).filter(|part| part.contains("\"tidemill_"));
    registered
        .map(|part| {
            let part = part.split("\n);\n").next().unwrap();
            let name = part.split('"').find(|text| text.starts_with("tidemill_")).unwrap().to_owned();
            let kind = ["histogram", "counter", "gauge"].into_iter().find(|kind| {
                [format!("register_{kind}"), format!("register_int_{kind}")].iter().any(|call| part.contains(call))
            });
            let labels = part.rsplit_once("&[").map_or("", |(_, labels)| labels.split(']').next().unwrap());
            (name, (kind.unwrap().to_owned(), quoted(labels, '"')))
        })
        .collect()
}

#[test]
fn the_table_has_every_metric_of_the_code_and_no_other() {
    assert_eq!(documented(), in_the_code());
}

#[tokio::test]
async fn a_running_pipeline_exports_what_the_table_says() {
    let stack = Stack::started().await;
    make_users_known(&stack).await;
    let documented = documented();
    let mut exported = BTreeSet::new();
    for service in SERVICES {
        let page = until(&format!("{service} has counted"), async || {
            let page = get(&stack, service, "/metrics").await.body;
            // What is read from Kafka has a lag, said once in a commit interval.
            let says_its_lag = service == CDC_INGEST || page.contains("tidemill_lag_records{");
            if says_its_lag && page.contains("tidemill_records_out_total{") { Ok(page) } else { Err(page) }
        })
        .await;
        for line in page.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert_eq!(documented.get(name).map(|(kind, _)| kind.as_str()), Some(kind), "{name} of {service}");
                exported.insert(name.to_owned());
                continue;
            }
            let Some((series, _)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
            let name = of_histogram.into_iter().find(|name| documented.contains_key(*name)).unwrap_or(name);
            let labels: BTreeSet<String> =
                labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_owned())).collect();
            let labels: BTreeSet<String> = labels.into_iter().filter(|label| label != "le").collect();
            assert_eq!(documented.get(name).map(|(_, labels)| labels), Some(&labels), "{series} of {service}");
        }
    }
    for name in ["tidemill_stage_seconds", "tidemill_slot_lag_bytes", "tidemill_missing_rows", "tidemill_lag_records"] {
        assert!(exported.contains(name), "{name} is not among {exported:?}");
    }
}

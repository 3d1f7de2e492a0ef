//! What each service says of itself over HTTP.

use lab::page::{self, Page};
use shared::kafka::partitioner::partition;

use crate::busy::{make_users_known, rows};
use crate::database::{run, value};
use crate::history::order_key;
use crate::process::Program;
use crate::service_page::{get, metric, owned_partitions, state};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::topics::{Foreign, write};
use crate::until::{until, until_equal};

#[tokio::test]
async fn a_service_is_live_but_not_ready_until_it_has_its_partitions() {
    let mut stack = Stack::new().await;
    let waits = [
        (DWD_CLEANER, stack.places.names.ods_topic.clone(), "start cdc-ingest"),
        (DIM_JOINER, stack.users_topic(), "start cdc-ingest"),
        (PG_SINKER, stack.places.names.result_topic.clone(), "start dim-joiner"),
    ];
    for (service, topic, cure) in &waits {
        stack.start(service);
        until(&format!("{service} says what it waits for"), async || {
            let page = page::get(&stack.url(service), "/health/ready").await.map_err(|failure| failure.chain())?;
            let says = page.status == 503 && page.body.contains(topic) && page.body.contains(cure);
            if says { Ok(()) } else { Err(page.body) }
        })
        .await;
        assert_eq!(get(&stack, service, "/health/live").await.status, 200);
    }
    stack.start(CDC_INGEST);
    stack.ready().await;
    for service in SERVICES {
        assert_eq!(get(&stack, service, "/health/ready").await, Page { status: 200, body: "ready".into() });
        assert!(get(&stack, service, "/").await.body.contains("<html"), "the console of {service}");
    }
}

/// As the health check of an image does it: the file of settings says the port, and a variable names the file.
#[tokio::test]
async fn the_health_command_asks_where_the_settings_say() {
    let mut stack = Stack::new().await;
    stack.start(DWD_CLEANER);
    until("it answers", async || page::get(&stack.url(DWD_CLEANER), "/health/live").await.map_err(|f| f.chain())).await;
    let port = stack.url(DWD_CLEANER).rsplit(':').next().unwrap().to_owned();
    let file = stack.configure("users", &format!("[http]\nport = {port}\n"));
    for (question, code) in [("live", 0), ("ready", 1)] {
        let program = Program {
            path: stack.environment.programs.join(DWD_CLEANER),
            arguments: ["health", question].map(str::to_owned).into(),
            variables: vec![("DWD_CLEANER_CONFIG".to_owned(), file.display().to_string())],
            log: stack.environment.logs.join(format!("{}-health-{question}.log", stack.name)),
            input: None,
        };
        let ended = program.run().await;
        assert_eq!(ended.code, Some(code), "{question}: {}", ended.output);
        assert!(!ended.output.contains("no answer"), "{}", ended.output);
    }
}

/// The metrics that every service has.
const COMMON: [&str; 8] = [
    "tidemill_up",
    "tidemill_ready",
    "tidemill_records_in_total",
    "tidemill_records_out_total",
    "tidemill_end_to_end_seconds_bucket",
    "tidemill_generations_total",
    "tidemill_waiting_microseconds_total",
    "tidemill_position_commits_total",
];

fn metrics_of(service: &str) -> Vec<&'static str> {
    let own: &[&str] = match service {
        CDC_INGEST => &["tidemill_slot_lag_bytes", "tidemill_snapshot_rows", "tidemill_toast_rereads_total"],
        DIM_JOINER => &[
            "tidemill_lag_records",
            "tidemill_rejected_total",
            "tidemill_missing_rows",
            "tidemill_reemissions_waiting",
        ],
        _ => &["tidemill_lag_records", "tidemill_rejected_total"],
    };
    COMMON.into_iter().chain(own.iter().copied()).collect()
}

/// Gives each of the three later services a record to reject.
fn write_foreign_records(stack: &Stack) {
    let key = order_key(2001);
    let partition = partition(key.as_bytes(), 4);
    for topic in stack.order_topics() {
        write(&stack.places.kafka, &Foreign { topic, partition, key: &key, value: Some(b"?"), header: None });
    }
}

#[tokio::test]
async fn every_service_shows_its_documented_metrics() {
    let stack = Stack::started().await;
    make_users_known(&stack).await;
    write_foreign_records(&stack);
    for service in SERVICES {
        until(&format!("{service} shows its metrics"), async || {
            let page = get(&stack, service, "/metrics").await;
            assert_eq!(page.status, 200);
            let missing: Vec<_> =
                metrics_of(service).into_iter().filter(|name| metric(&page.body, name, "").is_none()).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("without {missing:?}")) }
        })
        .await;
        let page = get(&stack, service, "/metrics").await.body;
        assert_eq!(metric(&page, "tidemill_ready", ""), Some(1.0), "{service}");
        assert_eq!(metric(&page, "tidemill_generation_failures_total", "kind=\"broken\""), None, "{service}");
        assert!(page.contains(&format!("service=\"{service}\"")), "{service}");
    }
}

#[tokio::test]
async fn pg_sinker_shows_how_large_its_database_is() {
    let stack = Stack::started().await;
    let mut sink = stack.sink().await;
    until("the size is shown", async || {
        let page = get(&stack, PG_SINKER, "/metrics").await.body;
        let shown = metric(&page, "tidemill_sink_database_bytes", "").unwrap();
        let size = value::<f64>(&mut sink, "SELECT pg_database_size(current_database())::float8").await;
        // It is asked once a minute.
        if shown > size / 2.0 && shown < size * 2.0 { Ok(()) } else { Err(format!("{shown} of {size}")) }
    })
    .await;
}

#[tokio::test]
async fn records_in_and_out_are_counted_by_table_and_operation() {
    let stack = Stack::started_behind_the_copy().await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    run(&mut source, "UPDATE business.orders SET quantity = 2 WHERE order_id = 2001").await;
    run(&mut source, "DELETE FROM business.orders WHERE order_id = 2002").await;
    let names = &stack.places.names;
    let counted = [
        (CDC_INGEST, "business.orders", names.ods_topic.as_str()),
        (DWD_CLEANER, names.ods_topic.as_str(), names.dwd_topic.as_str()),
        (DIM_JOINER, names.dwd_topic.as_str(), names.result_topic.as_str()),
        (PG_SINKER, names.result_topic.as_str(), "result.orders_latest"),
    ];
    for (service, input, output) in counted {
        until(&format!("{service} has counted"), async || {
            let page = get(&stack, service, "/metrics").await.body;
            let of = |metric_name, table| {
                ["r", "u", "d"].map(|operation| {
                    let labels = format!("operation=\"{operation}\",table=\"{table}\"");
                    metric(&page, metric_name, &labels).unwrap_or_default()
                })
            };
            let found = (of("tidemill_records_in_total", input), of("tidemill_records_out_total", output));
            if found == ([5.0, 1.0, 1.0], [5.0, 1.0, 1.0]) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn the_state_names_generation_and_positions() {
    let stack = Stack::started().await;
    for service in SERVICES {
        let part = if service == CDC_INGEST { "slot" } else { "input" };
        let state = until(&format!("{service} shows its {part}"), async || {
            let state = state(&stack, service).await;
            let shown =
                if part == "input" { owned_partitions(&state) == 4 } else { state["details"]["slot"].is_object() };
            if shown { Ok(state) } else { Err(state.to_string()) }
        })
        .await;
        assert_eq!((&state["service"], &state["ready"]), (&service.into(), &true.into()), "{state}");
        assert_eq!(state["generation"]["phase"], "running", "{state}");
        assert!(state["generation"]["number"].as_u64().unwrap() >= 1, "{state}");
        if part == "slot" {
            assert_eq!(state["details"]["slot"]["name"], stack.name.as_str(), "{state}");
        }
    }
}

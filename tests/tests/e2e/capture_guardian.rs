//! The slot while all is well: it moves on whatever is written, and the guardian shows how far it is from being lost.

use lab::slot;

use crate::capturing::{metric_of, start, table_with_rows, until_state};
use crate::database::{run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::patient_writer::PatientWriter;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;
use lab::proxy::Proxy;

#[tokio::test]
async fn the_slot_moves_on_while_only_tables_that_are_not_captured_are_written_to() {
    let mut stack = Stack::new().await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    let mut source = stack.source().await;
    run(&mut source, "CREATE TABLE business.not_captured (id bigint PRIMARY KEY, text text)").await;
    let slot = stack.places.names.slot.clone();
    for round in 0..3 {
        let rows =
            format!("INSERT INTO business.not_captured SELECT {round} * 1000 + n, 'x' FROM generate_series(1, 1000) n");
        run(&mut source, &rows).await;
        let written: String = value(&mut source, "SELECT pg_current_wal_lsn()::text").await;
        let passed =
            format!("SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
        until(&format!("the slot has passed {written}"), async || {
            if value(&mut source, &passed).await { Ok(()) } else { Err("it has not".into()) }
        })
        .await;
    }
}

#[tokio::test]
async fn the_slot_of_an_idle_database_stands_at_its_end() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start(&stack, &[LOGICAL]);
    server.become_source(&mut stack).await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    let mut source = stack.source().await;
    until("the slot stands at the end", async || {
        let slot = slot::look(&mut source, &stack.name).await.unwrap().unwrap();
        if slot.active && slot.lag_bytes == 0 { Ok(()) } else { Err(format!("{slot:?}")) }
    })
    .await;
    until_state(&stack, "no lag", |state| state["details"]["slot"]["lag_bytes"] == 0).await;
}

/// Waits until a metric is as wanted.
async fn until_metric(stack: &Stack, name: &str, is_wanted: impl Fn(f64) -> bool) {
    until(name, async || {
        let found = metric_of(stack, name).await;
        if is_wanted(found) { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn the_guardian_shows_how_far_the_slot_is_from_being_lost() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start(&stack, &[LOGICAL, "max_slot_wal_keep_size=1GB"]);
    server.become_source(&mut stack).await;
    let proxy = Proxy::before(server.port).unwrap();
    stack.set(CDC_INGEST, "SOURCE__PORT", proxy.port);
    stack.set(CDC_INGEST, "WATCH__INTERVAL_MS", 100);
    stack.set(CDC_INGEST, "SLOT__SERVER_TIMEOUT_MS", 60_000);
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    until_metric(&stack, "tidemill_slot_lag_bytes", |bytes| bytes == 0.0).await;
    until_metric(&stack, "tidemill_slot_lag_seconds", |seconds| seconds == 0.0).await;
    until_metric(&stack, "tidemill_slot_safe_wal_bytes", |bytes| bytes > 0.0).await;

    proxy.hold_replication();
    let writer = PatientWriter::start(&stack.places.source, &table);
    until_metric(&stack, "tidemill_slot_lag_bytes", |bytes| bytes > 0.0).await;
    until_metric(&stack, "tidemill_slot_lag_seconds", |seconds| seconds >= 1.0).await;
    until_metric(&stack, "tidemill_slot_retained_wal_bytes", |bytes| bytes > 0.0).await;
    until_metric(&stack, "tidemill_slot_minutes_left", |minutes| minutes > 0.0).await;
    until_state(&stack, "the slot", |state| {
        let slot = &state["details"]["slot"];
        slot["wal_status"] == "reserved" && slot["safe_wal_bytes"].as_i64() > Some(0) && slot["name"] == *stack.name
    })
    .await;
    writer.stop();

    proxy.release();
    table.until_whole(&stack).await;
    until_metric(&stack, "tidemill_slot_lag_bytes", |bytes| bytes == 0.0).await;
    until_metric(&stack, "tidemill_slot_lag_seconds", |seconds| seconds == 0.0).await;
}

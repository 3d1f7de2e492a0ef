//! Two instances, one slot: the second waits, says for whom, and takes over.

use std::time::Instant;

use crate::captured_table::CapturedTable;
use crate::capturing::{start, table_with_rows, until_says};
use crate::database::value;
use crate::patient_writer::PatientWriter;
use crate::service_page::{get, metric};
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;
use lab::proxy::Proxy;

const SECOND: &str = "cdc-ingest-second";

/// The words that name the one who holds the slot: its process at the server, application and address.
async fn holder(stack: &Stack) -> [String; 3] {
    let mut source = stack.source().await;
    let who = format!(
        "SELECT ARRAY[active_pid::text, application_name, host(client_addr)]
         FROM pg_replication_slots JOIN pg_stat_activity ON pid = active_pid WHERE slot_name = '{}'",
        stack.name
    );
    let who: Vec<String> = value(&mut source, &who).await;
    who.try_into().unwrap()
}

/// Waits until this instance says that it waits for the one that holds the slot.
async fn until_waits(stack: &mut Stack, instance: &str) {
    let [process, application, address] = holder(stack).await;
    assert!(application.starts_with("tidemill cdc-ingest"), "{application}");
    let holder = format!("process {process} of the server ({application} at {address})");
    let waits = format!("slot {}, which is in use by {holder}", stack.name);
    until_says(stack, instance, &["not ready", &waits]).await;
    let useful = get(stack, instance, "/health/useful").await;
    assert_eq!((useful.status, useful.body.trim()), (200, format!("standing by for {waits}").as_str()));
    let log = stack.process(instance).log_text();
    assert!(log.contains(&waits) && log.contains("takes over when it is free"), "{log}");
    let checked = stack.command(CDC_INGEST, &["check"], &[]).await;
    assert!(checked.output.contains(&format!("in use by {holder}")), "{}", checked.output);
}

async fn interruptions_of(stack: &Stack, instance: &str) -> f64 {
    metric(&get(stack, instance, "/metrics").await.body, "tidemill_slot_interruptions_total", "").unwrap()
}

/// Waits until this instance carries what is written.
async fn until_takes_over(stack: &Stack, table: &CapturedTable, instance: &str) {
    let begin = Instant::now();
    stack.ready_alone(instance).await;
    table.until_further_records(stack, 1).await;
    eprintln!("{instance} took over, with a change in the topic, in {:.2} s", begin.elapsed().as_secs_f64());
}

#[tokio::test]
async fn a_second_instance_takes_over_from_one_that_is_killed_and_from_one_that_is_stopped() {
    let mut stack = Stack::new().await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    stack.start_replica(CDC_INGEST, SECOND);
    until_waits(&mut stack, SECOND).await;
    let writer = PatientWriter::start(&stack.places.source, &table);
    table.until_further_records(&stack, 100).await;

    stack.process(CDC_INGEST).kill();
    until_takes_over(&stack, &table, SECOND).await;
    stack.process(CDC_INGEST).restart();
    until_waits(&mut stack, CDC_INGEST).await;

    assert!(stack.process(SECOND).terminate().await.success());
    until_takes_over(&stack, &table, CDC_INGEST).await;
    writer.stop();
    table.until_whole(&stack).await;
}

#[tokio::test]
async fn a_second_instance_whose_connection_died_while_it_waited_takes_over() {
    let mut stack = Stack::new().await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    let proxy = Proxy::before(stack.places.source.port).unwrap();
    stack.set(CDC_INGEST, "SOURCE__PORT", proxy.port);
    stack.set(CDC_INGEST, "WATCH__SILENCE_MAX_MS", 1_000);
    stack.start_replica(CDC_INGEST, SECOND);
    until_waits(&mut stack, SECOND).await;

    proxy.black_hole();
    until("the second instance has noticed", async || {
        let log = stack.process(SECOND).log_text();
        if log.contains("the chain starts again") { Ok(()) } else { Err(log) }
    })
    .await;
    proxy.heal();
    stack.process(CDC_INGEST).kill();
    let writer = PatientWriter::start(&stack.places.source, &table);
    until_takes_over(&stack, &table, SECOND).await;
    writer.stop();
    table.until_whole(&stack).await;
}

#[tokio::test]
async fn an_instance_that_is_slow_to_take_the_slot_sees_what_another_has_done_meanwhile() {
    let mut stack = Stack::new().await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    stack.process(CDC_INGEST).terminate().await;
    let proxy = Proxy::before(stack.places.source.port).unwrap();
    proxy.hold_new_replication();
    let direct = stack.places.source.port;
    stack.set(CDC_INGEST, "SOURCE__CONNECT_TIMEOUT_MS", 60_000);
    stack.set(CDC_INGEST, "SOURCE__PORT", proxy.port);
    stack.start_replica(CDC_INGEST, SECOND);
    until(
        "the second instance has found the slot free",
        async || {
            if proxy.holds() { Ok(()) } else { Err("it has not".into()) }
        },
    )
    .await;

    stack.set(CDC_INGEST, "SOURCE__PORT", direct);
    stack.start(CDC_INGEST);
    stack.ready_alone(CDC_INGEST).await;
    let writer = PatientWriter::start(&stack.places.source, &table);
    table.until_further_records(&stack, 100).await;
    stack.process(CDC_INGEST).kill();
    proxy.release();
    until_takes_over(&stack, &table, SECOND).await;
    writer.stop();
    table.until_whole(&stack).await;
    stack.process(SECOND).terminate().await;
    stack.process(SECOND).restart();
    stack.ready_alone(SECOND).await;
    assert_eq!(interruptions_of(&stack, SECOND).await, 0.0);
}

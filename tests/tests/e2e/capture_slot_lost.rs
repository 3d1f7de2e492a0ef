//! A slot that is lost, with changes in between, is found and healed: every table is read again, and what is gone gets tombstones.

use crate::captured_table::CapturedTable;
use crate::capturing::{
    change, epoch, interruptions, slot, start, table_with_rows, until_interrupted, until_slot_is_free,
};
use crate::database::{run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;

/// The process has found the slot lost so many times, last for this reason; it has begun a new history, and the topic is the table.
async fn assert_healed(stack: &mut Stack, table: &CapturedTable, (times, first): (f64, u64), why: &str) {
    until_interrupted(stack, times).await;
    stack.ready_alone(CDC_INGEST).await;
    table.until_whole(stack).await;
    assert_eq!(epoch(stack).await, first + 1);
    let log = stack.process(CDC_INGEST).log_text();
    assert!(log.contains(why) && log.contains("every table is read again"), "{why:?} is not in: {log}");
}

/// cdc-ingest has captured, in this epoch, is stopped, and does not see what is changed then.
async fn stopped_with_changes_behind() -> (Stack, CapturedTable, u64) {
    let mut stack = Stack::new().await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    change(&stack, &table).await;
    table.until_whole(&stack).await;
    let first = epoch(&stack).await;
    assert_eq!(interruptions(&stack).await, 0.0);
    assert!(stack.process(CDC_INGEST).terminate().await.success());
    change(&stack, &table).await;
    (stack, table, first)
}

async fn drop_slot(stack: &Stack) {
    until_slot_is_free(stack).await;
    run(&mut stack.source().await, &format!("SELECT pg_drop_replication_slot('{}')", stack.name)).await;
}

#[tokio::test]
async fn a_slot_that_was_dropped_between_two_runs_is_made_anew() {
    let (mut stack, table, first) = stopped_with_changes_behind().await;
    drop_slot(&stack).await;
    stack.process(CDC_INGEST).restart();
    assert_healed(&mut stack, &table, (1.0, first), "the slot is gone, so changes were missed").await;

    stack.process(CDC_INGEST).terminate().await;
    change(&stack, &table).await;
    stack.process(CDC_INGEST).restart();
    stack.ready().await;
    table.until_whole(&stack).await;
    assert_eq!((interruptions(&stack).await, epoch(&stack).await), (0.0, first + 1), "it was healed for good");
}

#[tokio::test]
async fn a_slot_that_was_made_anew_by_hand_is_noticed() {
    let (mut stack, table, first) = stopped_with_changes_behind().await;
    drop_slot(&stack).await;
    let make = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", stack.name);
    run(&mut stack.source().await, &make).await;
    stack.process(CDC_INGEST).restart();
    assert_healed(&mut stack, &table, (1.0, first), "it was made anew or moved by somebody else").await;
}

#[tokio::test]
async fn a_slot_that_was_advanced_by_hand_is_noticed() {
    let (mut stack, table, first) = stopped_with_changes_behind().await;
    until_slot_is_free(&stack).await;
    let advance = format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", stack.name);
    run(&mut stack.source().await, &advance).await;
    stack.process(CDC_INGEST).restart();
    assert_healed(&mut stack, &table, (1.0, first), "it was made anew or moved by somebody else").await;
}

#[tokio::test]
async fn a_slot_that_is_dropped_while_it_is_read_is_made_anew() {
    let mut stack = Stack::new().await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    let first = epoch(&stack).await;
    let name = stack.name.clone();
    let mut source = stack.source().await;
    // At once, or it is taken again in between.
    stack.process(CDC_INGEST).freeze();
    let end = format!("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}'");
    run(&mut source, &end).await;
    drop_slot(&stack).await;
    change(&stack, &table).await;
    stack.process(CDC_INGEST).thaw();
    assert_healed(&mut stack, &table, (1.0, first), "the slot is gone, so changes were missed").await;
    assert!(stack.process(CDC_INGEST).is_running());
}

/// Writes WAL until the server gives the slot up.
async fn until_invalidated(stack: &Stack) {
    let mut source = stack.source().await;
    until("the slot is lost", async || {
        let _: String = value(&mut source, "SELECT pg_logical_emit_message(false, 'e2e', '')::text").await;
        let _: String = value(&mut source, "SELECT pg_switch_wal()::text").await;
        run(&mut source, "CHECKPOINT").await;
        let status = slot(stack, "wal_status").await;
        if status.as_deref() == Some("lost") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_slot_that_the_server_has_invalidated_is_made_anew() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start(&stack, &[LOGICAL, "max_slot_wal_keep_size=32MB"]);
    server.become_source(&mut stack).await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    let first = epoch(&stack).await;

    stack.process(CDC_INGEST).terminate().await;
    change(&stack, &table).await;
    until_invalidated(&stack).await;
    let checked = stack.command(CDC_INGEST, &["check"], &[]).await;
    assert!(checked.output.contains("was invalidated"), "{}", checked.output);
    stack.process(CDC_INGEST).restart();
    assert_healed(&mut stack, &table, (1.0, first), "the slot was invalidated (wal_removed), so changes were missed")
        .await;

    stack.process(CDC_INGEST).freeze();
    change(&stack, &table).await;
    until_invalidated(&stack).await;
    stack.process(CDC_INGEST).thaw();
    assert_healed(
        &mut stack,
        &table,
        (2.0, first + 1),
        "the slot was invalidated (wal_removed), so changes were missed",
    )
    .await;
    assert!(stack.process(CDC_INGEST).is_running());
}

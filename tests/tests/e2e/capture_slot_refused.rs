//! A slot that cannot be used or made, and a server that takes none.

use crate::capturing::{start, table_with_rows, until_says};
use crate::database::{connect, run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::refused_settings::assert_refused;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until_equal;

const NOT_OURS: [&str; 2] = ["is not a pgoutput slot of this database", "set slot.name to a name that nobody uses"];

#[tokio::test]
async fn a_slot_of_another_plugin_is_refused() {
    let mut stack = Stack::new().await;
    let make = format!("SELECT pg_create_logical_replication_slot('{}', 'test_decoding')", stack.name);
    run(&mut stack.source().await, &make).await;
    for arguments in [&[][..], &["check"]] {
        let ended = stack.command(CDC_INGEST, arguments, &[]).await;
        assert_refused(&ended, &NOT_OURS);
    }
}

#[tokio::test]
async fn a_slot_of_another_database_is_refused() {
    let mut stack = Stack::new().await;
    let slot = format!("{}_elsewhere", stack.name);
    let mut other_database = connect(&stack.environment.places.source).await;
    run(&mut other_database, &format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    let (started, checked) = (
        stack.command(CDC_INGEST, &[], &[("SLOT__NAME", &slot)]).await,
        stack.command(CDC_INGEST, &["check"], &[("SLOT__NAME", &slot)]).await,
    );
    run(&mut other_database, &format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    assert_refused(&started, &NOT_OURS);
    assert_refused(&checked, &NOT_OURS);
}

#[tokio::test]
async fn a_server_without_room_for_a_slot_is_waited_for() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start(&stack, &[LOGICAL, "max_replication_slots=1"]);
    server.become_source(&mut stack).await;
    let table = table_with_rows(&mut stack).await;
    let mut source = stack.source().await;
    run(&mut source, "SELECT pg_create_physical_replication_slot('of_somebody')").await;
    let words = ["max_replication_slots", "drop slots that nobody uses (pg_replication_slots)"];
    let checked = stack.command(CDC_INGEST, &["check"], &[]).await;
    assert_refused(&checked, &words);
    stack.start(CDC_INGEST);
    until_says(&stack, CDC_INGEST, &words).await;

    run(&mut source, "SELECT pg_drop_replication_slot('of_somebody')").await;
    stack.ready().await;
    table.until_whole(&stack).await;
}

#[tokio::test]
async fn a_standby_is_waited_for_until_it_is_promoted() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start(&stack, &[LOGICAL]);
    server.become_source(&mut stack).await;
    let table = table_with_rows(&mut stack).await;
    server.stop();
    server.turn_into_standby(&format!("{}-standby", stack.name));
    server.start_again();
    let words = ["the source is a standby", "set source.host to the primary"];
    let checked = stack.command(CDC_INGEST, &["check"], &[]).await;
    assert_refused(&checked, &words);
    stack.start(CDC_INGEST);
    until_says(&stack, CDC_INGEST, &words).await;

    let mut source = stack.source().await;
    until_equal("the standby is promoted", true, async || value(&mut source, "SELECT pg_promote()").await).await;
    stack.ready().await;
    table.until_whole(&stack).await;
}

#[tokio::test]
async fn a_slot_that_is_there_already_is_taken() {
    let mut stack = Stack::new().await;
    let table = table_with_rows(&mut stack).await;
    let make = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", stack.name);
    run(&mut stack.source().await, &make).await;
    let checked = stack.command(CDC_INGEST, &["check"], &[]).await;
    assert!(checked.output.contains("exists and is free"), "{}", checked.output);
    start(&mut stack, &table).await;
}

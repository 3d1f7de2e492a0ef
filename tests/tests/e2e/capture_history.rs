//! A source that tells another history than the one that was captured: an older copy of its disk, or another server in its place.

use crate::captured_table::CapturedTable;
use crate::capturing::{TOKEN, change, copy_again, epoch, interruptions, start, table_with_rows, until_interrupted};
use crate::database::{run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::stack::{CDC_INGEST, Stack};

/// A source of the test's own, and what is captured from it.
struct Told {
    stack: Stack,
    server: FurtherServer,
    table: CapturedTable,
    /// Of what was captured.
    epoch: u64,
}

impl Told {
    /// The server's copy lacks what was captured last, and stands in its place; cdc-ingest is stopped.
    async fn set_back(last: impl AsyncFnOnce(&Stack, &CapturedTable)) -> Self {
        let mut stack = Stack::new().await;
        let server = FurtherServer::start(&stack, &[LOGICAL]);
        server.become_source(&mut stack).await;
        stack.set(CDC_INGEST, "HTTP__CONTROL_TOKEN", TOKEN);
        let table = table_with_rows(&mut stack).await;
        start(&mut stack, &table).await;
        change(&stack, &table).await;
        table.until_whole(&stack).await;
        let first = epoch(&stack).await;
        stack.process(CDC_INGEST).terminate().await;
        let copy = format!("{}-copy", stack.name);
        server.stop();
        server.save(&copy);
        server.start_again();

        stack.process(CDC_INGEST).restart();
        stack.ready().await;
        last(&stack, &table).await;
        table.until_whole(&stack).await;
        assert_eq!(epoch(&stack).await, first);
        stack.process(CDC_INGEST).terminate().await;
        server.stop();
        server.restore(&copy);
        server.start_again();
        Told { stack, server, table, epoch: first }
    }

    async fn end_of_wal(&self) -> String {
        value(&mut self.stack.source().await, "SELECT pg_current_wal_insert_lsn()::text").await
    }

    /// cdc-ingest notices, begins a new history, and the topic is the table.
    async fn assert_noticed(mut self, why: &str) {
        self.stack.process(CDC_INGEST).restart();
        until_interrupted(&self.stack, 1.0).await;
        self.stack.ready().await;
        self.table.until_whole(&self.stack).await;
        assert_eq!(epoch(&self.stack).await, self.epoch + 1);
        let log = self.stack.process(CDC_INGEST).log_text();
        assert!(log.contains(why) && log.contains("every table is read again"), "{why:?} is not in: {log}");
        change(&self.stack, &self.table).await;
        self.table.until_whole(&self.stack).await;
        drop(self.server);
    }
}

/// Ends segments of the WAL, so that it reaches further.
async fn write_wal(stack: &Stack, segments: u32) {
    let mut source = stack.source().await;
    for _ in 0..segments {
        let _: String = value(&mut source, "SELECT pg_logical_emit_message(true, 'e2e', '')::text").await;
        let _: String = value(&mut source, "SELECT pg_switch_wal()::text").await;
    }
}

#[tokio::test]
async fn a_server_set_back_whose_wal_ends_before_what_was_captured_is_noticed() {
    let told = Told::set_back(async |stack, table| {
        write_wal(stack, 2).await;
        change(stack, table).await;
    });
    let told = told.await;
    run(&mut told.stack.source().await, "INSERT INTO business.things VALUES (1000000, 'otherwise')").await;
    told.assert_noticed("the server's WAL ends at").await;
}

#[tokio::test]
async fn a_server_set_back_whose_wal_has_grown_beyond_what_was_captured_is_noticed() {
    let told = Told::set_back(async |stack, table| change(stack, table).await).await;
    let begin = told.end_of_wal().await;
    run(&mut told.stack.source().await, "INSERT INTO business.things VALUES (1000000, 'otherwise')").await;
    write_wal(&told.stack, 3).await;
    run(&mut told.stack.source().await, "DELETE FROM business.things WHERE text = 'came'").await;
    assert_ne!(begin, told.end_of_wal().await);
    told.assert_noticed("it was restored, or failed over without its last transactions").await;
}

#[tokio::test]
async fn a_server_set_back_behind_a_copy_of_a_table_is_noticed() {
    let told = Told::set_back(async |stack, table| {
        change(stack, table).await;
        table.until_whole(stack).await;
        copy_again(stack, table).await;
    });
    let told = told.await;
    run(&mut told.stack.source().await, "INSERT INTO business.things VALUES (1000000, 'otherwise')").await;
    write_wal(&told.stack, 3).await;
    told.assert_noticed("it was restored, or failed over without its last transactions").await;
}

#[tokio::test]
async fn another_server_with_the_same_tables_is_noticed() {
    let mut stack = Stack::new().await;
    let first = FurtherServer::start(&stack, &[LOGICAL]);
    first.become_source(&mut stack).await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    let captured = epoch(&stack).await;
    stack.process(CDC_INGEST).terminate().await;
    first.stop();

    let other = FurtherServer::start_another(&stack, &[LOGICAL]);
    other.become_source(&mut stack).await;
    let table = table_with_rows(&mut stack).await;
    let slot = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", stack.name);
    run(&mut stack.source().await, &slot).await;
    run(&mut stack.source().await, "DELETE FROM business.things WHERE id % 2 = 0").await;
    write_wal(&stack, 3).await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    table.until_whole(&stack).await;
    assert_eq!((interruptions(&stack).await, epoch(&stack).await), (1.0, captured + 1));
    let log = stack.process(CDC_INGEST).log_text();
    assert!(log.contains("the server is another one than before (system identifier"), "{log}");
}

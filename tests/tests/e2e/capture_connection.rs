//! A connection to the source that is cut, swallowed or frozen while others write: nothing lost, nothing twice, and the process goes on.

use std::time::Instant;

use crate::captured_table::CapturedTable;
use crate::capturing::{slot, start, table_with_rows};
use crate::database::run;
use crate::patient_writer::PatientWriter;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;
use lab::proxy::Proxy;

/// What is written between two disturbances, at least.
const BETWEEN: i64 = 100;

/// cdc-ingest on a table that is written to, behind a proxy.
struct Line {
    stack: Stack,
    table: CapturedTable,
    proxy: Proxy,
    writer: PatientWriter,
}

impl Line {
    async fn busy() -> Self {
        let mut stack = Stack::new().await;
        let proxy = Proxy::before(stack.places.source.port).unwrap();
        stack.set(CDC_INGEST, "SOURCE__PORT", proxy.port);
        stack.set(CDC_INGEST, "SOURCE__CONNECT_TIMEOUT_MS", 1_000);
        stack.set(CDC_INGEST, "WATCH__SILENCE_MAX_MS", 1_000);
        stack.set(CDC_INGEST, "SLOT__SERVER_TIMEOUT_MS", 2_000);
        let table = table_with_rows(&mut stack).await;
        start(&mut stack, &table).await;
        let writer = PatientWriter::start(&stack.places.source, &table);
        table.until_further_records(&stack, BETWEEN).await;
        Line { stack, table, proxy, writer }
    }

    /// Prints how long it takes from now until a change is in the topic.
    async fn goes_on(&self, after: &str) {
        let begin = Instant::now();
        self.table.until_further_records(&self.stack, 1).await;
        eprintln!("{after}: a change was in the topic after {:.2} s", begin.elapsed().as_secs_f64());
        self.table.until_further_records(&self.stack, BETWEEN).await;
    }

    /// The log has these words.
    async fn until_logged(&mut self, words: &str) {
        let process = self.stack.process(CDC_INGEST);
        until(&format!("the log says {words:?}"), async || {
            let log = process.log_text();
            if log.contains(words) { Ok(()) } else { Err(log) }
        })
        .await;
    }

    async fn assert_whole(mut self) {
        assert!(self.writer.stop() > 0);
        self.stack.ready().await;
        self.table.until_whole(&self.stack).await;
        assert!(self.stack.process(CDC_INGEST).is_running());
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_again_and_again() {
    let line = Line::busy().await;
    for round in 1..=5 {
        line.proxy.cut();
        line.goes_on(&format!("cut {round}")).await;
    }
    line.assert_whole().await;
}

#[tokio::test]
async fn a_network_that_swallows_everything_for_a_while() {
    let mut line = Line::busy().await;
    line.proxy.black_hole();
    line.until_logged("has not answered for 1000 ms").await;
    line.until_logged("did not answer within 1000 ms").await;
    line.proxy.heal();
    line.goes_on("black hole").await;
    line.assert_whole().await;
}

#[tokio::test]
async fn a_replication_connection_that_goes_silent_alone() {
    let line = Line::busy().await;
    line.proxy.black_hole_replication();
    line.goes_on("silent replication connection, from its begin").await;
    line.assert_whole().await;
}

/// The server's process that sends the stream.
async fn sender(line: &Line) -> Option<String> {
    slot(&line.stack, "active_pid").await.filter(|pid| !pid.is_empty())
}

#[tokio::test]
async fn a_sending_process_that_the_server_ends() {
    let line = Line::busy().await;
    let mut source = line.stack.source().await;
    for round in 1..=3 {
        let pid = until("somebody reads the slot", async || sender(&line).await.ok_or("nobody".into())).await;
        run(&mut source, &format!("SELECT pg_terminate_backend({pid})")).await;
        line.goes_on(&format!("walsender ended {round}")).await;
    }
    line.assert_whole().await;
}

#[tokio::test]
async fn a_process_that_stands_still_for_longer_than_the_server_waits() {
    let mut line = Line::busy().await;
    line.stack.process(CDC_INGEST).freeze();
    until("the server has let go of the slot", async || match sender(&line).await {
        None => Ok(()),
        Some(pid) => Err(pid),
    })
    .await;
    line.stack.process(CDC_INGEST).thaw();
    line.goes_on("thawed").await;
    line.assert_whole().await;
}

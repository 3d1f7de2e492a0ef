//! A source that is restarted under writes, in an orderly way and by a crash: nothing lost, nothing twice, and the process goes on.

use std::time::Instant;

use crate::capturing::{epoch, interruptions, start, table_with_rows};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::patient_writer::PatientWriter;
use crate::stack::{CDC_INGEST, Stack};

#[tokio::test]
async fn a_server_that_is_stopped_or_killed_and_started_again() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start(&stack, &[LOGICAL]);
    server.become_source(&mut stack).await;
    let table = table_with_rows(&mut stack).await;
    start(&mut stack, &table).await;
    let first = epoch(&stack).await;
    let writer = PatientWriter::start(&stack.places.source, &table);
    for (how, end) in [("stop", FurtherServer::stop as fn(&FurtherServer)), ("kill", FurtherServer::kill)] {
        for round in 1..=2 {
            table.until_further_records(&stack, 100).await;
            end(&server);
            server.start_again();
            let back = Instant::now();
            table.until_further_records(&stack, 1).await;
            eprintln!(
                "{how} {round}: a change was in the topic {:.2} s after the server",
                back.elapsed().as_secs_f64()
            );
        }
    }
    table.until_further_records(&stack, 100).await;
    writer.stop();
    stack.ready().await;
    table.until_whole(&stack).await;
    assert!(stack.process(CDC_INGEST).is_running());
    assert_eq!((interruptions(&stack).await, epoch(&stack).await), (0.0, first));
}

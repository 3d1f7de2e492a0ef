//! A standby that is promoted, with the slot that PostgreSQL 17 and newer keep in step there.

use std::time::Instant;

use sqlx::postgres::PgConnection;

use crate::capturing::{epoch, interruptions, slot, start, table_with_rows};
use crate::database::{connect, run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::patient_writer::PatientWriter;
use crate::proxy::Proxy;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::{until, until_equal};

/// The slot in which the primary keeps WAL for its standby.
const STANDBY: &str = "standby";

async fn version(stack: &Stack) -> i32 {
    value(&mut stack.source().await, "SELECT current_setting('server_version_num')::int").await
}

async fn until_true(connection: &mut PgConnection, what: &str, sql: &str) {
    until_equal(what, true, async || value(connection, sql).await).await;
}

#[tokio::test]
async fn a_promoted_standby_with_the_slot_is_gone_on_from() {
    let mut stack = Stack::new().await;
    if version(&stack).await < 170_000 {
        eprintln!("PostgreSQL before 17 keeps no slots in step on a standby");
        return;
    }
    let primary = FurtherServer::start(&stack, &[LOGICAL, &format!("synchronized_standby_slots={STANDBY}")]);
    primary.become_source(&mut stack).await;
    let table = table_with_rows(&mut stack).await;
    run(&mut stack.source().await, &format!("SELECT pg_create_physical_replication_slot('{STANDBY}')")).await;
    let copy = format!("{}-base", stack.name);
    primary.stop();
    primary.save(&copy);
    primary.start_again();
    let source = stack.places.source.clone();
    let to_primary = format!(
        "primary_conninfo=host=127.0.0.1 port={} user={} password={} dbname={}",
        primary.port,
        source.user,
        source.password.reveal(),
        source.database
    );
    let slot_at_primary = format!("primary_slot_name={STANDBY}");
    let keeps = ["hot_standby_feedback=on", "sync_replication_slots=on"];
    let settings = [&[LOGICAL, &to_primary, &slot_at_primary][..], &keeps].concat();
    let standby = FurtherServer::start_standby(&stack, &copy, &settings);

    let proxy = Proxy::before(primary.port);
    stack.set(CDC_INGEST, "SOURCE__PORT", proxy.port);
    start(&mut stack, &table).await;
    assert_eq!(slot(&stack, "failover").await.as_deref(), Some("true"));
    let mut at_standby = connect(&shared::pg::PostgresConfig { port: standby.port, ..source }).await;
    let is_there = format!(
        "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{}' AND synced AND NOT temporary)",
        stack.name
    );
    until_true(&mut at_standby, "the slot is at the standby", &is_there).await;
    let writer = PatientWriter::start(&stack.places.source, &table);
    table.until_further_records(&stack, 200).await;
    writer.stop();

    // In an orderly way: the standby has everything.
    primary.stop();
    proxy.lead_to(standby.port);
    stack.places.source.port = standby.port;
    until_true(&mut at_standby, "the standby is promoted", "SELECT pg_promote()").await;
    let promoted = Instant::now();
    let writer = PatientWriter::start(&stack.places.source, &table);
    table.until_further_records(&stack, 1).await;
    eprintln!("a change was in the topic {:.2} s after the promotion", promoted.elapsed().as_secs_f64());
    table.until_further_records(&stack, 200).await;
    writer.stop();
    stack.ready().await;
    table.until_whole(&stack).await;
    assert!(stack.process(CDC_INGEST).is_running());
    assert_eq!((interruptions(&stack).await, epoch(&stack).await), (0.0, 1));
    until("the slot goes on", async || {
        let confirmed = slot(&stack, "confirmed_flush_lsn").await;
        confirmed.filter(|lsn| !lsn.is_empty()).map(drop).ok_or("it is not there".into())
    })
    .await;
}

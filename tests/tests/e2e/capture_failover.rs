//! A standby that is promoted, with the slot that PostgreSQL 17 and newer keep in step there.

use std::time::Instant;

use shared::pg::PostgresConfig;
use sqlx::postgres::PgConnection;

use crate::captured_table::CapturedTable;
use crate::capturing::{epoch, interruptions, slot, start, table_with_rows, until_interrupted};
use crate::database::{connect, run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::patient_writer::PatientWriter;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until_equal;
use lab::proxy::Proxy;

/// The slot in which the primary keeps WAL for its standby.
const STANDBY: &str = "standby";

async fn version(stack: &Stack) -> i32 {
    value(&mut stack.source().await, "SELECT current_setting('server_version_num')::int").await
}

/// A primary that is captured, and its standby with the slot.
struct Pair {
    stack: Stack,
    table: CapturedTable,
    primary: FurtherServer,
    standby: FurtherServer,
    /// Leads cdc-ingest to one of them.
    proxy: Proxy,
}

impl Pair {
    /// `None` where the server is too old for it.
    async fn captured(settings: &[&str]) -> Option<Self> {
        let mut stack = Stack::new().await;
        if version(&stack).await < 170_000 {
            eprintln!("PostgreSQL before 17 keeps no slots in step on a standby");
            return None;
        }
        let primary = FurtherServer::start(&stack, &[&[LOGICAL], settings].concat());
        primary.become_source(&mut stack).await;
        let table = table_with_rows(&mut stack).await;
        run(&mut stack.source().await, &format!("SELECT pg_create_physical_replication_slot('{STANDBY}')")).await;
        let copy = format!("{}-base", stack.name);
        primary.stop();
        primary.save(&copy);
        primary.start_again();
        let standby =
            FurtherServer::start_standby(&stack, &copy, &standby_settings(&stack).each_ref().map(String::as_str));

        let proxy = Proxy::before(primary.port).unwrap();
        stack.set(CDC_INGEST, "SOURCE__PORT", proxy.port);
        start(&mut stack, &table).await;
        assert_eq!(slot(&stack, "failover").await.as_deref(), Some("true"));
        let pair = Pair { stack, table, primary, standby, proxy };
        pair.until_slot_is_at_standby().await;
        Some(pair)
    }

    async fn connect_standby(&self) -> PgConnection {
        connect(&PostgresConfig { port: self.standby.port, ..self.stack.places.source.clone() }).await
    }

    async fn until_slot_is_at_standby(&self) {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{}' AND synced AND NOT temporary)",
            self.stack.name
        );
        let mut standby = self.connect_standby().await;
        until_equal("the slot is at the standby", true, async || value(&mut standby, &sql).await).await;
    }

    /// The standby becomes the stack's source, and cdc-ingest is led to it.
    async fn promote(&mut self) {
        let mut standby = self.connect_standby().await;
        until_equal("it is promoted", true, async || value(&mut standby, "SELECT pg_promote()").await).await;
        self.stack.places.source.port = self.standby.port;
        self.proxy.lead_to(self.standby.port);
    }

    async fn write(&self, records: i64) {
        let writer = PatientWriter::start(&self.stack.places.source, &self.table);
        self.table.until_further_records(&self.stack, records).await;
        writer.stop();
    }
}

fn standby_settings(stack: &Stack) -> [String; 5] {
    let source = &stack.places.source;
    let primary = format!(
        "primary_conninfo=host=127.0.0.1 port={} user={} password={} dbname={}",
        source.port,
        source.user,
        source.password.reveal(),
        source.database
    );
    let slot = format!("primary_slot_name={STANDBY}");
    [LOGICAL.to_owned(), primary, slot, "hot_standby_feedback=on".to_owned(), "sync_replication_slots=on".to_owned()]
}

#[tokio::test]
async fn a_promoted_standby_with_the_slot_is_gone_on_from() {
    // So that what is captured is at the standby.
    let Some(mut pair) = Pair::captured(&["synchronized_standby_slots=standby"]).await else { return };
    let first = epoch(&pair.stack).await;
    pair.write(200).await;
    pair.primary.stop();
    pair.promote().await;
    let promoted = Instant::now();
    pair.write(1).await;
    eprintln!("a change was in the topic {:.2} s after the promotion", promoted.elapsed().as_secs_f64());
    pair.write(200).await;
    pair.stack.ready().await;
    pair.table.until_whole(&pair.stack).await;
    assert!(pair.stack.process(CDC_INGEST).is_running());
    assert_eq!((interruptions(&pair.stack).await, epoch(&pair.stack).await), (0.0, first));
}

#[tokio::test]
async fn a_promoted_standby_that_lacks_what_was_captured_is_noticed() {
    let Some(mut pair) = Pair::captured(&[]).await else { return };
    let first = epoch(&pair.stack).await;
    pair.standby.stop();
    pair.write(200).await;
    pair.table.until_whole(&pair.stack).await;
    pair.primary.kill();
    pair.standby.start_again();
    pair.promote().await;
    pair.write(200).await;
    until_interrupted(&pair.stack, 1.0).await;
    pair.stack.ready().await;
    pair.table.until_whole(&pair.stack).await;
    assert!(pair.stack.process(CDC_INGEST).is_running());
    assert_eq!(epoch(&pair.stack).await, first + 1);
}

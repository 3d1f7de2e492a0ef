//! What PostgreSQL does not send: rows that a statement changes without touching them. A snapshot on command puts the topic right.

use lab::paper::Paper;
use shared::pg::TableName;

use crate::database::run;
use crate::judged_table::JudgedTable;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{command, orders_go_on, take_commands, until_goes_on};

async fn captured(made: &str, table: &str) -> (Stack, JudgedTable) {
    let mut stack = Stack::new().await;
    run(&mut stack.source().await, made).await;
    let judged = JudgedTable::capture(&mut stack, "unsent", table).await;
    take_commands(&mut stack);
    stack.start(CDC_INGEST);
    stack.ready().await;
    judged.until_topic_is_the_table(&stack).await;
    (stack, judged)
}

/// Does it, sees that the topic stays as it was though the stream went on, and has a snapshot put it right.
async fn assert_healed_by_a_snapshot(stack: &Stack, judged: &JudgedTable, what: &str) {
    run(&mut stack.source().await, what).await;
    orders_go_on(stack).await;
    let (places, mut nobody) = (&stack.places, Paper::plain(std::io::sink()));
    let compared = lab::captured::until_equal(
        &places.source,
        &places.kafka,
        &judged.table,
        &judged.topic,
        std::time::Duration::ZERO,
        &mut nobody,
    );
    assert!(!compared.await.unwrap().is_equal(), "{what}: PostgreSQL sends it after all, and the document is wrong");
    command(stack, "snapshot", &judged.table.to_string()).await;
    until_goes_on(stack, &judged.table.to_string()).await;
    judged.until_topic_is_the_table(stack).await;
    judged.history(stack).assert_nothing_twice();
}

#[tokio::test]
async fn partitions_that_come_go_and_are_emptied_alone_are_put_right_by_a_snapshot() {
    let made = "CREATE TABLE business.parts (id int PRIMARY KEY, mark int) PARTITION BY RANGE (id);
        CREATE TABLE business.parts_1 PARTITION OF business.parts FOR VALUES FROM (0) TO (100);
        CREATE TABLE business.parts_2 PARTITION OF business.parts FOR VALUES FROM (100) TO (200);
        CREATE TABLE business.parts_3 (id int PRIMARY KEY, mark int);
        INSERT INTO business.parts SELECT n, 0 FROM generate_series(1, 199) n;
        INSERT INTO business.parts_3 SELECT n, 0 FROM generate_series(200, 250) n;
        ALTER PUBLICATION tidemill SET (publish_via_partition_root = true)";
    let (stack, parts) = captured(made, "business.parts").await;
    assert_eq!(parts.table, TableName::parse("business.parts"));
    for what in [
        "ALTER TABLE business.parts ATTACH PARTITION business.parts_3 FOR VALUES FROM (200) TO (300)",
        "TRUNCATE business.parts_3",
        "ALTER TABLE business.parts DETACH PARTITION business.parts_2",
    ] {
        assert_healed_by_a_snapshot(&stack, &parts, what).await;
    }
}

#[tokio::test]
async fn labels_and_defaults_that_change_under_rows_are_put_right_by_a_snapshot() {
    let made = "CREATE TYPE business.colour AS ENUM ('red', 'blue');
        CREATE TABLE business.paints (id int PRIMARY KEY, colour business.colour);
        INSERT INTO business.paints SELECT n, 'red' FROM generate_series(1, 20) n";
    let (stack, paints) = captured(made, "business.paints").await;
    for what in [
        "ALTER TYPE business.colour RENAME VALUE 'red' TO '红'",
        "ALTER TABLE business.paints ADD COLUMN coats int NOT NULL DEFAULT 2",
    ] {
        assert_healed_by_a_snapshot(&stack, &paints, what).await;
    }
}

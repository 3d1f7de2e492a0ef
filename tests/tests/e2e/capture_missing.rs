//! A table that is dropped, not published, or not readable for a while: it alone stops, with what to do, and goes on by itself.

use crate::captured_table::{CapturedTable, until_judged_equal};
use crate::capturing::copy_slowly;
use crate::database::run;
use crate::history::History;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{
    command, generation, orders_go_on, stopped_metric, take_commands, until_goes_on, until_stopped, until_table,
};
use crate::writer::{amid_writes, changes_of};

const ROWS: &str = "INSERT INTO business.items (id, mark) SELECT n, 0 FROM generate_series(1, 300) n";

async fn captured() -> (Stack, CapturedTable) {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int").await;
    run(&mut stack.source().await, ROWS).await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    items.until_judged_equal(&stack).await;
    (stack, items)
}

#[tokio::test]
async fn a_dropped_table_stops_alone_and_goes_on_when_it_is_made_again() {
    let (mut stack, items) = captured().await;
    let before = generation(&stack).await;
    amid_writes(&stack, changes_of("business.items"), "").await;
    run(&mut stack.source().await, "DROP TABLE business.items").await;
    until_stopped(&stack, "business.items", &["has no table business.items", "make the table"]).await;
    orders_go_on(&stack).await;
    assert_eq!(generation(&stack).await, before);

    stack.process(CDC_INGEST).kill();
    stack.process(CDC_INGEST).restart();
    stack.ready().await;
    orders_go_on(&stack).await;
    until_stopped(&stack, "business.items", &["has no table business.items"]).await;

    let again = "CREATE TABLE business.items (id bigint PRIMARY KEY, mark int, fresh text DEFAULT '又');
                 GRANT SELECT ON business.items TO tidemill_capture;
                 INSERT INTO business.items (id, mark) SELECT n, 1 FROM generate_series(200, 350) n";
    run(&mut stack.source().await, again).await;
    until_stopped(&stack, "business.items", &[r#"ALTER PUBLICATION "tidemill" ADD TABLE "business"."items""#]).await;
    let publish = "ALTER PUBLICATION tidemill ADD TABLE business.items";
    amid_writes(&stack, changes_of("business.items"), publish).await;
    items.until_judged_equal(&stack).await;
    until_goes_on(&stack, "business.items").await;
    items.history(&stack).assert_nothing_twice();
}

#[tokio::test]
async fn what_changed_while_a_table_was_not_published_is_found_when_it_is_again() {
    let (mut stack, items) = captured().await;
    let mut source = stack.source().await;
    run(&mut source, "ALTER PUBLICATION tidemill DROP TABLE business.items").await;
    let gap = "INSERT INTO business.items VALUES (5001, 1); UPDATE business.items SET mark = 9 WHERE id = 11;
               DELETE FROM business.items WHERE id BETWEEN 20 AND 25";
    run(&mut source, gap).await;
    until_stopped(&stack, "business.items", &["does not publish table business.items"]).await;
    orders_go_on(&stack).await;
    // Others go on after a restart, too.
    stack.process(CDC_INGEST).kill();
    stack.process(CDC_INGEST).restart();
    stack.ready().await;
    orders_go_on(&stack).await;
    until_stopped(&stack, "business.items", &["does not publish table business.items"]).await;
    let publish = "ALTER PUBLICATION tidemill ADD TABLE business.items";
    amid_writes(&stack, changes_of("business.items"), publish).await;
    items.until_judged_equal(&stack).await;
    until_goes_on(&stack, "business.items").await;
    items.history(&stack).assert_nothing_twice();
}

/// Out of the publication and in again, with changes in between, faster than anybody looks.
const SHORT_GAP: &str =
    "ALTER PUBLICATION tidemill DROP TABLE business.items; DELETE FROM business.items WHERE id = 30;
    UPDATE business.items SET mark = 8 WHERE id = 31; ALTER PUBLICATION tidemill ADD TABLE business.items";

#[tokio::test]
async fn a_gap_in_the_publication_that_nobody_saw_is_found_as_well() {
    let (mut stack, items) = captured().await;
    run(&mut stack.source().await, SHORT_GAP).await;
    items.until_judged_equal(&stack).await;
    stack.process(CDC_INGEST).kill();
    run(&mut stack.source().await, &SHORT_GAP.replace("30", "40").replace("31", "41")).await;
    stack.process(CDC_INGEST).restart();
    items.until_judged_equal(&stack).await;
    items.history(&stack).assert_nothing_twice();
}

#[tokio::test]
async fn a_table_that_may_not_be_read_during_its_copy_goes_on_when_it_may_again() {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int").await;
    copy_slowly(&mut stack, 50, 10);
    take_commands(&mut stack);
    let mut source = stack.source().await;
    run(&mut source, "INSERT INTO business.items SELECT n, 0 FROM generate_series(1, 20000) n").await;
    stack.start(CDC_INGEST);
    let is_amid = |shown: &serde_json::Value| shown["rows"].as_u64().is_some_and(|rows| rows > 0);
    let amid = until_table(&stack, "business.items", "is being copied", is_amid).await;
    assert_eq!(amid["done"], false, "the copy was done before: it proves nothing");
    amid_writes(&stack, changes_of("business.items"), "REVOKE SELECT ON business.items FROM tidemill_capture").await;
    until_stopped(
        &stack,
        "business.items",
        &["may not read business.items", r#"GRANT SELECT ON "business"."items" TO "tidemill_capture""#],
    )
    .await;
    stack.ready().await;
    orders_go_on(&stack).await;
    let grant = "GRANT SELECT ON business.items TO tidemill_capture";
    amid_writes(&stack, changes_of("business.items"), grant).await;
    items.until_judged_equal(&stack).await;
    until_goes_on(&stack, "business.items").await;
    command(&stack, "snapshot", "business.items").await;
    items.until_judged_equal(&stack).await;
    items.history(&stack).assert_nothing_twice();
}

#[tokio::test]
async fn a_table_that_nobody_named_goes_on_when_it_is_dropped_and_made_again() {
    let mut stack = Stack::new().await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    let make = "CREATE TABLE business.extras (id bigint PRIMARY KEY, mark int); GRANT SELECT ON business.extras TO tidemill_capture;
                INSERT INTO business.extras VALUES (1, 1), (2, 2); ALTER PUBLICATION tidemill ADD TABLE business.extras";
    let topic = stack.other_topic("business", "extras");
    let mut source = stack.source().await;
    run(&mut source, make).await;
    until_judged_equal(&stack, "business.extras", &topic).await;
    assert_eq!(stopped_metric(&stack, "business.extras").await, Some(0.0));
    run(&mut source, "DROP TABLE business.extras").await;
    until_stopped(&stack, "business.extras", &["has no table business.extras"]).await;
    run(&mut source, &make.replace("(1, 1)", "(3, 3)")).await;
    until_judged_equal(&stack, "business.extras", &topic).await;
    stack.process(CDC_INGEST).kill();
    run(&mut source, "UPDATE business.extras SET mark = 7; DELETE FROM business.extras WHERE id = 2").await;
    stack.process(CDC_INGEST).restart();
    until_judged_equal(&stack, "business.extras", &topic).await;
    History::read(&stack.layers(), &topic).assert_nothing_twice();
}

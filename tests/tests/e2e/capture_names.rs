//! Tables that get other names while rows are written: a captured table is known by its OID, and meant by its name.

use crate::captured_table::{CapturedTable, until_judged_equal};
use crate::database::run;
use crate::history::History;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{orders_go_on, until_goes_on, until_stopped, until_table};
use crate::writer::{amid_writes, changes_of};

/// A view writes to its table whatever that is called.
async fn view(stack: &Stack, table: &str) -> String {
    let sql = format!("CREATE VIEW business.{table}_view AS SELECT * FROM business.{table}");
    run(&mut stack.source().await, &sql).await;
    format!("business.{table}_view")
}

async fn fill(stack: &Stack, table: &str, ids: &str) {
    let sql = format!("INSERT INTO business.{table} (id, mark) SELECT n, 0 FROM generate_series({ids}) n");
    run(&mut stack.source().await, &sql).await;
}

/// A table of the same kind that is not in the publication.
async fn make_unpublished(stack: &Stack, table: &str) {
    let sql = format!(
        "CREATE TABLE business.{table} (id bigint PRIMARY KEY, mark int);
         GRANT SELECT ON business.{table} TO tidemill_capture"
    );
    run(&mut stack.source().await, &sql).await;
}

#[tokio::test]
async fn a_renamed_table_goes_on_into_the_same_topic_also_after_a_restart_under_the_configured_name() {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int").await;
    let view = view(&stack, "items").await;
    fill(&stack, "items", "1, 300").await;
    stack.start(CDC_INGEST);
    stack.ready().await;

    amid_writes(&stack, changes_of(&view), "ALTER TABLE business.items RENAME TO goods").await;
    until_judged_equal(&stack, "business.goods", &items.topic).await;
    until_table(&stack, "business.items", "is called otherwise", |shown| shown["called_now"] == "business.goods").await;
    stack.process(CDC_INGEST).kill();
    run(&mut stack.source().await, "DELETE FROM business.goods WHERE id % 7 = 0").await;
    stack.process(CDC_INGEST).restart();
    stack.ready().await;
    let away = "CREATE SCHEMA stock; GRANT USAGE ON SCHEMA stock TO tidemill_capture; ALTER TABLE business.goods SET SCHEMA stock";
    amid_writes(&stack, changes_of(&view), away).await;
    until_judged_equal(&stack, "stock.goods", &items.topic).await;

    let history = items.history(&stack);
    history.assert_nothing_twice();
    assert_eq!(history.repeated_copies(), 0, "it was not copied anew");
}

/// `items` becomes `items_old`, `items_new` becomes `items`.
const SWAP: &str =
    "BEGIN; ALTER TABLE business.items RENAME TO items_old; ALTER TABLE business.items_new RENAME TO items; COMMIT";

#[tokio::test]
async fn when_two_tables_swap_their_names_the_topic_becomes_the_table_that_has_the_name() {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int").await;
    make_unpublished(&stack, "items_new").await;
    let (old_view, new_view) = (view(&stack, "items").await, view(&stack, "items_new").await);
    fill(&stack, "items", "1, 300").await;
    fill(&stack, "items_new", "250, 600").await;
    stack.start(CDC_INGEST);
    stack.ready().await;

    amid_writes(&stack, changes_of(&old_view), SWAP).await;
    until_stopped(&stack, "business.items", &["does not publish", r#"ADD TABLE "business"."items""#]).await;
    orders_go_on(&stack).await;
    let publish = "ALTER PUBLICATION tidemill ADD TABLE business.items";
    amid_writes(&stack, changes_of(&new_view), publish).await;
    items.until_judged_equal(&stack).await;
    until_goes_on(&stack, "business.items").await;
    // The one that had the name is in the publication still.
    let old_topic = stack.other_topic("business", "items_old");
    amid_writes(&stack, changes_of(&old_view), "").await;
    until_judged_equal(&stack, "business.items_old", &old_topic).await;

    stack.process(CDC_INGEST).kill();
    fill(&stack, "items", "8001, 8005").await;
    fill(&stack, "items_old", "8001, 8005").await;
    stack.process(CDC_INGEST).restart();
    items.until_judged_equal(&stack).await;
    until_judged_equal(&stack, "business.items_old", &old_topic).await;
    items.history(&stack).assert_nothing_twice();
    History::read(&stack.layers(), &old_topic).assert_nothing_twice();
}

#[tokio::test]
async fn two_captured_tables_that_swap_their_names_are_both_in_a_topic_and_neither_is_left_behind_in_silence() {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int").await;
    make_unpublished(&stack, "items_new").await;
    run(&mut stack.source().await, "ALTER PUBLICATION tidemill ADD TABLE business.items_new").await;
    let (old_view, new_view) = (view(&stack, "items").await, view(&stack, "items_new").await);
    fill(&stack, "items", "1, 300").await;
    fill(&stack, "items_new", "250, 600").await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    until_judged_equal(&stack, "business.items_new", &stack.other_topic("business", "items_new")).await;

    amid_writes(&stack, changes_of(&old_view), SWAP).await;
    amid_writes(&stack, changes_of(&new_view), "").await;
    items.until_judged_equal(&stack).await;
    until_judged_equal(&stack, "business.items_old", &stack.other_topic("business", "items_old")).await;
    // What was captured as items_new goes into the topic of items from now on.
    until_stopped(&stack, "business.items_new", &["business.items"]).await;

    stack.process(CDC_INGEST).kill();
    fill(&stack, "items", "8001, 8005").await;
    fill(&stack, "items_old", "8001, 8005").await;
    stack.process(CDC_INGEST).restart();
    items.until_judged_equal(&stack).await;
    until_judged_equal(&stack, "business.items_old", &stack.other_topic("business", "items_old")).await;
    items.history(&stack).assert_nothing_twice();
}

//! A table that is altered in the middle of its copy, while rows are written.

use serde_json::Value;

use crate::captured_table::CapturedTable;
use crate::capturing::copy_slowly;
use crate::database::run;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{until_goes_on, until_table};
use crate::writer::{Dice, Writer};

/// A copy that has begun and has a long way to go.
async fn amid_copy() -> (Stack, CapturedTable, Writer) {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int, number int, code text").await;
    let rows = "INSERT INTO business.items SELECT n, 0, n, 'c' || n FROM generate_series(1, 12000) n;
                ALTER TABLE business.items ALTER code SET NOT NULL";
    run(&mut stack.source().await, rows).await;
    copy_slowly(&mut stack, 50, 20);
    let writer = Writer::start(&stack, writes).await;
    stack.start(CDC_INGEST);
    (stack, items, writer)
}

fn writes(dice: &mut Dice) -> String {
    let id = dice.below(13_000);
    match dice.below(5) {
        0 => format!("DELETE FROM business.items WHERE id = {id}"),
        1 => format!("INSERT INTO business.items VALUES ({id}, 0, '7', 'c{id}') ON CONFLICT DO NOTHING"),
        2 => format!("UPDATE business.items SET number = '{id}' WHERE id = {id}"),
        3 => format!(
            "UPDATE business.items SET id = -id, code = code || '-' WHERE id = {id} AND NOT EXISTS (SELECT FROM business.items WHERE id = -{id})"
        ),
        _ => format!("UPDATE business.items SET mark = mark + 1 WHERE id BETWEEN {id} AND {id} + 4"),
    }
}

/// Waits until so many rows are copied; the copy must not be done by then.
async fn until_copied(stack: &Stack, rows: u64) {
    let has_come = |shown: &Value| shown["rows"].as_u64().is_some_and(|found| found >= rows);
    let shown = until_table(stack, "business.items", "is being copied", has_come).await;
    assert_eq!(shown["done"], false, "the copy was done before: it proves nothing");
}

async fn ends_as_the_table(stack: &Stack, items: &CapturedTable, writer: Writer) {
    writer.further(40).await;
    writer.stop().await;
    until_goes_on(stack, "business.items").await;
    items.until_judged_equal(stack).await;
    items.history(stack).assert_nothing_twice();
}

#[tokio::test]
async fn a_column_that_comes_and_a_type_that_changes_in_the_middle_of_a_copy_are_in_the_topic() {
    let (stack, items, writer) = amid_copy().await;
    let mut source = stack.source().await;
    until_copied(&stack, 500).await;
    run(&mut source, "ALTER TABLE business.items ADD COLUMN later text").await;
    until_copied(&stack, 1_000).await;
    run(&mut source, "ALTER TABLE business.items ALTER COLUMN number TYPE numeric(12, 2)").await;
    until_copied(&stack, 1_500).await;
    run(
        &mut source,
        "ALTER TABLE business.items DROP COLUMN number; ALTER TABLE business.items ADD COLUMN number text",
    )
    .await;
    // The rows that were copied before have the number of the column that is gone.
    run(&mut source, "UPDATE business.items SET number = 'n' || id").await;
    ends_as_the_table(&stack, &items, writer).await;
}

#[tokio::test]
async fn a_new_key_in_the_middle_of_a_copy_begins_it_anew() {
    let (stack, items, writer) = amid_copy().await;
    until_copied(&stack, 500).await;
    let key = "ALTER TABLE business.items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (code, id)";
    run(&mut stack.source().await, key).await;
    ends_as_the_table(&stack, &items, writer).await;
    let history = items.history(&stack);
    assert!(history.rows().keys().all(|key| key.contains("code")), "no row is under an old key");
}

#[tokio::test]
async fn a_table_with_another_name_in_the_middle_of_its_copy_is_copied_to_the_end() {
    let (stack, items, writer) = amid_copy().await;
    until_copied(&stack, 500).await;
    let rename =
        "ALTER TABLE business.items RENAME TO goods; CREATE VIEW business.items AS SELECT * FROM business.goods";
    run(&mut stack.source().await, rename).await;
    writer.further(40).await;
    writer.stop().await;
    until_goes_on(&stack, "business.items").await;
    crate::captured_table::until_judged_equal(&stack, "business.goods", &items.topic).await;
    let history = items.history(&stack);
    history.assert_nothing_twice();
    assert_eq!(history.repeated_copies(), 0, "it was not begun anew");
}

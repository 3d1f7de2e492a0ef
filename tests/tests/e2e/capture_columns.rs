//! Columns of a captured table that come, go, and get other names and types while rows are written.

use crate::captured_table::CapturedTable;
use crate::database::run;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{command, take_commands};
use crate::until::until;
use crate::writer::{Dice, amid_writes, changes_of};

/// A table with a few rows, and its copy done.
async fn captured(columns: &str) -> (Stack, CapturedTable) {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", &format!("mark int, {columns}")).await;
    let rows = "INSERT INTO business.items (id, mark) SELECT n, 0 FROM generate_series(1, 300) n";
    run(&mut stack.source().await, rows).await;
    take_commands(&mut stack);
    stack.start(CDC_INGEST);
    stack.ready().await;
    (stack, items)
}

#[tokio::test]
async fn a_column_that_is_added_or_dropped_while_rows_are_written_is_so_in_the_topic() {
    let (stack, items) = captured("note text DEFAULT '旧'").await;
    let alter = "ALTER TABLE business.items ADD COLUMN price numeric(10,2); UPDATE business.items SET price = id * 1.10 WHERE id > 100";
    amid_writes(&stack, changes_of("business.items"), alter).await;
    items.until_judged_equal(&stack).await;
    amid_writes(&stack, changes_of("business.items"), "ALTER TABLE business.items DROP COLUMN note").await;
    run(&mut stack.source().await, "INSERT INTO business.items (id, mark) VALUES (9001, 1)").await;
    items.until_judged_equal(&stack).await;
    let row = items.history(&stack).rows()[r#"{"id":9001}"#].to_owned();
    assert!(!row.contains("note") && row.contains("price"), "{row}");
    // Under the name of a column that is gone comes another one.
    let alter = "ALTER TABLE business.items ADD COLUMN note int; UPDATE business.items SET note = mark";
    amid_writes(&stack, changes_of("business.items"), alter).await;
    items.until_judged_equal(&stack).await;
    items.history(&stack).assert_nothing_twice();
}

#[tokio::test]
async fn a_column_with_another_name_has_it_in_the_next_change_and_everywhere_after_a_snapshot() {
    let (stack, items) = captured("note text DEFAULT '旧'").await;
    let rename =
        "ALTER TABLE business.items RENAME COLUMN note TO remark; UPDATE business.items SET remark = '新' WHERE id = 7;
                  INSERT INTO business.items (id, mark, remark) VALUES (9002, 1, '新') ON CONFLICT DO NOTHING";
    amid_writes(&stack, changes_of("business.items"), rename).await;
    until("the new name is in a row", async || {
        let row = items.history(&stack).rows().get(r#"{"id":9002}"#).map(|row| (*row).to_owned()).unwrap_or_default();
        if row.contains(r#""remark":"新""#) && !row.contains("note") { Ok(()) } else { Err(row) }
    })
    .await;
    // PostgreSQL changes no row when it renames a column: the others are read again on command.
    command(&stack, "snapshot", "business.items").await;
    items.until_judged_equal(&stack).await;
    let default = "ALTER TABLE business.items ADD COLUMN grade int NOT NULL DEFAULT 7";
    amid_writes(&stack, changes_of("business.items"), default).await;
    command(&stack, "snapshot", "business.items").await;
    items.until_judged_equal(&stack).await;
    items.history(&stack).assert_nothing_twice();
}

/// Changes that write a literal, which has the type of its column, whatever that is.
fn numbers(dice: &mut Dice) -> String {
    let (id, number) = (dice.below(400), dice.below(1_000_000));
    match dice.below(4) {
        0 => format!("DELETE FROM business.items WHERE id = {id}"),
        1 => format!("INSERT INTO business.items VALUES ({id}, 0, '{number}') ON CONFLICT DO NOTHING"),
        _ => format!("UPDATE business.items SET number = '{number}' WHERE id = {id}"),
    }
}

#[tokio::test]
async fn a_column_of_another_type_brings_values_of_that_type() {
    let (stack, items) = captured("number int DEFAULT 5").await;
    let types = [("bigint", "9223372036854775807"), ("numeric", "12345678901234567890.1230"), ("text", "一 \\\" 二")];
    for (id, (sql_type, value)) in (9_001..).zip(types) {
        let alter = format!("ALTER TABLE business.items ALTER COLUMN number TYPE {sql_type}");
        amid_writes(&stack, numbers, &alter).await;
        run(&mut stack.source().await, &format!("INSERT INTO business.items VALUES ({id}, 0, '{value}')")).await;
        items.until_judged_equal(&stack).await;
    }
    items.history(&stack).assert_nothing_twice();
}

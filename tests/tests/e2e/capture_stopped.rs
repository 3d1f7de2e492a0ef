//! A row that cannot be carried stops its table, and no other one.

use crate::captured_table::CapturedTable;
use crate::database::run;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{command, orders_go_on, take_commands, until_goes_on, until_stopped};
use crate::writer::{Dice, amid_writes};

const RECORD_BYTES_MAX: usize = 40_000;

/// More than a record may have.
const LARGE: &str = "repeat('大', 30000)";

async fn captured() -> (Stack, CapturedTable) {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int, note text").await;
    stack.set(CDC_INGEST, "KAFKA__TOPICS__RECORD_BYTES_MAX", RECORD_BYTES_MAX);
    take_commands(&mut stack);
    run(&mut stack.source().await, "INSERT INTO business.items SELECT n, 0 FROM generate_series(1, 300) n").await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    items.until_judged_equal(&stack).await;
    (stack, items)
}

/// What the stopped table says.
fn words() -> [String; 3] {
    ["{\"id\":17}".into(), format!("record_bytes_max is {RECORD_BYTES_MAX}"), "raise it".into()]
}

async fn until_stopped_by_the_row(stack: &Stack) {
    until_stopped(stack, "business.items", &words().each_ref().map(String::as_str)).await;
    orders_go_on(stack).await;
}

/// Writes to other rows than number 17.
fn others(dice: &mut Dice) -> String {
    let id = 1_000 + dice.below(400);
    match dice.below(3) {
        0 => format!("DELETE FROM business.items WHERE id = {id}"),
        1 => format!("INSERT INTO business.items VALUES ({id}, 0) ON CONFLICT DO NOTHING"),
        _ => format!(
            "UPDATE business.items SET mark = mark + 1 WHERE id BETWEEN {id} - 1000 AND {id} - 996 AND id <> 17"
        ),
    }
}

async fn write_large_row(stack: &Stack) {
    let large = format!("UPDATE business.items SET note = {LARGE} WHERE id = 17");
    amid_writes(stack, others, &large).await;
    until_stopped_by_the_row(stack).await;
}

const SMALLER: &str = "UPDATE business.items SET note = '小' WHERE id = 17";

#[tokio::test]
async fn a_row_that_is_too_large_stops_its_table_until_it_is_smaller_and_a_snapshot_is_commanded() {
    let (stack, items) = captured().await;
    write_large_row(&stack).await;
    // While it is as large, a snapshot comes to the same end.
    command(&stack, "snapshot", "business.items").await;
    until_stopped_by_the_row(&stack).await;
    amid_writes(&stack, others, SMALLER).await;
    command(&stack, "snapshot", "business.items").await;
    amid_writes(&stack, others, "").await;
    items.until_judged_equal(&stack).await;
    until_goes_on(&stack, "business.items").await;
    items.history(&stack).assert_nothing_twice();
}

#[tokio::test]
async fn a_table_that_a_row_stopped_is_read_again_after_a_restart() {
    let (mut stack, items) = captured().await;
    write_large_row(&stack).await;
    stack.process(CDC_INGEST).kill();
    stack.process(CDC_INGEST).restart();
    stack.ready().await;
    until_stopped_by_the_row(&stack).await;
    stack.process(CDC_INGEST).kill();
    amid_writes(&stack, others, SMALLER).await;
    stack.process(CDC_INGEST).restart();
    items.until_judged_equal(&stack).await;
    until_goes_on(&stack, "business.items").await;
    items.history(&stack).assert_nothing_twice();
}

#[tokio::test]
async fn a_row_that_is_too_large_for_the_first_copy_stops_its_table_only() {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int, note text").await;
    stack.set(CDC_INGEST, "KAFKA__TOPICS__RECORD_BYTES_MAX", RECORD_BYTES_MAX);
    let rows = format!(
        "INSERT INTO business.items SELECT n, 0, CASE n WHEN 17 THEN {LARGE} END FROM generate_series(1, 300) n"
    );
    run(&mut stack.source().await, &rows).await;
    stack.start(CDC_INGEST);
    until_stopped_by_the_row(&stack).await;
    stack.ready().await;
    stack.process(CDC_INGEST).kill();
    run(&mut stack.source().await, "DELETE FROM business.items WHERE id = 17").await;
    stack.process(CDC_INGEST).restart();
    items.until_judged_equal(&stack).await;
}

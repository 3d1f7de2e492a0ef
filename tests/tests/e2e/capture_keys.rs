//! A table gets another key while rows are written: the topic has the rows under the new keys, and tombstones for the old ones.

use serde_json::{Map, Value};

use crate::captured_table::CapturedTable;
use crate::database::run;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{orders_go_on, until_goes_on, until_stopped};
use crate::until::until;
use crate::writer::{Dice, amid_writes};

/// `id` and `code` are unique each.
async fn captured() -> (Stack, CapturedTable) {
    let mut stack = Stack::new().await;
    let columns = "mark int, code text NOT NULL UNIQUE, part int NOT NULL DEFAULT 1, note text";
    let items = CapturedTable::make(&mut stack, "items", columns).await;
    let rows = "CREATE UNIQUE INDEX items_id ON business.items (id);
                INSERT INTO business.items SELECT n, 0, 'c' || n FROM generate_series(1, 300) n";
    run(&mut stack.source().await, rows).await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    items.until_judged_equal(&stack).await;
    (stack, items)
}

fn writes(dice: &mut Dice) -> String {
    let id = dice.below(400);
    match dice.below(6) {
        0 => format!("DELETE FROM business.items WHERE id = {id}"),
        1 => format!("INSERT INTO business.items VALUES ({id}, 0, 'c{id}') ON CONFLICT DO NOTHING"),
        2 => format!("UPDATE business.items SET code = code || '!' WHERE id = {id} AND length(code) < 20"),
        3 => format!(
            "UPDATE business.items SET id = -id, part = part + 1 WHERE id = {id} AND NOT EXISTS (SELECT FROM business.items WHERE id = -{id})"
        ),
        _ => format!("UPDATE business.items SET mark = mark + 1 WHERE id BETWEEN {id} AND {id} + 4"),
    }
}

/// Waits until all live keys of the topic have these columns, and the topic is the table.
async fn until_keys_have(stack: &Stack, items: &CapturedTable, columns: &[&str]) {
    until(&format!("the keys have {columns:?}"), async || {
        let history = items.history(stack);
        let has = |key: &&str| serde_json::from_str::<Map<String, Value>>(key).unwrap().keys().eq(columns);
        match history.rows().keys().find(|key| !has(key)) {
            None => Ok(()),
            Some(key) => Err((*key).to_owned()),
        }
    })
    .await;
    items.until_judged_equal(stack).await;
    items.history(stack).assert_nothing_twice();
}

#[tokio::test]
async fn a_new_primary_key_is_that_of_the_topic() {
    let (mut stack, items) = captured().await;
    let by_code = "ALTER TABLE business.items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (code)";
    amid_writes(&stack, writes, by_code).await;
    until_keys_have(&stack, &items, &["code"]).await;
    // A column more, with nobody writing.
    run(
        &mut stack.source().await,
        "ALTER TABLE business.items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (code, part)",
    )
    .await;
    until_keys_have(&stack, &items, &["code", "part"]).await;
    stack.process(CDC_INGEST).kill();
    let by_id = "ALTER TABLE business.items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (id)";
    amid_writes(&stack, writes, by_id).await;
    stack.process(CDC_INGEST).restart();
    until_keys_have(&stack, &items, &["id"]).await;
    orders_go_on(&stack).await;
}

#[tokio::test]
async fn a_key_of_another_type_leaves_no_row_under_the_old_keys() {
    let (mut stack, items) = captured().await;
    let to_text = "ALTER TABLE business.items ALTER COLUMN id TYPE text";
    let by_text = |dice: &mut Dice| {
        let id = dice.below(400);
        format!("UPDATE business.items SET mark = mark + 1 WHERE id::text IN ('{id}', '{}')", id + 1)
    };
    amid_writes(&stack, by_text, to_text).await;
    items.until_judged_equal(&stack).await;
    stack.process(CDC_INGEST).kill();
    amid_writes(&stack, by_text, "ALTER TABLE business.items ALTER COLUMN id TYPE bigint USING id::bigint").await;
    stack.process(CDC_INGEST).restart();
    items.until_judged_equal(&stack).await;
    assert!(items.history(&stack).rows().keys().all(|key| !key.contains(":\"")), "numbers again");
}

#[tokio::test]
async fn a_table_that_loses_its_primary_key_stops_until_it_has_one_again() {
    let (mut stack, items) = captured().await;
    run(&mut stack.source().await, "ALTER TABLE business.items DROP CONSTRAINT items_pkey").await;
    let inserts = |dice: &mut Dice| {
        let id = 1_000_000 + dice.below(1_000_000);
        format!("INSERT INTO business.items VALUES ({id}, 0, 'd{id}') ON CONFLICT DO NOTHING")
    };
    amid_writes(&stack, inserts, "").await;
    until_stopped(&stack, "business.items", &["business.items has no primary key", "ADD PRIMARY KEY"]).await;
    orders_go_on(&stack).await;
    stack.process(CDC_INGEST).kill();
    stack.process(CDC_INGEST).restart();
    stack.ready().await;
    orders_go_on(&stack).await;
    until_stopped(&stack, "business.items", &["business.items has no primary key"]).await;
    amid_writes(&stack, inserts, "ALTER TABLE business.items ADD PRIMARY KEY (id)").await;
    until_keys_have(&stack, &items, &["id"]).await;
    until_goes_on(&stack, "business.items").await;
}

#[tokio::test]
async fn the_replica_identity_decides_the_key() {
    let (stack, items) = captured().await;
    let alter = |identity: &str| format!("ALTER TABLE business.items REPLICA IDENTITY {identity}");
    amid_writes(&stack, writes, &alter("USING INDEX items_code_key")).await;
    until_keys_have(&stack, &items, &["code"]).await;
    amid_writes(&stack, writes, &alter("FULL")).await;
    until_keys_have(&stack, &items, &["id"]).await;
    amid_writes(&stack, writes, &alter("DEFAULT")).await;
    until_keys_have(&stack, &items, &["id"]).await;
}

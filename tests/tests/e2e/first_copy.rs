//! The first copy of a table, while others write to it and the service is killed.

use std::cell::Cell;

use lab::page;
use serde_json::Value;
use sqlx::postgres::PgConnection;

use crate::captured_table::CapturedTable;
use crate::capturing::copy_slowly;
use crate::database::run;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;

const ROWS: i64 = 20_000;
const CHUNK_ROWS: i64 = 500;

/// The copy is killed when it has come this far: behind each there are more rows than a copy that goes on may repeat.
const KILLS: [i64; 2] = [4_000, 10_000];

/// What a kill costs, in chunks: two may be on their way to the topic, and the record of a third.
const CHUNKS_A_KILL: usize = 3;

/// How far the copy has come, for the writers: every other change falls on the rows that are being read just then.
#[derive(Default)]
struct Progress {
    front: Cell<i64>,
    stop: Cell<bool>,
}

/// Changes, deletes, inserts and moves rows all over the table until it is told to stop. Numbers of a fixed sequence, so that a
/// failing run can be made again.
async fn write(source: &mut PgConnection, seed: u64, progress: &Progress) -> u64 {
    let mut state = seed;
    let mut transactions = 0;
    while !progress.stop.get() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut id = i64::try_from(state >> 33).unwrap() % ROWS;
        if transactions % 2 == 0 {
            id = progress.front.get() + id % (2 * CHUNK_ROWS);
        }
        let sql = match (state >> 20) % 6 {
            0 => format!("DELETE FROM business.items WHERE id BETWEEN {id} AND {id} + 2"),
            1 => format!(
                "INSERT INTO business.items SELECT n, 0, '新', 0.50 FROM generate_series({id}, {id} + 2) n ON CONFLICT DO NOTHING"
            ),
            2 => format!(
                "INSERT INTO business.items VALUES ({ROWS} + {id}, 0, '后', 1.00) ON CONFLICT (id) DO UPDATE SET v = business.items.v + 1"
            ),
            3 => format!(
                "UPDATE business.items SET id = -id WHERE id = {id} AND NOT EXISTS (SELECT FROM business.items WHERE id = -{id})"
            ),
            _ => format!(
                "UPDATE business.items SET v = v + 1, amount = amount + 0.01 WHERE id BETWEEN {id} AND {id} + 4"
            ),
        };
        run(source, &sql).await;
        transactions += 1;
    }
    transactions
}

/// Rows that the copy has come to, by cdc-ingest's page, and whether it is done.
async fn copied(stack: &Stack) -> Result<(i64, bool), String> {
    let page = page::get(&stack.url(CDC_INGEST), "/api/v1/state").await.map_err(|failure| failure.chain())?;
    let state: Value = serde_json::from_str(&page.body).unwrap();
    let copy = &state["details"]["snapshot"]["business.items"];
    copy["rows"].as_i64().zip(copy["done"].as_bool()).ok_or(page.body)
}

/// Rows that it has durably come to, and whether it is done, by its record. A record may come to the topic after its rows: the first one,
/// too, so that there may be none yet.
fn recorded(stack: &Stack) -> (i64, bool) {
    let (layers, topic) = (stack.layers(), format!("{}_cdc_state", stack.name));
    let records = layers.read(&topic, &layers.begin(&topic).unwrap(), |key| key.contains("business.items")).unwrap();
    let Some(last) = records.last().and_then(|record| record.value.as_deref()) else { return (0, false) };
    let state: Value = serde_json::from_str(last).unwrap();
    (state["rows"].as_i64().unwrap(), state["done"].as_bool().unwrap())
}

async fn copy_and_kill(stack: &mut Stack, progress: &Progress) {
    stack.start(CDC_INGEST);
    for wanted in KILLS {
        until(&format!("{wanted} rows are copied"), async || follow(stack, progress, wanted).await).await;
        stack.process(CDC_INGEST).kill();
        let (rows, done) = recorded(stack);
        eprintln!("killed at {rows} rows");
        assert!(!done, "the copy was done before the kill: it proves nothing");
        stack.process(CDC_INGEST).restart();
    }
    until("the copy is done", async || follow(stack, progress, ROWS).await).await;
    stack.ready().await;
}

async fn follow(stack: &Stack, progress: &Progress, wanted: i64) -> Result<(), String> {
    let (rows, done) = copied(stack).await?;
    progress.front.set(rows);
    if rows >= wanted || done { Ok(()) } else { Err(format!("{rows} rows")) }
}

#[tokio::test]
async fn a_table_that_is_written_to_while_it_is_copied_and_the_copy_killed_is_in_the_topic_value_by_value() {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "v int, note text, amount numeric(10,2)").await;
    copy_slowly(&mut stack, CHUNK_ROWS.unsigned_abs(), 100);
    let (mut one, mut other) = (stack.source().await, stack.source().await);
    run(
        &mut one,
        &format!("INSERT INTO business.items SELECT n, 0, '第' || n || E'件\\t\"\\\\' || repeat('货', 200), n / 100.0 FROM generate_series(1, {ROWS}) n"),
    )
    .await;

    let progress = Progress::default();
    let copy = async {
        copy_and_kill(&mut stack, &progress).await;
        progress.stop.set(true);
    };
    let ((), first, second) = tokio::join!(copy, write(&mut one, 1, &progress), write(&mut other, 2, &progress));
    eprintln!("{} transactions were committed during the copy", first + second);
    items.until_topic_is_the_table(&stack).await;

    let history = items.history(&stack);
    history.assert_nothing_twice();
    // A kill costs a few chunks, not the copy.
    let repeated = history.repeated_copies();
    eprintln!("{repeated} rows were copied more than once");
    let bound = KILLS.len() * CHUNKS_A_KILL * usize::try_from(CHUNK_ROWS).unwrap();
    assert!(repeated <= bound, "{repeated} rows were copied more than once: the copy began anew");
}

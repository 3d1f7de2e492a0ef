//! What transactions can be: emptying tables, taken back in part, prepared, large, empty.

use std::collections::BTreeMap;

use crate::capturing::copy_slowly;
use crate::database::{run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::history::header;
use crate::judged_table::JudgedTable;
use crate::service_page;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;
use shared::position::Version;
use sqlx::postgres::PgConnection;

/// A table `business.<name>` with id and v, captured.
async fn table(stack: &mut Stack, name: &str, further: &str) -> JudgedTable {
    let sql = format!("CREATE TABLE business.{name} (id int PRIMARY KEY, v text{further})");
    run(&mut stack.source().await, &sql).await;
    JudgedTable::capture(stack, name, &format!("business.{name}")).await
}

async fn until_topics_are_the_tables(stack: &Stack, tables: &[&JudgedTable]) {
    for table in tables {
        table.until_topic_is_the_table(stack).await;
        table.history(stack).assert_nothing_twice();
    }
}

#[tokio::test]
async fn truncated_tables_have_only_the_rows_that_came_afterwards() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let shops = table(&mut stack, "shops", "").await;
    let sales = table(&mut stack, "sales", ", shop int REFERENCES business.shops").await;
    let sale_notes = table(&mut stack, "sale_notes", ", sale int REFERENCES business.sales").await;
    let alone = table(&mut stack, "alone", "").await;
    let tables = [&shops, &sales, &sale_notes, &alone];
    let fill = "INSERT INTO business.shops SELECT n, 's' FROM generate_series(1, 30) n;
                INSERT INTO business.sales SELECT n, 's', n % 30 + 1 FROM generate_series(1, 90) n;
                INSERT INTO business.sale_notes SELECT n, 's', n % 90 + 1 FROM generate_series(1, 90) n;
                INSERT INTO business.alone SELECT n, 's' FROM generate_series(1, 30) n";
    run(&mut source, fill).await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    for changes in [
        "TRUNCATE business.alone, business.shops RESTART IDENTITY CASCADE",
        fill,
        "TRUNCATE business.sales CASCADE; INSERT INTO business.sales VALUES (1, 'again', 1)",
        "BEGIN; INSERT INTO business.sales VALUES (2, 'lost', 2); UPDATE business.alone SET v = 'lost';
         TRUNCATE business.shops, business.alone CASCADE; INSERT INTO business.shops VALUES (1, 'new'), (99, 'lost');
         INSERT INTO business.alone VALUES (1, 'new'), (99, 'lost'); TRUNCATE business.alone, business.shops CASCADE;
         INSERT INTO business.shops VALUES (1, 'newer'); INSERT INTO business.alone SELECT n, 'newer' FROM generate_series(20, 40) n;
         UPDATE business.alone SET v = 'newest' WHERE id = 25; DELETE FROM business.alone WHERE id = 26; COMMIT",
        "BEGIN; SAVEPOINT s; TRUNCATE business.alone; ROLLBACK TO s; UPDATE business.alone SET v = 'still' WHERE id = 25; COMMIT",
        "TRUNCATE business.alone; TRUNCATE business.alone",
    ] {
        run(&mut source, changes).await;
        until_topics_are_the_tables(&stack, &tables).await;
    }
}

#[tokio::test]
async fn a_table_that_is_truncated_while_it_is_copied_has_only_the_rows_that_came_afterwards() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let items = table(&mut stack, "items", "").await;
    let fill = "INSERT INTO business.items SELECT n, 'first' FROM generate_series(1, 3000) n";
    run(&mut source, fill).await;
    copy_slowly(&mut stack, 20, 20);
    stack.start(CDC_INGEST);
    until_copy_is_under_way(&stack, "business.items").await;
    run(&mut source, "TRUNCATE business.items").await;
    run(&mut source, &fill.replace("first", "second")).await;
    run(
        &mut source,
        "BEGIN; TRUNCATE business.items; INSERT INTO business.items SELECT n, 'third' FROM generate_series(2, 2000, 2) n; COMMIT",
    )
    .await;
    stack.ready().await;
    until_topics_are_the_tables(&stack, &[&items]).await;
}

#[tokio::test]
async fn what_a_savepoint_takes_back_never_was() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let items = table(&mut stack, "items", "").await;
    run(&mut source, "INSERT INTO business.items SELECT n, 'first' FROM generate_series(1, 9) n").await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    run(
        &mut source,
        "BEGIN; UPDATE business.items SET v = 'kept' WHERE id = 1;
         SAVEPOINT a; DELETE FROM business.items WHERE id = 2; SAVEPOINT b; UPDATE business.items SET v = 'lost' WHERE id = 1;
         INSERT INTO business.items VALUES (10, 'lost'); ROLLBACK TO b; INSERT INTO business.items VALUES (10, 'kept'); RELEASE a;
         SAVEPOINT c; UPDATE business.items SET id = 33 WHERE id = 3; ROLLBACK TO c; UPDATE business.items SET id = 34 WHERE id = 3; COMMIT;
         BEGIN; DELETE FROM business.items; ROLLBACK;
         DO $$ BEGIN FOR n IN 1..200 LOOP
             BEGIN INSERT INTO business.items VALUES (100 + n, 'lost'); UPDATE business.items SET v = 1 / (n % 2) WHERE id = 100 + n;
             EXCEPTION WHEN division_by_zero THEN UPDATE business.items SET v = n WHERE id = 4; END; END LOOP; END $$",
    )
    .await;
    until_topics_are_the_tables(&stack, &[&items]).await;
    let history = items.history(&stack);
    assert_eq!(history.of("{\"id\":10}").len(), 1);
    assert_eq!(history.of("{\"id\":4}").len(), 101);
    for key in ["{\"id\":33}", "{\"id\":102}"] {
        assert!(history.of(key).is_empty(), "{key} was taken back");
    }
}

/// Waits until the copy of a table has begun, and is not done.
async fn until_copy_is_under_way(stack: &Stack, table: &str) {
    until(&format!("the copy of {table} is under way"), async || {
        let url = stack.url(CDC_INGEST);
        let page = lab::page::get(&url, "/api/v1/state").await.map_err(|failure| failure.chain())?;
        let state: serde_json::Value = serde_json::from_str(&page.body).unwrap();
        let copy = &state["details"]["snapshot"][table];
        assert!(copy["done"] != true, "the copy was done before: it proves nothing");
        if copy["rows"].as_u64() > Some(0) { Ok(()) } else { Err(page.body) }
    })
    .await;
}

#[tokio::test]
async fn a_prepared_transaction_is_carried_when_it_is_committed() {
    let mut stack = Stack::new().await;
    let settings = [LOGICAL, "max_prepared_transactions=10"];
    let server = FurtherServer::start_as_source(&mut stack, &settings).await;
    let mut source = stack.source().await;
    let items = table(&mut stack, "items", "").await;
    run(&mut source, "INSERT INTO business.items SELECT n, 'first' FROM generate_series(1, 3000) n").await;
    copy_slowly(&mut stack, 20, 20);
    stack.start(CDC_INGEST);
    until_copy_is_under_way(&stack, "business.items").await;
    for (name, remainder) in [("soon", 1), ("late", 2), ("never", 3), ("restarted", 4)] {
        let sql = format!(
            "BEGIN; UPDATE business.items SET v = '{name}' WHERE id % 10 = {remainder}; DELETE FROM business.items WHERE id % 100 = {remainder};
             UPDATE business.items SET id = -id WHERE id % 100 = 10 + {remainder}; INSERT INTO business.items VALUES (5000 + {remainder}, '{name}');
             PREPARE TRANSACTION '{name}'"
        );
        run(&mut source, &sql).await;
    }
    let copy = service_page::state(&stack, CDC_INGEST).await["details"]["snapshot"]["business.items"].clone();
    assert!(copy["done"] == false, "the copy was done before the transactions were prepared: it proves nothing");
    run(&mut source, "COMMIT PREPARED 'soon'").await;
    run(&mut source, "UPDATE business.items SET v = 'other' WHERE id % 10 = 5").await;
    stack.ready().await;
    items.until_topic_is_the_table(&stack).await;
    run(&mut source, "COMMIT PREPARED 'late'").await;
    run(&mut source, "ROLLBACK PREPARED 'never'").await;
    items.until_topic_is_the_table(&stack).await;
    stack.process(CDC_INGEST).kill();
    stack.process(CDC_INGEST).restart();
    run(&mut source, "COMMIT PREPARED 'restarted'").await;
    stack.ready().await;
    until_topics_are_the_tables(&stack, &[&items]).await;
    drop(server);
}

/// Prepares a transaction with rows of its own, and commits the third but last.
async fn prepare_and_commit(source: &mut PgConnection, round: usize) {
    let sql = format!(
        "BEGIN; UPDATE business.items SET v = 'round {round}' WHERE abs(id) % 30 = {0}; UPDATE business.items SET id = -id WHERE abs(id) % 600 = {0};
         PREPARE TRANSACTION 'round {round}'",
        round % 30
    );
    run(source, &sql).await;
    if let Some(before) = round.checked_sub(3) {
        run(source, &format!("COMMIT PREPARED 'round {before}'")).await;
    }
}

#[tokio::test]
async fn prepared_transactions_that_are_committed_between_the_chunks_of_a_copy_are_not_missed() {
    let mut stack = Stack::new().await;
    let settings = [LOGICAL, "max_prepared_transactions=10"];
    let server = FurtherServer::start_as_source(&mut stack, &settings).await;
    let mut source = stack.source().await;
    let items = table(&mut stack, "items", "").await;
    run(&mut source, "INSERT INTO business.items SELECT n, 'first' FROM generate_series(1, 5000) n").await;
    copy_slowly(&mut stack, 20, 20);
    stack.start(CDC_INGEST);
    until_copy_is_under_way(&stack, "business.items").await;
    let mut round = 0;
    until("the copy is done", async || {
        prepare_and_commit(&mut source, round).await;
        round += 1;
        let copy = service_page::state(&stack, CDC_INGEST).await["details"]["snapshot"]["business.items"].clone();
        if copy["done"] == true { Ok(()) } else { Err(copy.to_string()) }
    })
    .await;
    for open in round.saturating_sub(3)..round {
        run(&mut source, &format!("COMMIT PREPARED 'round {open}'")).await;
    }
    until_topics_are_the_tables(&stack, &[&items]).await;
    drop(server);
}

#[tokio::test]
async fn the_changes_of_a_transaction_have_one_order_over_all_tables() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let mut tables = Vec::new();
    for name in ["first", "second", "third"] {
        tables.push(table(&mut stack, name, "").await);
    }
    stack.start(CDC_INGEST);
    stack.ready().await;
    // The value tells the change's place in the transaction.
    let mut statements = vec!["BEGIN".to_owned()];
    for step in 0..60 {
        let (name, id) = (["first", "second", "third"][(step * 7 + step / 5) % 3], step % 4);
        statements.push(format!(
            "INSERT INTO business.{name} VALUES ({id}, {step}) ON CONFLICT (id) DO UPDATE SET v = excluded.v"
        ));
    }
    statements.push("COMMIT".to_owned());
    run(&mut source, &statements.join("; ")).await;
    until_topics_are_the_tables(&stack, &tables.iter().collect::<Vec<_>>()).await;

    let mut steps: BTreeMap<Version, String> = BTreeMap::new();
    for table in &tables {
        for record in table.history(&stack).by_key.into_values().flatten() {
            let row: serde_json::Value = serde_json::from_str(record.value.as_deref().unwrap()).unwrap();
            steps.insert(header(&record).version, row["v"].as_str().unwrap().to_owned());
        }
    }
    let in_order: Vec<String> = (0..60).map(|step| step.to_string()).collect();
    assert_eq!(steps.values().cloned().collect::<Vec<_>>(), in_order);
    let commits = steps.keys().map(|version| version.lsn);
    assert!(commits.clone().all(|lsn| Some(lsn) == commits.clone().next()), "one commit has one position");
}

/// Waits until the slot is confirmed up to where the log ends now.
async fn until_all_is_confirmed(stack: &Stack, source: &mut PgConnection) {
    let end: String = value(source, "SELECT pg_current_wal_insert_lsn()::text").await;
    until(&format!("the slot is confirmed up to {end}"), async || {
        let sql =
            format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'", stack.name);
        let confirmed: String = value(source, &sql).await;
        let is_past = format!("SELECT '{confirmed}'::pg_lsn >= '{end}'::pg_lsn");
        if value::<bool>(source, &is_past).await { Ok(()) } else { Err(confirmed) }
    })
    .await;
}

#[tokio::test]
async fn transactions_that_change_no_captured_table_are_passed() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let items = table(&mut stack, "items", "").await;
    run(
        &mut source,
        "CREATE TABLE business.unseen (id int PRIMARY KEY, v text); INSERT INTO business.items VALUES (1, 'a')",
    )
    .await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    for _ in 0..50 {
        run(&mut source, "BEGIN; SELECT pg_current_xact_id(); COMMIT").await;
        run(&mut source, "INSERT INTO business.unseen SELECT coalesce(max(id), 0) + 1, 'x' FROM business.unseen").await;
        run(&mut source, "SELECT pg_logical_emit_message(true, 'stranger', 'a message'), pg_logical_emit_message(false, 'stranger', 'another')")
            .await;
        run(&mut source, "BEGIN; CREATE TEMPORARY TABLE t (id int); INSERT INTO t VALUES (1); DROP TABLE t; COMMIT")
            .await;
        run(&mut source, "BEGIN; UPDATE business.items SET v = 'lost'; ROLLBACK").await;
    }
    until_all_is_confirmed(&stack, &mut source).await;
    run(&mut source, "BEGIN; UPDATE business.unseen SET v = 'y'; UPDATE business.items SET v = 'b'; TRUNCATE business.unseen; COMMIT").await;
    until_topics_are_the_tables(&stack, &[&items]).await;
    assert_eq!(items.history(&stack).of("{\"id\":1}").len(), 2);
}

const LARGE_ROWS: usize = 200_000;

#[tokio::test]
async fn a_large_transaction_is_carried_whole_with_the_small_ones_that_were_committed_meanwhile() {
    let mut stack = Stack::new().await;
    let (mut source, mut other) = (stack.source().await, stack.source().await);
    let (large, small) = (table(&mut stack, "large", "").await, table(&mut stack, "small", "").await);
    run(&mut source, "INSERT INTO business.large VALUES (0, '0')").await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    run(&mut other, "BEGIN; UPDATE business.large SET v = 'begun' WHERE id = 0").await;
    for step in 1..=20 {
        let rows = LARGE_ROWS / 20;
        let sql = format!(
            "INSERT INTO business.large SELECT n, 'r' || n FROM generate_series({rows} * ({step} - 1) + 1, {rows} * {step}) n"
        );
        run(&mut other, &sql).await;
        run(
            &mut source,
            &format!(
                "INSERT INTO business.small VALUES ({step}, 's'); INSERT INTO business.large VALUES (-{step}, 's')"
            ),
        )
        .await;
    }
    // Those that were committed are there before the large one ends.
    small.until_topic_is_the_table(&stack).await;
    large.until_topic_is_the_table(&stack).await;
    run(&mut other, "DELETE FROM business.large WHERE id % 1000 = 0; COMMIT").await;
    run(&mut source, "UPDATE business.large SET v = 'after' WHERE id % 10000 = 1").await;
    until_all_is_confirmed(&stack, &mut source).await;
    until_topics_are_the_tables(&stack, &[&large, &small]).await;
}

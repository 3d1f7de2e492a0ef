//! Tables that are more than rows of plain columns: generated columns, partitions, children, any names, a part of what is there.

use crate::database::{run, value};
use crate::history::History;
use crate::judged_table::{JudgedTable, publish};
use crate::service_page;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;
use shared::pg::TableName;
use sqlx::postgres::PgConnection;

async fn server_version(source: &mut PgConnection) -> i32 {
    value(source, "SELECT current_setting('server_version_num')::int").await
}

/// Waits until tables of the publication that the settings do not name are found and copied.
async fn until_copied(stack: &Stack, tables: &[&JudgedTable]) {
    until("all tables are copied", async || {
        let state = service_page::state(stack, CDC_INGEST).await;
        let copies = &state["details"]["snapshot"];
        let is_done = |table: &&JudgedTable| copies[table.table.to_string()]["done"] == true;
        if tables.iter().all(is_done) { Ok(()) } else { Err(state["details"].to_string()) }
    })
    .await;
}

/// The values of a key's records, oldest first.
fn values<'h>(history: &'h History, key: &str) -> Vec<Option<&'h str>> {
    history.of(key).iter().map(|record| record.value.as_deref()).collect()
}

#[tokio::test]
async fn generated_columns_are_carried_where_the_publication_has_them() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let is_18 = server_version(&mut source).await >= 180_000;
    let virtual_column = if is_18 { "twice int GENERATED ALWAYS AS (a * 2) VIRTUAL," } else { "" };
    let sql = format!(
        "CREATE TABLE business.squares (id int PRIMARY KEY, a int, {virtual_column} square int GENERATED ALWAYS AS (a * a) STORED, b text);
         INSERT INTO business.squares (id, a, b) VALUES (1, 3, 'x')"
    );
    run(&mut source, &sql).await;
    let table = JudgedTable::capture(&mut stack, "squares", "business.squares").await;
    if is_18 {
        run(&mut source, "ALTER PUBLICATION tidemill SET (publish_generated_columns = stored)").await;
    }
    stack.start(CDC_INGEST);
    stack.ready().await;
    run(
        &mut source,
        "INSERT INTO business.squares (id, a, b) VALUES (2, 4, 'y'); UPDATE business.squares SET a = 5 WHERE id = 1",
    )
    .await;
    table.until_topic_is_the_table(&stack).await;
    let history = table.history(&stack);
    let row = |id: i32, a: i32, b: &str| {
        let square = if is_18 { format!("\"square\":{},", a * a) } else { String::new() };
        format!("{{\"id\":{id},\"a\":{a},{square}\"b\":\"{b}\"}}")
    };
    assert_eq!(values(&history, "{\"id\":1}"), [Some(&*row(1, 3, "x")), Some(&*row(1, 5, "x"))]);
    assert_eq!(values(&history, "{\"id\":2}"), [Some(&*row(2, 4, "y"))]);
}

/// A partitioned table whose partitions have their columns in orders of their own.
const EVENTS: &str = "
    CREATE TABLE business.events (id int, gone int, place int, v numeric, note text, PRIMARY KEY (id, place)) PARTITION BY RANGE (place);
    ALTER TABLE business.events DROP COLUMN gone;
    CREATE TABLE business.events_1 PARTITION OF business.events FOR VALUES FROM (0) TO (10);
    CREATE TABLE business.events_2 (note text, place int NOT NULL, v numeric, id int NOT NULL, PRIMARY KEY (id, place));
    ALTER TABLE business.events ATTACH PARTITION business.events_2 FOR VALUES FROM (10) TO (20);
    CREATE TABLE business.events_3 PARTITION OF business.events DEFAULT PARTITION BY LIST (place);
    CREATE TABLE business.events_3_a PARTITION OF business.events_3 DEFAULT;
    INSERT INTO business.events SELECT n, n % 30, n, 'n' || n FROM generate_series(1, 60) n";

/// Rows that stay in their partition, rows that move to another, and rows that come back.
const EVENT_CHANGES: &str = "
    INSERT INTO business.events VALUES (61, 5, 0.50, 'a'), (62, 15, NULL, 'b'), (63, 25, 1, 'c');
    UPDATE business.events SET v = v + 0.50 WHERE id % 4 = 0;
    UPDATE business.events SET place = place + 10 WHERE id % 4 = 1;
    UPDATE business.events SET id = id + 1000 WHERE id % 4 = 2;
    DELETE FROM business.events WHERE id % 4 = 3;
    BEGIN; UPDATE business.events SET place = 1 WHERE id = 62 AND place = 15;
    UPDATE business.events SET place = 15 WHERE id = 62; COMMIT;
    DELETE FROM business.events_2 WHERE id % 8 = 0";

#[tokio::test]
async fn a_partitioned_table_is_one_table_where_the_publication_names_its_root() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    run(&mut source, EVENTS).await;
    run(&mut source, "ALTER PUBLICATION tidemill SET (publish_via_partition_root = true)").await;
    let events = JudgedTable::capture(&mut stack, "events", "business.events").await;
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 7);
    stack.start(CDC_INGEST);
    stack.ready().await;
    run(&mut source, EVENT_CHANGES).await;
    events.until_topic_is_the_table(&stack).await;

    let further = "CREATE TABLE business.events_4 PARTITION OF business.events FOR VALUES FROM (100) TO (200);
                   INSERT INTO business.events VALUES (64, 101, 1, 'd'); UPDATE business.events SET place = 5 WHERE id = 63";
    run(&mut source, further).await;
    events.until_topic_is_the_table(&stack).await;
    run(&mut source, "BEGIN; TRUNCATE business.events; INSERT INTO business.events VALUES (61, 5, 9, 'e'); COMMIT")
        .await;
    events.until_topic_is_the_table(&stack).await;
    events.history(&stack).assert_nothing_twice();
}

#[tokio::test]
async fn the_partitions_of_a_table_are_tables_where_the_publication_names_no_root() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    run(&mut source, EVENTS).await;
    run(&mut source, "GRANT SELECT ON ALL TABLES IN SCHEMA business TO tidemill_capture").await;
    publish(&stack, "business.events").await;
    let first = JudgedTable::name(&mut stack, "first_events", "business.events_1");
    let leaves = ["events_2", "events_3_a"];
    let leaves =
        leaves.map(|leaf| JudgedTable::other(&stack, &format!("business.{leaf}"), &format!("business_{leaf}")));
    stack.start(CDC_INGEST);
    stack.ready().await;
    let tables = [&first, &leaves[0], &leaves[1]];
    until_copied(&stack, &tables).await;
    run(&mut source, EVENT_CHANGES).await;
    for table in tables {
        table.until_topic_is_the_table(&stack).await;
    }
    run(&mut source, "TRUNCATE business.events_1").await;
    first.until_topic_is_the_table(&stack).await;
    run(&mut source, "TRUNCATE business.events").await;
    for table in tables {
        table.until_topic_is_the_table(&stack).await;
        table.history(&stack).assert_nothing_twice();
    }
}

#[tokio::test]
async fn rows_of_inheriting_tables_are_in_their_own_topics_only() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let sql = "CREATE TABLE business.assets (id int PRIMARY KEY, v text);
               CREATE TABLE business.cars (seats int, PRIMARY KEY (id)) INHERITS (business.assets);
               CREATE TABLE business.boats (PRIMARY KEY (id)) INHERITS (business.assets);
               GRANT SELECT ON business.cars, business.boats TO tidemill_capture;
               INSERT INTO business.assets VALUES (1, 'a'), (2, 'b'), (3, 'c');
               INSERT INTO business.cars VALUES (1, 'car', 5), (7, 'car', 2); INSERT INTO business.boats VALUES (2, 'boat'), (8, 'boat')";
    run(&mut source, sql).await;
    // With its children, as PostgreSQL does it.
    let assets = JudgedTable::capture(&mut stack, "assets", "business.assets").await;
    let cars = JudgedTable::name(&mut stack, "cars", "business.cars");
    run(&mut source, "ALTER PUBLICATION tidemill DROP TABLE ONLY business.boats").await;
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 1);
    stack.start(CDC_INGEST);
    stack.ready().await;
    let tables = [&assets, &cars];
    for changes in [
        "SELECT",
        "UPDATE business.assets SET v = v || '!'; DELETE FROM business.assets WHERE id = 2; INSERT INTO business.cars VALUES (2, 'car', 4)",
        "UPDATE business.assets SET id = id + 10",
        "TRUNCATE ONLY business.assets",
        "INSERT INTO business.assets VALUES (1, 'x'); INSERT INTO business.cars VALUES (1, 'y', 1)",
        "TRUNCATE business.assets",
    ] {
        run(&mut source, changes).await;
        for table in tables {
            table.until_topic_is_the_table(&stack).await;
        }
    }
    assert!(assets.history(&stack).of("{\"id\":8}").is_empty(), "a child's row is in the parent's topic");
    tables.iter().for_each(|table| table.history(&stack).assert_nothing_twice());
}

#[tokio::test]
async fn names_are_carried_as_they_are() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let table = r#""Shop.市"."Order ""Items"" 订单""#;
    let sql = format!(
        r#"CREATE SCHEMA "Shop.市"; CREATE TABLE {table} ("Id" int, "select" text, "名称" text, "a.b" int, "it's" jsonb, "say ""hi""\n" int,
           " " text, PRIMARY KEY ("select", "Id"));
           ALTER TABLE {table} ALTER "名称" SET STORAGE EXTERNAL;
           INSERT INTO {table} SELECT n, 's' || n % 3, repeat('名', 3000), n, 'null', n, ' ' FROM generate_series(1, 9) n"#
    );
    run(&mut source, &sql).await;
    let items = JudgedTable::capture(&mut stack, "items", table).await;
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 2);
    stack.start(CDC_INGEST);
    stack.ready().await;
    let changes = format!(
        r#"UPDATE {table} SET "a.b" = 0 WHERE "Id" = 1; UPDATE {table} SET "select" = 'from' WHERE "Id" = 2;
           DELETE FROM {table} WHERE "Id" = 3; INSERT INTO {table} VALUES (10, 's''\"', NULL, 1, NULL, 2, '')"#
    );
    run(&mut source, &changes).await;
    items.until_topic_is_the_table(&stack).await;
    let history = items.history(&stack);
    let inserted = r#"{"Id":10,"select":"s'\\\"","名称":null,"a.b":1,"it's":null,"say \"hi\"\\n":2," ":""}"#;
    assert_eq!(values(&history, r#"{"select":"s'\\\"","Id":10}"#), [Some(inserted)]);
    run(&mut source, &format!("TRUNCATE {table}")).await;
    items.until_topic_is_the_table(&stack).await;
}

#[tokio::test]
async fn tables_of_the_same_name_have_topics_of_their_own() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let tables = [
        JudgedTable::other(&stack, "business.same", "business_same"),
        JudgedTable::other(&stack, "archive.same", "archive_same"),
        JudgedTable::other(&stack, "archive.\"Same 表\"", "archive_Same_u20_u8868"),
    ];
    run(&mut source, "CREATE SCHEMA archive; CREATE SCHEMA business_same").await;
    for (place, JudgedTable { table, .. }) in tables.iter().enumerate() {
        let sql = format!(
            "CREATE TABLE {0} (id int PRIMARY KEY, c{place} text); INSERT INTO {0} VALUES (1, 'of {table}')",
            table.sql()
        );
        run(&mut source, &sql.replace("of archive.\"Same 表\"", "另")).await;
        publish(&stack, &table.sql()).await;
    }
    stack.start(CDC_INGEST);
    stack.ready().await;
    until_copied(&stack, &tables.each_ref()).await;
    for JudgedTable { table, .. } in &tables {
        run(&mut source, &format!("INSERT INTO {} VALUES (2, 'b'), (3, 'c')", table.sql())).await;
    }
    for table in &tables {
        table.until_topic_is_the_table(&stack).await;
    }

    // Another table whose topic would have the same name is not mixed up with it.
    run(&mut source, "CREATE SCHEMA arch; CREATE TABLE arch.ive_same (id int PRIMARY KEY); CREATE TABLE business_same.t (id int PRIMARY KEY)").await;
    run(&mut source, "CREATE TABLE business.same_t (id int PRIMARY KEY); INSERT INTO business.same_t VALUES (1); INSERT INTO business_same.t VALUES (2)").await;
    publish(&stack, "business.same_t").await;
    publish(&stack, "business_same.t").await;
    let first = until("the second of the two tables is refused", async || {
        let state = service_page::state(&stack, CDC_INGEST).await;
        let refused = state["details"]["not_captured"].clone();
        let both = ["business.same_t", "business_same.t"];
        let other =
            both.into_iter().find(|table| refused[table].as_str().is_some_and(|why| why.contains("is that of table")));
        let captured = both.into_iter().find(|table| state["details"]["snapshot"][table]["done"] == true);
        other.and(captured).ok_or(state["details"].to_string())
    })
    .await;
    JudgedTable::other(&stack, first, "business_same_t").until_topic_is_the_table(&stack).await;
}

/// What a reader of the topic should see, as a table of its own.
async fn seen(source: &mut PgConnection, table: &str, columns: &str, key: &str, filter: &str) -> TableName {
    let sql = format!(
        "DROP TABLE IF EXISTS {table}_seen; CREATE TABLE {table}_seen AS SELECT {columns} FROM {table} WHERE {filter};
         ALTER TABLE {table}_seen ADD PRIMARY KEY ({key})"
    );
    run(source, &sql).await;
    TableName::parse(&format!("{table}_seen"))
}

#[tokio::test]
async fn only_the_columns_and_rows_that_the_publication_has_are_carried() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    if server_version(&mut source).await < 150_000 {
        eprintln!("PostgreSQL 14 publishes whole tables only");
        return;
    }
    let sql = "CREATE TABLE business.visits (id int, secret text, kind text, v int, note text, PRIMARY KEY (id, kind));
               INSERT INTO business.visits SELECT n, 'geheim', CASE n % 3 WHEN 0 THEN 'hidden' ELSE 'seen' END, n, 'n' FROM generate_series(1, 40) n;
               CREATE TABLE business.stock (id int PRIMARY KEY, v int, note text);
               ALTER TABLE business.stock REPLICA IDENTITY FULL;
               INSERT INTO business.stock SELECT n, n % 3 - 1, 'n' FROM generate_series(1, 40) n;
               GRANT SELECT ON business.visits, business.stock TO tidemill_capture;
               ALTER PUBLICATION tidemill ADD TABLE business.visits (v, id, kind) WHERE (kind <> 'hidden'), business.stock WHERE (v > 0 OR note IS NULL)";
    run(&mut source, sql).await;
    let visits = JudgedTable::name(&mut stack, "visits", "business.visits");
    let stock = JudgedTable::name(&mut stack, "stock", "business.stock");
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 3);
    stack.start(CDC_INGEST);
    stack.ready().await;
    let changes = [
        "SELECT",
        // In and out, and back; unseen changes; a change of a column that is not there.
        "UPDATE business.visits SET kind = 'hidden' WHERE id IN (1, 2); UPDATE business.visits SET kind = 'seen' WHERE id IN (3, 6);
         UPDATE business.visits SET kind = 'rare' WHERE id = 4; UPDATE business.visits SET v = -1 WHERE id IN (5, 9);
         UPDATE business.visits SET secret = 'geheimer' WHERE id = 7; UPDATE business.visits SET kind = 'seen', id = 112 WHERE id = 12;
         DELETE FROM business.visits WHERE id IN (8, 15); INSERT INTO business.visits VALUES (50, 's', 'seen', 1), (51, 's', 'hidden', 1);
         UPDATE business.stock SET v = v - 1; UPDATE business.stock SET note = NULL WHERE id IN (1, 5); UPDATE business.stock SET id = -id WHERE id IN (2, 3, 5);
         DELETE FROM business.stock WHERE id IN (6, 8)",
        "UPDATE business.visits SET kind = 'seen' WHERE id = 1; UPDATE business.stock SET v = v + 2 WHERE id % 2 = 0",
        "TRUNCATE business.visits, business.stock; INSERT INTO business.visits VALUES (1, 's', 'seen', 1)",
    ];
    for change in changes {
        run(&mut source, change).await;
        let wanted = seen(&mut source, "business.visits", "v, id, kind", "id, kind", "kind <> 'hidden'").await;
        visits.until_topic_is(&stack, &wanted).await;
        let wanted = seen(&mut source, "business.stock", "*", "id", "v > 0 OR note IS NULL").await;
        stock.until_topic_is(&stack, &wanted).await;
    }
    let history = visits.history(&stack);
    let values = history.by_key.values().flatten().filter_map(|record| record.value.as_deref());
    for value in values {
        assert!(!value.contains("secret") && !value.contains("hidden") && !value.contains("note"), "{value}");
    }
    history.assert_nothing_twice();
}

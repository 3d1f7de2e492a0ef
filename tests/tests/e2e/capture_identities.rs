//! Replica identities, keys of any type, and large values that an update leaves alone.

use crate::capturing::{TOKEN, command_copy, metric_of, until_state};
use crate::database::{run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::history::header;
use crate::judged_table::JudgedTable;
use crate::stack::{CDC_INGEST, Stack};
use crate::until::until;
use shared::record::header::Operation;
use sqlx::postgres::PgConnection;

/// A table, its replica identity, and the key of the topic that follows from it.
struct Case {
    label: &'static str,
    columns: &'static str,
    identity: &'static str,
    key: &'static [&'static str],
}

/// All have the columns id, a, b and v; id is another number than a.
const CASES: &[Case] = &[
    Case { label: "by_default", columns: "PRIMARY KEY (id)", identity: "DEFAULT", key: &["id"] },
    Case { label: "by_wide_key", columns: "PRIMARY KEY (b, id)", identity: "DEFAULT", key: &["b", "id"] },
    Case {
        label: "by_index",
        columns: "PRIMARY KEY (id), UNIQUE (a, b)",
        identity: "USING INDEX by_index_a_b_key",
        key: &["a", "b"],
    },
    Case { label: "by_index_alone", columns: "UNIQUE (b)", identity: "USING INDEX by_index_alone_b_key", key: &["b"] },
    Case { label: "by_all", columns: "UNIQUE (a), PRIMARY KEY (id)", identity: "FULL", key: &["id"] },
    Case { label: "by_all_alone", columns: "UNIQUE (v), UNIQUE (b, a)", identity: "FULL", key: &["b", "a"] },
];

async fn create(stack: &mut Stack, case: &Case) -> JudgedTable {
    let Case { label, columns, identity, .. } = case;
    let sql = format!(
        "CREATE TABLE business.{label} (id int NOT NULL, a int NOT NULL, b text NOT NULL, v numeric, {columns});
         ALTER TABLE business.{label} REPLICA IDENTITY {identity};
         INSERT INTO business.{label} SELECT n, n + 100, 'b' || n, n FROM generate_series(1, 9) n"
    );
    run(&mut stack.source().await, &sql).await;
    JudgedTable::capture(stack, label, &format!("business.{label}")).await
}

impl Case {
    /// The topic's key for these values of a row.
    fn key(&self, id: i32, a: i32, b: &str) -> String {
        let field = |name: &&str| match *name {
            "id" => format!("\"id\":{id}"),
            "a" => format!("\"a\":{a}"),
            _ => format!("\"b\":\"{b}\""),
        };
        format!("{{{}}}", self.key.iter().map(field).collect::<Vec<_>>().join(","))
    }

    /// An insert, an update, a delete, and each column of the keys changed alone and with the others.
    fn changes(&self) -> String {
        let table = format!("business.{}", self.label);
        format!(
            "INSERT INTO {table} VALUES (10, 110, 'b10', 10), (11, 111, 'b11', NULL);
             UPDATE {table} SET v = v + 0.50 WHERE id = 1;
             DELETE FROM {table} WHERE id = 2;
             UPDATE {table} SET id = 1003 WHERE id = 3;
             UPDATE {table} SET a = 1104 WHERE id = 4;
             UPDATE {table} SET b = 'c5' WHERE id = 5;
             UPDATE {table} SET id = 1006, a = 1106, b = 'c6', v = 1006 WHERE id = 6;
             BEGIN; UPDATE {table} SET id = 1007, a = 1107, b = 'c7' WHERE id = 7;
             UPDATE {table} SET id = 7, a = 107, b = 'b7' WHERE id = 1007; COMMIT;
             BEGIN; DELETE FROM {table} WHERE id = 8; INSERT INTO {table} VALUES (8, 108, 'b8', -8); COMMIT"
        )
    }
}

#[tokio::test]
async fn inserts_updates_deletes_and_new_keys_are_carried_under_each_replica_identity() {
    let mut stack = Stack::new().await;
    let mut tables = Vec::new();
    for case in CASES {
        tables.push(create(&mut stack, case).await);
    }
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 2);
    stack.start(CDC_INGEST);
    stack.ready().await;
    let mut source = stack.source().await;
    for (case, table) in CASES.iter().zip(&tables) {
        run(&mut source, &case.changes()).await;
        table.until_topic_is_the_table(&stack).await;
        let history = table.history(&stack);
        history.assert_nothing_twice();
        let operations =
            |key: &str| -> Vec<Operation> { history.of(key).iter().map(|record| header(record).operation).collect() };
        assert_eq!(operations(&case.key(1, 101, "b1")), [Operation::Snapshot, Operation::Update], "{}", case.label);
        assert_eq!(operations(&case.key(2, 102, "b2")), [Operation::Snapshot, Operation::Delete], "{}", case.label);
        assert_eq!(operations(&case.key(10, 110, "b10")), [Operation::Insert], "{}", case.label);
        let (before, after) = (case.key(6, 106, "b6"), case.key(1006, 1106, "c6"));
        assert_eq!(operations(&before), [Operation::Snapshot, Operation::Delete], "{}", case.label);
        assert_eq!(operations(&after), [Operation::Update], "{}", case.label);
    }
}

#[tokio::test]
async fn a_table_without_a_replica_identity_is_carried_as_far_as_postgresql_lets_it_change() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let sql = "CREATE TABLE business.additions (id int PRIMARY KEY, v text); ALTER TABLE business.additions REPLICA IDENTITY NOTHING;
               INSERT INTO business.additions VALUES (1, 'a'), (2, 'b')";
    run(&mut source, sql).await;
    let table = JudgedTable::capture(&mut stack, "additions", "business.additions").await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    run(&mut source, "INSERT INTO business.additions VALUES (3, 'c')").await;
    let refused = sqlx::query("UPDATE business.additions SET v = 'd'").execute(&mut source).await;
    assert!(refused.unwrap_err().to_string().contains("does not have a replica identity"));
    table.until_topic_is_the_table(&stack).await;
    run(&mut source, "TRUNCATE business.additions; INSERT INTO business.additions VALUES (2, 'e')").await;
    table.until_topic_is_the_table(&stack).await;
}

/// Texts too large to stand in their row; the second is just small enough for an index.
const LARGE: &str = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n)";
const LARGE_KEY: &str = "repeat('键', 800)";

/// Values of a table that do not stand in their rows.
async fn values_outside(source: &mut PgConnection, table: &str) -> i64 {
    let toast = format!("SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = '{table}'::regclass");
    let toast: String = value(source, &toast).await;
    value(source, &format!("SELECT count(DISTINCT chunk_id) FROM {toast}")).await
}

#[tokio::test]
async fn a_large_key_that_an_update_leaves_alone_is_whole() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let tables = [("large_key", "DEFAULT"), ("large_key_full", "FULL")];
    let mut judged = Vec::new();
    for (label, identity) in tables {
        let sql = format!(
            "CREATE TABLE business.{label} (k text, n int, v int, body text, PRIMARY KEY (k, n));
             ALTER TABLE business.{label} ALTER k SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY {identity};
             INSERT INTO business.{label} SELECT {LARGE_KEY} || n, n, 0, {LARGE} FROM generate_series(1, 8) n"
        );
        run(&mut source, &sql).await;
        judged.push(JudgedTable::capture(&mut stack, label, &format!("business.{label}")).await);
    }
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 2);
    stack.start(CDC_INGEST);
    stack.ready().await;
    for (label, _) in tables {
        let outside = values_outside(&mut source, &format!("business.{label}")).await;
        assert_eq!(outside, 16, "keys and bodies do not all stand outside of their rows");
        let changes = format!(
            "UPDATE business.{label} SET v = 1 WHERE n = 1;
             UPDATE business.{label} SET n = 20 WHERE n = 2;
             UPDATE business.{label} SET k = k || 'x' WHERE n = 3;
             UPDATE business.{label} SET body = body || 'x' WHERE n = 4;
             DELETE FROM business.{label} WHERE n = 5;
             BEGIN; UPDATE business.{label} SET v = 6 WHERE n = 6; UPDATE business.{label} SET n = 60 WHERE n = 6; COMMIT;
             BEGIN; UPDATE business.{label} SET v = 7 WHERE n = 7; DELETE FROM business.{label} WHERE n = 7; COMMIT"
        );
        run(&mut source, &changes).await;
    }
    for table in &judged {
        table.until_topic_is_the_table(&stack).await;
        table.history(&stack).assert_nothing_twice();
    }
}

#[tokio::test]
async fn a_row_is_read_again_only_when_the_transaction_that_wrote_it_is_visible() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start_as_source(&mut stack, &[LOGICAL]).await;
    let mut source = stack.source().await;
    let sql = format!(
        "CREATE TABLE business.moved (id int PRIMARY KEY, v int, body text);
         ALTER TABLE business.moved ALTER body SET STORAGE EXTERNAL;
         INSERT INTO business.moved VALUES (1, 0, {LARGE}), (2, 0, {LARGE}), (3, 0, 'old')"
    );
    run(&mut source, &sql).await;
    let moved = JudgedTable::capture(&mut stack, "moved", "business.moved").await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    // A standby that never comes: commits are in the WAL, and nobody sees them.
    server.commits_wait_for_standby("nobody").await;
    let writing = tokio::spawn(async move {
        let changes = format!(
            "BEGIN; UPDATE business.moved SET id = 10 WHERE id = 1; UPDATE business.moved SET v = 2 WHERE id = 2;
             INSERT INTO business.moved VALUES (4, 0, {LARGE}); UPDATE business.moved SET v = 4 WHERE id = 4;
             DELETE FROM business.moved WHERE id = 3; INSERT INTO business.moved VALUES (3, 0, {LARGE});
             UPDATE business.moved SET v = 3 WHERE id = 3; COMMIT"
        );
        run(&mut source, &changes).await;
    });
    until("a row is wanted again", async || match metric_of(&stack, "tidemill_toast_rereads_total").await {
        0.0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .await;
    assert!(!writing.is_finished(), "the commit did not wait for the standby");
    server.commits_wait_for_none().await;
    writing.await.unwrap();
    moved.until_topic_is_the_table(&stack).await;
    assert_eq!(metric_of(&stack, "tidemill_toast_rows_gone_total").await, 0.0);
}

/// Columns that can be too large for their row, each of another type.
const LARGE_COLUMNS: &[(&str, &str)] = &[
    ("char(3000)", "left(repeat('字', 2000), 2990)"),
    ("varchar", LARGE),
    ("bytea", "convert_to(repeat('\\', 9000), 'UTF8')"),
    ("json", "to_json(repeat('\"', 9000))"),
    ("jsonb", "to_jsonb(repeat('\"', 9000))"),
    ("numeric", "repeat('12345678', 3000)::numeric"),
    ("text[]", "ARRAY[repeat('a,', 9000), NULL]"),
    ("timestamptz[]", "array_fill(timestamptz '2025-07-11 17:25:55.1+08', ARRAY[3000])"),
    ("business.large_pair", "ROW(repeat('(', 9000), NULL)"),
    ("business.large_pair", "ROW(NULL, NULL)"),
    ("varbit", "repeat('10', 40000)::varbit"),
    ("tsvector", "array_to_tsvector(ARRAY(SELECT 'w' || n FROM generate_series(1, 3000) n))"),
    ("xml", "xmlelement(name a, repeat('&', 9000))"),
];

#[tokio::test]
async fn large_values_of_any_type_that_an_update_leaves_alone_are_as_the_first_copy_had_them() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    run(&mut source, "CREATE TYPE business.large_pair AS (a text, b text)").await;
    let columns = LARGE_COLUMNS.iter().enumerate();
    let (names, types): (Vec<String>, Vec<String>) =
        columns.map(|(at, (sql_type, _))| (format!("c{at}"), format!("c{at} {sql_type}"))).unzip();
    let external: Vec<String> =
        names.iter().filter(|name| *name != "c5").map(|name| format!("ALTER {name} SET STORAGE EXTERNAL")).collect();
    let values: Vec<&str> = LARGE_COLUMNS.iter().map(|(_, large)| *large).collect();
    let sql = format!(
        "CREATE TABLE business.large (id int PRIMARY KEY, v int, {}); ALTER TABLE business.large {};
         INSERT INTO business.large VALUES (1, 0, {values}), (2, 0, {values})",
        types.join(", "),
        external.join(", "),
        values = values.join(", ")
    );
    run(&mut source, &sql).await;
    let table = JudgedTable::capture(&mut stack, "large", "business.large").await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    table.until_topic_is_the_table(&stack).await;
    // All but the pair of nothing, and the number, which is compressed.
    assert_eq!(values_outside(&mut source, "business.large").await, 22);
    run(&mut source, "UPDATE business.large SET v = 1 WHERE id = 1").await;
    run(&mut source, "ALTER TABLE business.large REPLICA IDENTITY FULL; UPDATE business.large SET v = 1 WHERE id = 2")
        .await;
    table.until_topic_is_the_table(&stack).await;

    let history = table.history(&stack);
    for id in 1..=2 {
        let records = history.of(&format!("{{\"id\":{id}}}"));
        let [copied, updated] = records else { panic!("row {id} has {} records", records.len()) };
        assert_eq!(header(updated).operation, Operation::Update);
        let wanted = copied.value.as_deref().unwrap().replacen("\"v\":0", "\"v\":1", 1);
        let found = updated.value.as_deref().unwrap();
        let at = found.bytes().zip(wanted.bytes()).take_while(|(found, wanted)| found == wanted).count();
        assert!(
            found == wanted,
            "row {id} is written otherwise: {:?}",
            found.get(at.saturating_sub(60)..).map(|rest| rest.chars().take(120).collect::<String>())
        );
    }
}

/// Types of extensions, whose operators stand in a schema of their own, and others that sort in their own way.
const KEYS: &[(&str, &str)] = &[
    ("business.citext", "CASE n % 2 WHEN 0 THEN 'k' ELSE 'K' END || n"),
    ("business.ltree", "('Top.' || n)::business.ltree"),
    ("business.isbn13", "('978000000' || lpad(n::text, 3, '0') || '?')::business.isbn13"),
    ("business.little", "n"),
    ("business.level", "(ARRAY['z', 'y', 'x'])[1 + n % 3]::business.level"),
    ("text COLLATE \"und-x-icu\"", "CASE n % 2 WHEN 0 THEN 'é' ELSE 'E' END || n"),
    ("char(6)", "'c' || n"),
    ("numeric", "n / 7.0"),
    ("real", "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE n / 7.0::real END"),
    ("bytea", "decode(lpad(to_hex(n), 4, '0') || '5c', 'hex')"),
    ("timestamptz", "CASE n WHEN 1 THEN 'infinity' ELSE timestamptz '2025-07-11' + n * interval '1 hour' END"),
    ("interval", "n * interval '13 hours'"),
    ("uuid", "md5(n::text)::uuid"),
    ("inet", "inet '10.0.0.0' + n"),
    ("boolean", "n % 2 = 0"),
    ("bit(9)", "n::bit(9)"),
    ("\"char\"", "chr(64 + n)::\"char\""),
    ("name", "'Name ' || n"),
    ("money", "n::money"),
    ("oid", "4294967295 - n"),
    ("int[]", "ARRAY[n % 3, NULL, n]"),
    ("int4range", "int4range(n, n + 3)"),
    ("jsonb", "jsonb_build_object('n', n, 'é', NULL)"),
    ("business.small_pair", "ROW(n % 3, '\\\"' || n)::business.small_pair"),
    ("tsvector", "('w' || n)::tsvector"),
];

#[tokio::test]
async fn rows_with_keys_of_any_type_are_copied_chunk_by_chunk_and_found_again() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let types = "CREATE EXTENSION citext SCHEMA business; CREATE EXTENSION ltree SCHEMA business; CREATE EXTENSION isn SCHEMA business;
                 CREATE DOMAIN business.little AS smallint; CREATE TYPE business.level AS ENUM ('z', 'y', 'x');
                 CREATE TYPE business.small_pair AS (a int, b text)";
    run(&mut source, types).await;
    let mut judged = Vec::new();
    for (at, (sql_type, key)) in KEYS.iter().enumerate() {
        let label = format!("keys_{at}");
        let sql = format!(
            "CREATE TABLE business.{label} (\"the key\" {sql_type}, n int, body text, PRIMARY KEY (\"the key\", n));
             ALTER TABLE business.{label} ALTER body SET STORAGE EXTERNAL;
             INSERT INTO business.{label} SELECT {key}, n, repeat('b', 3000) FROM generate_series(1, 20) n"
        );
        run(&mut source, &sql).await;
        judged.push(JudgedTable::capture(&mut stack, &label, &format!("business.{label}")).await);
    }
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 3);
    stack.start(CDC_INGEST);
    stack.ready().await;
    for at in 0..KEYS.len() {
        // The body is not in the stream: the row is read again by its key.
        let sql = format!(
            "UPDATE business.keys_{at} SET n = -n WHERE n % 2 = 0; DELETE FROM business.keys_{at} WHERE n % 5 = 0"
        );
        run(&mut source, &sql).await;
    }
    for table in &judged {
        table.until_topic_is_the_table(&stack).await;
        table.history(&stack).assert_nothing_twice();
    }
}

#[tokio::test]
async fn a_range_of_keys_that_is_copied_again_is_in_the_order_of_the_keys() {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    run(&mut source, "CREATE EXTENSION citext SCHEMA business").await;
    let tables = [("collated", "text COLLATE \"und-x-icu\""), ("folded", "business.citext")];
    let mut judged = Vec::new();
    for (label, sql_type) in tables {
        let sql = format!(
            "CREATE TABLE business.{label} (k {sql_type} PRIMARY KEY);
             INSERT INTO business.{label} VALUES ('a'), ('B'), ('c'), ('D'), ('e')"
        );
        run(&mut source, &sql).await;
        judged.push(JudgedTable::capture(&mut stack, label, &format!("business.{label}")).await);
    }
    stack.set(CDC_INGEST, "HTTP__CONTROL_TOKEN", TOKEN);
    stack.start(CDC_INGEST);
    stack.ready().await;
    for table in &judged {
        let name = table.table.to_string();
        command_copy(&stack, &serde_json::json!({ "table": name, "from": ["B"], "to": ["c"] })).await;
        until("the range is copied", async || {
            let records = table.history(&stack).of("{\"k\":\"B\"}").len();
            if records == 2 { Ok(()) } else { Err(format!("{records} records")) }
        })
        .await;
        until_state(&stack, "the copy is done", |state| state["details"]["snapshot"][&name]["done"] == true).await;
        // By their bytes, a and D are between B and c as well.
        table.until_topic_is_the_table(&stack).await;
        let history = table.history(&stack);
        let records = ["a", "B", "c", "D", "e"].map(|key| history.of(&format!("{{\"k\":\"{key}\"}}")).len());
        assert_eq!(records, [1, 2, 2, 1, 1], "{name}");
    }
}

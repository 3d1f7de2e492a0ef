//! How values and batches come into a table: JSON as it was, and as many rows in a transaction as the settings say.

use crate::service_page::state;
use crate::stack::PG_SINKER;
use crate::sunk::Sunk;
use crate::until::until;

fn table(columns: &str) -> String {
    format!(
        "CREATE TABLE result.t (id bigint PRIMARY KEY, {columns}, processed_time timestamp, source_commit_time timestamptz,
            record_version bytea NOT NULL);
         GRANT SELECT, INSERT, UPDATE ON result.t TO tidemill_writer;"
    )
}

const TABLE: &str = "[tables.t]\ntable = \"result.t\"\nkey = \"id\"\n";

fn put(sunk: &mut Sunk, id: u64, fields: &str) {
    sunk.put(1, &format!("{{\"id\":{id}}}"), &format!("{{\"id\":{id}{fields}}}"));
}

#[tokio::test]
async fn json_is_what_it_was_and_its_null_is_not_that_of_sql() {
    let mut sunk = Sunk::new(&table("b jsonb, j json, t text")).await;
    sunk.start(TABLE).await;
    let values = [r#""a\"b""#, r#"{"n":1.50,"n2":null}"#, "[1, null]", "7.00", "true", r#""null""#];
    for (id, value) in (1..).zip(values) {
        put(&mut sunk, id, &format!(",\"b\":{value},\"j\":{value},\"t\":{value}"));
    }
    let all = r#","b":null,"j":null,"t":null"#;
    put(&mut sunk, 7, all);
    put(&mut sunk, 8, &format!("{all},\"tidemill.json_null\":[\"b\"]"));
    put(&mut sunk, 9, &format!("{all},\"tidemill.json_null\":[\"j\",\"b\"]"));
    sunk.settled().await;
    let query = "SELECT id, b::text AS b, j::text AS j, t, jsonb_typeof(b) AS kind FROM result.t ORDER BY id";
    let wanted = r#"1|"a\"b"|"a\"b"|a"b|string
2|{"n": 1.50, "n2": null}|{"n":1.50,"n2":null}|{"n":1.50,"n2":null}|object
3|[1, null]|[1, null]|[1, null]|array
4|7.00|7.00|7.00|number
5|true|true|true|boolean
6|"null"|"null"|null|string
7|NULL|NULL|NULL|NULL
8|null|NULL|NULL|null
9|null|null|NULL|null"#;
    assert_eq!(sunk.rows(query).await, wanted);
    sunk.letters(0).await;
}

#[tokio::test]
async fn a_batch_waits_for_more_until_it_is_full_or_old() {
    let mut sunk = Sunk::new(&table("n int")).await;
    sunk.stack.set("pg-sinker", "KAFKA__BATCH_RECORDS_MAX", 3);
    sunk.start(&format!("{TABLE}\n[writer]\nbatch_wait_ms = 3600000\n")).await;
    for id in 1..=6 {
        put(&mut sunk, id, "");
    }
    sunk.settled().await;
    let batches = "SELECT count(*) AS rows FROM result.t GROUP BY xmin::text";
    assert_eq!(sunk.rows(batches).await, "3\n3", "full ones");

    sunk.stack.process("pg-sinker").kill();
    sunk.start(&format!("{TABLE}\n[writer]\nbatch_wait_ms = 200\n")).await;
    put(&mut sunk, 7, "");
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT count(*) AS rows FROM result.t").await, "7", "one that is old");

    sunk.stack.process("pg-sinker").kill();
    let of_the_table = "batch_bytes_max = 2000\nbatch_wait_ms = 3600000\n";
    sunk.start(&format!("{TABLE}{of_the_table}[writer]\nbatch_wait_ms = 0\n")).await;
    for id in 8..=13 {
        put(&mut sunk, id, &format!(",\"passed_over\":\"{}\"", "x".repeat(1_100)));
    }
    sunk.settled().await;
    let batches = "SELECT count(*) AS rows FROM result.t WHERE id > 7 GROUP BY xmin::text";
    assert_eq!(sunk.rows(batches).await, "2\n2\n2", "full ones by the table's own bounds");
}

#[tokio::test]
async fn a_commit_waits_for_what_is_set() {
    let mut sunk = Sunk::new(&table("how text DEFAULT current_setting('synchronous_commit')")).await;
    let table = format!("{TABLE}leave_out = [\"how\"]\n");
    sunk.start(&table).await;
    put(&mut sunk, 1, ",\"how\":\"as the record says\"");
    sunk.settled().await;
    sunk.stack.process("pg-sinker").kill();
    sunk.start(&format!("{table}[writer]\nsynchronous_commit = \"off\"\n")).await;
    put(&mut sunk, 2, "");
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id, how FROM result.t ORDER BY id").await, "1|on\n2|off");
}

#[tokio::test]
async fn a_large_batch_is_written_side_by_side_and_a_small_one_at_once() {
    let mut sunk = Sunk::new(&table("n int")).await;
    for id in 1..=400 {
        put(&mut sunk, id, "");
    }
    // A batch is as large as it may be, however slowly its records come.
    let when_full = format!("{TABLE}\n[writer]\nbatch_wait_ms = 3600000\n");
    sunk.stack.set(PG_SINKER, "KAFKA__BATCH_RECORDS_MAX", 400);
    sunk.start(&when_full).await;
    sunk.settled().await;
    let transactions = "SELECT count(*) AS rows, count(DISTINCT xmin::text) AS transactions FROM result.t";
    assert_eq!(sunk.rows(transactions).await, "400|2");
    sunk.stack.process(PG_SINKER).kill();
    sunk.stack.set(PG_SINKER, "KAFKA__BATCH_RECORDS_MAX", 50);
    sunk.start(&when_full).await;
    for id in 401..=450 {
        put(&mut sunk, id, "");
    }
    sunk.settled().await;
    assert_eq!(sunk.rows(&format!("{transactions} WHERE id > 400")).await, "50|1");
}

#[tokio::test]
async fn batches_in_quick_succession_keep_their_distance() {
    let mut sunk = Sunk::new(&table("n int")).await;
    sunk.stack.set("pg-sinker", "KAFKA__BATCH_INTERVAL_MS", 10_000);
    sunk.start(TABLE).await;
    put(&mut sunk, 1, "");
    sunk.settled().await;
    put(&mut sunk, 2, "");
    sunk.flush();
    until("pg-sinker knows of the second", async || {
        let input = state(&sunk.stack, PG_SINKER).await["details"]["input"]["partitions"].clone();
        let partitions = input.as_array().into_iter().flatten();
        let ends: i64 = partitions.filter_map(|found| found["end_offset"].as_i64()).sum();
        if ends == 2 { Ok(()) } else { Err(input.to_string()) }
    })
    .await;
    sunk.stack.process(PG_SINKER).kill();
    assert_eq!(sunk.rows("SELECT id FROM result.t").await, "1", "the first goes at once, the second waits");
    sunk.stack.set("pg-sinker", "KAFKA__BATCH_INTERVAL_MS", 0);
    sunk.start(TABLE).await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id FROM result.t ORDER BY id").await, "1\n2");
}

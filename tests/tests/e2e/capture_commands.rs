//! Commands over HTTP: a table or a range of its keys read again while all runs, and copies that are held, let go on, and given up.

use serde_json::{Value, json};
use shared::kafka::partitioner::partition;
use shared::pg::TableName;
use shared::position::Version;
use shared::record::header::{Header, Operation};

use crate::captured_table::CapturedTable;
use crate::capturing::copy_slowly;
use crate::database::{run, value};
use crate::history::header;
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{
    TOKEN, command, command_with, orders_go_on, send, stopped_metric, table_state, take_commands, until_goes_on,
    until_table,
};
use crate::topics::{Foreign, write};
use crate::writer::{Writer, changes_of};

/// Partitions of a topic, by the default settings.
const PARTITIONS: i32 = 4;

async fn captured(key: &str, rows: &str) -> (Stack, CapturedTable) {
    let mut stack = Stack::new().await;
    let items = CapturedTable::define(&mut stack, "items", &format!("{key}, mark int")).await;
    run(&mut stack.source().await, rows).await;
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 100);
    take_commands(&mut stack);
    stack.start(CDC_INGEST);
    stack.ready().await;
    items.until_judged_equal(&stack).await;
    (stack, items)
}

/// Makes the topic differ from the table behind cdc-ingest's back: a row as an older cdc-ingest could have left it.
fn write_stale(stack: &Stack, items: &CapturedTable, key: &str, row: &str) {
    let partition = partition(key.as_bytes(), PARTITIONS);
    let history = items.history(stack);
    let of_partition = history.by_key.values().flatten().filter(|record| record.partition == partition);
    let last = of_partition.map(|record| header(record).version).max().unwrap();
    let text = Header::new(Operation::Snapshot, Version { part: last.part + 1, ..last }).text();
    let value = Some(row.as_bytes());
    write(&stack.places.kafka, &Foreign { topic: &items.topic, partition, key, value, header: Some(&text) });
}

const BY_ID: &str = "id bigint PRIMARY KEY";
const ROWS: &str = "INSERT INTO business.items SELECT n, 0 FROM generate_series(1, 1000) n";

async fn spoil(stack: &Stack, items: &CapturedTable) {
    for id in [350, 5_350, 900, 5_900] {
        write_stale(stack, items, &format!("{{\"id\":{id}}}"), &format!("{{\"id\":{id},\"mark\":99}}"));
    }
    // What comes from now on has higher versions.
    orders_go_on(stack).await;
    let (places, table) = (&stack.places, TableName::parse(&items.table));
    let compared = lab::captured::compare(&places.source, &places.kafka, &table, &items.topic).await.unwrap();
    assert_eq!((compared.surplus.count, compared.different.count), (2, 2), "{compared}");
}

#[tokio::test]
async fn a_table_is_read_again_on_command_and_rows_that_are_gone_get_tombstones() {
    let (stack, items) = captured(BY_ID, ROWS).await;
    spoil(&stack, &items).await;
    let writer = Writer::start(&stack, changes_of("business.items")).await;
    writer.further(20).await;
    command(&stack, "snapshot", "business.items").await;
    writer.further(20).await;
    until_goes_on(&stack, "business.items").await;
    writer.stop().await;
    items.until_judged_equal(&stack).await;
    let history = items.history(&stack);
    for gone in ["{\"id\":5350}", "{\"id\":5900}"] {
        let last = history.of(gone).last().unwrap();
        assert!(last.value.is_none() && header(last).operation == Operation::Delete, "{last:?}");
    }
    history.assert_nothing_twice();
}

/// The keys of the records behind a mark.
fn keys_behind(stack: &Stack, items: &CapturedTable, mark: &lab::layers::Mark) -> Vec<Value> {
    let records = stack.layers().read(&items.topic, mark, |_| true).unwrap();
    assert!(!records.is_empty());
    records.iter().map(|record| serde_json::from_str(&record.key).unwrap()).collect()
}

#[tokio::test]
async fn a_range_of_keys_is_read_again_and_no_other_key_is_touched() {
    let (stack, items) = captured(BY_ID, ROWS).await;
    spoil(&stack, &items).await;
    let mark = stack.layers().end(&items.topic).unwrap();
    let range = json!({ "table": "business.items", "from": [300], "to": ["400"] });
    command_with(&stack, "snapshot", &range).await;
    until_goes_on(&stack, "business.items").await;
    let keys = keys_behind(&stack, &items, &mark);
    assert_eq!(keys.len(), 101, "each row of the range once");
    assert!(keys.iter().all(|key| (300..=400).contains(&key["id"].as_i64().unwrap())), "{keys:?}");

    let mark = stack.layers().end(&items.topic).unwrap();
    command_with(&stack, "snapshot", &json!({ "table": "business.items", "from": [850] })).await;
    until_goes_on(&stack, "business.items").await;
    let keys = keys_behind(&stack, &items, &mark);
    assert!(keys.iter().all(|key| key["id"].as_i64().unwrap() >= 850), "{keys:?}");
    items.until_judged_equal(&stack).await;
    items.history(&stack).assert_nothing_twice();
}

#[tokio::test]
async fn rows_of_a_list_of_keys_are_read_again_and_those_that_are_gone_get_tombstones() {
    let (stack, items) = captured(BY_ID, ROWS).await;
    spoil(&stack, &items).await;
    let writer = Writer::start(&stack, |dice| {
        format!("UPDATE business.items SET mark = mark + 1 WHERE id = {}", 600 + dice.below(9))
    })
    .await;
    writer.further(20).await;
    let mark = stack.layers().end(&items.topic).unwrap();
    let keys = json!({ "table": "business.items", "keys": [[350], [5350], ["0900"], [900], [5900], [7777]] });
    command_with(&stack, "snapshot", &keys).await;
    until_goes_on(&stack, "business.items").await;
    writer.stop().await;
    items.until_judged_equal(&stack).await;
    let records = stack.layers().read(&items.topic, &mark, |_| true).unwrap();
    let id = |key: &str| serde_json::from_str::<Value>(key).unwrap()["id"].as_i64().unwrap();
    let mut found: Vec<(i64, bool)> = records
        .iter()
        .map(|record| (id(&record.key), record.value.is_some()))
        .filter(|(id, _)| !(600..609).contains(id))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [(350, true), (900, true), (5350, false), (5900, false), (7777, false)]);
    items.history(&stack).assert_nothing_twice();
    for wrong in [json!([]), json!([[1, 2]]), json!([["x"]])] {
        let body = json!({ "table": "business.items", "keys": wrong }).to_string();
        let answer = send(&stack, "snapshot", Some(TOKEN), &body).await;
        assert_eq!(answer.page.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_range_of_a_key_with_several_columns_is_compared_as_the_table_compares_it() {
    // In the language's order é stands between e and f, and lower case before upper case; not so by bytes.
    let key = "place text COLLATE business.by_language, n int, PRIMARY KEY (place, n)";
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    let has_icu: bool = value(&mut source, "SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')").await;
    let provider = if has_icu { "provider = icu, locale = 'de'" } else { "provider = libc, locale = 'C'" };
    run(&mut source, &format!("CREATE COLLATION business.by_language ({provider})")).await;
    let items = CapturedTable::define(&mut stack, "items", &format!("{key}, mark int")).await;
    let rows = "INSERT INTO business.items SELECT place, n, 0 FROM generate_series(1, 30) n, unnest(ARRAY['a', 'A', 'e', 'é', 'f', 'Z', 'z']) place";
    run(&mut source, rows).await;
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 20);
    take_commands(&mut stack);
    stack.start(CDC_INGEST);
    stack.ready().await;
    items.until_judged_equal(&stack).await;

    write_stale(&stack, &items, r#"{"place":"é","n":7000}"#, r#"{"place":"é","n":7000,"mark":0}"#);
    orders_go_on(&stack).await;
    let writer =
        Writer::start(&stack, |dice| format!("UPDATE business.items SET mark = mark + 1 WHERE n = {}", dice.below(30)))
            .await;
    let bounds: [(Value, Value); 3] = [
        (json!(["a", 15]), json!(["f", 3])),
        (json!(["A", 1]), json!(["a", 9_999])),
        (json!(["Z", 1]), json!(["é", 1])),
    ];
    for (from, to) in bounds {
        command_with(&stack, "snapshot", &json!({ "table": "business.items", "from": from, "to": to })).await;
        until_goes_on(&stack, "business.items").await;
    }
    writer.stop().await;
    items.until_judged_equal(&stack).await;
    items.history(&stack).assert_nothing_twice();
}

/// A copy of many rows that has begun.
async fn amid_copy() -> (Stack, CapturedTable) {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int").await;
    run(&mut stack.source().await, "INSERT INTO business.items SELECT n, 0 FROM generate_series(1, 20000) n").await;
    copy_slowly(&mut stack, 50, 10);
    take_commands(&mut stack);
    stack.start(CDC_INGEST);
    let has_begun = |shown: &Value| shown["rows"].as_u64().is_some_and(|rows| rows >= 200);
    until_table(&stack, "business.items", "is being copied", has_begun).await;
    (stack, items)
}

#[tokio::test]
async fn a_copy_that_is_paused_stands_still_over_a_restart_and_goes_on_where_it_stood() {
    let (mut stack, items) = amid_copy().await;
    command(&stack, "snapshot/pause", "business.items").await;
    orders_go_on(&stack).await;
    let paused = table_state(&stack, "business.items").await;
    assert_eq!((&paused["paused"], &paused["done"]), (&true.into(), &false.into()), "{paused}");
    // The stream goes on for this table, too.
    let writer = Writer::start(&stack, changes_of("business.items")).await;
    writer.further(40).await;
    orders_go_on(&stack).await;
    assert_eq!(table_state(&stack, "business.items").await["rows"], paused["rows"]);
    stack.process(CDC_INGEST).kill();
    stack.process(CDC_INGEST).restart();
    stack.ready().await;
    orders_go_on(&stack).await;
    let after = table_state(&stack, "business.items").await;
    assert_eq!((&after["paused"], &after["rows"]), (&true.into(), &paused["rows"]), "{after}");
    command(&stack, "snapshot/resume", "business.items").await;
    until_goes_on(&stack, "business.items").await;
    writer.stop().await;
    items.until_judged_equal(&stack).await;
    let history = items.history(&stack);
    history.assert_nothing_twice();
    assert_eq!(history.repeated_copies(), 0);
}

#[tokio::test]
async fn a_copy_that_is_cancelled_ends_and_can_be_begun_again() {
    let (stack, items) = amid_copy().await;
    command(&stack, "snapshot/cancel", "business.items").await;
    until_goes_on(&stack, "business.items").await;
    let few = items.history(&stack).rows().len();
    assert!(few < 20_000, "the copy was done before: it proves nothing");
    for nothing in ["snapshot/cancel", "snapshot/pause", "snapshot/resume"] {
        let answer = send(&stack, nothing, Some(TOKEN), r#"{"table":"business.items"}"#).await;
        assert_eq!(answer.page.status, 409, "{answer:?}");
    }
    // The stream goes on.
    run(&mut stack.source().await, "UPDATE business.items SET mark = 1 WHERE id > 19990").await;
    command(&stack, "snapshot", "business.items").await;
    // Once more, from the beginning, in the middle of it.
    command(&stack, "snapshot", "business.items").await;
    until_goes_on(&stack, "business.items").await;
    items.until_judged_equal(&stack).await;
    items.history(&stack).assert_nothing_twice();
}

/// Sends it, and wants a problem document with this status and these words.
async fn assert_problem(stack: &Stack, name: &str, token: Option<&str>, body: &str, wanted: (u16, &str)) {
    let answer = send(stack, name, token, body).await;
    assert_eq!(answer.page.status, wanted.0, "{name} {body}: {answer:?}");
    assert_eq!(answer.content_type, "application/problem+json", "{answer:?}");
    let problem: Value = serde_json::from_str(&answer.page.body).unwrap();
    assert_eq!(problem["status"], wanted.0, "{problem}");
    assert!(problem["title"].is_string() && problem["detail"].as_str().unwrap().contains(wanted.1), "{problem}");
}

#[tokio::test]
async fn a_command_that_is_wrong_is_a_problem_and_changes_nothing() {
    let (stack, items) = captured(BY_ID, ROWS).await;
    let before = items.history(&stack).by_key.values().map(Vec::len).sum::<usize>();
    let good = r#"{"table":"business.items"}"#;
    for token in [None, Some("wrong"), Some("")] {
        assert_problem(&stack, "snapshot", token, good, (401, "Authorization")).await;
    }
    let token = Some(TOKEN);
    assert_problem(&stack, "explode", token, good, (404, "snapshot/pause")).await;
    assert_problem(&stack, "snapshot", token, r#"{"table":"business.nothing"}"#, (404, "business.items")).await;
    assert_problem(&stack, "snapshot/pause", token, good, (409, "no copy")).await;
    for (body, words) in [
        ("{", "not JSON"),
        ("", "schema.table"),
        ("[]", "schema.table"),
        (r#"{"table":"business.items","where":"1=1"}"#, "where"),
        (r#"{"table":"business.items","from":[1,2]}"#, "1 column"),
        (r#"{"table":"business.items","from":[]}"#, "1 column"),
        (r#"{"table":"business.items","to":[null]}"#, "strings or whole numbers"),
        (r#"{"table":"business.items","from":["one"]}"#, "bigint"),
        (r#"{"table":"business.items","to":["9223372036854775808"]}"#, "bigint"),
    ] {
        assert_problem(&stack, "snapshot", token, body, (400, words)).await;
    }
    orders_go_on(&stack).await;
    assert_eq!(items.history(&stack).by_key.values().map(Vec::len).sum::<usize>(), before, "nothing was read again");
    assert_eq!(stopped_metric(&stack, "business.items").await, Some(0.0));
    run(&mut stack.source().await, "UPDATE business.items SET mark = 5 WHERE id = 5").await;
    items.until_judged_equal(&stack).await;
}

#[tokio::test]
async fn without_a_token_in_the_settings_no_command_is_taken() {
    let mut stack = Stack::new().await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    for token in [None, Some(""), Some(TOKEN)] {
        let body = r#"{"table":"business.orders"}"#;
        assert_problem(&stack, "snapshot", token, body, (403, "http.control_token")).await;
    }
}

//! A value of any type becomes the JSON that is documented, whether the first copy brings it or the stream, and is the table's value again
//! when it is cast back.

use crate::database::run;
use crate::history::{History, header};
use crate::judged_table::JudgedTable;
use crate::stack::{CDC_INGEST, Stack};
use crate::typed_values::{ALL, TYPES};
use shared::record::header::Operation;

/// The rows of the table: each type has its n-th value in the n-th, and NULL where it has no more.
fn rows() -> usize {
    ALL.iter().map(|typed| typed.values.len()).max().unwrap() + 1
}

fn create() -> String {
    let columns: Vec<String> =
        ALL.iter().enumerate().map(|(place, typed)| format!("c{place} {}", typed.sql_type)).collect();
    format!("{TYPES}; CREATE TABLE business.everything (id bigint PRIMARY KEY, {})", columns.join(", "))
}

/// Inserts all rows, with ids behind `before`.
fn insert(before: usize) -> String {
    let row = |row: usize| {
        let literals = ALL.iter().map(|typed| typed.values.get(row).map_or("NULL", |(literal, _)| *literal));
        let cast = literals.zip(ALL).map(|(literal, typed)| format!("({literal})::{}", typed.sql_type));
        let id = before + row + 1;
        format!("INSERT INTO business.everything VALUES ({id}, {})", cast.collect::<Vec<_>>().join(", "))
    };
    (0..rows()).map(row).collect::<Vec<_>>().join("; ")
}

/// Each row with one of these ids gets the values of the one `by` rows on.
fn update(ids: &str, by: i64) -> String {
    let columns: Vec<String> = (0..ALL.len()).map(|place| format!("c{place} = next.c{place}")).collect();
    format!(
        "UPDATE business.everything e SET {} FROM business.everything next WHERE e.id {ids} AND next.id = e.id + {by}",
        columns.join(", ")
    )
}

/// The JSON of a row with the n-th values.
fn json(id: usize, row: usize) -> String {
    let mut json = format!("{{\"id\":{id}");
    let mut nulls = Vec::new();
    for (place, typed) in ALL.iter().enumerate() {
        let value = typed.values.get(row).map_or("null", |(_, json)| *json);
        json.push_str(&format!(",\"c{place}\":{value}"));
        if value == "null" && row < typed.values.len() {
            nulls.push(format!("\"c{place}\""));
        }
    }
    if !nulls.is_empty() {
        json.push_str(&format!(",\"tidemill.json_null\":[{}]", nulls.join(",")));
    }
    json + "}"
}

fn assert_row(history: &History, id: usize, row: usize, wanted: Operation) {
    let records = history.of(&format!("{{\"id\":{id}}}"));
    let record = records.iter().rev().find(|record| header(record).operation == wanted);
    let record = record.unwrap_or_else(|| panic!("row {id} has no record of {wanted:?}: {records:?}"));
    let (found, expected) = (record.value.as_deref().unwrap(), json(id, row));
    let at = found.bytes().zip(expected.bytes()).take_while(|(found, expected)| found == expected).count();
    let piece = |text: &str| {
        String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(60)..]).chars().take(160).collect::<String>()
    };
    assert!(found == expected, "row {id}, {wanted:?}:\nfound    {}\nexpected {}", piece(found), piece(&expected));
}

/// The stream's rows have ids behind this one.
const STREAM: usize = 100;

async fn carry_everything(settings: &str) {
    let mut stack = Stack::new().await;
    let mut source = stack.source().await;
    run(&mut source, &create()).await;
    run(&mut source, &insert(0)).await;
    let settings = settings.replace("DATABASE here", &format!("DATABASE {}", stack.places.source.database));
    run(&mut source, &settings).await;
    let table = JudgedTable::capture(&mut stack, "everything", "business.everything").await;
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 4);
    stack.start(CDC_INGEST);
    stack.ready().await;
    run(&mut source, &insert(STREAM)).await;
    table.until_topic_is_the_table(&stack).await;
    let history = table.history(&stack);
    for row in 0..rows() {
        assert_row(&history, row + 1, row, Operation::Snapshot);
        assert_row(&history, STREAM + row + 1, row, Operation::Insert);
    }

    run(&mut source, &update(&format!("< {STREAM}"), 1)).await;
    run(&mut source, "ALTER TABLE business.everything REPLICA IDENTITY FULL").await;
    run(&mut source, &update(&format!("> {STREAM}"), 1)).await;
    table.until_topic_is_the_table(&stack).await;
    let history = table.history(&stack);
    for row in 0..rows() - 1 {
        assert_row(&history, row + 1, row + 1, Operation::Update);
        assert_row(&history, STREAM + row + 1, row + 1, Operation::Update);
    }
    history.assert_nothing_twice();
}

#[tokio::test]
async fn every_type_becomes_the_same_json_by_copy_and_by_stream() {
    carry_everything("SELECT").await;
}

#[tokio::test]
async fn defaults_of_database_and_role_do_not_change_the_json() {
    carry_everything(
        "ALTER DATABASE here SET DateStyle = 'German'; ALTER DATABASE here SET IntervalStyle = 'iso_8601';
         ALTER DATABASE here SET TimeZone = 'Asia/Shanghai'; ALTER DATABASE here SET extra_float_digits = -5;
         ALTER DATABASE here SET bytea_output = 'escape'; ALTER DATABASE here SET lc_monetary = 'POSIX';
         ALTER DATABASE here SET search_path = business, public; ALTER DATABASE here SET quote_all_identifiers = on;
         ALTER DATABASE here SET standard_conforming_strings = off; ALTER DATABASE here SET backslash_quote = on;
         ALTER DATABASE here SET client_encoding = 'LATIN1'; ALTER DATABASE here SET xmlbinary = 'hex';
         ALTER ROLE tidemill_capture IN DATABASE here SET DateStyle = 'SQL, DMY';
         ALTER ROLE tidemill_capture IN DATABASE here SET extra_float_digits = -15;
         ALTER ROLE tidemill_capture IN DATABASE here SET search_path = business",
    )
    .await;
}

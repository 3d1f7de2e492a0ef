//! The whole way of one key, for people: what happened at the source, and every record and row that came of it; for an order, its
//! user's as well.

use std::fmt::Write as _;

use serde::Deserialize;
use shared::failure::Failure;
use shared::pg::{TableName, refused};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::Surroundings;
use crate::chaos::witness::subject::Subject;
use crate::chaos::witness::{self, Entry, Made};
use crate::layers::{LayerRecord, Layers};
use crate::table::Table;

pub(super) async fn of(
    surroundings: &Surroundings<'_>,
    layers: &Layers,
    subject: Subject,
    key: i64,
) -> Result<String, Failure> {
    let names = &surroundings.places.names;
    let mut text = String::new();
    if subject == Subject::Users {
        write_way(surroundings, layers, subject, key, &[surroundings.users_topic], &mut text).await?;
        return Ok(text);
    }
    let topics = [names.ods_topic.as_str(), &names.dwd_topic, &names.result_topic];
    let user = write_way(surroundings, layers, subject, key, &topics, &mut text).await?;
    let mut sink = surroundings.places.connect_sink().await?;
    for table in [&names.latest, &names.trail] {
        write_rows(&mut sink, table, key, &mut text).await?;
    }
    write_deletion(&mut sink, key, &mut text).await?;
    if let Some(user) = user {
        write_way(surroundings, layers, Subject::Users, user, &[surroundings.users_topic], &mut text).await?;
    }
    Ok(text)
}

#[derive(Deserialize)]
struct Owned {
    user_id: i64,
}

/// Source and topics. Answers the user whom the last row names.
async fn write_way(
    surroundings: &Surroundings<'_>,
    layers: &Layers,
    subject: Subject,
    key: i64,
    topics: &[&str],
    text: &mut String,
) -> Result<Option<i64>, Failure> {
    let _ = writeln!(text, "the whole way of {} {key}", subject.noun());
    let mut source = surroundings.places.connect_source().await?;
    write_entries(&witness::entries_of(&mut source, subject, key).await?, text);
    let (wanted, mut user) = (subject.key_json(key), None);
    for topic in topics {
        let records = layers.read(topic, &layers.begin(topic)?, |found| found == wanted)?;
        let last = records.iter().rev().find_map(|record| record.value.as_deref());
        user = last.and_then(|row| serde_json::from_str(row).ok()).map(|Owned { user_id }| user_id).or(user);
        write_records(topic, &records, text);
    }
    Ok(user)
}

fn write_lines(table: &Table, text: &mut String) {
    for line in table.lines() {
        let _ = writeln!(text, "    {line}");
    }
}

fn write_entries(entries: &[Entry], text: &mut String) {
    let _ = writeln!(text, "  at the source, by the witness");
    let mut table = Table::new(&["entry", "WAL at", "transaction", "time (UTC)", "what", "row"]);
    let mut is_live = false;
    for entry in entries {
        // A TRUNCATE of a table where the key is not says nothing of it.
        if entry.made == Made::Truncated && !is_live {
            continue;
        }
        is_live = entry.row.is_some();
        let values = entry.row.iter().flatten().map(|value| value.as_deref().unwrap_or("NULL"));
        table.row(&[
            entry.number.to_string(),
            entry.lsn.to_string(),
            entry.transaction.to_string(),
            entry.at.clone(),
            format!("{:?}", entry.made).to_lowercase(),
            in_one_line(&values.collect::<Vec<_>>().join(" | ")),
        ]);
    }
    write_lines(&table, text);
}

fn in_one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\t', "\\t")
}

/// Versions are long: of an order's own they are `v`, of its user's `u`.
fn write_records(topic: &str, records: &[LayerRecord], text: &mut String) {
    let _ = writeln!(text, "  {topic}");
    let mut table = Table::new(&["partition", "offset", "op", "v", "u", "tx", "in", "committed", "produced", "value"]);
    for record in records {
        let mut cells = vec![record.partition.to_string(), record.offset.to_string()];
        match &record.header {
            Ok(header) => cells.extend([
                header.operation.as_str().to_owned(),
                header.version.to_string(),
                header.joined.to_string(),
                header.transaction.to_string(),
                header.input_offset.map(|offset| offset.to_string()).unwrap_or_default(),
                header.commit_time_us.map(|us| clock(us / 1_000)).unwrap_or_default(),
            ]),
            Err(error) => cells.extend([String::new(), error.to_string()].into_iter().chain(vec![String::new(); 4])),
        }
        cells.push(record.produced_ms.map(clock).unwrap_or_default());
        cells.push(in_one_line(record.value.as_deref().unwrap_or("gone")));
        table.row(&cells);
    }
    write_lines(&table, text);
}

/// The time of day, UTC.
fn clock(milliseconds: i64) -> String {
    let seconds = milliseconds.div_euclid(1_000);
    let of_day = seconds.rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}.{:03}", of_day / 3_600, of_day / 60 % 60, of_day % 60, milliseconds.rem_euclid(1_000))
}

async fn write_rows(
    sink: &mut PgConnection,
    table: &TableName,
    order_id: i64,
    text: &mut String,
) -> Result<(), Failure> {
    let sql = format!("SELECT t::text FROM {} t WHERE order_id = $1 ORDER BY record_version", table.sql());
    let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(order_id)
        .fetch_all(sink)
        .await
        .map_err(|error| refused(format!("{table} cannot be read"), error))?;
    let _ = writeln!(text, "  {table}: {} rows", rows.len());
    for row in rows {
        let _ = writeln!(text, "    {}", in_one_line(&row));
    }
    Ok(())
}

async fn write_deletion(sink: &mut PgConnection, order_id: i64, text: &mut String) -> Result<(), Failure> {
    let sql = "SELECT d::text FROM tidemill.deleted_keys d WHERE key = $1";
    let rows: Vec<String> = sqlx::query_scalar(sql)
        .bind(Subject::Orders.key_json(order_id))
        .fetch_all(sink)
        .await
        .map_err(|error| refused("the deleted keys cannot be read", error))?;
    for row in rows {
        let _ = writeln!(text, "  deleted in the sink: {row}");
    }
    Ok(())
}

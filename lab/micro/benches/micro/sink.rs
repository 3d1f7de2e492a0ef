//! pg-sinker: the records of a batch read for a table, and what of them remains.

use criterion::{Criterion, Throughput};
use pg_sinker::catalog::{ColumnFacts, Facts};
use pg_sinker::coalesce::changes;
use pg_sinker::entry::{Entry, Item};
use pg_sinker::settings::{Settings, TableConfig};
use pg_sinker::tables::{Tables, examine};
use shared::batch::Batch;
use std::hint::black_box;

use crate::topic;

/// Columns of the table with the latest state, and their types.
const COLUMNS: [(&str, &str); 11] = [
    ("order_id", "bigint"),
    ("user_id", "bigint"),
    ("product_name", "character varying"),
    ("quantity", "integer"),
    ("total_amount", "numeric"),
    ("order_status", "character varying"),
    ("order_time", "timestamp without time zone"),
    ("product_category_normalized", "character varying"),
    ("processed_time", "timestamp without time zone"),
    ("source_commit_time", "timestamp with time zone"),
    ("record_version", "bytea"),
];

fn tables() -> Tables {
    let column = |(name, type_sql): (&str, &str)| ColumnFacts {
        name: name.into(),
        type_sql: type_sql.into(),
        not_null: true,
        has_default: false,
        generated: false,
    };
    let facts = Facts {
        is_table: true,
        schema_usage: true,
        is_owned: true,
        privileges: ["SELECT", "INSERT", "UPDATE", "DELETE"].map(String::from).into(),
        columns: COLUMNS.map(column).into(),
        unique: vec![vec!["order_id".into()]],
    };
    let keyed_by_order = |table: &&TableConfig| table.key == ["order_id"];
    let config = Settings::default().tables.into_values().find(|table| keyed_by_order(&table)).unwrap();
    Tables::new(vec![examine(&config, Some(&facts), "writer").unwrap()])
}

fn items<'a>(batch: &'a Batch, tables: &Tables) -> Vec<Item<'a>> {
    batch.records().map(|record| Item::read(record, tables)).collect()
}

fn entries<'i, 'a>(items: &'i [Item<'a>]) -> impl Iterator<Item = &'i Entry<'a>> + Clone {
    items.iter().map(|item| item.content.as_ref().unwrap())
}

pub fn read(criterion: &mut Criterion) {
    let (batch, tables) = (topic::cleaned(1), tables());
    assert_eq!(entries(&items(&batch, &tables)).count(), topic::RECORDS as usize);
    let mut group = criterion.benchmark_group("pg-sinker");
    group.throughput(Throughput::Elements(topic::RECORDS.into()));
    group.bench_function("read", |bencher| bencher.iter(|| items(black_box(&batch), &tables).len()));
}

pub fn coalesce(criterion: &mut Criterion) {
    let (batch, tables) = (topic::cleaned(1), tables());
    let items = items(&batch, &tables);
    let mut group = criterion.benchmark_group("pg-sinker");
    group.throughput(Throughput::Elements(topic::RECORDS.into()));
    group.bench_function("coalesce", |bencher| {
        bencher.iter(|| changes(&tables.tables[0], entries(black_box(&items))).rows.len());
    });
}

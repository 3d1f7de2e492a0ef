//! cdc-ingest: a message of the WAL, and the row that it becomes.

use cdc_ingest::decode::{Message, Tuple, decode as decoded};
use cdc_ingest::row::Shape;
use criterion::{Criterion, Throughput};
use shared::kafka::partitioner::partition;
use shared::pg::TableName;
use std::hint::black_box;

/// Names and type OIDs of an order's columns, and a row.
const ORDER: [(&str, u32, &str); 10] = [
    ("order_id", 20, "2001"),
    ("user_id", 20, "1001"),
    ("product_name", 1043, "iPhone 15 Pro 256GB"),
    ("product_category", 1043, "电子产品"),
    ("quantity", 23, "1"),
    ("unit_price", 1700, "5999.00"),
    ("total_amount", 1700, "5999.00"),
    ("order_status", 1043, "PENDING"),
    ("order_time", 1114, "2025-07-11 17:25:55.145"),
    ("updated_at", 1114, "2025-07-11 17:25:55.145"),
];

/// An Insert message of pgoutput, by "Logical Replication Message Formats" of the PostgreSQL documentation.
fn insert() -> Vec<u8> {
    let mut message = vec![b'I', 0, 0, 0, 1, b'N', 0, ORDER.len() as u8];
    for (.., text) in ORDER {
        message.push(b't');
        message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        message.extend(text.as_bytes());
    }
    message
}

fn tuple(message: &[u8]) -> Tuple<'_> {
    match decoded(message) {
        Ok(Message::Insert { new, .. }) => new,
        other => panic!("{other:?}"),
    }
}

pub fn decode(criterion: &mut Criterion) {
    let message = insert();
    let mut group = criterion.benchmark_group("cdc-ingest");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode", |bencher| bencher.iter(|| tuple(black_box(&message)).cells().count()));
}

pub fn encode(criterion: &mut Criterion) {
    let message = insert();
    let columns = ORDER.map(|(name, type_oid, _)| (name, type_oid));
    let shape = Shape::new(&TableName::parse("business.orders"), columns, &["order_id".into()]).unwrap();
    let (mut key, mut row) = (Vec::new(), Vec::new());
    let mut group = criterion.benchmark_group("cdc-ingest");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            key.clear();
            row.clear();
            let cells = tuple(black_box(&message)).cells();
            shape.write_key(cells.clone(), &mut key).unwrap();
            shape.write_row(cells, &mut row);
            partition(&key, 4)
        });
    });
}

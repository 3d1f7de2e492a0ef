//! What a row costs in each stage, without Kafka and without PostgreSQL: the plain functions between what is read and what is sent.
//!
//! ```text
//!  decode, encode (cdc-ingest) ─▶ clean (dwd-cleaner) ─▶ join (dim-joiner) ─▶ read, coalesce (pg-sinker)
//! ```

mod capture;
mod clean;
mod join;
mod sink;
mod topic;

use criterion::{criterion_group, criterion_main};

criterion_group!(stages, capture::decode, capture::encode, clean::clean, join::join, sink::read, sink::coalesce);
criterion_main!(stages);

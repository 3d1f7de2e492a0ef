//! What the four services of Tidemill have in common.
//!
//! ```text
//!  cdc-ingest ──▶ ods_* ──▶ dwd-cleaner ──▶ dwd_orders ──▶ dim-joiner ──▶ result_… ──▶ pg-sinker
//!
//!  a stage:   reader ──Batch──▶ worker ──Outgoing──▶ publisher            one generation, one fate
//!                ▲                                        │
//!                └──────────── Progress ◀── Ledger ◀──────┘               positions behind the acknowledgement
//! ```
//!
//! The modules stand in the order in which data meets them: where a change stands, what a record looks like, how records travel in
//! batches, how Kafka and PostgreSQL are reached, and how a process lives.

pub mod position;
pub mod record;

pub mod batch;
pub mod ledger;

pub mod clock;
pub mod failure;
pub mod generation;
pub mod said;

pub mod kafka;
pub mod pg;

pub mod check;
pub mod config;
pub mod console;
pub mod control;
pub mod health;
pub mod http;
pub mod metrics;
pub mod page;
mod probe;
pub mod pulse;
pub mod run;
pub mod scalar;
pub mod telemetry;
pub mod traces;

//! Writes the results to PostgreSQL: each row once, with its last value, and the offsets in the same transaction.
//!
//! ```text
//!  result_… ──▶ reading thread ──Batch──▶ Feed ──▶ Writer ──transactions─────▶ result.*          rows, guarded by their version
//!                    ▲                              │  │                       dws.*             roll-ups of them (see `rollups`)
//!                    │                              │  │                       tidemill.deleted_keys
//!                    │ next offset                  │  │                       tidemill.sink_offsets  compare-and-set
//!                    │                              │  └──▶ Publisher ──▶ dlq_pg_sinker   records that the database refuses
//!                    └── StartPoint ◀───────────────┴────── tidemill.sink_offsets
//! ```
//!
//! The sink's own offset says where a partition goes on; Kafka's committed one only shows the lag. It moves from the value that this
//! writer believes in or not at all, so of two writers that believe to own a partition one fails before it has written a row.
//!
//! Each topic that goes into a table of the sink has such a chain; they share the publisher and the fate.
//!
//! The modules stand in the order in which data meets them.

// What is set, and what the sink's tables are.
pub mod settings;

pub mod catalog;
pub mod growth;
pub mod tables;
mod ways;

// What a record says, and what of a batch remains.
pub mod entry;

pub mod coalesce;
mod shares;
mod split;

// How it is written.
mod upsert;

mod query;

mod deleted_keys;

mod locks;
mod session;

mod checkpoint;
mod fault;

// What is summed up over the rows that were written.
mod exchange;
mod rollups;

mod transaction;

// What is made of tables before they are written.
mod evolve;

// Who does it.
mod letters;
mod outage;

mod lane;
mod writer;

// What is read again.
mod backfill;

// What the newest rows say of the tables.
mod rehearsal;

// Whether the sink is the source.
mod reconcile;

// What is said of the sink beside that.
mod parking;
mod rows;
mod size;

mod pipeline;

pub use pipeline::PgSinker;

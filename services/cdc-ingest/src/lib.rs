//! cdc-ingest: what changes in PostgreSQL stands in Kafka, each row once, in commit order.
//!
//! ```text
//!  PostgreSQL ──WAL──▶ WalReader ──WalBatch──▶ Capture ──Outgoing──▶ Publisher ──▶ ods_*, cdc_state
//!      │                   ▲                   │  ▲  ▲                  │
//!      ├──COPY chunks──▶ ChunkReader ◀─asks────┘  │  └──chunks acked────┤
//!      │                       └──ChunkTaken──────┤                     │
//!      └──catalog, slot──▶ Watch ──looks──────────┘                     │
//!                          └──────────────── confirmed LSN ◀────────────┘
//! ```
//!
//! The modules stand in the order of the data: the source and where to start, the stream and its bytes, rows, transactions and chunks,
//! what is remembered, and the chain.

pub mod settings;

pub mod catalog;
pub mod slot;
pub mod source;
pub mod told;

pub mod check;
pub mod found;
pub mod start;
pub mod state;
pub mod witness;

pub mod wal_stream;

pub mod change;
pub mod decode;
pub mod described;
pub mod row;
pub mod types;

pub mod copies;
pub mod copy_text;
pub mod key_order;
pub mod merge;
pub mod snapshot;
pub mod visibility;

pub mod transaction;

pub mod capture;
pub mod outlet;
pub mod pipeline;
pub mod watch;

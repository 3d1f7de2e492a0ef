//! Records that are read again, into a table that lost their rows or never had them, while live rows flow: a job that stands in the sink.
//!
//! ```text
//!  command, or a table that is new to its topic ──▶ tidemill.backfills ──▶ Runner: of all instances one ──chunk──▶ the table, its roll-ups
//!                                                          ▲                  ▲  reads the topic outside of any group
//!                                                          └── positions ─────┴── in the transaction of the rows
//! ```
//!
//! docs/adr/0013-backfill-and-rebuild.md says why it is done so.

// What is set, and what is asked.
pub mod commands;
pub mod settings;
pub mod span;

// What stands in the sink.
pub mod job;

// How it is done.
mod chunk;
mod destination;
mod reading;
mod rebuild;
pub mod runner;
mod shadow;
mod sweep;
mod topic;

//! The proof that the sink is the source, while both are written to.
//!
//! ```text
//!  source ──sums of key ranges──┐                       ┌── position L2 ─▶ slot ─▶ topics ─▶ sink_offsets   everything up to L2 is in the sink
//!                               ├─▶ listed ─▶ candidates ┤                                                  │
//!  sink ────sums of key ranges──┘                       └── read at the source, in the sink, at the source ◀┘ ─▶ rows that differ
//!                                                                                                                │
//!  cdc-ingest ◀── read these keys again (--repair) ◀── where in the chain each got lost ◀── newest records, dead letters
//! ```
//!
//! docs/adr/0009-reconciliation.md says why it is done so. The modules stand in the order in which a comparison meets them.

pub mod command;
pub mod settings;

// What is compared, and how values of two servers become alike.
mod described;
mod kind;
mod pair;
mod statement;

// From sums to keys.
mod digest;
mod parts;
mod sides;

// Whether they differ in truth.
mod capture;
mod chain;
mod judge;

// Where they got lost.
mod lost;
mod places;
mod search;
mod topic_texts;

// Who does it, and what is said of it.
mod compare;
pub mod kept;
pub mod open;
mod report;
pub mod schedule;
pub mod wanted;

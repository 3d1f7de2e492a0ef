//! The console: one page, served by every instance, that shows the whole pipeline; and the API behind it.
//!
//! ```text
//!  metrics, health ──▶ teller ──▶ topic tidemill_state ──▶ teller of every instance ──▶ told::Pipeline ──▶ api ──▶ page
//!                                 topics of the pipeline ──▶ look ─────────────────────────────────────────┘
//! ```
//!
//! Services meet in Kafka only, and so do their states: docs/adr/0010-console.md.

pub mod settings;
pub mod topology;

pub mod figures;
pub mod told;

pub mod look;
pub mod teller;

pub mod api;

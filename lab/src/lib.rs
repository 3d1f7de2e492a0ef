//! Drives a running pipeline from outside, as a user would, and holds what comes out against what went in.
//!
//! ```text
//!   changes ──▶ source ═══ the four services ═══▶ sink ──▶ sightings, compare
//!                             │   │   │
//!                             ▼   ▼   ▼
//!                         layers (topics), ready (pages), resources (/proc)
//! ```
//!
//! The library holds the measures, for scripts and end-to-end tests alike; the binary `tidemill-lab` is one command for each.
//! It knows the services by what everybody sees of them: tables, topics, pages.

pub use shared::page;

pub mod places;

pub mod ports;
pub mod processes;
pub mod proxy;
pub mod random;
pub mod ready;
pub mod resources;

pub mod changes;
pub mod layers;
pub mod sightings;
pub mod slot;

pub mod captured;
pub mod compare;
pub mod expected;
pub mod percentiles;

pub mod paper;
pub mod table;

pub mod bench;
pub mod chaos;
pub mod latency;
pub mod load;
pub mod pages;
pub mod report;
pub mod show;
pub mod validate;

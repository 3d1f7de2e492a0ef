//! The benchmark: how fast a stage of the pipeline is, and how soon the pipeline goes on after something broke.
//!
//! What else the machine did stands beside the figures, since it is in all of them.

mod calm;
mod child;
mod fresh;
mod handover;
mod hop;
mod meter;
mod orders;
mod questions;
pub mod report;
pub mod rows;
mod spread;
mod topic_writer;
mod variant;

pub use self::hop::raw;

pub mod capture;
pub mod growth;
pub mod reconciliation;
pub mod recovery;
pub mod reemission;
pub mod restore;
pub mod scale;
pub mod stages;
pub mod whole;

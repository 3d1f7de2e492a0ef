//! The benchmark: how fast a stage of the pipeline is, and how soon the pipeline goes on after something broke.
//!
//! What else the machine did stands beside the figures, since it is in all of them.

mod calm;
mod child;
mod meter;
mod orders;
mod report;
mod spread;

pub mod capture;
pub mod recovery;
pub mod reemission;
pub mod restore;

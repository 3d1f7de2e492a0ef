//! The benchmark, a stage of the pipeline at a time: what our program makes of an input, held against the least that any
//! reader of the same input must do, in the same run and on the same machine.
//!
//! Both sides read the same bytes in turn, so that their ratio says something where the figures alone say little. What else the
//! machine did stands beside each figure, since it does not weigh on both alike.

mod calm;
mod child;
mod meter;
mod spread;

pub mod capture;

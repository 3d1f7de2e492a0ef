//! The benchmark, a stage of the pipeline at a time: what our program makes of an input, held against the least that any
//! reader of the same input must do, in the same run and on the same machine.
//!
//! Figures of a machine that others use as well are worth little by themselves; their ratios are. So both sides read the same
//! bytes in turn, and what else the machine did stands beside each figure.

mod calm;
mod child;
mod meter;
mod spread;

pub mod capture;

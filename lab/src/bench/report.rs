//! What a benchmark came to: figures for people, and as a file for programs.

use std::path::Path;

use serde::Serialize;
use shared::failure::{Failure, FailureKind};

use crate::paper::Paper;

/// All figures of a benchmark.
pub trait Report: Serialize {
    /// For people.
    fn write(&self, paper: &mut Paper);

    /// Whether all was there in the end, as it should be.
    fn is_good(&self) -> bool {
        true
    }
}

/// Shows the figures, and writes them as JSON, if a file is wanted. Answers whether all was good.
pub fn tell(outcome: &impl Report, json: Option<&Path>, paper: &mut Paper) -> Result<bool, Failure> {
    outcome.write(paper);
    write_json(json, outcome)?;
    Ok(outcome.is_good())
}

fn write_json(path: Option<&Path>, outcome: &impl Serialize) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let failed = |what: &str| Failure::new(FailureKind::Settings, format!("{} {what}", path.display()));
    let text =
        serde_json::to_string_pretty(outcome).map_err(|error| failed("cannot hold the figures").caused_by(error))?;
    std::fs::write(path, text + "\n").map_err(|error| failed("cannot be written").caused_by(error))
}

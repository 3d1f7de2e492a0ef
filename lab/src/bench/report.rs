//! The figures as a file, for programs.

use std::path::Path;

use serde::Serialize;
use shared::failure::{Failure, FailureKind};

/// Writes them as JSON, if a file is wanted.
pub fn write_json(path: Option<&Path>, outcome: &impl Serialize) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let failed = |what: &str| Failure::new(FailureKind::Settings, format!("{} {what}", path.display()));
    let text =
        serde_json::to_string_pretty(outcome).map_err(|error| failed("cannot hold the figures").caused_by(error))?;
    std::fs::write(path, text + "\n").map_err(|error| failed("cannot be written").caused_by(error))
}

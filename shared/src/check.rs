//! `NAME check`: is everything in place? One line a finding, with the cure.

use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::record::row::for_each_field;

/// What `check` looks at, where it tries the settings on rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckConfig {
    /// They are tried on so many of the last rows of each partition.
    pub rows_max: usize,
}

impl Default for CheckConfig {
    fn default() -> Self {
        CheckConfig { rows_max: 100 }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// Nothing is wrong.
    pub ok: bool,
    /// Nothing is wrong as far as it could be seen.
    pub is_warning: bool,
    pub text: String,
}

impl Finding {
    pub fn ok(text: impl Into<String>) -> Self {
        Finding { ok: true, is_warning: false, text: text.into() }
    }

    pub fn warning(text: impl Into<String>) -> Self {
        Finding { is_warning: true, ..Finding::ok(text) }
    }

    pub fn problem(failure: &Failure) -> Self {
        Finding { ok: false, is_warning: false, text: failure.chain() }
    }

    /// The finding for an outcome: what holds, or what is wrong.
    pub fn of<T>(outcome: &Result<T, Failure>, holds: impl Into<String>) -> Self {
        match outcome {
            Ok(_) => Finding::ok(holds),
            Err(failure) => Finding::problem(failure),
        }
    }
}

/// The columns that some rows have.
pub fn columns_of<'r>(rows: impl IntoIterator<Item = &'r [u8]>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for row in rows {
        let _ = for_each_field(row, |name, _| {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        });
    }
    names
}

/// The findings as lines.
pub fn render(findings: &[Finding]) -> String {
    let colour = std::io::stdout().is_terminal();
    let mark = |finding: &Finding| match (finding.ok, finding.is_warning) {
        (true, false) => ("ok     ", 32),
        (true, true) => ("warning", 33),
        (false, _) => ("problem", 31),
    };
    let line = |finding: &Finding| match (mark(finding), colour) {
        ((word, number), true) => format!("\x1b[{number}m{word}\x1b[0m {}\n", finding.text),
        ((word, _), false) => format!("{word} {}\n", finding.text),
    };
    findings.iter().map(line).collect()
}

//! `NAME check`: is everything in place? One line a finding, with the cure.

use std::io::IsTerminal as _;

use crate::failure::Failure;

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    pub ok: bool,
    pub text: String,
}

impl Finding {
    pub fn ok(text: impl Into<String>) -> Self {
        Finding { ok: true, text: text.into() }
    }

    pub fn problem(failure: &Failure) -> Self {
        Finding { ok: false, text: failure.chain() }
    }

    /// The finding for an outcome: what holds, or what is wrong.
    pub fn of<T>(outcome: &Result<T, Failure>, holds: impl Into<String>) -> Self {
        match outcome {
            Ok(_) => Finding::ok(holds),
            Err(failure) => Finding::problem(failure),
        }
    }
}

/// The findings as lines.
pub fn render(findings: &[Finding]) -> String {
    let colour = std::io::stdout().is_terminal();
    let mark = |ok: bool| match (ok, colour) {
        (true, true) => "\x1b[32mok     \x1b[0m",
        (true, false) => "ok     ",
        (false, true) => "\x1b[31mproblem\x1b[0m",
        (false, false) => "problem",
    };
    findings.iter().map(|finding| format!("{} {}\n", mark(finding.ok), finding.text)).collect()
}

//! Where a command writes for people: coloured on a terminal, plain elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write};

use serde::Serialize;
use shared::failure::{Failure, FailureKind};

use crate::table::Table;

/// What is written. An error while writing is passed over: the exit code still tells.
pub struct Paper {
    out: Box<dyn Write + Send>,
    terminal: bool,
    colour: bool,
}

const RED: &str = "31";
const GREEN: &str = "32";
const BOLD: &str = "1";
const DIM: &str = "2";
const CYAN: &str = "36";

impl Paper {
    pub fn stdout() -> Self {
        Paper::on(Box::new(std::io::stdout()), std::io::stdout().is_terminal())
    }

    pub fn stderr() -> Self {
        Paper::on(Box::new(std::io::stderr()), std::io::stderr().is_terminal())
    }

    /// For callers that want the text elsewhere, or (`std::io::sink`) nowhere.
    pub fn plain(out: impl Write + Send + 'static) -> Self {
        Paper::on(Box::new(out), false)
    }

    /// Colours on a terminal, unless the environment has `NO_COLOR` (no-color.org).
    fn on(out: Box<dyn Write + Send>, terminal: bool) -> Self {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Paper { out, terminal, colour }
    }

    /// Whether somebody may be watching.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    fn painted(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub fn line(&mut self, text: impl Display) {
        let _ = writeln!(self.out, "{text}");
    }

    /// A line in the background.
    pub fn note(&mut self, text: impl Display) {
        let text = self.painted(DIM, text);
        self.line(text);
    }

    pub fn headline(&mut self, text: impl Display) {
        let text = self.painted(BOLD, text);
        self.line(format!("\n{text}"));
    }

    /// A line with ✓ or ✗.
    pub fn check(&mut self, ok: bool, text: impl Display) {
        let mark = if ok { self.painted(GREEN, "✓") } else { self.painted(RED, "✗") };
        self.line(format!("  {mark} {text}"));
    }

    /// The last line: how it went.
    pub fn verdict(&mut self, ok: bool, text: impl Display) {
        let text = self.painted(if ok { GREEN } else { RED }, text);
        self.line(format!("\n{text}"));
    }

    pub fn table(&mut self, table: &Table) {
        let mut lines = table.lines().into_iter();
        if let Some(heads) = lines.next() {
            let heads = self.painted(BOLD, heads);
            self.line(format!("  {heads}"));
        }
        for line in lines {
            let line = self.with_bars(&line);
            self.line(format!("  {line}"));
        }
    }

    /// Bars in a colour of their own.
    fn with_bars(&self, line: &str) -> String {
        let Some(begin) = line.find('█') else { return line.to_owned() };
        let (text, bar) = line.split_at(begin);
        format!("{text}{}", self.painted(CYAN, bar))
    }

    /// A result for programs, as one line of JSON.
    pub fn json(&mut self, result: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(result).map_err(|error| {
            Failure::new(FailureKind::Broken, "the result cannot be written as JSON").caused_by(error)
        })?;
        self.line(text);
        Ok(())
    }

    /// How far it is: overwritten by the next one on a terminal, a line of its own elsewhere.
    pub fn progress(&mut self, text: impl Display) {
        if self.terminal {
            let _ = write!(self.out, "\r{text}\x1b[K");
            let _ = self.out.flush();
        } else {
            self.line(text);
        }
    }

    /// Ends a row of progress lines.
    pub fn progressed(&mut self) {
        if self.terminal {
            self.line("");
        }
    }
}

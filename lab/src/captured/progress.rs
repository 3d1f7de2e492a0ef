//! How far a comparison is, for somebody who watches it on a terminal.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::paper::Paper;

/// Time between two looks.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Writes on a terminal, and nowhere else.
pub struct Progress<'a> {
    paper: &'a mut Paper,
    told: Option<Instant>,
}

impl<'a> Progress<'a> {
    pub fn on(paper: &'a mut Paper) -> Self {
        Progress { paper, told: None }
    }

    /// A step that takes its time begins.
    pub fn begin(&mut self, text: impl Display) {
        if self.paper.is_terminal() {
            self.told = Some(Instant::now());
            self.paper.progress(text);
        }
    }

    /// It goes on.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.told.is_some_and(|told| told.elapsed() >= TELL_EVERY) {
            self.begin(text());
        }
    }

    pub fn end(&mut self) {
        if self.told.take().is_some() {
            self.paper.progressed();
        }
    }
}

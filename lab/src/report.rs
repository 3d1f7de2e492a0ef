//! The order analysis report: what the views of `ads` say at one moment, in the terminal and as a page.
//!
//! ```text
//!  ads.* ──one read-only transaction──▶ figures ──▶ paper: tables and bars
//!                                           └─────▶ plot (SVG) ──▶ page: one file of HTML
//! ```

mod figures;
mod page;
mod plot;
mod words;

use std::path::Path;

use shared::failure::{Failure, FailureKind};

pub use self::figures::{Report, Section};
use crate::paper::Paper;
use crate::places::Places;
use crate::table::{Table, bar};

/// Columns of the longest bar in the terminal.
const BAR: usize = 24;
const BAR_STEPS: usize = 1_000_000;

/// Reads the figures and writes them on paper, and as a page where a file is named.
pub async fn run(places: &Places, html: Option<&Path>, paper: &mut Paper) -> Result<(), Failure> {
    let report = Report::read(&mut places.connect_sink().await?).await?;
    report.write(paper);
    let Some(file) = html else { return Ok(()) };
    std::fs::write(file, page::html(&report)?).map_err(|error| {
        Failure::new(FailureKind::Settings, format!("the page cannot be written to {}", file.display()))
            .caused_by(error)
            .cure("name a file in a folder that can be written")
    })?;
    paper.line(format!("\nas a page: {}", file.display()));
    Ok(())
}

impl Report {
    fn write(&self, paper: &mut Paper) {
        paper.headline(format!("Order analysis · {}", self.at));
        let mut tiles = Table::new(&["", ""]);
        for tile in &self.tiles {
            tiles.row(&[tile.name, &tile.value]);
        }
        tiles.lines().iter().skip(1).for_each(|line| paper.line(format!("  {line}")));
        for warning in &self.warnings {
            paper.check(false, warning);
        }
        for section in &self.sections {
            paper.headline(section.title);
            if section.rows.is_empty() {
                paper.note("  nothing yet");
                continue;
            }
            paper.table(&section.table());
        }
    }
}

impl Section {
    /// With bars, where it has a plot.
    fn table(&self) -> Table {
        let lengths = self.shares();
        let headings: Vec<&str> = self.headings.iter().copied().chain(lengths.as_ref().map(|_| "")).collect();
        let mut table = Table::new(&headings);
        for (at, row) in self.rows.iter().enumerate() {
            let mut cells = row.clone();
            if let Some(share) = lengths.as_ref().and_then(|lengths| lengths.get(at)) {
                // A share of the longest; what is shown of it needs no more than this.
                let steps = (share * BAR_STEPS as f64).round() as usize;
                cells.push(bar(steps, BAR_STEPS, BAR));
            }
            table.row(&cells);
        }
        table
    }
}

//! Single changes at a low rate: from the commit until a consumer sees the record.

use std::time::Duration;

use serde::Serialize;
use shared::failure::Failure;

use super::ingest::Identity;
use super::marks::{self, Board, Made, Row};
use super::{Session, watchers};
use crate::bench::orders;
use crate::paper::Paper;
use crate::percentiles::Summary;
use crate::processes::load_average;
use crate::table::Table;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub changes: u32,
    pub rate: u32,
    /// Not seen within the patience.
    pub unseen: usize,
    /// From the moment at which the writer had the answer to its COMMIT.
    pub from_answer: Option<Summary>,
    /// From the moment at which the change was due: the statement and its commit are in it.
    pub from_due: Option<Summary>,
    /// When it ended.
    pub load_average: Option<f64>,
}

/// A change that is not seen for so long is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the changes. The cdc-ingest of `identity` must run and have nothing else to do.
pub async fn measure(session: &mut Session<'_>, identity: &Identity) -> Result<Outcome, Failure> {
    let (names, plan) = (&session.places.names, session.plan);
    let id = orders::next_id(&mut session.source, names).await?;
    orders::place(&mut session.source, names, id..=id, orders::OF_THE_EXAMPLE).await?;
    let board = Board::default();
    let watcher = watchers::of_topic(&session.places.kafka, &identity.orders_topic(), &board)?;
    let rate_and_count = (plan.rate, plan.changes);
    let made = marks::make(&mut session.source, names, Row::Order(id), rate_and_count, &board).await;
    board.wait_for(plan.changes.saturating_sub(1), PATIENCE).await;
    board.close();
    watchers::join(watcher)?;
    let (made, seen) = (made?, board.seen());
    let summary = |from: fn(&Made) -> std::time::Instant| Summary::of(&marks::waits_us(&made, &seen, from));
    Ok(Outcome {
        changes: plan.changes,
        rate: plan.rate,
        unseen: made.len().saturating_sub(seen.len()),
        from_answer: summary(|made| made.answered),
        from_due: summary(|made| made.due),
        load_average: load_average(),
    })
}

impl Outcome {
    pub fn write(&self, paper: &mut Paper) {
        paper.line(format!("  {} single changes of an order at {} a second", self.changes, self.rate));
        let mut table = Table::new(&[&["until a consumer has the record, from"][..], &Summary::HEADINGS].concat());
        let rows = [("answer to COMMIT", &self.from_answer), ("time the change was due", &self.from_due)];
        for (name, summary) in rows {
            if let Some(summary) = summary {
                table.row(&[&[name.to_owned()][..], &summary.cells()].concat());
            }
        }
        paper.table(&table);
        paper.note(format!("  load average {:.1}", self.load_average.unwrap_or_default()));
        paper.check(self.unseen == 0, format!("{} of {} changes not seen", self.unseen, self.changes));
    }
}

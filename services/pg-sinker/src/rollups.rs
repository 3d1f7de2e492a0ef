//! Roll-ups: sums over the rows of a table, exact at every moment, kept by the difference of old and new row.
//!
//! ```text
//!                      ┌─ exchange: rows that went (-1), rows that came (+1) ─┐
//!  batch ──▶ rows of result.* ──────────────────────────────────────────────▶ apply ──▶ dws.*  tidemill.rollup_values
//!              ▲                                                                ▲
//!              └── fill, chunk by chunk, for rows that were there before ───────┘ tidemill.rollups: how far
//! ```
//!
//! A row counts exactly when its key is not behind the position of the fill. A batch holds a shared lock from its begin, and the fill
//! has it alone for a chunk: no batch is open while a chunk is read that it did not count.

// What is declared.
pub mod declared;

// Held against the catalog.
mod details;
mod examine;

// What is registered in the sink, and how far it is filled.
pub mod register;

// How it is written.
mod apply;
mod fill;
mod groups;
mod statements;

pub use self::apply::Over;
pub use self::details::Details;
pub use self::examine::{Rollup, Surroundings, examine};
pub use self::fill::Fill;

use self::register::Filled;
use crate::exchange::Exchange;
use crate::tables::{Tables, Target};

/// The roll-ups of all tables, in the order in which their locks are taken.
#[derive(Debug, Clone, Default)]
pub struct Rollups {
    pub all: Vec<Rollup>,
}

impl Rollups {
    /// By the name of their tables: the same order in every instance.
    pub fn new(mut all: Vec<Rollup>) -> Self {
        all.sort_by(|one, other| one.label.cmp(&other.label));
        Rollups { all }
    }

    /// Those over a table.
    pub fn over<'r>(&'r self, target: &'r Target) -> impl Iterator<Item = &'r Rollup> {
        self.all.iter().filter(|rollup| rollup.of == target.table.label)
    }

    /// Those over any of these tables.
    pub fn of(&self, tables: &Tables) -> Self {
        let is_over = |rollup: &&Rollup| tables.tables.iter().any(|target| target.table.label == rollup.of);
        Rollups { all: self.all.iter().filter(is_over).cloned().collect() }
    }

    /// What is looked at in the rows of a table; `None` where no roll-up is kept over it.
    pub fn exchange(&self, target: &Target) -> Option<Exchange> {
        self.over(target).next()?;
        Some(Exchange::new(&target.table, self.over(target).flat_map(|rollup| &rollup.columns)))
    }

    /// How far a roll-up is filled; `filled` is in the order of all of them.
    pub fn filled(&self, rollup: &Rollup, filled: &[Filled]) -> Filled {
        let found = self.all.iter().zip(filled).find(|(known, _)| known.label == rollup.label);
        found.map_or(Filled::Nothing, |(_, filled)| filled.clone())
    }
}

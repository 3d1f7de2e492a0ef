//! What a batch changes in the roll-ups over a table.

use std::sync::Arc;

use shared::failure::{Failure, FailureKind};
use sqlx::postgres::{PgBindIterExt as _, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::examine::Rollup;
use super::register::Filled;
use super::statements::{Counts, OfBatch, changed};
use crate::exchange::{Delta, Exchange};
use crate::fault::{self, Fault};
use crate::transaction::Trouble;

/// The roll-ups over one table, in the order in which their locks are taken, and how a batch changes them.
#[derive(Debug, Clone)]
pub struct Over {
    /// The table's label.
    of: String,
    exchange: Exchange,
    rollups: Vec<Rollup>,
    statements: OfBatch,
}

/// Groups and values that no row is in any more.
#[derive(Debug, Default)]
struct Emptied {
    /// For each roll-up.
    groups: Vec<Vec<Vec<u8>>>,
    /// Roll-ups, measures, groups' keys and values, one for each.
    values: (Vec<String>, Vec<String>, Vec<Vec<u8>>, Vec<String>),
}

impl Over {
    pub fn new(of: &str, exchange: &Exchange, rollups: Vec<Rollup>) -> Self {
        let statements = OfBatch::over(exchange, &rollups);
        Over { of: of.to_owned(), exchange: exchange.clone(), rollups, statements }
    }

    /// Adds what came and takes away what went, in each roll-up of the rows that its fill has passed. What no row is in any more vanishes.
    /// `filled` knows how far each roll-up is, by its label.
    pub async fn apply(
        &self,
        connection: &mut PgConnection,
        delta: &Delta,
        filled: impl Fn(&Rollup) -> Filled,
    ) -> Result<(), Trouble> {
        if delta.signs.is_empty() {
            return Ok(());
        }
        let filled: Vec<Filled> = self.rollups.iter().map(filled).collect();
        let counts: Vec<Counts> = filled.iter().map(Counts::of).collect();
        if counts.iter().all(|counts| *counts == Counts::Nothing) {
            return Ok(());
        }
        let is_complete = counts.iter().all(|counts| *counts == Counts::All);
        let statement = if is_complete {
            Arc::clone(&self.statements.all)
        } else {
            changed(&self.exchange, &self.rollups, &counts).into()
        };
        let mut query = sqlx::query(AssertSqlSafe(statement)).bind(delta.signs.iter().copied().bind_iter());
        for column in &delta.rows.columns {
            query = query.bind(column.iter().map(Option::as_deref).bind_iter());
        }
        for value in filled.iter().flat_map(Filled::position) {
            query = query.bind(value);
        }
        let answer = query.fetch_one(&mut *connection).await.map_err(|error| self.trouble(error))?;
        let emptied = self.emptied(&answer, &counts)?;
        if emptied.is_empty() {
            return Ok(());
        }
        emptied.drop(connection, &self.statements).await.map_err(|error| self.trouble(error))
    }

    fn emptied(&self, answer: &PgRow, counts: &[Counts]) -> Result<Emptied, Trouble> {
        let unreadable = |error| self.trouble(error);
        let mut emptied = Emptied::default();
        let mut at = 0..;
        let mut next = || at.next().unwrap_or_default();
        for (rollup, counts) in self.rollups.iter().zip(counts) {
            if *counts == Counts::Nothing {
                emptied.groups.push(Vec::new());
                continue;
            }
            let groups: Option<Vec<Vec<u8>>> = answer.try_get(next()).map_err(unreadable)?;
            emptied.groups.push(groups.unwrap_or_default());
            let below: i64 = answer.try_get(next()).map_err(unreadable)?;
            if below > 0 {
                return Err(Trouble::Lasting(out_of_step(&rollup.label)));
            }
            for measure in &rollup.distinct {
                let keys: Option<Vec<Vec<u8>>> = answer.try_get(next()).map_err(unreadable)?;
                let values: Option<Vec<String>> = answer.try_get(next()).map_err(unreadable)?;
                for (key, value) in keys.unwrap_or_default().into_iter().zip(values.unwrap_or_default()) {
                    emptied.values.0.push(rollup.label.clone());
                    emptied.values.1.push(measure.name.clone());
                    emptied.values.2.push(key);
                    emptied.values.3.push(value);
                }
            }
        }
        Ok(emptied)
    }

    fn trouble(&self, error: sqlx::Error) -> Trouble {
        trouble(&self.of, error)
    }
}

impl Emptied {
    fn is_empty(&self) -> bool {
        self.groups.iter().all(Vec::is_empty) && self.values.0.is_empty()
    }

    async fn drop(&self, connection: &mut PgConnection, statements: &OfBatch) -> sqlx::Result<()> {
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&statements.drop)));
        for groups in &self.groups {
            query = query.bind(groups);
        }
        let (rollups, measures, keys, values) = &self.values;
        query.bind(rollups).bind(measures).bind(keys).bind(values).execute(connection).await?;
        Ok(())
    }
}

/// Somebody wrote to the table or to the roll-up by hand.
fn out_of_step(label: &str) -> Failure {
    Failure::new(
        FailureKind::Refused,
        format!("a group of {label} would have less than no rows: it does not fit its table"),
    )
    .cure(format!("have it filled anew: DELETE FROM tidemill.rollups WHERE rollup = '{}'", label.replace('\'', "''")))
}

/// A roll-up that refuses what its table took is no fault of a record: nothing is set aside for it.
fn trouble(of: &str, error: sqlx::Error) -> Trouble {
    match fault::of(&error) {
        Fault::Passing => Trouble::Passing(
            Failure::new(FailureKind::Unreachable, format!("the sink does not take what changes in the roll-ups over {of}"))
                .caused_by(error),
        ),
        Fault::Data(_) | Fault::Lasting => Trouble::Lasting(
            Failure::new(FailureKind::Refused, format!("the sink refuses what changes in the roll-ups over {of}"))
                .caused_by(error)
                .cure("`pg-sinker check` says what is wrong with a roll-up's table; a constraint of your own on it has to go"),
        ),
    }
}

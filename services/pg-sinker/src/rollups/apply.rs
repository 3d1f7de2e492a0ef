//! What a batch changes in a roll-up.

use std::sync::Arc;

use shared::failure::{Failure, FailureKind};
use sqlx::postgres::{PgBindIterExt as _, PgConnection};
use sqlx::{AssertSqlSafe, Row as _};

use super::examine::Rollup;
use super::register::Filled;
use super::statements::{DROP_VALUES, Statements};
use crate::exchange::{Delta, Exchange};
use crate::fault::{self, Fault};
use crate::transaction::Trouble;

/// A roll-up with its statements, and where its columns stand in the rows that came and went.
#[derive(Debug, Clone)]
pub struct Kept {
    pub rollup: Rollup,
    pub statements: Statements,
    places: Vec<usize>,
    key_places: Vec<usize>,
}

/// Groups and values that no row is in any more.
#[derive(Debug, Default)]
pub struct Emptied {
    groups: Vec<Vec<u8>>,
    /// Measures, groups' keys and values, one for each.
    values: (Vec<String>, Vec<Vec<u8>>, Vec<String>),
}

impl Kept {
    pub fn new(rollup: Rollup, exchange: &Exchange) -> Self {
        Kept {
            statements: Statements::of(&rollup),
            places: exchange.places(&rollup.columns),
            key_places: exchange.key_places(),
            rollup,
        }
    }
}

/// Adds what came and takes away what went, of the rows that the fill has passed. What no row is in any more vanishes.
pub async fn apply(connection: &mut PgConnection, kept: &Kept, delta: &Delta, filled: &Filled) -> Result<(), Trouble> {
    let position: &[String] = match filled {
        Filled::Nothing => return Ok(()),
        Filled::To(key) => key,
        Filled::All => &[],
    };
    if delta.signs.is_empty() {
        return Ok(());
    }
    let statement = if position.is_empty() { &kept.statements.all } else { &kept.statements.passed };
    let mut query = sqlx::query(AssertSqlSafe(Arc::clone(statement)));
    query = query.bind(delta.signs.iter().copied().bind_iter());
    let key_places = if position.is_empty() { &[][..] } else { &kept.key_places };
    for column in kept.places.iter().chain(key_places).filter_map(|&at| delta.rows.columns.get(at)) {
        query = query.bind(column.iter().map(Option::as_deref).bind_iter());
    }
    for value in position {
        query = query.bind(value);
    }
    let label = &kept.rollup.label;
    let answer = query.fetch_one(&mut *connection).await.map_err(|error| trouble(label, error))?;
    let emptied = Emptied::read(&answer, &kept.rollup)?;
    emptied.drop(connection, kept).await.map_err(|error| trouble(label, error))
}

impl Emptied {
    fn read(answer: &sqlx::postgres::PgRow, rollup: &Rollup) -> Result<Self, Trouble> {
        let unreadable = |error| trouble(&rollup.label, error);
        let below: i64 = answer.try_get(1).map_err(unreadable)?;
        if below > 0 {
            return Err(Trouble::Lasting(out_of_step(&rollup.label)));
        }
        let groups: Option<Vec<Vec<u8>>> = answer.try_get(0).map_err(unreadable)?;
        let mut emptied = Emptied { groups: groups.unwrap_or_default(), ..Emptied::default() };
        for (number, measure) in rollup.distinct.iter().enumerate() {
            let keys: Option<Vec<Vec<u8>>> = answer.try_get(2 + 2 * number).map_err(unreadable)?;
            let values: Option<Vec<String>> = answer.try_get(3 + 2 * number).map_err(unreadable)?;
            for (key, value) in keys.unwrap_or_default().into_iter().zip(values.unwrap_or_default()) {
                emptied.values.0.push(measure.name.clone());
                emptied.values.1.push(key);
                emptied.values.2.push(value);
            }
        }
        Ok(emptied)
    }

    async fn drop(&self, connection: &mut PgConnection, kept: &Kept) -> sqlx::Result<()> {
        if !self.groups.is_empty() {
            let sql = AssertSqlSafe(Arc::clone(&kept.statements.drop_groups));
            sqlx::query(sql).bind(&self.groups).execute(&mut *connection).await?;
        }
        let (measures, keys, values) = &self.values;
        if !values.is_empty() {
            sqlx::query(DROP_VALUES)
                .bind(&kept.rollup.label)
                .bind(measures)
                .bind(keys)
                .bind(values)
                .execute(connection)
                .await?;
        }
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
fn trouble(label: &str, error: sqlx::Error) -> Trouble {
    match fault::of(&error) {
        Fault::Passing => Trouble::Passing(
            Failure::new(FailureKind::Unreachable, format!("the sink does not take the rows ({label})"))
                .caused_by(error),
        ),
        Fault::Data(_) | Fault::Lasting => Trouble::Lasting(
            Failure::new(FailureKind::Refused, format!("the sink refuses what changes in {label}"))
                .caused_by(error)
                .cure("`pg-sinker check` says what is wrong with its table; a constraint of your own on it has to go"),
        ),
    }
}

//! The roll-ups that the sink knows, and how far each is filled: `tidemill.rollups`.

use std::collections::BTreeMap;

use shared::failure::{Failure, FailureKind};
use shared::pg::TableName;
use sqlx::postgres::PgConnection;

use super::Rollups;
use super::examine::Rollup;
use crate::tables::Tables;

pub fn table() -> TableName {
    TableName { schema: "tidemill".into(), name: "rollups".into() }
}

/// Where the rows of each counted value are counted.
pub fn values_table() -> TableName {
    TableName { schema: "tidemill".into(), name: "rollup_values".into() }
}

/// How far a roll-up is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filled {
    /// No row counts yet.
    Nothing,
    /// Rows up to this key count, its values as text.
    To(Vec<String>),
    /// All rows count.
    All,
}

impl Filled {
    /// The key that it is filled up to; nothing where there is no such bound.
    pub fn position(&self) -> &[String] {
        match self {
            Filled::To(key) => key,
            Filled::Nothing | Filled::All => &[],
        }
    }
}

/// A roll-up as the sink knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub label: String,
    pub definition: String,
    pub filled: Filled,
}

/// Enters those that are not registered. They are filled from the beginning.
pub async fn enter(connection: &mut PgConnection, rollups: &Rollups) -> sqlx::Result<()> {
    for rollup in &rollups.all {
        sqlx::query(
            "INSERT INTO tidemill.rollups (rollup, of_table, definition) VALUES ($1, $2, $3) ON CONFLICT (rollup) DO NOTHING",
        )
        .bind(&rollup.label)
        .bind(&rollup.of)
        .bind(&rollup.definition)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// The registered roll-ups that are kept over any of these tables, or that have one of these names.
pub async fn read(connection: &mut PgConnection, asked: &Asked) -> sqlx::Result<Vec<Registered>> {
    let found: Vec<(String, String, bool, Option<Vec<String>>)> = sqlx::query_as(
        "SELECT rollup, definition, is_complete, filled_to FROM tidemill.rollups \
         WHERE of_table = ANY ($1) OR rollup = ANY ($2) ORDER BY rollup",
    )
    .bind(&asked.tables)
    .bind(&asked.rollups)
    .fetch_all(connection)
    .await?;
    let registered = |(label, definition, is_complete, filled_to)| {
        let filled = match (is_complete, filled_to) {
            (true, _) => Filled::All,
            (false, Some(key)) => Filled::To(key),
            (false, None) => Filled::Nothing,
        };
        Registered { label, definition, filled }
    };
    Ok(found.into_iter().map(registered).collect())
}

/// What a batch must know of: labels.
#[derive(Debug, Clone)]
pub struct Asked {
    tables: Vec<String>,
    rollups: Vec<String>,
}

impl Asked {
    pub fn of(tables: &Tables, rollups: &Rollups) -> Self {
        Asked {
            tables: tables.tables.iter().map(|target| target.table.label.clone()).collect(),
            rollups: rollups.all.iter().map(|rollup| rollup.label.clone()).collect(),
        }
    }

    /// What these ask, together.
    pub fn together(asked: impl Iterator<Item = Asked>) -> Self {
        asked.fold(Asked { tables: Vec::new(), rollups: Vec::new() }, |mut all, asked| {
            all.tables.extend(asked.tables);
            all.rollups.extend(asked.rollups);
            all
        })
    }
}

fn known<'r>(registered: &'r [Registered], rollup: &Rollup) -> Option<&'r Registered> {
    registered.iter().find(|found| found.label == rollup.label)
}

/// What a person has to do before these settings may write: a roll-up would go wrong otherwise.
pub fn problems(rollups: &Rollups, registered: &[Registered]) -> Vec<Failure> {
    let again = |label: &str| format!("DELETE FROM tidemill.rollups WHERE rollup = '{}'", label.replace('\'', "''"));
    let mut problems = Vec::new();
    for rollup in &rollups.all {
        let Some(found) = known(registered, rollup) else { continue };
        if found.definition != rollup.definition {
            let what = format!(
                "{} is kept by another definition than these settings have: {}",
                rollup.label, found.definition
            );
            problems.push(Failure::new(FailureKind::Settings, what).cure(format!(
                "give every pg-sinker the same [rollups]; to have it filled anew by this one: {}",
                again(&rollup.label)
            )));
        }
    }
    for found in registered.iter().filter(|found| rollups.all.iter().all(|rollup| rollup.label != found.label)) {
        let what = format!("{} is kept over a table that these settings write, and they do not name it", found.label);
        problems.push(
            Failure::new(FailureKind::Settings, what)
                .cure(format!("name it in [rollups], or give it up: {}", again(&found.label))),
        );
    }
    problems
}

/// How far each roll-up is filled, in their order; or why this generation may not write.
pub fn progress(rollups: &Rollups, registered: &[Registered]) -> Result<Vec<Filled>, Failure> {
    if let Some(problem) = problems(rollups, registered).into_iter().next() {
        return Err(problem);
    }
    let filled = |rollup: &Rollup| match known(registered, rollup) {
        Some(found) => Ok(found.filled.clone()),
        // The next generation enters it again.
        None => Err(Failure::new(
            FailureKind::Refused,
            format!("{} is no longer registered in tidemill.rollups, and is filled anew", rollup.label),
        )),
    };
    rollups.all.iter().map(filled).collect()
}

/// For `/api/v1/state`: each roll-up and how far it is.
pub fn shown(registered: &[Registered]) -> BTreeMap<&str, String> {
    let text = |filled: &Filled| match filled {
        Filled::All => "complete".to_owned(),
        Filled::To(key) => format!("filled up to {}", key.join(", ")),
        Filled::Nothing => "to be filled".to_owned(),
    };
    registered.iter().map(|found| (found.label.as_str(), text(&found.filled))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::examine::tests::example;
    use super::*;

    fn registered(label: &str, definition: &str, filled: Filled) -> Registered {
        Registered { label: label.into(), definition: definition.into(), filled }
    }

    #[test]
    fn what_is_registered_says_how_far_it_is() {
        let rollups = Rollups::new(vec![example()]);
        let definition = &example().definition;
        for filled in [Filled::Nothing, Filled::To(vec!["7".into()]), Filled::All] {
            let found = [registered("dws.orders_by_day", definition, filled.clone())];
            assert_eq!(progress(&rollups, &found).unwrap(), [filled]);
        }
    }

    #[test]
    fn what_would_go_wrong_is_refused() {
        let rollups = Rollups::new(vec![example()]);
        let other = [registered("dws.orders_by_day", "of another", Filled::All)];
        let failure = progress(&rollups, &other).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Settings);
        assert!(failure.chain().contains("DELETE FROM tidemill.rollups WHERE rollup = 'dws.orders_by_day'"));
        let unknown = [
            registered("dws.orders_by_day", &example().definition, Filled::All),
            registered("dws.it's", "of it", Filled::All),
        ];
        assert!(
            progress(&rollups, &unknown)
                .unwrap_err()
                .chain()
                .contains("give it up: DELETE FROM tidemill.rollups WHERE rollup = 'dws.it''s'")
        );
        // It was deleted to be filled anew: another generation, not another person.
        assert_eq!(progress(&rollups, &[]).unwrap_err().kind, FailureKind::Refused);
    }
}

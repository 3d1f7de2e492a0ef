//! Commands over HTTP, beneath `POST /api/v1/`:
//!
//! | command | body | does |
//! |---|---|---|
//! | `snapshot` | `{"table":"business.orders","from":[1],"to":[100]}` | reads the table, or a range of its keys (both ends included), again while all runs |
//! | `snapshot/pause` | `{"table":"business.orders"}` | holds its copy |
//! | `snapshot/resume` | the same | lets it go on where it was held |
//! | `snapshot/cancel` | the same | gives it up; what was copied stays in the topic |

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use shared::control::{Command, Problem, Reply};
use shared::failure::Failure;
use shared::pg::refused_for_now;
use shared::position::Lsn;
use sqlx::{AssertSqlSafe, Executor as _};

use super::{Core, Standing};
use crate::catalog::SourceTable;
use crate::key_order::literals;
use crate::state::KeyRange;

const KNOWN: [&str; 4] = ["snapshot", "snapshot/pause", "snapshot/resume", "snapshot/cancel"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    table: String,
    #[serde(default)]
    from: Option<Vec<Value>>,
    #[serde(default)]
    to: Option<Vec<Value>>,
}

impl Core {
    pub(super) async fn command(&mut self, Command { name, body, reply }: Command) -> Result<(), Failure> {
        let answer = match self.carry_out(&name, body).await {
            Ok(table) => {
                self.record_table(table)?;
                self.take_chunks(Duration::ZERO);
                self.send().await?;
                tracing::info!(command = name, table = self.table_name(table), "command carried out");
                Ok(serde_json::json!({ "table": self.table_name(table), "command": name }))
            }
            Err(Refused::Problem(problem)) => Err(problem),
            Err(Refused::Failure(failure)) => return Err(failure),
        };
        // Who asked may have gone.
        let _: Result<(), Reply> = reply.send(answer);
        Ok(())
    }

    async fn carry_out(&mut self, name: &str, body: Value) -> Result<usize, Refused> {
        if !KNOWN.contains(&name) {
            return Err(Problem::unknown_command(name, &KNOWN).into());
        }
        let body: Body = serde_json::from_value(body).map_err(|error| {
            Problem::bad_request(format!("the body must be like {{\"table\":\"schema.table\"}}: {error}"))
        })?;
        let table = self.named(&body.table)?;
        let is_open = self.copies.get(table).is_some_and(|copy| copy.is_open());
        match name {
            "snapshot" => self.command_snapshot(table, &body).await?,
            _ if !is_open => return Err(Problem::conflict(format!("no copy of {} is under way", body.table)).into()),
            "snapshot/cancel" => {
                self.assembler.give_up(table);
                self.copies.finish(table);
            }
            _ => {
                let paused = name == "snapshot/pause";
                if paused {
                    self.assembler.give_up(table);
                }
                self.copies.set_paused(table, paused);
            }
        }
        Ok(table)
    }

    /// Values that are none of the key's types would stop the table when its first chunk is read.
    async fn check_values(&mut self, source: &SourceTable, range: &KeyRange) -> Result<(), Refused> {
        for bound in [&range.from, &range.to].into_iter().flatten() {
            let sql = format!("SELECT {}", literals(bound, &source.key));
            let asked = self.ask(async |connection| match connection.execute(AssertSqlSafe(sql)).await {
                Err(error) if is_about_values(&error) => Ok(Err(error)),
                Err(error) => Err(refused_for_now(format!("a key of {} could not be looked at", source.name), error)),
                Ok(_) => Ok(Ok(())),
            });
            let checked = asked.await.map_err(Refused::Failure)?;
            checked.map_err(|error| Problem::bad_request(format!("no key of {}: {error}", source.name)))?;
        }
        Ok(())
    }

    fn named(&self, name: &str) -> Result<usize, Problem> {
        let is_meant = |table: &super::Table| {
            table.state_name == name || table.source.as_ref().is_some_and(|source| source.name.to_string() == name)
        };
        self.tables.iter().position(is_meant).ok_or_else(|| {
            let known: Vec<_> = self.tables.iter().map(|table| table.state_name.as_str()).collect();
            Problem::not_found(format!("no table {name} is captured; there are {}", known.join(", ")))
        })
    }

    async fn command_snapshot(&mut self, table: usize, body: &Body) -> Result<(), Refused> {
        let entry = self.tables.get(table);
        let (standing, source) =
            entry.map_or((Standing::Refused, None), |entry| (entry.standing, entry.source.clone()));
        let range = KeyRange { from: key_of(&body.from)?, to: key_of(&body.to)? };
        let columns = source.as_ref().map_or(0, |source| source.key.len());
        if [&range.from, &range.to].into_iter().flatten().any(|bound| bound.len() != columns) {
            return Err(Problem::bad_request(format!("the key of {} has {columns} columns", body.table)).into());
        }
        if let Some(source) = &source {
            self.check_values(source, &range).await?;
        }
        match (standing, source) {
            (Standing::Carried, _) => Ok(self.begin_copy(table, range)?),
            (Standing::Spoilt, Some(source)) => Ok(self.settle(table, source, Lsn(0))?),
            _ => {
                let why = self.copies.get(table).and_then(|copy| copy.state.stopped.clone());
                Err(Problem::conflict(why.unwrap_or_else(|| "the table is being looked at".into())).into())
            }
        }
    }
}

/// Whether an error of the source is about the values that it was given: SQLSTATE class 22, data exception.
fn is_about_values(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|found| found.code());
    code.is_some_and(|code| code.starts_with("22"))
}

/// Why a command is not carried out: it was wrong, or we are.
enum Refused {
    Problem(Problem),
    Failure(Failure),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refused::Problem(problem)
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Refused::Failure(failure)
    }
}

/// The values of a key as text.
fn key_of(values: &Option<Vec<Value>>) -> Result<Option<Vec<String>>, Problem> {
    let text = |value: &Value| match value {
        Value::String(text) if !text.contains('\0') => Ok(text.clone()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        Value::Bool(bool) => Ok(bool.to_string()),
        _ => Err(Problem::bad_request("a key's values are strings or whole numbers: [\"2025-07-11\", 42]")),
    };
    values.as_ref().map(|values| values.iter().map(text).collect()).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_strings_or_whole_numbers() {
        let key = |json: &str| key_of(&serde_json::from_str(json).unwrap());
        assert_eq!(
            key("[\"a\", 9223372036854775807, true]"),
            Ok(Some(vec!["a".into(), "9223372036854775807".into(), "true".into()]))
        );
        assert_eq!(key("null"), Ok(None));
        for wrong in ["[1.5]", "[null]", "[[1]]", "[\"\\u0000\"]"] {
            assert_eq!(key(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }
}

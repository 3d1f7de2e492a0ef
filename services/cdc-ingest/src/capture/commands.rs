//! Commands over HTTP, beneath `POST /api/v1/`:
//!
//! | command | body | does |
//! |---|---|---|
//! | `snapshot` | `{"table":"business.orders","from":[1],"to":[100]}` | reads the table, or a range of its keys (both ends included), again while all runs |
//! | `snapshot` | `{"table":"business.orders","keys":[[1],[7]]}` | reads these rows again; those that are not there get tombstones, whether the topic has them or not |
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
use crate::copies::Copy;
use crate::key_order::{literal, literals};
use crate::state::KeyRange;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    table: String,
    #[serde(default)]
    from: Option<Vec<Value>>,
    #[serde(default)]
    to: Option<Vec<Value>>,
    #[serde(default)]
    keys: Option<Vec<Vec<Value>>>,
}

/// Keys of one command: they are kept in the state topic until they are read.
const KEYS_MAX: usize = 1_000;

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

    /// The keys in the text that the server writes: `07` is `7`. Each once.
    async fn as_written(&mut self, source: &SourceTable, keys: &[Vec<String>]) -> Result<Vec<Vec<String>>, Refused> {
        let text = |key: &Vec<String>| {
            let values = key.iter().zip(&source.key);
            values.map(|(value, column)| format!("format('%s', {})", literal(value, column))).collect::<Vec<_>>()
        };
        let sql = format!("SELECT ARRAY[{}]::text[]", keys.iter().flat_map(text).collect::<Vec<_>>().join(", "));
        let asked =
            self.ask(async |connection| match sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await {
                Err(error) if is_about_values(&error) => Ok(Err(error)),
                Err(error) => Err(refused_for_now(format!("keys of {} could not be looked at", source.name), error)),
                Ok(texts) => Ok(Ok(texts)),
            });
        let texts: Vec<String> = asked
            .await
            .map_err(Refused::Failure)?
            .map_err(|error| Problem::bad_request(format!("no key of {}: {error}", source.name)))?;
        let mut written: Vec<Vec<String>> = Vec::new();
        for key in texts.chunks(source.key.len().max(1)) {
            if !written.iter().any(|known| known == key) {
                written.push(key.to_vec());
            }
        }
        Ok(written)
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
        let mut range = KeyRange { from: key_of(&body.from)?, to: key_of(&body.to)?, keys: keys_of(&body.keys)? };
        if range.keys.is_some() && (range.from.is_some() || range.to.is_some()) {
            return Err(Problem::bad_request("name keys, or from and to").into());
        }
        let columns = source.as_ref().map_or(0, |source| source.key.len());
        let given = [&range.from, &range.to].into_iter().flatten().chain(range.keys.iter().flatten());
        if given.into_iter().any(|key| key.len() != columns) {
            return Err(Problem::bad_request(format!("the key of {} has {columns} columns", body.table)).into());
        }
        if let Some(source) = &source {
            self.check_values(source, &range).await?;
        }
        if let (Some(source), Some(keys)) = (&source, &range.keys) {
            if standing != Standing::Carried || self.copies.get(table).is_some_and(Copy::is_open) {
                let why = format!("{} is being copied, or is not carried: its rows come with the copy", body.table);
                return Err(Problem::conflict(why).into());
            }
            range.keys = Some(self.as_written(source, keys).await?);
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

fn keys_of(keys: &Option<Vec<Vec<Value>>>) -> Result<Option<Vec<Vec<String>>>, Problem> {
    let Some(keys) = keys else { return Ok(None) };
    if keys.is_empty() || keys.len() > KEYS_MAX {
        return Err(Problem::bad_request(format!("name 1 to {KEYS_MAX} keys")));
    }
    let key = |key: &Vec<Value>| Ok(key_of(&Some(key.clone()))?.unwrap_or_default());
    keys.iter().map(key).collect::<Result<_, _>>().map(Some)
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
        let keys = |json: &str| keys_of(&serde_json::from_str(json).unwrap());
        assert_eq!(keys("[[1],[\"a\"]]"), Ok(Some(vec![vec!["1".to_owned()], vec!["a".to_owned()]])));
        assert_eq!(keys("null"), Ok(None));
        assert!(keys("[]").is_err() && keys("[[null]]").is_err());
        for wrong in ["[1.5]", "[null]", "[[1]]", "[\"\\u0000\"]"] {
            assert_eq!(key(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }
}

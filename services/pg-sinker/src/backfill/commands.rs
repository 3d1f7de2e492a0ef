//! Commands over HTTP, beneath `POST /api/v1/`, and the command line, which gives them to a running instance:
//!
//! | command | body | does |
//! |---|---|---|
//! | `backfill` | `{"table":"result.t","since":"2025-07-11T10:00:00Z","until":"…","from":[1],"to":[100]}` | reads the records of the table's topic again, all or a range |
//! | `rebuild` | `{"table":"result.t"}` | builds the table anew beside itself |
//! | `reconcile` | `{"pair":"latest"}` | compares the sink with the source now |
//! | `backfill/stop` | `{"table":"result.t"}` | ends what is open of the table; what was written stays |

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use actix::ArbiterHandle;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::control::{self, Control, Problem, Reply};
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::tail::read_in_task;
use shared::kafka::topics::Topics;
use shared::page;
use shared::pg::{TableName, refused};
use shared::record::time;
use shared::run::Service as _;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::job::{self, Kind, Part, Step};
use super::rebuild::{lost, taken};
use super::shadow;
use super::span::Span;
use crate::catalog;
use crate::pipeline::PgSinker;
use crate::reconcile::wanted::Wanted;
use crate::rows;
use crate::settings::{OnTombstone, Settings, TableConfig};

/// What is to be read again.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    table: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Vec<Value>>,
}

/// Carries out the commands of a generation.
pub struct Commands {
    pub config: Settings,
    pub comparisons: Wanted,
    pub fate: Fate,
}

/// Takes commands for as long as the generation lives, one after the other.
pub fn obey(commands: Commands, arbiter: &ArbiterHandle, control: &Control) {
    let mut given = control.attach();
    arbiter.spawn(async move {
        while let Some(control::Command { name, body, reply }) = given.recv().await {
            let answer = commands.carry_out(&name, body).await;
            // Who asked may have gone.
            let _: Result<(), Reply> = reply.send(answer);
        }
    });
}

fn unavailable(failure: Failure) -> Problem {
    Problem::unavailable(failure.chain())
}

impl Commands {
    async fn carry_out(&self, name: &str, body: Value) -> Reply {
        match name {
            "rows" => return rows::of(&self.config, &body).await,
            "reconcile" => return self.compare(body),
            _ => {}
        }
        let body: Body = serde_json::from_value(body).map_err(|error| {
            Problem::bad_request(format!("the body must be like {{\"table\":\"schema.table\"}}: {error}"))
        })?;
        let table = self.named(&body.table)?;
        let timeout = self.config.writer.transaction_timeout_ms.to_string();
        let limits =
            [("statement_timeout", timeout.as_str()), ("idle_in_transaction_session_timeout", timeout.as_str())];
        let mut connection = self.config.sink.connect_with("pg-sinker command", &limits).await.map_err(unavailable)?;
        if name == "backfill/stop" {
            return self.stop(&mut connection, &table.label()).await;
        }
        if name == "rebuild" {
            return self.rebuild(&mut connection, table, &body).await;
        }
        let span = span(&body)?;
        check_keys(&mut connection, table, &span).await?;
        let parts = self.parts(self.config.topic_of(table).to_owned(), span.since_ms).await.map_err(unavailable)?;
        let step = if table.on_tombstone == OnTombstone::Delete { Step::Deletions } else { Step::Rows };
        self.enter(&mut connection, table, (Kind::Replay, step, &span), &parts).await
    }

    /// A comparison may take long: the page `reconciliation` shows what comes of it.
    fn compare(&self, body: Value) -> Reply {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            pair: String,
        }
        let Body { pair } = serde_json::from_value(body)
            .map_err(|error| Problem::bad_request(format!("the body must be like {{\"pair\":\"latest\"}}: {error}")))?;
        let config = &self.config.reconcile;
        if !config.is_scheduled() {
            let off = "this service compares nothing: set reconcile.source, and reconcile.interval_s above 0";
            return Err(Problem::conflict(off));
        }
        if !config.pairs.contains_key(&pair) {
            let known: Vec<&str> = config.pairs.keys().map(String::as_str).collect();
            return Err(Problem::not_found(format!("no pair {pair} is compared; there are {}", known.join(", "))));
        }
        self.comparisons.ask(&pair);
        Ok(json!({ "pair": pair, "command": "reconcile" }))
    }

    async fn stop(&self, connection: &mut PgConnection, table: &str) -> Reply {
        let group = &self.config.input.group;
        if job::stop(connection, group, table).await.map_err(unavailable)? > 0 {
            return Ok(json!({ "table": table, "command": "backfill/stop" }));
        }
        let is_open = job::is_open(connection, group, table).await.map_err(unavailable)?;
        Err(Problem::conflict(match is_open {
            true => format!("{table} has been built anew: what is left to do, filling its roll-ups, comes to its end"),
            false => format!("nothing of {table} is read again"),
        }))
    }

    async fn rebuild(&self, connection: &mut PgConnection, table: &TableConfig, body: &Body) -> Reply {
        if span(body)? != Span::default() {
            return Err(Problem::bad_request("a table is built anew as a whole: name the table alone"));
        }
        let name = TableName::parse(&table.table);
        let problems = shadow::problems(connection, &name, &self.config.sink.user).await.map_err(unavailable)?;
        if !problems.is_empty() {
            let told: Vec<String> = problems.iter().map(Failure::chain).collect();
            return Err(Problem::conflict(told.join("; ")));
        }
        if shadow::is_taken(connection, &name).await.map_err(unavailable)? {
            return Err(Problem::conflict(taken(&name).chain()));
        }
        let parts = self.parts(self.config.topic_of(table).to_owned(), None).await.map_err(unavailable)?;
        if let Some(part) = parts.iter().find(|part| part.first > 0) {
            let what = format!("retention has cut off the beginning of partition {}", part.partition);
            return Err(Problem::conflict(lost(&name, &what).chain()));
        }
        self.enter(connection, table, (Kind::Rebuild, Step::Rows, &Span::default()), &parts).await
    }

    async fn enter(
        &self,
        connection: &mut PgConnection,
        table: &TableConfig,
        what: (Kind, Step, &Span),
        parts: &[Part],
    ) -> Reply {
        let label = table.label();
        let place = (self.config.input.group.as_str(), self.config.topic_of(table), label.as_str());
        let entered = job::enter(connection, place, what, parts).await.map_err(unavailable)?;
        let id = entered.ok_or_else(|| {
            let open = format!("records of {} are being read again: wait for it, or stop it", table.label());
            Problem::conflict(open)
        })?;
        let offsets: i64 = parts.iter().map(|part| (part.until - part.first).max(0)).sum();
        tracing::info!(job = id, table = table.label(), offsets, "records are read again");
        Ok(json!({ "id": id, "table": table.label(), "offsets": offsets }))
    }

    /// By its name in the sink, or in the settings.
    fn named(&self, name: &str) -> Result<&TableConfig, Problem> {
        let tables = &self.config.tables;
        let by_label = tables.values().find(|table| table.label() == TableName::parse(name).to_string());
        by_label.or_else(|| tables.get(name)).ok_or_else(|| {
            let known: Vec<String> = tables.values().map(TableConfig::label).collect();
            Problem::not_found(format!("no table {name} is written; there are {}", known.join(", ")))
        })
    }

    /// The topic from a time on, up to its end.
    async fn parts(&self, topic: String, since_ms: Option<i64>) -> Result<Vec<Part>, Failure> {
        let kafka = self.config.kafka.clone();
        read_in_task(&self.config.kafka, PgSinker::NAME, &self.fate, move |tail| {
            let partitions = Topics::connect(&kafka, PgSinker::NAME)?.required(&topic, "the stage that writes it")?;
            let bounds = tail.bounds(&topic, 0..partitions)?;
            let since = match since_ms {
                Some(at) => tail.since(&topic, 0..partitions, at)?,
                None => BTreeMap::new(),
            };
            let part = |(partition, bounds): (i32, shared::kafka::bounds::Bounds)| Part {
                partition,
                first: since.get(&partition).copied().unwrap_or(bounds.first),
                next: 0,
                until: bounds.end,
            };
            Ok(bounds.into_iter().map(part).collect())
        })
        .await
    }
}

fn span(body: &Body) -> Result<Span, Problem> {
    let moment = |text: &Option<String>| {
        let read = text.as_deref().map(|text| {
            let at = time::moment(text).map(|at| at.as_millisecond());
            at.ok_or_else(|| {
                Problem::bad_request(format!(
                    "{text:?} is no time: write it as 2025-07-11T17:35:55+08:00, or in UTC without a zone"
                ))
            })
        });
        read.transpose()
    };
    let span = Span {
        since_ms: moment(&body.since)?,
        until_ms: moment(&body.until)?,
        from: key(&body.from)?,
        to: key(&body.to)?,
    };
    match (span.since_ms, span.until_ms) {
        (Some(since), Some(until)) if since >= until => Err(Problem::bad_request("since must be before until")),
        _ => Ok(span),
    }
}

/// The values of a key as text.
fn key(values: &Option<Vec<Value>>) -> Result<Option<Vec<String>>, Problem> {
    let text = |value: &Value| match value {
        Value::String(text) if !text.contains('\0') => Ok(text.clone()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        Value::Bool(bool) => Ok(bool.to_string()),
        _ => Err(Problem::bad_request("a key's values are strings or whole numbers: [\"2025-07-11\", 42]")),
    };
    values.as_ref().map(|values| values.iter().map(text).collect()).transpose()
}

/// Values that are none of the key's types would end the job at its first chunk.
async fn check_keys(connection: &mut PgConnection, table: &TableConfig, span: &Span) -> Result<(), Problem> {
    let given: Vec<&Vec<String>> = span.from.iter().chain(&span.to).collect();
    if given.is_empty() {
        return Ok(());
    }
    let facts = catalog::read(connection, &TableName::parse(&table.table)).await.map_err(unavailable)?;
    let columns = facts.map(|facts| facts.columns).unwrap_or_default();
    let types: Vec<&str> = table
        .key
        .iter()
        .filter_map(|key| columns.iter().find(|column| column.name == *key))
        .map(|column| column.type_sql.as_str())
        .collect();
    for bound in given {
        if bound.is_empty() || bound.len() > types.len() {
            let detail = format!("the key of {} has the columns {}", table.label(), table.key.join(", "));
            return Err(Problem::bad_request(detail));
        }
        let casts = types.iter().take(bound.len()).enumerate().map(|(at, sql)| format!("${}::text::{sql}", at + 1));
        let sql = format!("SELECT ({}) IS NULL", casts.collect::<Vec<_>>().join(", "));
        let query = bound.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(value));
        match query.execute(&mut *connection).await {
            Ok(_) => {}
            Err(error) if error.as_database_error().is_some() => {
                return Err(Problem::bad_request(format!("no key of {}: {error}", table.label())));
            }
            Err(error) => return Err(unavailable(refused("a key could not be looked at", error))),
        }
    }
    Ok(())
}

/// Those of the command line.
pub fn all() -> Vec<Command> {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).action(ArgAction::Set).help(help)
    };
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let common = |command: Command| {
        command
            .arg(text("table", "TABLE", "A table of [tables]: schema.table").required(true))
            .arg(text("at", "URL", "Address of a running instance; http.host and http.port where it is left out"))
            .arg(flag("stop", "End what is open of the table").conflicts_with("wait"))
            .arg(flag("wait", "Show how far it is, until it has ended; exit code 0: done, 1: it failed or was stopped"))
    };
    vec![
        common(Command::new("backfill").about(
            "Have the running service read the records of a table's topic again: rows that are missing, or not as the topic has them, are written",
        ))
        .arg(text("since", "TIME", "Only records that came into the topic since this time: 2025-07-11T17:35:55+08:00, or in UTC without a zone"))
        .arg(text("until", "TIME", "Only rows of records that came before this time"))
        .arg(text("from", "KEY", "Only rows from this key on: a value, or a JSON array for a key of several columns"))
        .arg(text("to", "KEY", "Only rows up to this key, which is included")),
        common(Command::new("rebuild").about(
            "Have the running service build a table anew beside itself, from its topic, and put it in its place in one transaction",
        )),
    ]
}

pub async fn run(config: &Settings, name: &str, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
    let given = |name: &str| arguments.try_get_one::<String>(name).ok().flatten().cloned();
    let key = |text: String| match serde_json::from_str(&text) {
        Ok(Value::Array(values)) => values,
        Ok(value @ Value::Number(_)) => vec![value],
        _ => vec![Value::String(text)],
    };
    let is_stop = arguments.get_flag("stop");
    let body = Body {
        table: given("table").unwrap_or_default(),
        since: given("since"),
        until: given("until"),
        from: given("from").map(key),
        to: given("to").map(key),
    };
    let instance = given("at").unwrap_or_else(|| {
        let (host, port) = config.http.control_address().unwrap_or((&config.http.host, config.http.port));
        format!("http://{}:{port}", if host == "0.0.0.0" { "127.0.0.1" } else { host })
    });
    let refused = |why: String| {
        Failure::new(FailureKind::Refused, format!("{instance} did not take the command: {why}"))
            .cure("start the service with http.control_token set, and give this command the same settings")
    };
    let text = serde_json::to_string(&body).map_err(|error| refused(error.to_string()))?;
    let path = if is_stop { "/api/v1/backfill/stop".to_owned() } else { format!("/api/v1/{name}") };
    let answer = page::post(&instance, &path, Some(config.http.control_token.reveal()), &text).await?.page;
    if answer.status != 202 {
        return Err(refused(answer.body));
    }
    let taken: Value = serde_json::from_str(&answer.body).map_err(|error| refused(error.to_string()))?;
    if !arguments.get_flag("wait") {
        print(&format!("{taken}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    follow(&instance, taken.get("id").unwrap_or(&Value::Null)).await
}

/// Time between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks in a row that did not show it.
const UNSEEN_MAX: u32 = 120;

/// Shows how far a job is until it has ended.
async fn follow(instance: &str, id: &Value) -> Result<ExitCode, Failure> {
    let mut unseen = 0;
    while unseen < UNSEEN_MAX {
        tokio::time::sleep(LOOK_EVERY).await;
        // An instance that starts its chain again has the page a moment later.
        let page = page::get(instance, "/api/v1/backfills").await?;
        let page: Value = serde_json::from_str(&page.body).unwrap_or_default();
        let jobs = page.get("jobs").and_then(Value::as_array);
        let Some(job) = jobs.and_then(|jobs| jobs.iter().find(|job| job.get("id") == Some(id))) else {
            unseen += 1;
            continue;
        };
        unseen = 0;
        let mut terminal = std::io::stderr();
        if terminal.is_terminal() {
            let _ = write!(
                terminal,
                "\r\x1b[K{}: {}, {} of {} offsets to go, {} rows",
                job["table"].as_str().unwrap_or_default(),
                job["step"].as_str().unwrap_or_default(),
                job["offsets_remaining"],
                job["offsets"],
                job["rows"]
            );
        }
        if job["state"] == "open" {
            continue;
        }
        if terminal.is_terminal() {
            let _ = write!(terminal, "\r\x1b[K");
        }
        print(&format!("{job}\n"))?;
        return Ok(if job["state"] == "done" { ExitCode::SUCCESS } else { ExitCode::from(ENDED_OTHERWISE) });
    }
    Err(Failure::new(FailureKind::Refused, format!("{instance} does not show job {id}"))
        .cure("look at /api/v1/backfills of another instance, or at its log"))
}

/// It failed, or was stopped.
const ENDED_OTHERWISE: u8 = 1;

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(FailureKind::Broken, "standard output cannot be written").caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Span, Problem> {
        span(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_range_is_read_as_it_is_written() {
        let whole = read(r#"{"table":"r.t"}"#).unwrap();
        assert_eq!(whole, Span::default());
        let part = read(
            r#"{"table":"r.t","since":"2025-07-11T17:35:55+08:00","until":"2025-07-11 10:00:00","from":[1,"x"],"to":[9007199254740993]}"#,
        );
        let part = part.unwrap();
        assert_eq!((part.since_ms, part.until_ms), (Some(1_752_226_555_000), Some(1_752_228_000_000)));
        assert_eq!((part.from, part.to), (Some(vec!["1".into(), "x".into()]), Some(vec!["9007199254740993".into()])));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for wrong in [
            r#"{"table":"r.t","since":"yesterday"}"#,
            r#"{"table":"r.t","since":"2025-07-11","until":"2025-07-10"}"#,
            r#"{"table":"r.t","from":[1.5]}"#,
            r#"{"table":"r.t","to":[null]}"#,
        ] {
            assert_eq!(read(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }
}

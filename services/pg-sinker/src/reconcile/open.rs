//! Connections and pairs, ready to be compared.

use shared::check::Finding;
use shared::failure::{Failure, FailureKind};
use shared::pg::{PostgresConfig, TableName};
use sqlx::postgres::PgConnection;

use super::described::describe;
use super::pair::{Pair, examine, slow};
use super::settings::PairConfig;
use super::sides::{close, connect};
use crate::settings::Settings;

/// The source that is compared.
pub fn source(config: &Settings) -> Result<&PostgresConfig, Failure> {
    config.reconcile.source.as_ref().ok_or_else(|| {
        Failure::new(FailureKind::Settings, "there is no source to compare the sink with")
            .cure("set [reconcile.source]: docs/reconciliation.md says how")
    })
}

/// Connections to both sides.
pub async fn both(config: &Settings) -> Result<(PgConnection, PgConnection), Failure> {
    let source = connect(source(config)?, &config.reconcile).await?;
    Ok((source, connect(&config.sink, &config.reconcile).await?))
}

/// The pair as it is to be compared, or the first thing that stands in the way.
pub async fn pair(
    config: &Settings,
    name: &str,
    source: &mut PgConnection,
    sink: &mut PgConnection,
) -> Result<Pair, Failure> {
    let set = config.reconcile.pairs.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.reconcile.pairs.keys().map(String::as_str).collect();
        Failure::new(FailureKind::Settings, format!("there is no pair {name} in [reconcile.pairs]"))
            .cure(format!("name one of {}", known.join(", ")))
    })?;
    let unknown = || Failure::new(FailureKind::Settings, format!("reconcile.pairs.{name} cannot be compared"));
    let examined = look(config, name, set, source, sink).await?;
    examined.map_err(|problems| problems.into_iter().next().unwrap_or_else(unknown))
}

async fn look(
    config: &Settings,
    name: &str,
    pair: &PairConfig,
    source: &mut PgConnection,
    sink: &mut PgConnection,
) -> Result<Result<Pair, Vec<Failure>>, Failure> {
    let sink_table = TableName::parse(&pair.sink_table);
    let written = config.tables.values().find(|table| TableName::parse(&table.table) == sink_table);
    if let Some(topic) = written.map(|table| config.topic_of(table)).filter(|topic| *topic != config.input.topic) {
        let what = format!("reconcile.pairs.{name} compares {sink_table}, which is written from topic {topic}");
        let cure = "compare tables of input.topic: reconcile.chain leads to it";
        return Ok(Err(vec![Failure::new(FailureKind::Settings, what).cure(cure)]));
    }
    let of_source = describe(source, &TableName::parse(&pair.source_table)).await?;
    let of_sink = describe(sink, &TableName::parse(&pair.sink_table)).await?;
    let role = self::source(config)?.user.as_str();
    Ok(examine(name, pair, written, of_source.as_ref(), of_sink.as_ref(), (role, &config.sink.user)))
}

/// What `check` says of it: nothing where no source is set.
pub async fn check(config: &Settings) -> Vec<Finding> {
    let Some(server) = &config.reconcile.source else { return Vec::new() };
    let (source, sink) = (connect(server, &config.reconcile).await, connect(&config.sink, &config.reconcile).await);
    let mut findings = vec![Finding::of(&source, format!("the source to compare with answers: {}", server.address()))];
    // That of the sink is said where it is written.
    let (Ok(mut source), Ok(mut sink)) = (source, sink) else { return findings };
    for (name, pair) in &config.reconcile.pairs {
        match look(config, name, pair, &mut source, &mut sink).await {
            Err(failure) => findings.push(Finding::problem(&failure)),
            Ok(Err(problems)) => findings.extend(problems.iter().map(Finding::problem)),
            Ok(Ok(found)) => {
                let columns: Vec<&str> = found.columns.iter().map(|column| column.name.as_str()).collect();
                findings.push(Finding::ok(format!(
                    "{} and {} can be compared: {}",
                    found.source_table,
                    found.sink_table,
                    columns.join(", ")
                )));
                findings.extend(hints(&mut source, &mut sink, pair).await);
            }
        }
    }
    close(source).await;
    close(sink).await;
    findings
}

async fn hints(source: &mut PgConnection, sink: &mut PgConnection, pair: &PairConfig) -> Vec<Finding> {
    let mut hints = Vec::new();
    for (connection, table) in [(source, &pair.source_table), (sink, &pair.sink_table)] {
        if let Ok(Some(described)) = describe(connection, &TableName::parse(table)).await
            && let Some(hint) = slow(pair, &described)
        {
            hints.push(Finding::ok(hint));
        }
    }
    hints
}

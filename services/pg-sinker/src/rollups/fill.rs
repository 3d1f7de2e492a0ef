//! Fills roll-ups from rows that are there already, chunk by chunk, while the stream goes on. Of all instances one fills at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::pg::{PostgresConfig, refused};
use shared::said::Said;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::Rollups;
use super::declared::FillConfig;
use super::examine::Rollup;
use super::register::{self, Asked, Filled, Registered};
use super::statements::OfFill;
use crate::fault::{self, Fault};
use crate::locks;

/// The health latch that is held while one cannot be filled.
const LATCH: &str = "rollups";

/// How often it is looked whether another instance is done, or gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What filling needs.
#[derive(Clone)]
pub struct Fill {
    pub sink: PostgresConfig,
    pub config: FillConfig,
    /// A chunk that takes longer is given up and tried again.
    pub timeout: Duration,
    /// Wait before it is tried again.
    pub retry: Duration,
    pub rollups: Rollups,
    pub asked: Asked,
    pub fate: Fate,
    pub health: Health,
}

/// What became of a chunk.
enum Chunk {
    Rows(u64),
    Last(u64),
    /// The roll-up is no longer where it was: it was taken out of the register, or is to be filled from the beginning, since its table was
    /// built anew. Nothing of the chunk stays.
    Lost,
}

impl Fill {
    /// Runs until every roll-up is complete or the generation ends.
    pub async fn run(self) {
        let fate = self.fate.clone();
        tokio::select! {
            biased;
            () = fate.ended() => {}
            () = self.until_complete() => {}
        }
    }

    async fn until_complete(&self) {
        let mut said = Said::default();
        loop {
            match self.fill_all().await {
                Ok(true) => return self.health.release(LATCH),
                Ok(false) => tokio::time::sleep(LOOK_EVERY).await,
                Err(failure) => {
                    let chain = failure.chain();
                    if said.is_news(&chain) {
                        tracing::warn!("roll-ups are filled later: {chain}");
                    }
                    // What a person has to mend is seen: the service is not ready.
                    if failure.kind != FailureKind::Unreachable {
                        self.health.hold(LATCH, chain);
                    }
                    tokio::time::sleep(self.retry).await;
                }
            }
        }
    }

    /// Fills what is not complete. False where it is another instance's turn.
    pub async fn fill_all(&self) -> Result<bool, Failure> {
        let timeout = self.timeout.as_millis().to_string();
        let limits =
            [("statement_timeout", timeout.as_str()), ("idle_in_transaction_session_timeout", timeout.as_str())];
        let mut connection = self.sink.connect_with("pg-sinker-fill", &limits).await?;
        if self.is_complete(&mut connection).await? {
            let _ = connection.close().await;
            return Ok(true);
        }
        let mine: bool =
            sqlx::query_scalar(locks::TRY_FILL).fetch_one(&mut connection).await.map_err(failed("the turn"))?;
        if !mine {
            return Ok(false);
        }
        // One that cannot be filled holds up no other.
        let mut failed = None;
        for rollup in &self.rollups.all {
            if let Err(failure) = self.fill(&mut connection, rollup).await {
                failed.get_or_insert(failure);
            }
        }
        if let Some(failure) = failed {
            return Err(failure);
        }
        // It gives the turn back. A server that does not hear it ends the session by itself.
        let _ = connection.close().await;
        Ok(true)
    }

    /// Whether nothing is to be filled.
    pub async fn is_complete(&self, connection: &mut PgConnection) -> Result<bool, Failure> {
        Ok(self.look(connection).await?.iter().all(|found| found.filled == Filled::All))
    }

    async fn look(&self, connection: &mut PgConnection) -> Result<Vec<Registered>, Failure> {
        let registered = register::read(connection, &self.asked).await.map_err(failed("tidemill.rollups"))?;
        register::progress(&self.rollups, &registered)?;
        self.health.detail("rollups", register::shown(&registered));
        Ok(registered)
    }

    async fn fill(&self, connection: &mut PgConnection, rollup: &Rollup) -> Result<(), Failure> {
        let (begin, statements) = (Instant::now(), OfFill::of(rollup));
        let (mut rows, mut is_begun) = (0, false);
        loop {
            let registered = self.look(connection).await?;
            let filled = registered.into_iter().find(|found| found.label == rollup.label).map(|found| found.filled);
            let position = match filled {
                Some(Filled::To(key)) => key,
                Some(Filled::Nothing) => {
                    tracing::info!(rollup = %rollup.label, of = %rollup.of, "a roll-up is filled from the rows that are there");
                    empty(connection, rollup, &statements).await.map_err(failed(&rollup.label))?;
                    Vec::new()
                }
                Some(Filled::All) | None => break,
            };
            is_begun = true;
            let chunk = self.chunk(connection, rollup, &statements, &position).await.map_err(failed(&rollup.label))?;
            match chunk {
                Chunk::Rows(more) => {
                    rows += more;
                    tokio::time::sleep(self.config.pause()).await;
                }
                Chunk::Last(more) => rows += more,
                Chunk::Lost => rows = 0,
            }
        }
        if is_begun {
            tracing::info!(rollup = %rollup.label, rows, seconds = begin.elapsed().as_secs_f64(), "a roll-up is complete");
        }
        Ok(())
    }

    /// Adds the rows behind `position` and moves it, in one transaction that no batch runs beside.
    async fn chunk(
        &self,
        connection: &mut PgConnection,
        rollup: &Rollup,
        statements: &OfFill,
        position: &[String],
    ) -> sqlx::Result<Chunk> {
        let mut transaction = connection.begin_with(AssertSqlSafe(locks::begin_alone(&rollup.topic))).await?;
        let rows_max = i64::from(self.config.chunk_rows);
        let end = if position.is_empty() { &statements.first_end } else { &statements.next_end };
        let query = bound(sqlx::query(AssertSqlSafe(Arc::clone(end))), position).bind(rows_max);
        let found = query.fetch_optional(&mut *transaction).await?;
        let (end, rows) = match &found {
            Some(row) => (Some(row.try_get::<Vec<String>, _>(0)?), row.try_get::<i64, _>(1)?),
            None => (None, 0),
        };
        if let Some(end) = &end {
            let sql = if position.is_empty() { &statements.first_chunk } else { &statements.next_chunk };
            let query = bound(bound(sqlx::query(AssertSqlSafe(Arc::clone(sql))), position), end);
            query.execute(&mut *transaction).await?;
        }
        let is_last = rows < rows_max;
        let moved = sqlx::query(
            "UPDATE tidemill.rollups SET filled_to = coalesce($2, filled_to), is_complete = $3, \
             completed_at = CASE WHEN $3 THEN now() END \
             WHERE rollup = $1 AND definition = $4 AND NOT is_complete AND filled_to IS NOT DISTINCT FROM $5",
        )
        .bind(&rollup.label)
        .bind(end)
        .bind(is_last)
        .bind(&rollup.definition)
        .bind((!position.is_empty()).then_some(position))
        .execute(&mut *transaction)
        .await?;
        if moved.rows_affected() != 1 {
            transaction.rollback().await?;
            return Ok(Chunk::Lost);
        }
        transaction.commit().await?;
        let rows = rows.unsigned_abs();
        Ok(if is_last { Chunk::Last(rows) } else { Chunk::Rows(rows) })
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bound<'q>(query: Query<'q>, key: &'q [String]) -> Query<'q> {
    key.iter().fold(query, Query::bind)
}

/// What an older definition left behind goes. No batch writes to a roll-up in which no row counts; those that began before it came to
/// that are waited for.
async fn empty(connection: &mut PgConnection, rollup: &Rollup, statements: &OfFill) -> sqlx::Result<()> {
    let transaction = connection.begin_with(AssertSqlSafe(locks::begin_alone(&rollup.topic))).await?;
    transaction.commit().await?;
    let mut transaction = connection.begin().await?;
    sqlx::query(AssertSqlSafe(Arc::clone(&statements.empty))).execute(&mut *transaction).await?;
    let values = "DELETE FROM tidemill.rollup_values WHERE rollup = $1";
    sqlx::query(values).bind(&rollup.label).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// All are tried again; of those that do not pass by themselves the service says that it is not ready.
fn failed(what: &str) -> impl FnOnce(sqlx::Error) -> Failure {
    move |error| match fault::of(&error) {
        Fault::Passing => {
            Failure::new(FailureKind::Unreachable, format!("roll-ups cannot be filled ({what})")).caused_by(error)
        }
        Fault::Data(_) | Fault::Lasting => refused(format!("roll-ups cannot be filled ({what})"), error),
    }
}

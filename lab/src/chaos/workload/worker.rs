//! One connection of the load, for as long as it is wanted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shared::pg::PostgresConfig;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use super::acts::{Acts, Step};
use super::ids::{Ids, ORDERS};
use super::kind::{Kind, choose};
use super::{PACED_MAX, Settings, Shared};
use crate::places::Names;
use crate::random::Random;

/// A statement that has no answer by then is given up with its connection.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// Before the next try to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Between two looks whether to go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What was not done in time is not made up for beyond this: a source that comes back is not flooded.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);

/// Longest waits at the server. A transaction whose client is gone must not hold its locks for ever, nor commit long after.
const SESSION: [(&str, &str); 3] =
    [("lock_timeout", "3s"), ("statement_timeout", "15s"), ("idle_in_transaction_session_timeout", "15s")];

pub(super) struct Worker {
    number: usize,
    source: PostgresConfig,
    names: Names,
    settings: Settings,
    random: Random,
    shared: Arc<Shared>,
    /// When the next transaction is due.
    due: Instant,
}

/// How a transaction ended.
enum Ended {
    /// So many rows were changed.
    Done(u64),
    /// By the server, with this code.
    Refused(String),
    /// The connection is of no use any more.
    Lost,
}

impl Worker {
    pub fn new(
        number: usize,
        source: &PostgresConfig,
        names: &Names,
        seed: u64,
        settings: &Settings,
        shared: Arc<Shared>,
    ) -> Self {
        let own_seed = seed ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let random = Random::seeded(own_seed);
        let (source, names, settings) = (source.clone(), names.clone(), settings.clone());
        Worker { number, source, names, settings, random, shared, due: Instant::now() }
    }

    pub async fn run(mut self) {
        let mut ids = None;
        let mut is_first = self.number == 0;
        while let Some(mut connection) = self.connected().await {
            let known = match ids.take() {
                Some(known) => known,
                None => match self.first_ids(&mut connection).await {
                    Ok(first) => first,
                    Err(_) => continue,
                },
            };
            ids = Some(self.serve(&mut connection, known, &mut is_first).await);
        }
    }

    fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::SeqCst)
    }

    /// A connection; `None` when the load is stopped.
    async fn connected(&self) -> Option<PgConnection> {
        while !self.is_stopped() {
            match self.source.connect_with("tidemill-chaos", &SESSION).await {
                Ok(connection) => return Some(connection),
                Err(_) => self.shared.count(|tally| tally.unconnected += 1),
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
        None
    }

    /// New orders begin behind those of an earlier load.
    async fn first_ids(&self, connection: &mut PgConnection) -> Result<Ids, sqlx::Error> {
        let (start, end) = (ORDERS.start(), ORDERS.end());
        let sql = format!(
            "SELECT coalesce(max(order_id) + 1, {start}) FROM {} WHERE order_id BETWEEN {start} AND {end}",
            self.names.orders.sql()
        );
        let first: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
        Ok(Ids::new(self.number, self.settings.connections, self.settings.users, first))
    }

    /// One transaction after the other, until the connection is lost or the load is stopped.
    async fn serve(&mut self, connection: &mut PgConnection, mut ids: Ids, is_first: &mut bool) -> Ids {
        let settings = self.settings.clone();
        let acts = Acts::new(&self.names, &settings);
        while self.is_due().await {
            let kind = if *is_first { Kind::MakeUsers } else { choose(&mut self.random, &settings.weights) };
            let steps = acts.of(kind, &mut ids, &mut self.random);
            let ended = self.carry_out(connection, steps).await;
            self.shared.busy.fetch_sub(1, Ordering::SeqCst);
            self.count(kind, &ended);
            match ended {
                Ended::Done(rows) => {
                    *is_first = false;
                    self.pace(rows);
                }
                Ended::Refused(_) => self.pace(1),
                Ended::Lost => break,
            }
        }
        ids
    }

    /// Waits for the next transaction's time, and enters it as begun; false when the load is stopped.
    async fn is_due(&self) -> bool {
        loop {
            if self.is_stopped() {
                return false;
            }
            let left = self.due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Entered first: whoever pauses the load and finds nobody busy may rely on it.
                self.shared.busy.fetch_add(1, Ordering::SeqCst);
                if !self.shared.paused.load(Ordering::SeqCst) {
                    return true;
                }
                self.shared.busy.fetch_sub(1, Ordering::SeqCst);
            }
            tokio::time::sleep(if left.is_zero() { LOOK_EVERY } else { left.min(LOOK_EVERY) }).await;
        }
    }

    fn pace(&mut self, rows: u64) {
        let share = f64::from(self.settings.rate.max(1)) / self.settings.connections.max(1) as f64;
        let behind = Instant::now().checked_sub(CATCH_UP_MAX).unwrap_or(self.due);
        self.due = self.due.max(behind) + Duration::from_secs_f64(rows.clamp(1, PACED_MAX) as f64 / share);
    }

    fn count(&self, kind: Kind, ended: &Ended) {
        self.shared.count(|tally| match ended {
            Ended::Done(rows) => {
                *tally.done.entry(kind).or_default() += 1;
                tally.rows += rows;
            }
            Ended::Refused(code) => *tally.refused.entry(code.clone()).or_default() += 1,
            Ended::Lost => tally.lost += 1,
        });
    }

    async fn carry_out(&self, connection: &mut PgConnection, steps: Vec<Step>) -> Ended {
        let mut rows = 0;
        for step in steps {
            let (sql, stays) = match step {
                Step::Run { sql, stays } => (sql, stays),
                Step::Wait(_) if self.is_stopped() => continue,
                Step::Wait(pause) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            match answer(connection, sql).await {
                Ok(changed) if stays => rows += changed,
                Ok(_) => {}
                Err(Ended::Refused(code)) => return given_up(connection, code).await,
                Err(ended) => return ended,
            }
        }
        Ended::Done(rows)
    }
}

async fn answer(connection: &mut PgConnection, sql: String) -> Result<u64, Ended> {
    let asked = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql)));
    match tokio::time::timeout(ANSWER_WAIT, asked).await {
        Ok(Ok(done)) => Ok(done.rows_affected()),
        Ok(Err(error)) => Err(of_error(&error)),
        Err(_) => Err(Ended::Lost),
    }
}

/// A server that shuts down or ends the session (class 57, and 25P03) says so with a code as well.
fn of_error(error: &sqlx::Error) -> Ended {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some("57014") => Ended::Refused("57014".into()),
        Some(code) if !code.starts_with("57") && code != "25P03" => Ended::Refused(code.to_owned()),
        _ => Ended::Lost,
    }
}

/// Outside of a transaction ROLLBACK does nothing.
async fn given_up(connection: &mut PgConnection, code: String) -> Ended {
    match answer(connection, "ROLLBACK".to_owned()).await {
        Ok(_) => Ended::Refused(code),
        Err(_) => Ended::Lost,
    }
}

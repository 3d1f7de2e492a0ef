//! One round: a fault, and how the pipeline gets over it.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::{Failure, FailureKind};
use shared::pg::refused;
use sqlx::postgres::PgConnection;

use super::Session;
use crate::bench::recovery::fault::Fault;
use crate::bench::recovery::lookout::Lookout;

/// What a round came to, in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    pub first_change_seconds: f64,
    pub no_backlog_seconds: f64,
    pub away_seconds: Option<f64>,
}

/// The moments of a fault.
struct Moments {
    /// From here on the time is taken.
    over: Instant,
    /// Changes that are due from here on are new.
    new_from: Instant,
    away: Option<Duration>,
}

/// Waits until all services are ready and no change lags behind, and a while longer.
pub async fn settle(session: &mut Session<'_>, pause: Duration) -> Result<(), Failure> {
    session.pipeline.ready().await?;
    tokio::time::sleep(pause).await;
    Lookout::new(session.places, &session.load).no_backlog().await.map(|_| ())
}

pub async fn run(session: &mut Session<'_>, fault: Fault) -> Result<Round, Failure> {
    let Moments { over, new_from, away } = strike(session, fault).await?;
    let mut lookout = Lookout::new(session.places, &session.load);
    let first_change = lookout.first_since(new_from).await?;
    let no_backlog = lookout.no_backlog().await?;
    Ok(Round {
        first_change_seconds: first_change.duration_since(over).as_secs_f64(),
        no_backlog_seconds: no_backlog.duration_since(over).as_secs_f64(),
        away_seconds: away.map(|away| away.as_secs_f64()),
    })
}

async fn strike(session: &mut Session<'_>, fault: Fault) -> Result<Moments, Failure> {
    let begin = Instant::now();
    let at_once = Moments { over: begin, new_from: begin, away: None };
    match fault {
        Fault::Kill(service) => session.pipeline.kill_and_start(service).map(|()| at_once),
        Fault::Stop(service) => {
            let started = session.pipeline.stop_and_start(service).await?;
            Ok(Moments { over: begin, new_from: started, away: Some(started - begin) })
        }
        Fault::Crash(server) => {
            let (ended, answers) = session.servers.crash(server).await?;
            Ok(Moments { over: answers, new_from: answers, away: Some(answers - ended) })
        }
        Fault::Cut => {
            let mut source = session.places.connect_source().await?;
            let begin = Instant::now();
            cut(&mut source, &session.places.names.slot).await?;
            Ok(Moments { over: begin, new_from: Instant::now(), away: None })
        }
    }
}

/// The process that sends the WAL is gone within this time.
const CUT_WITHIN: Duration = Duration::from_secs(5);

/// Has the source end the process that sends the WAL, and waits until it is gone.
async fn cut(source: &mut PgConnection, slot: &str) -> Result<(), Failure> {
    let ended: Option<bool> = sqlx::query_scalar(
        "SELECT pg_terminate_backend(active_pid, $2) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL",
    )
    .bind(slot)
    .bind(i64::try_from(CUT_WITHIN.as_millis()).unwrap_or(i64::MAX))
    .fetch_optional(source)
    .await
    .map_err(|error| refused("the connection of cdc-ingest cannot be ended", error))?;
    match ended {
        Some(true) => Ok(()),
        _ => Err(Failure::new(FailureKind::Data, format!("nobody reads slot {slot}"))),
    }
}

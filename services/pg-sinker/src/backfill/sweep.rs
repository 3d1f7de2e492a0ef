//! Takes away what rebuilds that ended without a swap left behind.

use std::collections::BTreeSet;
use std::time::Instant;

use shared::failure::Failure;
use shared::pg::{TableName, refused_for_now};
use shared::said::Said;
use sqlx::postgres::PgConnection;

use super::job::Job;
use super::shadow;
use crate::settings::Settings;

/// What is to be done of it.
#[derive(Default)]
pub struct Sweep {
    /// Jobs that have left nothing any more.
    swept: BTreeSet<i64>,
    /// Tries since the last that succeeded, and when the next one is due.
    failed: u32,
    due: Option<Instant>,
    said: Said,
}

impl Sweep {
    /// What cannot be taken away now is later: jobs do not wait for it.
    pub async fn look(&mut self, connection: &mut PgConnection, jobs: &[Job], config: &Settings) {
        if self.due.is_some_and(|due| Instant::now() < due) {
            return;
        }
        let swept = self.all(connection, jobs, config).await;
        (self.failed, self.due) = match swept {
            Ok(()) => (0, None),
            Err(failure) => {
                let chain = failure.chain();
                if self.said.is_news(&chain) {
                    tracing::warn!("what a table that was built anew left behind stays for now: {chain}");
                }
                let failed = self.failed.saturating_add(1);
                (failed, Some(Instant::now() + config.backfill.retry_wait(failed)))
            }
        };
    }

    async fn all(&mut self, connection: &mut PgConnection, jobs: &[Job], config: &Settings) -> Result<(), Failure> {
        let left = jobs.iter().filter(|job| job.left_something());
        for job in left.filter(|job| !self.swept.contains(&job.id)).collect::<Vec<_>>() {
            let name = TableName::parse(&job.table);
            shadow::drop(connection, &name, job.id, config.writer.evolve_lock_timeout_ms)
                .await
                .map_err(|error| refused_for_now(format!("the table beside {name} cannot be dropped"), error))?;
            self.swept.insert(job.id);
        }
        Ok(())
    }
}

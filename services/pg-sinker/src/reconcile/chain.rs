//! Has a change of the source come through? Each stage in turn: what it has read up to is durable behind the acknowledgement of what it made.
//!
//! ```text
//!  position L ──▶ slot confirmed ≥ L ──▶ ends of the first topic ──▶ its group has committed them ──▶ ends of the next topic … ──▶ sink_offsets
//! ```
//!
//! The ends of a topic are asked for once the stage that writes it is behind what was asked, so that everything up to L is below them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::KafkaConfig;
use shared::kafka::groups::Group;
use shared::pg::refused;
use shared::position::Lsn;
use sqlx::Executor as _;
use sqlx::postgres::PgConnection;

use super::settings::ChainConfig;
use crate::checkpoint::Place;

/// Offsets behind the last records of partitions.
type Ends = BTreeMap<i32, i64>;

/// Looks at every stage.
pub struct Waiting<'w> {
    pub config: &'w ChainConfig,
    pub kafka: &'w KafkaConfig,
    /// pg-sinker's own group and topic.
    pub place: &'w Place,
    pub fate: &'w Fate,
}

impl Waiting<'_> {
    /// Waits until everything up to the position is in the sink, within the bound.
    pub async fn passed(&self, source: &mut PgConnection, sink: &mut PgConnection, at: Lsn) -> Result<(), Failure> {
        if self.config.slot.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + Duration::from_millis(self.config.wait_ms);
        make_durable(source, at).await?;
        let slot = format!("slot {} of the source", self.config.slot);
        self.until(deadline, &slot, async || confirmed(source, &self.config.slot, at).await).await?;
        for (topic, name) in self.config.topics.iter().zip(&self.config.groups) {
            let group = self.group(name)?;
            let ends = ask(&group, topic, |group, topic| group.ends(topic)).await?;
            let what = format!("group {name}, which reads {topic},");
            self.until(deadline, &what, async || committed(&group, topic, &ends).await).await?;
        }
        let (group, topic) = (self.group(&self.place.group)?, &self.place.topic);
        let ends = ask(&group, topic, |group, topic| group.ends(topic)).await?;
        let what = format!("pg-sinker, which reads {topic},");
        self.until(deadline, &what, async || written(sink, self.place, &ends).await).await
    }

    fn group(&self, name: &str) -> Result<Arc<Group>, Failure> {
        Group::new(self.kafka, "pg-sinker", name).map(Arc::new)
    }

    /// Asks again and again. An answer says what is still missing.
    async fn until(
        &self,
        deadline: Instant,
        what: &str,
        mut ask: impl AsyncFnMut() -> Result<Option<String>, Failure>,
    ) -> Result<(), Failure> {
        while let Some(missing) = ask().await? {
            if self.fate.has_ended() {
                return Err(Failure::new(FailureKind::Broken, "the generation ended during a comparison"));
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    FailureKind::Unreachable,
                    format!("{what} did not come to what the source has within {} ms: {missing}", self.config.wait_ms),
                )
                .cure("look at that service; where it is only slow, raise reconcile.chain.wait_ms"));
            }
            tokio::time::sleep(Duration::from_millis(self.config.poll_ms)).await;
        }
        Ok(())
    }
}

/// In a task that may block.
async fn ask<T: Send + 'static>(
    group: &Arc<Group>,
    topic: &str,
    ask: impl FnOnce(&Group, &str) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (group, topic) = (Arc::clone(group), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || ask(&group, &topic)).await;
    asked.map_err(|error| Failure::new(FailureKind::Broken, "the broker could not be asked").caused_by(error))?
}

async fn committed(group: &Arc<Group>, topic: &str, ends: &Ends) -> Result<Option<String>, Failure> {
    let partitions: Vec<i32> = ends.keys().copied().collect();
    let reached = ask(group, topic, move |group, topic| group.committed(topic, &partitions)).await?;
    Ok(missing(ends, &reached))
}

/// What is behind, as text; `None` where nothing is.
fn missing(ends: &Ends, reached: &Ends) -> Option<String> {
    ends.iter().find_map(|(partition, end)| {
        let next = reached.get(partition).copied().unwrap_or_default();
        (next < *end).then(|| format!("partition {partition} is at {next} of {end}"))
    })
}

/// The position may stand in a buffer of the server, and on an idle one nothing brings it to disk, and thus into the stream: a message that
/// nobody reads does. A role that may not write one waits for the server's own record, which comes every 15 seconds.
async fn make_durable(source: &mut PgConnection, at: Lsn) -> Result<(), Failure> {
    let flushed: bool = sqlx::query_scalar("SELECT $1::text::pg_lsn <= pg_current_wal_flush_lsn()")
        .bind(at.to_string())
        .fetch_one(&mut *source)
        .await
        .map_err(|error| refused("the position of the source cannot be read", error))?;
    if !flushed {
        let message = "BEGIN READ WRITE; SELECT pg_logical_emit_message(true, 'tidemill', ''); COMMIT";
        if source.execute(sqlx::raw_sql(message)).await.is_err() {
            let _ = source.execute("ROLLBACK").await;
        }
    }
    Ok(())
}

async fn confirmed(source: &mut PgConnection, slot: &str, at: Lsn) -> Result<Option<String>, Failure> {
    let found: Option<(Option<String>, bool)> = sqlx::query_as(
        "SELECT confirmed_flush_lsn::text, coalesce(confirmed_flush_lsn >= $2::text::pg_lsn, false) \
         FROM pg_replication_slots WHERE slot_name = $1",
    )
    .bind(slot)
    .bind(at.to_string())
    .fetch_optional(source)
    .await
    .map_err(|error| refused("the slot of cdc-ingest cannot be looked at", error))?;
    let (confirmed, is_behind) = found.ok_or_else(|| {
        Failure::new(FailureKind::Unreachable, format!("there is no slot {slot} at the source"))
            .cure("start cdc-ingest, which makes it, or correct reconcile.chain.slot")
    })?;
    Ok((!is_behind)
        .then(|| format!("it is at {}, and {at} is asked for", confirmed.unwrap_or_else(|| "nothing".into()))))
}

async fn written(sink: &mut PgConnection, place: &Place, ends: &Ends) -> Result<Option<String>, Failure> {
    let found: Vec<(i32, i64)> = sqlx::query_as(
        "SELECT partition, next_offset FROM tidemill.sink_offsets WHERE consumer_group = $1 AND topic = $2",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .fetch_all(sink)
    .await
    .map_err(|error| refused("the sink's offsets cannot be read", error))?;
    Ok(missing(ends, &found.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_named() {
        let of = |offsets: &[(i32, i64)]| offsets.iter().copied().collect::<Ends>();
        assert_eq!(missing(&of(&[(0, 5), (1, 0)]), &of(&[(0, 7)])), None);
        assert_eq!(missing(&of(&[(0, 5), (1, 3)]), &of(&[(0, 5)])).as_deref(), Some("partition 1 is at 0 of 3"));
    }
}

//! Waiting until nothing moves any more: every stage has handled the last record of the stage before, and the sink equals the source.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use shared::failure::Failure;
use shared::pg::refused;
use shared::position::{Lsn, Version};
use sqlx::postgres::PgConnection;

use super::{Surroundings, last_change, own_key};
use crate::chaos::witness::subject::Subject;
use crate::compare::{Comparison, EVERYTHING, Part, compare};
use crate::layers::{LayerRecord, Layers, Mark};
use crate::paper::Paper;

/// How it stands when there is nothing more to wait for.
#[derive(Debug, Default)]
pub struct Rest {
    pub latest: Comparison,
    pub trail_now: Comparison,
    /// What still moved at the deadline.
    pub restless: Option<String>,
}

const LOOK_EVERY: Duration = Duration::from_millis(500);

const TELL_EVERY: Duration = Duration::from_secs(2);

/// Records at the end of a partition that are looked through for the newest.
const TAIL: i64 = 5_000;

/// Returns when all is at rest, and at the deadline in any case.
pub async fn wait(
    surroundings: &Surroundings<'_>,
    layers: &Layers,
    deadline: Duration,
    progress: &mut Paper,
) -> Result<Rest, Failure> {
    let begin = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        let is_last = begin.elapsed() >= deadline;
        let found = match look(surroundings, layers, is_last).await {
            Ok(rest) if rest.restless.is_none() || is_last => {
                progress.progressed();
                return Ok(rest);
            }
            Ok(rest) => rest.restless.unwrap_or_default(),
            Err(failure) if is_last => return Err(failure),
            // Whatever was broken may still be on its way up.
            Err(failure) => failure.chain(),
        };
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            progress.progress(format!("{:.0} s, not at rest: {found}", begin.elapsed().as_secs_f64()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One look, the cheap questions first; the last look asks them all.
async fn look(surroundings: &Surroundings<'_>, layers: &Layers, is_last: bool) -> Result<Rest, Failure> {
    let places = surroundings.places;
    let (mut source, mut sink) = (places.connect_source().await?, places.connect_sink().await?);
    let changes = last_change(&mut source).await?;
    let mut restless = stream_lag(&mut source, &places.names.slot).await?;
    if restless.is_none() {
        restless = stages_lag(surroundings, layers, &mut sink).await?;
    }
    let mut rest = Rest::default();
    for (part, name) in [(Part::Latest, "the latest rows"), (Part::TrailNow, "the trail's present rows")] {
        if restless.is_some() && !is_last {
            break;
        }
        let comparison = compare(&mut source, &mut sink, &places.names, part, EVERYTHING).await?;
        if !comparison.is_equal() {
            let Comparison { missing, surplus, wrong, .. } = comparison;
            restless.get_or_insert(format!("{name}: {missing} missing, {surplus} too many, {wrong} wrong"));
        }
        match part {
            Part::Latest => rest.latest = comparison,
            _ => rest.trail_now = comparison,
        }
    }
    if last_change(&mut source).await? != changes {
        restless.get_or_insert("the source still changes".to_owned());
    }
    rest.restless = restless;
    Ok(rest)
}

/// Whether the slot was confirmed behind the last change, which it is once all records up to there are acknowledged.
async fn stream_lag(source: &mut PgConnection, slot: &str) -> Result<Option<String>, Failure> {
    let sql = "SELECT (SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1),
                      (SELECT (lsn - '0/0')::bigint FROM chaos.log ORDER BY number DESC LIMIT 1)";
    let found: (Option<i64>, Option<i64>) = sqlx::query_as(sql)
        .bind(slot)
        .fetch_one(source)
        .await
        .map_err(|error| refused("the slot's position cannot be read", error))?;
    let lsn = |number: i64| Lsn(number.unsigned_abs());
    Ok(match found {
        (None, _) => Some(format!("there is no slot {slot}")),
        (Some(confirmed), Some(last)) if confirmed <= last => {
            Some(format!("the slot stands at {}, and the last change at {}", lsn(confirmed), lsn(last)))
        }
        _ => None,
    })
}

/// The newest of a partition's last records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tail {
    version: Version,
    /// Of the first record with that version.
    offset: i64,
    /// The input that any of them came to.
    input: Option<i64>,
}

impl Tail {
    fn take(&mut self, record: &LayerRecord) {
        let (Some(_), Ok(header)) = (own_key(Subject::Orders, record), &record.header) else { return };
        if header.version > self.version {
            (self.version, self.offset) = (header.version, record.offset);
        }
        self.input = self.input.max(header.input_offset);
    }
}

fn tails(layers: &Layers, topic: &str) -> Result<BTreeMap<i32, Tail>, Failure> {
    let (begin, end) = (layers.begin(topic)?, layers.end(topic)?);
    let from: Mark =
        begin.iter().zip(&end).map(|(&(partition, low), &(_, high))| (partition, low.max(high - TAIL))).collect();
    let mut tails: BTreeMap<i32, Tail> = end.iter().map(|(partition, _)| (*partition, Tail::default())).collect();
    layers.visit(topic, &from, &end, |record| tails.entry(record.partition).or_default().take(&record))?;
    Ok(tails)
}

/// The first stage that has not handled all that the stage before sent.
async fn stages_lag(
    surroundings: &Surroundings<'_>,
    layers: &Layers,
    sink: &mut PgConnection,
) -> Result<Option<String>, Failure> {
    let names = &surroundings.places.names;
    let ods = tails(layers, &names.ods_topic)?;
    let dwd = tails(layers, &names.dwd_topic)?;
    let result = tails(layers, &names.result_topic)?;
    if let Some(lag) = tails_lag(&ods, &dwd, &result) {
        return Ok(Some(lag));
    }
    let offsets = sink_offsets(sink, &names.result_topic).await?;
    let lacks = |&(partition, end): &(i32, i64)| {
        let at = offsets.get(&partition).copied().unwrap_or_default();
        (at < end).then(|| format!("the sink is at offset {at} of {end} in partition {partition}"))
    };
    Ok(layers.end(&names.result_topic)?.iter().find_map(lacks))
}

fn tails_lag(ods: &BTreeMap<i32, Tail>, dwd: &BTreeMap<i32, Tail>, result: &BTreeMap<i32, Tail>) -> Option<String> {
    let of = |tails: &BTreeMap<i32, Tail>, partition: i32| tails.get(&partition).copied().unwrap_or_default();
    ods.iter().find_map(|(&partition, sent)| {
        let (cleaned, joined) = (of(dwd, partition), of(result, partition));
        if cleaned.version < sent.version {
            return Some(format!("DWD is at {} of {} in partition {partition}", cleaned.version, sent.version));
        }
        let is_joined = cleaned == Tail::default() || joined.input >= Some(cleaned.offset);
        (!is_joined).then(|| {
            let input = joined.input.unwrap_or_default();
            format!("the result is at offset {input} of DWD's {} in partition {partition}", cleaned.offset)
        })
    })
}

async fn sink_offsets(sink: &mut PgConnection, topic: &str) -> Result<BTreeMap<i32, i64>, Failure> {
    let sql = "SELECT partition, max(next_offset) FROM tidemill.sink_offsets WHERE topic = $1 GROUP BY partition";
    let rows: Vec<(i32, i64)> = sqlx::query_as(sql)
        .bind(topic)
        .fetch_all(sink)
        .await
        .map_err(|error| refused("the sink's offsets cannot be read", error))?;
    Ok(rows.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(lsn: u64, offset: i64, input: i64) -> BTreeMap<i32, Tail> {
        let version = Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() };
        [(0, Tail { version, offset, input: Some(input) })].into()
    }

    #[test]
    fn the_first_stage_that_is_behind_is_named() {
        let lag = |ods, dwd, result| tails_lag(&ods, &dwd, &result).unwrap_or_default();
        assert_eq!(lag(tail(5, 9, 0), tail(5, 7, 9), tail(5, 3, 7)), "");
        assert!(lag(tail(6, 9, 0), tail(5, 7, 9), tail(5, 3, 7)).starts_with("DWD is at 1.5.0.0 of 1.6.0.0"));
        assert!(lag(tail(5, 9, 0), tail(5, 7, 9), tail(9, 3, 6)).starts_with("the result is at offset 6 of DWD's 7"));
        assert!(lag(tail(5, 9, 0), tail(5, 0, 9), BTreeMap::new()).starts_with("the result is"));
        let empty = || -> BTreeMap<i32, Tail> { [(0, Tail::default())].into() };
        assert_eq!(lag(empty(), empty(), empty()), "");
    }
}

//! The topic of a job, opened where the job is.

use std::collections::BTreeMap;

use shared::failure::Failure;
use shared::generation::Fate;
use shared::kafka::bounds::Bounds;
use shared::kafka::parts::{self, Parts};
use shared::kafka::tail::TailReader;
use shared::pg::TableName;
use shared::run::Service as _;

use super::job::{Job, Kind, Part};
use super::rebuild;
use crate::pipeline::PgSinker;
use crate::settings::Settings;

/// Opens the topic where the job is.
pub fn open(config: &Settings, fate: &Fate, job: &Job) -> Result<Parts, Failure> {
    if job.kind == Kind::Rebuild {
        let bounds = bounds(config, fate, &job.topic, &job.parts)?;
        let is_cut = |part: &&Part| bounds.get(&part.partition).is_some_and(|bounds| bounds.first > part.next);
        if let Some(part) = job.parts.iter().find(is_cut) {
            let what = format!("retention has cut off the beginning of partition {}", part.partition);
            return Err(rebuild::lost(&TableName::parse(&job.table), &what));
        }
    }
    open_parts(config, fate, &job.topic, &job.parts)
}

/// Opens parts of a topic. What retention has taken is passed over.
pub fn open_parts(config: &Settings, fate: &Fate, topic: &str, parts: &[Part]) -> Result<Parts, Failure> {
    let bounds = bounds(config, fate, topic, parts)?;
    let within = |part: &Part| {
        let Bounds { first, end } = bounds.get(&part.partition).copied().unwrap_or(Bounds { first: 0, end: 0 });
        if end < part.until {
            return Err(parts::ends_early(topic, part.partition, end, part.until));
        }
        Ok(parts::Part { partition: part.partition, next: part.next.max(first), until: part.until })
    };
    let parts = parts.iter().map(within).collect::<Result<Vec<_>, _>>()?;
    Parts::new(&config.kafka, PgSinker::NAME, topic, &parts)
}

fn bounds(config: &Settings, fate: &Fate, topic: &str, parts: &[Part]) -> Result<BTreeMap<i32, Bounds>, Failure> {
    let tail = TailReader::new(&config.kafka, PgSinker::NAME, fate)?;
    tail.bounds(topic, parts.iter().map(|part| part.partition))
}

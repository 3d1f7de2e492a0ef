//! DWD held against ODS.

use std::collections::BTreeMap;

use shared::failure::Failure;

use super::captured::Growth;
use super::findings::{Problems, TopicCounts};
use super::order_way::{Came, Open, OrderWay};
use super::{is_stray, own_key};
use crate::chaos::witness::subject::Subject;
use crate::layers::{LayerRecord, Layers};

/// Reads DWD, and leaves in each way the rows as they are there.
pub fn check(
    layers: &Layers,
    topic: &str,
    ways: &mut BTreeMap<i64, OrderWay>,
    problems: &mut Problems,
) -> Result<TopicCounts, Failure> {
    let mut counts = TopicCounts::of(topic);
    let mut growth = Growth::default();
    layers.visit(topic, &layers.begin(topic)?, &layers.end(topic)?, |record| {
        take(&record, ways, &mut growth, &mut counts, problems);
    })?;
    for (key, way) in ways.iter() {
        counts.keys += u64::from(!way.passed.is_empty());
        let lost = way.not_cleaned();
        if lost > 0 {
            counts.lost += lost;
            problems.add(Some((Subject::Orders, *key)), format!("{topic} lacks the last {lost} versions of ODS"));
        }
    }
    Ok(counts)
}

fn take(
    record: &LayerRecord,
    ways: &mut BTreeMap<i64, OrderWay>,
    growth: &mut Growth,
    counts: &mut TopicCounts,
    problems: &mut Problems,
) {
    counts.records += 1;
    let Some((key, header)) = own_key(Subject::Orders, record).zip(record.header.as_ref().ok()) else {
        return pass_over(record, counts, problems);
    };
    let way = ways.entry(key).or_default();
    let came = way.cleaned(header.version, growth.grows(record.partition, header.version));
    let place = Place { topic: counts.topic.clone(), key, record };
    let Some(at) = counts.enter(&came, &place, problems) else { return };
    let Some(passed) = way.passed.get_mut(at) else { return };
    let is_kept = match (passed.open, record.value.as_deref()) {
        (Some(open), Some(row)) => open.begins(row),
        (open, row) => open.is_none() && row.is_none(),
    };
    if !is_kept || passed.seen.operation != header.operation {
        counts.wrong += 1;
        place.tell("is not the row of ODS with further columns", problems);
    }
    passed.open = record.value.as_deref().map(Open::of);
}

/// Counts a record that was planted, or that is nobody's.
pub fn pass_over(record: &LayerRecord, counts: &mut TopicCounts, problems: &mut Problems) {
    if !is_stray(Subject::Orders, record) {
        counts.passed_over += 1;
        return;
    }
    counts.surplus += 1;
    problems.add(None, format!("{}: {} is nobody's key", counts.topic, record.key));
}

/// A record in a topic, for messages.
pub struct Place<'a> {
    pub topic: String,
    pub key: i64,
    pub record: &'a LayerRecord,
}

impl Place<'_> {
    pub fn tell(&self, what: &str, problems: &mut Problems) {
        let LayerRecord { partition, offset, .. } = self.record;
        let what = format!("{}, partition {partition}, offset {offset}: {what}", self.topic);
        problems.add(Some((Subject::Orders, self.key)), what);
    }
}

impl TopicCounts {
    /// Enters what a record is. Answers the place of the version that it must show.
    pub fn enter(&mut self, came: &Came, place: &Place<'_>, problems: &mut Problems) -> Option<usize> {
        match came {
            Came::Next(at) | Came::Again(at) => {
                self.versions += 1;
                Some(*at)
            }
            Came::Repeat => {
                self.repeats += 1;
                None
            }
            Came::Lost(lost, at) => {
                self.versions += 1;
                self.lost += lost;
                place.tell(&format!("{lost} versions before it are not there"), problems);
                Some(*at)
            }
            Came::Wrong(what) => {
                self.wrong += 1;
                place.tell(what, problems);
                None
            }
            Came::Surplus => {
                self.surplus += 1;
                place.tell("the stage before has no such version", problems);
                None
            }
        }
    }
}

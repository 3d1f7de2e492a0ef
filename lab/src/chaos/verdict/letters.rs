//! The dead letters held against what was planted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::failure::Failure;

use super::findings::Problems;
use super::{POISON, Planted};
use crate::chaos::witness::subject::Subject;
use crate::layers::{LayerRecord, Layers};
use crate::paper::Paper;

/// What the dead-letter topics have.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct LetterCounts {
    pub planted: u64,
    /// Planted records of which there is a letter.
    pub found: u64,
    pub missing: u64,
    /// Letters of records that nobody planted.
    pub foreign: u64,
    /// Letters of planted records of which nobody knew whether they were written.
    pub unconfirmed: u64,
    /// Letters that came again: several instances read the users, and each start reads them again.
    pub repeats: u64,
}

impl LetterCounts {
    pub fn write(&self, paper: &mut Paper) {
        let LetterCounts { planted, found, missing, foreign, unconfirmed, repeats } = self;
        paper.check(
            missing + foreign == 0,
            format!(
                "dead letters: {planted} planted, {found} found ({repeats} again, {unconfirmed} more that nobody had confirmed), {missing} missing, {foreign} foreign"
            ),
        );
    }
}

/// Where a letter's record came from, by the letter's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Origin {
    topic: String,
    partition: i32,
    offset: i64,
}

/// What a letter says, for messages.
#[derive(Debug, Default, Deserialize)]
struct Letter {
    #[serde(default)]
    stage: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    detail: String,
    /// Of the record.
    key: Option<String>,
}

pub fn check(
    layers: &Layers,
    topics: &[&str],
    planted: &[Planted],
    problems: &mut Problems,
) -> Result<LetterCounts, Failure> {
    let mut letters = Letters::expecting(planted);
    for topic in topics {
        layers.visit(topic, &layers.begin(topic)?, &layers.end(topic)?, |record| {
            letters.take(topic, &record, problems)
        })?;
    }
    Ok(letters.counted(problems))
}

/// How often each planted record was set aside.
struct Letters {
    expected: BTreeMap<Origin, u64>,
    counts: LetterCounts,
}

impl Letters {
    fn expecting(planted: &[Planted]) -> Self {
        let origin = |planted: &Planted| Origin {
            topic: planted.topic.clone(),
            partition: planted.partition,
            offset: planted.offset,
        };
        let expected: BTreeMap<Origin, u64> = planted.iter().map(|planted| (origin(planted), 0)).collect();
        let counts = LetterCounts { planted: expected.len() as u64, ..LetterCounts::default() };
        Letters { expected, counts }
    }

    fn take(&mut self, topic: &str, record: &LayerRecord, problems: &mut Problems) {
        let origin: Option<Origin> = serde_json::from_str(&record.key).ok();
        if let Some(times) = origin.as_ref().and_then(|origin| self.expected.get_mut(origin)) {
            *times += 1;
            return;
        }
        let letter: Letter =
            record.value.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let key = letter.key.unwrap_or_default();
        // The broker took it, and died before it could say where it stands.
        if key.contains(POISON) {
            self.counts.unconfirmed += 1;
            return;
        }
        self.counts.foreign += 1;
        let subject =
            [Subject::Orders, Subject::Users].into_iter().find_map(|subject| Some((subject, subject.key_of(&key)?)));
        let Letter { stage, reason, detail, .. } = letter;
        let what = format!("{topic}: {stage} set aside {} with key {key}: {reason}, {detail}", record.key);
        problems.add(subject, what);
    }

    fn counted(mut self, problems: &mut Problems) -> LetterCounts {
        for (Origin { topic, partition, offset }, times) in self.expected {
            if times == 0 {
                self.counts.missing += 1;
                let what = format!("no letter of what was planted in {topic}, partition {partition}, offset {offset}");
                problems.add(None, what);
                continue;
            }
            self.counts.found += 1;
            self.counts.repeats += times - 1;
        }
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::record::header::HeaderError;

    fn planted(offset: i64) -> Planted {
        Planted { topic: "ods".into(), partition: 1, offset }
    }

    fn letter(offset: i64) -> LayerRecord {
        LayerRecord {
            partition: 0,
            offset: 0,
            produced_ms: None,
            key: format!("{{\"topic\":\"ods\",\"partition\":1,\"offset\":{offset}}}"),
            value: Some(r#"{"stage":"dwd-cleaner","reason":"no_key","detail":"x","key":"{\"order_id\":7}"}"#.into()),
            header: Err(HeaderError::Missing),
        }
    }

    fn counted(of: &[i64], letters: &[i64]) -> (LetterCounts, Problems) {
        let (mut problems, planted) =
            (Problems::default(), of.iter().map(|offset| planted(*offset)).collect::<Vec<_>>());
        let mut found = Letters::expecting(&planted);
        letters.iter().for_each(|offset| found.take("dlq", &letter(*offset), &mut problems));
        (found.counted(&mut problems), problems)
    }

    #[test]
    fn letters_of_what_was_planted_are_right_however_often_they_come() {
        let (counts, problems) = counted(&[3, 4], &[3, 4, 3]);
        assert_eq!(problems, Problems::default());
        assert_eq!(counts, LetterCounts { planted: 2, found: 2, repeats: 1, ..LetterCounts::default() });
    }

    #[test]
    fn a_missing_letter_and_a_foreign_one_are_problems() {
        let (counts, problems) = counted(&[3, 4], &[4, 5]);
        assert_eq!((counts.missing, counts.foreign, problems.count), (1, 1, 2));
        assert_eq!(problems.first_key(), Some((Subject::Orders, 7)));
        assert!(problems.first[0].what.contains("dwd-cleaner set aside"), "{problems:?}");
    }
}

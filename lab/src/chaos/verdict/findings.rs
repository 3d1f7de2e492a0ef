//! What was found: counts for each topic, and problems, of which the first are kept.

use serde::{Serialize, Serializer};

use crate::chaos::witness::subject::Subject;
use crate::paper::Paper;

/// Something that is not as promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whose way tells more.
    #[serde(serialize_with = "key_in_words")]
    pub key: Option<(Subject, i64)>,
    pub what: String,
}

fn key_in_words<S: Serializer>(key: &Option<(Subject, i64)>, serializer: S) -> Result<S::Ok, S::Error> {
    key.map(|(subject, key)| format!("{} {key}", subject.noun())).serialize(serializer)
}

/// All problems: how many, and the first.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    pub count: u64,
    pub first: Vec<Problem>,
}

const KEPT: usize = 12;

impl Problems {
    pub fn add(&mut self, key: Option<(Subject, i64)>, what: impl Into<String>) {
        self.count += 1;
        if self.first.len() < KEPT {
            let what = what.into();
            let named = key.map(|(subject, key)| format!("{} {key}: {what}", subject.noun()));
            self.first.push(Problem { key, what: named.unwrap_or(what) });
        }
    }

    /// The first key that is named.
    pub fn first_key(&self) -> Option<(Subject, i64)> {
        self.first.iter().find_map(|problem| problem.key)
    }
}

/// The records of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TopicCounts {
    pub topic: String,
    pub records: u64,
    /// Planted.
    pub passed_over: u64,
    pub keys: u64,
    /// Of a copy (`op=r`).
    pub copies: u64,
    /// Records whose version was above all before, and that were held against the stage before.
    pub versions: u64,
    /// Records that every reader drops: their version, or a newer one, was there.
    pub repeats: u64,
    pub lost: u64,
    pub wrong: u64,
    pub surplus: u64,
}

impl TopicCounts {
    pub fn of(topic: &str) -> Self {
        TopicCounts { topic: topic.to_owned(), ..TopicCounts::default() }
    }

    fn is_right(&self) -> bool {
        self.lost + self.wrong + self.surplus == 0
    }

    pub fn write(&self, paper: &mut Paper) {
        let TopicCounts { topic, records, passed_over, keys, copies, versions, repeats, lost, wrong, surplus } = self;
        paper.check(
            self.is_right(),
            format!(
                "{topic}: {records} records of {keys} keys, {versions} versions checked ({copies} of copies), {repeats} repeats, \
                 {passed_over} planted; {lost} lost, {wrong} wrong, {surplus} too many"
            ),
        );
    }
}

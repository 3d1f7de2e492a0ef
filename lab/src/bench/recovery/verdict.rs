//! What came out in the end: the sink held against the source, and every topic looked through for what is there twice.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use shared::failure::Failure;
use shared::position::ResultVersion;

use crate::bench::recovery::load::Load;
use crate::compare::{Comparison, EVERYTHING, Part, until_equal};
use crate::layers::Layers;
use crate::paper::Paper;
use crate::places::Places;

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Changes that were made at the source.
    pub changes: u32,
    pub latest: Comparison,
    pub trail: Comparison,
    pub topics: Vec<Topic>,
}

/// What a topic holds.
#[derive(Debug, Clone, Serialize)]
pub struct Topic {
    pub name: String,
    pub records: u64,
    /// Records whose version is not above that of the record before, of the same key.
    pub repeats: u64,
    /// Records without a readable header.
    pub foreign: u64,
}

/// How long a difference may last when the load is over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks when the load is over.
pub async fn of(places: &Places, load: &Load) -> Result<Verdict, Failure> {
    let (mut source, mut sink) = (places.connect_source().await?, places.connect_sink().await?);
    let names = &places.names;
    let latest = until_equal(&mut source, &mut sink, names, Part::Latest, EVERYTHING, PATIENCE).await?;
    let trail = until_equal(&mut source, &mut sink, names, Part::TrailNow, EVERYTHING, PATIENCE).await?;
    let layers = Layers::connect(&places.kafka)?;
    let topics = [&names.ods_topic, &names.dwd_topic, &names.result_topic];
    let topics: Result<Vec<Topic>, Failure> = topics.into_iter().map(|name| Topic::read(&layers, name)).collect();
    Ok(Verdict { changes: load.count(), latest, trail, topics: topics? })
}

impl Topic {
    fn read(layers: &Layers, name: &str) -> Result<Self, Failure> {
        let mut topic = Topic { name: name.to_owned(), records: 0, repeats: 0, foreign: 0 };
        let mut newest: HashMap<String, ResultVersion> = HashMap::new();
        layers.visit(name, &layers.begin(name)?, &layers.end(name)?, |record| {
            topic.records += 1;
            let Ok(header) = record.header else {
                topic.foreign += 1;
                return;
            };
            let version = header.result_version();
            match newest.insert(record.key, version.clone()) {
                Some(before) if before >= version => topic.repeats += 1,
                _ => {}
            }
        })?;
        Ok(topic)
    }

    fn is_good(&self) -> bool {
        self.repeats + self.foreign == 0
    }
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.latest.is_equal() && self.trail.is_equal() && self.topics.iter().all(Topic::is_good)
    }

    pub fn write(&self, paper: &mut Paper) {
        paper.line(format!("  {} changes were made at the source", self.changes));
        self.latest.write("latest", paper);
        self.trail.write("trail", paper);
        for topic in &self.topics {
            let Topic { name, records, repeats, foreign } = topic;
            let text =
                format!("{name}: {records} records, {repeats} twice or behind a newer one, {foreign} unreadable");
            paper.check(topic.is_good(), text);
        }
    }
}

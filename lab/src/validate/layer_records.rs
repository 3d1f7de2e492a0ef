//! The records of one order in the three topics.

use shared::failure::Failure;
use shared::position::ResultVersion;
use shared::record::header::Header;

use super::{Session, Steps};
use crate::changes::STATUSES;
use crate::layers::LayerRecord;
use crate::places::Names;

/// The order's records of each layer, in the order of the data's way.
pub struct LayerRecords {
    pub ods: Vec<LayerRecord>,
    pub dwd: Vec<LayerRecord>,
    pub result: Vec<LayerRecord>,
}

impl LayerRecords {
    /// What the topics carried since the validation began.
    pub fn read(session: &Session<'_>, order_id: i64) -> Result<Self, Failure> {
        let names = &session.places.names;
        let key = format!("{{\"order_id\":{order_id}}}");
        let [ods, dwd, result] = &session.before;
        let read = |topic: &str, from| session.layers.read(topic, from, |found| found == key);
        Ok(LayerRecords {
            ods: read(&names.ods_topic, ods)?,
            dwd: read(&names.dwd_topic, dwd)?,
            result: read(&names.result_topic, result)?,
        })
    }

    fn by_topic<'a>(&'a self, names: &'a Names) -> [(&'a str, &'a [LayerRecord]); 3] {
        [(&names.ods_topic, &self.ods), (&names.dwd_topic, &self.dwd), (&names.result_topic, &self.result)]
    }

    /// Whether each layer carried each status once.
    pub fn check(&self, names: &Names, steps: &mut Steps<'_>) {
        for (topic, found) in self.by_topic(names) {
            let all = found.len() == STATUSES.len() && found.iter().all(|record| record.value.is_some());
            let versions: Vec<String> = found.iter().map(version).collect();
            let text = format!("{topic}: {} records, versions {}", found.len(), versions.join(" < "));
            steps.check(all && grows(found), text);
        }
    }

    /// How far the order came: for a status that never reached the sink.
    pub fn tell(&self, names: &Names, steps: &mut Steps<'_>) {
        for (topic, found) in self.by_topic(names) {
            steps.paper.line(format!("      {topic}: {} records of the order so far", found.len()));
        }
    }
}

/// Whether the versions only grow.
fn grows(records: &[LayerRecord]) -> bool {
    let versions: Option<Vec<ResultVersion>> =
        records.iter().map(|record| record.header.as_ref().ok().map(Header::result_version)).collect();
    versions.is_some_and(|versions| versions.is_sorted_by(|a, b| a < b))
}

fn version(record: &LayerRecord) -> String {
    match &record.header {
        Ok(header) => header.version.to_string(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::position::{Lsn, Version};
    use shared::record::header::{HeaderError, Operation};

    fn record(header: Result<Header, HeaderError>) -> LayerRecord {
        LayerRecord { partition: 0, offset: 0, produced_ms: None, key: String::new(), value: None, header }
    }

    fn at(lsn: u64) -> LayerRecord {
        record(Ok(Header::new(Operation::Update, Version { lsn: Lsn(lsn), ..Version::default() })))
    }

    #[test]
    fn a_repeat_does_not_grow_nor_does_what_has_no_version() {
        assert!(grows(&[at(1), at(2), at(3)]));
        assert!(!grows(&[at(1), at(2), at(2)]));
        assert!(!grows(&[at(1), record(Err(HeaderError::Missing))]));
    }
}

//! Where the rows of a dimension are read from: a compacted topic, or a table of Apache Fluss. Behind this door the joiner does not know
//! which.

use std::thread::JoinHandle;

use shared::failure::Failure;
use shared::generation::Fate;
use shared::kafka::KafkaConfig;
use shared::kafka::table::{self, FromTable};
use shared::kafka::topics::Topics;
use shared::run::Service as _;
use tokio::sync::mpsc;

use crate::pipeline::DimJoiner;
use crate::settings::{DimensionConfig, Settings};

/// What a source sends, and the thread that reads for it. The thread ends with the generation, and ends it where it cannot go on.
pub type Rows = (mpsc::Receiver<FromTable>, JoinHandle<()>);

/// Where the rows of one dimension are read from.
///
/// All rows come, then the word that the table is loaded, then every change for ever; the changes of a key in their order. A row is a
/// record as the topics of the pipeline have it: key, flat JSON or nothing, header. Its version is the same at each reading and in each
/// instance, and grows with each change of the key: facts that carry it already are not sent again.
pub trait RowSource {
    /// Starts reading. `number` says in the messages which dimension it is.
    fn spawn(&self, number: usize, fate: &Fate) -> Result<Rows, Failure>;
}

/// Looks whether the rows of a dimension can be read.
pub async fn open(
    config: &Settings,
    dimension: &DimensionConfig,
    topics: &Topics<'_>,
) -> Result<Box<dyn RowSource>, Failure> {
    #[cfg(feature = "fluss")]
    if let Some(table) = &dimension.fluss {
        return Ok(Box::new(crate::fluss_table::FlussTable::open(table, dimension, &config.kafka).await?));
    }
    let partitions = topics.required(&dimension.topic, "cdc-ingest")?;
    Ok(Box::new(CompactedTopic { kafka: config.kafka.clone(), topic: dimension.topic.clone(), partitions }))
}

/// What `check` says of a dimension that can be read.
pub fn holds(dimension: &DimensionConfig) -> String {
    let kind = if dimension.fluss.is_some() { "Fluss table" } else { "topic" };
    format!("{kind} {} is there", dimension.read_from())
}

/// A topic that `cdc-ingest` or a second `dwd-cleaner` writes.
struct CompactedTopic {
    kafka: KafkaConfig,
    topic: String,
    partitions: i32,
}

impl RowSource for CompactedTopic {
    fn spawn(&self, number: usize, fate: &Fate) -> Result<Rows, Failure> {
        table::spawn(&self.kafka, DimJoiner::NAME, (number, &self.topic), self.partitions, fate)
    }
}

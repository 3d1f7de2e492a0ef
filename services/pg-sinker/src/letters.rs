//! Records that the sink cannot take: set aside in the dead-letter topic, and acknowledged there before the offset moves on.

use actix::Addr;
use shared::batch::{Outgoing, Record};
use shared::failure::{Failure, FailureKind};
use shared::kafka::publisher::Publisher;
use shared::metrics;
use shared::position::Version;
use shared::record::dead_letter::{self, Rejection};
use shared::record::header::{Header, Operation};
use shared::record::time;
use tokio::sync::oneshot;

/// What the publisher hands back when all letters of one post are acknowledged.
pub type Acknowledgement = oneshot::Sender<()>;

/// Tells whoever waits for the acknowledgement.
pub fn acknowledged(acknowledgement: Acknowledgement) {
    // Whoever waited is gone only when the generation has ended.
    let _ = acknowledgement.send(());
}

/// The way to the dead-letter topic.
pub struct Letters {
    publisher: Addr<Publisher<Acknowledgement>>,
    stage: &'static str,
    input_topic: String,
}

impl Letters {
    pub fn new(publisher: Addr<Publisher<Acknowledgement>>, stage: &'static str, input_topic: String) -> Self {
        Letters { publisher, stage, input_topic }
    }

    /// Sets the records aside. Returns when the broker has them.
    pub async fn post(&self, rejected: &[(Record<'_>, &Rejection)]) -> Result<(), Failure> {
        let Some((first, why)) = rejected.first() else { return Ok(()) };
        let (sender, receiver) = oneshot::channel();
        let mut outgoing = Outgoing::at(sender);
        let header = Header::new(Operation::Insert, Version::default());
        let rejected_at = time::milliseconds(time::now());
        for (record, rejection) in rejected {
            let key = dead_letter::key(&self.input_topic, record);
            let value = dead_letter::value(self.stage, &self.input_topic, record, rejection, &rejected_at);
            outgoing.push(0, 0, &key, &header, Some(&value));
        }
        let gone = || Failure::new(FailureKind::Broken, "the publisher of dead letters is gone");
        self.publisher.send(outgoing).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?;
        for (_, rejection) in rejected {
            metrics::REJECTED.with_label_values(&[rejection.reason]).inc();
        }
        tracing::warn!(
            topic = self.input_topic,
            partition = first.partition,
            offset = first.offset,
            version = Header::version_in(first.header).map(tracing::field::display),
            reason = why.reason,
            records = rejected.len(),
            "set aside in the dead-letter topic; reason and place are those of the first"
        );
        Ok(())
    }
}

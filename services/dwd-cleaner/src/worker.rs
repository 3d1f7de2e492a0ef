//! The actor around the cleaner: batches from the reader, and letters that a replay puts back in between.

use std::time::Duration;

use actix::prelude::*;
use jiff::Timestamp;
use shared::batch::Outgoing;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::reader::FromReader;
use shared::kafka::tail::read_in_task;
use shared::record::time;
use tokio::sync::{mpsc, oneshot};

use crate::cleaner::{Cleaner, Offsets, Standing};
use crate::letters::Known;
use crate::put_back::{Letter, Report, Times};
use crate::settings::Settings;

/// What holds once a message's records, and all before them, are acknowledged.
#[derive(Debug)]
pub enum Acknowledged {
    /// A batch is done up to these offsets.
    Batch(Offsets),
    /// Somebody waits to hear it.
    Told(oneshot::Sender<()>),
}

type Made = Outgoing<Acknowledged>;

/// The worker.
pub struct CleanerActor {
    pub cleaner: Cleaner,
    pub settings: Settings,
    pub service: &'static str,
    pub publisher: mpsc::Sender<Made>,
    pub progress: Progress,
    pub fate: Fate,
    pub health: Health,
}

/// Asks for the partitions that are owned.
#[derive(Debug, Message)]
#[rtype(result = "Vec<i32>")]
pub struct Owned;

/// Letters to be put back in, and what the output was read to have of their keys.
#[derive(Debug, Message)]
#[rtype(result = "Result<Report, Failure>")]
pub struct PutBack {
    pub letters: Vec<Letter>,
    pub known: Known,
}

impl Actor for CleanerActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(Duration::from_secs(1), |actor, _| {
            let quality = actor.cleaner.quality();
            actor.health.detail("quality", quality.report());
        });
    }
}

impl Handler<FromReader<Standing>> for CleanerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: FromReader<Standing>, _: &mut Self::Context) -> Self::Result {
        let out = match message {
            FromReader::Assigned(partitions) => {
                self.cleaner.assigned(partitions);
                None
            }
            FromReader::Revoked(partitions) => {
                self.cleaner.revoked(&partitions);
                self.progress.complete(&[]);
                None
            }
            FromReader::Batch(batch) => Some(self.cleaner.clean(&batch, time::now()).map(Acknowledged::Batch)),
        };
        let (publisher, fate) = (self.publisher.clone(), self.fate.clone());
        let send = async move {
            if let Some(out) = out
                && publisher.send(out).await.is_err()
            {
                fate.end_broken("publisher");
            }
        };
        AtomicResponse::new(Box::pin(send.into_actor(self)))
    }
}

impl Handler<Owned> for CleanerActor {
    type Result = MessageResult<Owned>;

    fn handle(&mut self, _: Owned, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.cleaner.owned())
    }
}

impl Handler<PutBack> for CleanerActor {
    type Result = AtomicResponse<Self, Result<Report, Failure>>;

    /// While it lasts no batch is cleaned. First all that was sent is acknowledged, so that the output shows the newest version of each
    /// key; then what came to the output since it was read is read; then the letters are decided on and sent.
    fn handle(&mut self, PutBack { letters, known }: PutBack, _: &mut Self::Context) -> Self::Result {
        // A rebalance waits for it, as it does for a batch.
        self.progress.issue();
        let (way, settings, service) = (self.way_out(), self.settings.clone(), self.service);
        let look = async move {
            way.send(|_| ()).await?;
            let (mut known, topic) = (known, settings.output.topic);
            read_in_task(&settings.kafka, service, &way.fate, move |tail| known.read_on(tail, &topic).map(|()| known))
                .await
        };
        let put_back = look.into_actor(self).then(move |looked, actor, _| {
            let way = actor.way_out();
            let now = time::now();
            let kept = Duration::from_millis(actor.settings.kafka.topics.tombstone_retention_ms);
            let times = Times { now, tombstones_since: now.checked_sub(kept).unwrap_or(Timestamp::MIN) };
            let made = looked.map(|mut known| {
                let (told, heard) = oneshot::channel();
                let mut out = Outgoing::at(Acknowledged::Told(told));
                actor.cleaner.have_come_to(&known.highest);
                let report = actor.cleaner.put_back(&letters, &mut known.newest, times, &mut out);
                (out, heard, report)
            });
            async move {
                let (out, heard, report) = made?;
                way.send_and_hear(out, heard).await?;
                Ok(report)
            }
            .into_actor(actor)
        });
        AtomicResponse::new(Box::pin(put_back.map(|done, actor, _| {
            actor.progress.complete(&[]);
            done
        })))
    }
}

impl CleanerActor {
    fn way_out(&self) -> WayOut {
        WayOut { publisher: self.publisher.clone(), fate: self.fate.clone() }
    }
}

/// The publisher, and the wait for what it was given.
struct WayOut {
    publisher: mpsc::Sender<Made>,
    fate: Fate,
}

impl WayOut {
    /// Sends what is filled in, and returns when it and all before it is acknowledged.
    async fn send(&self, fill: impl FnOnce(&mut Made)) -> Result<(), Failure> {
        let (told, heard) = oneshot::channel();
        let mut out = Outgoing::at(Acknowledged::Told(told));
        fill(&mut out);
        self.send_and_hear(out, heard).await
    }

    async fn send_and_hear(&self, out: Made, heard: oneshot::Receiver<()>) -> Result<(), Failure> {
        let gone = || Failure::new(FailureKind::Broken, "the chain ended before all was acknowledged");
        self.publisher.send(out).await.map_err(|_| gone())?;
        tokio::select! {
            heard = heard => heard.map_err(|_| gone()),
            () = self.fate.ended() => Err(gone()),
        }
    }
}

//! The sink end of the chain: the publisher, and where its word of what is durable goes.

use std::sync::{Arc, OnceLock};

use actix::prelude::*;
use shared::batch::Outgoing;
use shared::failure::Failure;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{OnAcked, Publisher, PublisherSetup, TopicNames};
use shared::position::Lsn;
use shared::run::{Service as _, Surroundings};
use shared::traces::span::{Database, Stage};
use tokio::sync::watch;

use crate::capture::ChunkAcked;
use crate::pipeline::CdcIngest;
use crate::settings::Settings;
use crate::transaction::Position;
use crate::wal_stream::Durable;

/// The sink end of the chain. It is opened before anything else: the producer connects while the rest of the start goes on.
pub struct Outlet {
    pub publisher: Recipient<Outgoing<Position>>,
    pub topics: TopicNames,
    pub progress: Progress,
    /// What the server is told, and what the state topic notes of it, once it is durable.
    pub durable: Durable,
    /// The worker that hears of its chunks, once there is one.
    pub worker: Arc<OnceLock<Recipient<ChunkAcked>>>,
}

impl Outlet {
    pub fn open(config: &Settings, surroundings: &Surroundings) -> Result<Self, Failure> {
        let Surroundings { fate, arbiter, lease, traces, .. } = surroundings;
        let topics = TopicNames::default();
        let progress = Progress::new(lease.clone(), fate.clone());
        let ((confirmed_in, confirmed), (remembered_in, remembered)) = (watch::channel(Lsn(0)), watch::channel(Lsn(0)));
        let worker: Arc<OnceLock<_>> = Arc::default();
        let acknowledged = Acknowledged {
            progress: progress.clone(),
            confirmed: confirmed_in,
            remembered: remembered_in,
            worker: Arc::clone(&worker),
        };
        let publisher = Publisher::<Position>::new(PublisherSetup {
            config: &config.kafka,
            service: CdcIngest::NAME,
            topics: topics.clone(),
            letters: None,
            fate: fate.clone(),
            lease: lease.clone(),
            tracer: traces.of(|| Stage::Capture { source: Database::from(&config.source) }),
            on_acked: acknowledged.hook(),
        })?;
        let publisher = Publisher::start_in_arbiter(arbiter, |_| publisher).recipient();
        Ok(Outlet { publisher, topics, progress, durable: Durable { confirmed, remembered }, worker })
    }
}

/// Where the publisher's word goes.
struct Acknowledged {
    progress: Progress,
    confirmed: watch::Sender<Lsn>,
    remembered: watch::Sender<Lsn>,
    worker: Arc<OnceLock<Recipient<ChunkAcked>>>,
}

impl Acknowledged {
    /// The publisher's answer: what is durable is confirmed, and the worker hears of its chunks.
    fn hook(self) -> OnAcked<Position> {
        let raise = |sender: &watch::Sender<Lsn>, lsn: Option<Lsn>| {
            sender.send_if_modified(|known| {
                lsn.is_some_and(|lsn| {
                    lsn > *known && {
                        *known = lsn;
                        true
                    }
                })
            });
        };
        Box::new(move |position: Position| {
            raise(&self.confirmed, position.confirm);
            raise(&self.remembered, position.tell);
            if position.confirm.is_some() || !position.chunks.is_empty() {
                self.progress.moved();
            }
            if let Some(worker) = self.worker.get() {
                position.chunks.into_iter().for_each(|done| worker.do_send(ChunkAcked(done)));
            }
            self.progress.complete(&[]);
        })
    }
}

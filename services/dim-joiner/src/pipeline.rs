//! The chain of dim-joiner: users first, then orders from behind the tail of the output, and beside them the older orders.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use actix::ArbiterHandle;
use actix::prelude::*;
use shared::check::Finding;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{Publisher, PublisherSetup, TopicNames};
use shared::kafka::reader::{self, Feed, ReaderSetup, Start, StartPoint, Taken, behind_tail_and_commit};
use shared::kafka::table;
use shared::kafka::tail::TailReader;
use shared::kafka::topics::{TopicSpec, Topics};
use shared::run::{Chain, Service, Surroundings};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::join::{DEAD_LETTERS, Joiner, Offsets, TakenOver};
use crate::joiner::{JoinerActor, ORDERS_LATCH};
use crate::read_back::{ReadingBack, Wanted};
use crate::settings::Settings;

/// The health latch that is held until the users are read.
const USERS_LATCH: &str = "users";

/// The service.
pub struct DimJoiner;

impl Service for DimJoiner {
    const NAME: &'static str = "dim-joiner";
    const ABOUT: &'static str =
        "Joins cleaned orders with their users, and sends a user's orders again when the user changes";
    type Config = Settings;

    async fn check(config: &Settings) -> Vec<Finding> {
        let topics = match Topics::connect(&config.kafka, Self::NAME) {
            Ok(topics) => topics,
            Err(failure) => return vec![Finding::problem(&failure)],
        };
        let mut findings = Vec::new();
        let users = topics.required(&config.users.topic, "cdc-ingest");
        findings.push(Finding::of(&users, format!("topic {} is there", config.users.topic)));
        match topics.required(&config.orders.topic, "dwd-cleaner") {
            Ok(partitions) => {
                findings.push(Finding::ok(format!("topic {} has {partitions} partitions", config.orders.topic)));
                for spec in topic_specs(config, partitions) {
                    findings.push(topics.finding(&spec).await);
                }
            }
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
        findings
    }

    async fn start(
        config: &Settings,
        Surroundings { fate, health, arbiter, lease, .. }: Surroundings,
    ) -> Result<Chain, Failure> {
        health.hold(USERS_LATCH, format!("users of topic {}", config.users.topic));
        // First of all: the producer connects while the rest of the start goes on.
        let progress = Progress::new(lease, fate.clone());
        let own_in_flight = Arc::new(AtomicUsize::new(0));
        let publisher = publisher(config, &progress, &own_in_flight, &fate)?;
        let publisher = Publisher::start_in_arbiter(&arbiter, |_| publisher);

        let topics = Topics::connect(&config.kafka, Self::NAME)?;
        let user_partitions = topics.required(&config.users.topic, "cdc-ingest")?;
        let partitions = topics.required(&config.orders.topic, "dwd-cleaner")?;
        for spec in topic_specs(config, partitions) {
            topics.ensure(&spec).await?;
        }

        let ((loaded_sender, loaded), (wanted_in, wanted)) = (oneshot::channel(), mpsc::unbounded_channel());
        let worker = JoinerActor {
            joiner: Joiner::new(config.clone()),
            publisher: publisher.recipient(),
            progress: progress.clone(),
            fate: fate.clone(),
            health: health.clone(),
            users_loaded: Some(loaded_sender),
            wanted: wanted_in,
            own_in_flight,
            walking: false,
        };
        let worker = JoinerActor::start_in_arbiter(&arbiter, |_| worker);

        let (users, users_thread) =
            table::spawn(&config.kafka, Self::NAME, &config.users.topic, user_partitions, &fate)?;
        let feed = Feed::new(users, worker.clone().recipient(), fate.clone());
        Feed::start_in_arbiter(&arbiter, |_| feed);
        // No order is joined before every user that stood at the start is known.
        users_loaded(config, loaded, &fate).await?;
        health.release(USERS_LATCH);

        let orders_thread = read_back(config, wanted, &worker, &fate, &arbiter)?;
        let start = BehindTail {
            tail: TailReader::new(&config.kafka, Self::NAME, &fate)?,
            output: config.output.topic.clone(),
            health: health.clone(),
        };
        let (receiver, thread) = reader::spawn(ReaderSetup {
            config: &config.kafka,
            service: Self::NAME,
            topic: &config.orders.topic,
            group: &config.orders.group,
            start,
            fate: fate.clone(),
            progress,
            health,
        })?;
        let feed = Feed::new(receiver, worker.recipient(), fate);
        Feed::start_in_arbiter(&arbiter, |_| feed);
        Ok(Chain { threads: vec![thread, users_thread, orders_thread] })
    }
}

fn topic_specs(config: &Settings, partitions: i32) -> [TopicSpec; 2] {
    [
        TopicSpec { name: config.output.topic.clone(), partitions, compacted: true },
        TopicSpec { name: config.output.dead_letter_topic.clone(), partitions: 1, compacted: false },
    ]
}

fn publisher(
    config: &Settings,
    progress: &Progress,
    own_in_flight: &Arc<AtomicUsize>,
    fate: &Fate,
) -> Result<Publisher<Offsets>, Failure> {
    let (acked, own_acked) = (progress.clone(), Arc::clone(own_in_flight));
    Publisher::new(PublisherSetup {
        config: &config.kafka,
        service: DimJoiner::NAME,
        topics: TopicNames::new([config.output.topic.clone(), config.output.dead_letter_topic.clone()]),
        letters: Some(DEAD_LETTERS),
        fate: fate.clone(),
        lease: progress.lease().clone(),
        on_acked: Box::new(move |offsets: Offsets| {
            if offsets.is_empty() {
                own_acked.fetch_sub(1, Ordering::SeqCst);
            }
            acked.complete(&offsets);
        }),
    })
}

/// Starts the thread that reads orders back for the worker.
fn read_back(
    config: &Settings,
    wanted: mpsc::UnboundedReceiver<Wanted>,
    worker: &Addr<JoinerActor>,
    fate: &Fate,
    arbiter: &ArbiterHandle,
) -> Result<JoinHandle<()>, Failure> {
    let (done, read_back) = mpsc::channel(1);
    let reading_back = ReadingBack {
        tail: TailReader::new(&config.kafka, DimJoiner::NAME, fate)?,
        output: config.output.topic.clone(),
        held_max: config.orders.held_max,
        wanted,
        done,
        fate: fate.clone(),
        runtime: Handle::current(),
    };
    let feed = Feed::new(read_back, worker.clone().recipient(), fate.clone());
    Feed::start_in_arbiter(arbiter, |_| feed);
    reading_back.spawn()
}

async fn users_loaded(config: &Settings, loaded: oneshot::Receiver<()>, fate: &Fate) -> Result<(), Failure> {
    let late = || {
        Failure::new(
            FailureKind::Unreachable,
            format!("the users were not read within {} ms", config.users.load_timeout_ms),
        )
        .cure("raise users.load_timeout_ms, or look at the broker")
    };
    tokio::select! {
        answer = loaded => answer.map_err(|_| Failure::new(FailureKind::Broken, "the worker of the chain is gone")),
        () = tokio::time::sleep(Duration::from_millis(config.users.load_timeout_ms)) => Err(late()),
        () = fate.ended() => Err(fate.take_failure().unwrap_or_else(late)),
    }
}

/// A partition goes on behind the input position that the tail of the same output partition names. Its orders are read back beside.
struct BehindTail {
    tail: TailReader,
    output: String,
    health: Health,
}

/// So many of the last records make the tail: a record of a writer that hung may stand behind newer ones.
const TAIL_RECORDS: i64 = 1_000;

impl StartPoint for BehindTail {
    type State = TakenOver;

    fn locate(&mut self, taken: &[Taken]) -> Result<Vec<Start<TakenOver>>, Failure> {
        if !taken.is_empty() {
            self.health.hold(ORDERS_LATCH, format!("orders of topic {}", self.output));
        }
        let mut tails: HashMap<i32, TakenOver> = HashMap::new();
        let partitions = taken.iter().map(|taken| taken.partition);
        self.tail.look_back(&self.output, partitions, TAIL_RECORDS, &mut |partition, header| {
            let tail = tails.entry(partition).or_default();
            tail.input_offset = tail.input_offset.max(header.input_offset);
            tail.handled = tail.handled.max(header.partition_version());
        })?;
        let start = |&Taken { partition, committed }: &Taken| {
            let tail = tails.remove(&partition).unwrap_or_default();
            let offset = behind_tail_and_commit(tail.input_offset, committed);
            // Records behind the tail that left no trace in the output were handled too.
            let state = TakenOver { input_offset: offset.map(|next| next - 1), ..tail };
            Start { partition, offset, state }
        };
        Ok(taken.iter().map(start).collect())
    }
}

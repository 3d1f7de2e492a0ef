//! The chain of dim-joiner: dimensions first, then facts from behind the tail of the output, and beside them the older facts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::ArbiterHandle;
use actix::prelude::*;
use shared::check::Finding;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{Publisher, PublisherSetup, TopicNames};
use shared::kafka::reader::{self, Feed, ReaderSetup, Start, StartPoint, Taken, behind_tail_and_commit};
use shared::kafka::tail::TailReader;
use shared::kafka::topics::{TopicSpec, Topics};
use shared::run::{Chain, Service, Surroundings};
use shared::traces::Tracer;
use shared::traces::span::Stage;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::check;
use crate::join::{DEAD_LETTERS, Done, Joiner, TakenOver};
use crate::joiner::{FACTS_LATCH, JoinerActor};
use crate::plan::Plan;
use crate::read_back::{OutputReader, ReadingBack, Wanted};
use crate::room::Room;
use crate::settings::Settings;
use crate::source;

/// The health latch that is held until the dimensions are read.
const DIMENSIONS_LATCH: &str = "dimensions";

/// The service.
pub struct DimJoiner;

impl Service for DimJoiner {
    const NAME: &'static str = "dim-joiner";
    const ABOUT: &'static str = "Joins facts with their dimensions (orders with their users), and sends the facts of a row again when the row changes";
    type Config = Settings;

    async fn check(config: &Settings) -> Vec<Finding> {
        let topics = match Topics::connect(&config.kafka, Self::NAME) {
            Ok(topics) => topics,
            Err(failure) => return vec![Finding::problem(&failure)],
        };
        let mut findings = Vec::new();
        for dimension in &config.dimensions {
            let found = source::open(config, dimension, &topics).await;
            let holds = format!("dimension {}: {}", dimension.name, source::holds(dimension));
            findings.push(Finding::of(&found, holds));
        }
        match topics.required(&config.facts.topic, "dwd-cleaner") {
            Ok(partitions) => {
                findings.push(Finding::ok(format!("topic {} has {partitions} partitions", config.facts.topic)));
                for spec in topic_specs(config, partitions) {
                    findings.push(topics.finding(&spec).await);
                }
            }
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
        if findings.iter().all(|finding| finding.ok) {
            findings.extend(check::try_columns(config, &topics).await);
        }
        findings
    }

    async fn start(
        config: &Settings,
        Surroundings { fate, health, arbiter, outlet, lease, traces, .. }: Surroundings,
    ) -> Result<Chain, Failure> {
        let names: Vec<&str> = config.dimensions.iter().map(|dimension| dimension.name.as_str()).collect();
        health.hold(DIMENSIONS_LATCH, format!("dimensions: {}", names.join(", ")));
        // First of all: the producer connects while the rest of the start goes on.
        let progress = Progress::new(lease, fate.clone());
        let in_flight = Arc::new(AtomicUsize::new(0));
        let tracer = traces.of(|| Stage::from_topic(&config.facts.topic, &config.facts.group));
        let publisher = publisher(config, tracer, &progress, &in_flight, &fate)?;
        let publisher = publisher.start_behind_queue(&outlet, config.kafka.queue_batches_max, &fate);

        let topics = Topics::connect(&config.kafka, Self::NAME)?;
        let mut sources = Vec::new();
        for dimension in &config.dimensions {
            sources.push(source::open(config, dimension, &topics).await?);
        }
        let partitions = topics.required(&config.facts.topic, "dwd-cleaner")?;
        for spec in topic_specs(config, partitions) {
            topics.ensure(&spec).await?;
        }

        let plan = Plan::new(config)?;
        let room = Room::new(&config.facts, plan.dimensions.len())?;
        let output = || -> Result<OutputReader, Failure> {
            let tail = TailReader::new(&config.kafka, Self::NAME, &fate)?;
            let (topic, reader, room) = (config.output.topic.clone(), plan.reader.clone(), room.clone());
            Ok(OutputReader { tail, topic, reader, room })
        };
        // What waits for a row is not in the output, though it stood in front of what is: there all of it is read before the first fact.
        let (beside, before) = (output()?, config.has_waits().then(output).transpose()?);
        let ((loaded_sender, loaded), (wanted_in, wanted)) = (oneshot::channel(), mpsc::unbounded_channel());
        let worker = JoinerActor {
            joiner: Joiner::new(config.clone(), plan, room),
            publisher,
            progress: progress.clone(),
            fate: fate.clone(),
            health: health.clone(),
            loaded: Some(loaded_sender),
            loading: (0..config.dimensions.len()).collect(),
            wanted: wanted_in,
            reemissions_in_flight: in_flight,
            walking: false,
            has_waits: config.has_waits(),
            started_at: Instant::now(),
            reports: 0,
        };
        let worker = JoinerActor::start_in_arbiter(&arbiter, |_| worker);

        let mut threads = Vec::new();
        for (number, source) in sources.into_iter().enumerate() {
            let (rows, thread) = source.spawn(number, &fate)?;
            threads.push(thread);
            let feed = Feed::new(rows, worker.clone().recipient(), fate.clone());
            Feed::start_in_arbiter(&arbiter, |_| feed);
        }
        // No fact is joined before every row that stood at the start is known.
        dimensions_loaded(config, loaded, &fate).await?;
        health.release(DIMENSIONS_LATCH);

        let start = BehindTail {
            tail: TailReader::new(&config.kafka, Self::NAME, &fate)?,
            output: config.output.topic.clone(),
            before,
            health: health.clone(),
        };
        threads.push(read_back(beside, wanted, &worker, &fate, &arbiter)?);
        let (receiver, thread) = reader::spawn(ReaderSetup {
            config: &config.kafka,
            service: Self::NAME,
            topic: &config.facts.topic,
            group: &config.facts.group,
            batch_wait: Duration::ZERO,
            mixes_partitions: false,
            start,
            fate: fate.clone(),
            progress,
            health,
        })?;
        threads.push(thread);
        let feed = Feed::new(receiver, worker.recipient(), fate);
        Feed::start_in_arbiter(&arbiter, |_| feed);
        Ok(Chain { threads })
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
    tracer: Option<Tracer>,
    progress: &Progress,
    reemissions: &Arc<AtomicUsize>,
    fate: &Fate,
) -> Result<Publisher<Done>, Failure> {
    let (acked, sent_again) = (progress.clone(), Arc::clone(reemissions));
    Publisher::new(PublisherSetup {
        config: &config.kafka,
        service: DimJoiner::NAME,
        topics: TopicNames::new([config.output.topic.clone(), config.output.dead_letter_topic.clone()]),
        letters: Some(DEAD_LETTERS),
        fate: fate.clone(),
        lease: progress.lease().clone(),
        tracer,
        on_acked: Box::new(move |done: Done| {
            if done.is_reemission {
                sent_again.fetch_sub(1, Ordering::SeqCst);
            }
            acked.complete(&done.offsets);
        }),
    })
}

/// Starts the thread that reads facts back for the worker.
fn read_back(
    output: OutputReader,
    wanted: mpsc::UnboundedReceiver<Wanted>,
    worker: &Addr<JoinerActor>,
    fate: &Fate,
    arbiter: &ArbiterHandle,
) -> Result<JoinHandle<()>, Failure> {
    let (done, read_back) = mpsc::channel(1);
    let reading_back = ReadingBack { output, wanted, done, fate: fate.clone(), runtime: Handle::current() };
    let feed = Feed::new(read_back, worker.clone().recipient(), fate.clone());
    Feed::start_in_arbiter(arbiter, |_| feed);
    reading_back.spawn()
}

async fn dimensions_loaded(config: &Settings, loaded: oneshot::Receiver<()>, fate: &Fate) -> Result<(), Failure> {
    let timeout_ms = config.dimensions.iter().map(|dimension| dimension.load_timeout_ms).max().unwrap_or_default();
    let late = || {
        Failure::new(FailureKind::Unreachable, format!("the dimensions were not read within {timeout_ms} ms"))
            .cure("raise load_timeout_ms in [[dimensions]], or look at the servers that they are read from")
    };
    tokio::select! {
        answer = loaded => answer.map_err(|_| Failure::new(FailureKind::Broken, "the worker of the chain is gone")),
        () = tokio::time::sleep(Duration::from_millis(timeout_ms)) => Err(late()),
        () = fate.ended() => Err(fate.take_failure().unwrap_or_else(late)),
    }
}

/// A partition goes on behind the input position that the tail of the same output partition names. Its facts are read back beside, or before where facts may wait.
struct BehindTail {
    tail: TailReader,
    output: String,
    before: Option<OutputReader>,
    health: Health,
}

impl StartPoint for BehindTail {
    type State = TakenOver;

    fn locate(&mut self, taken: &[Taken]) -> Result<Vec<Start<TakenOver>>, Failure> {
        if !taken.is_empty() {
            self.health.hold(FACTS_LATCH, format!("facts of topic {}", self.output));
        }
        let stopped = self.tail.stopped(&self.output, taken.iter().map(|taken| taken.partition))?;
        let mut starts = Vec::new();
        for &Taken { partition, committed } in taken {
            let stopped = stopped.get(&partition).copied().unwrap_or_default();
            let offset = behind_tail_and_commit(stopped.input_offset, committed);
            let facts = self.before.as_ref().map(|output| output.read(partition, || false)).transpose()?;
            // Records behind the tail that left no trace in the output were handled too.
            let input_offset = offset.map(|next| next - 1);
            let state = TakenOver { input_offset, handled: stopped.version, facts, ..TakenOver::default() };
            starts.push(Start { partition, offset, state });
        }
        Ok(starts)
    }
}

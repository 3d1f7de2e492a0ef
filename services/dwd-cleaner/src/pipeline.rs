//! The chain of dwd-cleaner: checked, built sink first, started behind the tail of its output.

use std::process::ExitCode;
use std::time::Duration;

use actix::prelude::*;
use clap::{ArgMatches, Command};
use shared::check::Finding;
use shared::failure::Failure;
use shared::kafka::progress::Progress;
use shared::kafka::publisher::{Publisher, PublisherSetup, TopicNames};
use shared::kafka::reader::{self, Feed, ReaderSetup, Start, StartPoint, Taken, behind_tail_and_commit};
use shared::kafka::tail::TailReader;
use shared::kafka::topics::{TopicSpec, Topics};
use shared::run::{Chain, Service, Surroundings};
use shared::traces::span::Stage;

use crate::cleaner::{Cleaner, DEAD_LETTERS, Standing};
use crate::replay::Replay;
use crate::settings::Settings;
use crate::worker::{Acknowledged, CleanerActor};
use crate::{check, commands};

/// The service.
pub struct DwdCleaner;

impl Service for DwdCleaner {
    const NAME: &'static str = "dwd-cleaner";
    const ABOUT: &'static str = "Cleans captured rows by the rules of the settings, and sets bad ones aside";
    type Config = Settings;

    async fn check(config: &Settings) -> Vec<Finding> {
        let topics = match Topics::connect(&config.kafka, Self::NAME) {
            Ok(topics) => topics,
            Err(failure) => return vec![Finding::problem(&failure)],
        };
        let partitions = match topics.required(&config.input.topic, "cdc-ingest") {
            Ok(partitions) => partitions,
            Err(failure) => return vec![Finding::problem(&failure)],
        };
        let mut findings = vec![Finding::ok(format!("topic {} has {partitions} partitions", config.input.topic))];
        for spec in topic_specs(config, partitions) {
            findings.push(topics.finding(&spec).await);
        }
        findings.extend(check::try_rules(config, Self::NAME, partitions).await);
        findings
    }

    fn commands() -> Vec<Command> {
        commands::all()
    }

    async fn run_command(config: &Settings, name: &str, arguments: &ArgMatches) -> Result<ExitCode, Failure> {
        commands::run(config, name, arguments).await.map(|()| ExitCode::SUCCESS)
    }

    async fn start(
        config: &Settings,
        Surroundings { fate, health, arbiter, outlet, lease, control, traces }: Surroundings,
    ) -> Result<Chain, Failure> {
        // First of all: the producer connects while the rest of the start goes on.
        let progress = Progress::new(lease, fate.clone());
        let acked = progress.clone();
        let publisher = Publisher::new(PublisherSetup {
            config: &config.kafka,
            service: Self::NAME,
            topics: TopicNames::new([config.output.topic.clone(), config.output.dead_letter_topic.clone()]),
            letters: Some(DEAD_LETTERS),
            fate: fate.clone(),
            lease: progress.lease().clone(),
            tracer: traces.of(|| Stage::from_topic(&config.input.topic, &config.input.group)),
            on_acked: Box::new(move |acknowledged| match acknowledged {
                Acknowledged::Batch(offsets) => acked.complete(&offsets),
                // Who waited may have gone.
                Acknowledged::Told(waiting) => drop(waiting.send(())),
            }),
        })?;
        let publisher = publisher.start_behind_queue(&outlet, config.kafka.queue_batches_max, &fate);

        let topics = Topics::connect(&config.kafka, Self::NAME)?;
        let partitions = topics.required(&config.input.topic, "cdc-ingest")?;
        for spec in topic_specs(config, partitions) {
            topics.ensure(&spec).await?;
        }

        let worker = CleanerActor {
            cleaner: Cleaner::new(config.plan()?, &config.quality, config.input.topic.clone()),
            settings: config.clone(),
            service: Self::NAME,
            publisher,
            progress: progress.clone(),
            fate: fate.clone(),
            health: health.clone(),
        };
        let worker = CleanerActor::start_in_arbiter(&arbiter, |_| worker);
        let (settings, service) = (config.clone(), Self::NAME);
        Replay { settings, service, worker: worker.clone(), fate: fate.clone() }.obey(&arbiter, &control);

        let start = BehindTail {
            tail: TailReader::new(&config.kafka, Self::NAME, &fate)?,
            output: config.output.topic.clone(),
        };
        let (receiver, thread) = reader::spawn(ReaderSetup {
            config: &config.kafka,
            service: Self::NAME,
            topic: &config.input.topic,
            group: &config.input.group,
            batch_wait: Duration::ZERO,
            mixes_partitions: false,
            start,
            fate: fate.clone(),
            progress,
            health,
        })?;
        let feed = Feed::new(receiver, worker.recipient(), fate);
        Feed::start_in_arbiter(&arbiter, |_| feed);
        Ok(Chain { threads: vec![thread] })
    }
}

fn topic_specs(config: &Settings, partitions: i32) -> [TopicSpec; 2] {
    [
        TopicSpec { name: config.output.topic.clone(), partitions, compacted: true },
        TopicSpec { name: config.output.dead_letter_topic.clone(), partitions: 1, compacted: false },
    ]
}

/// A partition goes on behind the input position that the tail of the same output partition names.
struct BehindTail {
    tail: TailReader,
    output: String,
}

impl StartPoint for BehindTail {
    type State = Standing;

    fn locate(&mut self, taken: &[Taken]) -> Result<Vec<Start<Standing>>, Failure> {
        let stopped = self.tail.stopped(&self.output, taken.iter().map(|taken| taken.partition))?;
        let start = |&Taken { partition, committed }: &Taken| {
            let stopped = stopped.get(&partition).copied().unwrap_or_default();
            let offset = behind_tail_and_commit(stopped.input_offset, committed);
            let state = Standing { version: stopped.version, offset: offset.map(|next| next - 1) };
            Start { partition, offset, state }
        };
        Ok(taken.iter().map(start).collect())
    }
}

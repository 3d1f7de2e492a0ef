//! One round: fresh servers, the load and the system, one episode after the other, rest, and the verdict.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::Failure;

use super::disk::Disk;
use super::fault::{Abilities, Fault};
use super::plan::{Episode, Phase, Plan};
use super::servers::Servers;
use super::strike::Targets;
use super::supervisor::Ended;
use super::system::{Blueprint, InstanceId, Service, System, USERS_TOPIC};
use super::verdict::{self, Verdict};
use super::witness;
use super::workload::{self, Tally, Workload, ids, owner};
use crate::paper::Paper;
use crate::places::Places;
use crate::random::Random;

/// What a round is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    pub servers: Servers,
    pub blueprint: Blueprint,
    /// A small file system for the sink's tables.
    pub small_disk: Option<PathBuf>,
    /// The machine's clock may be stepped.
    pub may_step_clock: bool,
    /// How long things are broken.
    pub time: Duration,
    /// Changes a second at the source.
    pub rate: u32,
    /// Orders of the user whose changes are re-emitted.
    pub owned_orders: u32,
    /// Longest wait for the sink to be the source, when all is mended.
    pub rest: Duration,
}

/// The user with many orders.
const OWNER: i64 = *ids::OWNERS.start();

impl Setup {
    fn owned_orders(&self) -> RangeInclusive<i64> {
        let first = *ids::OWNED_ORDERS.start();
        first..=(first + i64::from(self.owned_orders) - 1).min(*ids::OWNED_ORDERS.end())
    }

    pub fn abilities(&self) -> Abilities {
        Abilities { small_disk: self.small_disk.is_some(), clock: self.may_step_clock }
    }
}

/// What a round came to.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub seed: u64,
    pub seconds: u64,
    pub episodes: u32,
    /// Episodes with two faults.
    pub pairs: u32,
    pub faults: BTreeMap<String, u32>,
    pub phases: BTreeMap<Phase, u32>,
    /// Episodes after which somebody was not ready in time.
    pub not_ready: Vec<String>,
    /// Starts of processes, by instance.
    pub starts: BTreeMap<String, u32>,
    /// Ends of processes that nobody ordered.
    pub ended: Vec<Ended>,
    pub changes: Tally,
    pub verdict: Verdict,
}

/// After an episode the system has so long to become ready; then the next one comes anyway.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks whether the system is ready.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// For how long all services are down before they catch up.
const DOWN: Duration = Duration::from_secs(3);

/// How long an instance has been asked to stop when it is struck.
const DRAINING_MS: u64 = 40;

/// The load runs alone for so long, so that the first copy finds rows, and others come meanwhile.
const ALONE: Duration = Duration::from_secs(3);

/// Runs a round from its seed.
pub async fn run(places: &Places, setup: &Setup, seed: u64, progress: &mut Paper) -> Result<Outcome, Failure> {
    setup.servers.wipe().await?;
    setup.servers.start_all().await?;
    let disk = match &setup.small_disk {
        Some(folder) => Some(Disk::take(folder, &places.sink).await?),
        None => None,
    };
    let mut source = places.connect_source().await?;
    witness::install(&mut source, &places.names).await?;
    owner::make_owner(&places.source, &places.names, OWNER, setup.owned_orders()).await?;
    let settings = workload::Settings { rate: setup.rate, ..workload::Settings::default() };
    let load = Workload::start(&places.source, &places.names, seed, &settings)?;
    tokio::time::sleep(ALONE).await;

    let system = System::build(places, &setup.blueprint)?;
    system.start()?;
    let targets = Targets {
        system: &system,
        servers: &setup.servers,
        places,
        users_topic: USERS_TOPIC,
        disk,
        planted: Default::default(),
        poisons: Default::default(),
    };
    let mut round = Round {
        setup,
        targets,
        random: Random::seeded(seed),
        counts: Counts::default(),
        begin: Instant::now(),
        owner_changes: 0,
    };
    round.break_things(Plan::new(seed, setup.abilities()), progress).await?;
    progress.note(format!("seed {seed}: all is mended, and the load has ended; waiting for rest"));
    let changes = load.stop();
    system.heal_all()?;
    let surroundings = verdict::Surroundings {
        places,
        users_topic: USERS_TOPIC,
        dead_letter_topics: ["dlq_dwd_cleaner", "dlq_dim_joiner", "dlq_pg_sinker"],
        planted: &round.targets.planted.take(),
    };
    let verdict = verdict::verdict(&surroundings, setup.rest, progress).await?;
    let Counts { episodes, pairs, faults, phases, not_ready } = round.counts;
    Ok(Outcome {
        seed,
        seconds: round.begin.elapsed().as_secs(),
        episodes,
        pairs,
        faults,
        phases,
        not_ready,
        starts: system.supervisor.starts(),
        ended: system.supervisor.ended(),
        changes,
        verdict,
    })
}

#[derive(Debug, Default)]
struct Counts {
    episodes: u32,
    pairs: u32,
    faults: BTreeMap<String, u32>,
    phases: BTreeMap<Phase, u32>,
    not_ready: Vec<String>,
}

impl Counts {
    fn enter(&mut self, episode: &Episode) {
        self.episodes += 1;
        *self.phases.entry(episode.phase).or_default() += 1;
        *self.faults.entry(episode.fault.kind()).or_default() += 1;
        if let Some((_, second)) = &episode.second {
            self.pairs += 1;
            *self.faults.entry(second.kind()).or_default() += 1;
        }
    }
}

struct Round<'a> {
    setup: &'a Setup,
    targets: Targets<'a>,
    random: Random,
    counts: Counts,
    begin: Instant,
    owner_changes: usize,
}

impl Round<'_> {
    async fn break_things(&mut self, plan: Plan, progress: &mut Paper) -> Result<(), Failure> {
        for episode in plan {
            if self.begin.elapsed() >= self.setup.time {
                break;
            }
            progress.note(format!("{:>4} s  {episode}", self.begin.elapsed().as_secs()));
            self.play(&episode).await?;
            self.counts.enter(&episode);
            if let Err(reason) = self.until_ready().await {
                progress.line(format!("      not ready within {} s: {reason}", READY_WITHIN.as_secs()));
                self.counts.not_ready.push(format!("{episode}: {reason}"));
            }
        }
        Ok(())
    }

    async fn play(&mut self, episode: &Episode) -> Result<(), Failure> {
        let after_ms = match episode.phase {
            Phase::Draining => episode.after_ms % DRAINING_MS,
            _ => episode.after_ms,
        };
        self.enter(episode).await?;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        let second = async {
            match &episode.second {
                Some((after_ms, fault)) => {
                    tokio::time::sleep(Duration::from_millis(*after_ms)).await;
                    self.targets.strike(fault).await
                }
                None => Ok(()),
            }
        };
        let (first, second) = tokio::join!(self.targets.strike(&episode.fault), second);
        first.and(second)
    }

    async fn enter(&mut self, episode: &Episode) -> Result<(), Failure> {
        let places = self.targets.places;
        match episode.phase {
            Phase::Live => Ok(()),
            Phase::Snapshot => {
                let table = places.names.orders.to_string();
                self.targets.system.command_snapshot(&table).await;
                Ok(())
            }
            Phase::CatchingUp => self.targets.all_down_for(DOWN).await,
            Phase::Draining => {
                let id = self.instance_of(&episode.fault);
                self.targets.system.supervisor.restart(&id.name())
            }
            // The source may still be starting: then nothing is re-emitted, and the next phase comes.
            Phase::Reemitting => {
                self.owner_changes += 1;
                // A TRUNCATE may have taken the orders.
                let _ = owner::make_owner(&places.source, &places.names, OWNER, self.setup.owned_orders()).await;
                let _ = owner::change_owner(&places.source, &places.names, OWNER, self.owner_changes).await;
                Ok(())
            }
        }
    }

    /// The instance that a fault lies upon, or any.
    fn instance_of(&mut self, fault: &Fault) -> InstanceId {
        match fault {
            Fault::Kill(id) | Fault::Terminate(id) | Fault::Freeze(id) | Fault::Cut(id) | Fault::BlackHole(id) => *id,
            _ => {
                let running: Vec<InstanceId> =
                    InstanceId::all().into_iter().filter(|id| id.number <= Service::REPLICAS).collect();
                let at = self.random.below(running.len());
                running.get(at).copied().unwrap_or(InstanceId { service: Service::CdcIngest, number: 1 })
            }
        }
    }

    async fn until_ready(&self) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let looked = self.targets.system.look().await;
            if looked.is_ok() || begin.elapsed() > READY_WITHIN {
                return looked;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

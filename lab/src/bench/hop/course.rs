//! The way of a service from topic to topic, taken by one entrant after the other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::failure::Failure;

use super::broker::Broker;
use super::consumed::Consumed;
use super::entrant::{Entrant, program};
use super::profile::Profile;
use super::raw::{Allocator, Order, Task};
use super::results::Run;
use super::watch::{Figures, Through, watch};
use crate::bench::calm;
use crate::bench::child::{Child, Program, variable};
use crate::bench::handover;
use crate::bench::topic_writer::TopicWriter;
use crate::bench::variant::Variant;
use crate::paper::Paper;
use crate::places::Places;
use crate::ports::free_port;

/// A service and its topics, as its defaults have them; its group has the service's name.
#[derive(Debug, Clone, Copy)]
pub struct Hop {
    pub service: &'static str,
    pub input: &'static str,
    pub output: &'static str,
}

impl Hop {
    pub const CLEANER: Hop = Hop { service: "dwd-cleaner", input: "ods_orders", output: "dwd_orders" };
    pub const JOINER: Hop = Hop { service: "dim-joiner", input: "dwd_orders", output: "result_orders_with_user_info" };
}

/// Where raw clients write to.
const COPY: &str = "bench_copy";

/// All that a measurement works with.
pub struct Course<'a> {
    pub places: &'a Places,
    pub broker: Broker,
    pub programs: &'a Path,
    pub logs: &'a Path,
    /// Longest wait, before each run, for others on the machine to become quiet.
    pub calm: Duration,
    /// Where profiles of the services go; `None`: none are made.
    pub profiles: Option<&'a Path>,
    pub progress: &'a mut Paper,
}

/// What is taken from the input: records, in so many partitions, which the output has as well.
#[derive(Debug, Clone, Copy)]
struct Way {
    partitions: i32,
    rows: u64,
}

struct TopicEnd<'a> {
    broker: &'a Broker,
    topic: &'a str,
    partitions: i32,
}

impl Through for TopicEnd<'_> {
    async fn rows(&mut self) -> Result<u64, Failure> {
        self.broker.rows(self.topic, self.partitions)
    }

    async fn postgres(&mut self) -> Result<Option<u32>, Failure> {
        Ok(None)
    }
}

impl Course<'_> {
    /// Rounds in which each entrant takes the way once; every second round begins at the other end. What the last one that is not a
    /// raw client has written is there afterwards.
    pub async fn rounds(&mut self, hop: &Hop, entrants: &[Entrant], rounds: u32) -> Result<Vec<Run>, Failure> {
        let mut runs = Vec::new();
        for round in 1..=rounds {
            let mut order: Vec<&Entrant> = entrants.iter().collect();
            if round.is_multiple_of(2) {
                order.reverse();
            }
            for entrant in order {
                calm::wait(self.calm).await;
                let handover_ns = handover::nanoseconds();
                let figures = self.take(hop, entrant).await?;
                let title = entrant.title(hop.service);
                self.progress.line(format!("  round {round}: {title}, {:.0} rows a second", figures.rows_a_second()));
                runs.push(Run { round, title, handover_ns, figures });
            }
        }
        Ok(runs)
    }

    /// The way is taken once, by the service as it is, for what it writes.
    pub async fn once(&mut self, hop: &Hop) -> Result<(), Failure> {
        self.take(hop, &Entrant::Service { variant: Variant::default(), instances: 1 }).await.map(|_| ())
    }

    async fn take(&self, hop: &Hop, entrant: &Entrant) -> Result<Figures, Failure> {
        let partitions = self.broker.partitions(hop.input)?;
        let way = Way { partitions, rows: self.broker.rows(hop.input, partitions)? };
        match entrant {
            Entrant::Raw { task, allocator, instances } => self.raw((*task, *allocator), hop, *instances, way).await,
            Entrant::Service { variant, instances } => self.serve(hop, variant, *instances, way).await,
        }
    }

    async fn anew(&self, topic: &str, partitions: i32) -> Result<(), Failure> {
        self.broker.forget_topic(topic).await?;
        TopicWriter::connect(self.places, partitions)?.make(topic).await?;
        self.broker.until_shown(topic, partitions).await
    }

    async fn raw(
        &self,
        (task, allocator): (Task, Allocator),
        hop: &Hop,
        instances: u32,
        way: Way,
    ) -> Result<Figures, Failure> {
        self.anew(COPY, way.partitions).await?;
        let path = allocator.program(self.programs);
        let (mut children, mut consumed) = (Vec::new(), Consumed::default());
        for instance in 0..instances {
            let mine = (0..way.partitions).filter(|partition| partition.unsigned_abs() % instances == instance);
            let order = Order::new(task, hop.input, COPY, mine.collect());
            let (child, out) =
                Child::start_piped(order.program((allocator, &path), self.places, &self.log("raw", instance)))?;
            consumed.listen(out);
            children.push(child);
        }
        let figures = if task == Task::Consume {
            watch(&children, &mut consumed, way.rows, self.broker.process).await?
        } else {
            let mut end = TopicEnd { broker: &self.broker, topic: COPY, partitions: way.partitions };
            watch(&children, &mut end, way.rows, self.broker.process).await?
        };
        children.iter_mut().try_for_each(Child::expect_success)?;
        self.broker.forget_topic(COPY).await?;
        Ok(figures)
    }

    async fn serve(&self, hop: &Hop, variant: &Variant, instances: u32, way: Way) -> Result<Figures, Failure> {
        self.anew(hop.output, way.partitions).await?;
        self.broker.forget_group(hop.service).await?;
        let path = program(variant, self.programs, hop.service);
        let mut children = Vec::new();
        for instance in 0..instances {
            let variables = self.variables(hop, variant, instance)?;
            let log = self.log(hop.service, instance);
            children.push(Child::start(Program { path: &path, arguments: Vec::new(), variables, log })?);
        }
        let mut end = TopicEnd { broker: &self.broker, topic: hop.output, partitions: way.partitions };
        let profile = self.profile(&variant.title(hop.service), &children)?;
        let figures = watch(&children, &mut end, way.rows, self.broker.process).await?;
        stop(children, profile).await?;
        Ok(figures)
    }

    /// Of the first of several.
    pub fn profile(&self, title: &str, children: &[Child]) -> Result<Option<Profile>, Failure> {
        let Some((folder, child)) = self.profiles.zip(children.first()) else { return Ok(None) };
        Profile::start(folder, title, child.id()).map(Some)
    }

    /// What a service must know to find its place. All else is as it comes: dim-joiner's own sections are left alone here.
    fn variables(&self, hop: &Hop, variant: &Variant, instance: u32) -> Result<Vec<(String, String)>, Failure> {
        let settings = [
            ("kafka.brokers", self.places.kafka.brokers.clone()),
            ("kafka.instance_id", format!("bench-{instance}")),
            ("http.port", free_port()?.to_string()),
        ];
        let ours = settings.into_iter().map(|(key, value)| (variable(hop.service, key), value));
        Ok(ours.chain(variant.variables(hop.service)).collect())
    }

    fn log(&self, what: &str, instance: u32) -> PathBuf {
        self.logs.join(format!("{what}-{instance}.log"))
    }
}

/// Stops the processes, and waits for the profile of them.
pub async fn stop(children: Vec<Child>, profile: Option<Profile>) -> Result<(), Failure> {
    for child in children {
        child.stop().await?;
    }
    profile.map_or(Ok(()), Profile::finish)
}

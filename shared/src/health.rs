//! What a service says of itself: is it ready, and what does it do just now.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::{Failure, FailureKind};
use crate::metrics;
use crate::pulse::{Part, Pulse};
use crate::record::time;

/// The state behind `/health` and `/api/v1/state`, shared by all parts of a service.
#[derive(Clone)]
pub struct Health {
    state: Arc<Mutex<State>>,
    pages: Arc<Mutex<BTreeMap<&'static str, Value>>>,
    /// Of what this one speaks, where a service has several parts of a kind.
    of: Option<Arc<str>>,
}

/// What `/api/v1/state` shows.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    pub service: &'static str,
    pub version: &'static str,
    /// UTC, to the millisecond; so are all times here.
    pub started_at: String,
    pub ready: bool,
    /// What readiness waits for; empty when ready.
    pub waiting_for: Vec<String>,
    pub generation: Generation,
    /// The last restarts of the chain, newest first.
    pub restarts: VecDeque<Restart>,
    /// What the service has to say beyond that: partitions, slot, snapshot, tables.
    pub details: BTreeMap<&'static str, Value>,
    #[serde(skip)]
    latches: BTreeMap<Part, String>,
    /// The part that waits for its turn, because another instance does the work.
    #[serde(skip)]
    standing_by: Option<Part>,
    #[serde(skip)]
    pulse: Pulse,
}

/// The chain that runs now, and why the one before ended.
#[derive(Debug, Clone, Serialize, Default)]
pub struct Generation {
    pub number: u64,
    pub phase: Phase,
    pub since: String,
    pub last_failure: Option<String>,
    pub last_failure_at: Option<String>,
}

/// A generation that ended with a failure.
#[derive(Debug, Clone, Serialize)]
pub struct Restart {
    pub at: String,
    pub kind: &'static str,
    pub why: String,
    /// The chain did not come to run: what it needs was not there yet, a server or a topic.
    pub waited: bool,
}

/// So many of the last restarts are shown.
const RESTARTS_SHOWN: usize = 10;

/// The life of a generation.
#[derive(Debug, Clone, Copy, Serialize, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Starting,
    Running,
    BackingOff,
    Draining,
    Stopped,
}

impl Health {
    pub fn new(service: &'static str, version: &'static str) -> Self {
        metrics::UP.with_label_values(&[service, version]).set(1);
        let state = State {
            service,
            version,
            started_at: time::milliseconds(Timestamp::now()),
            ready: false,
            waiting_for: Vec::new(),
            generation: Generation { since: time::milliseconds(Timestamp::now()), ..Generation::default() },
            restarts: VecDeque::new(),
            details: BTreeMap::new(),
            latches: BTreeMap::new(),
            standing_by: None,
            pulse: Pulse::default(),
        };
        Health { state: Arc::new(Mutex::new(state)), pages: Arc::default(), of: None }
    }

    /// The same state, for parts that belong to `name`: their latches, signs of life and details stand beside those of others.
    pub fn of(&self, name: &str) -> Self {
        Health { of: Some(name.into()), ..self.clone() }
    }

    fn part(&self, kind: &'static str) -> Part {
        Part { kind, of: self.of.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds readiness back until [`Health::release`] is called for the same part.
    pub fn hold(&self, part: &'static str, waiting_for: impl Into<String>) {
        let mut state = self.lock();
        state.latches.insert(self.part(part), waiting_for.into());
        state.refresh();
    }

    pub fn release(&self, part: &'static str) {
        let mut state = self.lock();
        if state.latches.remove(&self.part(part)).is_some() {
            state.refresh();
        }
    }

    /// Another instance does the work (`holder` tells which), and this one takes over when that ends.
    pub fn stand_by(&self, part: &'static str, holder: impl Into<String>) {
        self.hold(part, holder);
        self.lock().standing_by = Some(self.part(part));
    }

    /// Sets one of the service's own details; those that belong to a name stand under `further`.
    pub fn detail(&self, name: &'static str, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        let mut state = self.lock();
        let Some(of) = &self.of else {
            state.details.insert(name, value);
            return;
        };
        let further = state.details.entry("further").or_insert_with(|| Value::Object(Map::new()));
        if let Some(further) = further.as_object_mut() {
            let own = further.entry(of.as_ref()).or_insert_with(|| Value::Object(Map::new()));
            own.as_object_mut().and_then(|own| own.insert(name.to_owned(), value));
        }
    }

    /// Sets what `/api/v1/<name>` shows: what is too long for the state.
    pub fn page(&self, name: &'static str, value: Value) {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).insert(name, value);
    }

    /// The names of the pages that there are.
    pub fn page_names(&self) -> Vec<&'static str> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// What `/api/v1/<name>` shows; `None` where the service has no such page.
    pub fn page_of(&self, name: &str) -> Option<Value> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The chain enters a phase; only a running one can be ready.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.lock();
        state.generation.phase = phase;
        state.generation.since = time::milliseconds(Timestamp::now());
        if matches!(phase, Phase::Starting | Phase::BackingOff) {
            state.pulse.end_generation();
        }
        if phase == Phase::Starting {
            state.generation.number += 1;
            state.latches.clear();
            state.standing_by = None;
        }
        state.refresh();
    }

    /// A part of the process gives a sign of life.
    pub fn beat(&self, part: &'static str) {
        self.lock().pulse.beat(self.part(part), Instant::now());
    }

    /// A part of the process has ended, and gives no more signs of life.
    pub fn ended(&self, part: &'static str) {
        self.lock().pulse.end(&self.part(part));
    }

    /// Why the process is of no more use, if so: it has stopped, or a part of it hangs.
    pub fn dead(&self, silence_max: Duration) -> Option<String> {
        let state = self.lock();
        if state.generation.phase == Phase::Stopped {
            return Some("stopped".into());
        }
        let (part, silence) = state.pulse.hangs(silence_max, Instant::now())?;
        Some(format!("the part `{part}` has given no sign for {} ms", silence.as_millis()))
    }

    pub fn failed(&self, failure: &Failure) {
        let mut state = self.lock();
        let (at, kind, why) = (time::milliseconds(Timestamp::now()), failure.kind.as_str(), failure.chain());
        state.generation.last_failure = Some(why.clone());
        state.generation.last_failure_at = Some(at.clone());
        let waited = state.generation.phase == Phase::Starting && failure.kind == FailureKind::Unreachable;
        state.restarts.push_front(Restart { at, kind, why, waited });
        state.restarts.truncate(RESTARTS_SHOWN);
    }

    pub fn state(&self) -> State {
        self.lock().clone()
    }

    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Whether it is ready, or waits for nothing but parts of this kind.
    pub fn is_ready_but_for(&self, kind: &str) -> bool {
        let state = self.lock();
        state.generation.phase == Phase::Running && state.latches.keys().all(|part| part.kind == kind)
    }
}

impl State {
    /// What it waits for, where that is nothing but its turn. A chain may wait for it before it runs.
    pub fn stands_by(&self) -> Option<&str> {
        let part = self.standing_by.as_ref()?;
        let is_on_its_way = matches!(self.generation.phase, Phase::Starting | Phase::Running);
        let waits = self.latches.get(part)?;
        (is_on_its_way && self.latches.len() == 1).then_some(waits)
    }

    fn refresh(&mut self) {
        self.waiting_for = self.latches.values().cloned().collect();
        if self.generation.phase != Phase::Running {
            self.waiting_for.insert(0, format!("the chain is {:?}", self.generation.phase));
        }
        self.ready = self.waiting_for.is_empty();
        metrics::READY.set(i64::from(self.ready));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_running_with_every_latch_released() {
        let health = Health::new("test", "0");
        health.hold("partitions", "partitions of ods_orders");
        health.enter(Phase::Running);
        assert!(!health.is_ready());
        assert_eq!(health.state().waiting_for, ["partitions of ods_orders"]);
        assert!(health.is_ready_but_for("partitions") && !health.is_ready_but_for("sink"));
        health.release("partitions");
        assert!(health.is_ready());
        health.enter(Phase::BackingOff);
        assert!(!health.is_ready() && !health.is_ready_but_for("partitions"));
    }

    #[test]
    fn a_start_that_waited_is_told_from_a_chain_that_failed() {
        let health = Health::new("test", "0");
        let (unreachable, broken) = (FailureKind::Unreachable, FailureKind::Broken);
        for (phase, kind) in [(Phase::Starting, unreachable), (Phase::Starting, broken), (Phase::Running, unreachable)]
        {
            health.enter(phase);
            health.failed(&Failure::new(kind, "x"));
        }
        // The newest first.
        assert_eq!(health.state().restarts.iter().map(|one| one.waited).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_standby_is_useful_and_not_ready() {
        let health = Health::new("test", "0");
        health.enter(Phase::Starting);
        health.hold("kafka", "the broker");
        health.stand_by("slot", "slot s, which is in use by another");
        assert_eq!(health.state().stands_by(), None, "it waits for the broker as well");
        health.release("kafka");
        assert_eq!(health.state().stands_by(), Some("slot s, which is in use by another"));
        assert!(!health.is_ready());
        health.enter(Phase::Running);
        assert!(health.state().stands_by().is_some());
        health.release("slot");
        assert!(health.is_ready() && health.state().stands_by().is_none());
        health.stand_by("slot", "slot s, which is in use by another");
        health.enter(Phase::BackingOff);
        assert_eq!(health.state().stands_by(), None);
        health.enter(Phase::Starting);
        health.hold("slot", "the slot");
        assert_eq!(health.state().stands_by(), None, "another generation does not stand by yet");
    }

    #[test]
    fn parts_of_a_name_stand_beside_the_others() {
        let health = Health::new("test", "0");
        let of_users = health.of("users");
        for health in [&health, &of_users] {
            health.hold("sink", "the sink");
            health.detail("input", 1);
        }
        of_users.release("sink");
        of_users.detail("more", 2);
        assert_eq!(health.state().waiting_for.len(), 2, "the chain, and the other latch");
        let details = serde_json::to_value(health.state().details).unwrap();
        assert_eq!(details, serde_json::json!({"input": 1, "further": {"users": {"input": 1, "more": 2}}}));
    }

    #[test]
    fn a_process_is_dead_when_it_has_stopped_or_a_part_hangs() {
        let health = Health::new("test", "0");
        health.enter(Phase::Running);
        health.beat("reader");
        assert_eq!(health.dead(Duration::from_secs(60)), None);
        std::thread::sleep(Duration::from_millis(2));
        assert!(health.dead(Duration::ZERO).unwrap().contains("reader"));
        health.enter(Phase::BackingOff);
        assert_eq!(health.dead(Duration::ZERO), None, "who waits to start again does not hang");
        health.enter(Phase::Stopped);
        assert_eq!(health.dead(Duration::from_secs(60)).as_deref(), Some("stopped"));
    }
}

//! What instances tell of themselves, and what all of it together is: the pipeline.
//!
//! Pure: records in, the page's answer out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::figures::Figures;
use super::settings::ConsoleConfig;
use super::topology::{Role, Topology};
use crate::health::State;

/// Which instance: the record's key. Two of one service on one machine differ by their port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    pub service: String,
    pub instance: String,
    pub port: u16,
}

/// What an instance tells: the record's value. No value: it has stopped in order.
#[derive(Debug, Serialize)]
pub struct Telling<'a> {
    /// Milliseconds since 1970, by the clock of who tells.
    pub told_at_ms: i64,
    pub url: &'a str,
    /// Where commands to it are taken, where that is another address.
    pub control_url: Option<&'a str>,
    pub takes_commands: bool,
    pub topology: &'a Topology,
    pub figures: &'a Figures,
    pub state: State,
    pub configuration: &'a Value,
}

impl Telling<'_> {
    /// The record's value, within the bound: what is longest stays out where it does not fit.
    pub fn encode(self, bytes_max: usize) -> Vec<u8> {
        let whole = serde_json::to_vec(&self).unwrap_or_default();
        if whole.len() <= bytes_max {
            return whole;
        }
        let too_long = Value::String(format!("left out: longer than console.state_bytes_max, {bytes_max}"));
        let mut state = self.state.clone();
        state.details = BTreeMap::from([("note", too_long.clone())]);
        serde_json::to_vec(&Telling { state, configuration: &too_long, ..self }).unwrap_or_default()
    }
}

/// Everything that was told, by instance. All parts of the process share it.
#[derive(Debug, Clone)]
pub struct Pipeline {
    own: Instance,
    gone_after_ms: i64,
    forgotten_after_ms: i64,
    instances_max: usize,
    shared: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    by_instance: BTreeMap<Instance, Entry>,
    /// Why the topic of states is not read or written just now.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Entry {
    told_at_ms: i64,
    value: Value,
}

/// What `/api/v1/pipeline` says.
#[derive(Debug, Serialize)]
pub struct Shown {
    pub now_ms: i64,
    /// Whose page this is.
    pub here: Instance,
    /// Why others may be missing or look old.
    pub trouble: Option<String>,
    pub instances: Vec<ShownInstance>,
}

/// An instance in it.
#[derive(Debug, Serialize)]
pub struct ShownInstance {
    #[serde(flatten)]
    pub who: Instance,
    /// Since it last told.
    pub age_ms: i64,
    /// It has told nothing for `console.gone_after_ms`.
    pub gone: bool,
    pub told: Value,
}

impl Pipeline {
    pub fn new(own: Instance, config: &ConsoleConfig) -> Self {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        Pipeline {
            own,
            gone_after_ms: signed(config.gone_after_ms),
            forgotten_after_ms: signed(config.forgotten_after_ms),
            instances_max: config.instances_max,
            shared: Arc::default(),
        }
    }

    pub fn own(&self) -> &Instance {
        &self.own
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a record of the topic. What is older than what is known, or no instance's, changes nothing.
    pub fn take(&self, key: &[u8], value: Option<&[u8]>) {
        let Ok(who) = serde_json::from_slice::<Instance>(key) else { return };
        // What this instance tells it knows better than the topic, which may hold words of the process before.
        if who == self.own {
            return;
        }
        match value {
            None => drop(self.lock().by_instance.remove(&who)),
            Some(value) => self.enter(who, value),
        }
    }

    /// Takes in what this instance tells.
    pub fn take_own(&self, value: &[u8]) {
        self.enter(self.own.clone(), value);
    }

    fn enter(&self, who: Instance, value: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(value) else { return };
        let Some(told_at_ms) = value.get("told_at_ms").and_then(Value::as_i64) else { return };
        let mut told = self.lock();
        let is_known = told.by_instance.contains_key(&who);
        if is_known || told.by_instance.len() < self.instances_max || who == self.own {
            let entry = Entry { told_at_ms, value };
            if told.by_instance.get(&who).is_none_or(|known| known.told_at_ms <= told_at_ms) {
                told.by_instance.insert(who, entry);
            }
        }
    }

    /// Why the topic is not read or written just now; `None`: it is.
    pub fn set_trouble(&self, trouble: Option<String>) {
        self.lock().trouble = trouble;
    }

    /// The pipeline at this moment. Who has told nothing for long is forgotten.
    pub fn shown(&self, now_ms: i64) -> Shown {
        let mut told = self.lock();
        told.by_instance.retain(|who, entry| {
            *who == self.own || now_ms.saturating_sub(entry.told_at_ms) <= self.forgotten_after_ms
        });
        let instances = told.by_instance.iter().map(|(who, entry)| {
            let age_ms = now_ms.saturating_sub(entry.told_at_ms).max(0);
            ShownInstance { who: who.clone(), age_ms, gone: age_ms > self.gone_after_ms, told: entry.value.clone() }
        });
        Shown { now_ms, here: self.own.clone(), trouble: told.trouble.clone(), instances: instances.collect() }
    }

    /// The topics that lead to the sink, in the order of the data: what a row goes through.
    pub fn way(&self) -> Vec<String> {
        let places = self.lock().by_instance.values().map(topology).collect::<Vec<_>>();
        let mut way: Vec<String> = Vec::new();
        let mut next = places.iter().find(|place| place.sink.is_some()).and_then(|place| place.input.clone());
        while let Some(topic) = next.filter(|topic| !way.contains(topic)) {
            let writer = places.iter().find(|place| place.outputs.contains(&topic));
            next = writer.and_then(|place| place.input.clone());
            way.insert(0, topic);
        }
        way
    }

    /// The topics of the pipeline: those that its instances name, and those that a captured table goes to.
    pub fn topics(&self) -> BTreeMap<String, Role> {
        let told = self.lock();
        let mut topics = BTreeMap::new();
        for entry in told.by_instance.values() {
            topics.extend(topology(entry).topics().map(|(topic, role)| (topic.to_owned(), role)));
            let tables = entry.value.pointer("/state/details/snapshot").and_then(Value::as_object);
            let captured = tables.into_iter().flatten().filter_map(|(_, table)| table.get("topic")?.as_str());
            topics.extend(captured.map(|topic| (topic.to_owned(), Role::Rows)));
        }
        topics
    }
}

fn topology(entry: &Entry) -> Topology {
    let told = entry.value.get("topology").cloned().unwrap_or_default();
    serde_json::from_value(told).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(service: &str) -> Instance {
        Instance { service: service.into(), instance: "a".into(), port: 1 }
    }

    fn pipeline() -> Pipeline {
        let config =
            ConsoleConfig { gone_after_ms: 10, forgotten_after_ms: 100, instances_max: 2, ..Default::default() };
        Pipeline::new(instance("own"), &config)
    }

    fn take(pipeline: &Pipeline, service: &str, told_at_ms: i64, rest: &str) {
        let key = serde_json::to_vec(&instance(service)).unwrap();
        pipeline.take(&key, Some(format!("{{\"told_at_ms\":{told_at_ms}{rest}}}").as_bytes()));
    }

    fn seen(pipeline: &Pipeline, now_ms: i64) -> Vec<(String, i64, bool)> {
        let shown = pipeline.shown(now_ms);
        shown.instances.into_iter().map(|found| (found.who.service, found.age_ms, found.gone)).collect()
    }

    #[test]
    fn who_is_silent_is_gone_and_then_forgotten() {
        let pipeline = pipeline();
        pipeline.take_own(b"{\"told_at_ms\":0}");
        take(&pipeline, "x", 0, "");
        assert_eq!(seen(&pipeline, 10), [("own".into(), 10, false), ("x".into(), 10, false)]);
        assert_eq!(seen(&pipeline, 11), [("own".into(), 11, true), ("x".into(), 11, true)]);
        assert_eq!(seen(&pipeline, 101), [("own".into(), 101, true)], "this page is never without itself");
    }

    #[test]
    fn the_newest_word_counts_and_good_bye_is_the_last() {
        let pipeline = pipeline();
        take(&pipeline, "x", 5, "");
        take(&pipeline, "x", 3, "");
        assert_eq!(seen(&pipeline, 5), [("x".into(), 0, false)]);
        pipeline.take(&serde_json::to_vec(&instance("x")).unwrap(), None);
        assert_eq!(seen(&pipeline, 5), []);
    }

    #[test]
    fn what_is_no_instance_or_too_much_changes_nothing() {
        let pipeline = pipeline();
        pipeline.take(b"?", Some(b"{}"));
        pipeline.take(&serde_json::to_vec(&instance("x")).unwrap(), Some(b"{}"));
        take(&pipeline, "own", 1, "");
        assert_eq!(seen(&pipeline, 1), [], "what the topic says of this instance is of the process before");
        for service in ["x", "y", "z"] {
            take(&pipeline, service, 1, "");
        }
        assert_eq!(seen(&pipeline, 1).len(), 2);
    }

    #[test]
    fn topics_are_those_that_instances_name() {
        let pipeline = pipeline();
        let of_capture =
            r#","topology":{"own":["cdc_state"]},"state":{"details":{"snapshot":{"a.b":{"topic":"ods_b"}}}}"#;
        take(&pipeline, "cdc-ingest", 1, of_capture);
        let of_cleaner = r#","topology":{"input":"ods_b","outputs":["dwd"],"dead_letters":["dlq"]}"#;
        take(&pipeline, "dwd-cleaner", 1, of_cleaner);
        let topics: Vec<(String, Role)> = pipeline.topics().into_iter().collect();
        let wanted =
            [("cdc_state", Role::State), ("dlq", Role::DeadLetters), ("dwd", Role::Rows), ("ods_b", Role::Rows)];
        assert_eq!(topics, wanted.map(|(topic, role)| (topic.to_owned(), role)));
    }

    #[test]
    fn the_way_leads_to_the_sink() {
        let pipeline = Pipeline::new(instance("own"), &ConsoleConfig::default());
        assert_eq!(pipeline.way(), Vec::<String>::new());
        let places = [
            ("a", r#"{"source":"db","outputs":["users","ods"]}"#),
            ("b", r#"{"input":"ods","outputs":["dwd"]}"#),
            ("c", r#"{"input":"dwd","beside":["users"],"outputs":["result"]}"#),
            ("d", r#"{"input":"result","sink":"db"}"#),
        ];
        for (service, place) in places {
            take(&pipeline, service, 1, &format!(",\"topology\":{place}"));
        }
        assert_eq!(pipeline.way(), ["ods", "dwd", "result"]);
        take(&pipeline, "e", 1, r#","topology":{"input":"result","outputs":["ods"]}"#);
        assert_eq!(pipeline.way().len(), 3, "a ring has an end");
    }

    #[test]
    fn what_is_too_long_goes_without_its_details() {
        let health = crate::health::Health::new("test", "0");
        health.detail("long", "x".repeat(10_000));
        let configuration = serde_json::json!({ "key": "value" });
        let encode = |bytes_max| {
            let (topology, figures) = (Topology::default(), Figures::default());
            let telling = Telling {
                told_at_ms: 1,
                url: "http://here",
                control_url: None,
                takes_commands: false,
                topology: &topology,
                figures: &figures,
                state: health.state(),
                configuration: &configuration,
            };
            let told: Value = serde_json::from_slice(&telling.encode(bytes_max)).unwrap();
            told
        };
        assert_eq!(encode(100_000)["configuration"]["key"], "value");
        let cut = encode(9_000);
        assert!(cut["configuration"].as_str().unwrap().contains("9000") && cut["state"]["details"]["long"].is_null());
        assert_eq!(cut["state"]["service"], "test");
    }
}

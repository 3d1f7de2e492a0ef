//! What a topic carried, key by key: nothing twice, nothing out of order.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use lab::layers::{LayerRecord, Layers};
use shared::position::ResultVersion;
use shared::record::header::{Header, Operation};

use crate::stack::Stack;

/// All records of a topic, in order for each key.
pub struct History {
    topic: String,
    pub by_key: BTreeMap<String, Vec<LayerRecord>>,
}

impl History {
    pub fn read(layers: &Layers, topic: &str) -> Self {
        let begin = layers.begin(topic).unwrap_or_else(|failure| panic!("{}", failure.chain()));
        let records = layers.read(topic, &begin, |_| true).unwrap_or_else(|failure| panic!("{}", failure.chain()));
        let mut by_key: BTreeMap<String, Vec<LayerRecord>> = BTreeMap::new();
        for record in records {
            by_key.entry(record.key.clone()).or_default().push(record);
        }
        History { topic: topic.to_owned(), by_key }
    }

    /// The records of a key, oldest first.
    pub fn of(&self, key: &str) -> &[LayerRecord] {
        self.by_key.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn of_order(&self, order_id: i64) -> &[LayerRecord] {
        self.of(&order_key(order_id))
    }

    /// The row that a reader of the whole topic ends up with for each key.
    pub fn rows(&self) -> BTreeMap<&str, &str> {
        let last = self.by_key.iter().filter_map(|(key, records)| Some((key, records.last()?.value.as_ref()?)));
        last.map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    /// How often the first copy brought a key again.
    pub fn repeated_copies(&self) -> usize {
        let copies = |records: &Vec<LayerRecord>| {
            records.iter().filter(|record| header(record).operation == Operation::Snapshot).count()
        };
        self.by_key.values().map(|records| copies(records).saturating_sub(1)).sum()
    }

    /// A record that came twice, or after a newer one, has a version that is not above that of the one before.
    pub fn assert_nothing_twice(&self) {
        for (key, records) in &self.by_key {
            let versions: Vec<ResultVersion> = records.iter().map(|record| header(record).result_version()).collect();
            let grows = versions.is_sorted_by(|before, next| before < next);
            assert!(grows, "{}: {key} came twice, or an older one came later: {records:#?}", self.topic);
        }
    }

    pub fn assert_records_of_orders(&self, order_ids: RangeInclusive<i64>, wanted: usize) {
        for order_id in order_ids {
            let records = self.of_order(order_id);
            assert_eq!(records.len(), wanted, "{}: records of order {order_id}: {records:#?}", self.topic);
        }
    }
}

/// The key of an order's records.
pub fn order_key(order_id: i64) -> String {
    format!("{{\"order_id\":{order_id}}}")
}

pub fn header(record: &LayerRecord) -> &Header {
    record.header.as_ref().unwrap_or_else(|error| panic!("{error}: {record:?}"))
}

/// Whether none of the three topics of orders carries anything twice.
pub fn assert_nothing_twice(stack: &Stack) {
    let layers = stack.layers();
    for topic in stack.order_topics() {
        History::read(&layers, topic).assert_nothing_twice();
    }
}

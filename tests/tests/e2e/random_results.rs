//! Random histories of orders, written into the topic of the results as dim-joiner would write them.

use std::collections::BTreeMap;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use shared::record::header;

use crate::random::{Random, of_this_run};
use crate::stack::Stack;
use crate::topics;

pub const PARTITIONS: i32 = 4;

/// What is written, and what must be in the table in the end.
pub struct RandomResults {
    random: Random,
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    keys: i64,
    clock: u64,
    orders: BTreeMap<i64, Order>,
    pub records: u32,
}

#[derive(Clone, Default)]
struct Order {
    is_there: bool,
    fact: u64,
    user: u64,
    fields: Fields,
    /// All that was written for it: header and value.
    sent: Vec<(String, Option<String>)>,
}

/// JSON texts.
#[derive(Clone, Default)]
struct Fields {
    fact: String,
    status: &'static str,
    user: &'static str,
}

const STATUSES: [&str; 5] = ["PENDING", "PAID", "SHIPPED", "COMPLETED", "CANCELLED"];
const CATEGORIES: [&str; 4] = ["\"ELECTRONICS\"", "\"BOOKS\"", "\"OTHER\"", "null"];
const TIMES: [&str; 7] = [
    "\"2025-07-11 17:25:55.143\"",
    "\"2025-07-11 17:25:56.000\"",
    "\"2025-07-11 17:26:00.000\"",
    "\"2025-07-11 23:59:59.999\"",
    "\"2025-07-12 00:00:00.000\"",
    "\"1969-12-31 23:59:59.999\"",
    "null",
];
const USERS: [&str; 5] = [
    "\"city\":\"北京\",\"user_city_tier\":\"一线城市\"",
    "\"city\":\"上海\",\"user_city_tier\":\"一线城市\"",
    "\"city\":\"a\\\"b, 'c' (d)\",\"user_city_tier\":\"\"",
    "\"city\":\"null\",\"user_city_tier\":null",
    "\"city\":null,\"user_city_tier\":null",
];
const AMOUNTS: [&str; 7] = ["0.01", "5999.00", "0.10", "-12.5", "0.0001", "123456789012345678.99", "null"];

impl RandomResults {
    /// Makes the topic; nothing is written yet.
    pub async fn new(stack: &Stack, keys: i64) -> Self {
        let topic = stack.places.names.result_topic.clone();
        topics::make(&stack.places.kafka, &topic, PARTITIONS, "compact").await;
        let producer = stack.places.kafka.client("tidemill-e2e").set("linger.ms", "1").create().unwrap();
        let random = of_this_run();
        RandomResults { random, producer, topic, keys, clock: 0, orders: BTreeMap::new(), records: 0 }
    }

    /// Every order once.
    pub fn write_all_keys(&mut self) {
        for key in 1..=self.keys {
            self.change(key);
        }
        self.flush();
    }

    /// So many random steps: new and changed rows, changed users, deletions, repeats, rows that the table refuses.
    pub fn write_steps(&mut self, steps: u32) {
        for _ in 0..steps {
            let key = 1 + self.random.below(usize::try_from(self.keys).unwrap()) as i64;
            let is_there = self.orders.get(&key).is_some_and(|order| order.is_there);
            match self.random.below(20) {
                0..4 if is_there => self.change_user(key),
                4..6 if is_there => self.delete(key),
                6..9 => self.repeat(key),
                9 if self.random.one_in(4) => self.refused(key),
                _ => self.change(key),
            }
        }
        self.flush();
    }

    fn change(&mut self, key: i64) {
        self.clock += 1;
        let mut order = self.orders.remove(&key).unwrap_or_default();
        order.fact = self.clock;
        if order.user == 0 || self.random.one_in(4) {
            order.fields.user = self.random.pick(&USERS);
            order.user = self.clock;
        }
        order.is_there = true;
        // Most of them only move on to another status.
        if order.fields.fact.is_empty() || self.random.one_in(3) {
            order.fields.fact = self.fact();
        }
        order.fields.status = self.random.pick(&STATUSES);
        self.send(key, &mut order);
        self.orders.insert(key, order);
    }

    fn fact(&mut self) -> String {
        let random = &mut self.random;
        // Kafka's records name a number that is none as text.
        let amount = if random.one_in(60) { "\"NaN\"" } else { random.pick(&AMOUNTS) };
        let user = if random.one_in(8) { "null".to_owned() } else { (1 + random.below(20)).to_string() };
        let quantity = if random.one_in(10) { "null".to_owned() } else { random.below(9).to_string() };
        format!(
            "\"user_id\":{user},\"product_category_normalized\":{},\"quantity\":{quantity},\"unit_price\":{},\"total_amount\":{amount},\"order_time\":{}",
            random.pick(&CATEGORIES),
            random.pick(&["99.99", "100", "5000.00", "null"]),
            random.pick(&TIMES),
        )
    }

    /// The same order with another version of its user.
    fn change_user(&mut self, key: i64) {
        self.clock += 1;
        let mut order = self.orders.remove(&key).unwrap_or_default();
        order.user = self.clock;
        order.fields.user = self.random.pick(&USERS);
        self.send(key, &mut order);
        self.orders.insert(key, order);
    }

    fn delete(&mut self, key: i64) {
        self.clock += 1;
        let mut order = self.orders.remove(&key).unwrap_or_default();
        order.is_there = false;
        order.fact = self.clock;
        let header = format!("op=d v=1.{:X}.0.0", self.clock);
        self.write(key, &header, None);
        order.sent.push((header, None));
        self.orders.insert(key, order);
    }

    /// Something that was written before comes again.
    fn repeat(&mut self, key: i64) {
        let Some(order) = self.orders.get(&key) else { return };
        let Some((header, value)) = order.sent.get(self.random.below(order.sent.len())).cloned() else { return };
        self.write(key, &header, value.as_deref());
    }

    /// A newer row with a quantity that is no number: it is set aside, and all else of its batch counts.
    fn refused(&mut self, key: i64) {
        self.clock += 1;
        let header = format!("op=u v=1.{:X}.0.0 u=1.1.0.0", self.clock);
        let value = format!("{{\"order_id\":{key},\"order_status\":\"PAID\",\"quantity\":\"many\"}}");
        self.write(key, &header, Some(&value));
    }

    fn send(&mut self, key: i64, order: &mut Order) {
        let Fields { fact, status, user } = &order.fields;
        let updated = "\"updated_at\":\"2025-07-11 17:25:55.143\"";
        let value = format!("{{\"order_id\":{key},\"order_status\":\"{status}\",{updated},{fact},{user}}}");
        let header = format!("op=u v=1.{:X}.0.0 u=1.{:X}.0.0 ts=1752226555145000", order.fact, order.user);
        self.write(key, &header, Some(&value));
        order.sent.push((header, Some(value)));
    }

    fn write(&mut self, key: i64, header: &str, value: Option<&str>) {
        let text = format!("{{\"order_id\":{key}}}");
        let headers = OwnedHeaders::new().insert(Header { key: header::NAME, value: Some(header) });
        let partition = i32::try_from(key.rem_euclid(i64::from(PARTITIONS))).unwrap();
        let mut record = BaseRecord::to(&self.topic).partition(partition).key(&text).headers(headers);
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
        self.records += 1;
    }

    fn flush(&self) {
        self.producer.flush(crate::until::PATIENCE).unwrap();
    }

    /// `key status` of each order that is there.
    pub fn at_rest(&self) -> String {
        let there = self.orders.iter().filter(|(_, order)| order.is_there);
        there.map(|(key, order)| format!("{key} {}", order.fields.status)).collect::<Vec<_>>().join(",")
    }
}

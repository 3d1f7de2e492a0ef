//! The topics of dim-joiner, filled as cdc-ingest, dwd-cleaner and dim-joiner itself would fill them, only quicker: the records are made
//! here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as KafkaHeader, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use shared::failure::{Failure, FailureKind};
use shared::kafka::topics::{self, TopicSpec};
use shared::kafka::{KafkaConfig, partitioner};
use shared::position::{Lsn, Version};
use shared::record::header::{self, Header, Operation};

use crate::paper::Paper;
use crate::places::Places;

/// What the topics are called.
pub struct Topics {
    pub users: String,
    pub orders: String,
    pub results: String,
    pub dead_letters: String,
    pub group: String,
}

impl Default for Topics {
    fn default() -> Self {
        let name = |what: &str| format!("restore_{what}");
        Topics {
            // The default of dim-joiner: which topic a dimension has is in no variable.
            users: "ods_users".into(),
            orders: name("dwd_orders"),
            results: name("results"),
            dead_letters: name("dlq"),
            group: name("group"),
        }
    }
}

/// Fills them. They must not exist.
pub struct Fill<'a> {
    topics: &'a Topics,
    producer: ThreadedProducer<DefaultProducerContext>,
    /// The next offset of each partition of the orders.
    next: BTreeMap<i32, i64>,
    pub progress: &'a mut Paper,
}

const PARTITIONS: i32 = 4;

/// Longest wait until all records are acknowledged.
const FLUSH_WITHIN: Duration = Duration::from_secs(60);

/// A record to be written.
struct New<'a> {
    topic: &'a str,
    key: &'a str,
    value: &'a str,
    header: Header,
}

const CITIES: [&str; 6] = ["北京", "上海", "杭州", "成都", "丽江", "深圳"];
const PRODUCTS: [(&str, &str, &str); 3] = [
    ("iPhone 15 Pro 256GB", "电子产品", "electronics"),
    ("羽绒服 男款 加厚", "服装鞋帽", "clothing"),
    ("咖啡机 全自动", "家用电器", "appliances"),
];
const STATUSES: [(&str, &str); 3] = [("PENDING", "待处理"), ("SHIPPED", "已发货"), ("COMPLETED", "已完成")];

fn nth<T: Copy + Default>(list: &[T], number: u32) -> T {
    list.get(number as usize % list.len().max(1)).copied().unwrap_or_default()
}

impl<'a> Fill<'a> {
    /// Makes the topics as the services would.
    pub async fn make(places: &Places, topics: &'a Topics, progress: &'a mut Paper) -> Result<Self, Failure> {
        let config = KafkaConfig { brokers: places.brokers.clone(), ..KafkaConfig::default() };
        let maker = topics::Topics::connect(&config, "tidemill-lab")?;
        for name in [&topics.users, &topics.orders, &topics.results] {
            if maker.partitions(name)?.is_some() {
                return Err(Failure::new(FailureKind::Settings, format!("topic `{name}` exists already"))
                    .cure("delete it: it would be filled twice"));
            }
            maker.ensure(&TopicSpec { name: name.clone(), partitions: PARTITIONS, compacted: true }).await?;
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &places.brokers)
            .set("client.id", "tidemill-lab")
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.messages", "200000")
            .create()
            .map_err(failed)?;
        Ok(Fill { topics, producer, next: BTreeMap::new(), progress })
    }

    pub fn users(&mut self, count: u32) -> Result<(), Failure> {
        let topics = self.topics;
        for user in 0..count {
            let (key, value) = (format!("{{\"user_id\":{user}}}"), user_row(user));
            let header = Header::new(Operation::Insert, version(user));
            self.send(&New { topic: &topics.users, key: &key, value: &value, header })?;
            self.tell(user, count, "users");
        }
        self.flush()
    }

    /// Orders and their results; each has a user.
    pub fn orders(&mut self, count: u32, users: u32) -> Result<(), Failure> {
        let topics = self.topics;
        for number in 1..=count {
            let (key, input) = self.order(number, users)?;
            let cleaned = order_row(number, users);
            let open_row = cleaned.strip_suffix('}').unwrap_or(&cleaned);
            let value = format!("{open_row}{},\"join_time\":\"2026-01-01 00:00:00.000\"}}", appended(number % users));
            let header = Header {
                joined: std::iter::once(version(number % users)).collect(),
                input_offset: Some(input),
                cleaned_bytes: Some(open_row.len()),
                ..Header::new(Operation::Insert, version(number))
            };
            self.send(&New { topic: &topics.results, key: &key, value: &value, header })?;
            self.tell(number, count, "orders");
        }
        self.flush()
    }

    /// An order that dim-joiner has not handled yet.
    pub fn unjoined_order(&mut self, number: u32, users: u32) -> Result<(), Failure> {
        self.order(number, users)?;
        self.flush()
    }

    /// The key of the order, and its offset in its partition.
    fn order(&mut self, number: u32, users: u32) -> Result<(String, i64), Failure> {
        let (topics, key) = (self.topics, format!("{{\"order_id\":{number}}}"));
        let next = self.next.entry(partitioner::partition(key.as_bytes(), PARTITIONS)).or_default();
        let input = *next;
        *next += 1;
        let header = Header { input_offset: Some(input), ..Header::new(Operation::Insert, version(number)) };
        self.send(&New { topic: &topics.orders, key: &key, value: &order_row(number, users), header })?;
        Ok((key, input))
    }

    fn send(&mut self, new: &New<'_>) -> Result<(), Failure> {
        let mut header = String::new();
        new.header.write(&mut header);
        let headers =
            OwnedHeaders::new_with_capacity(1).insert(KafkaHeader { key: header::NAME, value: Some(&header) });
        let partition = partitioner::partition(new.key.as_bytes(), PARTITIONS);
        let mut record =
            BaseRecord::to(new.topic).key(new.key).payload(new.value).partition(partition).headers(headers);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
                Err((error, _)) => return Err(failed(error)),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let since = Instant::now();
        while self.producer.in_flight_count() > 0 {
            if since.elapsed() > FLUSH_WITHIN {
                return Err(Failure::new(FailureKind::Unreachable, "Kafka does not acknowledge the records"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn tell(&mut self, done: u32, of: u32, what: &str) {
        if done > 0 && done.is_multiple_of(250_000) {
            self.progress.line(format!("  {done} of {of} {what} written"));
        }
    }
}

fn failed(error: KafkaError) -> Failure {
    Failure::new(FailureKind::Refused, "the topics cannot be filled").caused_by(error)
}

fn version(number: u32) -> Version {
    Version { epoch: 1, lsn: Lsn(0x16_B374_D848 + u64::from(number) * 200), index: 0, part: 0 }
}

/// A user as cdc-ingest writes it.
fn user_row(user: u32) -> String {
    format!(
        "{{\"user_id\":{user},\"username\":\"用户{user}\",\"email\":\"user{user}@example.com\",\"phone\":\"139{user:08}\",\
         \"city\":\"{}\",\"register_time\":\"2025-07-11 17:25:55.143\",\"updated_at\":\"2025-07-11 17:25:55.143\"}}",
        nth(&CITIES, user)
    )
}

/// What dim-joiner puts behind an order of this user.
fn appended(user: u32) -> String {
    format!(
        ",\"username\":\"用户{user}\",\"email\":\"user{user}@example.com\",\"phone\":\"139{user:08}\",\"city\":\"{}\",\
         \"user_register_time\":\"2025-07-11 17:25:55.143\",\"user_city_tier\":\"一线城市\"",
        nth(&CITIES, user)
    )
}

/// An order as dwd-cleaner writes it.
fn order_row(order: u32, users: u32) -> String {
    let (product, category, normalized) = nth(&PRODUCTS, order);
    let (status, described) = nth(&STATUSES, order / 3);
    let (quantity, cents) = (order % 5 + 1, order % 999_999 + 1);
    let amount = |cents: u32| format!("{}.{:02}", cents / 100, cents % 100);
    let (price, total) = (amount(cents), amount(cents * quantity));
    let time = format!("2025-07-{:02} {:02}:{:02}:55.145", order % 28 + 1, order % 24, order % 60);
    let mut row = format!(
        "{{\"order_id\":{order},\"user_id\":{},\"product_name\":\"{product}\",\"product_category\":\"{category}\",\
         \"quantity\":{quantity},\"unit_price\":{price},\"total_amount\":{total},\"order_status\":\"{status}\",\
         \"order_time\":\"{time}\",\"updated_at\":\"{time}\"",
        order % users
    );
    // Writing to a String cannot fail.
    let _ = write!(
        row,
        ",\"product_category_normalized\":\"{normalized}\",\"total_amount_yuan\":\"¥{total}\",\
         \"order_status_desc\":\"{described}\",\"order_date\":\"2025-07-{:02}\",\"order_hour\":{},\
         \"etl_time\":\"2025-07-12 02:32:59.555\"}}",
        order % 28 + 1,
        order % 24
    );
    row
}

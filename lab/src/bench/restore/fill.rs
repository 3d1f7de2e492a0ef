//! The topics of dim-joiner, filled as cdc-ingest, dwd-cleaner and dim-joiner itself would fill them.

use std::collections::BTreeMap;

use shared::failure::Failure;
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};

use crate::bench::rows;
use crate::bench::topic_writer::{New, PARTITIONS, TopicWriter};
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
    writer: TopicWriter,
    /// The next offset of each partition of the orders.
    next: BTreeMap<i32, i64>,
    pub progress: &'a mut Paper,
}

impl<'a> Fill<'a> {
    /// Makes the topics as the services would.
    pub async fn make(places: &Places, topics: &'a Topics, progress: &'a mut Paper) -> Result<Self, Failure> {
        let writer = TopicWriter::connect(places, PARTITIONS)?;
        for name in [&topics.users, &topics.orders, &topics.results] {
            writer.make(name).await?;
        }
        Ok(Fill { topics, writer, next: BTreeMap::new(), progress })
    }

    pub fn users(&mut self, count: u32) -> Result<(), Failure> {
        let topics = self.topics;
        for user in 0..count {
            let (key, value) = (format!("{{\"user_id\":{user}}}"), rows::user(user));
            let header = Header::new(Operation::Insert, version(user));
            self.writer.send(&New { topic: &topics.users, key: &key, value: &value, header })?;
            self.tell(user, count, "users");
        }
        self.writer.flush()
    }

    /// Orders and their results; each has a user.
    pub fn orders(&mut self, count: u32, users: u32) -> Result<(), Failure> {
        let topics = self.topics;
        for number in 1..=count {
            let (key, input) = self.order(number, users)?;
            let cleaned = cleaned_order(number, users);
            let open_row = cleaned.strip_suffix('}').unwrap_or(&cleaned);
            let value = format!("{open_row}{},\"join_time\":\"2026-01-01 00:00:00.000\"}}", appended(number % users));
            let header = Header {
                joined: std::iter::once(version(number % users)).collect(),
                input_offset: Some(input),
                cleaned_bytes: Some(open_row.len()),
                ..Header::new(Operation::Insert, version(number))
            };
            self.writer.send(&New { topic: &topics.results, key: &key, value: &value, header })?;
            self.tell(number, count, "orders");
        }
        self.writer.flush()
    }

    /// An order that dim-joiner has not handled yet.
    pub fn unjoined_order(&mut self, number: u32, users: u32) -> Result<(), Failure> {
        self.order(number, users)?;
        self.writer.flush()
    }

    /// The key of the order, and its offset in its partition.
    fn order(&mut self, number: u32, users: u32) -> Result<(String, i64), Failure> {
        let (topics, key) = (self.topics, format!("{{\"order_id\":{number}}}"));
        let next = self.next.entry(self.writer.partition(&key)).or_default();
        let input = *next;
        *next += 1;
        let header = Header { input_offset: Some(input), ..Header::new(Operation::Insert, version(number)) };
        self.writer.send(&New { topic: &topics.orders, key: &key, value: &cleaned_order(number, users), header })?;
        Ok((key, input))
    }

    fn tell(&mut self, done: u32, of: u32, what: &str) {
        if done > 0 && done.is_multiple_of(250_000) {
            self.progress.line(format!("  {done} of {of} {what} written"));
        }
    }
}

fn version(number: u32) -> Version {
    Version { epoch: 1, lsn: Lsn(0x16_B374_D848 + u64::from(number) * 200), index: 0, part: 0 }
}

/// What dim-joiner puts behind an order of this user.
fn appended(user: u32) -> String {
    format!(
        ",\"username\":\"用户{user}\",\"email\":\"user{user}@example.com\",\"phone\":\"139{user:08}\",\"city\":\"{}\",\
         \"user_register_time\":\"2025-07-11 17:25:55.143\",\"user_city_tier\":\"一线城市\"",
        rows::city(user)
    )
}

/// An order as dwd-cleaner writes it.
fn cleaned_order(order: u32, users: u32) -> String {
    let row = rows::order(order, users);
    format!("{}{}}}", row.strip_suffix('}').unwrap_or(&row), rows::cleaned(order))
}

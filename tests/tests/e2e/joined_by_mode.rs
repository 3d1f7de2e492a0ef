//! Random histories, joined in every mode, in any order of reading, with restarts: at rest each order has what SQL says it must have.

use std::collections::BTreeMap;

use dim_joiner::facts::PartitionFacts;
use dim_joiner::join::{Done, Joiner, Now, OUTPUT, TakenOver};
use dim_joiner::plan::Plan;
use dim_joiner::read_back::{ReadBack, Ticket, restore};
use dim_joiner::room::Room;
use dim_joiner::settings::{Mode, Settings};
use serde_json::{Value, json};
use shared::batch::{Batch, Outgoing, Record};
use shared::position::{Lsn, ResultVersion, Version};
use shared::record::header::{Header, Operation};
use sqlx::postgres::PgConnection;

use crate::database;
use crate::environment::Environment;
use crate::random::{Random, of_this_run};

const HISTORIES: usize = 60;
const STEPS: usize = 60;
const WAIT_MS: u64 = 50;
const STEP_MS: u64 = 10;

/// An order or a user at one version; without a row it was deleted then.
#[derive(Clone)]
struct Change {
    version: u64,
    key: u32,
    /// When it was taken in; 0 before.
    taken_ms: u64,
    /// An order's time, a user's commit.
    time_us: i64,
    row: Option<Value>,
}

/// All that was committed, and what came of it.
struct History {
    orders: Vec<Change>,
    users: Vec<Change>,
    orders_read: usize,
    users_read: usize,
    now_ms: u64,
    restarts: u32,
    output: Vec<Sent>,
}

/// A record of the output.
struct Sent {
    key: u32,
    header: String,
    row: Option<String>,
}

fn settings(mode: Mode) -> Settings {
    let mut settings = Settings::default();
    (settings.dimensions[0].mode, settings.dimensions[0].wait_ms) = (mode, WAIT_MS);
    settings.reemission.batch_records_max = 2;
    settings.reemission.records_per_second_max = 0;
    settings
}

fn joiner(mode: Mode) -> Joiner {
    let settings = settings(mode);
    let plan = Plan::new(&settings).unwrap();
    let room = Room::new(&settings.facts, 1).unwrap();
    Joiner::new(settings, plan, room)
}

fn header(version: u64, time_us: i64, is_gone: bool) -> String {
    let operation = if is_gone { Operation::Delete } else { Operation::Update };
    let version = Version { epoch: 1, lsn: Lsn(version), ..Version::default() };
    Header { commit_time_us: Some(time_us), ..Header::new(operation, version) }.text()
}

fn batch(offset: usize, key: &str, change: &Change) -> Batch {
    let mut batch = Batch::default();
    let (header, value) =
        (header(change.version, change.time_us, change.row.is_none()), change.row.as_ref().map(Value::to_string));
    batch.push(Record {
        partition: 0,
        offset: offset as i64,
        key: Some(key.as_bytes()),
        value: value.as_ref().map(String::as_bytes),
        header: Some(header.as_bytes()),
    });
    batch
}

impl History {
    fn drawn(random: &mut Random) -> Self {
        let (mut orders, mut users) = (Vec::new(), Vec::new());
        for version in 1..=STEPS as u64 {
            let time_us = random.below(50) as i64;
            let change = |key: u32, row: Option<Value>| Change { version, key, taken_ms: 0, time_us, row };
            if random.one_in(3) {
                let key = random.below(4) as u32;
                let city = ["北京", "上海", "杭州"][random.below(3)];
                let row = json!({
                    "user_id": key, "username": format!("u{key}"), "email": null, "phone": null, "city": city,
                    "register_time": "2025-07-11 17:25:55.143", "seen": version,
                });
                users.push(change(key, (!random.one_in(6)).then_some(row)));
            } else {
                // Keys with one version, and keys with many.
                let key = if random.one_in(3) { 100 + version as u32 } else { random.below(6) as u32 };
                let user = if random.one_in(10) { Value::Null } else { json!(random.below(5)) };
                let row = json!({"order_id": key, "user_id": user, "order_time": format!("1970-01-01 00:00:00.{time_us:06}")});
                orders.push(change(key, (!random.one_in(8)).then_some(row)));
            }
        }
        History { orders, users, orders_read: 0, users_read: 0, now_ms: 0, restarts: 0, output: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { wall_us: 1_000_000, steady_ms: self.now_ms }
    }

    fn take(&mut self, out: Outgoing<Done>) {
        for record in out.records() {
            assert_eq!(record.topic, OUTPUT, "nothing is rejected");
            let key: Value = serde_json::from_slice(record.key).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let key = key["order_id"].as_u64().unwrap() as u32;
            self.output.push(Sent { key, header: text(record.header), row: record.value.map(text) });
        }
    }

    fn read_order(&mut self, joiner: &mut Joiner) {
        let (offset, now) = (self.orders_read, self.now());
        let Some(order) = self.orders.get_mut(offset) else { return };
        order.taken_ms = now.steady_ms;
        let batch = batch(offset, &format!("{{\"order_id\":{}}}", order.key), order);
        self.orders_read += 1;
        let out = joiner.take_facts(&batch, now).unwrap();
        self.take(out);
    }

    fn read_user(&mut self, joiner: &mut Joiner) {
        let (offset, now) = (self.users_read, self.now());
        let Some(user) = self.users.get_mut(offset) else { return };
        user.taken_ms = now.steady_ms;
        let batch = batch(offset, &format!("{{\"user_id\":{}}}", user.key), user);
        self.users_read += 1;
        let out = joiner.take_rows(0, &batch, now).unwrap();
        self.take(out);
    }

    fn pass(&mut self, milliseconds: u64, joiner: &mut Joiner) {
        self.now_ms += milliseconds;
        let out = joiner.end_waits(self.now()).unwrap();
        self.take(out);
    }

    fn reemit(&mut self, joiner: &mut Joiner) {
        let out = joiner.reemit(self.now()).unwrap();
        self.take(out);
    }

    /// The process is killed; another one begins where the output says.
    fn restart(&mut self, mode: Mode) -> Joiner {
        self.restarts += 1;
        let mut joiner = joiner(mode);
        let known = self.users_read;
        self.users_read = 0;
        while self.users_read < known {
            self.read_user(&mut joiner);
        }
        let settings = settings(mode);
        let (mut reader, room) = (Plan::new(&settings).unwrap().reader, joiner.room().clone());
        let mut facts = PartitionFacts::incomplete(room);
        for Sent { key, header, row } in &self.output {
            let key = format!("{{\"order_id\":{key}}}");
            let (key, value, header) =
                (Some(key.as_bytes()), row.as_deref().map(str::as_bytes), Some(header.as_bytes()));
            let record = Record { partition: 0, offset: 0, key, value, header };
            restore(&mut reader, &record, 0, &mut facts).unwrap().unwrap();
        }
        let (ticket, input_offset, handled) = (Ticket::default(), facts.input_offset, facts.handled);
        self.orders_read = input_offset.map_or(0, |last| usize::try_from(last + 1).unwrap());
        let stub = ticket.stub();
        let (before, beside) = if mode == Mode::Wait { (Some(facts), None) } else { (None, Some(facts)) };
        joiner.assigned(vec![(0, TakenOver { ticket, input_offset, handled, facts: before })], self.now()).unwrap();
        if let Some(facts) = beside {
            joiner.read_back(ReadBack { partition: 0, stub, facts }, self.now()).unwrap();
        }
        joiner
    }

    fn run(&mut self, mode: Mode, random: &mut Random) {
        let mut joiner = joiner(mode);
        while self.orders_read < self.orders.len() || self.users_read < self.users.len() {
            self.pass(STEP_MS, &mut joiner);
            match random.below(20) {
                0..9 => self.read_order(&mut joiner),
                9..14 => self.read_user(&mut joiner),
                14..19 => self.reemit(&mut joiner),
                _ if random.one_in(3) => joiner = self.restart(mode),
                _ => {}
            }
        }
        self.pass(10 * WAIT_MS, &mut joiner);
        while joiner.has_reemissions() {
            self.reemit(&mut joiner);
        }
        assert_eq!(joiner.facts_waiting(), 0);
    }

    /// `order user city` of each order that is there, as the output has it.
    fn at_rest(&self) -> Vec<String> {
        let last: BTreeMap<u32, &Option<String>> = self.output.iter().map(|sent| (sent.key, &sent.row)).collect();
        let shown = |(key, row): (u32, &Option<String>)| {
            let row: Value = serde_json::from_str(row.as_ref()?).unwrap();
            Some(format!("{key} {} {}", row["user_id"], row["city"].as_str().unwrap_or("none")))
        };
        last.into_iter().filter_map(shown).collect()
    }

    fn assert_versions_grow(&self) {
        let mut last: BTreeMap<u32, ResultVersion> = BTreeMap::new();
        for Sent { key, header, .. } in &self.output {
            let version = Header::parse(Some(header.as_bytes())).unwrap().result_version();
            let before = last.insert(*key, version.clone());
            assert!(
                before.as_ref().is_none_or(|before| *before < version),
                "order {key}: {before:?}, then {version:?}"
            );
        }
    }

    /// Orders with one version whose first record was sent while nothing was known of their user.
    fn sent_unknown(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for (at, Sent { key, header, row }) in self.output.iter().enumerate() {
            let is_first = self.output[..at].iter().all(|sent| sent.key != *key);
            let is_lone = self.orders.iter().filter(|order| order.key == *key).count() == 1;
            let header = Header::parse(Some(header.as_bytes())).unwrap();
            let has_user = row.as_ref().is_some_and(|row| !row.contains("\"user_id\":null"));
            if is_first && is_lone && has_user && header.joined.of(0) == Version::UNKNOWN {
                keys.push(*key);
            }
        }
        keys.sort_unstable();
        keys.iter().map(u32::to_string).collect()
    }
}

fn table(changes: &[Change]) -> Value {
    let rows = changes.iter().map(|change| {
        let row = change.row.as_ref();
        json!({
            "version": change.version, "key": change.key, "time_us": change.time_us, "taken_ms": change.taken_ms, "gone": row.is_none(),
            "user_id": row.map(|row| row["user_id"].clone()), "city": row.map(|row| row["city"].clone()),
        })
    });
    Value::Array(rows.collect())
}

const TABLES: &str = "WITH
    o AS (SELECT * FROM jsonb_to_recordset($1::jsonb) AS t (version bigint, key bigint, time_us bigint, taken_ms bigint, gone bool, user_id bigint)),
    u AS (SELECT * FROM jsonb_to_recordset($2::jsonb) AS t (version bigint, key bigint, time_us bigint, taken_ms bigint, gone bool, city text)),
    last_o AS (SELECT DISTINCT ON (key) * FROM o ORDER BY key, version DESC)";

/// The user as it is now; in mode wait, all waits are over at rest.
const LATEST: &str =
    "SELECT concat_ws(' ', o.key, coalesce(o.user_id::text, 'null'), coalesce(u.city, 'none')) FROM last_o o
    LEFT JOIN (SELECT DISTINCT ON (key) * FROM u ORDER BY key, version DESC) u ON u.key = o.user_id AND NOT u.gone
    WHERE NOT o.gone ORDER BY o.key";

/// The user as it was at the order's time; before the first version the first.
const AS_OF: &str = "SELECT concat_ws(' ', o.key, coalesce(o.user_id::text, 'null'), coalesce(u.city, 'none')) FROM last_o o
    LEFT JOIN LATERAL (SELECT CASE WHEN NOT h.gone THEN h.city END AS city FROM u h WHERE h.key = o.user_id ORDER BY
        h.time_us <= o.time_us DESC,
        CASE WHEN h.time_us <= o.time_us THEN h.time_us END DESC, CASE WHEN h.time_us <= o.time_us THEN h.version END DESC,
        h.time_us, h.version LIMIT 1) u ON true
    WHERE NOT o.gone ORDER BY o.key";

/// Orders with one version whose user nobody had heard of when the wait was over.
const NOT_IN_TIME: &str = "SELECT o.key::text FROM o WHERE NOT o.gone AND o.user_id IS NOT NULL
    AND (SELECT count(*) FROM o other WHERE other.key = o.key) = 1
    AND NOT EXISTS (SELECT FROM u WHERE u.key = o.user_id AND u.taken_ms < o.taken_ms + $3)
    ORDER BY o.key";

async fn asked(connection: &mut PgConnection, sql: &str, history: &History) -> Vec<String> {
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{TABLES} {sql}")));
    let query = query.bind(table(&history.orders).to_string()).bind(table(&history.users).to_string());
    let query = if sql.contains("$3") { query.bind(WAIT_MS.cast_signed()) } else { query };
    query.fetch_all(connection).await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn at_rest_every_order_has_what_sql_says() {
    let mut connection = database::connect(&Environment::read().places.sink).await;
    let mut random = of_this_run();
    for number in 0..HISTORIES {
        for (mode, sql) in [(Mode::Latest, LATEST), (Mode::AsOf, AS_OF), (Mode::Wait, LATEST)] {
            let mut history = History::drawn(&mut random);
            history.run(mode, &mut random);
            let wanted = asked(&mut connection, sql, &history).await;
            assert_eq!(history.at_rest(), wanted, "{mode:?}, history {number}, {} restarts", history.restarts);
            history.assert_versions_grow();
            if mode == Mode::Wait && history.restarts == 0 {
                let wanted = asked(&mut connection, NOT_IN_TIME, &history).await;
                assert_eq!(history.sent_unknown(), wanted, "history {number}: who went out before the user came");
            }
        }
    }
}

use super::*;
use crate::facts::tests::version;
use crate::read_back::{Stub, restore};
use crate::settings::{DimensionConfig, Mode};
use crate::taken::tests::ZHANG;
use shared::position::{Lsn, ResultVersion};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

fn header(operation: Operation, lsn: u64) -> String {
    Header { commit_time_us: Some(lsn.cast_signed()), ..Header::new(operation, version(lsn)) }.text()
}

pub(super) struct Topic {
    pub batch: Batch,
    offset: i64,
}

impl Topic {
    pub fn from(offset: i64) -> Self {
        Topic { batch: Batch::default(), offset }
    }

    pub fn put(mut self, lsn: u64, key: &str, value: Option<&str>) -> Self {
        let header = header(if value.is_some() { Operation::Update } else { Operation::Delete }, lsn);
        self.batch.push(Record {
            partition: 0,
            offset: self.offset,
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            header: Some(header.as_bytes()),
        });
        self.offset += 1;
        self
    }
}

pub(super) fn order_key(id: u32) -> String {
    format!("{{\"order_id\":{id}}}")
}

fn order(id: u32, user: u32, status: &str) -> String {
    format!("{{\"order_id\":{id},\"user_id\":{user},\"unit_price\":5999.00,\"order_status\":\"{status}\"}}")
}

const USER: &str = "{\"user_id\":1001}";

/// A topic as a reader would see it: the last value of each key, and every version in order.
#[derive(Default)]
pub(super) struct Output {
    rows: BTreeMap<String, Option<String>>,
    pub versions: BTreeMap<String, Vec<ResultVersion>>,
    pub records: Vec<(String, Option<String>, String)>,
}

impl Output {
    pub fn take(&mut self, out: &Outgoing<Done>) {
        for record in out.records().filter(|record| record.topic == OUTPUT) {
            let key = String::from_utf8_lossy(record.key).into_owned();
            let value = record.value.map(|value| String::from_utf8_lossy(value).into_owned());
            let header = Header::parse(Some(record.header)).unwrap();
            self.versions.entry(key.clone()).or_default().push(header.result_version());
            self.rows.insert(key.clone(), value.clone());
            self.records.push((key, value, String::from_utf8_lossy(record.header).into_owned()));
        }
    }

    fn row(&self, id: u32) -> serde_json::Value {
        serde_json::from_str(self.rows[&order_key(id)].as_deref().unwrap()).unwrap()
    }

    /// The orders that a restart finds in it.
    fn read_back(&self) -> PartitionFacts {
        self.read_back_for(&joiner())
    }

    fn read_back_for(&self, joiner: &Joiner) -> PartitionFacts {
        self.read_back_at(0, joiner)
    }

    fn read_back_at(&self, minute: u32, joiner: &Joiner) -> PartitionFacts {
        let mut held = PartitionFacts::incomplete(joiner.room().clone());
        let mut reader = joiner.reader.clone();
        for (key, value, header) in &self.records {
            let (key, value) = (Some(key.as_bytes()), value.as_deref().map(str::as_bytes));
            let record = Record { partition: 0, offset: 0, key, value, header: Some(header.as_bytes()) };
            restore(&mut reader, &record, minute, &mut held).unwrap().unwrap();
        }
        held
    }

    pub fn assert_versions_grow(&self) {
        for (key, versions) in &self.versions {
            assert!(versions.is_sorted_by(|a, b| a < b), "{key}: {versions:?}");
        }
    }
}

fn joiner() -> Joiner {
    joiner_with(|_| {})
}

pub(super) fn joiner_with(change: impl FnOnce(&mut Settings)) -> Joiner {
    let mut settings = Settings::default();
    settings.reemission.records_per_second_max = 0;
    change(&mut settings);
    let plan = Plan::new(&settings).unwrap();
    let room = Room::new(&settings.facts, plan.dimensions.len()).unwrap();
    Joiner::new(settings, plan, room)
}

/// A time; its text is "1970-01-01 00:00:01.000".
pub(super) const NOW: Now = Now { wall_us: 1_000_000, steady_ms: 1000 };

/// A partition that is taken over, with its orders still to be read back.
struct Pending(Stub);

fn take_over(joiner: &mut Joiner, tail: &PartitionFacts) -> Pending {
    let ticket = Ticket::default();
    let stub = ticket.stub();
    let taken = TakenOver { ticket, input_offset: tail.input_offset, handled: tail.handled, facts: None };
    joiner.assigned(vec![(0, taken)], NOW).unwrap();
    Pending(stub)
}

impl Pending {
    fn read_back(self, joiner: &mut Joiner, facts: PartitionFacts) {
        joiner.read_back(ReadBack { partition: 0, stub: self.0, facts }, NOW).unwrap();
    }
}

#[test]
fn an_order_gets_its_user_and_keeps_its_text() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    joiner.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    let out =
        joiner.take_facts(&Topic::from(5).put(2, &order_key(1), Some(&order(1, 1001, "PAID"))).batch, NOW).unwrap();
    assert_eq!(out.position.offsets, [(0, 6)]);
    output.take(&out);
    let text = output.rows[&order_key(1)].clone().unwrap();
    assert!(
        text.starts_with(
            r#"{"order_id":1,"user_id":1001,"unit_price":5999.00,"order_status":"PAID","username":"张三""#
        ),
        "{text}"
    );
    assert!(text.ends_with(r#""user_city_tier":"一线城市","join_time":"1970-01-01 00:00:01.000"}"#), "{text}");
    assert!(output.records[0].2.contains("in=5"), "{}", output.records[0].2);
}

#[test]
fn an_unknown_user_has_defaults_until_it_comes() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    let orders = Topic::from(0).put(1, &order_key(1), Some(&order(1, 1001, "PAID")));
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    assert_eq!(output.row(1)["username"], "Unknown User");
    assert_eq!(joiner.missing().len(0), 1);
    joiner.take_rows(0, &Topic::from(0).put(2, USER, Some(ZHANG)).batch, NOW).unwrap();
    output.take(&joiner.reemit(NOW).unwrap());
    assert_eq!(output.row(1)["username"], "张三");
    assert!(joiner.missing().len(0) == 0 && !joiner.has_reemissions());
    joiner.take_rows(0, &Topic::from(0).put(3, USER, None).batch, NOW).unwrap();
    output.take(&joiner.reemit(NOW).unwrap());
    assert_eq!(output.row(1)["username"], "Unknown User", "the user was deleted");
    output.assert_versions_grow();
}

#[test]
fn a_fresh_order_overtakes_the_lane_and_is_not_sent_twice() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    joiner.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = Topic::from(0).put(2, &order_key(1), Some(&order(1, 1001, "PAID"))).put(
        3,
        &order_key(2),
        Some(&order(2, 1001, "PAID")),
    );
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    joiner.take_rows(0, &Topic::from(0).put(4, USER, Some(&ZHANG.replace("北京", "杭州"))).batch, NOW).unwrap();
    let fresh = Topic::from(2).put(5, &order_key(1), Some(&order(1, 1001, "SHIPPED")));
    output.take(&joiner.take_facts(&fresh.batch, NOW).unwrap());
    let again = joiner.reemit(NOW).unwrap();
    assert_eq!(again.len(), 1, "order 1 carries the change already");
    output.take(&again);
    assert_eq!((output.row(1)["city"].as_str(), output.row(2)["city"].as_str()), (Some("杭州"), Some("杭州")));
    assert!(
        output.records.last().unwrap().2.contains("in=2"),
        "a repeat names the position that the partition has come to"
    );
    output.assert_versions_grow();
}

#[test]
fn a_moved_and_a_deleted_order_are_no_longer_the_old_users() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    joiner.take_rows(0, &Topic::from(0).put(9, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = Topic::from(0)
        .put(10, &order_key(1), Some(&order(1, 1001, "PAID")))
        .put(11, &order_key(2), Some(&order(2, 1001, "PAID")))
        .put(12, &order_key(1), Some(&order(1, 7, "PAID")))
        .put(13, &order_key(2), None);
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    assert_eq!(output.row(1)["username"], "Unknown User");
    assert_eq!(output.rows[&order_key(2)], None);
    joiner.take_rows(0, &Topic::from(1).put(14, USER, Some(ZHANG)).batch, NOW).unwrap();
    assert!(joiner.reemit(NOW).unwrap().is_empty());
    output.assert_versions_grow();
}

#[test]
fn a_restart_finds_orders_and_what_they_lack_in_the_output() {
    let (mut before, mut output) = (joiner(), Output::default());
    before.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = Topic::from(0)
        .put(2, &order_key(1), Some(&order(1, 1001, "PAID")))
        .put(3, &order_key(2), Some(&order(2, 1001, "PAID")))
        .put(4, &order_key(3), Some(&order(3, 1001, "PAID")))
        .put(5, &order_key(3), None);
    output.take(&before.take_facts(&orders.batch, NOW).unwrap());
    // The user changes; one of its orders is sent again, then the process dies.
    before.settings.reemission.batch_records_max = 1;
    before.take_rows(0, &Topic::from(1).put(6, USER, Some(&ZHANG.replace("北京", "杭州"))).batch, NOW).unwrap();
    output.take(&before.reemit(NOW).unwrap());

    let held = output.read_back();
    assert_eq!((held.len(), held.input_offset), (2, Some(3)));
    let mut after = joiner();
    let users = Topic::from(0).put(1, USER, Some(ZHANG)).put(6, USER, Some(&ZHANG.replace("北京", "杭州")));
    after.take_rows(0, &users.batch, NOW).unwrap();
    take_over(&mut after, &held).read_back(&mut after, held);
    let rest = after.reemit(NOW).unwrap();
    assert_eq!(rest.len(), 1, "only the order that was not sent again before");
    output.take(&rest);
    assert_eq!((output.row(1)["city"].as_str(), output.row(2)["city"].as_str()), (Some("杭州"), Some("杭州")));
    let repeat = Topic::from(3).put(5, &order_key(3), None);
    assert!(after.take_facts(&repeat.batch, NOW).unwrap().is_empty(), "handled before");
    output.assert_versions_grow();
}

#[test]
fn fresh_orders_are_joined_while_the_older_ones_are_read_back_and_the_lane_waits() {
    let (mut before, mut output) = (joiner(), Output::default());
    before.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = (1..=4).fold(Topic::from(0), |orders, id| {
        orders.put(u64::from(id) + 1, &order_key(id), Some(&order(id, 1001, "PAID")))
    });
    output.take(&before.take_facts(&orders.batch, NOW).unwrap());
    let found = output.read_back();

    // The user changed while nobody was there; of its orders one moves on, one is deleted, one goes to another user, one stays.
    let mut after = joiner();
    let users = Topic::from(0).put(1, USER, Some(ZHANG)).put(6, USER, Some(&ZHANG.replace("北京", "杭州")));
    after.take_rows(0, &users.batch, NOW).unwrap();
    let pending = take_over(&mut after, &found);
    let fresh = Topic::from(4).put(7, &order_key(1), Some(&order(1, 1001, "SHIPPED"))).put(8, &order_key(2), None).put(
        9,
        &order_key(3),
        Some(&order(3, 7, "PAID")),
    );
    output.take(&after.take_facts(&fresh.batch, NOW).unwrap());
    assert_eq!(output.row(1)["city"], "杭州", "it is joined with the user as it is now");
    after.take_rows(0, &Topic::from(2).put(10, USER, Some(&ZHANG.replace("北京", "武汉"))).batch, NOW).unwrap();
    assert!(after.reemit(NOW).unwrap().is_empty(), "older orders could be overtaken");
    assert_eq!((after.incomplete_len(), after.facts_held()), (1, 2));

    pending.read_back(&mut after, found);
    assert_eq!((after.incomplete_len(), after.facts_held()), (0, 3));
    let again = after.reemit(NOW).unwrap();
    assert_eq!(again.len(), 2, "orders 1 and 4");
    output.take(&again);
    assert_eq!((output.row(1)["city"].as_str(), output.row(4)["city"].as_str()), (Some("武汉"), Some("武汉")));
    assert_eq!(output.row(1)["order_status"], "SHIPPED");
    assert_eq!(
        (output.rows[&order_key(2)].as_deref(), output.row(3)["username"].as_str()),
        (None, Some("Unknown User"))
    );
    let last = &output.records.last().unwrap().2;
    assert!(last.contains("in=6"), "the position goes on from the fresh orders: {last}");
    assert_eq!(after.missing().len(0), 1);
    output.assert_versions_grow();
}

#[test]
fn what_was_read_back_for_an_assignment_that_is_over_is_passed_over() {
    let (mut before, mut output) = (joiner(), Output::default());
    let orders = Topic::from(0).put(1, &order_key(1), Some(&order(1, 1001, "PAID")));
    output.take(&before.take_facts(&orders.batch, NOW).unwrap());
    let mut after = joiner();
    let first = take_over(&mut after, &output.read_back());
    after.revoked(&[0]);
    first.read_back(&mut after, output.read_back());
    assert_eq!((after.facts_held(), after.incomplete_len()), (0, 0));
    let second = take_over(&mut after, &output.read_back());
    let third = take_over(&mut after, &output.read_back());
    second.read_back(&mut after, output.read_back());
    assert_eq!((after.facts_held(), after.incomplete_len()), (0, 1));
    third.read_back(&mut after, output.read_back());
    assert_eq!((after.facts_held(), after.incomplete_len()), (1, 0));
}

#[test]
fn what_cannot_be_joined_is_set_aside() {
    let mut joiner = joiner();
    let orders = Topic::from(0)
        .put(1, &order_key(1), Some("not json"))
        .put(2, &order_key(2), Some("{\"order_id\":2}"))
        .put(3, &order_key(3), Some("{\"user_id\":1,\"city\":\"北京\"}"))
        .put(4, &order_key(4), Some(&order(4, 1, "PAID")));
    let out = joiner.take_facts(&orders.batch, NOW).unwrap();
    assert_eq!(
        out.records().map(|record| record.topic).collect::<Vec<_>>(),
        [DEAD_LETTERS, DEAD_LETTERS, DEAD_LETTERS, OUTPUT]
    );
    assert_eq!(out.position.offsets, [(0, 4)]);
}

#[test]
fn a_late_record_of_a_writer_that_hung_does_not_win_over_newer_ones() {
    let (mut before, mut output) = (joiner(), Output::default());
    let orders = Topic::from(0)
        .put(2, &order_key(1), Some(&order(1, 1001, "PAID")))
        .put(3, &order_key(1), Some(&order(1, 1001, "SHIPPED")))
        .put(4, &order_key(2), Some(&order(2, 1001, "PAID")))
        .put(5, &order_key(2), None);
    output.take(&before.take_facts(&orders.batch, NOW).unwrap());
    // The oldest versions once more, at the end.
    for again in [0, 2] {
        let late = output.records[again].clone();
        output.records.push(late);
    }
    let held = output.read_back();
    assert_eq!((held.len(), held.input_offset), (1, Some(3)));
    assert_eq!(held.version_of(order_key(1).as_bytes()).unwrap().unwrap().fact.lsn, Lsn(3));
}

/// A record of an older version that a replay put back in when the partition had come to `at`.
fn put_back(offset: i64, lsn: u64, at: u64, id: u32, status: &str) -> Batch {
    let header = Header { put_back_at: Some(version(at)), ..Header::new(Operation::Update, version(lsn)) };
    let text = header.text();
    let (key, value) = (order_key(id), order(id, 1001, status));
    let mut batch = Batch::default();
    let (key, value, header) = (Some(key.as_bytes()), Some(value.as_bytes()), Some(text.as_bytes()));
    batch.push(Record { partition: 0, offset, key, value, header });
    batch
}

#[test]
fn an_older_version_that_a_replay_put_back_is_joined_once_and_never_late() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    let orders = Topic::from(0).put(2, &order_key(1), Some(&order(1, 1001, "PENDING"))).put(
        9,
        &order_key(2),
        Some(&order(2, 1001, "PAID")),
    );
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    output.take(&joiner.take_facts(&put_back(2, 4, 9, 1, "PAID"), NOW).unwrap());
    output.take(&joiner.take_facts(&put_back(3, 5, 9, 1, "SHIPPED"), NOW).unwrap());
    assert_eq!(output.row(1)["order_status"], "SHIPPED");
    assert!(joiner.take_facts(&put_back(4, 5, 9, 1, "SHIPPED"), NOW).unwrap().is_empty(), "it came twice");
    assert!(joiner.take_facts(&put_back(5, 4, 9, 1, "PAID"), NOW).unwrap().is_empty(), "a newer one is there");
    let repeat = Topic::from(6).put(9, &order_key(2), Some(&order(2, 1001, "PAID")));
    assert!(joiner.take_facts(&repeat.batch, NOW).unwrap().is_empty(), "the partition stands where it stood");
    output.take(&joiner.take_facts(&Topic::from(7).put(10, &order_key(1), None).batch, NOW).unwrap());
    assert!(
        joiner.take_facts(&put_back(8, 5, 9, 1, "SHIPPED"), NOW).unwrap().is_empty(),
        "late, of a writer that hung"
    );
    assert_eq!(output.rows[&order_key(1)], None);
    output.assert_versions_grow();
}

#[test]
fn a_change_that_no_fact_shows_sends_nothing_again() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    joiner.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = Topic::from(0).put(2, &order_key(1), Some(&order(1, 1001, "PAID")));
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    let seen = ZHANG.replace("{\"user_id\"", "{\"last_seen\":7,\"user_id\"");
    joiner.take_rows(0, &Topic::from(1).put(3, USER, Some(&seen)).batch, NOW).unwrap();
    assert!(!joiner.has_reemissions());
    let fresh = Topic::from(1).put(4, &order_key(2), Some(&order(2, 1001, "PAID")));
    output.take(&joiner.take_facts(&fresh.batch, NOW).unwrap());
    let versions: Vec<Version> = output.versions.values().map(|versions| versions[0].joined.of(0)).collect();
    assert_eq!(versions, [version(1), version(1)], "what they show is of the first change");
    assert!(
        joiner.take_rows(0, &Topic::from(1).put(3, USER, None).batch, NOW).unwrap().is_empty(),
        "a repeat of a version that changed nothing"
    );
    assert!(joiner.dimensions()[0].is_known("1001"));
}

#[test]
fn a_row_whose_key_has_other_columns_is_set_aside() {
    let mut joiner = joiner();
    for key in ["{\"user_id\":1001,\"shop\":1}", "{\"shop\":1}", "{\"user_id\":null}", "7"] {
        let out = joiner.take_rows(0, &Topic::from(0).put(1, key, Some(ZHANG)).batch, NOW).unwrap();
        assert_eq!(out.records().map(|record| record.topic).collect::<Vec<_>>(), [DEAD_LETTERS], "{key}");
    }
}

fn products() -> DimensionConfig {
    let users = Settings::default().dimensions.remove(0);
    let mut columns: Vec<_> = users.columns.iter().take(1).cloned().collect();
    (columns[0].from, columns[0].default) = ("brand".into(), Some("无".into()));
    DimensionConfig {
        name: "products".into(),
        topic: "ods_products".into(),
        on: BTreeMap::from([("sku".to_owned(), "order_id".to_owned())]),
        prefix: "product_".into(),
        columns,
        ..users
    }
}

fn product(brand: &str) -> String {
    format!("{{\"sku\":1,\"brand\":\"{brand}\"}}")
}

#[test]
fn a_fact_is_joined_with_every_dimension_and_sent_again_for_each() {
    let mut joiner = joiner_with(|settings| settings.dimensions.push(products()));
    let mut output = Output::default();
    let orders = Topic::from(0).put(5, &order_key(1), Some(&order(1, 1001, "PAID")));
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    assert_eq!(
        (output.row(1)["username"].as_str(), output.row(1)["product_brand"].as_str()),
        (Some("Unknown User"), Some("无"))
    );
    assert_eq!((joiner.missing().len(0), joiner.missing().len(1)), (1, 1));
    joiner.take_rows(1, &Topic::from(0).put(3, "{\"sku\":1}", Some(&product("a"))).batch, NOW).unwrap();
    output.take(&joiner.reemit(NOW).unwrap());
    joiner.take_rows(0, &Topic::from(0).put(2, USER, Some(ZHANG)).batch, NOW).unwrap();
    output.take(&joiner.reemit(NOW).unwrap());
    joiner.take_rows(1, &Topic::from(1).put(9, "{\"sku\":1}", Some(&product("b"))).batch, NOW).unwrap();
    output.take(&joiner.reemit(NOW).unwrap());
    assert_eq!(
        (output.row(1)["username"].as_str(), output.row(1)["product_brand"].as_str()),
        (Some("张三"), Some("b"))
    );
    assert_eq!((joiner.missing().len(0), joiner.missing().len(1)), (0, 0));
    assert_eq!(output.records.len(), 4);
    assert!(output.records[3].2.contains("u=1.2.0.0,1.9.0.0"), "{}", output.records[3].2);
    output.assert_versions_grow();
}

/// Settings with a user's history: as it was when the order was made.
fn as_of(settings: &mut Settings) {
    settings.dimensions[0].mode = Mode::AsOf;
}

/// An order of user 1001 that was made so many microseconds after the beginning of 1970.
fn order_at(id: u32, time_us: u32) -> String {
    format!("{{\"order_id\":{id},\"user_id\":1001,\"order_time\":\"1970-01-01 00:00:00.{time_us:06}\"}}")
}

pub(super) fn in_city(city: &str) -> String {
    ZHANG.replace("北京", city)
}

/// The user moved, at a time of its own.
fn changed_at(lsn: u64, time_us: i64, city: &str) -> Batch {
    let mut batch = Batch::default();
    let text = Header { commit_time_us: Some(time_us), ..Header::new(Operation::Update, version(lsn)) }.text();
    let (key, value, header) = (Some(USER.as_bytes()), in_city(city), Some(text.as_bytes()));
    batch.push(Record { partition: 0, offset: 3, key, value: Some(value.as_bytes()), header });
    batch
}

#[test]
fn as_of_a_fact_has_the_row_as_it_was_at_its_time() {
    let (mut joiner, mut output) = (joiner_with(as_of), Output::default());
    // Commit times are the versions.
    let users = Topic::from(0).put(10, USER, Some(ZHANG)).put(20, USER, Some(&in_city("杭州"))).put(30, USER, None);
    joiner.take_rows(0, &users.batch, NOW).unwrap();
    let orders =
        [(1, 5), (2, 10), (3, 19), (4, 20), (5, 29), (6, 30)].into_iter().fold(Topic::from(0), |topic, (id, time)| {
            topic.put(100 + u64::from(id), &order_key(id), Some(&order_at(id, time)))
        });
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    let cities: Vec<_> = (1..=6).map(|id| output.row(id)["city"].as_str().unwrap_or("none").to_owned()).collect();
    assert_eq!(cities, ["北京", "北京", "北京", "杭州", "杭州", "none"], "before the first version the first counts");
    // A change from 27 on that is heard of late reaches the order of 29 alone.
    joiner.settings.dimensions[0].time.clear();
    joiner.take_rows(0, &changed_at(40, 27, "武汉"), NOW).unwrap();
    let again = joiner.reemit(NOW).unwrap();
    assert_eq!(again.len(), 1);
    output.take(&again);
    assert_eq!(output.row(5)["city"], "武汉");
    // Its row was deleted at its time, and is there now.
    let late = Topic::from(9).put(110, &order_key(7), Some(&order_at(7, 31)));
    output.take(&joiner.take_facts(&late.batch, NOW).unwrap());
    assert_eq!((output.row(7)["username"].as_str(), joiner.missing().len(0)), (Some("Unknown User"), 0));
    output.assert_versions_grow();
}

#[test]
fn as_of_a_row_keeps_so_many_versions() {
    let mut joiner = joiner_with(|settings| {
        as_of(settings);
        settings.dimensions[0].versions_max = 2;
    });
    let mut output = Output::default();
    let cities = ["北京", "杭州", "武汉", "成都"];
    for (at, city) in cities.iter().enumerate() {
        let lsn = 10 * (at as u64 + 1);
        joiner.take_rows(0, &Topic::from(at as i64).put(lsn, USER, Some(&in_city(city))).batch, NOW).unwrap();
    }
    let orders =
        Topic::from(0).put(100, &order_key(1), Some(&order_at(1, 15))).put(101, &order_key(2), Some(&order_at(2, 45)));
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    assert_eq!((output.row(1)["city"].as_str(), output.row(2)["city"].as_str()), (Some("武汉"), Some("成都")));
}

/// Order 1, of time 15, was sent with the user of version 10.
fn sent_as_of(versions_max: usize) -> (Joiner, Output) {
    let mut joiner = joiner_with(|settings| {
        as_of(settings);
        settings.dimensions[0].versions_max = versions_max;
    });
    let mut output = Output::default();
    joiner.take_rows(0, &Topic::from(0).put(10, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = Topic::from(0).put(100, &order_key(1), Some(&order_at(1, 15)));
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    assert_eq!(output.row(1)["city"], "北京");
    (joiner, output)
}

#[test]
fn as_of_what_went_out_stays_when_its_version_is_pushed_out() {
    let (mut joiner, _) = sent_as_of(2);
    for (lsn, city) in [(20, "杭州"), (30, "武汉"), (40, "成都")] {
        joiner.take_rows(0, &Topic::from(1).put(lsn, USER, Some(&in_city(city))).batch, NOW).unwrap();
        assert!(joiner.reemit(NOW).unwrap().is_empty(), "{city}");
    }
}

#[test]
fn as_of_what_went_out_stays_when_a_restart_knows_the_newest_version_only() {
    let (_, output) = sent_as_of(2);
    let after = |operation, time_us: Option<i64>| {
        let mut joiner = joiner_with(as_of);
        let mut users = Batch::default();
        let text = Header { commit_time_us: time_us, ..Header::new(operation, version(30)) }.text();
        let (key, value, header) = (Some(USER.as_bytes()), in_city("武汉"), Some(text.as_bytes()));
        users.push(Record { partition: 0, offset: 2, key, value: Some(value.as_bytes()), header });
        joiner.take_rows(0, &users, NOW).unwrap();
        let found = output.read_back_for(&joiner);
        take_over(&mut joiner, &found).read_back(&mut joiner, found);
        joiner.reemit(NOW).unwrap().len()
    };
    assert_eq!(after(Operation::Update, Some(30)), 0);
    assert_eq!(after(Operation::Snapshot, None), 0, "since when the row of a copy is so, nobody can tell");
    assert_eq!(after(Operation::Update, Some(12)), 1, "this one was valid at the time of the order, and it lacks it");
}

fn waiting(settings: &mut Settings) {
    (settings.dimensions[0].mode, settings.dimensions[0].wait_ms) = (Mode::Wait, 100);
}

fn at_ms(steady_ms: u64) -> Now {
    Now { steady_ms, ..NOW }
}

#[test]
fn a_fact_waits_for_its_row_and_what_comes_behind_it_for_its_key_waits_too() {
    let (mut joiner, mut output) = (joiner_with(waiting), Output::default());
    let orders = Topic::from(5)
        .put(1, &order_key(1), Some(&order(1, 1001, "PENDING")))
        .put(2, &order_key(2), Some(&order(2, 7, "PAID")))
        .put(3, &order_key(1), Some(&order(1, 1001, "PAID")));
    let out = joiner.take_facts(&orders.batch, at_ms(0)).unwrap();
    assert_eq!((out.len(), out.position.offsets.as_slice()), (0, &[(0, 5)][..]), "a restart begins in front of them");
    joiner.look_through_missing().unwrap();
    assert_eq!((joiner.facts_waiting(), joiner.missing().len(0)), (3, 2), "what is waited for is missing");
    let out = joiner.take_rows(0, &Topic::from(0).put(4, USER, Some(ZHANG)).batch, at_ms(50)).unwrap();
    assert_eq!(out.position.offsets, [(0, 6)], "order 2 still waits");
    output.take(&out);
    assert_eq!((output.records.len(), output.row(1)["order_status"].as_str()), (2, Some("PAID")));
    assert_eq!(output.records.iter().filter(|(_, row, _)| row.as_ref().unwrap().contains("张三")).count(), 2);
    assert!(joiner.end_waits(at_ms(99)).unwrap().is_empty());
    let out = joiner.end_waits(at_ms(100)).unwrap();
    assert_eq!(out.position.offsets, [(0, 8)]);
    output.take(&out);
    assert_eq!(output.row(2)["username"], "Unknown User");
    let header = &output.records.last().unwrap().2;
    assert!(
        header.contains("in=7") && header.contains("re=1.3.0.0"),
        "it names how far the partition has come: {header}"
    );
    // Then it is as in mode latest.
    let seven = ZHANG.replace("1001", "7");
    joiner.take_rows(0, &Topic::from(1).put(9, "{\"user_id\":7}", Some(&seven)).batch, at_ms(200)).unwrap();
    output.take(&joiner.reemit(at_ms(200)).unwrap());
    assert_eq!(output.row(2)["username"], "张三");
    output.assert_versions_grow();
}

#[test]
fn nobody_waits_for_a_row_that_was_deleted_or_for_none() {
    let (mut joiner, mut output) = (joiner_with(waiting), Output::default());
    joiner.take_rows(0, &Topic::from(0).put(1, USER, None).batch, NOW).unwrap();
    let orders = Topic::from(0).put(2, &order_key(1), Some(&order(1, 1001, "PAID"))).put(
        3,
        &order_key(2),
        Some("{\"order_id\":2,\"user_id\":null}"),
    );
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    assert_eq!((output.records.len(), joiner.missing().len(0)), (2, 1), "an order without a user misses none");
}

#[test]
fn an_order_that_is_deleted_while_it_waits_comes_and_goes() {
    let (mut joiner, mut output) = (joiner_with(waiting), Output::default());
    let orders = Topic::from(0).put(1, &order_key(1), Some(&order(1, 1001, "PAID"))).put(2, &order_key(1), None);
    assert!(joiner.take_facts(&orders.batch, at_ms(0)).unwrap().is_empty());
    output.take(&joiner.end_waits(at_ms(100)).unwrap());
    assert_eq!((output.records.len(), output.rows[&order_key(1)].as_deref()), (2, None));
    output.assert_versions_grow();
}

#[test]
fn more_waiting_facts_than_the_bound_send_the_oldest_on() {
    let mut joiner = joiner_with(|settings| {
        waiting(settings);
        settings.missing.waiting_facts_max = 2;
    });
    let mut output = Output::default();
    let orders = (1..=3)
        .fold(Topic::from(0), |topic, id| topic.put(u64::from(id), &order_key(id), Some(&order(id, id, "PAID"))));
    let out = joiner.take_facts(&orders.batch, at_ms(0)).unwrap();
    assert_eq!((out.len(), out.position.offsets.as_slice(), joiner.facts_waiting()), (1, &[(0, 1)][..], 2));
    output.take(&out);
    assert_eq!(output.row(1)["username"], "Unknown User");
}

/// A crash while facts wait: what went out is not sent again, what waited is, and a deleted key does not come back.
#[test]
fn a_restart_while_facts_wait_loses_none_and_sends_none_twice() {
    let (mut before, mut output) = (joiner_with(waiting), Output::default());
    before
        .take_rows(0, &Topic::from(0).put(1, "{\"user_id\":7}", Some(&ZHANG.replace("1001", "7"))).batch, NOW)
        .unwrap();
    let orders = || {
        Topic::from(0)
            .put(2, &order_key(1), Some(&order(1, 1001, "PENDING")))
            .put(3, &order_key(2), Some(&order(2, 7, "PAID")))
            .put(4, &order_key(3), Some(&order(3, 7, "PAID")))
            .put(5, &order_key(3), None)
            .put(6, &order_key(1), Some(&order(1, 1001, "PAID")))
    };
    let out = before.take_facts(&orders().batch, NOW).unwrap();
    assert_eq!((out.len(), out.position.offsets.as_slice()), (3, &[(0, 0)][..]));
    output.take(&out);
    assert!(output.records.iter().all(|(_, _, header)| header.contains("in=-1")), "{:?}", output.records);

    let found = output.read_back();
    let (input_offset, handled) = (found.input_offset, found.handled);
    let mut after = joiner_with(waiting);
    after
        .take_rows(0, &Topic::from(0).put(1, "{\"user_id\":7}", Some(&ZHANG.replace("1001", "7"))).batch, NOW)
        .unwrap();
    let taken = TakenOver { ticket: Ticket::default(), input_offset, handled, facts: Some(found) };
    assert!(taken.wanted(0).is_none());
    after.assigned(vec![(0, taken)], NOW).unwrap();
    let out = after.take_facts(&orders().batch, at_ms(0)).unwrap();
    assert!(out.is_empty(), "orders 2 and 3 are in the output");
    assert_eq!(after.facts_waiting(), 2);
    let next = Topic::from(5).put(9, &order_key(4), Some(&order(4, 7, "PAID")));
    output.take(&after.take_facts(&next.batch, at_ms(0)).unwrap());
    assert!(after.take_facts(&orders().batch, at_ms(0)).unwrap().is_empty(), "all of it again");
    output.take(&after.take_rows(0, &Topic::from(1).put(10, USER, Some(ZHANG)).batch, at_ms(1)).unwrap());
    assert_eq!(
        (output.row(1)["order_status"].as_str(), output.row(1)["username"].as_str()),
        (Some("PAID"), Some("张三"))
    );
    assert_eq!(output.rows[&order_key(3)], None);
    assert_eq!(output.records.len(), 6);
    output.assert_versions_grow();
}

#[test]
fn what_was_sent_again_names_how_far_the_partition_has_come() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    let orders = Topic::from(0).put(2, &order_key(1), Some(&order(1, 1001, "PAID"))).put(
        8,
        &order_key(2),
        Some(&order(2, 7, "PAID")),
    );
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    joiner.take_rows(0, &Topic::from(0).put(9, USER, Some(ZHANG)).batch, NOW).unwrap();
    output.take(&joiner.reemit(NOW).unwrap());
    let last = Header::parse(Some(output.records.last().unwrap().2.as_bytes())).unwrap();
    assert_eq!((last.version, last.partition_version()), (version(2), version(8)));
}

/// Changes that did not reach a forgotten fact, counted over the process: one test at a time.
struct Counted {
    before: u64,
    _alone: MutexGuard<'static, ()>,
}

impl Counted {
    fn from_here() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Counted { before: metrics::REEMISSIONS_FORGOTTEN.get(), _alone: alone }
    }

    fn since(&self) -> u64 {
        metrics::REEMISSIONS_FORGOTTEN.get() - self.before
    }
}

fn an_hour(settings: &mut Settings) {
    let expiry = &mut settings.facts.expiry;
    (expiry.after_hours, expiry.time) = (1, "updated_at".into());
}

fn at_hour(hour: i64) -> Now {
    Now { wall_us: hour * 3_600_000_000, ..NOW }
}

fn updated_at(id: u32, time: &str) -> String {
    format!("{{\"order_id\":{id},\"user_id\":1001,\"updated_at\":\"{time}\"}}")
}

/// Order 1, of the first hour, was sent with the user of version 1.
fn sent_in_the_first_hour() -> (Joiner, Output) {
    let (mut joiner, mut output) = (joiner_with(an_hour), Output::default());
    joiner.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = Topic::from(0).put(2, &order_key(1), Some(&updated_at(1, "1970-01-01 00:00:00")));
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    assert_eq!(joiner.facts_held(), 1);
    (joiner, output)
}

#[test]
fn a_fact_that_is_to_be_sent_again_is_not_forgotten_before() {
    let counted = Counted::from_here();
    let (mut joiner, mut output) = sent_in_the_first_hour();
    joiner.take_rows(0, &Topic::from(1).put(5, USER, Some(&in_city("杭州"))).batch, at_hour(2)).unwrap();
    joiner.forget_old(at_hour(2), 100).unwrap();
    assert_eq!(joiner.facts_held(), 1);
    output.take(&joiner.reemit(at_hour(2)).unwrap());
    assert_eq!(output.row(1)["city"], "杭州");
    for _ in 0..2 {
        joiner.forget_old(at_hour(2), 100).unwrap();
    }
    assert_eq!((joiner.facts_held(), counted.since()), (0, 0));
    joiner.take_rows(0, &Topic::from(2).put(6, USER, Some(&in_city("武汉"))).batch, at_hour(2)).unwrap();
    assert_eq!((joiner.has_reemissions(), counted.since()), (false, 1));
}

#[test]
fn a_change_that_a_forgotten_fact_missed_while_nobody_was_there_is_counted_at_the_start() {
    let counted = Counted::from_here();
    let (_, output) = sent_in_the_first_hour();
    let start = |users: Topic| {
        let mut after = joiner_with(an_hour);
        after.take_rows(0, &users.batch, at_hour(2)).unwrap();
        let found = output.read_back_at(120, &after);
        let pending = take_over(&mut after, &found);
        (after, pending, found)
    };
    let user = |lsn, city| Topic::from(0).put(lsn, USER, Some(&in_city(city)));
    let (mut after, pending, found) = start(user(1, "北京"));
    pending.read_back(&mut after, found);
    assert_eq!((after.facts_held(), counted.since()), (0, 0), "it lacks nothing");
    let (mut after, pending, found) = start(user(5, "杭州"));
    pending.read_back(&mut after, found);
    assert_eq!(counted.since(), 1);
    let (mut after, pending, found) = start(user(1, "北京"));
    after.take_rows(0, &user(5, "杭州").batch, at_hour(2)).unwrap();
    assert_eq!(counted.since(), 1);
    pending.read_back(&mut after, found);
    assert_eq!(counted.since(), 2, "the change came while it was read back");
    after.take_rows(0, &user(6, "武汉").batch, at_hour(2)).unwrap();
    assert_eq!((counted.since(), after.has_reemissions()), (3, false));
}

#[test]
fn as_of_a_change_is_counted_where_a_forgotten_fact_is_of_its_time() {
    let counted = Counted::from_here();
    let mut joiner = joiner_with(|settings| {
        an_hour(settings);
        as_of(settings);
    });
    joiner.take_rows(0, &Topic::from(0).put(10, USER, Some(ZHANG)).batch, NOW).unwrap();
    let order = order_at(1, 25).replace('}', ",\"updated_at\":\"1970-01-01 00:00:00\"}");
    joiner.take_facts(&Topic::from(0).put(100, &order_key(1), Some(&order)).batch, at_hour(2)).unwrap();
    assert_eq!(joiner.facts_held(), 0);
    joiner.take_rows(0, &Topic::from(1).put(30, USER, Some(&in_city("杭州"))).batch, NOW).unwrap();
    assert_eq!(counted.since(), 0, "the row is so since a later time");
    joiner.take_rows(0, &changed_at(40, 20, "武汉"), NOW).unwrap();
    assert_eq!(counted.since(), 1);
}

#[test]
fn a_fact_that_expired_is_not_held_and_its_row_says_how_many() {
    let counted = Counted::from_here();
    let (mut joiner, mut output) = (joiner_with(an_hour), Output::default());
    let orders = Topic::from(0).put(1, &order_key(1), Some(&updated_at(1, "1970-01-01 00:00:00"))).put(
        2,
        &order_key(2),
        Some(&updated_at(2, "1970-01-01 02:00:00")),
    );
    let two = at_hour(2);
    output.take(&joiner.take_facts(&orders.batch, two).unwrap());
    assert_eq!((output.records.len(), joiner.facts_held()), (2, 1));
    joiner.take_rows(0, &Topic::from(0).put(9, USER, Some(ZHANG)).batch, two).unwrap();
    let again = joiner.reemit(two).unwrap();
    assert_eq!((again.len(), counted.since()), (1, 1));
    joiner.forget_old(at_hour(4), 100).unwrap();
    assert_eq!(joiner.facts_held(), 0);
}

#[test]
fn a_dimension_that_is_new_after_a_restart_reaches_the_older_facts() {
    let (mut before, mut output) = (joiner(), Output::default());
    before.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = Topic::from(0).put(2, &order_key(1), Some(&order(1, 1001, "PAID"))).put(
        3,
        &order_key(2),
        Some(&order(2, 7, "PAID")),
    );
    output.take(&before.take_facts(&orders.batch, NOW).unwrap());
    let mut after = joiner_with(|settings| settings.dimensions.push(products()));
    after.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    after.take_rows(1, &Topic::from(0).put(1, "{\"sku\":1}", Some(&product("a"))).batch, NOW).unwrap();
    let found = output.read_back_for(&after);
    take_over(&mut after, &found).read_back(&mut after, found);
    output.take(&after.reemit(NOW).unwrap());
    assert_eq!(output.row(1)["product_brand"], "a");
    assert_eq!(output.row(2)["product_brand"], "无", "its product is not known, and the column is there");
    assert!(!after.has_reemissions());
    output.assert_versions_grow();
}

#[test]
fn a_copy_of_a_dimension_sends_its_facts_again() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    joiner.take_rows(0, &Topic::from(0).put(1, USER, Some(ZHANG)).batch, NOW).unwrap();
    let orders = Topic::from(0).put(2, &order_key(1), Some(&order(1, 1001, "PAID")));
    output.take(&joiner.take_facts(&orders.batch, NOW).unwrap());
    let mut copy = Batch::default();
    let text = Header::new(Operation::Snapshot, version(5)).text();
    let (key, header) = (Some(USER.as_bytes()), Some(text.as_bytes()));
    copy.push(Record { partition: 0, offset: 1, key, value: Some(ZHANG.as_bytes()), header });
    joiner.take_rows(0, &copy, NOW).unwrap();
    assert_eq!(joiner.reemit(NOW).unwrap().len(), 1);
}

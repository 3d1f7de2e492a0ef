use super::*;
use crate::read_back::Stub;
use crate::users::tests::ZHANG;
use shared::position::{Lsn, ResultVersion};

fn header(operation: Operation, lsn: u64) -> String {
    let mut text = String::new();
    let version = Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() };
    Header { commit_time_us: Some(lsn.cast_signed()), ..Header::new(operation, version) }.write(&mut text);
    text
}

struct Topic {
    batch: Batch,
    offset: i64,
}

impl Topic {
    fn from(offset: i64) -> Self {
        Topic { batch: Batch::default(), offset }
    }

    fn put(mut self, lsn: u64, key: &str, value: Option<&str>) -> Self {
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

fn order_key(id: u32) -> String {
    format!("{{\"order_id\":{id}}}")
}

fn order(id: u32, user: u32, status: &str) -> String {
    format!("{{\"order_id\":{id},\"user_id\":{user},\"unit_price\":5999.00,\"order_status\":\"{status}\"}}")
}

const USER: &str = "{\"user_id\":1001}";

/// A topic as a reader would see it: the last value of each key, and every version in order.
#[derive(Default)]
struct Output {
    rows: BTreeMap<String, Option<String>>,
    versions: BTreeMap<String, Vec<ResultVersion>>,
    records: Vec<(String, Option<String>, String)>,
}

impl Output {
    fn take(&mut self, out: &Outgoing<Offsets>) {
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
    fn read_back(&self) -> PartitionOrders {
        let mut held = PartitionOrders::incomplete();
        for (key, value, header) in &self.records {
            let (key, value) = (Some(key.as_bytes()), value.as_deref().map(str::as_bytes));
            let record = Record { partition: 0, offset: 0, key, value, header: Some(header.as_bytes()) };
            OrderReader::default().restore(&record, &mut held).unwrap();
        }
        held
    }

    fn assert_versions_grow(&self) {
        for (key, versions) in &self.versions {
            assert!(versions.is_sorted_by(|a, b| a < b), "{key}: {versions:?}");
        }
    }
}

fn joiner() -> Joiner {
    Joiner::new(Settings::default())
}

/// A partition that is taken over, with its orders still to be read back.
struct Pending(Stub);

fn take_over(joiner: &mut Joiner, tail: &PartitionOrders) -> Pending {
    let ticket = Ticket::default();
    let stub = ticket.stub();
    let taken = TakenOver { ticket, input_offset: tail.input_offset, handled: tail.handled };
    joiner.assigned(vec![(0, taken)]);
    Pending(stub)
}

impl Pending {
    fn read_back(self, joiner: &mut Joiner, orders: PartitionOrders) {
        joiner.read_back(ReadBack { partition: 0, stub: self.0, orders }, "t").unwrap();
    }
}

#[test]
fn an_order_gets_its_user_and_keeps_its_text() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    joiner.take_users(&Topic::from(0).put(1, USER, Some(ZHANG)).batch, "t").unwrap();
    let out =
        joiner.take_orders(&Topic::from(5).put(2, &order_key(1), Some(&order(1, 1001, "PAID"))).batch, "t").unwrap();
    assert_eq!(out.position, [(0, 6)]);
    output.take(&out);
    let text = output.rows[&order_key(1)].clone().unwrap();
    assert!(
        text.starts_with(
            r#"{"order_id":1,"user_id":1001,"unit_price":5999.00,"order_status":"PAID","username":"张三""#
        ),
        "{text}"
    );
    assert!(text.ends_with(r#""user_city_tier":"一线城市","join_time":"t"}"#), "{text}");
    assert!(output.records[0].2.contains("in=5"), "{}", output.records[0].2);
}

#[test]
fn an_unknown_user_has_defaults_until_it_comes() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    let orders = Topic::from(0).put(1, &order_key(1), Some(&order(1, 1001, "PAID")));
    output.take(&joiner.take_orders(&orders.batch, "t").unwrap());
    assert_eq!(output.row(1)["username"], "Unknown User");
    assert_eq!(joiner.missing().len(), 1);
    joiner.take_users(&Topic::from(0).put(2, USER, Some(ZHANG)).batch, "t").unwrap();
    output.take(&joiner.reemit("t"));
    assert_eq!(output.row(1)["username"], "张三");
    assert!(joiner.missing().is_empty() && !joiner.has_reemissions());
    joiner.take_users(&Topic::from(0).put(3, USER, None).batch, "t").unwrap();
    output.take(&joiner.reemit("t"));
    assert_eq!(output.row(1)["username"], "Unknown User", "the user was deleted");
    output.assert_versions_grow();
}

#[test]
fn a_fresh_order_overtakes_the_lane_and_is_not_sent_twice() {
    let (mut joiner, mut output) = (joiner(), Output::default());
    joiner.take_users(&Topic::from(0).put(1, USER, Some(ZHANG)).batch, "t").unwrap();
    let orders = Topic::from(0).put(2, &order_key(1), Some(&order(1, 1001, "PAID"))).put(
        3,
        &order_key(2),
        Some(&order(2, 1001, "PAID")),
    );
    output.take(&joiner.take_orders(&orders.batch, "t").unwrap());
    joiner.take_users(&Topic::from(0).put(4, USER, Some(&ZHANG.replace("北京", "杭州"))).batch, "t").unwrap();
    let fresh = Topic::from(2).put(5, &order_key(1), Some(&order(1, 1001, "SHIPPED")));
    output.take(&joiner.take_orders(&fresh.batch, "t").unwrap());
    let again = joiner.reemit("t");
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
    joiner.take_users(&Topic::from(0).put(9, USER, Some(ZHANG)).batch, "t").unwrap();
    let orders = Topic::from(0)
        .put(10, &order_key(1), Some(&order(1, 1001, "PAID")))
        .put(11, &order_key(2), Some(&order(2, 1001, "PAID")))
        .put(12, &order_key(1), Some(&order(1, 7, "PAID")))
        .put(13, &order_key(2), None);
    output.take(&joiner.take_orders(&orders.batch, "t").unwrap());
    assert_eq!(output.row(1)["username"], "Unknown User");
    assert_eq!(output.rows[&order_key(2)], None);
    joiner.take_users(&Topic::from(1).put(14, USER, Some(ZHANG)).batch, "t").unwrap();
    assert!(joiner.reemit("t").is_empty());
    output.assert_versions_grow();
}

#[test]
fn a_restart_finds_orders_and_what_they_lack_in_the_output() {
    let (mut before, mut output) = (joiner(), Output::default());
    before.take_users(&Topic::from(0).put(1, USER, Some(ZHANG)).batch, "t").unwrap();
    let orders = Topic::from(0)
        .put(2, &order_key(1), Some(&order(1, 1001, "PAID")))
        .put(3, &order_key(2), Some(&order(2, 1001, "PAID")))
        .put(4, &order_key(3), Some(&order(3, 1001, "PAID")))
        .put(5, &order_key(3), None);
    output.take(&before.take_orders(&orders.batch, "t").unwrap());
    // The user changes; one of its orders is sent again, then the process dies.
    before.settings.reemission.batch_records_max = 1;
    before.take_users(&Topic::from(1).put(6, USER, Some(&ZHANG.replace("北京", "杭州"))).batch, "t").unwrap();
    output.take(&before.reemit("t"));

    let held = output.read_back();
    assert_eq!((held.len(), held.input_offset), (2, Some(3)));
    let mut after = joiner();
    let users = Topic::from(0).put(1, USER, Some(ZHANG)).put(6, USER, Some(&ZHANG.replace("北京", "杭州")));
    after.take_users(&users.batch, "t").unwrap();
    take_over(&mut after, &held).read_back(&mut after, held);
    let rest = after.reemit("t");
    assert_eq!(rest.len(), 1, "only the order that was not sent again before");
    output.take(&rest);
    assert_eq!((output.row(1)["city"].as_str(), output.row(2)["city"].as_str()), (Some("杭州"), Some("杭州")));
    let repeat = Topic::from(3).put(5, &order_key(3), None);
    assert!(after.take_orders(&repeat.batch, "t").unwrap().is_empty(), "handled before");
    output.assert_versions_grow();
}

#[test]
fn fresh_orders_are_joined_while_the_older_ones_are_read_back_and_the_lane_waits() {
    let (mut before, mut output) = (joiner(), Output::default());
    before.take_users(&Topic::from(0).put(1, USER, Some(ZHANG)).batch, "t").unwrap();
    let orders = (1..=4).fold(Topic::from(0), |orders, id| {
        orders.put(u64::from(id) + 1, &order_key(id), Some(&order(id, 1001, "PAID")))
    });
    output.take(&before.take_orders(&orders.batch, "t").unwrap());
    let found = output.read_back();

    // The user changed while nobody was there; of its orders one moves on, one is deleted, one goes to another user, one stays.
    let mut after = joiner();
    let users = Topic::from(0).put(1, USER, Some(ZHANG)).put(6, USER, Some(&ZHANG.replace("北京", "杭州")));
    after.take_users(&users.batch, "t").unwrap();
    let pending = take_over(&mut after, &found);
    let fresh = Topic::from(4).put(7, &order_key(1), Some(&order(1, 1001, "SHIPPED"))).put(8, &order_key(2), None).put(
        9,
        &order_key(3),
        Some(&order(3, 7, "PAID")),
    );
    output.take(&after.take_orders(&fresh.batch, "t").unwrap());
    assert_eq!(output.row(1)["city"], "杭州", "it is joined with the user as it is now");
    after.take_users(&Topic::from(2).put(10, USER, Some(&ZHANG.replace("北京", "武汉"))).batch, "t").unwrap();
    assert!(after.reemit("t").is_empty(), "older orders could be overtaken");
    assert_eq!((after.incomplete_len(), after.orders_held()), (1, 2));

    pending.read_back(&mut after, found);
    assert_eq!((after.incomplete_len(), after.orders_held()), (0, 3));
    let again = after.reemit("t");
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
    assert_eq!(after.missing().len(), 1);
    output.assert_versions_grow();
}

#[test]
fn what_was_read_back_for_an_assignment_that_is_over_is_passed_over() {
    let (mut before, mut output) = (joiner(), Output::default());
    let orders = Topic::from(0).put(1, &order_key(1), Some(&order(1, 1001, "PAID")));
    output.take(&before.take_orders(&orders.batch, "t").unwrap());
    let mut after = joiner();
    let first = take_over(&mut after, &output.read_back());
    after.revoked(&[0]);
    first.read_back(&mut after, output.read_back());
    assert_eq!((after.orders_held(), after.incomplete_len()), (0, 0));
    let second = take_over(&mut after, &output.read_back());
    let third = take_over(&mut after, &output.read_back());
    second.read_back(&mut after, output.read_back());
    assert_eq!((after.orders_held(), after.incomplete_len()), (0, 1));
    third.read_back(&mut after, output.read_back());
    assert_eq!((after.orders_held(), after.incomplete_len()), (1, 0));
}

#[test]
fn what_cannot_be_joined_is_set_aside() {
    let mut joiner = joiner();
    let orders = Topic::from(0)
        .put(1, &order_key(1), Some("not json"))
        .put(2, &order_key(2), Some("{\"order_id\":2}"))
        .put(3, &order_key(3), Some("{\"user_id\":1,\"city\":\"北京\"}"))
        .put(4, &order_key(4), Some(&order(4, 1, "PAID")));
    let out = joiner.take_orders(&orders.batch, "t").unwrap();
    assert_eq!(
        out.records().map(|record| record.topic).collect::<Vec<_>>(),
        [DEAD_LETTERS, DEAD_LETTERS, DEAD_LETTERS, OUTPUT]
    );
    assert_eq!(out.position, [(0, 4)]);
}

#[test]
fn more_than_the_bound_is_an_error_that_names_it() {
    let mut settings = Settings::default();
    settings.orders.held_max = 1;
    let mut joiner = Joiner::new(settings);
    let orders =
        Topic::from(0).put(1, &order_key(1), Some(&order(1, 1, "A"))).put(2, &order_key(2), Some(&order(2, 1, "A")));
    let failure = joiner.take_orders(&orders.batch, "t").unwrap_err();
    assert!(failure.chain().contains("orders.held_max"), "{}", failure.chain());
}

#[test]
fn a_late_record_of_a_writer_that_hung_does_not_win_over_newer_ones() {
    let (mut before, mut output) = (joiner(), Output::default());
    let orders = Topic::from(0)
        .put(2, &order_key(1), Some(&order(1, 1001, "PAID")))
        .put(3, &order_key(1), Some(&order(1, 1001, "SHIPPED")))
        .put(4, &order_key(2), Some(&order(2, 1001, "PAID")))
        .put(5, &order_key(2), None);
    output.take(&before.take_orders(&orders.batch, "t").unwrap());
    // The oldest versions once more, at the end.
    for again in [0, 2] {
        let late = output.records[again].clone();
        output.records.push(late);
    }
    let held = output.read_back();
    assert_eq!((held.len(), held.input_offset), (1, Some(3)));
    assert_eq!(held.version_of(order_key(1).as_bytes()).unwrap().order.lsn, Lsn(3));
}

/// A record of an older version that a replay put back in when the partition had come to `at`.
fn put_back(offset: i64, lsn: u64, at: u64, id: u32, status: &str) -> Batch {
    let version = |lsn| Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() };
    let header = Header { put_back_at: Some(version(at)), ..Header::new(Operation::Update, version(lsn)) };
    let mut text = String::new();
    header.write(&mut text);
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
    output.take(&joiner.take_orders(&orders.batch, "t").unwrap());
    output.take(&joiner.take_orders(&put_back(2, 4, 9, 1, "PAID"), "t").unwrap());
    output.take(&joiner.take_orders(&put_back(3, 5, 9, 1, "SHIPPED"), "t").unwrap());
    assert_eq!(output.row(1)["order_status"], "SHIPPED");
    assert!(joiner.take_orders(&put_back(4, 5, 9, 1, "SHIPPED"), "t").unwrap().is_empty(), "it came twice");
    assert!(joiner.take_orders(&put_back(5, 4, 9, 1, "PAID"), "t").unwrap().is_empty(), "a newer one is there");
    let repeat = Topic::from(6).put(9, &order_key(2), Some(&order(2, 1001, "PAID")));
    assert!(joiner.take_orders(&repeat.batch, "t").unwrap().is_empty(), "the partition stands where it stood");
    output.take(&joiner.take_orders(&Topic::from(7).put(10, &order_key(1), None).batch, "t").unwrap());
    assert!(
        joiner.take_orders(&put_back(8, 5, 9, 1, "SHIPPED"), "t").unwrap().is_empty(),
        "late, of a writer that hung"
    );
    assert_eq!(output.rows[&order_key(1)], None);
    output.assert_versions_grow();
}

//! The witness, the random load and the verdict on a real pipeline: what is right is found clean, and what is broken by hand is found.

use std::time::Duration;

use lab::chaos::verdict::{Planted, Surroundings, Verdict, verdict};
use lab::chaos::witness;
use lab::chaos::witness::subject::Subject;
use lab::chaos::workload::ids::{OWNED_ORDERS, OWNERS};
use lab::chaos::workload::kind::{Kind, WEIGHTS};
use lab::chaos::workload::owner::{change_owner, make_owner};
use lab::chaos::workload::{Settings, Workload};
use lab::layers::LayerRecord;
use lab::paper::Paper;
use shared::kafka::partitioner::partition;
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};

use crate::capturing::{TOKEN, command_copy};
use crate::database::{run, value};
use crate::further_server::{FurtherServer, LOGICAL};
use crate::history::{History, header, order_key};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::topics::{Foreign, write};
use crate::until::until;

const PARTITIONS: i32 = 4;

/// Enough for all that is on its way; only what is broken takes so long.
const ENOUGH: Duration = Duration::from_secs(90);

/// All is at rest already, and what is broken does not mend itself.
const AT_ONCE: Duration = Duration::from_millis(500);

/// The rare kinds often, so that a short load has them all.
fn settings(rate: u32) -> Settings {
    let weight = |&(kind, weight): &(Kind, usize)| match kind {
        Kind::Truncate | Kind::TruncateAmid | Kind::Big => (kind, 4),
        Kind::Long => (kind, 8),
        _ => (kind, weight),
    };
    let weights = WEIGHTS.iter().map(weight).collect();
    Settings { rate, users: 40, big_rows: 700, long: Duration::from_secs(2), weights, ..Settings::default() }
}

/// A pipeline whose source has a witness from the beginning.
async fn witnessed() -> Stack {
    let mut stack = Stack::new().await;
    stack.set(CDC_INGEST, "HTTP__CONTROL_TOKEN", TOKEN);
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 50);
    witness::install(&mut stack.source().await, &stack.places.names).await.unwrap();
    stack
}

fn workload(stack: &Stack, rate: u32) -> Workload {
    let seed = std::env::var("TIDEMILL_TEST_SEED").map_or(20_250_711, |text| text.parse().unwrap());
    Workload::start(&stack.places.source, &stack.places.names, seed, &settings(rate)).unwrap()
}

/// Waits until the load has done so many transactions more.
async fn further(workload: &Workload, transactions: u64) {
    let wanted = workload.tally().transactions() + transactions;
    until(&format!("{wanted} transactions"), async || match workload.tally().transactions() {
        done if done >= wanted => Ok(()),
        done => Err(done.to_string()),
    })
    .await;
}

async fn judge(stack: &Stack, planted: &[Planted], deadline: Duration) -> Verdict {
    let letters = [DWD_CLEANER, DIM_JOINER, PG_SINKER].map(|service| stack.dead_letter_topic(service));
    let surroundings = Surroundings {
        places: &stack.places,
        users_topic: &stack.users_topic(),
        dead_letter_topics: [&letters[0], &letters[1], &letters[2]],
        planted,
    };
    let mut nobody = Paper::plain(std::io::sink());
    verdict(&surroundings, deadline, &mut nobody).await.unwrap_or_else(|failure| panic!("{}", failure.chain()))
}

fn assert_clean(found: &Verdict) {
    if !found.is_clean() {
        found.write(&mut Paper::stderr());
    }
    assert!(found.is_clean());
}

/// The first problem says this, and the way of the key is told.
fn assert_found(found: &Verdict, words: &str) {
    assert!(!found.is_clean(), "nothing was found of: {words}");
    let problems: Vec<&str> = found.problems.first.iter().map(|problem| problem.what.as_str()).collect();
    assert!(problems.iter().any(|problem| problem.contains(words)), "{words:?} is not in {problems:#?}");
}

/// Writes what no stage can read under the key of some order or user, and says where it stands.
fn plant(stack: &Stack, topic: &str, key: &str) -> Planted {
    let partition = partition(key.as_bytes(), PARTITIONS);
    let mark = stack.layers().end(topic).unwrap();
    write(&stack.places.kafka, &Foreign { topic, partition, key, value: Some("坏".as_bytes()), header: None });
    let layers = stack.layers();
    let from = mark.iter().copied().filter(|(found, _)| *found == partition).collect();
    let records = layers.read(topic, &from, |found| found == key).unwrap();
    let planted = records.iter().find(|record| record.header.is_err()).expect("it was planted");
    Planted { topic: topic.to_owned(), partition, offset: planted.offset }
}

/// A short load, through a pipeline where nothing goes wrong.
async fn loaded(stack: &mut Stack) {
    stack.start_all().await;
    let workload = workload(stack, 400);
    further(&workload, 400).await;
    workload.stop();
    // However the load ended, with a TRUNCATE too: one order that has been in two statuses.
    let mut source = stack.source().await;
    let order = "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status)";
    run(&mut source, &format!("{order} VALUES (900001, 1, 'kept', 1, 1, 1, 'PENDING')")).await;
    run(&mut source, "UPDATE business.orders SET order_status = 'PAID' WHERE order_id = 900001").await;
}

#[tokio::test]
async fn a_load_of_all_kinds_with_each_service_killed_in_it_is_found_whole() {
    let mut stack = witnessed().await;
    let (places, owner) = (stack.places.clone(), *OWNERS.start());
    let orders = *OWNED_ORDERS.start()..=OWNED_ORDERS.start() + 2_000;
    make_owner(&places.source, &places.names, owner, orders.clone()).await.unwrap();
    let workload = workload(&stack, 300);
    further(&workload, 50).await;
    stack.start_all().await;
    further(&workload, 200).await;
    let [ods, dwd, result] = stack.order_topics().map(str::to_owned);
    let users = stack.users_topic();
    let mut planted: Vec<Planted> =
        [&ods, &dwd, &result].iter().map(|topic| plant(&stack, topic, &order_key(2001))).collect();
    planted.push(plant(&stack, &users, "{\"user_id\":1001}"));
    planted.push(plant(&stack, &ods, "{\"order_id\":\"chaos-poison-1\"}"));

    for (number, service) in SERVICES.into_iter().enumerate() {
        change_owner(&places.source, &places.names, owner, number).await.unwrap();
        further(&workload, 100).await;
        stack.process(service).kill();
        further(&workload, 20).await;
        stack.process(service).restart();
        stack.ready_alone(CDC_INGEST).await;
        command_copy(&stack, &serde_json::json!({ "table": "business.orders" })).await;
    }
    further(&workload, 100).await;
    workload.pause();
    workload.quiet().await;
    let paused = workload.tally();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(workload.tally(), paused, "paused is paused");
    workload.resume();
    further(&workload, 50).await;
    let tally = workload.stop();
    // What a TRUNCATE took comes again, and its user changes while it is on its way.
    make_owner(&places.source, &places.names, owner, orders).await.unwrap();
    change_owner(&places.source, &places.names, owner, SERVICES.len()).await.unwrap();
    eprintln!("{}", serde_json::to_string(&tally).unwrap());
    assert!(tally.rows > 1_000 && tally.done.len() > 15, "{tally:?}");

    let found = judge(&stack, &planted, ENOUGH).await;
    assert_clean(&found);
    assert_eq!((found.letters.found, found.repeats()), (planted.len() as u64, 0), "{found:?}");
    assert!(found.topics.iter().all(|topic| topic.versions > 100), "{:?}", found.topics);
    assert!(found.latest.expected > 2_000, "{:?}", found.latest);
    assert!(found.topics[0].copies > 50, "{:?}", found.topics);
}

/// An order that stands in the sink, with a status that it had before.
async fn an_order_with_a_past(stack: &Stack) -> (i64, String) {
    let sql = "SELECT t.order_id || ' ' || t.order_status FROM result.orders_with_user_info t
               JOIN result.orders_latest l ON l.order_id = t.order_id AND l.order_status <> t.order_status
               ORDER BY t.order_id, t.order_status LIMIT 1";
    let found: String = value(&mut stack.sink().await, sql).await;
    let (order_id, status) = found.split_once(' ').unwrap();
    (order_id.parse().unwrap(), status.to_owned())
}

#[tokio::test]
async fn what_is_broken_in_the_sink_is_found_with_its_whole_way() {
    let mut stack = witnessed().await;
    loaded(&mut stack).await;
    assert_clean(&judge(&stack, &[], ENOUGH).await);
    let mut sink = stack.sink().await;
    let (order_id, past) = an_order_with_a_past(&stack).await;
    let of_past = format!("order_id = {order_id} AND order_status = '{past}'");
    // What the server makes itself cannot be put back.
    let kept = "CREATE TABLE kept_latest AS TABLE result.orders_latest; ALTER TABLE kept_latest DROP COLUMN price_band;
                CREATE TABLE kept_trail AS TABLE result.orders_with_user_info";
    let restore = "TRUNCATE result.orders_latest; INSERT INTO result.orders_latest TABLE kept_latest;
                   TRUNCATE result.orders_with_user_info; INSERT INTO result.orders_with_user_info TABLE kept_trail";
    run(&mut sink, kept).await;

    let trail = "result.orders_with_user_info";
    for (damage, words) in [
        (format!("DELETE FROM result.orders_latest WHERE order_id = {order_id}"), "orders_latest is not as the source"),
        (format!("UPDATE {trail} SET username = 'x' WHERE order_id = {order_id}"), "column username of the trail"),
        (format!("UPDATE {trail} SET quantity = 77 WHERE {of_past}"), "column quantity of the trail"),
        (format!("DELETE FROM {trail} WHERE {of_past}"), "the trail has no row for it"),
        (format!("UPDATE {trail} SET order_status = 'LOST' WHERE {of_past}"), "the trail has a row for it"),
        (
            format!("UPDATE {trail} SET record_version = record_version || '\\x00' WHERE {of_past}"),
            "not of the newest record",
        ),
    ] {
        run(&mut sink, &damage).await;
        let found = judge(&stack, &[], AT_ONCE).await;
        assert_found(&found, words);
        assert_eq!(found.problems.first_key(), Some((Subject::Orders, order_id)), "{:?}", found.problems);
        let way = found.way.unwrap();
        for part in [
            "by the witness",
            "_ods_orders",
            "_dwd_orders",
            "_result",
            "orders_latest: ",
            "orders_with_user_info: ",
            "way of user",
        ] {
            assert!(way.contains(part), "{part} is not in {way}");
        }
        assert!(way.contains(&past), "{way}");
        run(&mut sink, restore).await;
    }
    run(&mut sink, "UPDATE dws.orders_by_day SET amount = amount + 0.01").await;
    let words = "dws.orders_by_day is not what GROUP BY over result.orders_latest says";
    assert_found(&judge(&stack, &[], AT_ONCE).await, words);
    run(&mut sink, "UPDATE dws.orders_by_day SET amount = amount - 0.01").await;
    assert_clean(&judge(&stack, &[], ENOUGH).await);
}

/// The last entry of an order, as SQL.
fn last_entry(order_id: i64) -> String {
    format!("number = (SELECT max(number) FROM chaos.log WHERE subject = 'orders' AND key = {order_id})")
}

#[tokio::test]
async fn what_ods_has_otherwise_than_the_source_is_found() {
    let mut stack = witnessed().await;
    loaded(&mut stack).await;
    assert_clean(&judge(&stack, &[], ENOUGH).await);
    let mut source = stack.source().await;
    let (order_id, _) = an_order_with_a_past(&stack).await;
    let last = last_entry(order_id);
    run(&mut source, "CREATE TABLE chaos.kept AS TABLE chaos.log").await;
    let restore =
        "TRUNCATE chaos.log; INSERT INTO chaos.log OVERRIDING SYSTEM VALUE SELECT * FROM chaos.kept ORDER BY number";

    // The witness is told otherwise, as if the capture had carried a wrong row, another change, one too many, one too few.
    for (damage, words) in [
        (format!("UPDATE chaos.log SET row_values[3] = 'x' WHERE {last}"), "is not the row of that change"),
        (format!("UPDATE chaos.log SET made = 'd', row_values = NULL WHERE {last}"), "where the source has op=d"),
        (format!("DELETE FROM chaos.log WHERE {last}"), "changes were made"),
        (
            format!(
                "INSERT INTO chaos.log (subject, key, made, row_values, lsn)
                 SELECT subject, key, 'u', row_values, lsn FROM chaos.log WHERE {last}"
            ),
            "were made since the capture began",
        ),
    ] {
        run(&mut source, &damage).await;
        let found = judge(&stack, &[], AT_ONCE).await;
        assert_found(&found, words);
        let counts = &found.topics[0];
        assert_eq!(counts.lost + counts.wrong + counts.surplus, 1, "{words}: {counts:?}");
        run(&mut source, restore).await;
    }
    assert_clean(&judge(&stack, &[], ENOUGH).await);
}

#[tokio::test]
async fn a_record_that_is_written_again_is_counted_and_a_change_that_nobody_made_is_found() {
    let mut stack = witnessed().await;
    loaded(&mut stack).await;
    assert_clean(&judge(&stack, &[], ENOUGH).await);
    let kafka = stack.places.kafka.clone();
    let (order_id, _) = an_order_with_a_past(&stack).await;
    let last = |topic: &str| {
        let mut history = History::read(&stack.layers(), topic);
        history.by_key.remove(&order_key(order_id)).unwrap().pop().unwrap()
    };
    let again = |topic: &str, record: &LayerRecord, said: &Header| {
        let text = said.text();
        let (partition, value) = (record.partition, record.value.as_deref().map(str::as_bytes));
        write(&kafka, &Foreign { topic, partition, key: &record.key, value, header: Some(&text) });
    };
    for (number, topic) in stack.order_topics().into_iter().enumerate() {
        let record = last(topic);
        again(topic, &record, header(&record));
        let found = judge(&stack, &[], ENOUGH).await;
        assert_clean(&found);
        assert_eq!(found.repeats(), number as u64 + 1, "{topic}");
    }

    // The same row with a version that every stage takes for a newer one.
    let ods = stack.order_topics()[0];
    let history = History::read(&stack.layers(), ods);
    let newest = history.by_key.values().flatten().map(|record| header(record).version).max().unwrap();
    let record = history.of_order(order_id).last().unwrap();
    let version = Version { lsn: Lsn(newest.lsn.0 + 1), index: 0, ..newest };
    again(ods, record, &Header { operation: Operation::Update, version, ..header(record).clone() });
    let found = judge(&stack, &[], Duration::from_secs(5)).await;
    assert_eq!(found.problems.first_key(), Some((Subject::Orders, order_id)), "{:?}", found.problems);
    assert!(found.topics[0].surplus + found.topics[0].wrong > 0, "{:?}", found.topics);
}

#[tokio::test]
async fn dead_letters_are_those_of_what_was_planted() {
    let mut stack = witnessed().await;
    stack.start_all().await;
    let ods = stack.places.names.ods_topic.clone();
    let planted = plant(&stack, &ods, &order_key(2001));
    assert_clean(&judge(&stack, std::slice::from_ref(&planted), ENOUGH).await);
    let found = judge(&stack, &[], AT_ONCE).await;
    assert_found(&found, "dwd-cleaner set aside");
    assert_eq!(found.problems.first_key(), Some((Subject::Orders, 2001)));

    let never = Planted { offset: 1_000_000, ..planted.clone() };
    let found = judge(&stack, &[planted, never], AT_ONCE).await;
    assert_found(&found, "no letter of what was planted");
    assert_eq!((found.letters.found, found.letters.missing, found.letters.foreign), (1, 1, 0));
}

#[tokio::test]
async fn the_load_goes_on_when_the_source_comes_back() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start_as_source(&mut stack, &[LOGICAL]).await;
    witness::install(&mut stack.source().await, &stack.places.names).await.unwrap();
    stack.start_all().await;
    let workload = workload(&stack, 300);
    for end in [FurtherServer::kill, FurtherServer::stop] {
        further(&workload, 100).await;
        end(&server);
        until("the load cannot connect", async || match workload.tally().unconnected {
            0 => Err("it can".to_owned()),
            _ => Ok(()),
        })
        .await;
        server.start_again();
    }
    further(&workload, 100).await;
    let tally = workload.stop();
    assert!(tally.lost > 0, "{tally:?}");
    stack.ready().await;
    assert_clean(&judge(&stack, &[], ENOUGH).await);
}

//! The sink held against the source by pg-sinker itself: no false alarm while both are written to, and every damage found, placed and healed.

use lab::places::Names;
use serde_json::Value;
use shared::kafka::partitioner::partition;
use shared::position::Version;
use shared::record::header::{Header, Operation};

use crate::cleaning::rules_and;
use crate::database::{run, value};
use crate::history::{History, header, order_key};
use crate::process::Ended;
use crate::service_page::{get, metric, state};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, Stack};
use crate::table_page::{TOKEN, command, take_commands, until_goes_on};
use crate::topics::{Foreign, write};
use crate::until::until;
use crate::whole_sink::until_sink_is_the_source;
use crate::writer::{Dice, Writer};

/// A pipeline whose source may be compared, by ranges of a few rows.
async fn stack_with(interval_s: u32, rules: Option<&str>) -> Stack {
    let mut stack = prepared(interval_s).await;
    if let Some(rules) = rules {
        stack.configure(DWD_CLEANER, &rules_and(rules));
    }
    stack.start_all().await;
    stack
}

/// The same; nothing runs.
pub async fn prepared(interval_s: u32) -> Stack {
    let mut stack = Stack::new().await;
    let source = stack.places.source.clone();
    let names = stack.places.names.clone();
    let name = stack.name.clone();
    let letters = [DWD_CLEANER, DIM_JOINER].map(|service| stack.dead_letter_topic(service)).join(",");
    let address = stack.url(CDC_INGEST);
    let settings = [
        ("INTERVAL_S", interval_s.to_string()),
        ("RANGE_ROWS", "700".to_owned()),
        ("LEAF_ROWS", "10".to_owned()),
        ("SOURCE__HOST", source.host),
        ("SOURCE__PORT", source.port.to_string()),
        ("SOURCE__DATABASE", source.database),
        ("CHAIN__SLOT", name.clone()),
        ("CHAIN__TOPICS", format!("{},{}", names.ods_topic, names.dwd_topic)),
        ("CHAIN__GROUPS", format!("{name},{name}")),
        ("CHAIN__DEAD_LETTER_TOPICS", letters),
        ("CAPTURE__ADDRESS", address),
        ("CAPTURE__TOKEN", TOKEN.to_owned()),
    ];
    for (key, value) in settings {
        stack.set(PG_SINKER, &format!("RECONCILE__{key}"), value);
    }
    // Positions are told often, so that a look is short.
    stack.set(CDC_INGEST, "SLOT__STATUS_INTERVAL_MS", 50);
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 20);
    for service in [DWD_CLEANER, DIM_JOINER] {
        stack.set(service, "KAFKA__COMMIT_INTERVAL_MS", 50);
    }
    take_commands(&mut stack);
    stack
}

async fn reconcile(stack: &mut Stack, flags: &[&str]) -> Ended {
    let arguments = [&["reconcile"], flags].concat();
    stack.command(PG_SINKER, &arguments, &[]).await
}

/// The report of the only pair, and the exit code.
async fn report(stack: &mut Stack, flags: &[&str]) -> (Option<i32>, Value) {
    let ended = reconcile(stack, &[&["--json"], flags].concat()).await;
    let reports: Value =
        serde_json::from_str(&ended.output).unwrap_or_else(|error| panic!("{error}: {}", ended.output));
    (ended.code, reports[0].clone())
}

fn order_values(id: u64, amount: u64) -> String {
    format!("({id}, 1001, '商品', '电子产品', 1, {amount}.50, {amount}.50, 'PENDING')")
}

const INTO_ORDERS: &str = "INSERT INTO business.orders (order_id, user_id, product_name, product_category, quantity, unit_price, total_amount, order_status) VALUES";

/// So many orders are written to: few enough that many change during a comparison, and enough that not all do.
const IDS: u64 = 4_000;

fn changes(dice: &mut Dice) -> String {
    let (id, amount) = (10_000 + dice.below(IDS), 1 + dice.below(9_999));
    match dice.below(5) {
        0 => format!("DELETE FROM business.orders WHERE order_id = {id}"),
        1 => format!("{INTO_ORDERS} {} ON CONFLICT DO NOTHING", order_values(id, amount)),
        2 => format!(
            "UPDATE business.orders SET order_id = order_id + {IDS} WHERE order_id = {id} AND NOT EXISTS (SELECT FROM business.orders WHERE order_id = {id} + {IDS})"
        ),
        _ => format!(
            "UPDATE business.orders SET total_amount = {amount}.25, order_status = 'PAID', updated_at = now() WHERE order_id BETWEEN {id} AND {id} + 3"
        ),
    }
}

#[tokio::test]
async fn a_sink_that_is_right_is_equal_while_both_are_written_to() {
    let mut stack = stack_with(0, None).await;
    let rows: Vec<String> = (10_000..10_000 + IDS).map(|id| order_values(id, id)).collect();
    run(&mut stack.source().await, &format!("{INTO_ORDERS} {}", rows.join(","))).await;
    let writer = Writer::start(&stack, changes).await;
    writer.further(200).await;
    let mut looked_at_again = 0;
    for _ in 0..3 {
        let (code, report) = report(&mut stack, &[]).await;
        assert_eq!((code, &report["differences"]), (Some(0), &Value::Array(Vec::new())), "{report:#}");
        looked_at_again += report["candidates"].as_u64().unwrap();
    }
    writer.stop().await;
    assert!(looked_at_again > 0, "no row changed during a comparison: the test tells nothing");
    until_sink_is_the_source(&stack).await;
    let (code, report) = report(&mut stack, &[]).await;
    let rows: i64 = value(&mut stack.source().await, "SELECT count(*) FROM business.orders").await;
    assert_eq!((code, report["source_rows"].as_i64(), report["sink_rows"].as_i64()), (Some(0), Some(rows), Some(rows)));
    assert_eq!(
        (&report["changing"], report["ranges"].as_u64() > Some(3)),
        (&Value::Array(Vec::new()), true),
        "{report:#}"
    );
}

/// A rule that rejects one status.
const NO_VOID: &str = r#"
[[rules]]
name = "not_void"
kind = "pattern"
column = "order_status"
pattern = "[A-Z]{2,}"
"#;

/// Writes a tombstone into a topic, as who writes it could have, had he lost the row.
fn lose(stack: &Stack, topic: &str, order_id: i64) {
    let key = order_key(order_id);
    let history = History::read(&stack.layers(), topic);
    let last = history.of_order(order_id).last().map(|record| header(record).version).unwrap();
    let text = Header::new(Operation::Delete, Version { part: last.part + 1, ..last }).text();
    let partition = partition(key.as_bytes(), 4);
    write(&stack.places.kafka, &Foreign { topic, partition, key: &key, value: None, header: Some(&text) });
}

async fn until_orders(stack: &Stack, condition: &str, wanted: i64) {
    let mut sink = stack.sink().await;
    until(&format!("{wanted} orders where {condition}"), async || {
        let sql = format!("SELECT count(*) FROM result.orders_latest WHERE {condition}");
        match value::<i64>(&mut sink, &sql).await {
            found if found == wanted => Ok(()),
            found => Err(found.to_string()),
        }
    })
    .await;
}

/// One of each: changed by hand, deleted by hand, too many, lost in each topic, rejected.
async fn damaged() -> Stack {
    let stack = stack_with(0, Some(NO_VOID)).await;
    let further: Vec<String> = [2006, 2007].map(|id| order_values(id, 9)).into();
    run(&mut stack.source().await, &format!("{INTO_ORDERS} {}", further.join(","))).await;
    until_orders(&stack, "true", 7).await;
    run(&mut stack.source().await, "UPDATE business.orders SET order_status = 'X' WHERE order_id = 2004").await;
    let names = &stack.places.names;
    for (topic, order_id) in [(&names.dwd_topic, 2003), (&names.ods_topic, 2006), (&names.result_topic, 2007)] {
        lose(&stack, topic, order_id);
        until_orders(&stack, &format!("order_id = {order_id}"), 0).await;
    }
    run(
        &mut stack.sink().await,
        "UPDATE result.orders_latest SET total_amount = 1.00, quantity = 7 WHERE order_id = 2001;
         DELETE FROM result.orders_latest WHERE order_id = 2002;
         INSERT INTO result.orders_latest (order_id, user_id, order_status, processed_time, record_version)
             SELECT 9999, user_id, order_status, processed_time, record_version FROM result.orders_latest WHERE order_id = 2005",
    )
    .await;
    stack
}

fn of<'r>(report: &'r Value, order_id: &str) -> &'r Value {
    let differences = report["differences"].as_array().unwrap();
    differences
        .iter()
        .find(|found| found["key"]["order_id"] == order_id)
        .unwrap_or_else(|| panic!("{order_id}: {report:#}"))
}

fn columns(difference: &Value) -> Vec<&str> {
    difference["columns"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_damage_is_found_with_key_column_and_place_and_healed() {
    let mut stack = damaged().await;
    // Others go on to be written to.
    let writer = Writer::start(&stack, changes).await;
    writer.further(100).await;
    let (code, found) = report(&mut stack, &[]).await;
    writer.further(1).await;
    writer.stop().await;
    assert_eq!((code, found["differences"].as_array().unwrap().len()), (Some(1), 7), "{found:#}");
    let Names { ods_topic: ods, dwd_topic: dwd, result_topic: results, .. } = stack.places.names.clone();
    let sink = "result.orders_latest";
    for (order_id, kind, first_without, wrong) in [
        ("2001", "other", sink, &["quantity", "total_amount"][..]),
        ("2002", "missing", sink, &[]),
        ("2003", "missing", &dwd, &[]),
        ("2004", "other", &dwd, &["order_status"]),
        ("2006", "missing", &ods, &[]),
        ("2007", "missing", &results, &[]),
        ("9999", "surplus", sink, &[]),
    ] {
        let difference = of(&found, order_id);
        let at = (&difference["kind"], &difference["place"]["first_without"]);
        assert_eq!(at, (&Value::from(kind), &Value::from(first_without)), "{difference:#}");
        assert_eq!(columns(difference), wrong, "{difference:#}");
        let is_rejected =
            difference["place"]["rejected"].as_str().is_some_and(|letter| letter.contains("rule `not_void`"));
        assert_eq!(is_rejected, order_id == "2004", "{difference:#}");
    }
    let amount =
        of(&found, "2001")["columns"].as_array().unwrap().iter().find(|column| column["name"] == "total_amount");
    assert_eq!((&amount.unwrap()["source"], &amount.unwrap()["sink"]), (&"5999".into(), &"1".into()));

    let told = reconcile(&mut stack, &[]).await;
    for line in [
        "order_id=2002  missing in the sink",
        "NOT EQUAL: 6 rows differ, 1 rows are missing because they were rejected",
    ] {
        assert!(told.code == Some(1) && told.output.contains(line), "{}", told.output);
    }

    let (code, healed) = report(&mut stack, &["--repair"]).await;
    assert_eq!(code, Some(1), "one stays rejected: {healed:#}");
    for order_id in ["2001", "2002", "2003", "2004", "2006", "2007", "9999"] {
        assert_eq!(of(&healed, order_id)["healed"], order_id != "2004", "{healed:#}");
    }
    run(&mut stack.source().await, "UPDATE business.orders SET order_status = 'PAID' WHERE order_id = 2004").await;
    let (code, equal) = report(&mut stack, &[]).await;
    assert_eq!((code, &equal["differences"]), (Some(0), &Value::Array(Vec::new())), "{equal:#}");
    until_sink_is_the_source(&stack).await;
}

#[tokio::test]
async fn a_row_that_is_marked_as_deleted_is_none() {
    let mut stack = prepared(0).await;
    let tables =
        "[rollups]\n[tables.latest]\ntable = \"result.orders_latest\"\nkey = \"order_id\"\non_tombstone = \"soft\"";
    stack.configure(PG_SINKER, tables);
    run(&mut stack.sink().await, "ALTER TABLE result.orders_latest ADD COLUMN deleted_at timestamptz").await;
    stack.start_all().await;
    until_orders(&stack, "deleted_at IS NULL", 5).await;
    run(&mut stack.source().await, "DELETE FROM business.orders WHERE order_id = 2001").await;
    until_orders(&stack, "order_id = 2001 AND deleted_at IS NOT NULL AND quantity IS NOT NULL", 1).await;
    let (code, equal) = report(&mut stack, &[]).await;
    assert_eq!((code, equal["sink_rows"].as_i64()), (Some(0), Some(4)), "{equal:#}");
    run(&mut stack.sink().await, "UPDATE result.orders_latest SET deleted_at = now() WHERE order_id = 2002").await;
    let (code, found) = report(&mut stack, &[]).await;
    assert_eq!((code, &of(&found, "2002")["kind"]), (Some(1), &"missing".into()), "{found:#}");
    run(&mut stack.source().await, &format!("{INTO_ORDERS} {}", order_values(2001, 7))).await;
    until_orders(&stack, "order_id = 2001 AND deleted_at IS NULL AND total_amount = 7.50", 1).await;
}

async fn until_metric(stack: &Stack, name: &str, labels: &str, is_so: impl Fn(f64) -> bool) {
    until(&format!("{name} of {labels}"), async || {
        let page = get(stack, PG_SINKER, "/metrics").await.body;
        match metric(&page, name, labels) {
            Some(found) if is_so(found) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
}

const ROWS: &str = "tidemill_reconciliation_rows";
const FAILED: &str = "tidemill_reconciliation_failed";

#[tokio::test]
async fn the_service_compares_by_itself_and_says_what_it_found() {
    let mut stack = stack_with(1, None).await;
    until_metric(&stack, "tidemill_reconciliation_finished_timestamp_seconds", "latest", |at| at > 0.0).await;
    until_metric(&stack, "tidemill_reconciliation_rows_compared", "latest", |rows| rows == 5.0).await;
    run(&mut stack.sink().await, "UPDATE result.orders_latest SET quantity = 77777 WHERE order_id = 2001").await;
    until_metric(&stack, ROWS, "differ", |rows| rows == 1.0).await;
    // The page comes a moment after the metric.
    let page = until("the page shows the row", async || {
        let page = get(&stack, PG_SINKER, "/api/v1/reconciliation").await.body;
        if page.contains("2001") { Ok(page) } else { Err(page) }
    })
    .await;
    let pages: Value = serde_json::from_str(&page).unwrap();
    let report = &pages["pairs"]["latest"]["report"];
    assert_eq!(columns(of(report, "2001")), ["quantity"], "{pages:#}");
    assert!(!page.contains("77777"), "no value of a row is on the page: {page}");
    let repaired = reconcile(&mut stack, &["--repair"]).await;
    assert!(repaired.code == Some(0) && repaired.output.contains("HEALED"), "{}", repaired.output);
    until_metric(&stack, ROWS, "differ", |rows| rows == 0.0).await;

    // Nothing comes through: it cannot be told, and the writer goes on.
    stack.set(PG_SINKER, "RECONCILE__CHAIN__WAIT_MS", 1_000);
    stack.process(PG_SINKER).kill();
    stack.start(PG_SINKER);
    stack.ready().await;
    until_metric(&stack, FAILED, "latest", |failed| failed == 0.0).await;
    stack.process(DWD_CLEANER).kill();
    run(&mut stack.source().await, "UPDATE business.orders SET quantity = 3 WHERE order_id = 2002").await;
    let words = format!("which reads {}", stack.places.names.ods_topic);
    until("the page says who does not come through", async || {
        let page = get(&stack, PG_SINKER, "/api/v1/reconciliation").await.body;
        if page.contains(&words) { Ok(()) } else { Err(page) }
    })
    .await;
    until_metric(&stack, FAILED, "latest", |failed| failed == 1.0).await;
    stack.process(DWD_CLEANER).restart();
    until_metric(&stack, FAILED, "latest", |failed| failed == 0.0).await;
    until_metric(&stack, ROWS, "differ", |rows| rows == 0.0).await;
    // Nor does it when the table is missing that keeps what was found.
    run(&mut stack.sink().await, "ALTER TABLE tidemill.reconciliations RENAME TO away").await;
    stack.process(PG_SINKER).kill();
    stack.process(PG_SINKER).restart();
    stack.ready().await;
    until_metric(&stack, "tidemill_reconciliation_failures_total", "", |failures| failures > 0.0).await;
    until_metric(&stack, FAILED, "latest", |failed| failed == 1.0).await;
    run(&mut stack.source().await, "UPDATE business.orders SET quantity = 4 WHERE order_id = 2002").await;
    until_sink_is_the_source(&stack).await;
    assert_eq!(state(&stack, PG_SINKER).await["generation"]["number"], 1);
    let checked = stack.command(PG_SINKER, &["check"], &[]).await;
    assert!(checked.code == Some(1) && checked.output.contains("06_reconciliation.sql"), "{}", checked.output);
}

/// Notes each comparison that is kept.
const NOTE_COMPARISONS: &str = "CREATE TABLE public.noted (at timestamptz);
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN INSERT INTO public.noted VALUES (NEW.finished_at); RETURN NULL; END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON tidemill.reconciliations FOR EACH ROW EXECUTE FUNCTION public.note()";

#[tokio::test]
async fn of_two_instances_one_compares_at_a_time_and_the_other_goes_on_when_it_is_gone() {
    let mut stack = stack_with(1, None).await;
    run(&mut stack.sink().await, NOTE_COMPARISONS).await;
    stack.start_replica(PG_SINKER, "second");
    let mut sink = stack.sink().await;
    let mut wanted = 5;
    for gone in [None, Some(PG_SINKER)] {
        if let Some(gone) = gone {
            stack.process(gone).kill();
        }
        until("comparisons go on", async || match value::<i64>(&mut sink, "SELECT count(*) FROM public.noted").await {
            noted if noted >= wanted => Ok(()),
            noted => Err(format!("{noted} of {wanted}")),
        })
        .await;
        wanted = value::<i64>(&mut sink, "SELECT count(*) FROM public.noted").await + 5;
    }
    // The interval is from the end of one to the beginning of the next.
    let too_soon = "SELECT count(*) FROM (SELECT at - lag(at) OVER (ORDER BY at) AS wait FROM public.noted) AS waits WHERE wait < interval '1 second'";
    assert_eq!(value::<i64>(&mut sink, too_soon).await, 0);
}

#[tokio::test]
async fn what_cannot_be_compared_says_why_and_what_to_do() {
    let mut stack = stack_with(0, None).await;
    for (key, value, words) in [
        ("RECONCILE__SOURCE__PASSWORD", "wrong", "correct user and password"),
        ("RECONCILE__CHAIN__SLOT", "nobody", "there is no slot nobody"),
        ("RECONCILE__RANGE_ROWS", "0", "reconcile.range_rows is 0"),
    ] {
        let ended = stack.command(PG_SINKER, &["reconcile"], &[(key, value)]).await;
        assert!(ended.code == Some(2) && ended.output.contains(words), "{key}: {:?} {}", ended.code, ended.output);
    }
    let elsewhere = [("TABLE", "result.orders_latest"), ("KEY", "order_id"), ("TOPIC", "elsewhere")]
        .map(|(key, value)| (format!("TABLES__LATEST__{key}"), value));
    let of_another_topic = elsewhere.each_ref().map(|(key, value)| (key.as_str(), *value));
    let ended = stack.command(PG_SINKER, &["reconcile"], &of_another_topic).await;
    let words = "result.orders_latest, which is written from topic elsewhere";
    assert!(ended.code == Some(2) && ended.output.contains(words), "{}", ended.output);
    let ended = reconcile(&mut stack, &["--pair", "nothing"]).await;
    assert!(ended.code == Some(2) && ended.output.contains("name one of latest"), "{}", ended.output);
    let rows: Vec<String> = (10_000..12_000).map(|id| order_values(id, id)).collect();
    run(&mut stack.source().await, &format!("{INTO_ORDERS} {}", rows.join(","))).await;
    command(&stack, "snapshot", "business.orders").await;
    command(&stack, "snapshot/pause", "business.orders").await;
    let ended = reconcile(&mut stack, &[]).await;
    assert!(ended.code == Some(2) && ended.output.contains("cdc-ingest is copying it"), "{}", ended.output);
    command(&stack, "snapshot/resume", "business.orders").await;
    until_goes_on(&stack, "business.orders").await;
    assert_eq!(reconcile(&mut stack, &[]).await.code, Some(0));
    let checked = stack.command(PG_SINKER, &["check"], &[]).await;
    let words = "business.orders and result.orders_latest can be compared: order_id, user_id";
    assert!(checked.code == Some(0) && checked.output.contains(words), "{}", checked.output);
    run(&mut stack.source().await, "REVOKE SELECT ON business.orders FROM tidemill_reconcile").await;
    let ended = reconcile(&mut stack, &[]).await;
    let grant = "GRANT SELECT ON \"business\".\"orders\" TO \"tidemill_reconcile\"";
    assert!(ended.code == Some(2) && ended.output.contains(grant), "{}", ended.output);
}

/// A source and a sink whose types differ as those of a pipeline do, filled by hand with what it would write.
const THINGS: &str = "shop text{collation}, id int, price numeric(12,4), fine numeric, code char(5), at timestamp(6), zoned timestamptz, doc json,
    docb jsonb, flag boolean, bytes bytea, ratio real, uid uuid, day date, name varchar(10), PRIMARY KEY (shop, id)";
const THINGS_IN_THE_SINK: &str = "shop text, id bigint, price numeric, fine numeric(20,2), code text, at timestamp(3), zoned timestamp(3), doc jsonb,
    docb text, flag text, bytes bytea, ratio float8, uid text, day date, name text, made text,
    processed_time timestamp, source_commit_time timestamptz, record_version bytea NOT NULL DEFAULT '', PRIMARY KEY (shop, id)";

const PAIRS: &str = r#"
[reconcile]
range_rows = 3
leaf_rows = 1
[reconcile.pairs.things]
source_table = "business.things"
sink_table = "result.things"
key = ["shop", "id"]
[reconcile.pairs.things.expressions]
made = "upper(s.name)"
[reconcile.chain]
slot = ""
"#;

#[tokio::test]
async fn values_of_two_servers_are_alike_where_the_pipeline_makes_them_so() {
    let mut stack = Stack::new().await;
    stack.configure(PG_SINKER, PAIRS);
    let places = stack.places.source.clone();
    for (key, value) in [("HOST", places.host), ("PORT", places.port.to_string()), ("DATABASE", places.database)] {
        stack.set(PG_SINKER, &format!("RECONCILE__SOURCE__{key}"), value);
    }
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    let icu = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'und-x-icu')";
    let collation = if value(&mut source, icu).await { " COLLATE \"und-x-icu\"" } else { "" };
    let things = THINGS.replace("{collation}", collation);
    run(
        &mut source,
        &format!("CREATE TABLE business.things ({things}); GRANT SELECT ON business.things TO tidemill_reconcile"),
    )
    .await;
    run(
        &mut sink,
        &format!("CREATE TABLE result.things ({THINGS_IN_THE_SINK}); GRANT SELECT ON result.things TO tidemill_writer"),
    )
    .await;
    for (shop, id) in [("a", 1), ("a", 2), ("B", 7), ("ä", 1), ("z", 1), ("北京", 3), ("", 1), ("Z", 40)] {
        let row = format!(
            "INSERT INTO business.things VALUES ('{shop}', {id}, 5.5, 0.125, 'ab', '2025-07-11 17:25:55.123456', '2025-07-11 17:25:55.12+02', \
             '{{\"b\": 1,  \"a\": [null]}}', '{{\"k\": 1.50}}', true, '\\xdead', 0.1, '00000000-0000-0000-0000-000000000001', '2025-07-11', 'tea')"
        );
        run(&mut source, &row).await;
        let row = format!(
            "INSERT INTO result.things VALUES ('{shop}', {id}, 5.5000, 0.13, 'ab   ', '2025-07-11 17:25:55.123', '2025-07-11 15:25:55.120Z', \
             '{{\"a\": [null], \"b\": 1}}', '{{\"k\": 1.50}}', 'true', '\\xdead', 0.1, '00000000-0000-0000-0000-000000000001', '2025-07-11', 'tea', 'TEA')"
        );
        run(&mut sink, &row).await;
    }
    run(&mut source, "INSERT INTO business.things (shop, id, doc, docb) VALUES ('nulls', 1, 'null', 'null')").await;
    run(&mut sink, "INSERT INTO result.things (shop, id) VALUES ('nulls', 1)").await;
    let (code, equal) = report(&mut stack, &[]).await;
    assert_eq!((code, equal["source_rows"].as_u64()), (Some(0), Some(9)), "{equal:#}");
    let names = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'result.things'::regclass AND attnum BETWEEN 3 AND 16";
    let names: String = value(&mut sink, names).await;
    for name in names.split(',') {
        let wrong = format!("UPDATE result.things SET {name} = NULL WHERE shop = '北京'");
        run(
            &mut sink,
            &format!("CREATE TABLE result.kept AS SELECT * FROM result.things WHERE shop = '北京'; {wrong}"),
        )
        .await;
        let (code, found) = report(&mut stack, &[]).await;
        let differences = found["differences"].as_array().unwrap();
        assert_eq!((code, differences.len()), (Some(1), 1), "{name}: {found:#}");
        assert_eq!((columns(&differences[0]), &differences[0]["key"]["shop"]), (vec![name], &"北京".into()));
        let mended = format!(
            "UPDATE result.things t SET {name} = k.{name} FROM result.kept k WHERE t.shop = k.shop; DROP TABLE result.kept"
        );
        run(&mut sink, &mended).await;
    }
    run(&mut sink, "UPDATE result.things SET shop = 'ä2' WHERE shop = 'ä'").await;
    run(&mut sink, "INSERT INTO result.things (shop, id) SELECT '龟', n FROM generate_series(1, 8) n").await;
    let (_, found) = report(&mut stack, &[]).await;
    assert!(found["ranges"].as_u64() > equal["ranges"].as_u64().map(|ranges| ranges + 1), "{found:#}");
    let mut kinds: Vec<&str> =
        found["differences"].as_array().unwrap().iter().map(|found| found["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [&["missing"][..], &["surplus"; 9]].concat(), "{found:#}");
}

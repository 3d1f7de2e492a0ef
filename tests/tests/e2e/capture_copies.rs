//! Several tables copied side by side while rows are written: every kind of key, large rows, kills, and what is shown meanwhile.

use serde_json::Value;

use crate::captured_table::CapturedTable;
use crate::capturing::copy_slowly;
use crate::database::{run, value};
use crate::history::History;
use crate::service_page::{get, metric};
use crate::stack::{CDC_INGEST, Stack};
use crate::table_page::{command, orders_go_on, take_commands, until_goes_on, until_table};
use crate::until::until;
use crate::writer::{Dice, Writer, changes_of};

/// Rows of each table with a key of its own kind.
const ROWS: u64 = 300;

/// A kind of key: its column, and the value number `n`.
struct Kind {
    name: &'static str,
    sql_type: String,
    nth: &'static str,
}

fn kind(name: &'static str, sql_type: &str, nth: &'static str) -> Kind {
    Kind { name, sql_type: sql_type.to_owned(), nth }
}

/// A text in which upper and lower case, accents and signs take turns.
const WORD: &str =
    "(ARRAY['Äpfel','apfel','Zebra','zebra','ß','-dash','_line','北京','上海','it''s'])[1 + n % 10] || chr(9) || n";

/// The kinds that every server has.
fn kinds() -> Vec<Kind> {
    vec![
        kind("by_c", "text COLLATE \"C\"", WORD),
        kind("by_default", "varchar(40)", WORD),
        kind("by_char", "char(12)", "n || 'x'"),
        kind("by_uuid", "uuid", "md5(n::text)::uuid"),
        kind("by_numeric", "numeric", "((n - 150) * 1.10)::numeric(12, 1) * (CASE n % 3 WHEN 0 THEN 1.00 ELSE 1 END)"),
        kind("by_double", "double precision", "(n - 150) / 7.0"),
        kind("by_time", "timestamp", "timestamp '1999-12-31 23:59:59.123456' + (n - 150) * interval '1 day 7 seconds'"),
        kind("by_instant", "timestamptz", "timestamptz '1999-12-31 23:59:59.5+08' + (n - 150) * interval '37 minutes'"),
        kind("by_date", "date", "date '0044-03-15 BC' + n * 3"),
        kind("by_bytes", "bytea", "decode(md5(n::text), 'hex')"),
        kind("by_address", "inet", "inet '10.0.0.0' + n * 259"),
        kind("by_word", "business.word", "('w' || n)::business.word"),
    ]
}

/// Kinds that need an extension or ICU, where the server has them.
async fn further_kinds(stack: &Stack) -> Vec<Kind> {
    let mut source = stack.source().await;
    let mut kinds = Vec::new();
    if value::<bool>(&mut source, "SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')").await {
        let collations = "CREATE COLLATION business.by_language (provider = icu, locale = 'de');
             CREATE COLLATION business.blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false)";
        run(&mut source, collations).await;
        kinds.push(kind("by_icu", "text COLLATE business.by_language", WORD));
        kinds.push(kind("by_blind", "text COLLATE business.blind", WORD));
    }
    if has_citext(stack).await {
        kinds.push(kind("by_citext", "citext", WORD));
    }
    kinds
}

/// Makes the extension where the server has it.
async fn has_citext(stack: &Stack) -> bool {
    let mut source = stack.source().await;
    let has = value(&mut source, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext')").await;
    if has {
        run(&mut source, "CREATE EXTENSION citext").await;
    }
    has
}

/// The value number `n` in SQL.
fn nth(kind: &Kind, n: u64) -> String {
    format!("(SELECT ({})::{} FROM (SELECT {n} AS n) AS one)", kind.nth, bare(&kind.sql_type))
}

/// The type without its collation.
fn bare(sql_type: &str) -> &str {
    sql_type.split(" COLLATE").next().unwrap_or(sql_type)
}

async fn make(stack: &mut Stack, kind: &Kind) -> CapturedTable {
    let columns = format!("note text, k {}, mark int, PRIMARY KEY (k)", kind.sql_type);
    let table = CapturedTable::define(stack, kind.name, &columns).await;
    let sql = format!(
        "INSERT INTO {} SELECT 'n', ({})::{}, 0 FROM generate_series(1, {ROWS}) n",
        table.table,
        kind.nth,
        bare(&kind.sql_type)
    );
    run(&mut stack.source().await, &sql).await;
    table
}

/// Writes to any of the tables: changes, deletes, inserts, and gives other keys.
fn writes(kinds: Vec<Kind>) -> impl FnMut(&mut Dice) -> String + Send + 'static {
    move |dice| {
        let kind = &kinds[usize::try_from(dice.below(kinds.len() as u64)).unwrap()];
        let (table, n) = (format!("business.{}", kind.name), dice.below(ROWS) + 1);
        match dice.below(6) {
            0 => format!("DELETE FROM {table} WHERE k = {}", nth(kind, n)),
            1 => format!("INSERT INTO {table} VALUES ('neu', {}, 0) ON CONFLICT DO NOTHING", nth(kind, n + ROWS)),
            2 => format!("UPDATE {table} SET k = {} WHERE k = {}", nth(kind, n + 2 * ROWS), nth(kind, n)),
            _ => format!("UPDATE {table} SET mark = mark + 1 WHERE k = {}", nth(kind, n)),
        }
    }
}

#[tokio::test]
async fn tables_with_keys_of_every_kind_are_copied_side_by_side_while_rows_are_written() {
    let mut stack = Stack::new().await;
    let words = "SELECT format('CREATE TYPE business.word AS ENUM (%s)', string_agg(quote_literal('w' || n), ', ' ORDER BY md5(n::text)))
                 FROM generate_series(1, 900) n";
    let mut source = stack.source().await;
    let words: String = value(&mut source, words).await;
    run(&mut source, &words).await;
    let mut kinds = kinds();
    kinds.extend(further_kinds(&stack).await);
    let mut tables = Vec::new();
    for kind in &kinds {
        tables.push(make(&mut stack, kind).await);
    }
    stack.set(CDC_INGEST, "SNAPSHOT__TABLES_AT_ONCE", 3);
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 25);
    stack.set(CDC_INGEST, "KAFKA__TOPICS__PARTITIONS", 2);
    let writer = Writer::start(&stack, writes(kinds)).await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    writer.further(200).await;
    writer.stop().await;
    for table in &tables {
        table.until_judged_equal(&stack).await;
        until_goes_on(&stack, &table.table).await;
    }
}

#[tokio::test]
async fn keys_of_several_columns_are_copied_in_the_order_of_the_key() {
    let mut stack = Stack::new().await;
    let columns = "note text, n bigint, \"Place's\" text, day date, mark int, PRIMARY KEY (\"Place's\", day, n)";
    let stock = CapturedTable::define(&mut stack, "stock", columns).await;
    // The operators of the two columns stand in two schemas.
    let label = if has_citext(&stack).await { "citext" } else { "text" };
    let columns = format!("a bigint, b {label}, mark int, PRIMARY KEY (b, a)");
    let links = CapturedTable::define(&mut stack, "links", &columns).await;
    let rows = "INSERT INTO business.stock SELECT 'x', n % 7, 'p' || n % 11, date '2025-01-01' + n / 77, 0 FROM generate_series(0, 1999) n;
                INSERT INTO business.links SELECT n % 50, (CASE n % 2 WHEN 0 THEN 'b' ELSE 'B' END) || n / 50, 0 FROM generate_series(0, 1999) n";
    run(&mut stack.source().await, rows).await;
    stack.set(CDC_INGEST, "SNAPSHOT__TABLES_AT_ONCE", 3);
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 60);
    let writes = |dice: &mut Dice| {
        let (n, place) = (dice.below(7), dice.below(11));
        match dice.below(5) {
            0 => format!(
                "DELETE FROM business.stock WHERE n = {n} AND \"Place's\" = 'p{place}' AND day < date '2025-01-03'"
            ),
            1 => format!(
                "UPDATE business.stock SET n = n + 100 WHERE n = {n} AND \"Place's\" = 'p{place}' AND day > date '2025-01-20'"
            ),
            2 => format!("UPDATE business.links SET a = a + 1000 WHERE a = {n} AND b IN ('b{place}', 'B{place}')"),
            3 => format!("DELETE FROM business.links WHERE a = {place} AND b > 'b3{n}'"),
            _ => format!("UPDATE business.links SET mark = mark + 1 WHERE b = 'b{place}'"),
        }
    };
    let writer = Writer::start(&stack, writes).await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    writer.stop().await;
    for table in [&stock, &links] {
        table.until_judged_equal(&stack).await;
        assert_eq!(table.history(&stack).repeated_copies(), 0);
    }
}

/// Rows that each recorded chunk of the table brought.
fn recorded_chunks(stack: &Stack, table: &str) -> Vec<u64> {
    let (layers, topic) = (stack.layers(), format!("{}_cdc_state", stack.name));
    let records = layers.read(&topic, &layers.begin(&topic).unwrap(), |key| key.contains(table)).unwrap();
    let rows = |text: &String| serde_json::from_str::<Value>(text).unwrap()["rows"].as_u64().unwrap();
    let rows: Vec<u64> = records.iter().filter_map(|record| record.value.as_ref().map(rows)).collect();
    rows.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).filter(|brought| *brought > 0).collect()
}

#[tokio::test]
async fn chunks_of_large_rows_have_fewer_of_them() {
    let mut stack = Stack::new().await;
    let files = CapturedTable::make(&mut stack, "files", "mark int, body text").await;
    let rows =
        "INSERT INTO business.files SELECT n, 0, CASE WHEN n BETWEEN 100 AND 160 THEN repeat(md5(n::text), 1000) END
                FROM generate_series(1, 400) n; INSERT INTO business.files SELECT 1000, 0, repeat('大', 200000)";
    run(&mut stack.source().await, rows).await;
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 100);
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_BYTES_MAX", 200_000);
    let writer = Writer::start(&stack, changes_of("business.files")).await;
    stack.start(CDC_INGEST);
    stack.ready().await;
    writer.stop().await;
    files.until_judged_equal(&stack).await;
    let history = files.history(&stack);
    history.assert_nothing_twice();
    assert_eq!(history.repeated_copies(), 0);
    let chunks = recorded_chunks(&stack, &files.table);
    assert!(chunks.iter().any(|rows| *rows <= 6) && chunks.iter().any(|rows| *rows >= 20), "{chunks:?}");
}

const TABLES: [&str; 3] = ["first", "second", "third"];
const ROWS_OF_EACH: u64 = 4_000;
const CHUNK_ROWS: u64 = 200;
const KILLS: u64 = 4;

/// Rows that have come of all tables, and whether all are done.
async fn copied(stack: &Stack) -> Result<(u64, bool), String> {
    let page = lab::page::get(&stack.url(CDC_INGEST), "/api/v1/state").await.map_err(|failure| failure.chain())?;
    let state: Value = serde_json::from_str(&page.body).unwrap();
    let of = |table: &&str| state["details"]["snapshot"][format!("business.{table}")].clone();
    let shown: Vec<Value> = TABLES.iter().map(of).collect();
    let rows = shown.iter().map(|table| table["rows"].as_u64()).sum::<Option<u64>>().ok_or("no rows are shown")?;
    Ok((rows, shown.iter().all(|table| table["done"] == true)))
}

#[tokio::test]
async fn copies_that_are_killed_at_any_moment_go_on_at_their_chunks() {
    let mut stack = Stack::new().await;
    let mut tables = Vec::new();
    for name in TABLES {
        let table = CapturedTable::make(&mut stack, name, "mark int, note text").await;
        let sql = format!(
            "INSERT INTO {} SELECT n, 0, repeat('货', 50) FROM generate_series(1, {ROWS_OF_EACH}) n",
            table.table
        );
        run(&mut stack.source().await, &sql).await;
        tables.push(table);
    }
    stack.set(CDC_INGEST, "SNAPSHOT__TABLES_AT_ONCE", 3);
    copy_slowly(&mut stack, CHUNK_ROWS, 100);
    let writer = Writer::start(&stack, |dice| {
        changes_of(&format!("business.{}", TABLES[usize::try_from(dice.below(3)).unwrap()]))(dice)
    })
    .await;
    stack.start(CDC_INGEST);
    let (mut dice, mut killed) = (Dice::new(11), 0);
    let step = TABLES.len() as u64 * ROWS_OF_EACH / (KILLS + 2);
    for kill in 0..KILLS {
        let wanted = kill * step + dice.below(step);
        let done = until(&format!("{wanted} rows are copied"), async || match copied(&stack).await? {
            (rows, done) if rows >= wanted || done => Ok(done),
            (rows, _) => Err(format!("{rows} rows")),
        })
        .await;
        stack.process(CDC_INGEST).kill();
        killed += usize::from(!done);
        stack.process(CDC_INGEST).restart();
    }
    assert!(killed > 1, "the copies were done before the kills: it proves nothing");
    stack.ready().await;
    writer.stop().await;
    for table in &tables {
        table.until_judged_equal(&stack).await;
        let history = table.history(&stack);
        history.assert_nothing_twice();
        let repeated = history.repeated_copies();
        // Two chunks may be on their way, and the record of a third.
        let bound = killed * 3 * usize::try_from(CHUNK_ROWS).unwrap();
        assert!(repeated <= bound, "{repeated} rows of {} were copied more than once", table.table);
    }
    assert_eq!(History::read(&stack.layers(), &stack.places.names.ods_topic).repeated_copies(), 0);
}

#[tokio::test]
async fn a_copy_shows_how_far_it_has_come() {
    let mut stack = Stack::new().await;
    let items = CapturedTable::make(&mut stack, "items", "mark int").await;
    let rows = "INSERT INTO business.items SELECT n, 0 FROM generate_series(1, 20000) n; ANALYZE business.items";
    run(&mut stack.source().await, rows).await;
    copy_slowly(&mut stack, 100, 20);
    take_commands(&mut stack);
    stack.start(CDC_INGEST);
    let is_amid = |shown: &Value| shown["percent"].as_u64().is_some_and(|percent| percent > 1);
    let amid = until_table(&stack, "business.items", "is being copied", is_amid).await;
    let (shown_rows, percent) = (amid["rows"].as_u64().unwrap(), amid["percent"].as_u64().unwrap());
    assert_eq!((&amid["done"], &amid["topic"]), (&false.into(), &items.topic.as_str().into()), "{amid}");
    assert_eq!(percent, shown_rows / 200, "{amid}");
    assert!(amid["rows_a_second"].as_f64().unwrap() > 0.0 && amid["seconds_left"].as_u64().is_some(), "{amid}");

    command(&stack, "snapshot/pause", "business.items").await;
    orders_go_on(&stack).await;
    until("the metrics show what the state shows", async || {
        let paused = until_table(&stack, "business.items", "is paused", |shown| shown["paused"] == true).await;
        let page = get(&stack, CDC_INGEST, "/metrics").await.body;
        let of = |name| metric(&page, name, "table=\"business.items\"");
        let shown = (of("tidemill_snapshot_rows"), of("tidemill_snapshot_percent"));
        if shown == (paused["rows"].as_f64(), paused["percent"].as_f64()) {
            Ok(())
        } else {
            Err(format!("{shown:?}: {paused}"))
        }
    })
    .await;
    command(&stack, "snapshot/resume", "business.items").await;
    let done = until_table(&stack, "business.items", "is copied", |shown| shown["done"] == true).await;
    assert_eq!((&done["rows"], &done["percent"]), (&20_000.into(), &100.into()), "{done}");
    items.until_judged_equal(&stack).await;
    let page = get(&stack, CDC_INGEST, "/metrics").await.body;
    assert_eq!(metric(&page, "tidemill_snapshot_percent", "table=\"business.items\""), Some(100.0));
}

//! Commands by click in a real browser: a copy is paused, dead letters go back in, records are read again, tables are built anew and compared.

use serde_json::Value;

use crate::browser::Browser;
use crate::busy::rows;
use crate::captured_table::CapturedTable;
use crate::capturing::copy_slowly;
use crate::console_page::{assert_nothing_complained, browser_on, type_token};
use crate::database::{run, value};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::table_page::{TOKEN, orders_go_on, table_state, take_commands, until_goes_on, until_table};
use crate::until::until_equal;
use crate::{cleaning, reconciled, replayed};

fn button(command: &str, table: &str) -> String {
    format!("[data-command='{command}'][data-table='{table}']")
}

async fn until_there(browser: &mut Browser, selector: &str) {
    let is_there = format!("document.querySelector(\"{selector}\") !== null");
    browser.until(&format!("{selector} is there"), &is_there).await;
}

async fn click_when_there(browser: &mut Browser, selector: &str) {
    until_there(browser, selector).await;
    browser.click(selector);
}

/// What came of the last command.
async fn until_told(browser: &mut Browser, kind: &str, words: &str) {
    let says = format!("document.querySelector('.note.{kind}')?.innerText.includes(\"{words}\")");
    browser.until(&format!("it says {words:?}"), &says).await;
}

/// The view of commands, with the token in its field.
fn control(browser: &mut Browser, token: &str) {
    type_token(browser, token);
    browser.click("nav a[href='#/control']");
}

#[tokio::test]
async fn a_copy_is_paused_and_goes_on_by_click() {
    const ITEMS: &str = "business.items";
    let mut stack = Stack::new().await;
    CapturedTable::make(&mut stack, "items", "mark int").await;
    run(&mut stack.source().await, "INSERT INTO business.items SELECT n, 0 FROM generate_series(1, 20000) n").await;
    stack.set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 2_000);
    take_commands(&mut stack);
    stack.start(CDC_INGEST);
    stack.ready().await;
    stack.process(CDC_INGEST).kill();
    // From here on a copy takes its time.
    copy_slowly(&mut stack, 20, 10);
    stack.start(CDC_INGEST);
    stack.ready().await;
    let mut browser = browser_on(&stack, CDC_INGEST, 1440);
    until_there(&mut browser, ".stage").await;
    control(&mut browser, TOKEN);
    click_when_there(&mut browser, &button("snapshot", ITEMS)).await;
    click_when_there(&mut browser, &button("snapshot/pause", ITEMS)).await;
    until_told(&mut browser, "good", "snapshot/pause was taken").await;
    until_table(&stack, ITEMS, "is paused", |shown| shown["paused"] == true && shown["done"] == false).await;
    until_there(&mut browser, &button("snapshot/resume", ITEMS)).await;
    browser.picture("copy-paused");
    // What was on its way has come by then.
    orders_go_on(&stack).await;
    let paused = table_state(&stack, ITEMS).await;
    orders_go_on(&stack).await;
    assert_eq!(table_state(&stack, ITEMS).await["rows"], paused["rows"], "it stands still");
    click_when_there(&mut browser, &button("snapshot/resume", ITEMS)).await;
    until_told(&mut browser, "good", "snapshot/resume was taken").await;
    until_goes_on(&stack, ITEMS).await;
    let is_done =
        format!("document.querySelector(\"{}\").closest('tr').innerText.includes('done')", button("snapshot", ITEMS));
    browser.until("the page says that it is done", &is_done).await;
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn dead_letters_go_back_in_by_click() {
    let mut stack = replayed::rejected().await;
    replayed::mend(&mut stack).await;
    let orders = "SELECT count(DISTINCT order_id) FROM result.orders_latest WHERE order_status <> 'PENDING'";
    let mut sink = stack.sink().await;
    assert_eq!(value::<i64>(&mut sink, orders).await, 0, "they were rejected");
    let mut browser = browser_on(&stack, DWD_CLEANER, 1440);
    until_there(&mut browser, ".stage").await;
    control(&mut browser, cleaning::TOKEN);
    click_when_there(&mut browser, "#replay-form button").await;
    until_told(&mut browser, "good", "replay was taken").await;
    // 2001 has a newer version that passed, 2002 was deleted since.
    until_equal("three orders are back", 3, async || value::<i64>(&mut sink, orders).await).await;
    browser.picture("replayed");
    assert_nothing_complained(&browser);
}

const LATEST: &str = "result.orders_latest";

/// A pipeline that compares, and reads a record a second again, with a browser on the page of pg-sinker.
async fn on_the_page_of_the_sink() -> (Stack, Browser) {
    let mut stack = reconciled::prepared(3_600).await;
    for service in [DWD_CLEANER, DIM_JOINER, PG_SINKER] {
        stack.set(service, "HTTP__CONTROL_TOKEN", TOKEN);
    }
    stack.set(PG_SINKER, "BACKFILL__RECORDS_PER_S", 1);
    stack.set(PG_SINKER, "BACKFILL__CHUNK_RECORDS", 1);
    stack.start_all().await;
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    let mut browser = browser_on(&stack, PG_SINKER, 1440);
    browser.until("the page shows four stages", "document.querySelectorAll('.stage').length === 4").await;
    control(&mut browser, TOKEN);
    (stack, browser)
}

/// Waits until a table of the page, by its name, has a row with all of these words.
async fn until_row(browser: &mut Browser, table: &str, words: &[&str]) {
    let has = words.iter().map(|word| format!("row.innerText.includes(\"{word}\")")).collect::<Vec<_>>().join(" && ");
    let there = format!("[...document.querySelectorAll(\"[aria-label='{table}'] tbody tr\")].some(row => {has})");
    browser.until(&format!("{table} has {words:?}"), &there).await;
}

const COMPARED: &str = "Compared with the source";
const AGAIN: &str = "Records that are read again";

#[tokio::test]
async fn what_the_sink_lacks_is_found_and_read_again_by_click() {
    let (stack, mut browser) = on_the_page_of_the_sink().await;
    until_row(&mut browser, COMPARED, &["latest", "equal"]).await;
    run(&mut stack.sink().await, "DELETE FROM result.orders_latest WHERE order_id = 2002").await;
    let compare = "[data-command='reconcile'][data-pair='latest']";
    browser.click(compare);
    until_told(&mut browser, "good", "reconcile was taken").await;
    until_row(&mut browser, COMPARED, &["latest", "differs"]).await;
    until_row(&mut browser, "Rows of latest that differ", &["order_id=2002", "missing in the sink", LATEST]).await;

    browser.click(&button("backfill", LATEST));
    until_told(&mut browser, "good", "backfill was taken").await;
    until_row(&mut browser, AGAIN, &[LATEST, "open"]).await;
    browser.picture("read-again");
    click_when_there(&mut browser, &button("backfill/stop", LATEST)).await;
    until_row(&mut browser, AGAIN, &[LATEST, "stopped"]).await;
    browser.click(&button("backfill", LATEST));
    until_row(&mut browser, AGAIN, &[LATEST, "done", "100 %"]).await;
    browser.click(compare);
    until_row(&mut browser, COMPARED, &["latest", "equal"]).await;
    for (width, scheme) in [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")] {
        browser.resize(width, 900);
        browser.prefer(scheme);
        browser.picture(&format!("sink-{width}-{scheme}"));
        let is_narrow = format!("document.documentElement.scrollWidth <= {width}");
        assert_eq!(browser.value(&is_narrow), Value::Bool(true), "{width}");
    }
    // Every page shows it.
    browser.resize(1440, 900);
    browser.open(&stack.url(CDC_INGEST));
    until_row(&mut browser, COMPARED, &["latest", "equal"]).await;
    until_row(&mut browser, AGAIN, &[LATEST, "done"]).await;
    browser.picture("pipeline-with-sink");
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn a_range_is_read_again_and_a_table_is_built_anew_by_click() {
    const TRAIL: &str = "result.orders_with_user_info";
    let (stack, mut browser) = on_the_page_of_the_sink().await;
    until_there(&mut browser, "#backfill-form").await;
    for (field, text) in [("from", "2002"), ("to", "2002")] {
        browser.click(&format!("#backfill-form [name='{field}']"));
        browser.type_text(text);
    }
    browser.click("#backfill-form button");
    until_told(&mut browser, "good", "backfill was taken").await;
    until_row(&mut browser, AGAIN, &["done"]).await;
    let range: String = value(&mut stack.sink().await, "SELECT span::text FROM tidemill.backfills").await;
    let range: Value = serde_json::from_str(&range).unwrap();
    assert_eq!(range, serde_json::json!({ "from": ["2002"], "to": ["2002"] }));

    browser.click(&button("rebuild", TRAIL));
    until_told(&mut browser, "bad", "does not own it").await;
    let owned = "ALTER TABLE result.orders_with_user_info OWNER TO tidemill_writer; GRANT CREATE ON SCHEMA result TO tidemill_writer;
        ALTER VIEW ads.status_funnel OWNER TO tidemill_writer; ALTER VIEW ads.status_times OWNER TO tidemill_writer; GRANT USAGE, CREATE ON SCHEMA ads TO tidemill_writer";
    run(&mut stack.sink().await, owned).await;
    browser.click(&button("rebuild", TRAIL));
    until_told(&mut browser, "good", "rebuild was taken").await;
    until_row(&mut browser, AGAIN, &[TRAIL, "built anew", "done"]).await;
    assert_eq!(rows(&mut stack.sink().await).await, 5);
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn an_order_is_followed_into_the_sink() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        stack.set(service, "HTTP__CONTROL_TOKEN", TOKEN);
    }
    stack.start_all().await;
    let change = "UPDATE business.orders SET total_amount = 88888888.10 WHERE order_id = 2001";
    run(&mut stack.source().await, change).await;
    let mut sink = stack.sink().await;
    let amount = "SELECT total_amount::text FROM result.orders_latest WHERE order_id = 2001";
    until_equal("the change is in the sink", "88888888.10".to_owned(), async || {
        value::<String>(&mut sink, &format!("SELECT coalesce(({amount}), '')")).await
    })
    .await;
    let mut browser = browser_on(&stack, PG_SINKER, 1440);
    browser.until("the page shows four stages", "document.querySelectorAll('.stage').length === 4").await;
    type_token(&mut browser, TOKEN);
    browser.click("nav a[href='#/follow']");
    click_when_there(&mut browser, "#follow-id").await;
    browser.type_text("2001");
    browser.press("Enter");
    browser.until("both tables have it", "document.querySelectorAll('.sunk pre').length >= 2").await;
    let shown = browser.value("[...document.querySelectorAll('.sunk')].map(card => card.innerText).join()");
    let shown = shown.as_str().unwrap();
    for word in [LATEST, "result.orders_with_user_info", "88888888.10", "price_band"] {
        assert!(shown.contains(word), "{word} is not in: {shown}");
    }
    browser.picture("follow-into-the-sink");
    // Another page leads there.
    browser.open(&format!("{}/#/follow?id=2001", stack.url(DWD_CLEANER)));
    until_there(&mut browser, "#follow-form").await;
    type_token(&mut browser, TOKEN);
    let link = format!(".sunk a[href='{}/#/follow?id=2001']", stack.url(PG_SINKER));
    until_there(&mut browser, &link).await;
    assert_nothing_complained(&browser);
}

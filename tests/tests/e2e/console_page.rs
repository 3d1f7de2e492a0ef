//! The console in a real browser: live figures, an order followed by typing its id, commands by click, phone, dark, keyboard.

use shared::kafka::partitioner::partition;

use crate::browser::Browser;
use crate::busy::rows;
use crate::database::{run, value};
use crate::history::order_key;
use crate::stack::{CDC_INGEST, DWD_CLEANER, SERVICES, Stack};
use crate::table_page::TOKEN;
use crate::topics::{Foreign, write};
use crate::until::{until, until_equal};

const VIEWS: [&str; 5] = ["pipeline", "follow?id=2001", "topics", "control", "settings"];

/// A pipeline at rest whose records may be seen, and a browser on the console of one of its services.
async fn on_the_page_of(service: &str, width: u32) -> (Stack, Browser) {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        stack.set(service, "HTTP__CONTROL_TOKEN", TOKEN);
    }
    stack.start_all().await;
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    let mut browser = browser_on(&stack, service, width);
    browser.until("the page shows four stages", "document.querySelectorAll('.stage').length === 4").await;
    (stack, browser)
}

/// A browser on the page of this service, whatever it shows.
pub fn browser_on(stack: &Stack, service: &str, width: u32) -> Browser {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace("::", "-");
    let mut browser = Browser::start(stack.environment.logs.join(format!("{test}-browser")));
    browser.resize(width, 900);
    browser.open(&stack.url(service));
    browser
}

pub fn type_token(browser: &mut Browser, token: &str) {
    browser.click("#token");
    browser.type_text(token);
    browser.press("Enter");
}

pub fn assert_nothing_complained(browser: &Browser) {
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
}

#[tokio::test]
async fn the_page_shows_the_whole_pipeline_live() {
    let (stack, mut browser) = on_the_page_of(CDC_INGEST, 1440).await;
    browser.until("all is well", "document.getElementById('status').innerText.includes('all is well')").await;
    for title in [
        "Topology",
        "Lag by partition",
        "Copies of tables",
        "Replication slot",
        "Dimensions",
        "Dead letters",
        "Restarts",
    ] {
        // What a service knows only when it has looked comes a moment after it is ready.
        let is_there = format!("document.getElementById('main').innerText.includes('{title}')");
        browser.until(&format!("the page has {title}"), &is_there).await;
    }
    let is_live = "[...document.querySelectorAll('.tile')].some(tile => tile.innerText.startsWith('Changes a second') \
                   && parseFloat(tile.querySelector('dd').innerText) > 0) \
                   && document.querySelectorAll('.flow path.live').length >= 6";
    until("the figures move with the changes", async || {
        run(&mut stack.source().await, "UPDATE business.orders SET quantity = quantity + 1").await;
        if browser.value(is_live) == true { Ok(()) } else { Err(browser.value("document.body.innerText").to_string()) }
    })
    .await;
    browser.picture("pipeline");
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn instances_behind_one_address_are_linked_as_their_service() {
    const DOOR: &str = "http://127.0.0.1:18082";
    let (mut stack, mut browser) = on_the_page_of(CDC_INGEST, 1440).await;
    stack.set(DWD_CLEANER, "CONSOLE__URL", DOOR);
    stack.process(DWD_CLEANER).terminate().await;
    stack.start(DWD_CLEANER);
    stack.start_replica(DWD_CLEANER, "dwd-cleaner-second");
    let links = format!("[...document.querySelectorAll('#main a[href^=\"{DOOR}\"]')].map(a => a.innerText).join()");
    browser.until("each row links to the service", &format!("{links} === 'dwd-cleaner,dwd-cleaner'")).await;
    browser.open(&format!("{}/#/control", stack.url(CDC_INGEST)));
    browser.until("there is one door to its commands", &format!("{links} === 'dwd-cleaner'")).await;
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn an_order_is_followed_by_typing_its_id() {
    let (stack, mut browser) = on_the_page_of(DWD_CLEANER, 1440).await;
    run(&mut stack.source().await, "UPDATE business.orders SET quantity = 77 WHERE order_id = 2001").await;
    let mut sink = stack.sink().await;
    until_equal("the change is in the sink", 77, async || {
        value::<i32>(&mut sink, "SELECT quantity FROM result.orders_latest WHERE order_id = 2001").await
    })
    .await;
    browser.click("nav a[href='#/follow']");
    browser.until("the view is there", "document.getElementById('follow-id') !== null").await;
    browser.click("#follow-id");
    browser.type_text("2001");
    browser.press("Enter");
    browser
        .until("it says that a token is wanted", "document.querySelector('[role=alert]')?.innerText.includes('token')")
        .await;
    type_token(&mut browser, TOKEN);
    browser
        .until("three layers have it", "document.querySelectorAll('.way > li:not(.none) .record').length >= 3")
        .await;
    let words = browser.value("document.getElementById('followed').innerText");
    let words = words.as_str().unwrap();
    for topic in stack.order_topics() {
        assert!(words.contains(topic), "{topic} is not in: {words}");
    }
    for word in ["header tidemill", "commit", "{\"order_id\":2001}", "order_status_desc"] {
        assert!(words.contains(word), "{word} is not in: {words}");
    }
    assert_eq!(
        browser.value("Object.keys(localStorage).length + Object.keys(sessionStorage).length + document.cookie.length"),
        0
    );
    browser.picture("follow");
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn commands_are_given_by_click_and_refused_without_the_token() {
    let (_stack, mut browser) = on_the_page_of(CDC_INGEST, 1440).await;
    browser.click("nav a[href='#/control']");
    let button = "[data-command='snapshot'][data-table='business.orders']";
    browser.until("the button is there", &format!("document.querySelector(\"{button}\") !== null")).await;
    browser.click(button);
    browser.until("it is refused", "document.querySelector('.note.bad')?.innerText.includes('wrong token')").await;
    type_token(&mut browser, TOKEN);
    browser.click(button);
    browser
        .until("it is taken", "document.querySelector('.note.good')?.innerText.includes('snapshot was taken')")
        .await;
    browser.picture("control");
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn what_a_record_holds_is_shown_as_text() {
    let (stack, mut browser) = on_the_page_of(DWD_CLEANER, 1440).await;
    let topic = stack.places.names.ods_topic.clone();
    let key = order_key(2001);
    let value = b"<img src=x onerror=\"document.title='broken into'\"> {\"a\": 12345678901234567890.10}";
    let at = partition(key.as_bytes(), 4);
    write(&stack.places.kafka, &Foreign { topic: &topic, partition: at, key: &key, value: Some(value), header: None });
    type_token(&mut browser, TOKEN);
    browser.click("nav a[href='#/topics']");
    let link = format!("a[href='#/topics?topic={topic}']");
    browser.until("the topic is listed", &format!("document.querySelector(\"td {link}\") !== null")).await;
    browser.click(&format!("td {link}"));
    browser
        .until("the record is shown", "document.getElementById('records')?.innerText.includes('<img src=x onerror')")
        .await;
    assert_eq!(browser.value("document.querySelector('main img') === null && document.title === 'Tidemill'"), true);
    browser.picture("topics");
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn no_view_is_wider_than_a_phone_and_dark_is_dark() {
    let (_stack, mut browser) = on_the_page_of(CDC_INGEST, 390).await;
    type_token(&mut browser, TOKEN);
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        for view in VIEWS {
            browser.value(&format!("location.hash = '#/{view}'"));
            let name = view.split('?').next().unwrap();
            browser
                .until(
                    &format!("{view} is there"),
                    &format!("document.querySelector(\"nav a[aria-current]\")?.hash === '#/{name}'"),
                )
                .await;
            browser
                .until(&format!("{view} is drawn"), "!document.getElementById('main').innerText.includes('Look')")
                .await;
            browser.picture(&format!("phone-{scheme}-{name}"));
            let width = browser.value("document.documentElement.scrollWidth");
            assert!(width.as_u64().unwrap() <= 390, "{view} is {width} pixels wide");
        }
        let brightness =
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)";
        let brightness = browser.value(brightness).as_u64().unwrap();
        assert_eq!(brightness < 384, scheme == "dark", "{scheme}: {brightness}");
    }
    assert_nothing_complained(&browser);
}

#[tokio::test]
async fn all_of_it_can_be_reached_by_keyboard_and_has_a_name() {
    let (_stack, mut browser) = on_the_page_of(CDC_INGEST, 1440).await;
    for _ in 0..40 {
        browser.press("Tab");
        if browser.value("document.activeElement.hash === '#/topics'") == true {
            break;
        }
    }
    assert_eq!(browser.value("document.activeElement.hash"), "#/topics");
    assert_ne!(browser.value("getComputedStyle(document.activeElement).outlineStyle"), "none", "the focus is seen");
    browser.press("Enter");
    browser.until("the view is there", "document.querySelector('h2')?.innerText === 'Topics'").await;
    for view in VIEWS {
        browser.value(&format!("location.hash = '#/{view}'"));
        let name = view.split('?').next().unwrap();
        browser
            .until(
                &format!("{view} is there"),
                &format!("document.querySelector(\"nav a[aria-current]\")?.hash === '#/{name}'"),
            )
            .await;
        let nameless: Vec<_> = browser
            .spoken()
            .into_iter()
            .filter(|(role, name)| {
                ["button", "link", "textbox", "combobox", "region", "progressbar"].contains(&role.as_str())
                    && name.is_empty()
            })
            .collect();
        assert!(nameless.is_empty(), "{view}: {nameless:?}");
    }
    assert_nothing_complained(&browser);
}

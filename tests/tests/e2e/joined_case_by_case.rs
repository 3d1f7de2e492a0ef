//! The table of docs/joining.md on the real pipeline: each mode in one run, with an order and users of its own for each case.
//!
//! ```text
//!  ods_orders ──▶ dwd-cleaner ──▶ dwd_orders ──────▶ dim-joiner ──▶ result
//!  ods_users ───▶ dwd-cleaner (users) ──▶ dwd_users ────┘
//! ```
//!
//! Both cleaners stand still while the source is changed. The one that goes on first says which topic is read first.

use std::collections::BTreeMap;

use lab::layers::LayerRecord;
use sqlx::postgres::PgConnection;

use crate::cleaned_users::{USERS_CLEANER, start_with_clean_users};
use crate::cleaning::config;
use crate::database::{run, value};
use crate::history::{History, assert_nothing_twice, header};
use crate::repeats::{dropped, send_again};
use crate::service_page::{get, sum};
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, Stack};
use crate::until::{until, until_equal};

const PAGE: &str = include_str!("../../../docs/joining.md");

/// When something happens in a case. Of each of the first four the topics are read to their end before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// The users' topic is read first, then that of the orders.
    UsersFirst,
    /// The orders' topic is read first, as in the two behind it.
    OrdersFirst,
    Soon,
    Later,
    /// While dim-joiner is down. It comes back with a short wait.
    Away,
    /// When what waited has gone out.
    AfterTheWait,
}

use When::{AfterTheWait, Away, Later, OrdersFirst, Soon, UsersFirst};

/// The order of a case and its users.
#[derive(Clone, Copy)]
struct Ids {
    order: i64,
    user: i64,
    other: i64,
}

/// Waits end with the restart, and not before.
const LONG_WAIT_MS: u32 = 600_000;
const SHORT_WAIT_MS: u32 = 200;

const NOW: &str = "clock_timestamp() AT TIME ZONE 'UTC'";

impl Ids {
    fn of(case: usize) -> Self {
        let number = i64::try_from(case).unwrap();
        Ids { order: 3001 + number, user: 4001 + number, other: 5001 + number }
    }

    fn placed_by(self, user: &str, status: &str, time: &str) -> String {
        let columns = "order_id, user_id, product_name, quantity, unit_price, total_amount, order_status, order_time";
        format!(
            "INSERT INTO business.orders ({columns}) VALUES ({}, {user}, '书', 1, 1, 1, '{status}', {time})",
            self.order
        )
    }

    fn placed(self) -> String {
        self.placed_by(&self.user.to_string(), "PENDING", NOW)
    }

    fn placed_again(self) -> String {
        self.placed_by(&self.user.to_string(), "PAID", NOW)
    }

    fn paid(self) -> String {
        format!("UPDATE business.orders SET order_status = 'PAID' WHERE order_id = {}", self.order)
    }

    fn moved(self) -> String {
        let (order, other) = (self.order, self.other);
        format!("UPDATE business.orders SET user_id = {other}, order_status = 'PAID' WHERE order_id = {order}")
    }

    fn order_gone(self) -> String {
        format!("DELETE FROM business.orders WHERE order_id = {}", self.order)
    }

    fn user(self) -> String {
        made(self.user, "北京")
    }

    fn user_again_in(self, city: &str) -> String {
        made(self.user, city)
    }

    fn other_user(self, city: &str) -> String {
        made(self.other, city)
    }

    fn user_in(self, city: &str) -> String {
        format!("UPDATE business.users SET city = '{city}' WHERE user_id = {}", self.user)
    }

    fn user_seen(self) -> String {
        format!("UPDATE business.users SET updated_at = updated_at + interval '1 hour' WHERE user_id = {}", self.user)
    }

    fn user_gone(self) -> String {
        format!("DELETE FROM business.users WHERE user_id = {}", self.user)
    }

    fn both(self) -> String {
        format!("BEGIN; {}; {}; COMMIT", self.placed(), self.user())
    }
}

fn made(user: i64, city: &str) -> String {
    format!("INSERT INTO business.users (user_id, username, city) VALUES ({user}, '用户', '{city}')")
}

type Steps = Vec<(When, String)>;

struct Case {
    name: &'static str,
    steps: fn(Ids) -> Steps,
}

fn case(name: &'static str, steps: fn(Ids) -> Steps) -> Case {
    Case { name, steps }
}

/// What happens in each case of the table, in its order.
fn cases() -> Vec<Case> {
    vec![
        case("the user is there, then the order", |c| vec![(UsersFirst, c.user()), (OrdersFirst, c.placed())]),
        case("the order comes first, the user soon after", |c| vec![(OrdersFirst, c.placed()), (Soon, c.user())]),
        case("the order comes first, the user after the wait", |c| {
            vec![(OrdersFirst, c.placed()), (AfterTheWait, c.user())]
        }),
        case("the user never comes", |c| vec![(OrdersFirst, c.placed())]),
        case("the user changes after the order was made", |c| {
            vec![(UsersFirst, c.user()), (OrdersFirst, c.placed()), (Soon, c.user_in("杭州"))]
        }),
        case("the user changed before the order was made, and that is heard of behind the order", |c| {
            // An order's time has milliseconds, a commit's microseconds.
            let later = format!("{NOW} + interval '1 second'");
            let placed = c.placed_by(&c.user.to_string(), "PENDING", &later);
            vec![(UsersFirst, c.user()), (OrdersFirst, c.user_in("杭州")), (OrdersFirst, placed)]
        }),
        case("the user is changed twice before it is sent again", |c| {
            let placed = [(UsersFirst, c.user()), (OrdersFirst, c.placed())];
            placed.into_iter().chain([(Away, c.user_in("杭州")), (Away, c.user_in("武汉"))]).collect()
        }),
        case("the user changes in a column that the join does not take", |c| {
            vec![(UsersFirst, c.user()), (OrdersFirst, c.placed()), (Soon, c.user_seen())]
        }),
        case("the user is deleted after the order was made", |c| {
            vec![(UsersFirst, c.user()), (OrdersFirst, c.placed()), (Soon, c.user_gone())]
        }),
        case("the user is deleted after the order was made, and made again in 杭州", |c| {
            let placed = [(UsersFirst, c.user()), (OrdersFirst, c.placed())];
            placed.into_iter().chain([(Soon, c.user_gone()), (Later, c.user_again_in("杭州"))]).collect()
        }),
        case("the user was deleted before the order was made", |c| {
            vec![(UsersFirst, c.user()), (UsersFirst, c.user_gone()), (OrdersFirst, c.placed())]
        }),
        case("the order moves to another user; then the first user changes", |c| {
            let users = [(UsersFirst, c.user()), (UsersFirst, c.other_user("上海"))];
            users
                .into_iter()
                .chain([(OrdersFirst, c.placed()), (Soon, c.moved()), (Later, c.user_in("杭州"))])
                .collect()
        }),
        case("the order moves to a user that is not known, who comes soon after", |c| {
            let placed = [(UsersFirst, c.user()), (OrdersFirst, c.placed())];
            placed.into_iter().chain([(Soon, c.moved()), (Later, c.other_user("成都"))]).collect()
        }),
        case("the order is deleted; then the user changes", |c| {
            let placed = [(UsersFirst, c.user()), (OrdersFirst, c.placed())];
            placed.into_iter().chain([(Soon, c.order_gone()), (Later, c.user_in("杭州"))]).collect()
        }),
        case("the order is deleted, and placed again", |c| {
            let placed = [(UsersFirst, c.user()), (OrdersFirst, c.placed())];
            placed.into_iter().chain([(Soon, c.order_gone()), (Later, c.placed_again())]).collect()
        }),
        case("order and user in one transaction, the order's topic is read first", |c| vec![(OrdersFirst, c.both())]),
        case("order and user in one transaction, the user's topic is read first", |c| vec![(UsersFirst, c.both())]),
        case("the order changes while it waits for the user", |c| {
            vec![(OrdersFirst, c.placed()), (Soon, c.paid()), (Later, c.user())]
        }),
        // In the end all records of all cases come a second time.
        case("every record comes a second time", |c| {
            vec![(UsersFirst, c.user()), (OrdersFirst, c.placed()), (Soon, c.user_in("杭州"))]
        }),
        case("an order without a time; then the user changes", |c| {
            let placed = c.placed_by(&c.user.to_string(), "PENDING", "NULL");
            vec![(UsersFirst, c.user()), (OrdersFirst, placed), (Soon, c.user_in("杭州"))]
        }),
        case("an order without a user", |c| vec![(OrdersFirst, c.placed_by("NULL", "PENDING", NOW))]),
    ]
}

/// The order of the case of this name.
fn order_of(name: &str) -> i64 {
    Ids::of(cases().iter().position(|case| case.name == name).unwrap()).order
}

/// The column of the table for a mode: what is sent for the order of each case.
fn wanted(mode: &str) -> BTreeMap<i64, &'static str> {
    let row = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let mut lines = PAGE.lines().skip_while(|line| !line.starts_with("| case | latest |"));
    let column = row(lines.next().unwrap()).iter().position(|name| *name == mode).unwrap();
    let rows: Vec<_> = lines.skip(1).take_while(|line| line.starts_with('|')).map(row).collect();
    let named: Vec<_> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(named, cases().iter().map(|case| case.name).collect::<Vec<_>>());
    rows.iter().enumerate().map(|(case, row)| (Ids::of(case).order, row[column])).collect()
}

/// What was sent for an order, in the words of the table.
fn words(records: &[LayerRecord]) -> String {
    let (mut words, mut last) = (String::new(), None);
    for record in records {
        let version = header(record).version;
        words += match last.replace(version) {
            None => "",
            Some(last) if last == version => " → ",
            Some(_) => " ; ",
        };
        let row: Option<serde_json::Value> = record.value.as_ref().map(|row| serde_json::from_str(row).unwrap());
        let shown = row.as_ref().map_or("gone", |row| match row["username"].as_str() {
            Some("用户") => row["city"].as_str().unwrap(),
            Some("Unknown User") if row["city"].is_null() => "Unknown",
            other => panic!("{other:?} in {row}"),
        });
        words += shown;
    }
    words
}

/// What the sink must have of it: the latest state, and of each status what was sent last.
fn at_the_sink(words: &str) -> (&str, String) {
    let versions: Vec<&str> =
        words.split(" ; ").map(|version| version.rsplit(" → ").next().unwrap_or_default()).collect();
    let trail: Vec<&str> = versions.iter().copied().filter(|shown| *shown != "gone").collect();
    (versions.last().copied().unwrap_or_default(), trail.join(" ; "))
}

/// dim-joiner with the documented settings, its users from the topic of the clean ones.
fn configure(stack: &mut Stack, clean: &str, mode: &str, wait_ms: u32) {
    let changes = [
        ("topic = \"ods_users\"", format!("topic = \"{clean}\"")),
        ("\nmode = \"latest\"", format!("\nmode = \"{mode}\"")),
        ("\nwait_ms = 5000 ", format!("\nwait_ms = {wait_ms} ")),
    ];
    let text = changes.iter().fold(config("dim-joiner.toml"), |text, (before, after)| {
        assert_eq!(text.matches(before).count(), 1, "{before}");
        text.replace(before, after)
    });
    stack.configure(DIM_JOINER, &text);
}

async fn until_captured(stack: &Stack, source: &mut PgConnection) {
    let written: String = value(source, "SELECT pg_current_wal_lsn()::text").await;
    let passed = format!(
        "SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots WHERE slot_name = '{}'",
        stack.name
    );
    until(&format!("all up to {written} is in the topics"), async || {
        if value(source, &passed).await { Ok(()) } else { Err("it is not".to_owned()) }
    })
    .await;
}

fn records(stack: &Stack, topic: &str) -> i64 {
    stack.layers().end(topic).unwrap().iter().map(|(_, end)| end).sum()
}

/// Waits until dim-joiner, which began with the topics, has taken in all that the cleaner of this topic came by.
async fn until_read(stack: &Stack, captured: &str, cleaned: &str) {
    let labels = format!("table=\"{cleaned}\"");
    until(&format!("dim-joiner has read {cleaned}"), async || {
        let (all, page) = (records(stack, captured), get(stack, DIM_JOINER, "/metrics").await.body);
        match sum(&page, "tidemill_records_in_total", &labels) {
            read if read == all as f64 => Ok(()),
            read => Err(format!("{read} of {all}")),
        }
    })
    .await;
}

/// A run of all cases in one mode.
struct Run {
    stack: Stack,
    source: PgConnection,
    clean: String,
}

impl Run {
    async fn begin(mode: &str) -> Self {
        let mut stack = Stack::new().await;
        stack.set(CDC_INGEST, "SLOT__STATUS_INTERVAL_MS", 50);
        let mut source = stack.source().await;
        let nullable = "ALTER TABLE business.orders ALTER user_id DROP NOT NULL, ALTER order_time DROP NOT NULL";
        run(&mut source, nullable).await;
        let clean =
            start_with_clean_users(&mut stack, |stack, clean| configure(stack, clean, mode, LONG_WAIT_MS)).await;
        Run { stack, source, clean }
    }

    async fn change(&mut self, when: When) {
        for (number, case) in cases().iter().enumerate() {
            for (_, sql) in (case.steps)(Ids::of(number)).iter().filter(|(at, _)| *at == when) {
                run(&mut self.source, sql).await;
            }
        }
        until_captured(&self.stack, &mut self.source).await;
    }

    /// Changes the source, and has one topic read, then the other.
    async fn change_and_read(&mut self, when: When) {
        let (orders, users) = (self.stack.places.names.ods_topic.clone(), self.stack.users_topic());
        let clean_orders = self.stack.places.names.dwd_topic.clone();
        let of_orders = (DWD_CLEANER, orders, clean_orders);
        let of_users = (USERS_CLEANER, users, self.clean.clone());
        let in_turn = if when == UsersFirst { [of_users, of_orders] } else { [of_orders, of_users] };
        for (cleaner, captured, clean) in &in_turn {
            until_read(&self.stack, captured, clean).await;
            self.stack.process(cleaner).freeze();
        }
        self.change(when).await;
        for (cleaner, captured, clean) in &in_turn {
            self.stack.process(cleaner).thaw();
            until_read(&self.stack, captured, clean).await;
        }
    }

    /// The users change while nobody joins; then waits are short.
    async fn restart(&mut self, mode: &str) {
        self.stack.process(DIM_JOINER).kill();
        self.change(Away).await;
        let users = self.stack.users_topic();
        until_equal("clean users", records(&self.stack, &users), async || records(&self.stack, &self.clean)).await;
        configure(&mut self.stack, &self.clean, mode, SHORT_WAIT_MS);
        self.stack.start(DIM_JOINER);
        self.stack.ready().await;
    }

    fn history(&self) -> History {
        History::read(&self.stack.layers(), &self.stack.places.names.result_topic)
    }

    async fn until_sent(&self, wanted: &BTreeMap<i64, &str>) {
        until("every case is as in the table", async || {
            let history = self.history();
            let differs = |(order, wanted): (&i64, &&str)| {
                let found = words(history.of_order(*order));
                (found != *wanted).then(|| format!("order {order}: {found}, not {wanted}"))
            };
            let differing: Vec<String> = wanted.iter().filter_map(differs).collect();
            if differing.is_empty() { Ok(()) } else { Err(differing.join("\n")) }
        })
        .await;
    }

    async fn until_at_the_sink(&self, wanted: &BTreeMap<i64, &str>) {
        let mut sink = self.stack.sink().await;
        for (order, words) in wanted {
            let (latest, trail) = at_the_sink(words);
            let shown = "CASE WHEN username = 'Unknown User' THEN 'Unknown' ELSE city END";
            let sql = format!(
                "SELECT concat_ws(' / ', coalesce((SELECT {shown} FROM result.orders_latest WHERE order_id = {order}), 'gone'),
                    (SELECT string_agg({shown}, ' ; ' ORDER BY order_status DESC) FROM result.orders_with_user_info WHERE order_id = {order}))"
            );
            let what = format!("order {order}: {words}");
            until_equal(&what, format!("{latest} / {trail}"), async || value(&mut sink, &sql).await).await;
        }
    }

    /// Writes all records of both topics once more: nothing is sent for any.
    async fn send_all_again(&self) {
        let (result, orders) = (&self.stack.places.names.result_topic, &self.stack.places.names.dwd_topic);
        let (before, sent) = (dropped(&self.stack, DIM_JOINER).await, records(&self.stack, result));
        let again = send_again(&self.stack, orders) + send_again(&self.stack, &self.clean);
        let wanted = before + again as f64;
        until_equal("repeats are dropped", wanted, async || dropped(&self.stack, DIM_JOINER).await).await;
        assert_eq!(records(&self.stack, result), sent, "nothing is sent for them");
    }
}

async fn run_all_cases_in(mode: &str) {
    let wanted = wanted(mode);
    let mut run = Run::begin(mode).await;
    for when in [UsersFirst, OrdersFirst, Soon, Later] {
        run.change_and_read(when).await;
    }
    run.restart(mode).await;
    let late = order_of("the order comes first, the user after the wait");
    until("the wait is over", async || {
        let found = words(run.history().of_order(late));
        if found == "Unknown" { Ok(()) } else { Err(found) }
    })
    .await;
    run.change(AfterTheWait).await;
    run.until_sent(&wanted).await;
    run.until_at_the_sink(&wanted).await;
    assert_nothing_twice(&run.stack);
    run.send_all_again().await;
    run.until_sent(&wanted).await;
}

#[tokio::test]
async fn latest_every_case_of_the_table_is_so() {
    run_all_cases_in("latest").await;
}

#[tokio::test]
async fn as_of_every_case_of_the_table_is_so() {
    run_all_cases_in("as-of").await;
}

#[tokio::test]
async fn wait_every_case_of_the_table_is_so() {
    run_all_cases_in("wait").await;
}

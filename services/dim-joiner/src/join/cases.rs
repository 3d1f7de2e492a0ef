//! The table of docs/joining.md, case by case.

use super::tests::{NOW, Output, Topic, in_city, joiner_with, order_key};
use super::*;
use crate::settings::Mode;

const GUIDE: &str = include_str!("../../../../docs/joining.md");

/// Commit times are the versions; an order is made at the time that it names.
#[derive(Clone)]
enum Step {
    /// An order of a user.
    Order {
        version: u64,
        user: Option<u32>,
        made_us: Option<u32>,
    },
    OrderGone {
        version: u64,
    },
    User {
        version: u64,
        user: u32,
        city: &'static str,
    },
    /// A column changes that the join does not take.
    UserSeen {
        version: u64,
        user: u32,
        city: &'static str,
    },
    UserGone {
        version: u64,
        user: u32,
    },
    /// So many milliseconds pass, and what is due goes out.
    Pass(u64),
}

use Step::{Order, OrderGone, Pass, User, UserGone, UserSeen};

const WAIT_MS: u64 = 100;
const SOON: Step = Pass(WAIT_MS / 2);
const LATER: Step = Pass(2 * WAIT_MS);

fn order(version: u64, user: u32) -> Step {
    Order { version, user: Some(user), made_us: Some(25) }
}

fn user(version: u64, city: &'static str) -> Step {
    User { version, user: 1, city }
}

/// What happens in each case of the table, in its order.
fn cases() -> Vec<(&'static str, Vec<Step>)> {
    let changed = [user(1, "北京"), order(2, 1), SOON, user(30, "杭州"), SOON];
    vec![
        ("the user is there, then the order", vec![user(1, "北京"), order(2, 1), LATER]),
        ("the order comes first, the user soon after", vec![order(1, 1), SOON, user(2, "北京"), LATER]),
        ("the order comes first, the user after the wait", vec![order(1, 1), LATER, user(2, "北京"), LATER]),
        ("the user never comes", vec![order(1, 1), LATER]),
        ("the user changes after the order was made", vec![user(1, "北京"), order(2, 1), SOON, user(30, "杭州"), SOON]),
        (
            "the user changed before the order was made, and that is heard of behind the order",
            vec![user(1, "北京"), order(26, 1), SOON, user(20, "杭州"), SOON],
        ),
        (
            "the user is changed twice before it is sent again",
            vec![user(1, "北京"), order(2, 1), SOON, user(30, "杭州"), user(31, "武汉"), SOON],
        ),
        (
            "the user changes in a column that the join does not take",
            vec![user(1, "北京"), order(2, 1), UserSeen { version: 30, user: 1, city: "北京" }, SOON],
        ),
        (
            "the user is deleted after the order was made",
            vec![user(1, "北京"), order(2, 1), UserGone { version: 30, user: 1 }, SOON],
        ),
        (
            "the user is deleted after the order was made, and made again in 杭州",
            vec![user(1, "北京"), order(2, 1), UserGone { version: 30, user: 1 }, SOON, user(31, "杭州"), SOON],
        ),
        (
            "the user was deleted before the order was made",
            vec![user(1, "北京"), UserGone { version: 20, user: 1 }, order(26, 1), SOON],
        ),
        (
            "the order moves to another user; then the first user changes",
            vec![
                user(1, "北京"),
                User { version: 2, user: 2, city: "上海" },
                order(3, 1),
                order(4, 2),
                user(30, "杭州"),
                SOON,
            ],
        ),
        (
            "the order moves to a user that is not known, who comes soon after",
            vec![user(1, "北京"), order(2, 1), order(3, 2), SOON, User { version: 4, user: 2, city: "成都" }, LATER],
        ),
        (
            "the order is deleted; then the user changes",
            vec![user(1, "北京"), order(2, 1), OrderGone { version: 3 }, user(4, "杭州"), LATER],
        ),
        (
            "the order is deleted, and placed again",
            vec![user(1, "北京"), order(2, 1), OrderGone { version: 3 }, order(4, 1), LATER],
        ),
        (
            "order and user in one transaction, the order's topic is read first",
            vec![order(7, 1), user(7, "北京"), LATER],
        ),
        (
            "order and user in one transaction, the user's topic is read first",
            vec![user(7, "北京"), order(7, 1), LATER],
        ),
        ("the order changes while it waits for the user", vec![order(1, 1), order(2, 1), SOON, user(3, "北京"), LATER]),
        ("every record comes a second time", [changed.clone(), changed].concat()),
        (
            "an order without a time; then the user changes",
            vec![user(1, "北京"), Order { version: 2, user: Some(1), made_us: None }, SOON, user(30, "杭州"), SOON],
        ),
        ("an order without a user", vec![Order { version: 1, user: None, made_us: Some(25) }, LATER]),
    ]
}

/// The rows of the table: the case, and what each mode sends.
fn table() -> Vec<(&'static str, [&'static str; 3])> {
    let rows = GUIDE.lines().skip_while(|line| !line.starts_with("| case | latest | as-of | wait |")).skip(2);
    let cells =
        rows.take_while(|line| line.starts_with('|')).map(|line| line.trim_matches('|').split('|').map(str::trim));
    cells
        .map(|cells| match cells.collect::<Vec<_>>()[..] {
            [case, latest, as_of, wait] => (case, [latest, as_of, wait]),
            ref other => panic!("{other:?}"),
        })
        .collect()
}

/// What is sent for the order, in the words of the table.
fn sent(mode: Mode, steps: &[Step]) -> String {
    let mut joiner = joiner_with(|settings| {
        (settings.dimensions[0].mode, settings.dimensions[0].wait_ms) = (mode, WAIT_MS);
    });
    let (mut output, mut steady_ms) = (Output::default(), 0);
    for (offset, step) in steps.iter().enumerate() {
        let (topic, now) = (Topic::from(offset as i64), Now { steady_ms, ..NOW });
        let orders = |topic: Topic, joiner: &mut Joiner| joiner.take_facts(&topic.batch, now).unwrap();
        let users = |topic: Topic, joiner: &mut Joiner| joiner.take_rows(0, &topic.batch, now).unwrap();
        let key_of = |user: &u32| format!("{{\"user_id\":{user}}}");
        let out = match step {
            Order { version, user, made_us } => {
                let user = user.map_or("null".to_owned(), |user| user.to_string());
                let made = made_us.map_or("null".to_owned(), |us| format!("\"1970-01-01 00:00:00.{us:06}\""));
                let row = format!("{{\"order_id\":1,\"user_id\":{user},\"order_time\":{made}}}");
                orders(topic.put(*version, &order_key(1), Some(&row)), &mut joiner)
            }
            OrderGone { version } => orders(topic.put(*version, &order_key(1), None), &mut joiner),
            User { version, user, city } => {
                users(topic.put(*version, &key_of(user), Some(&in_city(city))), &mut joiner)
            }
            UserSeen { version, user, city } => {
                let row = in_city(city).replace("{\"user_id\"", "{\"seen\":1,\"user_id\"");
                users(topic.put(*version, &key_of(user), Some(&row)), &mut joiner)
            }
            UserGone { version, user } => users(topic.put(*version, &key_of(user), None), &mut joiner),
            Pass(milliseconds) => {
                steady_ms += milliseconds;
                output.take(&joiner.end_waits(Now { steady_ms, ..NOW }).unwrap());
                joiner.reemit(Now { steady_ms, ..NOW }).unwrap()
            }
        };
        output.take(&out);
    }
    output.assert_versions_grow();
    in_words(&output)
}

fn in_words(output: &Output) -> String {
    let mut words = String::new();
    let mut last = None;
    for ((_, row, _), version) in output.records.iter().zip(&output.versions[&order_key(1)]) {
        let between = match last.replace(version.fact) {
            None => "",
            Some(last) if last == version.fact => " → ",
            Some(_) => " ; ",
        };
        let row: Option<serde_json::Value> = row.as_ref().map(|row| serde_json::from_str(row).unwrap());
        let shown = row.as_ref().map_or("gone", |row| row["city"].as_str().unwrap_or("Unknown"));
        words = words + between + shown;
    }
    words
}

#[test]
fn every_case_of_the_table_is_so() {
    let (table, cases) = (table(), cases());
    assert_eq!(
        table.iter().map(|(case, _)| *case).collect::<Vec<_>>(),
        cases.iter().map(|(case, _)| *case).collect::<Vec<_>>()
    );
    for ((case, wanted), (_, steps)) in table.iter().zip(&cases) {
        for (mode, wanted) in [Mode::Latest, Mode::AsOf, Mode::Wait].into_iter().zip(wanted) {
            assert_eq!(sent(mode, steps), *wanted, "{mode:?}: {case}");
        }
    }
}

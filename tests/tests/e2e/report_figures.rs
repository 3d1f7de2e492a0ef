//! The report's figures, on paper and on the page, are what SQL over the tables says.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lab::paper::Paper;
use lab::report;
use sqlx::postgres::PgConnection;

use crate::browser::Browser;
use crate::busy::{load, make_users_known};
use crate::database::{run, value};
use crate::stack::Stack;
use crate::until::until_equal;
use crate::whole_sink::until_sink_is_the_source;

/// Paper that can be read.
#[derive(Clone, Default)]
struct Sheet(Arc<Mutex<Vec<u8>>>);

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const SOLD: &str = "result.orders_latest WHERE order_status NOT IN ('CANCELLED', 'REFUNDED')";

/// Headings of the report, and the rows that must stand below them: values with | between, from the tables and not from the views.
fn wanted() -> Vec<(&'static str, String)> {
    let sales = |group: &str| {
        format!(
            "SELECT concat_ws('|', coalesce({group}, '–'), count(*), sum(quantity), to_char(sum(total_amount), 'FM999,999,999,990.00'),
                to_char(round(sum(total_amount) / count(*), 2), 'FM999,999,999,990.00')) FROM {SOLD} GROUP BY {group}"
        )
    };
    vec![
        ("Sales by city tier", sales("user_city_tier")),
        ("Sales by city", sales("city")),
        ("Sales by category", sales("product_category_normalized")),
        ("Sales by price band", sales("price_band")),
        (
            "Sales by day",
            format!(
                "SELECT concat_ws('|', order_time::date, count(*), sum(quantity), to_char(sum(total_amount), 'FM999,999,999,990.00'))
                 FROM {SOLD} GROUP BY order_time::date"
            ),
        ),
        (
            "Sales by hour of day",
            format!(
                "SELECT concat_ws('|', to_char(order_time, 'HH24'), count(*), sum(quantity), to_char(sum(total_amount), 'FM999,999,999,990.00'))
                 FROM {SOLD} GROUP BY to_char(order_time, 'HH24')"
            ),
        ),
        (
            "Status funnel",
            "WITH every AS (SELECT count(DISTINCT order_id) AS orders FROM result.orders_with_user_info),
                present AS (SELECT order_status, count(*) AS orders, sum(total_amount) AS amount FROM result.orders_latest GROUP BY order_status)
             SELECT concat_ws('|', order_status, count(*), round(100.0 * count(*) / min(every.orders), 2), coalesce(min(present.orders), 0),
                to_char(coalesce(min(present.amount), 0), 'FM999,999,999,990.00'))
             FROM result.orders_with_user_info LEFT JOIN present USING (order_status) CROSS JOIN every GROUP BY order_status"
                .into(),
        ),
        (
            "Times between statuses",
            "WITH steps AS (SELECT order_status, lead(order_status) OVER (PARTITION BY order_id ORDER BY record_version) AS next
                FROM result.orders_with_user_info)
             SELECT concat_ws('|', order_status || ' → ' || next, count(*)) FROM steps WHERE next IS NOT NULL GROUP BY order_status, next"
                .into(),
        ),
        (
            "Top products",
            format!(
                "(SELECT concat_ws('|', product_name, product_category_normalized, count(*), sum(quantity),
                    to_char(sum(total_amount), 'FM999,999,999,990.00'))
                 FROM {SOLD} GROUP BY product_name, product_category_normalized ORDER BY sum(total_amount) DESC LIMIT 1)"
            ),
        ),
        (
            "Top users",
            format!(
                "(SELECT concat_ws('|', username || ' (' || user_id || ')', city, count(*), sum(quantity),
                    to_char(sum(total_amount), 'FM999,999,999,990.00'))
                 FROM {SOLD} GROUP BY user_id, username, city ORDER BY sum(total_amount) DESC LIMIT 1)"
            ),
        ),
    ]
}

async fn rows(sink: &mut PgConnection, sql: &str) -> Vec<Vec<String>> {
    let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(sink).await.unwrap();
    rows.iter().map(|row| row.split('|').map(str::to_owned).collect()).collect()
}

/// The lines of the paper below a heading.
fn below<'t>(text: &'t str, heading: &str) -> Vec<&'t str> {
    let mut lines = text.lines().skip_while(|line| *line != heading);
    lines.next().unwrap_or_else(|| panic!("no heading {heading:?} in {text}"));
    lines.take_while(|line| !line.is_empty()).collect()
}

/// The rows of the page's table under a heading.
fn page_rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = page.split_once(&format!("<h2>{heading}</h2>")).unwrap_or_else(|| panic!("no {heading:?}"));
    let (_, body) = rest.split_once("<tbody>").unwrap();
    let (body, _) = body.split_once("</tbody>").unwrap();
    let cell = |text: &str| text.split_once('>').map(|(_, rest)| rest.split("</td").next().unwrap().to_owned());
    body.split("<tr>").skip(1).map(|row| row.split("<td").skip(1).filter_map(cell).collect()).collect()
}

#[tokio::test]
async fn figures_on_paper_and_on_the_page_are_those_of_the_tables() {
    let stack = Stack::started().await;
    make_users_known(&stack).await;
    load(&stack.places, 300, 0).await;
    let mut source = stack.source().await;
    run(&mut source, "UPDATE business.orders SET order_status = 'CANCELLED' WHERE order_id % 7 = 0").await;
    run(&mut source, "UPDATE business.orders SET user_id = 99999 WHERE order_id % 11 = 0").await;
    until_sink_is_the_source(&stack).await;
    let mut sink = stack.sink().await;
    let complete = "SELECT count(*) FROM tidemill.rollups WHERE is_complete";
    until_equal("the roll-ups are complete", 3, async || value::<i64>(&mut sink, complete).await).await;

    let sheet = Sheet::default();
    let file = stack.environment.logs.join(format!("{}-report.html", stack.name));
    report::run(&stack.places, Some(&file), &mut Paper::plain(sheet.clone())).await.unwrap();
    let text = String::from_utf8(sheet.0.lock().unwrap().clone()).unwrap();
    let page = std::fs::read_to_string(&file).unwrap();
    eprintln!("{text}");
    for (heading, sql) in wanted() {
        let wanted = rows(&mut sink, &sql).await;
        assert!(!wanted.is_empty(), "{heading}");
        let (lines, on_page) = (below(&text, heading), page_rows(&page, heading));
        for row in &wanted {
            assert!(on_page.iter().any(|found| found.starts_with(row)), "{heading}: {row:?} is not in {on_page:#?}");
            let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let row = words(&row.join(" "));
            assert!(lines.iter().any(|line| words(line).starts_with(&row)), "{heading}: {row:?} is not in {lines:#?}");
        }
    }
    let sales = format!("SELECT '¥' || to_char(sum(total_amount), 'FM999,999,999,990.00') FROM {SOLD}");
    let unknown =
        "SELECT count(*) || ' (' || round(100.0 * count(*) / (SELECT count(*) FROM result.orders_latest), 2) || ' %)'
        FROM result.orders_latest WHERE username = 'Unknown User'";
    for sql in [sales.as_str(), unknown] {
        let wanted: String = value(&mut sink, sql).await;
        assert!(text.contains(&wanted) && page.contains(&format!("<dd>{wanted}</dd>")), "{wanted} is not in {text}");
    }
    let orders = "SELECT to_char(count(*), 'FM999,999,990') FROM result.orders_latest";
    let orders: String = value(&mut sink, orders).await;
    assert!(page.contains(&format!("<dd>{orders}</dd>")), "{orders} orders");
    assert!(!text.contains("still being filled"));
    looks_right(&stack, &file).await;
}

/// In a window of a desk, on a phone and on paper nothing is wider than the page, and every plot is within it.
async fn looks_right(stack: &Stack, page: &Path) {
    let mut browser = Browser::start(stack.environment.logs.join(format!("{}-report-browser", stack.name)));
    browser.open(&format!("file://{}", page.display()));
    for (name, width, media) in [("desk", 1280, "screen"), ("phone", 390, "screen"), ("paper", 794, "print")] {
        browser.resize(width, 900);
        browser.emulate_media(media);
        browser.until("the page is there", "document.querySelectorAll('section svg').length > 0").await;
        let wide = browser.value("document.documentElement.scrollWidth");
        assert!(wide.as_u64().is_some_and(|wide| wide <= u64::from(width)), "{name}: {wide} wide");
        let outside = browser.value(
            "[...document.querySelectorAll('svg')].map(plot => plot.getBoundingClientRect())
                .filter(box => box.width > 0 && (box.left < 0 || box.right > document.documentElement.clientWidth + 1)).length",
        );
        let shown = browser.value(
            "[...document.querySelectorAll('svg')].filter(plot => plot.getBoundingClientRect().width > 0).length",
        );
        assert!(outside == 0 && shown.as_u64() >= Some(5), "{name}: {outside} of {shown} plots are cut off");
        browser.picture(name);
    }
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

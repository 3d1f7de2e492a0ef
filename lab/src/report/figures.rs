//! The figures, read in one transaction: all of them are of one moment.

use shared::failure::Failure;
use shared::pg::refused;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};

use super::words::{grouped, lasting};

/// All that the report says.
#[derive(Debug)]
pub struct Report {
    /// When it was read, UTC.
    pub at: String,
    pub tiles: Vec<Tile>,
    /// What makes the figures less than whole.
    pub warnings: Vec<String>,
    pub sections: Vec<Section>,
}

/// A figure by itself.
#[derive(Debug)]
pub struct Tile {
    pub name: &'static str,
    pub value: String,
}

/// A table, and perhaps a plot of it.
#[derive(Debug)]
pub struct Section {
    pub title: &'static str,
    pub note: &'static str,
    pub headings: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
    pub plot: Option<Plot>,
}

/// What of a section is plotted: its first column against another one.
#[derive(Debug, Clone, Copy)]
pub struct Plot {
    pub kind: Kind,
    pub value: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Lying bars with their names beside them.
    Bars,
    /// Standing columns over time.
    Columns,
}

/// How the values of a column are shown.
#[derive(Debug, Clone, Copy)]
enum Shown {
    Text,
    Number,
    Seconds,
}

/// Where the rows of a section come from. All columns are text.
struct Source {
    title: &'static str,
    note: &'static str,
    sql: &'static str,
    headings: &'static [&'static str],
    shown: &'static [Shown],
    plot: Option<Plot>,
}

use Shown::{Number, Seconds, Text};

const fn bars(value: usize) -> Option<Plot> {
    Some(Plot { kind: Kind::Bars, value })
}

const fn columns(value: usize) -> Option<Plot> {
    Some(Plot { kind: Kind::Columns, value })
}

const SALES: &[&str] = &["", "orders", "quantity", "amount ¥", "average ¥", "share %"];
const SALES_SHOWN: &[Shown] = &[Text, Number, Number, Number, Number, Number];

/// In the order of the report.
const SOURCES: [Source; 10] = [
    Source {
        title: "Sales by day",
        note: "the last 30 days with a sale",
        sql: "SELECT to_char(day, 'YYYY-MM-DD'), orders::text, quantity::text, amount::text FROM (SELECT * FROM ads.sales_by_day \
              WHERE isfinite(day) ORDER BY day DESC LIMIT 30) AS last ORDER BY day",
        headings: &["day", "orders", "quantity", "amount ¥"],
        shown: &[Text, Number, Number, Number],
        plot: columns(3),
    },
    Source {
        title: "Sales by hour of day",
        note: "by the time of the order, all days",
        sql: "SELECT to_char(hour_of_day, 'FM00'), orders::text, quantity::text, amount::text FROM ads.sales_by_hour_of_day",
        headings: &["hour", "orders", "quantity", "amount ¥"],
        shown: &[Text, Number, Number, Number],
        plot: columns(3),
    },
    Source {
        title: "Sales by city tier",
        note: "",
        sql: "SELECT coalesce(user_city_tier, '–'), orders::text, quantity::text, amount::text, average_amount::text, amount_share::text \
              FROM ads.sales_by_city_tier",
        headings: SALES,
        shown: SALES_SHOWN,
        plot: bars(3),
    },
    Source {
        title: "Sales by city",
        note: "the first 15",
        sql: "SELECT coalesce(city, '–'), orders::text, quantity::text, amount::text, average_amount::text, amount_share::text \
              FROM ads.sales_by_city LIMIT 15",
        headings: SALES,
        shown: SALES_SHOWN,
        plot: bars(3),
    },
    Source {
        title: "Sales by category",
        note: "",
        sql: "SELECT coalesce(product_category_normalized, '–'), orders::text, quantity::text, amount::text, average_amount::text, \
              amount_share::text FROM ads.sales_by_category",
        headings: SALES,
        shown: SALES_SHOWN,
        plot: bars(3),
    },
    Source {
        title: "Sales by price band",
        note: "of the price of a piece",
        sql: "SELECT coalesce(price_band, '–'), orders::text, quantity::text, amount::text, average_amount::text, amount_share::text \
              FROM ads.sales_by_price_band",
        headings: SALES,
        shown: SALES_SHOWN,
        plot: bars(3),
    },
    Source {
        title: "Status funnel",
        note: "orders that came to a status, and those that are in it now",
        sql: "SELECT order_status, reached::text, reached_share::text, present::text, present_amount::text FROM ads.status_funnel",
        headings: &["status", "reached", "share %", "now", "amount ¥"],
        shown: &[Text, Number, Number, Number, Number],
        plot: bars(1),
    },
    Source {
        title: "Times between statuses",
        note: "from the last change in the one to the last change in the other",
        sql: "SELECT from_status || ' → ' || to_status, orders::text, extract(epoch FROM median)::numeric::text, \
              extract(epoch FROM nine_in_ten)::numeric::text, extract(epoch FROM average)::numeric::text FROM ads.status_times LIMIT 15",
        headings: &["step", "orders", "median", "9 in 10 within", "average"],
        shown: &[Text, Number, Seconds, Seconds, Seconds],
        plot: None,
    },
    Source {
        title: "Top products",
        note: "by amount",
        sql: "SELECT product_name, coalesce(product_category_normalized, '–'), orders::text, quantity::text, amount::text \
              FROM ads.top_products LIMIT 10",
        headings: &["product", "category", "orders", "quantity", "amount ¥"],
        shown: &[Text, Text, Number, Number, Number],
        plot: bars(4),
    },
    Source {
        title: "Top users",
        note: "by amount",
        sql: "SELECT coalesce(username, '–') || ' (' || coalesce(user_id::text, '–') || ')', coalesce(city, '–'), orders::text, quantity::text, \
              amount::text FROM ads.top_users LIMIT 10",
        headings: &["user", "city", "orders", "quantity", "amount ¥"],
        shown: &[Text, Text, Number, Number, Number],
        plot: bars(4),
    },
];

/// The figures by themselves, and whether the roll-ups are complete.
const SUMMARY: &str = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS at, \
     (SELECT coalesce(sum(amount), 0)::text FROM ads.sales) AS amount, \
     (SELECT coalesce(sum(orders), 0)::text FROM ads.sales) AS sold, \
     (SELECT coalesce(round(sum(amount) / nullif(sum(orders), 0), 2), 0)::text FROM ads.sales) AS average, \
     u.orders::text AS orders, u.unknown_orders::text AS unknown, u.unknown_share::text AS unknown_share, \
     extract(epoch FROM now() - f.last_batch_at)::numeric::text AS age, \
     extract(epoch FROM f.delayed_p50)::numeric::text AS p50, extract(epoch FROM f.delayed_p99)::numeric::text AS p99, \
     f.rollups_are_complete::text AS complete FROM ads.unknown_users u, ads.freshness f";

fn unreadable(error: sqlx::Error) -> Failure {
    refused("the views of ads cannot be read (postgres_sink/init/05_ads.sql makes them)", error)
}

impl Report {
    pub async fn read(connection: &mut PgConnection) -> Result<Self, Failure> {
        let begun = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        let mut moment = begun.map_err(unreadable)?;
        let summary = sqlx::query(SUMMARY).fetch_one(&mut *moment).await.map_err(unreadable)?;
        let mut sections = Vec::with_capacity(SOURCES.len());
        for source in &SOURCES {
            let rows = sqlx::query(source.sql).fetch_all(&mut *moment).await.map_err(unreadable)?;
            sections.push(source.section(&rows).map_err(unreadable)?);
        }
        moment.rollback().await.map_err(unreadable)?;
        Report::of(&summary, sections).map_err(unreadable)
    }

    fn of(summary: &PgRow, sections: Vec<Section>) -> sqlx::Result<Self> {
        let text = |name: &str| summary.try_get::<Option<String>, _>(name).map(Option::unwrap_or_default);
        let or_none = |text: String| if text.is_empty() { "–".to_owned() } else { lasting(&text) };
        let tiles = vec![
            Tile { name: "sales", value: format!("¥{}", grouped(&text("amount")?)) },
            Tile { name: "orders sold", value: grouped(&text("sold")?) },
            Tile { name: "average order", value: format!("¥{}", grouped(&text("average")?)) },
            Tile { name: "orders in all", value: grouped(&text("orders")?) },
            Tile {
                name: "of unknown users",
                value: format!("{} ({} %)", grouped(&text("unknown")?), text("unknown_share")?),
            },
            Tile { name: "last batch", value: format!("{} ago", or_none(text("age")?)) },
            Tile {
                name: "commit to sink, median / 99 %",
                value: format!("{} / {}", or_none(text("p50")?), or_none(text("p99")?)),
            },
        ];
        let mut warnings = Vec::new();
        if text("complete")? != "true" {
            warnings.push("a roll-up is still being filled: sales are not whole yet".to_owned());
        }
        Ok(Report { at: format!("{} UTC", text("at")?), tiles, warnings, sections })
    }
}

impl Source {
    fn section(&self, rows: &[PgRow]) -> sqlx::Result<Section> {
        let cell = |row: &PgRow, (at, shown): (usize, &Shown)| -> sqlx::Result<String> {
            let text: Option<String> = row.try_get(at)?;
            Ok(match (text, shown) {
                (None, _) => "–".to_owned(),
                (Some(text), Text) => text,
                (Some(text), Number) => grouped(&text),
                (Some(text), Seconds) => lasting(&text),
            })
        };
        let rows = rows.iter().map(|row| self.shown.iter().enumerate().map(|column| cell(row, column)).collect());
        Ok(Section {
            title: self.title,
            note: self.note,
            headings: self.headings,
            rows: rows.collect::<sqlx::Result<_>>()?,
            plot: self.plot,
        })
    }
}

impl Section {
    /// Numbers of the plotted column; only lengths are made from them.
    pub fn values(&self) -> Option<Vec<f64>> {
        let plot = self.plot?;
        let number = |row: &Vec<String>| row.get(plot.value).and_then(|text| text.replace(',', "").parse().ok());
        Some(self.rows.iter().map(|row| number(row).unwrap_or(0.0)).collect())
    }

    /// The plotted column as shares of its greatest value; nothing below zero is drawn.
    pub fn shares(&self) -> Option<Vec<f64>> {
        let values = self.values()?;
        let most = values.iter().copied().fold(0.0, f64::max);
        let share = |value: f64| if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
        Some(values.into_iter().map(share).collect())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn example(kind: Kind, rows: &[(&str, &str)]) -> Section {
        let rows = rows.iter().map(|&(name, value)| vec![name.to_owned(), value.to_owned()]).collect();
        Section {
            title: "Sales",
            note: "of a test",
            headings: &["", "amount"],
            rows,
            plot: Some(Plot { kind, value: 1 }),
        }
    }

    #[test]
    fn lengths_are_shares_of_the_longest() {
        let section = example(Kind::Bars, &[("a", "2,000.00"), ("b", "500"), ("c", "-1"), ("d", "–")]);
        assert_eq!(section.shares().unwrap(), [1.0, 0.25, 0.0, 0.0]);
        assert_eq!(example(Kind::Bars, &[("a", "0")]).shares().unwrap(), [0.0]);
        assert!(Section { plot: None, ..section }.shares().is_none());
    }

    #[test]
    fn every_column_has_a_heading_and_a_form() {
        for source in &SOURCES {
            assert_eq!(source.headings.len(), source.shown.len(), "{}", source.title);
            assert!(source.plot.is_none_or(|plot| plot.value < source.shown.len()), "{}", source.title);
        }
    }
}

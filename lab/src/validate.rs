//! The real-time validation: an order of our own goes through the running pipeline, and every layer is looked into.

mod hops;
mod layer_records;
mod surroundings;

use std::time::Duration;

use shared::failure::Failure;
use shared::record::time;
use sqlx::postgres::PgConnection;

use self::layer_records::LayerRecords;
use crate::changes::{self, LIFE_MS, Order, STATUSES};
use crate::compare::{Part, compare, until_equal};
use crate::layers::{Layers, Mark};
use crate::paper::Paper;
use crate::places::Places;
use crate::resources;
use crate::sightings::{self, Sighting};
use crate::slot;
use crate::table::Table;

/// Steps with ✓ or ✗, and what went wrong so far.
struct Steps<'a> {
    paper: &'a mut Paper,
    wrong: Vec<String>,
}

impl Steps<'_> {
    fn check(&mut self, ok: bool, text: impl Into<String>) {
        let text = text.into();
        self.paper.check(ok, &text);
        if !ok {
            self.wrong.push(text);
        }
    }
}

/// What is open to the pipeline while it is validated.
struct Session<'a> {
    places: &'a Places,
    source: PgConnection,
    sink: PgConnection,
    layers: Layers,
    /// Where the three topics ended before the order.
    before: [Mark; 3],
}

/// A status of the order and when it was seen in the sink.
struct Seen {
    status: &'static str,
    sighting: Sighting,
}

/// The command. `timeout` is for each status of the order.
pub async fn run(places: &Places, timeout: Duration, paper: &mut Paper) -> Result<bool, Failure> {
    let mut steps = Steps { paper, wrong: Vec::new() };
    steps.paper.headline("1. Environment (环境检查)");
    if let Some(mut session) = surroundings::check(places, &mut steps).await {
        steps.paper.headline("2. Rows that are there (现有数据)");
        existing_rows(&mut session, timeout, &mut steps).await?;
        if steps.wrong.is_empty() {
            try_order(&mut session, timeout, &mut steps).await?;
        }
    }
    let Steps { paper, wrong } = steps;
    match wrong.first() {
        None => paper.verdict(true, "🎉 实时验证测试通过！ (real-time validation passed)"),
        Some(first) => {
            let count = wrong.len();
            paper.verdict(false, format!("实时验证测试失败 (validation failed): ✗ {count}, the first: {first}"));
        }
    }
    Ok(wrong.is_empty())
}

async fn existing_rows(session: &mut Session<'_>, timeout: Duration, steps: &mut Steps<'_>) -> Result<(), Failure> {
    let names = &session.places.names;
    let begin = std::time::Instant::now();
    loop {
        let orders = sightings::count(&mut session.source, &names.orders).await?;
        let latest = sightings::count(&mut session.sink, &names.latest).await?;
        if orders == latest || begin.elapsed() >= timeout {
            let trail = sightings::count(&mut session.sink, &names.trail).await?;
            steps.check(orders == latest, format!("{orders} orders in the source, {latest} in {}", names.latest));
            steps.check(trail >= latest, format!("{trail} rows in the trail {}", names.trail));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn try_order(session: &mut Session<'_>, timeout: Duration, steps: &mut Steps<'_>) -> Result<(), Failure> {
    let names = &session.places.names;
    let order_id = changes::fresh_order_id(&mut session.source, &mut session.sink, names).await?;
    let user_id = changes::first_user_id(&mut session.source, names).await?.unwrap_or(1001);
    steps.paper.headline(format!("3. Order {order_id} of user {user_id} (测试订单): {}", STATUSES.join(" → ")));
    let seen = run_through(session, order_id, user_id, timeout, steps).await?;
    let records = LayerRecords::read(session, order_id)?;
    if seen.len() < STATUSES.len() {
        records.tell(names, steps);
        return Ok(());
    }
    steps.paper.headline("4. Each layer (各层数据)");
    records.check(names, steps);
    steps.paper.headline("5. The sink (结果验证)");
    check_sink(session, order_id, timeout, steps).await?;
    steps.paper.headline("6. Latencies (端到端延迟)");
    hops::report(&records, &seen, steps);
    steps.paper.headline("7. Report (测试报告)");
    report(session, &seen, steps).await
}

/// Places the order and moves it on as soon as each status is seen in the sink.
async fn run_through(
    session: &mut Session<'_>,
    order_id: i64,
    user_id: i64,
    timeout: Duration,
    steps: &mut Steps<'_>,
) -> Result<Vec<Seen>, Failure> {
    let names = &session.places.names;
    let order = Order {
        order_id,
        user_id,
        product_name: "实时验证 iPhone 15 Pro".into(),
        product_category: "电子产品",
        quantity: 2,
        unit_price_cents: 899_900,
        order_time_ms: time::now().as_millisecond() - LIFE_MS,
    };
    let mut seen = Vec::new();
    for (step, status) in STATUSES.into_iter().enumerate() {
        changes::step(&mut session.source, names, std::slice::from_ref(&order), step).await?;
        let answered_us = time::now().as_microsecond();
        let found = sightings::wait_for_status(&mut session.sink, &names.trail, order_id, status, timeout).await?;
        let Some(sighting) = found else {
            steps.check(false, format!("{status} is not in the sink after {} s", timeout.as_secs()));
            return Ok(seen);
        };
        let after_ms = (sighting.seen_us - answered_us) as f64 / 1000.0;
        steps.check(true, format!("{status}: seen in the sink {after_ms:.1} ms after the answer to COMMIT"));
        seen.push(Seen { status, sighting });
    }
    Ok(seen)
}

async fn check_sink(
    session: &mut Session<'_>,
    order_id: i64,
    timeout: Duration,
    steps: &mut Steps<'_>,
) -> Result<(), Failure> {
    let names = &session.places.names;
    let one = order_id..=order_id;
    let (source, sink) = (&mut session.source, &mut session.sink);
    let rows = sightings::now(sink, &names.trail, &[order_id], None).await?.len();
    steps.check(rows == STATUSES.len(), format!("{rows} rows in the trail, one for each status"));
    let completed = sightings::now(sink, &names.latest, &[order_id], STATUSES.last().copied()).await?.len();
    steps.check(completed == 1, format!("{} shows the order as COMPLETED", names.latest));
    let trail = compare(source, sink, names, Part::TrailOfLife, one.clone()).await?;
    trail.write("trail against the source, value by value", steps.paper);
    let latest = until_equal(source, sink, names, Part::Latest, one, timeout).await?;
    latest.write("latest against the source, value by value", steps.paper);
    if !(trail.is_equal() && latest.is_equal()) {
        steps.wrong.push("values in the sink differ from the source".into());
    }
    Ok(())
}

async fn report(session: &mut Session<'_>, seen: &[Seen], steps: &mut Steps<'_>) -> Result<(), Failure> {
    let names = &session.places.names;
    let orders = sightings::count(&mut session.source, &names.orders).await?;
    let trail = sightings::count(&mut session.sink, &names.trail).await?;
    steps.paper.line(format!("  orders in the source {orders}, rows in the trail {trail}, {} of them new", seen.len()));
    if let Some(slot) = slot::look(&mut session.source, &names.slot).await? {
        steps
            .paper
            .line(format!("  slot {}: {} bytes not confirmed, WAL {}", names.slot, slot.lag_bytes, slot.wal_status));
    }
    let usages = resources::of_services(session.places);
    if usages.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["service", "processes", "resident MB", "CPU s"]);
    for usage in &usages {
        let (memory, cpu) = (format!("{:.1}", usage.resident_megabytes), format!("{:.2}", usage.cpu_seconds));
        table.row(&[usage.name.to_owned(), usage.processes.to_string(), memory, cpu]);
    }
    let total: f64 = usages.iter().map(|usage| usage.resident_megabytes).sum();
    steps.paper.table(&table);
    steps.paper.line(format!("  all services together: {total:.1} MB"));
    Ok(())
}

//! Reconciliation: pg-sinker compares two large tables, equal ones, and with a few rows that differ. Nobody writes to them, or the pipeline does.
//!
//! ```text
//!  fill ──▶ business.orders · result.orders_latest ──▶ pg-sinker reconcile ──▶ seconds, processor time of both servers' processes
//!  changes ─────▲══ pipeline (four services) ══▲   with --rate
//! ```

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use shared::failure::{Failure, FailureKind};
use shared::pg::{PostgresConfig, refused};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::bench::child::{Child, Program, variable};
use crate::bench::questions::until_count;
use crate::bench::recovery::pipeline::Pipeline;
use crate::bench::report::Report;
use crate::paper::Paper;
use crate::places::Places;
use crate::processes::{Stat, load_average};
use crate::table::Table;

/// How much is compared.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    rows: u32,
    /// Rows that differ in the second half of the rounds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    differing: u32,
    /// How often it is done, with equal tables and with others
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Of the time so much, in percent, the source works at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100))]
    load_percent: u8,
    /// Orders that change in a second meanwhile, through the pipeline; 0: nobody writes, and there is no pipeline
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    rate: u32,
    /// Folder of the four services
    #[arg(long)]
    programs: PathBuf,
    /// Folder for what it says
    #[arg(long)]
    logs: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    processors: usize,
    rows: u32,
    load_percent: u8,
    /// Changes a second meanwhile.
    rate: u32,
    rounds: Vec<Round>,
}

/// One comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    differing: u32,
    /// Of the whole process.
    seconds: f64,
    rows_a_second: f64,
    /// Of the server's process that answered.
    source_cpu_seconds: f64,
    sink_cpu_seconds: f64,
    /// It found exactly the rows that differ.
    right: bool,
    load_average: Option<f64>,
}

/// Time between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

async fn run_sql(connection: &mut PgConnection, sql: &str) -> Result<(), Failure> {
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    done.map(|_| ()).map_err(|error| refused("the tables cannot be filled", error))
}

/// The same orders on both sides, as the pipeline would have written them; or at the source alone, where it writes them.
async fn fill(places: &Places, rows: u32, is_copied: bool) -> Result<(), Failure> {
    let orders = format!(
        "SELECT n AS order_id, n % 1000 AS user_id, 'product ' || n AS product_name, '电子产品' AS product_category, \
                n % 9 + 1 AS quantity, (n % 100000) / 100.0 AS unit_price, (n % 100000) * (n % 9 + 1) / 100.0 AS total_amount, \
                (ARRAY['PENDING', 'PAID', 'SHIPPED'])[n % 3 + 1] AS order_status, \
                timestamp '2025-07-11 17:25:55.145' + n * interval '1 second' AS order_time, \
                timestamp '2025-07-12 08:00:00.5' + n * interval '1 second' AS updated_at FROM generate_series(1, {rows}) n"
    );
    let columns = "order_id, user_id, product_name, product_category, quantity, unit_price, total_amount, order_status, order_time, updated_at";
    let mut source = places.source.connect("tidemill-lab").await?;
    run_sql(&mut source, "TRUNCATE business.orders").await?;
    run_sql(&mut source, &format!("INSERT INTO business.orders ({columns}) {orders}")).await?;
    run_sql(&mut source, "VACUUM ANALYZE business.orders").await?;
    if is_copied {
        return Ok(());
    }
    let mut sink = places.sink.connect("tidemill-lab").await?;
    run_sql(&mut sink, "TRUNCATE result.orders_latest").await?;
    let into = format!(
        "INSERT INTO result.orders_latest ({columns}, username, city, processed_time, record_version) \
         SELECT o.*, '张三', '北京', now(), decode(repeat('00', 40), 'hex') FROM ({orders}) o"
    );
    run_sql(&mut sink, &into).await?;
    run_sql(&mut sink, "VACUUM ANALYZE result.orders_latest").await
}

/// Rows far from each other: changed and missing.
async fn spoil(places: &Places, plan: &Plan) -> Result<(), Failure> {
    let mut sink = places.sink.connect("tidemill-lab").await?;
    let step = plan.rows / plan.differing;
    for number in 0..plan.differing {
        let id = number * step + 1;
        let sql = match number % 3 {
            0 => format!("UPDATE result.orders_latest SET total_amount = total_amount + 0.01 WHERE order_id = {id}"),
            1 => format!("DELETE FROM result.orders_latest WHERE order_id = {id}"),
            _ => format!("UPDATE result.orders_latest SET product_name = NULL WHERE order_id = {id}"),
        };
        run_sql(&mut sink, &sql).await?;
    }
    Ok(())
}

/// Measures equal tables first.
pub async fn measure(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Outcome, Failure> {
    progress.line(format!("  filling {} rows", plan.rows));
    fill(places, plan.rows, plan.rate > 0).await?;
    let (mut rounds, mut pipeline, mut changes) = (Vec::new(), None, None);
    if plan.rate > 0 {
        pipeline = Some(copied(places, plan, progress).await?);
        changes = Some(tokio::spawn(change(places.clone(), plan.clone())));
    }
    for differing in [0, plan.differing] {
        if differing > 0 {
            spoil(places, plan).await?;
        }
        for _ in 0..plan.rounds {
            let round = round(places, plan, differing).await?;
            progress.line(format!("  {differing} rows differ: {:.1} s", round.seconds));
            rounds.push(round);
        }
    }
    if let Some(changes) = changes {
        // It runs for as long as nothing is wrong with it.
        if changes.is_finished() {
            changes.await.map_err(|error| Failure::new(FailureKind::Broken, "the changes").caused_by(error))??;
        } else {
            changes.abort();
        }
    }
    if let Some(mut pipeline) = pipeline {
        pipeline.stop().await?;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Outcome { processors, rows: plan.rows, load_percent: plan.load_percent, rate: plan.rate, rounds })
}

/// The pipeline, when it has copied all of them.
async fn copied(places: &Places, plan: &Plan, progress: &mut Paper) -> Result<Pipeline, Failure> {
    let mut pipeline = Pipeline::start(places, &plan.programs, &plan.logs)?;
    pipeline.ready().await?;
    progress.line("  the pipeline copies them");
    let mut sink = places.sink.connect("tidemill-lab").await?;
    let there = "SELECT count(*) FROM result.orders_latest";
    until_count(&mut sink, there, i64::from(plan.rows), Duration::from_secs(2)).await?;
    run_sql(&mut sink, "VACUUM ANALYZE result.orders_latest").await?;
    Ok(pipeline)
}

/// Orders here and there change, each when it is due.
async fn change(places: Places, plan: Plan) -> Result<(), Failure> {
    /// Far from one change to the next, and no divisor of the rows.
    const STRIDE: u32 = 7_919;
    let mut source = places.source.connect("tidemill-lab").await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / plan.rate.max(1));
    let mut order = 0;
    loop {
        ticks.tick().await;
        order = (order + STRIDE) % plan.rows;
        let sql = format!(
            "UPDATE business.orders SET updated_at = now(), order_status = 'SHIPPED' WHERE order_id = {}",
            order + 1
        );
        run_sql(&mut source, &sql).await?;
    }
}

async fn round(places: &Places, plan: &Plan, differing: u32) -> Result<Round, Failure> {
    let (mut source, mut sink) = (Backend::new(&places.source).await?, Backend::new(&places.sink).await?);
    let (child, mut out) = Child::start_piped(Program {
        path: &plan.programs.join("pg-sinker"),
        arguments: vec!["reconcile".into(), "--json".into()],
        variables: variables(places, plan),
        log: plan.logs.join("reconcile.log"),
    })?;
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    while !child.has_ended() {
        source.look().await?;
        sink.look().await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let seconds = child.started.elapsed().as_secs_f64();
    let text = read.join().ok().and_then(Result::ok).unwrap_or_default();
    let reports: Value =
        serde_json::from_str(&text).map_err(|error| child.failure("did not answer in JSON").caused_by(error))?;
    let found = reports.pointer("/0/differences").and_then(Value::as_array).map(Vec::len);
    Ok(Round {
        differing,
        seconds,
        rows_a_second: f64::from(plan.rows) / seconds,
        source_cpu_seconds: source.cpu_seconds,
        sink_cpu_seconds: sink.cpu_seconds,
        right: found == usize::try_from(differing).ok(),
        load_average: load_average(),
    })
}

fn variables(places: &Places, plan: &Plan) -> Vec<(String, String)> {
    let (source, sink) = (&places.source, &places.sink);
    // Nothing runs that could be waited for, where nobody writes.
    let slot = if plan.rate > 0 { "tidemill" } else { "" };
    let settings = [
        ("reconcile.source.host", source.host.clone()),
        ("reconcile.source.port", source.port.to_string()),
        ("reconcile.source.database", source.database.clone()),
        ("reconcile.load_percent", plan.load_percent.to_string()),
        ("reconcile.chain.slot", slot.to_owned()),
        ("kafka.brokers", places.kafka.brokers.clone()),
        ("sink.host", sink.host.clone()),
        ("sink.port", sink.port.to_string()),
        ("sink.database", sink.database.clone()),
    ];
    settings.into_iter().map(|(key, value)| (variable("pg-sinker", key), value)).collect()
}

/// The process of a server that answers pg-sinker.
struct Backend {
    connection: PgConnection,
    process: Option<u32>,
    cpu_seconds: f64,
}

impl Backend {
    async fn new(server: &PostgresConfig) -> Result<Self, Failure> {
        Ok(Backend { connection: server.connect("tidemill-lab").await?, process: None, cpu_seconds: 0.0 })
    }

    async fn look(&mut self) -> Result<(), Failure> {
        if self.process.is_none() {
            let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg-sinker reconcile'";
            let found: Option<i32> =
                sqlx::query_scalar(sql).fetch_optional(&mut self.connection).await.map_err(|error| {
                    Failure::new(FailureKind::Refused, "the server's processes cannot be listed").caused_by(error)
                })?;
            self.process = found.map(i32::unsigned_abs);
        }
        if let Some(stat) = self.process.and_then(Stat::of) {
            self.cpu_seconds = self.cpu_seconds.max(stat.cpu_seconds);
        }
        Ok(())
    }
}

impl Report for Outcome {
    fn is_good(&self) -> bool {
        self.rounds.iter().all(|round| round.right)
    }

    fn write(&self, paper: &mut Paper) {
        let Outcome { processors, rows, load_percent, rate, .. } = self;
        paper.headline(format!(
            "reconciliation of {rows} rows, {rate} changes a second meanwhile, load_percent {load_percent} ({processors} processors)"
        ));
        let mut table =
            Table::new(&["rows differ", "seconds", "rows/s", "source CPU s", "sink CPU s", "right", "load"]);
        for round in &self.rounds {
            table.row(&[
                round.differing.to_string(),
                format!("{:.2}", round.seconds),
                format!("{:.0}", round.rows_a_second),
                format!("{:.2}", round.source_cpu_seconds),
                format!("{:.2}", round.sink_cpu_seconds),
                if round.right { "yes" } else { "NO" }.to_owned(),
                format!("{:.1}", round.load_average.unwrap_or_default()),
            ]);
        }
        paper.table(&table);
        for line in LEGEND {
            paper.note(line);
        }
        paper.check(self.is_good(), "each comparison found exactly the rows that differ");
    }
}

const LEGEND: [&str; 2] = [
    "  The whole process, from its start to its end. CPU s: the server's process that answered it. Ten columns are compared. Where",
    "  nobody writes there is no pipeline to wait for.",
];

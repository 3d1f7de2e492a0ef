//! pg-sinker from the topic of the results into its tables, against what one connection can write of the same rows.
//!
//! ```text
//!  results ──▶ raw (this process: rows in memory, one statement for a batch) ──▶ result.bench_raw
//!     ├──────▶ pg-sinker, one table ──▶ result.bench_plain
//!     ├──────▶ pg-sinker, its default tables ──▶ trail, latest
//!     └──────▶ pg-sinker, these and two roll-ups ──▶ trail, latest, dws.orders_by_minute, dws.orders_by_hour
//! ```
//!
//! At the end one row after the other, into one table: how long each takes until it is seen.

mod raw;
mod seen;

use shared::failure::{Failure, FailureKind};
use shared::pg::refused;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use self::raw::Raw;
use crate::bench::calm;
use crate::bench::child::{Child, Program, variable};
use crate::bench::handover;
use crate::bench::hop::{Course, Figures, Hop, Results, Run, ServiceVariant, Through, stop, watch};
use crate::bench::variant::Variant;
use crate::layers::{LayerRecord, Layers, Mark};
use crate::percentiles::Summary;
use crate::ports::free_port;

const SERVICE: &str = "pg-sinker";
/// Tables of the benchmark, made like the trail.
const RAW: &str = "result.bench_raw";
const PLAIN: &str = "result.bench_plain";

/// Who writes the rows.
#[derive(Debug, Clone)]
enum Writer {
    Raw,
    Plain(Variant),
    Tables(Variant),
    Rollups(Variant),
}

impl Writer {
    fn title(&self) -> String {
        match self {
            Writer::Raw => "raw upsert".to_owned(),
            Writer::Plain(variant) => format!("{}, one table", variant.title(SERVICE)),
            Writer::Tables(variant) => format!("{}, trail and latest", variant.title(SERVICE)),
            Writer::Rollups(variant) => format!("{}, trail, latest, two roll-ups", variant.title(SERVICE)),
        }
    }

    /// The file of settings that says what is written; `None`: this process writes.
    fn settings(&self) -> Option<(&Variant, String)> {
        match self {
            Writer::Raw => None,
            Writer::Plain(variant) => {
                let key = "[\"order_id\", \"order_status\"]";
                Some((variant, format!("[tables.plain]\ntable = \"{PLAIN}\"\nkey = {key}\n")))
            }
            Writer::Tables(variant) => Some((variant, "[rollups]\n".to_owned())),
            Writer::Rollups(variant) => Some((variant, rollups())),
        }
    }

    /// Counts what was written.
    fn count(&self) -> String {
        match self {
            Writer::Raw => format!("SELECT count(*) FROM {RAW}"),
            Writer::Plain(_) => format!("SELECT count(*) FROM {PLAIN}"),
            Writer::Tables(_) => "SELECT count(*) FROM result.orders_latest".to_owned(),
            Writer::Rollups(_) => "SELECT coalesce(sum(orders), 0)::bigint FROM dws.orders_by_hour".to_owned(),
        }
    }
}

/// Two of the default roll-ups, those that count no different values.
fn rollups() -> String {
    let groups = [
        ("minute", "[\"product_category_normalized\", \"order_status\"]"),
        ("hour", "[\"city\", \"user_city_tier\", \"product_category_normalized\", \"price_band\", \"order_status\"]"),
    ];
    let rollup = |(grain, groups): (&str, &str)| {
        format!(
            "[rollups.by_{grain}]\ntable = \"dws.orders_by_{grain}\"\nof = \"result.orders_latest\"\ntime = \"order_time\"\n\
             grain = \"{grain}\"\ngroups = {groups}\ncount = \"orders\"\n\
             sums = {{ amount = \"total_amount\", quantity = \"quantity\" }}\n"
        )
    };
    groups.map(rollup).concat()
}

/// What the writers have in common.
struct Session<'s, 'c> {
    course: &'s mut Course<'c>,
    sink: PgConnection,
    raw: Raw,
    /// The rows that are written: from here to the end of the topic.
    from: Mark,
    end: Mark,
    rows: u64,
    /// One of them.
    last: Option<LayerRecord>,
}

/// Rounds in which each writes the last `rows` results.
pub async fn measure(
    course: &mut Course<'_>,
    rows: u32,
    rounds: u32,
    variants: &[ServiceVariant],
) -> Result<(Results, Option<Summary>), Failure> {
    let mut writers = vec![Writer::Raw];
    for variant in ServiceVariant::of_service(variants, SERVICE) {
        writers.extend([Writer::Plain(variant.clone()), Writer::Tables(variant.clone()), Writer::Rollups(variant)]);
    }
    let mut session = Session::open(course, rows).await?;
    let mut runs = Vec::new();
    for round in 1..=rounds {
        let mut order: Vec<&Writer> = writers.iter().collect();
        if round.is_multiple_of(2) {
            order.reverse();
        }
        for writer in order {
            let handover_ns = handover::nanoseconds();
            let figures = session.write(writer).await?;
            let title = writer.title();
            let pace = figures.rows_a_second();
            session.course.progress.line(format!("  round {round}: {title}, {pace:.0} rows a second"));
            runs.push(Run { round, title, handover_ns, figures });
        }
    }
    let seen = session.seen().await?;
    Ok((Results::new(format!("pg-sinker: {} rows into new tables", session.rows), runs), seen))
}

impl<'s, 'c> Session<'s, 'c> {
    async fn open(course: &'s mut Course<'c>, rows: u32) -> Result<Self, Failure> {
        let topic = Hop::JOINER.output;
        let layers = Layers::connect(&course.places.kafka)?;
        let end = layers.end(topic)?;
        let share = i64::from(rows) / i64::try_from(end.len().max(1)).unwrap_or(1);
        let from: Mark = end.iter().map(|&(partition, end)| (partition, (end - share).max(0))).collect();
        let mut sink = course.places.connect_sink().await?;
        for table in [RAW, PLAIN] {
            execute(&mut sink, &format!("DROP TABLE IF EXISTS {table}")).await?;
            let like = "LIKE result.orders_with_user_info INCLUDING ALL";
            execute(&mut sink, &format!("CREATE TABLE {table} ({like})")).await?;
            execute(&mut sink, &format!("GRANT ALL ON {table} TO tidemill_writer")).await?;
        }
        let raw = Raw::read(&layers, &mut sink, topic, (&from, &end)).await?;
        let rows = from.iter().zip(&end).map(|((_, from), (_, end))| end.abs_diff(*from)).sum();
        course.progress.line(format!("  {rows} results are in memory for the raw upsert"));
        let mut last = None;
        let one_before: Mark = end.iter().map(|&(partition, end)| (partition, (end - 1).max(0))).collect();
        layers.visit(topic, &one_before, &end, |record| last = Some(record))?;
        Ok(Session { course, sink, raw, from, end, rows, last })
    }

    async fn write(&mut self, writer: &Writer) -> Result<Figures, Failure> {
        self.clear(&self.from.clone()).await?;
        calm::wait(self.course.calm).await;
        let figures = match writer.settings() {
            None => self.raw.write(self.course.places.connect_sink().await?, self.course.broker.process).await?,
            Some((variant, settings)) => self.serve(writer.title(), variant, &settings).await?,
        };
        let found: i64 = sqlx::query_scalar(AssertSqlSafe(writer.count()))
            .fetch_one(&mut self.sink)
            .await
            .map_err(|error| refused("rows cannot be counted", error))?;
        if u64::try_from(found).is_ok_and(|found| found == self.rows) {
            return Ok(figures);
        }
        let what = format!("{}: {found} rows were written, {} are right", writer.title(), self.rows);
        Err(Failure::new(FailureKind::Data, what))
    }

    /// One row after the other into one table, when all others are there.
    async fn seen(&mut self) -> Result<Option<Summary>, Failure> {
        let Some(last) = &self.last else { return Ok(None) };
        let sender = seen::Sender::new(&self.course.places.kafka, Hop::JOINER.output, &self.end, last)?;
        self.clear(&self.end.clone()).await?;
        let writer = Writer::Plain(Variant::default());
        let Some((variant, settings)) = writer.settings() else { return Ok(None) };
        let child = self.start(variant, &settings)?;
        calm::wait(self.course.calm).await;
        let seen = seen::measure(&sender, &mut self.sink).await?;
        stop(vec![child], None).await?;
        Ok(seen)
    }

    /// The tables empty, pg-sinker at that place of the topic, and the server done with what it would do in the background.
    async fn clear(&mut self, place: &Mark) -> Result<(), Failure> {
        let tables = [
            RAW,
            PLAIN,
            "result.orders_with_user_info",
            "result.orders_latest",
            "dws.orders_by_minute",
            "dws.orders_by_hour",
            "tidemill.rollups",
            "tidemill.sink_offsets",
        ];
        execute(&mut self.sink, &format!("TRUNCATE {}", tables.join(", "))).await?;
        for (partition, offset) in place {
            let values = format!("('{SERVICE}', '{}', {partition}, {offset})", Hop::JOINER.output);
            let columns = "consumer_group, topic, partition, next_offset";
            execute(&mut self.sink, &format!("INSERT INTO tidemill.sink_offsets ({columns}) VALUES {values}")).await?;
        }
        execute(&mut self.sink, "CHECKPOINT").await
    }

    async fn serve(&mut self, title: String, variant: &Variant, settings: &str) -> Result<Figures, Failure> {
        let children = vec![self.start(variant, settings)?];
        let before = self.from.iter().map(|(_, offset)| offset.unsigned_abs()).sum();
        let profile = self.course.profile(&title, &children)?;
        let mut committed = Committed { sink: &mut self.sink, before };
        let figures = watch(&children, &mut committed, self.rows, self.course.broker.process).await?;
        stop(children, profile).await?;
        Ok(figures)
    }

    fn start(&self, variant: &Variant, settings: &str) -> Result<Child, Failure> {
        let file = self.course.logs.join(format!("{SERVICE}.toml"));
        std::fs::write(&file, settings).map_err(|error| {
            Failure::new(FailureKind::Settings, format!("{} cannot be written", file.display())).caused_by(error)
        })?;
        Child::start(Program {
            path: &variant.program.clone().unwrap_or_else(|| self.course.programs.join(SERVICE)),
            arguments: vec!["--config".to_owned(), file.display().to_string()],
            variables: self.variables(variant)?,
            log: self.course.logs.join(format!("{SERVICE}.log")),
        })
    }

    fn variables(&self, variant: &Variant) -> Result<Vec<(String, String)>, Failure> {
        let sink = &self.course.places.sink;
        let settings = [
            ("kafka.brokers", self.course.places.kafka.brokers.clone()),
            ("kafka.instance_id", "bench-0".to_owned()),
            ("http.port", free_port()?.to_string()),
            ("sink.host", sink.host.clone()),
            ("sink.port", sink.port.to_string()),
            ("sink.database", sink.database.clone()),
        ];
        let ours = settings.into_iter().map(|(key, value)| (variable(SERVICE, key), value));
        Ok(ours.chain(variant.variables(SERVICE)).collect())
    }
}

/// How far pg-sinker is, by what it has committed.
struct Committed<'a> {
    sink: &'a mut PgConnection,
    /// The sum of the offsets that it began at.
    before: u64,
}

impl Through for Committed<'_> {
    async fn rows(&mut self) -> Result<u64, Failure> {
        let sum: i64 = sqlx::query_scalar("SELECT coalesce(sum(next_offset), 0)::bigint FROM tidemill.sink_offsets")
            .fetch_one(&mut *self.sink)
            .await
            .map_err(|error| refused("the sink's offsets cannot be read", error))?;
        Ok(sum.unsigned_abs().saturating_sub(self.before))
    }

    async fn postgres(&mut self) -> Result<Option<u32>, Failure> {
        let found: Option<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg-sinker' ORDER BY backend_start DESC LIMIT 1",
        )
        .fetch_optional(&mut *self.sink)
        .await
        .map_err(|error| refused("the sink's processes cannot be read", error))?;
        Ok(found.map(i32::unsigned_abs))
    }
}

async fn execute(sink: &mut PgConnection, sql: &str) -> Result<(), Failure> {
    let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(sink).await;
    done.map(|_| ()).map_err(|error| refused(format!("the sink refuses `{sql}`"), error))
}

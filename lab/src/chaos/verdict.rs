//! The verdict: whether every change that was committed at the source is in every topic and in the sink, once, in order, value by value.
//!
//! ```text
//!  rest ── until nothing moves and the sink equals the source
//!    ▼
//!  witness ──▶ captured (ODS) ──▶ cleaned (DWD) ──▶ joined (result) ──▶ trail (sink)      letters (dead letters)
//!                  suffix                               users ──┘
//!    ▼
//!  findings: counts, and the first wrong key with its whole way
//! ```
//!
//! What is promised, and so looked for:
//!
//! * ODS: the changes of a key since the capture began, each once, in the order of their commits; between them copies (`op=r`), each with
//!   the state of that place. Versions grow in each partition.
//! * DWD: exactly the versions of ODS. The result: exactly the versions of DWD, and between two of them the same version again for newer
//!   versions of the user; the last one has the user's newest version. The row of the stage before stands unchanged at its start.
//! * A version that comes twice is a repeat: every reader drops it, and it is counted.
//! * The sink: `orders_latest` is the source; the trail has a row for each status that an order had since it was captured, with its last
//!   values in that status and the user of the newest record.
//! * Roll-ups: what GROUP BY over `orders_latest` says.
//! * Dead letters: what was planted, and nothing else.
//!
//! Records that somebody planted (without a readable header, or with [`POISON`] in the key) are passed over.

mod captured;
mod cleaned;
mod findings;
mod joined;
mod letters;
mod order_way;
mod rest;
mod rolled_up;
mod suffix;
mod trail;
mod users;
mod way;

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::Failure;
use shared::pg::refused;
use sqlx::postgres::PgConnection;

pub use self::findings::{Problem, Problems, TopicCounts};
pub use self::letters::LetterCounts;
use self::rest::Rest;
pub use self::rolled_up::RollupCounts;
pub use self::trail::TrailCounts;
use super::witness;
use super::witness::subject::Subject;
use crate::compare::Comparison;
use crate::layers::{LayerRecord, Layers, Mark};
use crate::paper::Paper;
use crate::places::Places;

/// Whoever plants a record with a readable header says so in its key.
pub const POISON: &str = "chaos-poison";

/// What the verdict is about, beyond the places.
pub struct Surroundings<'a> {
    pub places: &'a Places,
    pub users_topic: &'a str,
    pub dead_letter_topics: [&'a str; 3],
    pub planted: &'a [Planted],
}

/// A record that was written into a topic by hand, and that the topic's reader must set aside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Planted {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// What it came to.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// Until nothing moved.
    pub waited_seconds: f64,
    /// For the check after that.
    pub checked_seconds: f64,
    /// Entries of the witness.
    pub changes: u64,
    pub latest: Comparison,
    pub trail_now: Comparison,
    pub trail: TrailCounts,
    /// ODS of the orders and of the users, DWD, result.
    pub topics: Vec<TopicCounts>,
    pub letters: LetterCounts,
    pub rollups: Vec<RollupCounts>,
    pub problems: Problems,
    /// The whole way of the first wrong key, for people.
    pub way: Option<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.problems.count == 0
    }

    /// Records that came twice, in all topics.
    pub fn repeats(&self) -> u64 {
        self.topics.iter().map(|topic| topic.repeats).sum()
    }

    /// The first problems and the whole way of the first key, as a report shows them.
    pub fn in_words(&self) -> String {
        let problems = self.problems.first.iter().map(|problem| problem.what.as_str());
        problems.chain(self.way.as_deref()).collect::<Vec<_>>().join("\n")
    }

    /// What was compared, and what was found, by name.
    pub fn figures(&self) -> Vec<(&'static str, u64)> {
        let sum = |of: fn(&TopicCounts) -> u64| self.topics.iter().map(of).sum::<u64>();
        let (latest, trail, letters) = (&self.latest, &self.trail, &self.letters);
        vec![
            ("rows of the sink compared, value by value", latest.found + trail.found),
            ("groups of roll-ups compared with GROUP BY", self.rollups.iter().map(|rollup| rollup.groups).sum()),
            ("versions checked in four topics", sum(|topic| topic.versions)),
            ("records planted, each found in a dead-letter topic", letters.found),
            ("lost", latest.missing + trail.missing + letters.missing + sum(|topic| topic.lost)),
            ("too many in the sink, or in a dead-letter topic", latest.surplus + trail.surplus + letters.foreign),
            ("too many in a topic", sum(|topic| topic.surplus)),
            (
                "wrong",
                latest.wrong
                    + trail.wrong
                    + sum(|topic| topic.wrong)
                    + self.rollups.iter().map(|rollup| rollup.differing).sum::<u64>(),
            ),
            ("repeats in a topic, seen by their version and dropped by every reader", self.repeats()),
        ]
    }

    pub fn write(&self, paper: &mut Paper) {
        paper.headline("verdict");
        paper.line(format!(
            "  {} changes at the source; at rest after {:.1} s, checked in {:.1} s",
            self.changes, self.waited_seconds, self.checked_seconds
        ));
        self.latest.write("latest", paper);
        self.trail_now.write("trail, present statuses", paper);
        self.trail.write(paper);
        self.topics.iter().for_each(|topic| topic.write(paper));
        self.rollups.iter().for_each(|rollup| rollup.write(paper));
        self.letters.write(paper);
        for problem in &self.problems.first {
            paper.line(format!("  {}", problem.what));
        }
        if let Some(way) = &self.way {
            paper.line(format!("\n{way}"));
        }
        match self.problems.count {
            0 => paper.verdict(true, "nothing lost, nothing wrong, nothing too much"),
            count => paper.verdict(false, format!("{count} problems")),
        }
    }
}

/// A key that a record names; `None` for one that was planted or is nobody's.
fn own_key(subject: Subject, record: &LayerRecord) -> Option<i64> {
    if record.header.is_err() || record.key.contains(POISON) {
        return None;
    }
    subject.key_of(&record.key)
}

/// A record with a readable header, whose key is none of the subject's and no poison.
fn is_stray(subject: Subject, record: &LayerRecord) -> bool {
    record.header.is_ok() && !record.key.contains(POISON) && subject.key_of(&record.key).is_none()
}

/// Where everything stands: a check in whose time it changed proves nothing.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    topics: Vec<Mark>,
    changes: i64,
}

/// After a check that found something, so long must all have stood still.
const STILL: Duration = Duration::from_secs(3);

/// Waits until all is at rest, at most until the deadline, and checks it. What is still on its way then is lost.
pub async fn verdict(
    surroundings: &Surroundings<'_>,
    deadline: Duration,
    progress: &mut Paper,
) -> Result<Verdict, Failure> {
    let begin = Instant::now();
    let layers = Layers::connect(&surroundings.places.kafka)?;
    loop {
        let rest = rest::wait(surroundings, &layers, deadline.saturating_sub(begin.elapsed()), progress).await?;
        let (waited, checking) = (begin.elapsed(), Instant::now());
        let before = standing(surroundings, &layers).await?;
        let mut found = check(surroundings, &layers, rest, progress).await?;
        found.waited_seconds = waited.as_secs_f64();
        found.checked_seconds = checking.elapsed().as_secs_f64();
        if found.is_clean() {
            return Ok(found);
        }
        if begin.elapsed() < deadline {
            tokio::time::sleep(STILL).await;
            if standing(surroundings, &layers).await? != before {
                progress.line("something moved while it was checked: once more");
                continue;
            }
        }
        if let Some((subject, key)) = found.problems.first_key() {
            found.way = Some(way::of(surroundings, &layers, subject, key).await?);
        }
        return Ok(found);
    }
}

async fn standing(surroundings: &Surroundings<'_>, layers: &Layers) -> Result<Standing, Failure> {
    let names = &surroundings.places.names;
    let mut topics = Vec::new();
    for topic in [names.ods_topic.as_str(), surroundings.users_topic, &names.dwd_topic, &names.result_topic] {
        topics.push(layers.end(topic)?);
    }
    let changes = last_change(&mut surroundings.places.connect_source().await?).await?;
    Ok(Standing { topics, changes })
}

async fn last_change(source: &mut PgConnection) -> Result<i64, Failure> {
    sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM chaos.log")
        .fetch_one(source)
        .await
        .map_err(|error| refused("the log of all changes cannot be read at the source", error))
}

async fn check(
    surroundings: &Surroundings<'_>,
    layers: &Layers,
    rest: Rest,
    progress: &mut Paper,
) -> Result<Verdict, Failure> {
    let names = &surroundings.places.names;
    let mut source = surroundings.places.connect_source().await?;
    let mut sink = surroundings.places.connect_sink().await?;
    let mut found = Verdict { latest: rest.latest, trail_now: rest.trail_now, ..Verdict::default() };
    if let Some(why) = rest.restless {
        found.problems.add(None, format!("not at rest at the deadline: {why}"));
    }
    for (comparison, table) in [(&found.latest, &names.latest), (&found.trail_now, &names.trail)] {
        if !comparison.is_equal() {
            let key = comparison.first_order_id.map(|order_id| (Subject::Orders, order_id));
            let order = comparison.first_order_id.unwrap_or_default();
            found.problems.add(key, format!("{table} is not as the source, first at order {order}"));
        }
    }
    found.changes = u64::try_from(last_change(&mut source).await?).unwrap_or_default();

    progress.note("reading the witness and ODS");
    let of_orders = witness::histories(&mut source, Subject::Orders).await?;
    let of_users = witness::histories(&mut source, Subject::Users).await?;
    let mut orders = captured::read(layers, Subject::Orders, &names.ods_topic, &mut found.problems)?;
    let mut users = captured::read(layers, Subject::Users, surroundings.users_topic, &mut found.problems)?;
    let since = orders.first_lsn.into_iter().chain(users.first_lsn).min().unwrap_or_default();
    captured::check(&of_orders, &mut orders, since, &mut found.problems);
    captured::check(&of_users, &mut users, since, &mut found.problems);
    drop((of_orders, of_users));

    progress.note("reading DWD and the result");
    let (mut ways, statuses, ods) = orders.into_ways();
    let dwd = cleaned::check(layers, &names.dwd_topic, &mut ways, &mut found.problems)?;
    let (known, of_users) = users.into_users();
    let result = joined::check(layers, &names.result_topic, &mut ways, &statuses, &known, &mut found.problems)?;
    found.topics = vec![ods, of_users, dwd, result];

    progress.note("reading the sink's trail and the dead letters");
    found.trail = trail::check(&mut source, &mut sink, names, &ways, &statuses, &known, &mut found.problems).await?;
    found.rollups = rolled_up::check(&mut sink, &names.latest, &mut found.problems).await?;
    found.letters =
        letters::check(layers, &surroundings.dead_letter_topics, surroundings.planted, &mut found.problems)?;
    Ok(found)
}

//! Looks at the sink, as any reader would, for changes that the load has made.

use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};
use sqlx::postgres::PgConnection;

use crate::bench::recovery::load::Load;
use crate::places::Places;
use crate::sightings;

/// Looks at the sink, on a connection that is made again where it broke.
pub struct Lookout<'a> {
    places: &'a Places,
    load: &'a Load,
    sink: Option<PgConnection>,
}

/// So many changes are looked for at a time: enough that every partition has some of them.
const SAMPLE: usize = 64;

/// A change that is not at the sink after this time lags behind.
const PROMPT: Duration = Duration::from_millis(200);

/// What does not come within this time does not come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two looks for the first change.
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// Time between two looks at how far all are.
const COMPARE_EVERY: Duration = Duration::from_millis(20);

impl<'a> Lookout<'a> {
    pub fn new(places: &'a Places, load: &'a Load) -> Self {
        Lookout { places, load, sink: None }
    }

    /// When the first of the changes that were due since this moment was seen.
    pub async fn first_since(&mut self, moment: Instant) -> Result<Instant, Failure> {
        let number = self.load.schedule.first_from(moment);
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let wanted = self.load.made_from(number, SAMPLE);
            if self.seen(&wanted).await.is_some_and(|seen| seen > 0) {
                return Ok(Instant::now());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(never("a new change"))
    }

    /// When none lagged behind any more.
    pub async fn no_backlog(&mut self) -> Result<Instant, Failure> {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let wanted = self.load.made_before(Instant::now() - PROMPT, SAMPLE);
            if !wanted.is_empty() && self.seen(&wanted).await == Some(wanted.len()) {
                return Ok(Instant::now());
            }
            tokio::time::sleep(COMPARE_EVERY).await;
        }
        Err(never("all of the changes"))
    }

    /// How many of these changes the sink has; `None` where it does not answer.
    async fn seen(&mut self, numbers: &[u32]) -> Option<usize> {
        if numbers.is_empty() {
            return Some(0);
        }
        let schedule = &self.load.schedule;
        let mut sink = match self.sink.take() {
            Some(sink) => sink,
            None => self.places.connect_sink().await.ok()?,
        };
        let orders: Vec<i64> = numbers.iter().map(|&number| schedule.order(number)).collect();
        let rows = sightings::now(&mut sink, &self.places.names.latest, &orders, None).await.ok()?;
        self.sink = Some(sink);
        let is_there = |&&number: &&u32| {
            let row = rows.iter().find(|row| row.order_id == schedule.order(number));
            row.is_some_and(|row| schedule.has(row.updated_at_us, number))
        };
        Some(numbers.iter().filter(is_there).count())
    }
}

fn never(what: &str) -> Failure {
    Failure::new(FailureKind::Data, format!("{what} did not reach the sink within {} s", PATIENCE.as_secs()))
        .cure("look into the logs of the services")
}

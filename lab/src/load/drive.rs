//! The commits of a load: orders go through their statuses in groups, several groups at a time.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shared::failure::Failure;
use sqlx::postgres::PgConnection;

use crate::changes::{self, Order, STATUSES};
use crate::places::{Names, Places};

/// Orders of one group; without a rate also of one commit.
const GROUP: usize = 100;

/// When each commit may be made.
pub struct Pace {
    rate: u32,
    begin: Instant,
    made: AtomicU32,
}

impl Pace {
    pub fn of(rate: u32, begin: Instant) -> Self {
        Pace { rate, begin, made: AtomicU32::new(0) }
    }

    /// Orders that one commit may change.
    fn commit_orders(&self) -> usize {
        if self.rate == 0 { GROUP } else { 1 }
    }

    /// When the next change is due, if there is a rate. The times are fixed, whatever became of the changes before.
    fn next(&self) -> Option<Instant> {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        (self.rate > 0).then(|| self.begin + Duration::from_secs_f64(f64::from(made) / f64::from(self.rate)))
    }

    async fn wait(&self) {
        if let Some(due) = self.next() {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

/// How many changes are committed so far.
#[derive(Default)]
pub struct Counted(AtomicUsize);

impl Counted {
    fn add(&self, changes: usize) {
        self.0.fetch_add(changes, Ordering::Relaxed);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Places one order of each user, so that it can be seen when the pipeline knows all users.
pub async fn place_introduction(
    source: &mut PgConnection,
    names: &Names,
    orders: &[Order],
    pace: &Pace,
) -> Result<(), Failure> {
    for commit in orders.chunks(pace.commit_orders()) {
        pace.wait().await;
        changes::place(source, names, commit).await?;
    }
    Ok(())
}

/// A group of orders and the status that it starts with.
type Group<'a> = (&'a [Order], usize);

/// Takes all orders through their statuses, on four connections; the introduction stands in the first one. Says when the last commit was made.
pub async fn run(
    places: &Places,
    introduction: &[Order],
    rest: &[Order],
    pace: &Pace,
    counted: &Counted,
) -> Result<Instant, Failure> {
    counted.add(introduction.len());
    let groups: Vec<Group<'_>> = introduction
        .chunks(GROUP)
        .map(|orders| (orders, 1))
        .chain(rest.chunks(GROUP).map(|orders| (orders, 0)))
        .collect();
    let next = AtomicUsize::new(0);
    let worker = || worker(places, &groups, &next, pace, counted);
    tokio::try_join!(worker(), worker(), worker(), worker())?;
    Ok(Instant::now())
}

/// Takes group after group, until none is left.
async fn worker(
    places: &Places,
    groups: &[Group<'_>],
    next: &AtomicUsize,
    pace: &Pace,
    counted: &Counted,
) -> Result<(), Failure> {
    let mut source = places.connect_source().await?;
    while let Some(&(orders, first_step)) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
        for step in first_step..STATUSES.len() {
            for commit in orders.chunks(pace.commit_orders()) {
                pace.wait().await;
                changes::step(&mut source, &places.names, commit, step).await?;
                counted.add(commit.len());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_due_at_fixed_times() {
        let begin = Instant::now();
        let pace = Pace::of(100, begin);
        let due: Vec<_> = (0..3).map(|_| pace.next().unwrap() - begin).collect();
        assert_eq!(due, [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(20)]);
        assert_eq!((pace.commit_orders(), Pace::of(0, begin).next()), (1, None));
    }
}

//! The service compares by itself: on a thread of its own, with connections of its own. What goes wrong here is told, and ends nothing.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::health::Health;
use shared::metrics;
use shared::record::time;
use shared::said::Said;
use sqlx::postgres::PgConnection;

use super::compare::{Comparison, Progress};
use super::kept::{self, Last};
use super::open;
use super::report::Counts;
use super::sides::close;
use super::wanted::Wanted;
use crate::parking;
use crate::settings::Settings;

/// How often it is looked whether a comparison is due, and what other instances found.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A comparison that could not be done is tried again after this, or after the interval where that is shorter.
const AGAIN_AFTER_S: u64 = 60;

/// The name of the page: `/api/v1/reconciliation`.
const PAGE: &str = "reconciliation";

/// The thread of a generation; `None` where nothing is to be compared.
pub fn spawn(config: &Settings, wanted: Wanted, fate: Fate, health: Health) -> Result<Option<JoinHandle<()>>, Failure> {
    if !config.reconcile.is_scheduled() {
        return Ok(None);
    }
    let cannot = |error| Failure::new(FailureKind::Broken, "the thread of comparisons cannot start").caused_by(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let schedule = Schedule { config: config.clone(), wanted, fate, health, said: Said::default() };
    let run = move || {
        runtime.block_on(schedule.run());
        // A question to the broker may still wait for its answer.
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("reconcile".into()).spawn(run).map(Some).map_err(cannot)
}

struct Schedule {
    config: Settings,
    wanted: Wanted,
    fate: Fate,
    health: Health,
    said: Said,
}

fn now_ms() -> i64 {
    time::now().as_millisecond()
}

impl Schedule {
    async fn run(mut self) {
        let fate = self.fate.clone();
        let look_every = LOOK_EVERY.min(self.config.reconcile.interval());
        loop {
            let step = async {
                // A topic that rests holds up no comparison of others.
                if self.health.is_ready_but_for(parking::LATCH)
                    && let Err(failure) = self.look().await
                {
                    metrics::RECONCILIATION_FAILURES.inc();
                    self.cannot_look(&failure);
                }
                tokio::select! {
                    () = tokio::time::sleep(look_every) => {}
                    () = self.wanted.called() => {}
                }
            };
            tokio::select! {
                () = step => {}
                () = fate.ended() => return,
                () = fate.draining() => return,
            }
        }
    }

    /// Not even what was found before can be shown.
    fn cannot_look(&mut self, failure: &Failure) {
        for pair in self.config.reconcile.pairs.keys() {
            metrics::RECONCILIATION_FAILED.with_label_values(&[pair]).set(1);
        }
        self.health.page(PAGE, json!({ "failure": failure.chain() }));
        self.tell(failure);
    }

    fn tell(&mut self, failure: &Failure) {
        let chain = failure.chain();
        if self.said.is_news(&chain) {
            tracing::warn!("the sink was not compared with the source: {chain}");
        }
    }

    /// Shows what is known, and compares what is due, if no other instance does.
    async fn look(&mut self) -> Result<(), Failure> {
        let mut sink = self.config.sink.connect("pg-sinker reconcile").await?;
        let known = kept::read(&mut sink).await?;
        self.show(&known);
        if !self.due(&known).is_empty() && kept::take_turn(&mut sink, &self.config.input.group).await? {
            // Another instance may have done it between the two.
            let known = kept::read(&mut sink).await?;
            for name in self.due(&known) {
                self.compare(&mut sink, &name).await?;
            }
            self.show(&kept::read(&mut sink).await?);
        }
        close(sink).await;
        Ok(())
    }

    /// Sets metrics, page, and what every console shows. Every instance has the same, but for what was asked of it.
    fn show(&self, known: &[Last]) {
        let interval_s = self.config.reconcile.interval_s;
        let (mut pairs, mut briefs) = (BTreeMap::new(), BTreeMap::new());
        for name in self.config.reconcile.pairs.keys() {
            let none = Last { pair: name.clone(), ..Last::default() };
            let last = known.iter().find(|last| last.pair == *name).unwrap_or(&none);
            measure(last);
            pairs.insert(name.clone(), page(last, self.wanted.has(name)));
            briefs.insert(name.clone(), brief(last));
        }
        metrics::RECONCILIATION_INTERVAL.set(i64::try_from(interval_s).unwrap_or(i64::MAX));
        self.health.page(PAGE, json!({ "interval_s": interval_s, "pairs": pairs }));
        self.health.detail(PAGE, briefs);
    }

    fn due(&self, known: &[Last]) -> Vec<String> {
        let (interval_s, now) = (self.config.reconcile.interval_s, now_ms());
        let is_due = |name: &&String| {
            self.wanted.has(name) || is_due(known.iter().find(|last| last.pair == **name), interval_s, now)
        };
        self.config.reconcile.pairs.keys().filter(is_due).cloned().collect()
    }

    async fn compare(&mut self, sink: &mut PgConnection, name: &str) -> Result<(), Failure> {
        let compared = self.compared(name).await;
        // Who asks from here on asks for the next one.
        self.wanted.done(name);
        match compared {
            Ok((counts, report, took_ms)) => kept::finished(sink, name, took_ms, (&counts, &report)).await,
            Err(failure) => {
                metrics::RECONCILIATION_FAILURES.inc();
                self.tell(&failure);
                kept::failed(sink, name, &failure.chain()).await
            }
        }
    }

    /// Counts, report, and how long it took, in milliseconds.
    async fn compared(&self, name: &str) -> Result<(Value, Value, i64), Failure> {
        let begin = now_ms();
        let (mut source, mut sink) = open::both(&self.config).await?;
        let pair = open::pair(&self.config, name, &mut source, &mut sink).await?;
        let mut comparison = Comparison {
            settings: &self.config,
            pair: &pair,
            source,
            sink,
            fate: &self.fate,
            progress: Progress::default(),
            watch: &mut |_, _| {},
        };
        let report = comparison.run(false).await?;
        close(comparison.source).await;
        close(comparison.sink).await;
        let counts = report.counts();
        let Counts { differ, rejected, changing, compared } = counts;
        match report.is_equal() {
            true => {
                tracing::info!(pair = name, compared, changing, seconds = report.seconds, "the sink equals the source")
            }
            false => tracing::error!(
                pair = name,
                differ,
                rejected,
                changing,
                "the sink does not equal the source: /api/{PAGE}, or pg-sinker reconcile, says which rows"
            ),
        }
        Ok((serde_json::to_value(counts).unwrap_or_default(), report.without_values(), now_ms() - begin))
    }
}

fn is_due(last: Option<&Last>, interval_s: u64, now_ms: i64) -> bool {
    let Some(last) = last else { return true };
    let is_over = |since: Option<i64>, seconds: u64| {
        let wait_ms = i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        since.is_none_or(|since| now_ms.saturating_sub(since) >= wait_ms)
    };
    is_over(last.finished_ms, interval_s) && is_over(last.failed_ms, interval_s.min(AGAIN_AFTER_S))
}

fn measure(last: &Last) {
    let pair = last.pair.as_str();
    metrics::RECONCILIATION_FINISHED.with_label_values(&[pair]).set(last.finished_ms.unwrap_or_default() / 1_000);
    metrics::RECONCILIATION_FAILED.with_label_values(&[pair]).set(i64::from(last.failed_ms.is_some()));
    let Ok(counts) = serde_json::from_value::<Counts>(last.counts.clone()) else { return };
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    for (kind, count) in [("differ", counts.differ), ("rejected", counts.rejected), ("changing", counts.changing)] {
        metrics::RECONCILIATION_ROWS.with_label_values(&[pair, kind]).set(signed(count));
    }
    metrics::RECONCILIATION_COMPARED.with_label_values(&[pair]).set(signed(counts.compared));
    metrics::RECONCILIATION_MILLISECONDS.with_label_values(&[pair]).set(last.took_ms.unwrap_or_default());
}

/// In the state of the instance: no rows.
fn brief(last: &Last) -> Value {
    json!({
        "compared_at": last.finished_ms.map(time::at_millisecond),
        "counts": last.counts,
        "failure": last.failure,
    })
}

fn page(last: &Last, is_wanted: bool) -> Value {
    let age_s = last.finished_ms.map(|finished| (now_ms() - finished).max(0) / 1_000);
    json!({
        "compared_at": last.finished_ms.map(time::at_millisecond),
        "age_s": age_s,
        "took_ms": last.took_ms,
        "wanted": is_wanted,
        "counts": last.counts,
        "report": last.report,
        "failed_at": last.failed_ms.map(time::at_millisecond),
        "failure": last.failure,
        "failures": last.failures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_due_once_in_an_interval_and_soon_again_when_it_failed() {
        let last = |finished_ms, failed_ms| Last { finished_ms, failed_ms, ..Last::default() };
        let is_due = |last: &Last| super::is_due(Some(last), 3_600, 10_000_000);
        assert!(super::is_due(None, 3_600, 10_000_000));
        assert!(!is_due(&last(Some(9_000_000), None)));
        assert!(is_due(&last(Some(6_400_000), None)));
        assert!(!is_due(&last(Some(6_000_000), Some(9_950_000))), "it failed just now");
        assert!(is_due(&last(Some(6_000_000), Some(9_940_000))));
        assert!(!is_due(&last(Some(9_990_000), Some(9_000_000))), "it was done since");
    }
}

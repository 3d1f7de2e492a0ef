//! Which commits of a group member were taken. Nobody calls back when the broker answers one (rust-rdkafka, issue 856); librdkafka's statistics
//! tell what the group has, and a commit that they do not show in time has failed: it was refused, or not answered.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What became of a commit, as a label says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    Failed,
}

impl Outcome {
    pub(super) fn label(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
        }
    }
}

/// The next offset to handle, by partition.
type Positions = BTreeMap<i32, i64>;

#[derive(Debug)]
pub(super) struct Commits {
    /// Longest wait for an answer.
    within: Duration,
    /// What the last one named.
    last: Positions,
    /// The oldest that is not answered, and when it was sent. Later ones name no less, so what shows one of them shows it as well.
    waits: Option<(Instant, Positions)>,
}

impl Commits {
    pub(super) fn new(within: Duration) -> Self {
        Commits { within, last: Positions::new(), waits: None }
    }

    /// Whether there is something to commit that the last commit did not name, or that has failed since.
    pub(super) fn is_due(&self, positions: &Positions) -> bool {
        *positions != self.last
    }

    pub(super) fn sent(&mut self, positions: Positions, now: Instant) {
        self.last.clone_from(&positions);
        self.waits.get_or_insert((now, positions));
    }

    /// What the group has, as the statistics tell it. One that has failed is due again.
    pub(super) fn told(&mut self, taken: &Positions, now: Instant) -> Option<Outcome> {
        let (sent_at, positions) = self.waits.as_ref()?;
        let outcome = if positions.iter().all(|(partition, next)| taken.get(partition) >= Some(next)) {
            Outcome::Ok
        } else if now.duration_since(*sent_at) >= self.within {
            self.last.clear();
            Outcome::Failed
        } else {
            return None;
        };
        self.waits = None;
        Some(outcome)
    }

    /// Partitions came or went: what is on its way may name some that are another's by now.
    pub(super) fn rebalanced(&mut self) {
        self.last.clear();
        self.waits = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn at(partitions: &[(i32, i64)]) -> Positions {
        partitions.iter().copied().collect()
    }

    #[test]
    fn a_commit_is_taken_when_the_group_has_all_of_it() {
        let (mut commits, now) = (Commits::new(WITHIN), Instant::now());
        assert_eq!(commits.told(&at(&[(0, 9)]), now), None, "none was sent");
        commits.sent(at(&[(0, 5), (1, 0)]), now);
        assert!(!commits.is_due(&at(&[(0, 5), (1, 0)])) && commits.is_due(&at(&[(0, 6), (1, 0)])));
        assert_eq!(commits.told(&at(&[]), now), None);
        assert_eq!(commits.told(&at(&[(0, 5)]), now), None, "nothing is known of partition 1");
        assert_eq!(commits.told(&at(&[(0, 4), (1, 0)]), now), None);
        assert_eq!(commits.told(&at(&[(0, 7), (1, 0)]), now), Some(Outcome::Ok));
        assert_eq!(commits.told(&at(&[(0, 7), (1, 0)]), now), None, "it counts once");
    }

    #[test]
    fn one_that_is_not_shown_in_time_has_failed_and_is_due_again() {
        let (mut commits, now) = (Commits::new(WITHIN), Instant::now());
        commits.sent(at(&[(0, 5)]), now);
        // A later one does not put off the judgement over the first.
        commits.sent(at(&[(0, 6)]), now + WITHIN / 2);
        assert_eq!(commits.told(&at(&[(0, 4)]), now + WITHIN - Duration::from_millis(1)), None);
        assert_eq!(commits.told(&at(&[(0, 4)]), now + WITHIN), Some(Outcome::Failed));
        assert!(commits.is_due(&at(&[(0, 6)])), "also where nothing has moved since");
        commits.sent(at(&[(0, 6)]), now + WITHIN);
        assert_eq!(commits.told(&at(&[(0, 4)]), now + WITHIN), None, "it has time of its own");
        assert_eq!(commits.told(&at(&[(0, 6)]), now + 2 * WITHIN), Some(Outcome::Ok), "late, and taken");
    }

    #[test]
    fn a_rebalance_ends_the_waiting() {
        let (mut commits, now) = (Commits::new(WITHIN), Instant::now());
        commits.sent(at(&[(0, 5), (1, 5)]), now);
        commits.rebalanced();
        assert_eq!(commits.told(&at(&[(0, 5)]), now + WITHIN), None);
        assert!(commits.is_due(&at(&[(0, 5)])));
    }
}

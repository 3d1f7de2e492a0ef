//! The machine's time of day, watched for being set back.
//!
//! librdkafka's threads wait until a time of day (`pthread_cond_timedwait` on `CLOCK_REALTIME`). When that is set back, each wait lasts
//! longer by as much: no heartbeat, no timer, until somebody wakes the thread. New clients know the new time.

use std::time::{Duration, Instant, SystemTime};

use crate::failure::{Failure, FailureKind};

/// Less than this is a clock that is being slewed, or two readings that were not quite at the same time.
const SET_BACK_MIN: Duration = Duration::from_secs(1);

/// The time of day, held against the clock that only goes forward.
#[derive(Debug)]
pub struct Clock {
    read_at: Instant,
    showed: SystemTime,
}

impl Clock {
    pub fn read() -> Self {
        Clock { read_at: Instant::now(), showed: SystemTime::now() }
    }

    /// What the time of day shows beyond what it should, by the clock that only goes forward.
    fn drift(&self, later: &Clock) -> Drift {
        let should_show = self.showed + later.read_at.saturating_duration_since(self.read_at);
        match later.showed.duration_since(should_show) {
            Ok(ahead) => Drift::Ahead(ahead),
            Err(behind) => Drift::Behind(behind.duration()),
        }
    }

    /// Reads again; an error when the time of day was set back meanwhile, or went ahead by more than a lease lasts: a machine that is
    /// suspended stops the clock that only goes forward (`CLOCK_MONOTONIC`), so this is the one sign of it.
    pub fn check(&mut self, lease: Duration) -> Result<(), Failure> {
        let now = Clock::read();
        let drift = self.drift(&now);
        *self = now;
        let (what, by) = match drift {
            Drift::Behind(by) if by >= SET_BACK_MIN => ("was set back, and Kafka's client would sleep for as long", by),
            Drift::Ahead(by) if by > lease => {
                ("was set forward, or the machine was suspended, for longer than the lease", by)
            }
            Drift::Ahead(_) | Drift::Behind(_) => return Ok(()),
        };
        Err(Failure::new(FailureKind::Frozen, format!("the machine's clock {what}: {} ms", by.as_millis()))
            .cure("the service starts anew by itself; have the clock slewed and not stepped"))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Drift {
    Ahead(Duration),
    Behind(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_told_from_one_that_goes() {
        let (read_at, showed) = (Instant::now(), SystemTime::now());
        let before = Clock { read_at, showed };
        let after = |passed_ms: u64, shows_ms: i64| {
            let shift = Duration::from_millis(shows_ms.unsigned_abs());
            let showed = if shows_ms < 0 { showed - shift } else { showed + shift };
            before.drift(&Clock { read_at: read_at + Duration::from_millis(passed_ms), showed })
        };
        assert_eq!(after(100, 100), Drift::Ahead(Duration::ZERO));
        assert_eq!(after(100, 3_600_100), Drift::Ahead(Duration::from_secs(3_600)));
        assert_eq!(after(1_500, 600), Drift::Behind(Duration::from_millis(900)));
        assert_eq!(after(100, -29_900), Drift::Behind(Duration::from_secs(30)));
    }

    #[test]
    fn a_little_more_or_less_is_nothing() {
        let read = |behind_ms: u64| {
            let mut clock = Clock::read();
            clock.showed += Duration::from_millis(behind_ms);
            clock.check(Duration::from_secs(10))
        };
        assert!(read(0).is_ok());
        assert!(read(500).is_ok(), "slewed");
        assert_eq!(read(30_000).unwrap_err().kind, FailureKind::Frozen);
        let mut suspended = Clock::read();
        suspended.showed -= Duration::from_secs(60);
        assert_eq!(suspended.check(Duration::from_secs(10)).unwrap_err().kind, FailureKind::Frozen);
    }
}

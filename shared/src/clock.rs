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

    /// By how much the time of day went back between two readings, if it did.
    fn set_back(&self, later: &Clock) -> Option<Duration> {
        let should_show = self.showed + later.read_at.saturating_duration_since(self.read_at);
        should_show.duration_since(later.showed).ok().filter(|by| *by >= SET_BACK_MIN)
    }

    /// Reads again; an error when the time of day was set back meanwhile.
    pub fn check(&mut self) -> Result<(), Failure> {
        let now = Clock::read();
        let set_back = self.set_back(&now);
        *self = now;
        let Some(by) = set_back else { return Ok(()) };
        Err(Failure::new(
            FailureKind::Frozen,
            format!(
                "the machine's clock was set back by {} ms, and Kafka's client would sleep for as long",
                by.as_millis()
            ),
        )
        .cure("the service connects anew by itself; have the clock slewed and not stepped"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_is_set_back_is_told_of() {
        let (read_at, showed) = (Instant::now(), SystemTime::now());
        let before = Clock { read_at, showed };
        let after = |passed_ms: u64, shows_ms: i64| {
            let shift = Duration::from_millis(shows_ms.unsigned_abs());
            let showed = if shows_ms < 0 { showed - shift } else { showed + shift };
            before.set_back(&Clock { read_at: read_at + Duration::from_millis(passed_ms), showed })
        };
        assert_eq!(after(100, 100), None);
        assert_eq!(after(100, 3_600_000), None, "set forward: every wait ends early, which harms nobody");
        assert_eq!(after(1_500, 600), None, "slewed");
        assert_eq!(after(100, -29_900), Some(Duration::from_secs(30)));
    }
}

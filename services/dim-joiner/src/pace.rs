//! How many facts may be sent again just now.

/// Lets through so many in a second, and never more than the share of a fiftieth of a second at once: where the stages behind take long to
/// acknowledge it, fewer go, and what fresh facts wait for stays short.
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    /// Thousandths of a record.
    saved: u64,
    last_ms: Option<u64>,
}

const MOST_MS: u64 = 20;

impl Pace {
    /// 0: without a bound.
    pub fn new(per_second: u64) -> Self {
        Pace { per_second, saved: 0, last_ms: None }
    }

    /// How many of `wanted` may go at this time.
    pub fn allowed(&mut self, now_ms: u64, wanted: usize) -> usize {
        if self.per_second == 0 {
            return wanted;
        }
        let since = self.last_ms.map_or(MOST_MS, |last| now_ms.saturating_sub(last)).min(MOST_MS);
        self.last_ms = Some(now_ms);
        let most = self.per_second.saturating_mul(MOST_MS).max(1000);
        self.saved = self.saved.saturating_add(self.per_second.saturating_mul(since)).min(most);
        usize::try_from(self.saved / 1000).unwrap_or(usize::MAX).min(wanted)
    }

    /// So many went.
    pub fn spend(&mut self, records: usize) {
        self.saved = self.saved.saturating_sub((records as u64).saturating_mul(1000));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_go_in_a_second_and_none_are_saved_up() {
        let mut pace = Pace::new(1000);
        let mut sent = 0;
        for now in 10_000..11_000 {
            let allowed = pace.allowed(now, 500);
            pace.spend(allowed);
            sent += allowed;
        }
        assert_eq!(sent, 20 + 999, "a fiftieth of a second's at once, then one each millisecond");
        assert_eq!(pace.allowed(20_000, 500), 20);
        assert_eq!(Pace::new(0).allowed(0, 500), 500);
        let mut slow = Pace::new(1);
        let allowed: usize = (0..3000)
            .map(|now| {
                let allowed = slow.allowed(now, 500);
                slow.spend(allowed);
                allowed
            })
            .sum();
        assert_eq!(allowed, 3, "one a second, however slow");
    }
}

//! Numbers of a fixed sequence, so that a failing run can be made again.

use std::time::SystemTime;

/// Gives the seed of a run by the environment, in place of one by the clock.
const SEED: &str = "TIDEMILL_TEST_SEED";

pub struct Random(u64);

impl Random {
    /// Another sequence at each run. The seed is printed; a failing test shows it.
    pub fn new() -> Self {
        let by_clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let seed = std::env::var(SEED).map_or_else(|_| by_clock(), |text| text.parse().expect("the seed is a number"));
        eprintln!("the same again: {SEED}={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A number below this one.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap() % end
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

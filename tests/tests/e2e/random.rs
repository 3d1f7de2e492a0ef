//! The random numbers of a run, which a failing test can have again.

use std::time::SystemTime;

pub use lab::random::Random;

/// Gives the seed of a run by the environment, in place of one by the clock.
const SEED: &str = "TIDEMILL_TEST_SEED";

/// Another sequence at each run. The seed is printed; a failing test shows it.
pub fn of_this_run() -> Random {
    let by_clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = std::env::var(SEED).map_or_else(|_| by_clock(), |text| text.parse().expect("the seed is a number"));
    eprintln!("the same again: {SEED}={seed}");
    Random::seeded(seed)
}

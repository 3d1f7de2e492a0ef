//! What it takes one processor to hand something to another, and to have it back. On a virtual machine that is no constant: the host moves its
//! processors about, near each other or apart. Who hands records from thread to thread pays for it, and each in another measure; so two
//! figures belong together only where this one was the same.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// So often it is tried; the least counts, as something else may come between.
const TRIES: u32 = 5;

/// There and back again, each time, unless that takes too long.
const TURNS: u32 = 2_000;
const LONGEST: Duration = Duration::from_millis(20);
const TURNS_BETWEEN_LOOKS_AT_THE_CLOCK: u32 = 8;

/// Where both threads have one processor, the other gets it after so many looks. To give it away sooner would keep them there: a system moves
/// to an idle processor only who waits for long.
const LOOKS: u32 = 1_000_000;

/// The last thing that is handed over.
const END: u32 = u32::MAX;

/// From one processor to another and back; `None` where there is only one.
pub fn nanoseconds() -> Option<u64> {
    let several = thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
    let least = several.then(|| (0..TRIES).map(|_| toss()).min()).flatten()?;
    u64::try_from(least.as_nanos()).ok()
}

fn toss() -> Duration {
    let ball = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 1;
            while await_turn(&ball, turn) != END {
                ball.store(turn + 1, Ordering::Release);
                turn += 2;
            }
        });
        let throw = |turn: u32| {
            ball.store(2 * turn + 1, Ordering::Release);
            await_turn(&ball, 2 * turn + 2);
        };
        // The other thread is there when it has answered once.
        throw(0);
        let (begin, mut turns) = (Instant::now(), 0);
        while turns < TURNS && (turns % TURNS_BETWEEN_LOOKS_AT_THE_CLOCK > 0 || begin.elapsed() < LONGEST) {
            turns += 1;
            throw(turns);
        }
        let took = begin.elapsed() / turns.max(1);
        ball.store(END, Ordering::Release);
        took
    })
}

fn await_turn(ball: &AtomicU32, turn: u32) -> u32 {
    let mut looks = 0;
    loop {
        let found = ball.load(Ordering::Acquire);
        if found == turn || found == END {
            return found;
        }
        looks += 1;
        if looks % LOOKS == 0 {
            thread::yield_now();
        }
        spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ball_comes_back_from_whatever_processor() {
        assert!(toss() > Duration::ZERO);
        let several = thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        assert_eq!(nanoseconds().is_some(), several);
    }
}

//! What it takes one processor to hand something to another, and to have it back. On a virtual machine that is no constant: the host moves its
//! processors about, near each other or apart. Who hands records from thread to thread pays for it, and each in another measure; so two
//! figures belong together only where this one was the same.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// So often it is tried; the least counts, as something else may come between.
const TRIES: u32 = 5;

/// There and back again, each time.
const TURNS: u32 = 2_000;

/// Where both threads have one processor, the other gets it after so many looks.
const LOOKS: u32 = 10_000;

/// From one processor to another and back; `None` where there is only one.
pub fn nanoseconds() -> Option<u64> {
    let several = thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
    let least = (0..TRIES).map(|_| toss()).min().filter(|_| several)?;
    u64::try_from(least.as_nanos()).ok()
}

fn toss() -> Duration {
    let ball = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..=TURNS {
                await_turn(&ball, 2 * turn + 1);
                ball.store(2 * turn + 2, Ordering::Release);
            }
        });
        let turn = |turn: u32| {
            ball.store(2 * turn + 1, Ordering::Release);
            await_turn(&ball, 2 * turn + 2);
        };
        // The other thread is there when it has answered once.
        turn(0);
        let begin = Instant::now();
        (1..=TURNS).for_each(turn);
        begin.elapsed() / TURNS
    })
}

fn await_turn(ball: &AtomicU32, turn: u32) {
    let mut looks = 0;
    while ball.load(Ordering::Acquire) != turn {
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

//! Which keys belong to whom, so that the parts of a run stay out of each other's way.
//!
//! | keys | whose |
//! |---|---|
//! | orders 2001 to 2005, users 1001 to 1005 | the seed of the SQL files; the workload changes them now and then |
//! | orders from 10,000,000, users from 100,000 | the workload |
//! | orders from 50,000,000, users from 500,000 | users with many orders ([`super::owner`]): the workload leaves them alone |
//!
//! TRUNCATE takes all orders, whosesoever they are.

use std::ops::RangeInclusive;

use crate::random::Random;

/// Orders of the workload.
pub const ORDERS: RangeInclusive<i64> = 10_000_000..=49_999_999;
/// Users of the workload.
pub const USERS: RangeInclusive<i64> = 100_000..=499_999;
/// Orders of users with many.
pub const OWNED_ORDERS: RangeInclusive<i64> = 50_000_000..=99_999_999;
/// Users with many orders.
pub const OWNERS: RangeInclusive<i64> = 500_000..=999_999;

/// The seed's users.
const SEED_USERS: RangeInclusive<i64> = 1_001..=1_005;
/// Orders that are chosen again and again, so that some keys have a long history.
const HOT: i64 = 60;
/// Orders that came last.
const RECENT: i64 = 400;

/// The keys that one worker draws.
#[derive(Debug, Clone)]
pub struct Ids {
    /// The next new order. Workers take turns, so that two never draw the same.
    next: i64,
    step: i64,
    users: i64,
}

impl Ids {
    /// The first new order is `first` or one of those right behind it. Workers may begin with different ones.
    pub fn new(worker: usize, workers: usize, users: u32, first: i64) -> Self {
        let (worker, step) = (worker as i64, (workers as i64).max(1));
        let begun = (first - ORDERS.start()).max(0);
        let turn = (begun + step - 1) / step;
        Ids { next: ORDERS.start() + turn * step + worker, step, users: i64::from(users.max(1)) }
    }

    /// A key that nobody has had.
    pub fn new_order(&mut self) -> i64 {
        let id = self.next.min(*ORDERS.end());
        self.next += self.step;
        id
    }

    /// So many new keys in a row: the first, and the step from one to the next.
    pub fn new_orders(&mut self, count: i64) -> (i64, i64) {
        let first = self.next.min(*ORDERS.end());
        self.next += count * self.step;
        (first, self.step)
    }

    /// A key that some order has had, or is near to one.
    pub fn order(&self, random: &mut Random) -> i64 {
        let (first, had) = (*ORDERS.start(), (self.next - ORDERS.start()).max(1));
        let below = |random: &mut Random, end: i64| random.below(usize::try_from(end).unwrap_or(1)) as i64;
        match random.below(10) {
            0 if random.one_in(5) => 1,
            0..=3 => first + below(random, had.min(HOT)),
            4..=6 => first + had - 1 - below(random, had.min(RECENT)),
            _ => first + below(random, had),
        }
    }

    /// A user that orders name. One in ten does not exist at first.
    pub fn user(&self, random: &mut Random) -> i64 {
        if random.one_in(40) {
            return SEED_USERS.start() + random.below(SEED_USERS.count()) as i64;
        }
        let named = self.users + (self.users / 10).max(1);
        USERS.start() + random.below(usize::try_from(named).unwrap_or(1)) as i64
    }

    /// The users that exist from the start on.
    pub fn first_users(&self) -> RangeInclusive<i64> {
        *USERS.start()..=USERS.start() + self.users - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_workers_draw_the_same_new_order() {
        let mut drawn = BTreeSet::new();
        for worker in 0..4 {
            let mut ids = Ids::new(worker, 4, 10, *ORDERS.start() + 7 * worker as i64);
            let (first, step) = ids.new_orders(10);
            (0..10).for_each(|n| assert!(drawn.insert(first + n * step)));
            (0..10).for_each(|_| assert!(drawn.insert(ids.new_order())));
        }
        assert_eq!(drawn.len(), 80);
    }

    #[test]
    fn what_is_drawn_stays_in_the_workloads_ranges_or_the_seeds() {
        let mut random = Random::seeded(3);
        let mut ids = Ids::new(1, 4, 10, *ORDERS.start());
        for _ in 0..10_000 {
            assert!(ORDERS.contains(&ids.new_order()));
            let order = ids.order(&mut random);
            assert!(order == 1 || ORDERS.contains(&order), "{order}");
            let user = ids.user(&mut random);
            assert!(SEED_USERS.contains(&user) || USERS.contains(&user), "{user}");
        }
        assert_eq!(ids.first_users(), 100_000..=100_009);
    }
}

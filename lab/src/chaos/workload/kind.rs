//! What a transaction does, and how often each kind comes.

use serde::Serialize;

use crate::random::Random;

/// A kind of transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Users that are not there are made.
    MakeUsers,
    /// New orders, up to three.
    #[default]
    Place,
    /// An order gets any status, also one that it had before.
    Step,
    /// Quantity and price, product, or category of an order.
    Change,
    /// An order becomes another user's, who need not exist.
    MoveToUser,
    Delete,
    /// A key that is free, often one that was deleted, is used again.
    PlaceAgain,
    /// Deleted and placed again in one transaction.
    Replace,
    /// The row gets another key: a new one or one that is free again.
    ChangeKey,
    /// Two orders swap their keys, by way of a third.
    SwapKeys,
    /// Written whether it is there or not.
    Upsert,
    /// Nothing changes, and yet it is a change.
    Touch,
    ChangeUser,
    AddUser,
    /// Also of a user who has orders.
    DeleteUser,
    ChangeUserKey,
    /// A user and one of its orders.
    OrderAndUser,
    /// Statements over many rows.
    ManyRows,
    /// A savepoint is rolled back in the middle.
    Savepoint,
    /// All is rolled back.
    Rollback,
    /// Many changes, and a while between them.
    Long,
    /// Thousands of rows.
    Big,
    /// TRUNCATE of the orders.
    Truncate,
    /// TRUNCATE between changes of one transaction.
    TruncateAmid,
}

/// The kinds as they come where nothing else is set: in 1,000 transactions.
pub const WEIGHTS: &[(Kind, usize)] = &[
    (Kind::Place, 210),
    (Kind::Step, 210),
    (Kind::Change, 110),
    (Kind::MoveToUser, 50),
    (Kind::Delete, 45),
    (Kind::PlaceAgain, 50),
    (Kind::Replace, 25),
    (Kind::ChangeKey, 35),
    (Kind::SwapKeys, 8),
    (Kind::Upsert, 25),
    (Kind::Touch, 25),
    (Kind::ChangeUser, 50),
    (Kind::AddUser, 25),
    (Kind::DeleteUser, 12),
    (Kind::ChangeUserKey, 4),
    (Kind::OrderAndUser, 35),
    (Kind::ManyRows, 30),
    (Kind::Savepoint, 25),
    (Kind::Rollback, 15),
    (Kind::Long, 4),
    (Kind::Big, 1),
    (Kind::Truncate, 1),
    (Kind::TruncateAmid, 1),
];

/// One of these kinds, by weight.
pub fn choose(random: &mut Random, weights: &[(Kind, usize)]) -> Kind {
    let mut left = random.below(weights.iter().map(|(_, weight)| weight).sum());
    for &(kind, weight) in weights {
        match left.checked_sub(weight) {
            Some(rest) => left = rest,
            None => return kind,
        }
    }
    Kind::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn each_kind_comes_about_as_often_as_its_weight_says() {
        let mut random = Random::seeded(1);
        let mut found: BTreeMap<Kind, usize> = BTreeMap::new();
        (0..100_000).for_each(|_| *found.entry(choose(&mut random, WEIGHTS)).or_default() += 1);
        let all: usize = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        for (kind, weight) in WEIGHTS {
            let (wanted, came) = (weight * 100_000 / all, found.get(kind).copied().unwrap_or_default());
            assert!(came > wanted / 2 && came < wanted * 2, "{kind:?}: {came}, not {wanted}");
        }
    }

    #[test]
    fn a_kind_alone_always_comes_and_no_kind_is_the_default() {
        let mut random = Random::seeded(1);
        assert_eq!(choose(&mut random, &[(Kind::Step, 0), (Kind::Big, 1)]), Kind::Big);
        assert_eq!(choose(&mut random, &[]), Kind::Place);
    }
}

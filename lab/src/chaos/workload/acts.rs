//! What a transaction of a kind does, as steps of SQL. Nothing here knows a connection.

use std::time::Duration;

use super::ids::{Ids, ORDERS};
use super::kind::Kind;
use super::{Settings, values};
use crate::places::Names;
use crate::random::Random;

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A statement, and whether what it does stays.
    Run {
        sql: String,
        stays: bool,
    },
    Wait(Duration),
}

/// What the transactions are made of.
pub struct Acts<'a> {
    pub orders: String,
    pub users: String,
    pub settings: &'a Settings,
}

const COLUMNS: &str = "order_id, user_id, product_name, product_category, quantity, unit_price, total_amount, \
                       order_status, order_time, updated_at";
const USER_COLUMNS: &str = "user_id, username, email, phone, city, register_time";
const NOW: &str = "updated_at = clock_timestamp()";

fn run(sql: impl Into<String>) -> Step {
    Step::Run { sql: sql.into(), stays: true }
}

fn passing(sql: impl Into<String>) -> Step {
    Step::Run { sql: sql.into(), stays: false }
}

fn transaction(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    let begin = std::iter::once(passing("BEGIN"));
    begin.chain(steps).chain(std::iter::once(passing("COMMIT"))).collect()
}

impl<'a> Acts<'a> {
    pub fn new(names: &Names, settings: &'a Settings) -> Self {
        Acts { orders: names.orders.sql(), users: names.users.sql(), settings }
    }

    /// The steps of one transaction. A single statement is a transaction of its own.
    pub fn of(&self, kind: Kind, ids: &mut Ids, random: &mut Random) -> Vec<Step> {
        match kind {
            Kind::MakeUsers => vec![run(self.make_users(ids, random))],
            Kind::Place => vec![run(self.place_new(ids, random))],
            Kind::Step => vec![run(self.step(ids, random))],
            Kind::Change => vec![run(self.change(ids, random))],
            Kind::MoveToUser => vec![run(self.move_to_user(ids, random))],
            Kind::Delete => vec![run(self.delete(ids, random))],
            Kind::PlaceAgain => vec![run(self.place_again(ids, random))],
            Kind::Replace => self.replace(ids, random),
            Kind::ChangeKey => vec![run(self.change_key(ids, random))],
            Kind::SwapKeys => self.swap_keys(ids, random),
            Kind::Upsert => vec![run(self.upsert(ids, random))],
            Kind::Touch => vec![run(self.touch(ids, random))],
            Kind::ChangeUser => vec![run(self.change_user(ids, random))],
            Kind::AddUser => vec![run(self.add_user(ids, random))],
            Kind::DeleteUser => vec![run(format!("DELETE FROM {} WHERE user_id = {}", self.users, ids.user(random)))],
            Kind::ChangeUserKey => vec![run(self.change_user_key(ids, random))],
            Kind::OrderAndUser => transaction(self.order_and_user(ids, random)),
            Kind::ManyRows => transaction([run(self.many_rows(ids, random)), run(self.many_rows(ids, random))]),
            Kind::Savepoint => self.savepoint(ids, random),
            Kind::Rollback => self.rollback(ids, random),
            Kind::Long => self.long(ids, random),
            Kind::Big => self.big(ids, random),
            Kind::Truncate => vec![run(format!("TRUNCATE {}", self.orders))],
            Kind::TruncateAmid => self.truncate_amid(ids, random),
        }
    }

    /// The first order with this key or a higher one, as a subselect.
    fn near(&self, order_id: i64) -> String {
        let (orders, end) = (&self.orders, ORDERS.end());
        format!("(SELECT order_id FROM {orders} WHERE order_id BETWEEN {order_id} AND {end} ORDER BY order_id LIMIT 1)")
    }

    fn an_order(&self, ids: &Ids, random: &mut Random) -> String {
        self.near(ids.order(random))
    }

    fn row(&self, order_id: i64, ids: &Ids, random: &mut Random) -> String {
        let [quantity, price, amount] = values::amounts(random);
        format!(
            "({order_id}, {}, {}, {}, {quantity}, {price}, {amount}, {}, {}, clock_timestamp())",
            ids.user(random),
            values::product(random),
            values::category(random),
            values::status(random),
            values::time(random)
        )
    }

    fn insert(&self, rows: &[String]) -> String {
        format!("INSERT INTO {} ({COLUMNS}) VALUES {}", self.orders, rows.join(", "))
    }

    fn place_new(&self, ids: &mut Ids, random: &mut Random) -> String {
        let count = if random.one_in(4) { 3 } else { 1 };
        let rows: Vec<String> = (0..count)
            .map(|_| {
                let id = ids.new_order();
                self.row(id, ids, random)
            })
            .collect();
        self.insert(&rows)
    }

    fn update(&self, set: &str, order: &str) -> String {
        format!("UPDATE {} SET {set} WHERE order_id = {order}", self.orders)
    }

    fn step(&self, ids: &Ids, random: &mut Random) -> String {
        let set = format!("order_status = {}, {NOW}", values::status(random));
        self.update(&set, &self.an_order(ids, random))
    }

    fn change(&self, ids: &Ids, random: &mut Random) -> String {
        let set = match random.below(3) {
            0 => {
                let [quantity, price, amount] = values::amounts(random);
                format!("quantity = {quantity}, unit_price = {price}, total_amount = {amount}, {NOW}")
            }
            1 => format!("product_name = {}, {NOW}", values::product(random)),
            _ => format!("product_category = {}, {NOW}", values::category(random)),
        };
        self.update(&set, &self.an_order(ids, random))
    }

    fn move_to_user(&self, ids: &Ids, random: &mut Random) -> String {
        let set = format!("user_id = {}, {NOW}", ids.user(random));
        self.update(&set, &self.an_order(ids, random))
    }

    fn delete(&self, ids: &Ids, random: &mut Random) -> String {
        format!("DELETE FROM {} WHERE order_id = {}", self.orders, self.an_order(ids, random))
    }

    fn place_again(&self, ids: &Ids, random: &mut Random) -> String {
        let row = self.row(ids.order(random), ids, random);
        format!("{} ON CONFLICT DO NOTHING", self.insert(&[row]))
    }

    fn replace(&self, ids: &Ids, random: &mut Random) -> Vec<Step> {
        let id = ids.order(random);
        let delete = format!("DELETE FROM {} WHERE order_id = {id}", self.orders);
        transaction([run(delete), run(self.insert(&[self.row(id, ids, random)]))])
    }

    fn change_key(&self, ids: &mut Ids, random: &mut Random) -> String {
        let to = if random.one_in(2) { ids.new_order() } else { ids.order(random) };
        let set = if random.one_in(3) { format!(", {NOW}") } else { String::new() };
        self.update(&format!("order_id = {to}{set}"), &self.an_order(ids, random))
    }

    fn swap_keys(&self, ids: &mut Ids, random: &mut Random) -> Vec<Step> {
        let (one, other, between) = (ids.order(random), ids.order(random), ids.new_order());
        let moved = |from: i64, to: i64| run(self.update(&format!("order_id = {to}"), &from.to_string()));
        transaction([moved(one, between), moved(other, one), moved(between, other)])
    }

    fn upsert(&self, ids: &Ids, random: &mut Random) -> String {
        let row = self.row(ids.order(random), ids, random);
        let kept = "order_status = excluded.order_status, product_name = excluded.product_name, \
                    updated_at = excluded.updated_at";
        format!("{} ON CONFLICT (order_id) DO UPDATE SET {kept}", self.insert(&[row]))
    }

    fn touch(&self, ids: &Ids, random: &mut Random) -> String {
        self.update("order_status = order_status", &self.an_order(ids, random))
    }

    fn user_row(&self, user_id: i64, random: &mut Random) -> String {
        format!(
            "({user_id}, {}, {}, {}, {}, {})",
            values::username(random),
            values::email(random),
            values::phone(random),
            values::city(random),
            values::time(random)
        )
    }

    fn insert_users(&self, rows: &[String]) -> String {
        let users = &self.users;
        format!("INSERT INTO {users} ({USER_COLUMNS}) VALUES {} ON CONFLICT DO NOTHING", rows.join(", "))
    }

    fn make_users(&self, ids: &Ids, random: &mut Random) -> String {
        let rows: Vec<String> = ids.first_users().map(|user| self.user_row(user, random)).collect();
        self.insert_users(&rows)
    }

    fn add_user(&self, ids: &Ids, random: &mut Random) -> String {
        let row = self.user_row(ids.user(random), random);
        self.insert_users(&[row])
    }

    fn change_user(&self, ids: &Ids, random: &mut Random) -> String {
        let set = match random.below(4) {
            0 => format!("username = {}", values::username(random)),
            1 => format!("email = {}, phone = {}", values::email(random), values::phone(random)),
            _ => format!("city = {}", values::city(random)),
        };
        format!("UPDATE {} SET {set}, {NOW} WHERE user_id = {}", self.users, ids.user(random))
    }

    fn change_user_key(&self, ids: &Ids, random: &mut Random) -> String {
        let (from, to) = (ids.user(random), ids.user(random));
        format!("UPDATE {} SET user_id = {to} WHERE user_id = {from}", self.users)
    }

    /// Either comes first.
    fn order_and_user(&self, ids: &mut Ids, random: &mut Random) -> Vec<Step> {
        let user = ids.user(random);
        let user_first = self.user_row(user, random);
        let order = ids.new_order();
        let order = self.insert(&[self.row(order, ids, random)]);
        let city = format!("UPDATE {} SET city = {}, {NOW} WHERE user_id = {user}", self.users, values::city(random));
        let owned = format!("UPDATE {} SET user_id = {user}, {NOW} WHERE order_id = ", self.orders);
        let owned = owned + &self.an_order(ids, random);
        let mut steps = vec![run(self.insert_users(&[user_first])), run(order), run(city), run(owned)];
        random.shuffle(&mut steps);
        steps
    }

    fn many_rows(&self, ids: &mut Ids, random: &mut Random) -> String {
        let (orders, from, end) = (&self.orders, ids.order(random), ORDERS.end());
        let count = random.below(60) + 2;
        let some = format!(
            "(SELECT order_id FROM {orders} WHERE order_id BETWEEN {from} AND {end} ORDER BY order_id LIMIT {count})"
        );
        match random.below(5) {
            0 => {
                let rows: Vec<String> = (0..count)
                    .map(|_| {
                        let id = ids.new_order();
                        self.row(id, ids, random)
                    })
                    .collect();
                self.insert(&rows)
            }
            1 if random.one_in(3) => format!("DELETE FROM {orders} WHERE order_id IN {some}"),
            2 => {
                format!("UPDATE {orders} SET order_status = {}, {NOW} WHERE order_id IN {some}", values::status(random))
            }
            3 => format!(
                "UPDATE {} SET city = {}, {NOW} WHERE user_id % {count} = 0",
                self.users,
                values::city(random)
            ),
            _ => format!(
                "UPDATE {orders} SET quantity = quantity % 20 + 1, total_amount = (quantity % 20 + 1) * unit_price, {NOW}
                 WHERE order_id IN {some}"
            ),
        }
    }

    /// Some change of one or a few rows.
    fn any(&self, ids: &mut Ids, random: &mut Random) -> String {
        match random.below(8) {
            0 => self.place_new(ids, random),
            1 => self.change(ids, random),
            2 => self.move_to_user(ids, random),
            3 => self.delete(ids, random),
            4 => self.change_user(ids, random),
            5 => self.place_again(ids, random),
            _ => self.step(ids, random),
        }
    }

    fn savepoint(&self, ids: &mut Ids, random: &mut Random) -> Vec<Step> {
        transaction([
            run(self.any(ids, random)),
            passing("SAVEPOINT s"),
            passing(self.any(ids, random)),
            passing(self.many_rows(ids, random)),
            passing("ROLLBACK TO SAVEPOINT s"),
            run(self.any(ids, random)),
            passing("RELEASE SAVEPOINT s"),
            run(self.any(ids, random)),
        ])
    }

    fn rollback(&self, ids: &mut Ids, random: &mut Random) -> Vec<Step> {
        let changes = [self.any(ids, random), self.many_rows(ids, random), self.any(ids, random)];
        let begin = std::iter::once(passing("BEGIN"));
        begin.chain(changes.map(passing)).chain(std::iter::once(passing("ROLLBACK"))).collect()
    }

    fn long(&self, ids: &mut Ids, random: &mut Random) -> Vec<Step> {
        const CHANGES: u32 = 20;
        let pause = self.settings.long / CHANGES;
        let length = u32::try_from(random.below(CHANGES as usize)).unwrap_or_default() + 1;
        let steps = (0..length).flat_map(|_| [run(self.any(ids, random)), Step::Wait(pause)]);
        transaction(steps.collect::<Vec<_>>())
    }

    /// Thousands of rows come and are changed at once; a part of them goes again.
    fn big(&self, ids: &mut Ids, random: &mut Random) -> Vec<Step> {
        let orders = &self.orders;
        let rows = i64::from(self.settings.big_rows.max(1));
        let (first, step) = ids.new_orders(rows);
        let last = first + (rows - 1) * step;
        let insert = format!(
            "INSERT INTO {orders} ({COLUMNS})
             SELECT {first} + n * {step}, {} + n % 50, 'bulk ' || n, {}, n % 9 + 1, 2.50, (n % 9 + 1) * 2.50, {},
                    timestamp '2024-05-05' + n * interval '1 ms', clock_timestamp()
             FROM generate_series(0, {rows} - 1) n",
            ids.user(random),
            values::category(random),
            values::status(random)
        );
        let ours = format!("order_id BETWEEN {first} AND {last} AND (order_id - {first}) % {step} = 0");
        let change = format!("UPDATE {orders} SET order_status = {}, {NOW} WHERE {ours}", values::status(random));
        let delete = format!("DELETE FROM {orders} WHERE {ours} AND (order_id - {first}) / {step} % 7 = 0");
        transaction([run(insert), run(change), run(delete)])
    }

    fn truncate_amid(&self, ids: &mut Ids, random: &mut Random) -> Vec<Step> {
        transaction([
            run(self.place_new(ids, random)),
            run(self.step(ids, random)),
            run(format!("TRUNCATE {}", self.orders)),
            run(self.place_new(ids, random)),
            run(self.place_again(ids, random)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::workload::kind::WEIGHTS;

    fn steps(kind: Kind, seed: u64) -> Vec<Step> {
        let settings = Settings::default();
        let acts = Acts::new(&Names::default(), &settings);
        let mut ids = Ids::new(0, 4, settings.users, *ORDERS.start());
        acts.of(kind, &mut ids, &mut Random::seeded(seed))
    }

    fn texts(steps: &[Step]) -> Vec<&str> {
        fn text(step: &Step) -> &str {
            match step {
                Step::Run { sql, .. } => sql.as_str(),
                Step::Wait(_) => "wait",
            }
        }
        steps.iter().map(text).collect()
    }

    #[test]
    fn the_same_seed_does_the_same() {
        for &(kind, _) in WEIGHTS {
            assert_eq!(steps(kind, 4), steps(kind, 4), "{kind:?}");
        }
        assert_ne!(steps(Kind::Place, 4), steps(Kind::Place, 5));
    }

    #[test]
    fn a_transaction_that_is_begun_is_ended_and_a_single_statement_needs_none() {
        for &(kind, _) in WEIGHTS {
            for seed in 0..50 {
                let steps = steps(kind, seed);
                let texts = texts(&steps);
                if texts.len() == 1 {
                    assert_ne!(texts[0], "BEGIN");
                    continue;
                }
                let end = if kind == Kind::Rollback { "ROLLBACK" } else { "COMMIT" };
                assert_eq!((texts[0], *texts.last().unwrap()), ("BEGIN", end), "{kind:?}");
            }
        }
    }

    #[test]
    fn what_is_rolled_back_is_not_said_to_stay() {
        let stay = |kind| {
            let steps = steps(kind, 1);
            steps.iter().filter(|step| matches!(step, Step::Run { stays: true, .. })).count()
        };
        assert_eq!((stay(Kind::Rollback), stay(Kind::Savepoint), stay(Kind::Place)), (0, 3, 1));
    }

    #[test]
    fn a_long_transaction_waits_between_its_changes() {
        let steps = steps(Kind::Long, 9);
        assert!(steps.contains(&Step::Wait(Settings::default().long / 20)), "{steps:?}");
    }
}

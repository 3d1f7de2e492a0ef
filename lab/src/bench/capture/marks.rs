//! Numbered changes of a row. Each is made when it is due, whatever became of those before, and is known by its number wherever the
//! row is seen: in a record of a topic, in a message of the server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::failure::Failure;
use shared::pg::refused;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::places::Names;

/// Begins with a byte that rows seldom have, which makes it quick to find.
const SIGN: &[u8] = b"#bench ";
const DIGITS: usize = 8;

/// Bytes of a mark.
pub const LENGTH: usize = SIGN.len() + DIGITS;

fn text(number: u32) -> String {
    format!("{}{number:0DIGITS$}", String::from_utf8_lossy(SIGN))
}

/// The numbers of all marks in these bytes.
pub fn numbers(bytes: &[u8]) -> Vec<u32> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Some(at) = rest.iter().position(|byte| SIGN.first() == Some(byte)) {
        let from_here = rest.get(at..).unwrap_or_default();
        let digits = from_here.strip_prefix(SIGN).and_then(|behind| behind.get(..DIGITS));
        found.extend(digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u32>().ok()));
        rest = from_here.get(1..).unwrap_or_default();
    }
    found
}

/// The row that is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    Order(i64),
    User(i64),
}

impl Row {
    fn statement(self, names: &Names) -> (String, i64) {
        match self {
            Row::Order(id) => (format!("UPDATE {} SET product_name = $1 WHERE order_id = $2", names.orders.sql()), id),
            Row::User(id) => (format!("UPDATE {} SET username = $1 WHERE user_id = $2", names.users.sql()), id),
        }
    }
}

/// When each mark was seen first.
pub type Seen = BTreeMap<u32, Instant>;

/// What the maker of marks and those who look for them know of each other.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    made: AtomicU32,
    closed: AtomicBool,
    seen: Mutex<Seen>,
}

impl Board {
    /// Marks that were made so far.
    pub fn made(&self) -> u32 {
        self.0.made.load(Ordering::SeqCst)
    }

    /// No more marks are made or looked for.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
    }

    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    /// Enters the marks in these bytes as seen now.
    pub fn look_into(&self, bytes: &[u8]) {
        let found = numbers(bytes);
        if found.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for number in found {
            seen.entry(number).or_insert(now);
        }
    }

    pub fn seen(&self) -> Seen {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this mark is seen, at most for so long.
    pub async fn wait_for(&self, number: u32, patience: Duration) {
        let since = Instant::now();
        while !self.seen().contains_key(&number) && since.elapsed() < patience && !self.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A mark that was made.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    pub due: Instant,
    /// When the server had answered that it is committed.
    pub answered: Instant,
}

/// Makes marks from number 0 on, so many a second, until there are `count` or the board is closed.
pub async fn make(
    source: &mut PgConnection,
    names: &Names,
    row: Row,
    (rate, count): (u32, u32),
    board: &Board,
) -> Result<Vec<Made>, Failure> {
    let (sql, id) = row.statement(names);
    let (begin, mut made) = (Instant::now(), Vec::new());
    for number in 0..count {
        let due = begin + Duration::from_secs_f64(f64::from(number) / f64::from(rate.max(1)));
        tokio::time::sleep_until(due.into()).await;
        if board.is_closed() {
            break;
        }
        let change = sqlx::query(AssertSqlSafe(sql.clone())).bind(text(number)).bind(id).execute(&mut *source);
        if let Err(error) = change.await {
            board.close();
            return Err(refused("a row cannot be changed at the source", error));
        }
        made.push(Made { due, answered: Instant::now() });
        board.0.made.store(number + 1, Ordering::SeqCst);
    }
    Ok(made)
}

/// From the answer to each mark's commit until it was seen, in microseconds. It may be seen before the answer has come.
pub fn waits_us(made: &[Made], seen: &Seen, from: impl Fn(&Made) -> Instant) -> Vec<i64> {
    let pairs = (0_u32..).zip(made).filter_map(|(number, made)| Some((made, *seen.get(&number)?)));
    pairs.map(|(made, seen)| between_us(from(made), seen)).collect()
}

fn between_us(from: Instant, to: Instant) -> i64 {
    let microseconds = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    match to.checked_duration_since(from) {
        Some(after) => microseconds(after),
        None => -microseconds(from - to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_in_any_bytes() {
        let bytes = [b"\x00#b#".as_slice(), text(7).as_bytes(), b"\xff##bench 12", text(12).as_bytes()].concat();
        assert_eq!(numbers(&bytes), [7, 12]);
        assert_eq!(text(7).len(), LENGTH);
        assert!(numbers(b"#bench 1").is_empty());
    }

    #[test]
    fn a_mark_that_is_seen_before_the_answer_has_waited_less_than_nothing() {
        let now = Instant::now();
        let made = [Made { due: now, answered: now + Duration::from_millis(5) }; 2];
        let seen = Seen::from([(0, now + Duration::from_millis(2)), (1, now + Duration::from_millis(9))]);
        assert_eq!(waits_us(&made, &seen, |made| made.answered), [-3_000, 4_000]);
        assert!(waits_us(&made, &Seen::new(), |made| made.due).is_empty());
    }
}

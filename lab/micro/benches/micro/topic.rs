//! Batches of orders as they stand in the topics.

use lab::bench::rows;
use shared::batch::{Batch, Record};
use shared::position::{Lsn, Version};
use shared::record::header::{Header, Operation};

/// Records of a batch, as the settings have it.
pub const RECORDS: u32 = 1_000;
pub const USERS: u32 = 10_000;

/// The text of the header of the record with this number.
fn header(number: u32) -> String {
    let version = Version { epoch: 1, lsn: Lsn(0x16B_3748 + u64::from(number)), index: 0, part: 0 };
    Header { commit_time_us: Some(1_752_226_555_145_000), ..Header::new(Operation::Insert, version) }.text()
}

fn batch(numbers: impl Iterator<Item = u32>, record: impl Fn(u32) -> (String, String)) -> Batch {
    let mut batch = Batch::default();
    for number in numbers {
        let ((key, row), header) = (record(number), header(number));
        let (key, value, header) = (Some(key.as_bytes()), Some(row.as_bytes()), Some(header.as_bytes()));
        batch.push(Record { partition: 0, offset: i64::from(number), key, value, header });
    }
    batch
}

fn order_key(order: u32) -> String {
    format!("{{\"order_id\":{order}}}")
}

/// Orders as cdc-ingest writes them, the first with this number.
pub fn captured(first: u32) -> Batch {
    batch(first..first + RECORDS, |order| (order_key(order), rows::order(order, USERS)))
}

/// Orders as dwd-cleaner writes them.
pub fn cleaned(first: u32) -> Batch {
    batch(first..first + RECORDS, |order| {
        let row = rows::order(order, USERS);
        (order_key(order), format!("{}{}}}", row.trim_end_matches('}'), rows::cleaned(order)))
    })
}

/// All users.
pub fn users() -> Batch {
    batch(0..USERS, |user| (format!("{{\"user_id\":{user}}}"), rows::user(user)))
}

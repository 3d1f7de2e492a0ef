//! What joining is: orders and users in, results out. It knows no client; time comes with the call.
//!
//! Mode `latest`: a result carries the user as it is now. A user's change sends all of that user's orders again, in a lane of its own.
//! A result's version is (order version, user version), compared in that order, and every result of a key has a higher one than the
//! last: a fresh order takes the user's present version, and the lane passes over orders that carry it already. Fresh orders need the
//! users only, so they are joined while the older orders of their partition are still read back; the lane waits for those.

use std::collections::{BTreeMap, HashMap};

use shared::batch::{Batch, Outgoing, Record};
use shared::failure::{Failure, FailureKind};
use shared::metrics;
use shared::position::{ResultVersion, Version};
use shared::record::dead_letter::{self, Rejection};
use shared::record::header::{Header, Operation};
use shared::record::ods::orders;
use shared::record::result;
use shared::record::row::{Columns, RowError, write_string};

use crate::orders::PartitionOrders;
use crate::read_back::{ReadBack, Ticket, Wanted};
use crate::reemit::Lane;
use crate::settings::Settings;
use crate::users::{Applied, Users};

/// Indexes of the publisher's topics.
pub const OUTPUT: usize = 0;
pub const DEAD_LETTERS: usize = 1;

/// Offsets behind the records of a batch, by partition.
pub type Offsets = Vec<(i32, i64)>;

const USER_ID: usize = 0;
const ADDED: [&str; 7] = [
    result::USERNAME,
    result::EMAIL,
    result::PHONE,
    result::CITY,
    result::USER_REGISTER_TIME,
    result::USER_CITY_TIER,
    result::JOIN_TIME,
];

/// Reads what the join needs of an order: its user, and that it lacks the columns which the join adds.
#[derive(Debug, Clone)]
pub struct OrderReader {
    columns: Columns,
}

impl Default for OrderReader {
    fn default() -> Self {
        let names: Vec<&str> = std::iter::once(orders::USER_ID).chain(ADDED).collect();
        OrderReader { columns: Columns::new(&names) }
    }
}

impl OrderReader {
    /// The user's id as text; empty for an order without one.
    fn user_of(&self, row: &[u8]) -> Result<Box<str>, RowError> {
        let fields = self.columns.read(row)?;
        let taken = ADDED.iter().enumerate().find(|(at, _)| fields.get(at + 1).is_some());
        if let Some((_, name)) = taken {
            return Err(RowError::Taken(name));
        }
        let user = fields.get(USER_ID).ok_or(RowError::Missing(orders::USER_ID))?;
        Ok(user.text().unwrap_or_default().into())
    }

    /// Takes a record of the output topic back into the state. The newest version of a key counts, whatever the order: a record of a
    /// writer that hung may stand behind newer ones.
    pub fn restore(&self, record: &Record<'_>, held: &mut PartitionOrders) -> Result<(), Rejection> {
        let header =
            Header::parse(record.header).map_err(|error| Rejection::new("unreadable_header", error.to_string()))?;
        held.input_offset = held.input_offset.max(header.input_offset);
        held.handled = held.handled.max(header.partition_version());
        let key = record.key.unwrap_or_default();
        if held.has_newer(key, header.result_version()) {
            return Ok(());
        }
        let Some(value) = record.value else {
            held.delete(key, header.version);
            return Ok(());
        };
        let no_prefix = || Rejection::new("unreadable_header", "the header does not say where the cleaned row ends");
        let open_row = header.cleaned_bytes.and_then(|bytes| value.get(..bytes)).ok_or_else(no_prefix)?;
        let mut row = open_row.to_vec();
        row.push(b'}');
        let user = self.user_of(&row).map_err(|error| Rejection::new(error.reason(), error.to_string()))?;
        held.put(key, open_row, header.version, &user, header.user_version.unwrap_or_default());
        Ok(())
    }
}

/// A partition that begins here, as its output's tail tells it.
#[derive(Debug, Default)]
pub struct TakenOver {
    pub ticket: Ticket,
    /// The last input offset that the output names.
    pub input_offset: Option<i64>,
    /// The highest order version that the tail has.
    pub handled: Version,
}

impl TakenOver {
    pub fn wanted(&self, partition: i32) -> Wanted {
        Wanted { partition, stub: self.ticket.stub() }
    }
}

/// The join with its state.
pub struct Joiner {
    reader: OrderReader,
    users: Users,
    tickets: HashMap<i32, Ticket>,
    /// What was handled of the partitions whose older orders are still read back. The lane does not see them: it could send an order
    /// behind a newer one.
    incomplete: HashMap<i32, PartitionOrders>,
    partitions: HashMap<i32, PartitionOrders>,
    lane: Lane,
    /// Users that orders name and that are not known, since when.
    missing: BTreeMap<Box<str>, String>,
    settings: Settings,
}

impl Joiner {
    pub fn new(settings: Settings) -> Self {
        Joiner {
            reader: OrderReader::default(),
            users: Users::new(settings.join.clone()),
            tickets: HashMap::new(),
            incomplete: HashMap::new(),
            partitions: HashMap::new(),
            lane: Lane::default(),
            missing: BTreeMap::new(),
            settings,
        }
    }

    pub fn users(&self) -> &Users {
        &self.users
    }

    pub fn orders_held(&self) -> usize {
        self.partitions.values().chain(self.incomplete.values()).map(PartitionOrders::len).sum()
    }

    /// Partitions whose older orders are not read back yet.
    pub fn incomplete_len(&self) -> usize {
        self.incomplete.len()
    }

    /// Users whose orders are still to be sent again.
    pub fn lane_len(&self) -> usize {
        self.lane.len()
    }

    /// Users that orders name and that are not known, with the time since when.
    pub fn missing(&mut self) -> &BTreeMap<Box<str>, String> {
        let (users, partitions, incomplete) = (&self.users, &self.partitions, &self.incomplete);
        let has_orders =
            |user: &str| partitions.values().chain(incomplete.values()).any(|orders| orders.count_of(user) > 0);
        self.missing.retain(|user, _| !users.is_known(user) && has_orders(user));
        &self.missing
    }

    /// Partitions begin here. Their older orders are still to be read back.
    pub fn assigned(&mut self, partitions: Vec<(i32, TakenOver)>) {
        for (partition, TakenOver { ticket, input_offset, handled }) in partitions {
            self.tickets.insert(partition, ticket);
            self.partitions.remove(&partition);
            let mut since = PartitionOrders::incomplete();
            (since.input_offset, since.handled) = (input_offset, handled);
            self.incomplete.insert(partition, since);
        }
    }

    /// The older orders of a partition are here. Those that lack a change of their user go into the lane.
    pub fn read_back(&mut self, ReadBack { partition, stub, orders }: ReadBack, now: &str) -> Result<(), Failure> {
        // What was read back for an assignment that is over lacks what others did since.
        if !self.tickets.get(&partition).is_some_and(|ticket| ticket.is_of(&stub)) {
            return Ok(());
        }
        let Some(since) = self.incomplete.remove(&partition) else { return Ok(()) };
        let mut held = orders;
        held.absorb(since);
        held.complete();
        let users = &self.users;
        let version_of = |user: &str| users.get(user).map(|user| user.version).unwrap_or_default();
        for user in held.users_behind(version_of) {
            self.lane.push(user);
        }
        for user in held.users().filter(|user| !users.is_known(user)) {
            self.missing.entry(user.into()).or_insert_with(|| now.to_owned());
        }
        self.partitions.insert(partition, held);
        within("orders", self.orders_held(), self.settings.orders.held_max, "orders.held_max")
    }

    pub fn revoked(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.tickets.remove(partition);
            self.incomplete.remove(partition);
            self.partitions.remove(partition);
            self.lane.revoked(*partition);
        }
    }

    /// Takes in users. What their orders must be sent again for waits in the lane.
    pub fn take_users(&mut self, batch: &Batch, now: &str) -> Result<Outgoing<Offsets>, Failure> {
        let mut out = Outgoing::default();
        for record in batch.records() {
            match self.users.apply(&record) {
                Ok(Applied::Repeat) => metrics::REPEATS_DROPPED.inc(),
                Ok(Applied::Changed(user)) => {
                    let operation = if record.value.is_some() { Operation::Update } else { Operation::Delete };
                    let topic = self.settings.users.topic.as_str();
                    metrics::RECORDS_IN.with_label_values(&[topic, operation.as_str()]).inc();
                    if self.partitions.values().any(|orders| orders.count_of(&user) > 0) {
                        self.lane.push(user);
                    }
                }
                Err(rejection) => reject(&self.settings.users.topic, &record, &rejection, now, &mut out),
            }
        }
        within("users", self.users.len(), self.settings.users.held_max, "users.held_max")?;
        Ok(out)
    }

    /// Joins orders. The batch's position is that of all its records, whatever became of them.
    pub fn take_orders(&mut self, batch: &Batch, now: &str) -> Result<Outgoing<Offsets>, Failure> {
        let mut out = Outgoing::at(batch.next_offsets());
        let mut taken: HashMap<Operation, u64> = HashMap::new();
        for record in batch.records() {
            match self.order(&record, now, &mut out) {
                Ok(operation) => *taken.entry(operation).or_default() += 1,
                Err(rejection) => reject(&self.settings.orders.topic, &record, &rejection, now, &mut out),
            }
        }
        for (operation, count) in taken {
            metrics::RECORDS_IN.with_label_values(&[&self.settings.orders.topic, operation.as_str()]).inc_by(count);
        }
        within("orders", self.orders_held(), self.settings.orders.held_max, "orders.held_max")?;
        Ok(out)
    }

    fn order(&mut self, record: &Record<'_>, now: &str, out: &mut Outgoing<Offsets>) -> Result<Operation, Rejection> {
        let header =
            Header::parse(record.header).map_err(|error| Rejection::new("unreadable_header", error.to_string()))?;
        let key = record.key.ok_or_else(|| Rejection::new("no_key", "the record has no key"))?;
        let held = match self.incomplete.get_mut(&record.partition) {
            Some(incomplete) => incomplete,
            None => self.partitions.entry(record.partition).or_default(),
        };
        held.input_offset = Some(record.offset);
        if is_repeat(&header, key, held) {
            metrics::REPEATS_DROPPED.inc();
            return Ok(header.operation);
        }
        held.handled = header.partition_version();
        let header = Header { input_offset: Some(record.offset), ..header };
        let Some(row) = record.value else {
            held.delete(key, header.version);
            out.push(OUTPUT, record.partition, key, &header, None);
            return Ok(header.operation);
        };
        let user = self.reader.user_of(row).map_err(|error| Rejection::new(error.reason(), error.to_string()))?;
        let user_version = self.users.get(&user).map(|user| user.version);
        let open_row = row.trim_ascii_end().strip_suffix(b"}").unwrap_or(row);
        let header = Header { user_version, cleaned_bytes: Some(open_row.len()), ..header };
        held.put(key, open_row, header.version, &user, user_version.unwrap_or_default());
        push_result(out, record.partition, key, &header, open_row, self.users.appended(&user), now);
        if !self.users.is_known(&user) {
            self.missing.entry(user).or_insert_with(|| now.to_owned());
        }
        Ok(header.operation)
    }

    /// Sends some of the orders that lack a change of their user.
    pub fn reemit(&mut self, now: &str) -> Outgoing<Offsets> {
        let mut out = Outgoing::default();
        let users = &self.users;
        let version_of = |user: &str| users.get(user).map(|user| user.version).unwrap_or_default();
        while out.len() < self.settings.reemission.batch_records_max {
            let Some(due) = self.lane.next(&self.partitions, version_of) else { break };
            let (Some(held), Some(user)) = (self.partitions.get_mut(&due.partition), users.get(&due.user)) else {
                continue;
            };
            let Some(order) = held.of_user(&due.user, due.place) else { continue };
            let open_row = held.open_row(order);
            let header = Header {
                user_version: Some(user.version),
                transaction: user.transaction,
                commit_time_us: user.commit_time_us,
                input_offset: held.input_offset,
                cleaned_bytes: Some(open_row.len()),
                ..Header::new(Operation::Update, order.version)
            };
            push_result(&mut out, due.partition, order.key(), &header, &open_row, users.appended(&due.user), now);
            held.sent_with(&due.user, due.place, user.version);
        }
        out
    }

    pub fn has_reemissions(&self) -> bool {
        !self.lane.is_empty()
    }
}

/// Whether this record, or a newer one of its key, was handled before. In a partition versions only grow. A record that a replay put back
/// in has an older one: it is new where the partition has come no further than it had then, and its key is not as far.
fn is_repeat(header: &Header, key: &[u8], held: &PartitionOrders) -> bool {
    match header.put_back_at {
        None => header.version <= held.handled,
        Some(at) => {
            let version = ResultVersion { order: header.version, user: Version::default() };
            let has_this = held.version_of(key).is_some_and(|known| known.order == header.version);
            at < held.handled || has_this || held.has_newer(key, version)
        }
    }
}

/// More than may be held in memory is an error: whoever reads it decides whether there is more memory.
pub(crate) fn within(what: &str, held: usize, bound: usize, key: &str) -> Result<(), Failure> {
    if held <= bound {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Settings,
        format!("{held} {what} are to be held in memory, more than {key} = {bound}"),
    )
    .cure(format!("raise {key} if the memory is there, or share the partitions among more instances")))
}

fn push_result(
    out: &mut Outgoing<Offsets>,
    partition: i32,
    key: &[u8],
    header: &Header,
    open_row: &[u8],
    user: &[u8],
    now: &str,
) {
    out.push_with(OUTPUT, partition, key, header, |value| {
        value.extend_from_slice(open_row);
        value.extend_from_slice(user);
        value.push(b',');
        write_string(result::JOIN_TIME, value);
        value.push(b':');
        write_string(now, value);
        value.push(b'}');
        true
    });
}

fn reject(topic: &str, record: &Record<'_>, rejection: &Rejection, now: &str, out: &mut Outgoing<Offsets>) {
    metrics::REJECTED.with_label_values(&[rejection.reason]).inc();
    tracing::warn!(
        topic,
        partition = record.partition,
        offset = record.offset,
        reason = rejection.reason,
        "record rejected: {}",
        rejection.detail
    );
    let key = dead_letter::key(topic, record);
    let value = dead_letter::value("dim-joiner", topic, record, rejection, now);
    out.push(DEAD_LETTERS, 0, &key, &Header::new(Operation::Insert, Version::default()), Some(&value));
}

#[cfg(test)]
mod tests;

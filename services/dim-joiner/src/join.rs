//! What joining is: facts and rows of the dimensions in, results out. It knows no client; time comes with the call.
//!
//! A result's version is (fact version, versions of the rows), compared in that order, and every result of a key has a higher one than
//! the last: a fresh fact takes the rows as they are, and the lane passes over facts that carry them already. Fresh facts need the
//! dimensions only, so they are joined while the older facts of their partition are still read back; the lane waits for those.

use std::collections::{BTreeMap, BTreeSet};

use shared::batch::{Batch, Outgoing, Record};
use shared::failure::Failure;
use shared::metrics;
use shared::position::{JoinedVersions, Version};
use shared::record::dead_letter::{self, Rejection};
use shared::record::header::{Header, Operation};
use shared::record::row::{RowError, rendered_name, write_string};
use shared::record::time;
use smallvec::SmallVec;

use crate::ahead::{AHEAD, Ahead, Rows, fetch_facts, find_rows};
use crate::dimension::{Applied, Chosen, Dimension};
use crate::fact::{Fact, FactReader};
use crate::facts::{Kept, Named, PartitionFacts};
use crate::forgotten::Alike;
use crate::hashes::Address;
use crate::intake::Intake;
use crate::missing::Missing;
use crate::names::Name;
use crate::pace::Pace;
use crate::plan::Plan;
use crate::read_back::{ReadBack, Ticket, Wanted};
use crate::reemit::{Due, Lane};
use crate::room::Room;
use crate::settings::Settings;
use crate::shapes::Packed;
use crate::waiting::Waiter;

/// Indexes of the publisher's topics.
pub const OUTPUT: usize = 0;
pub const DEAD_LETTERS: usize = 1;

/// What is done once the records of a message are acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Offsets behind what is done, by partition.
    pub offsets: Vec<(i32, i64)>,
    /// Facts that were sent again: the next may go.
    pub is_reemission: bool,
}

/// The time of a call.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Microseconds since 1970.
    pub wall_us: i64,
    /// Milliseconds of a clock that nobody sets.
    pub steady_ms: u64,
}

impl Now {
    fn text(self) -> String {
        jiff::Timestamp::from_microsecond(self.wall_us).map(time::milliseconds).unwrap_or_default()
    }

    fn minute(self) -> u32 {
        u32::try_from(self.wall_us / 60_000_000).unwrap_or_default()
    }
}

/// A partition that begins here, as its output's tail tells it.
#[derive(Debug, Default)]
pub struct TakenOver {
    pub ticket: Ticket,
    /// The last input offset that the output names.
    pub input_offset: Option<i64>,
    /// The highest fact version that the tail has.
    pub handled: Version,
    /// Where a fact may wait for a row: all facts that the output has. What waited is not in it, though it stood in front of what is.
    pub facts: Option<PartitionFacts>,
}

impl TakenOver {
    /// What is still to be read back.
    pub fn wanted(&self, partition: i32) -> Option<Wanted> {
        self.facts.is_none().then(|| Wanted { partition, stub: self.ticket.stub() })
    }
}

/// Why a record did not become a result.
enum Trouble {
    Rejected(Rejection),
    Failed(Failure),
}

impl From<Rejection> for Trouble {
    fn from(rejection: Rejection) -> Self {
        Trouble::Rejected(rejection)
    }
}

impl From<&RowError> for Trouble {
    fn from(error: &RowError) -> Self {
        Trouble::Rejected(Rejection::new(error.reason(), error.to_string()))
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failed(failure)
    }
}

/// A fact that goes out, or the end of one.
struct Going<'a> {
    partition: i32,
    key: &'a [u8],
    header: &'a Header,
    row: Option<(&'a Fact, &'a [u8])>,
    address: &'a Address,
    rows: &'a Rows,
    /// The number of the row's form, and the row's values.
    form: Option<usize>,
    values: &'a [u8],
}

/// The join with its state.
pub struct Joiner {
    reader: FactReader,
    dimensions: Vec<Dimension>,
    room: Room,
    intakes: BTreeMap<i32, Intake>,
    /// What was handled of the partitions whose older facts are still read back. The lane does not see them: it could send a fact behind
    /// a newer one.
    incomplete: BTreeMap<i32, PartitionFacts>,
    partitions: BTreeMap<i32, PartitionFacts>,
    lane: Lane,
    pace: Pace,
    missing: Missing,
    /// `"join_time":`
    time_name: Box<[u8]>,
    settings: Settings,
}

/// What a fact gets, more or less: columns, and a longer header.
const COLUMNS_BYTES: usize = 400;

/// So many facts are looked at in one step of the lane, whether they are sent or not: some 10 ms.
const LOOKS_MAX: usize = 50_000;

impl Joiner {
    pub fn new(settings: Settings, plan: Plan, room: Room) -> Self {
        Joiner {
            reader: plan.reader,
            missing: Missing::new(plan.dimensions.len(), &settings.missing),
            dimensions: plan.dimensions.into_iter().map(|plan| Dimension::new(plan, room.hashes.clone())).collect(),
            room,
            intakes: BTreeMap::new(),
            incomplete: BTreeMap::new(),
            partitions: BTreeMap::new(),
            lane: Lane::default(),
            pace: Pace::new(settings.reemission.records_per_second_max),
            time_name: rendered_name(&settings.output.time),
            settings,
        }
    }

    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    pub fn room(&self) -> &Room {
        &self.room
    }

    fn all_facts(&self) -> impl Iterator<Item = &PartitionFacts> {
        self.partitions.values().chain(self.incomplete.values())
    }

    pub fn facts_held(&self) -> usize {
        self.all_facts().map(PartitionFacts::len).sum()
    }

    /// Memory that they take.
    pub fn facts_bytes(&self) -> u64 {
        self.all_facts().fold(self.room.used_bytes(), |known, facts| facts.on_top_of(known))
    }

    pub fn facts_on_disk(&self) -> usize {
        self.all_facts().map(PartitionFacts::on_disk).sum()
    }

    /// Facts that wait for a row.
    pub fn facts_waiting(&self) -> usize {
        self.intakes.values().map(|intake| intake.waiting.len()).sum()
    }

    /// Partitions whose older facts are not read back yet.
    pub fn incomplete_len(&self) -> usize {
        self.incomplete.len()
    }

    /// Changed rows whose facts are still to be sent again.
    pub fn lane_len(&self) -> usize {
        self.lane.len()
    }

    pub fn has_reemissions(&self) -> bool {
        !self.lane.is_empty()
    }

    /// Rows that facts name and that are not known.
    pub fn missing(&self) -> &Missing {
        &self.missing
    }

    /// Forgets missing rows that no fact names any more.
    pub fn look_through_missing(&mut self) -> Result<(), Failure> {
        let mut failed = None;
        let Joiner { missing, dimensions, intakes, partitions, incomplete, .. } = self;
        missing.retain(|dimension, name| {
            let is_known = dimensions.get(dimension).is_some_and(|rows| rows.is_known(name));
            // What waits for the row stands among no facts yet.
            let is_waited_for = intakes.values().any(|intake| intake.waiting.names(dimension, name));
            let mut facts = partitions.values().chain(incomplete.values());
            let named = facts.find_map(|facts| match facts.name(dimension, name) {
                Ok(named) => named.then_some(()),
                Err(failure) => {
                    failed = Some(failure);
                    Some(())
                }
            });
            !is_known && (is_waited_for || named.is_some())
        });
        failed.map_or(Ok(()), Err)
    }

    /// Forgets facts whose time has come; looks at no more than `most` of each partition.
    pub fn forget_old(&mut self, now: Now, most: usize) -> Result<(), Failure> {
        if self.settings.facts.expiry.after_hours > 0 {
            for facts in self.partitions.values_mut() {
                facts.forget_old(now.minute(), most, &version_now(&self.dimensions))?;
            }
        }
        Ok(())
    }

    /// Partitions begin here. Their older facts are still to be read back, where they did not come along.
    pub fn assigned(&mut self, partitions: Vec<(i32, TakenOver)>, now: Now) -> Result<(), Failure> {
        for (partition, TakenOver { ticket, input_offset, handled, facts }) in partitions {
            self.partitions.remove(&partition);
            let mut intake = Intake { ticket, last_offset: input_offset, handled, ..Intake::default() };
            match facts {
                Some(facts) => {
                    intake.unsure_up_to = handled;
                    self.intakes.insert(partition, intake);
                    self.begin(partition, facts, now)?;
                }
                None => {
                    self.intakes.insert(partition, intake);
                    self.incomplete.insert(partition, PartitionFacts::incomplete(self.room.clone()));
                }
            }
        }
        Ok(())
    }

    /// The older facts of a partition are here. Those that lack a change go into the lane.
    pub fn read_back(&mut self, ReadBack { partition, stub, facts }: ReadBack, now: Now) -> Result<(), Failure> {
        // What was read back for an assignment that is over lacks what others did since.
        if !self.intakes.get(&partition).is_some_and(|intake| intake.ticket.is_of(&stub)) {
            return Ok(());
        }
        let Some(since) = self.incomplete.remove(&partition) else { return Ok(()) };
        let mut held = facts;
        held.absorb(&since)?;
        held.complete();
        self.begin(partition, held, now)
    }

    /// All facts of the partition are here.
    fn begin(&mut self, partition: i32, mut facts: PartitionFacts, now: Now) -> Result<(), Failure> {
        let Joiner { dimensions, lane, missing, .. } = self;
        facts.for_each_name(&version_now(dimensions), |dimension, name, lags| {
            if lags {
                lane.push(dimension, name.clone());
            }
            if !dimensions.get(dimension).is_some_and(|rows| rows.is_known(name)) {
                missing.note(dimension, name, now.wall_us);
            }
        })?;
        metrics::REEMISSIONS_FORGOTTEN.inc_by(facts.all_passed_by(&newer_for(dimensions)));
        self.partitions.insert(partition, facts);
        self.room.within_bounds(self.facts_held())
    }

    pub fn revoked(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.intakes.remove(partition);
            self.incomplete.remove(partition);
            self.partitions.remove(partition);
            self.lane.revoked(*partition);
        }
    }

    /// Takes in rows of a dimension. The facts that must be sent again for it wait in the lane; those that waited for it go out.
    pub fn take_rows(&mut self, dimension: usize, batch: &Batch, now: Now) -> Result<Outgoing<Done>, Failure> {
        let mut out = Outgoing::default();
        let topic = self.dimensions.get(dimension).map(|rows| rows.read_from().to_owned()).unwrap_or_default();
        let mut released = BTreeSet::new();
        let mut taken: BTreeMap<Operation, u64> = BTreeMap::new();
        for record in batch.records() {
            let Some(rows) = self.dimensions.get_mut(dimension) else { continue };
            match rows.apply(&record) {
                Ok(Applied::Repeat) => metrics::REPEATS_DROPPED.inc(),
                Ok(applied) => {
                    let operation = if record.value.is_some() { Operation::Update } else { Operation::Delete };
                    *taken.entry(operation).or_default() += 1;
                    if let Applied::Changed(name) = applied {
                        self.changed(dimension, name, now, &mut out, &mut released)?;
                    }
                }
                Err(rejection) => reject(&topic, &record, &rejection, &now.text(), &mut out),
            }
        }
        for (operation, count) in taken {
            metrics::RECORDS_IN.with_label_values(&[&topic, operation.as_str()]).inc_by(count);
        }
        out.position.offsets = self.next_offsets(released);
        self.dimensions.get(dimension).map_or(Ok(()), Dimension::within_bounds)?;
        Ok(out)
    }

    fn changed(
        &mut self,
        dimension: usize,
        name: Name,
        now: Now,
        out: &mut Outgoing<Done>,
        released: &mut BTreeSet<i32>,
    ) -> Result<(), Failure> {
        if self.dimensions.get(dimension).is_some_and(|rows| rows.is_known(&name)) {
            self.missing.heal(dimension, &name);
        }
        let waiting =
            self.intakes.iter().map(|(partition, intake)| (*partition, intake.waiting.naming(dimension, &name)));
        let waiting: Vec<_> = waiting.filter(|(_, keys)| !keys.is_empty()).collect();
        for (partition, keys) in waiting {
            for key in keys {
                self.release(partition, &key, now, false, out)?;
            }
            released.insert(partition);
        }
        let mut is_named = false;
        for facts in self.partitions.values_mut() {
            is_named = is_named || facts.name(dimension, &name)?;
            let passed_by = facts.passed_by(dimension, &name, &newer_for(&self.dimensions));
            metrics::REEMISSIONS_FORGOTTEN.inc_by(passed_by);
        }
        if is_named {
            self.lane.push(dimension, name);
        }
        Ok(())
    }

    /// Joins facts.
    pub fn take_facts(&mut self, batch: &Batch, now: Now) -> Result<Outgoing<Done>, Failure> {
        let (mut out, end) = (Outgoing::default(), self.end_of_results(now));
        out.begin(batch, COLUMNS_BYTES);
        let mut taken: BTreeMap<Operation, u64> = BTreeMap::new();
        let mut records = batch.records();
        let (mut ahead, mut values) = (Vec::with_capacity(AHEAD), Vec::new());
        loop {
            let Joiner { reader, room, .. } = self;
            values.clear();
            let read =
                records.by_ref().take(AHEAD).map(|record| Ahead::read(record, reader, &room.hashes, &mut values));
            ahead.extend(read);
            if ahead.is_empty() {
                break;
            }
            self.look_up(&mut ahead);
            for fact in &ahead {
                match self.fact(fact, &values, now, &end, &mut out) {
                    Ok(operation) => *taken.entry(operation).or_default() += 1,
                    Err(Trouble::Rejected(rejection)) => {
                        reject(&self.settings.facts.topic, &fact.record, &rejection, &now.text(), &mut out);
                    }
                    Err(Trouble::Failed(failure)) => return Err(failure),
                }
            }
            ahead.clear();
        }
        for (operation, count) in taken {
            metrics::RECORDS_IN.with_label_values(&[&self.settings.facts.topic, operation.as_str()]).inc_by(count);
        }
        out.position.offsets = self.next_offsets(batch.next_offsets().into_iter().map(|(partition, _)| partition));
        self.room.within_bounds(self.facts_held())?;
        Ok(out)
    }

    fn next_offsets(&self, partitions: impl IntoIterator<Item = i32>) -> Vec<(i32, i64)> {
        let next = |partition: i32| Some((partition, self.intakes.get(&partition)?.next_offset()?));
        partitions.into_iter().filter_map(next).collect()
    }

    fn look_up(&self, ahead: &mut [Ahead<'_>]) {
        find_rows(ahead, &self.dimensions);
        fetch_facts(ahead, |partition| self.incomplete.get(&partition).or_else(|| self.partitions.get(&partition)));
    }

    fn fact(
        &mut self,
        Ahead { record, header, fact, form, values: place, address, rows }: &Ahead<'_>,
        values: &[u8],
        now: Now,
        end: &[u8],
        out: &mut Outgoing<Done>,
    ) -> Result<Operation, Trouble> {
        let partition = record.partition;
        let header = header.as_ref().map_err(|error| Rejection::new("unreadable_header", error.to_string()))?;
        let key = record.key.ok_or_else(|| Rejection::new("no_key", "the record has no key"))?;
        let intake = self.intakes.entry(partition).or_default();
        intake.last_offset = Some(record.offset);
        let facts = match self.incomplete.get_mut(&partition) {
            Some(incomplete) => incomplete,
            None => self.partitions.entry(partition).or_insert_with(|| PartitionFacts::new(self.room.clone())),
        };
        if intake.is_repeat(header, key, facts)? {
            metrics::REPEATS_DROPPED.inc();
            return Ok(header.operation);
        }
        if header.partition_version() > intake.unsure_up_to && intake.unsure_up_to > Version::default() {
            intake.unsure_up_to = Version::default();
            facts.complete();
        }
        intake.handled = intake.handled.max(header.partition_version());
        let fact = fact.as_ref()?.as_ref();
        let operation = header.operation;
        let wait = fact.and_then(|fact| self.wait(fact));
        let has_earlier = self.intakes.get(&partition).is_some_and(|intake| intake.waiting.has(key));
        if wait.is_some() || has_earlier {
            let (header, row) = (header.clone(), fact.cloned().zip(record.value.map(Into::into)));
            let deadline = now.steady_ms + wait.unwrap_or_default();
            self.hold(partition, key, Waiter { offset: record.offset, header, row, deadline }, now, out)?;
        } else {
            let (row, form) = (fact.zip(record.value), *form);
            let values = values.get(place.clone()).unwrap_or_default();
            self.send(Going { partition, key, header, row, address, rows, form, values }, now, end, out)?;
        }
        Ok(operation)
    }

    /// What all results of a time end with: `,"join_time":"2025-07-12 02:32:59.555"}`.
    fn end_of_results(&self, now: Now) -> Vec<u8> {
        let mut end = vec![b','];
        end.extend_from_slice(&self.time_name);
        write_string(&now.text(), &mut end);
        end.push(b'}');
        end
    }

    /// How long a fact waits for the rows that it names.
    fn wait(&self, fact: &Fact) -> Option<u64> {
        let waits = self.dimensions.iter().zip(&fact.names).filter_map(|(rows, name)| {
            let wait = rows.wait_ms()?;
            name.as_ref().filter(|name| !rows.is_settled(name)).map(|_| wait)
        });
        waits.max()
    }

    fn hold(
        &mut self,
        partition: i32,
        key: &[u8],
        waiter: Waiter,
        now: Now,
        out: &mut Outgoing<Done>,
    ) -> Result<(), Failure> {
        let Joiner { intakes, dimensions, missing, .. } = self;
        let intake = intakes.entry(partition).or_default();
        for (dimension, name) in waiter.row.iter().flat_map(|(fact, _)| fact.names.iter().enumerate()) {
            if let Some(name) = name
                && !dimensions.get(dimension).is_some_and(|rows| rows.is_known(name))
            {
                missing.note(dimension, name, waiter.header.commit_time_us.unwrap_or(now.wall_us));
            }
        }
        intake.waiting.push(key, waiter);
        if self.facts_waiting() > self.settings.missing.waiting_facts_max
            && let Some(first) = self.intakes.get(&partition).and_then(|intake| intake.waiting.first_key())
        {
            metrics::WAITS_CUT_SHORT.inc();
            self.release(partition, &first, now, true, out)?;
        }
        Ok(())
    }

    /// Sends facts whose wait is over.
    pub fn end_waits(&mut self, now: Now) -> Result<Outgoing<Done>, Failure> {
        let mut out = Outgoing::default();
        let overdue: Vec<(i32, Vec<Box<[u8]>>)> = self
            .intakes
            .iter()
            .map(|(partition, intake)| (*partition, intake.waiting.overdue(now.steady_ms)))
            .collect();
        let mut released = BTreeSet::new();
        for (partition, keys) in overdue.into_iter().filter(|(_, keys)| !keys.is_empty()) {
            for key in keys {
                self.release(partition, &key, now, false, &mut out)?;
            }
            released.insert(partition);
        }
        out.position.offsets = self.next_offsets(released);
        Ok(out)
    }

    /// Sends the records of a key that need wait no longer, in their order; the first one in any case where it is cut short.
    fn release(
        &mut self,
        partition: i32,
        key: &[u8],
        now: Now,
        cut_short: bool,
        out: &mut Outgoing<Done>,
    ) -> Result<(), Failure> {
        let mut cut_short = cut_short;
        loop {
            let Joiner { intakes, dimensions, .. } = self;
            let settled = |fact: &Fact| {
                let mut names = dimensions.iter().zip(&fact.names);
                names.all(|(rows, name)| {
                    name.as_ref().is_none_or(|name| rows.wait_ms().is_none() || rows.is_settled(name))
                })
            };
            let is_ready = |first: &Waiter| {
                let settled = first.row.as_ref().is_none_or(|(fact, _)| settled(fact));
                cut_short || first.deadline <= now.steady_ms || settled
            };
            let Some(waiter) = intakes.get_mut(&partition).and_then(|intake| intake.waiting.pop(key, is_ready)) else {
                return Ok(());
            };
            cut_short = false;
            let Waiter { header, row, .. } = waiter;
            let names = || row.iter().flat_map(|(fact, _)| &fact.names);
            let address = self.room.hashes.address(key, names().map(Option::as_ref));
            let rows = rows_of(dimensions, names());
            let mut values = Vec::new();
            let read = row.as_ref().and_then(|(_, row)| self.reader.read(row, &mut values).ok());
            let form = read.and_then(|(_, form)| form);
            let row = row.as_ref().map(|(fact, row)| (fact, &**row));
            let (header, address, rows) = (&header, &address, &rows);
            let going = Going { partition, key, header, row, address, rows, form, values: &values };
            self.send(going, now, &self.end_of_results(now), out)?;
        }
    }

    /// Sends a fact, or the end of one, and remembers it.
    fn send(&mut self, going: Going<'_>, now: Now, end: &[u8], out: &mut Outgoing<Done>) -> Result<(), Failure> {
        let Going { partition, key, header, row, address, rows, form, values } = going;
        let Joiner { reader, intakes, incomplete, partitions, dimensions, missing, .. } = self;
        let intake = intakes.entry(partition).or_default();
        let Some(facts) = incomplete.get_mut(&partition).or_else(|| partitions.get_mut(&partition)) else {
            return Ok(());
        };
        let late = header.partition_version() < intake.handled;
        let mut header = Header {
            joined: JoinedVersions::default(),
            input_offset: intake.next_offset().map(|next| next - 1),
            put_back_at: if late { Some(intake.handled) } else { header.put_back_at },
            ..*header
        };
        let Some((fact, row)) = row else {
            facts.delete(key, header.version)?;
            out.push(OUTPUT, partition, key, &header, None);
            return Ok(());
        };
        let open_row = row.trim_ascii_end().strip_suffix(b"}").unwrap_or(row);
        let chosen = choose(dimensions, rows, fact.time);
        header.joined = chosen.iter().map(Chosen::version).collect();
        header.cleaned_bytes = Some(open_row.len());
        push_result(out, partition, key, &header, open_row, &chosen, end);
        note_missing(dimensions, &chosen, missing, fact, header.commit_time_us.unwrap_or(now.wall_us));
        let kept = Kept::new(key, header.version, fact, &header.joined, open_row);
        if kept.is_old(now.minute()) {
            return facts.forget(&kept);
        }
        let packed = form.and_then(|number| reader.form(number)).map(|form| Packed { form, values });
        facts.put(&kept, address, packed)
    }

    /// Sends some of the facts that lack a change, as many as may go just now.
    pub fn reemit(&mut self, now: Now) -> Result<Outgoing<Done>, Failure> {
        let mut out = Outgoing::at(Done { is_reemission: true, ..Done::default() });
        let most = self.pace.allowed(now.steady_ms, self.settings.reemission.batch_records_max);
        let (end, mut looks) = (self.end_of_results(now), LOOKS_MAX);
        while out.len() < most {
            let Joiner { lane, partitions, dimensions, .. } = self;
            let Some(due) = lane.next(partitions, &mut looks, &version_now(dimensions))? else { break };
            self.send_again(due, now, &end, &mut out)?;
        }
        self.pace.spend(out.len());
        Ok(out)
    }

    fn send_again(&mut self, due: Due, now: Now, end: &[u8], out: &mut Outgoing<Done>) -> Result<(), Failure> {
        let Due { dimension, partition, fact: kept } = due;
        let Joiner { intakes, partitions, dimensions, missing, .. } = self;
        let (Some(facts), Some(intake)) = (partitions.get_mut(&partition), intakes.get(&partition)) else {
            return Ok(());
        };
        let fact = Fact { names: kept.names.clone().into_owned(), time: kept.time, expires: kept.expires };
        let chosen = choose(dimensions, &rows_of(dimensions, &fact.names), fact.time);
        let joined: JoinedVersions = chosen.iter().map(Chosen::version).collect();
        let cause = chosen.get(dimension).and_then(|chosen| chosen.stamp);
        let header = Header {
            joined: joined.clone(),
            transaction: cause.map(|cause| cause.transaction).unwrap_or_default(),
            commit_time_us: cause.and_then(|cause| cause.commit_time_us),
            input_offset: intake.next_offset().map(|next| next - 1),
            put_back_at: (kept.version < intake.handled).then_some(intake.handled),
            cleaned_bytes: Some(kept.open_row.len()),
            ..Header::new(Operation::Update, kept.version)
        };
        push_result(out, partition, &kept.key, &header, &kept.open_row, &chosen, end);
        note_missing(dimensions, &chosen, missing, &fact, now.wall_us);
        facts.sent_with(kept, &joined)
    }
}

/// The version of a row that a fact is joined with now.
fn version_now(dimensions: &[Dimension]) -> impl Fn(Named<'_>) -> Version {
    |Named { dimension, name, time, sent }| {
        dimensions.get(dimension).map(|rows| rows.version_now(name, time, sent)).unwrap_or_default()
    }
}

/// The newest version that one of some forgotten facts lacks.
fn newer_for(dimensions: &[Dimension]) -> impl Fn(usize, &str, &Alike) -> Option<Version> {
    |dimension, name, facts| dimensions.get(dimension)?.newer_for(name, facts)
}

/// The rows with these names.
fn rows_of<'n>(dimensions: &[Dimension], names: impl IntoIterator<Item = &'n Option<Name>>) -> Rows {
    dimensions.iter().zip(names).map(|(rows, name)| rows.number_of(name.as_ref()?)).collect()
}

/// What a fact of this time is joined with, by dimension.
fn choose<'d>(dimensions: &'d [Dimension], rows: &Rows, time: Option<i64>) -> SmallVec<[Chosen<'d>; 1]> {
    let mut chosen = SmallVec::new();
    for (dimension, row) in dimensions.iter().zip(rows) {
        chosen.push(dimension.chosen(*row, time));
    }
    chosen
}

/// In mode `as-of` a fact may carry the defaults though its row is there now: it was not at the fact's time, and none is missing.
fn note_missing(dimensions: &[Dimension], chosen: &[Chosen<'_>], missing: &mut Missing, fact: &Fact, since_us: i64) {
    for (dimension, (chosen, name)) in chosen.iter().zip(&fact.names).enumerate() {
        if let Some(name) = name
            && !chosen.is_known
            && !dimensions.get(dimension).is_some_and(|rows| rows.is_known(name))
        {
            missing.note(dimension, name, since_us);
        }
    }
}

/// A result: the cleaned row, what each dimension gives, and the end of results of this time.
fn push_result(
    out: &mut Outgoing<Done>,
    partition: i32,
    key: &[u8],
    header: &Header,
    open_row: &[u8],
    chosen: &[Chosen<'_>],
    end: &[u8],
) {
    out.push_with(OUTPUT, partition, key, header, |value| {
        value.extend_from_slice(open_row);
        for chosen in chosen {
            value.extend_from_slice(chosen.given);
        }
        value.extend_from_slice(end);
        true
    });
}

fn reject(topic: &str, record: &Record<'_>, rejection: &Rejection, now: &str, out: &mut Outgoing<Done>) {
    metrics::REJECTED.with_label_values(&[rejection.reason]).inc();
    tracing::warn!(
        topic,
        partition = record.partition,
        offset = record.offset,
        version = Header::version_in(record.header).map(tracing::field::display),
        reason = rejection.reason,
        "record rejected: {}",
        rejection.detail
    );
    let key = dead_letter::key(topic, record);
    let value = dead_letter::value("dim-joiner", topic, record, rejection, now);
    out.push(DEAD_LETTERS, 0, &key, &Header::new(Operation::Insert, Version::default()), Some(&value));
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;

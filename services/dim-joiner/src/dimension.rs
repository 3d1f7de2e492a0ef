//! A dimension: a whole table in memory, each row as the text that is put behind a fact. In mode `as-of` a row has its past as well.
//!
//! There may be millions of rows, so the index holds numbers, and looks into the rows for their names.

use std::hint::black_box;

use shared::batch::Record;
use shared::failure::Failure;
use shared::position::Version;
use shared::record::dead_letter::Rejection;
use shared::record::header::{Header, Operation};
use shared::record::row::{Columns, RowError, for_each_field};

use crate::forgotten::Alike;
use crate::hashes::{Hash, Hashes};
use crate::names::{self, Name};
use crate::numbers::Numbers;
use crate::plan::{DimensionPlan, problem};
use crate::settings::Mode;

/// Which change made a row as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub version: Version,
    pub transaction: u32,
    /// When the change was committed at the source, microseconds since 1970.
    pub commit_time_us: Option<i64>,
    /// Mode `as-of`: since when the row is so.
    since: i64,
}

/// A row as it is now.
#[derive(Debug)]
struct Row {
    /// Its name, and behind it what a fact carries of it; nothing for a row that was deleted.
    text: Box<[u8]>,
    name_bytes: u32,
    stamp: Stamp,
    /// The newest version that was seen: those that change nothing for a fact leave the stamp as it is.
    seen: Version,
    past: Vec<Past>,
}

/// A row as it was.
#[derive(Debug)]
struct Past {
    stamp: Stamp,
    given: Box<[u8]>,
}

/// What a fact is joined with.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// `None`: the row was never known. Facts carry the defaults.
    pub stamp: Option<Stamp>,
    /// `,"username":"张三",…`
    pub given: &'a [u8],
    /// The row is there: these are not the defaults.
    pub is_known: bool,
}

impl Chosen<'_> {
    pub fn version(&self) -> Version {
        self.stamp.map_or(Version::UNKNOWN, |stamp| stamp.version)
    }
}

/// What became of a record of the dimension.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// Facts that name this row carry something else now, or may.
    Changed(Name),
    /// Nothing that a fact carries has changed.
    Same,
    /// A record of this version or a newer one was there before.
    Repeat,
}

/// All rows.
pub struct Dimension {
    plan: DimensionPlan,
    read_from: String,
    key: Columns,
    rows: Vec<Row>,
    by_name: Numbers,
    hashes: Hashes,
    bytes: u64,
}

/// What an entry costs beside its text: itself, its place in the index, and what the allocator adds.
const ROW_BYTES: u64 = size_of::<Row>() as u64 + 40;
const PAST_BYTES: u64 = size_of::<Past>() as u64 + 16;

/// What a processor fetches from memory at a time.
const CACHE_LINE_BYTES: usize = 64;

impl Row {
    fn name(&self) -> &[u8] {
        self.text.get(..self.name_bytes as usize).unwrap_or_default()
    }

    fn given(&self) -> &[u8] {
        self.text.get(self.name_bytes as usize..).unwrap_or_default()
    }

    /// All versions that are known, in no order.
    fn versions(&self) -> impl Iterator<Item = (&Stamp, &[u8])> {
        let past = self.past.iter().map(|past| (&past.stamp, &*past.given));
        past.chain(std::iter::once((&self.stamp, self.given())))
    }

    /// The version that was valid at a time; before the first one the first, since what was earlier is not known.
    fn at(&self, time: i64) -> (&Stamp, &[u8]) {
        let order = |stamp: &Stamp| (stamp.since, stamp.version);
        let until = self.versions().filter(|(stamp, _)| stamp.since <= time).max_by_key(|(stamp, _)| order(stamp));
        until.or_else(|| self.versions().min_by_key(|(stamp, _)| order(stamp))).unwrap_or((&self.stamp, self.given()))
    }

    /// Whether the version that a fact of this time was sent with is forgotten, and none that is known was surely valid then: of a copy
    /// nobody can tell since when its row is so.
    fn has_lost(&self, sent: Version, time: i64) -> bool {
        let is_older = |(stamp, _): (&Stamp, _)| sent < stamp.version;
        let (chosen, _) = self.at(time);
        let is_sure = (i64::MIN + 1..=time).contains(&chosen.since);
        sent > Version::UNKNOWN && !is_sure && self.versions().all(is_older)
    }

    /// Since when a version without a time is: a row of a copy stands for all that came before it.
    fn since(&self) -> i64 {
        self.versions().map(|(stamp, _)| stamp.since).max().unwrap_or(i64::MIN)
    }
}

impl Dimension {
    pub fn new(plan: DimensionPlan, hashes: Hashes) -> Self {
        let key: Vec<&String> = plan.config.on.keys().collect();
        Dimension {
            key: Columns::new(&key),
            read_from: plan.config.read_from(),
            plan,
            rows: Vec::new(),
            by_name: Numbers::default(),
            hashes,
            bytes: 0,
        }
    }

    pub fn name(&self) -> &str {
        &self.plan.config.name
    }

    /// The topic or table that it is read from.
    pub fn read_from(&self) -> &str {
        &self.read_from
    }

    /// How long a fact waits for a row that is not known.
    pub fn wait_ms(&self) -> Option<u64> {
        (self.plan.config.mode == Mode::Wait).then_some(self.plan.config.wait_ms)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The number of a row: it keeps it, also as one that was deleted.
    pub fn number_of(&self, name: &str) -> Option<u32> {
        self.find(name, self.hashes.of(name.as_bytes()))
    }

    fn find(&self, name: &str, hash: Hash) -> Option<u32> {
        self.by_name.find(hash, |number| self.has_name(number, name))
    }

    fn has_name(&self, number: u32, name: &str) -> bool {
        self.rows.get(number as usize).is_some_and(|row| row.name() == name.as_bytes())
    }

    /// The row that most likely has a name with this hash: its own is not looked at.
    pub fn guess(&self, hash: Hash) -> Option<u32> {
        self.by_name.guess(hash)
    }

    /// Reads what joining with the row will want of memory.
    pub fn fetch(&self, number: u32) {
        let Some(row) = self.rows.get(number as usize) else { return };
        black_box((row.stamp, row.name_bytes));
        black_box(row.text.iter().step_by(CACHE_LINE_BYTES).fold(0, |all, byte| all ^ byte));
    }

    /// The row that has this name; the guess was right most often.
    pub fn confirm(&self, guess: Option<u32>, name: &str, hash: Hash) -> Option<u32> {
        guess.filter(|&number| self.has_name(number, name)).or_else(|| self.find(name, hash))
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.get(self.number_of(name)? as usize)
    }

    /// What a fact carries that names the row of this number, or none that was ever known, and is of this time.
    pub fn chosen(&self, number: Option<u32>, time: Option<i64>) -> Chosen<'_> {
        let unknown = Chosen { stamp: None, given: self.plan.columns.defaults(), is_known: false };
        let Some(row) = number.and_then(|number| self.rows.get(number as usize)) else { return unknown };
        let (stamp, given) = match (self.plan.config.mode, time) {
            (Mode::AsOf, Some(time)) => row.at(time),
            _ => (&row.stamp, row.given()),
        };
        match given.is_empty() {
            true => Chosen { stamp: Some(*stamp), ..unknown },
            false => Chosen { stamp: Some(*stamp), given, is_known: true },
        }
    }

    /// The version that a fact would be sent with now. What went out stays when the past that it shows is forgotten.
    pub fn version_now(&self, name: &str, time: Option<i64>, sent: Version) -> Version {
        let has_lost = |time| self.row(name).is_some_and(|row| row.has_lost(sent, time));
        match time.filter(|_| self.plan.config.mode == Mode::AsOf).is_some_and(has_lost) {
            true => sent,
            false => self.chosen(self.number_of(name), time).version(),
        }
    }

    /// The newest version that one of these forgotten facts would be sent with now, where that is newer than theirs.
    pub fn newer_for(&self, name: &str, facts: &Alike) -> Option<Version> {
        let row = self.row(name)?;
        let times = facts.times.filter(|_| self.plan.config.mode == Mode::AsOf);
        // Between two changes of the row all times have one answer.
        let (first, changes) = match times {
            Some((from, until)) => {
                let since = row.versions().map(|(stamp, _)| stamp.since).filter(|since| (from..=until).contains(since));
                (Some(from), since.collect())
            }
            None => (None, Vec::new()),
        };
        let all = std::iter::once(first).chain(changes.into_iter().map(Some));
        all.map(|time| self.version_now(name, time, facts.sent)).filter(|now| *now > facts.sent).max()
    }

    /// Whether the row is there now.
    pub fn is_known(&self, name: &str) -> bool {
        self.row(name).is_some_and(|row| !row.given().is_empty())
    }

    /// Whether anything is known of the row, and be it that it was deleted: nobody need wait for it.
    pub fn is_settled(&self, name: &str) -> bool {
        self.number_of(name).is_some()
    }

    /// Takes in one record of the topic or table.
    pub fn apply(&mut self, record: &Record<'_>) -> Result<Applied, Rejection> {
        let rejected = |error: RowError| Rejection::new(error.reason(), error.to_string());
        let header =
            Header::parse(record.header).map_err(|error| Rejection::new("unreadable_header", error.to_string()))?;
        let name = self.name_in(record.key.unwrap_or_default())?;
        let known = self.number_of(&name).map(|number| number as usize);
        if known.and_then(|at| self.rows.get(at)).is_some_and(|row| row.seen >= header.version) {
            return Ok(Applied::Repeat);
        }
        let given = record.value.map(|row| self.plan.columns.of(row)).transpose().map_err(rejected)?;
        let (given, time) = given.unwrap_or_default();
        let since = time.or(header.commit_time_us.filter(|_| self.plan.config.mode == Mode::AsOf));
        let stamp = |since| stamp_of(&header, since);
        match known.and_then(|at| self.rows.get_mut(at)) {
            Some(row) => {
                let (before, stamp) = (row.text.len() as u64, stamp(since.unwrap_or_else(|| row.since())));
                row.seen = header.version;
                // A copy is asked for where facts are to be sent again: after a change of the settings they may carry something else.
                let is_copy = header.operation == Operation::Snapshot;
                if self.plan.config.mode != Mode::AsOf && !is_copy && row.given() == given {
                    return Ok(Applied::Same);
                }
                row.change(stamp, &given, &self.plan);
                let past = PAST_BYTES + before;
                let kept = if self.plan.config.mode == Mode::AsOf { past } else { 0 };
                self.bytes = (self.bytes + row.text.len() as u64 + kept).saturating_sub(before);
            }
            None => self.put(&name, stamp(since.unwrap_or(i64::MIN)), &given),
        }
        Ok(Applied::Changed(name))
    }

    /// The name of the row: the text of its key.
    fn name_in(&self, key: &[u8]) -> Result<Name, Rejection> {
        let rejected = |error: RowError| Rejection::new(error.reason(), error.to_string());
        let mut columns = 0;
        for_each_field(key, |_, _| columns += 1).map_err(rejected)?;
        let fields = self.key.read(key).map_err(rejected)?;
        if columns != self.key.names().len() {
            let (place, on) = (self.read_from(), self.key.names().join(", "));
            let detail = format!("the key of `{place}` has other columns than the dimension is joined on: {on}");
            return Err(Rejection::new("key_differs", detail));
        }
        let given = |at| fields.get(at).and_then(|field| field.text());
        names::of((0..columns).map(given))
            .ok_or_else(|| Rejection::new("no_key", "a column of the key is null, or is not there"))
    }

    fn put(&mut self, name: &str, stamp: Stamp, given: &[u8]) {
        let text: Box<[u8]> = [name.as_bytes(), given].concat().into();
        self.bytes += ROW_BYTES + text.len() as u64;
        let number = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let name_bytes = u32::try_from(name.len()).unwrap_or(u32::MAX);
        self.rows.push(Row { text, name_bytes, stamp, seen: stamp.version, past: Vec::new() });
        self.by_name.insert(self.hashes.of(name.as_bytes()), number);
    }

    /// More than may be held is an error: whoever reads it decides whether there is more memory.
    pub fn within_bounds(&self) -> Result<(), Failure> {
        let (name, bound) = (self.name(), self.plan.config.memory_megabytes_max);
        if self.bytes <= bound << 20 {
            return Ok(());
        }
        let what = format!(
            "dimension `{name}` takes more memory than its memory_megabytes_max = {bound}, with {} rows",
            self.len()
        );
        Err(problem(
            what,
            format!(
                "raise memory_megabytes_max of `{name}` in [[dimensions]] if the memory is there: every instance holds the whole table"
            ),
        ))
    }

    /// Bytes that the rows take, as they are counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn stamp_of(header: &Header, since: i64) -> Stamp {
    let (version, transaction, commit_time_us) = (header.version, header.transaction, header.commit_time_us);
    Stamp { version, transaction, commit_time_us, since }
}

impl Row {
    /// The row is so from here on.
    fn change(&mut self, stamp: Stamp, given: &[u8], plan: &DimensionPlan) {
        if plan.config.mode == Mode::AsOf {
            self.past.push(Past { stamp: self.stamp, given: self.given().into() });
            if self.past.len() >= plan.config.versions_max {
                let oldest =
                    self.past.iter().enumerate().min_by_key(|(_, past)| (past.stamp.since, past.stamp.version));
                if let Some(at) = oldest.map(|(at, _)| at) {
                    self.past.swap_remove(at);
                }
            }
        }
        self.text = [self.name(), given].concat().into();
        self.stamp = stamp;
    }
}

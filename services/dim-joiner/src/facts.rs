//! The facts of the owned partitions, by key and by the rows that they name: what a change of a dimension must reach.
//!
//! It is a cache of the output topic: every result has the cleaned row in front, and its header says with which version of each
//! dimension's row it was sent. So a restart finds the facts, and which of them still lack a change, in one reading. Fresh facts are
//! joined meanwhile, and put on top of what was read.
//!
//! There are millions of them, so nothing is kept twice: the indexes hold numbers, and look into the fact or the row's place for what they
//! mean. What memory has no room for goes to the disk, the oldest first.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hint::black_box;
use std::mem::size_of;

use shared::failure::Failure;
use shared::metrics;
use shared::position::{JoinedVersions, ResultVersion, Version};
use smallvec::{SmallVec, smallvec};

use crate::disk::Shelf;
use crate::fact::{Fact, Names};
use crate::forgotten::{Alike, Forgotten};
use crate::hashes::{Address, Hash, Hashes};
use crate::names::Name;
use crate::numbers::Numbers;
use crate::room::Room;
use crate::shapes::{Packed, Shapes};
use crate::slots::{Slots, number_of};

/// A fact as it was last sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept<'a> {
    pub key: Cow<'a, [u8]>,
    pub version: Version,
    pub names: Cow<'a, Names>,
    pub joined: Cow<'a, JoinedVersions>,
    pub time: Option<i64>,
    /// Minutes since 1970.
    pub expires: Option<u32>,
    /// The cleaned row without its closing brace.
    pub open_row: Cow<'a, [u8]>,
}

impl<'a> Kept<'a> {
    pub fn new(
        key: &'a [u8],
        version: Version,
        fact: &'a Fact,
        joined: &'a JoinedVersions,
        open_row: &'a [u8],
    ) -> Self {
        let (names, joined) = (Cow::Borrowed(&fact.names), Cow::Borrowed(joined));
        let (key, open_row) = (key.into(), open_row.into());
        Kept { key, version, names, joined, time: fact.time, expires: fact.expires, open_row }
    }

    /// By dimension the row that it names, and the version of it that it was sent with.
    pub fn links(&self) -> impl Iterator<Item = (Option<&Name>, Version)> {
        self.names.iter().enumerate().map(|(dimension, name)| (name.as_ref(), self.joined.of(dimension)))
    }

    /// Its time has come.
    pub fn is_old(&self, minute: u32) -> bool {
        self.expires.is_some_and(|expires| expires <= minute)
    }

    fn result_version(&self) -> ResultVersion {
        ResultVersion { fact: self.version, joined: self.joined.clone().into_owned() }
    }
}

/// A row that a fact names.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    pub dimension: usize,
    pub name: &'a str,
    /// The fact's.
    pub time: Option<i64>,
    /// The version of the row that the fact was sent with.
    pub sent: Version,
}

/// A fact in memory.
#[derive(Debug)]
struct Held {
    /// The key, and behind it the values of the row.
    text: Box<[u8]>,
    key_bytes: u32,
    /// The number of the row's form; [`WHOLE`] where the row itself stands behind the key, without its closing brace.
    shape: u32,
    version: Version,
    time: Option<i64>,
    /// Minutes since 1970; the last one for ever.
    expires: u32,
    links: SmallVec<[Link; 1]>,
}

/// What a fact has of one dimension.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// The number of the row's place; [`NOBODY`] where the fact names none.
    owner: u32,
    /// The fact's place in that list.
    place: u32,
    /// The version of the row that it was sent with; the lowest where there was none.
    version: Version,
}

const NOBODY: u32 = u32::MAX;

const WHOLE: u32 = u32::MAX;

/// A look at a fact on the disk counts as so many looks in memory.
const LOOKS_ON_DISK: usize = 20;

/// The facts that name one row.
#[derive(Debug)]
struct Owner {
    name: Name,
    facts: Places,
}

/// The newest last. Most rows have few in a partition, which take no memory beside the list itself.
type Places = SmallVec<[u32; 4]>;

/// The facts by the rows of one dimension that they name.
#[derive(Debug, Default)]
struct Index {
    owners: Slots<Owner>,
    by_name: Numbers,
    forgotten: Forgotten,
}

/// The facts of one partition.
pub struct PartitionFacts {
    room: Room,
    /// What it has taken of the room.
    bytes: u64,
    /// As far as the room knows.
    told_bytes: u64,
    facts: Slots<Held>,
    by_key: Numbers,
    indexes: Vec<Index>,
    shapes: Shapes,
    shelf: Option<Shelf>,
    /// Keys that were removed, with the version of their tombstones: kept while older records of them may still come.
    gone: Option<HashMap<Box<[u8]>, Version>>,
    /// The number of the fact that goes to the disk next.
    evict: u32,
    /// Where forgetting looks next.
    sweep: Sweep,
    /// The last input offset that the output names.
    pub input_offset: Option<i64>,
    /// The highest fact version that the output names.
    pub handled: Version,
}

#[derive(Debug)]
enum Sweep {
    Memory(u32),
    Disk(Option<Vec<u8>>),
}

/// Where a walk over the facts of one row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    in_memory: usize,
    on_disk: Option<Vec<u8>>,
}

/// The room hears of so many bytes at a time. It is counted for several threads, and a processor that counts so waits until all that it has
/// written before is in memory: for each fact that is dear.
const TOLD_BYTES: u64 = 16 * 1024;

/// What a fact costs beside its text: itself, its places in the indexes, and what the allocator adds.
const FACT_BYTES: u64 = size_of::<Option<Held>>() as u64 + 52;
const LINK_BYTES: u64 = size_of::<Link>() as u64 + 6;
const OWNER_BYTES: u64 = size_of::<Option<Owner>>() as u64 + 32;
const GONE_BYTES: u64 = size_of::<(Box<[u8]>, Version)>() as u64 + 24;

impl Held {
    fn key(&self) -> &[u8] {
        self.text.get(..self.key_bytes as usize).unwrap_or_default()
    }

    fn values(&self) -> &[u8] {
        self.text.get(self.key_bytes as usize..).unwrap_or_default()
    }

    fn bytes(&self) -> u64 {
        FACT_BYTES + self.text.len() as u64 + self.links.len().saturating_sub(1) as u64 * LINK_BYTES
    }

    fn joined(&self) -> JoinedVersions {
        self.links.iter().map(|link| link.version).collect()
    }
}

impl Index {
    fn number_of(&self, name: &str, hash: Hash) -> Option<u32> {
        self.by_name.find(hash, |owner| self.owners.get(owner).is_some_and(|owner| *owner.name == *name))
    }

    fn facts_of(&self, name: &str, hash: Hash) -> &[u32] {
        self.number_of(name, hash).and_then(|number| self.owners.get(number)).map_or(&[], |owner| &owner.facts)
    }

    /// Enters a fact. The number of its owner, its place in the list, and the bytes that this takes.
    fn enter(&mut self, name: &Name, hash: Hash, slot: u32) -> (u32, u32, u64) {
        if let Some(number) = self.number_of(name, hash)
            && let Some(owner) = self.owners.get_mut(number)
        {
            owner.facts.push(slot);
            return (number, number_of(owner.facts.len() - 1), 0);
        }
        let number = self.owners.put(Owner { name: name.clone(), facts: smallvec![slot] });
        self.by_name.insert(hash, number);
        (number, 0, OWNER_BYTES + name.len() as u64)
    }

    /// Takes a fact out of its owner's list. The fact that came to its place, and the bytes that are given back.
    fn leave(&mut self, link: Link, hashes: &Hashes) -> (Option<u32>, u64) {
        let Some(owner) = self.owners.get_mut(link.owner) else { return (None, 0) };
        let place = link.place as usize;
        if place < owner.facts.len() {
            owner.facts.swap_remove(place);
        }
        if !owner.facts.is_empty() {
            return (owner.facts.get(place).copied(), 0);
        }
        let Some(owner) = self.owners.take(link.owner) else { return (None, 0) };
        self.by_name.remove(hashes.of(owner.name.as_bytes()), link.owner);
        (None, OWNER_BYTES + owner.name.len() as u64)
    }

    /// Reads what [`Index::enter`] will want of memory.
    fn fetch(&self, hash: Hash) {
        let guess = self.by_name.guess(hash);
        black_box(guess.and_then(|owner| self.owners.get(owner)).and_then(|owner| owner.facts.last()));
    }
}

/// Whether a fact lacks a change: a row that it names is newer than what it was sent with, and none is older. Where one is older, this
/// instance has not read as far as the one that sent it; the fact is looked at again when it has.
fn lags(versions: impl Iterator<Item = (Version, Version)>) -> bool {
    let mut lags = false;
    for (sent, now) in versions {
        if now < sent {
            return false;
        }
        lags |= now > sent;
    }
    lags
}

impl PartitionFacts {
    pub fn new(room: Room) -> Self {
        PartitionFacts {
            indexes: (0..room.dimensions).map(|_| Index::default()).collect(),
            room,
            bytes: 0,
            told_bytes: 0,
            facts: Slots::default(),
            by_key: Numbers::default(),
            shapes: Shapes::default(),
            shelf: None,
            gone: None,
            evict: 0,
            sweep: Sweep::Memory(0),
            input_offset: None,
            handled: Version::default(),
        }
    }

    /// Of a partition whose older records are still to be read, or are read just now.
    pub fn incomplete(room: Room) -> Self {
        let mut facts = PartitionFacts::new(room);
        facts.gone = Some(HashMap::new());
        facts
    }

    /// No older records will come.
    pub fn complete(&mut self) {
        for key in self.gone.take().into_iter().flatten().map(|(key, _)| key) {
            self.give_back(GONE_BYTES + key.len() as u64);
        }
    }

    pub fn len(&self) -> usize {
        self.by_key.count() + self.on_disk()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them are on the disk.
    pub fn on_disk(&self) -> usize {
        self.shelf.as_ref().map_or(0, Shelf::len)
    }

    fn take(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.tell();
    }

    fn give_back(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.tell();
    }

    /// What the room knows of, and what it does not know of these facts.
    pub fn on_top_of(&self, known_bytes: u64) -> u64 {
        (known_bytes + self.bytes).saturating_sub(self.told_bytes)
    }

    fn is_full(&self) -> bool {
        self.room.is_exceeded_by(self.on_top_of(self.room.used_bytes()))
    }

    fn tell(&mut self) {
        if self.bytes.abs_diff(self.told_bytes) >= TOLD_BYTES {
            self.room.take(self.bytes.saturating_sub(self.told_bytes));
            self.room.give_back(self.told_bytes.saturating_sub(self.bytes));
            self.told_bytes = self.bytes;
        }
    }

    fn hashes(&self) -> &Hashes {
        &self.room.hashes
    }

    fn slot_of(&self, key: &[u8]) -> Option<u32> {
        self.slot_at(self.hashes().of(key), key)
    }

    fn slot_at(&self, hash: Hash, key: &[u8]) -> Option<u32> {
        self.by_key.find(hash, |slot| self.facts.get(slot).is_some_and(|held| held.key() == key))
    }

    /// Reads what [`PartitionFacts::put`] will want of memory: of several facts one after the other, for memory answers many questions at
    /// once as soon as one.
    pub fn fetch(&self, address: &Address) {
        let known = self.by_key.guess(address.key);
        black_box(known.and_then(|slot| self.facts.get(slot)).map(|held| held.version));
        for (index, hash) in self.indexes.iter().zip(&address.names) {
            index.fetch(*hash);
        }
    }

    /// What the indexes are asked with, of this fact.
    pub fn address_of(&self, fact: &Kept<'_>) -> Address {
        self.hashes().address(&fact.key, fact.names.iter().map(Option::as_ref))
    }

    /// Remembers a fact as it is sent, by its values where they are known. The newest stands last in the lists of the rows that it names.
    pub fn put(&mut self, fact: &Kept<'_>, address: &Address, packed: Option<Packed<'_>>) -> Result<(), Failure> {
        self.remove(address.key, &fact.key)?;
        if self.gone.as_mut().and_then(|gone| gone.remove(&*fact.key)).is_some() {
            self.give_back(GONE_BYTES + fact.key.len() as u64);
        }
        self.enter(fact, address, packed);
        self.make_room()
    }

    fn enter(&mut self, fact: &Kept<'_>, address: &Address, packed: Option<Packed<'_>>) {
        let shape = packed.and_then(|packed| Some((self.shapes.number_of(packed.form)?, packed.values)));
        let (shape, row) = shape.unwrap_or((WHOLE, &fact.open_row));
        let held = Held {
            text: [&*fact.key, row].concat().into(),
            key_bytes: number_of(fact.key.len()),
            shape,
            version: fact.version,
            time: fact.time,
            expires: fact.expires.unwrap_or(u32::MAX),
            links: SmallVec::new(),
        };
        let slot = self.facts.put(held);
        let (mut links, mut bytes) = (SmallVec::new(), 0);
        for (((name, version), hash), index) in fact.links().zip(&address.names).zip(&mut self.indexes) {
            let (owner, place, taken) = match name {
                Some(name) => index.enter(name, *hash, slot),
                None => (NOBODY, 0, 0),
            };
            bytes += taken;
            links.push(Link { owner, place, version });
        }
        if let Some(held) = self.facts.get_mut(slot) {
            held.links = links;
            bytes += held.bytes();
        }
        self.by_key.insert(address.key, slot);
        self.take(bytes);
    }

    /// Moves facts to the disk until memory has room, those first that came first.
    fn make_room(&mut self) -> Result<(), Failure> {
        while self.is_full()
            && let Some(disk) = &self.room.disk
        {
            let all = self.facts.end() as usize;
            let Some(slot) = self.facts.from(self.evict, all) else { break };
            if self.shelf.is_none() {
                self.shelf = Some(disk.shelf()?);
            }
            self.evict = slot + 1;
            let Some(fact) = self.facts.get(slot).map(|held| self.kept(held)) else { break };
            self.take_out(slot);
            if let Some(shelf) = &mut self.shelf {
                shelf.put(&fact)?;
            }
        }
        Ok(())
    }

    /// A fact was deleted, by a tombstone of this version.
    pub fn delete(&mut self, key: &[u8], version: Version) -> Result<(), Failure> {
        self.remove(self.hashes().of(key), key)?;
        if let Some(gone) = &mut self.gone
            && gone.insert(key.into(), version).is_none()
        {
            self.take(GONE_BYTES + key.len() as u64);
        }
        Ok(())
    }

    fn remove(&mut self, hash: Hash, key: &[u8]) -> Result<(), Failure> {
        if let Some(slot) = self.slot_at(hash, key) {
            self.take_out(slot);
        } else if let Some(shelf) = &mut self.shelf {
            shelf.remove(key)?;
        }
        Ok(())
    }

    /// Takes a fact out of memory.
    fn take_out(&mut self, slot: u32) {
        let Some(held) = self.facts.take(slot) else { return };
        let mut bytes = held.bytes();
        let hash = self.hashes().of(held.key());
        self.by_key.remove(hash, slot);
        for (dimension, (link, index)) in held.links.iter().zip(&mut self.indexes).enumerate() {
            let (moved, given_back) = index.leave(*link, &self.room.hashes);
            bytes += given_back;
            if let Some(moved) = moved.and_then(|slot| self.facts.get_mut(slot))
                && let Some(moved) = moved.links.get_mut(dimension)
            {
                moved.place = link.place;
            }
        }
        self.give_back(bytes);
    }

    /// The version with which a fact was last sent.
    pub fn version_of(&self, key: &[u8]) -> Result<Option<ResultVersion>, Failure> {
        if let Some(held) = self.slot_of(key).and_then(|slot| self.facts.get(slot)) {
            return Ok(Some(ResultVersion { fact: held.version, joined: held.joined() }));
        }
        let Some(shelf) = &self.shelf else { return Ok(None) };
        Ok(shelf.get(key)?.map(|fact| fact.result_version()))
    }

    /// Whether this version of a fact, joined with these rows, is not above what is known of it.
    pub fn has_newer(&self, key: &[u8], version: &ResultVersion) -> Result<bool, Failure> {
        let gone = self.gone.as_ref().and_then(|gone| gone.get(key));
        if gone.is_some_and(|known| *known >= version.fact) {
            return Ok(true);
        }
        Ok(self.version_of(key)?.is_some_and(|known| known > *version))
    }

    /// Puts what was handled since on top of what was read back.
    pub fn absorb(&mut self, since: &PartitionFacts) -> Result<(), Failure> {
        for (key, version) in since.gone.iter().flatten() {
            if !self.has_newer(key, &ResultVersion { fact: *version, joined: JoinedVersions::default() })? {
                self.delete(key, *version)?;
            }
        }
        let mut after: Option<Vec<u8>> = None;
        while let Some(fact) = since.shelf.as_ref().map(|shelf| shelf.next(after.as_deref())).transpose()?.flatten() {
            self.absorb_fact(&fact, None)?;
            after = Some(fact.key.into_owned());
        }
        for held in since.facts.iter() {
            self.absorb_fact(&since.kept(held), since.packed(held))?;
        }
        for (dimension, index) in since.indexes.iter().enumerate() {
            for (name, facts) in index.forgotten.iter() {
                self.change_forgotten(dimension, |forgotten| forgotten.note(name, *facts));
            }
        }
        Ok(())
    }

    fn absorb_fact(&mut self, fact: &Kept<'_>, packed: Option<Packed<'_>>) -> Result<(), Failure> {
        if self.has_newer(&fact.key, &fact.result_version())? {
            return Ok(());
        }
        self.put(fact, &self.address_of(fact), packed)
    }

    fn packed<'h>(&'h self, held: &'h Held) -> Option<Packed<'h>> {
        Some(Packed { form: self.shapes.get(held.shape)?, values: held.values() })
    }

    fn kept(&self, held: &Held) -> Kept<'static> {
        let mut open_row = Vec::new();
        match self.packed(held) {
            Some(Packed { form, values }) => form.write_open(values, &mut open_row),
            None => open_row.extend_from_slice(held.values()),
        }
        let names = held.links.iter().enumerate().map(|(dimension, link)| self.named(dimension, link).cloned());
        Kept {
            key: Cow::Owned(held.key().to_vec()),
            version: held.version,
            names: Cow::Owned(names.collect()),
            joined: Cow::Owned(held.joined()),
            time: held.time,
            expires: (held.expires != u32::MAX).then_some(held.expires),
            open_row: open_row.into(),
        }
    }

    fn named(&self, dimension: usize, link: &Link) -> Option<&Name> {
        Some(&self.indexes.get(dimension)?.owners.get(link.owner)?.name)
    }

    /// Whether any fact names this row.
    pub fn name(&self, dimension: usize, name: &str) -> Result<bool, Failure> {
        Ok(self.count_in_memory(dimension, name) > 0
            || self.shelf.as_ref().map(|shelf| shelf.next_of(dimension, name, None)).transpose()?.flatten().is_some())
    }

    fn in_memory(&self, dimension: usize, name: &str) -> &[u32] {
        let hash = self.hashes().of(name.as_bytes());
        self.indexes.get(dimension).map_or(&[], |index| index.facts_of(name, hash))
    }

    fn count_in_memory(&self, dimension: usize, name: &str) -> usize {
        self.in_memory(dimension, name).len()
    }

    /// Begins a walk over the facts that name this row.
    pub fn walk(&self, dimension: usize, name: &str) -> Cursor {
        Cursor { in_memory: self.count_in_memory(dimension, name), on_disk: None }
    }

    /// The next fact of a walk that lacks a change: first those in memory, newest first, then those on the disk. `now` gives the version
    /// of a row that a fact would be sent with. `None` as well where it has looked at as many as `looks` had left.
    pub fn next_lagging(
        &self,
        (dimension, name): (usize, &str),
        cursor: &mut Cursor,
        looks: &mut usize,
        now: &impl Fn(Named<'_>) -> Version,
    ) -> Result<Option<Kept<'static>>, Failure> {
        while *looks > 0
            && let Some(place) = cursor.in_memory.checked_sub(1)
        {
            cursor.in_memory = place;
            *looks -= 1;
            let slot = self.in_memory(dimension, name).get(place).copied();
            if let Some(held) = slot.and_then(|slot| self.facts.get(slot))
                && self.held_lags(held, now)
            {
                return Ok(Some(self.kept(held)));
            }
        }
        let Some(shelf) = &self.shelf else { return Ok(None) };
        while *looks > 0
            && let Some(fact) = shelf.next_of(dimension, name, cursor.on_disk.as_deref())?
        {
            cursor.on_disk = Some(fact.key.to_vec());
            *looks = looks.saturating_sub(LOOKS_ON_DISK);
            if kept_lags(&fact, now) {
                return Ok(Some(fact));
            }
        }
        Ok(None)
    }

    fn held_lags(&self, held: &Held, now: &impl Fn(Named<'_>) -> Version) -> bool {
        lags(held.links.iter().enumerate().map(|(dimension, link)| {
            let (sent, time) = (link.version, held.time);
            let named = self.named(dimension, link);
            (sent, named.map_or(Version::UNKNOWN, |name| now(Named { dimension, name, time, sent })))
        }))
    }

    /// Notes that a fact was sent with these versions.
    pub fn sent_with<'k>(&mut self, mut fact: Kept<'k>, joined: &'k JoinedVersions) -> Result<(), Failure> {
        if let Some(held) = self.slot_of(&fact.key).and_then(|slot| self.facts.get_mut(slot)) {
            for (dimension, link) in held.links.iter_mut().enumerate() {
                link.version = joined.of(dimension);
            }
            return Ok(());
        }
        fact.joined = Cow::Borrowed(joined);
        self.shelf.as_ref().map_or(Ok(()), |shelf| shelf.replace(&fact))
    }

    /// Calls `take` for each fact with each row that it names: dimension, name, and whether the fact lacks a change, with one of its rows.
    pub fn for_each_name(
        &self,
        now: &impl Fn(Named<'_>) -> Version,
        mut take: impl FnMut(usize, &Name, bool),
    ) -> Result<(), Failure> {
        for held in self.facts.iter() {
            let mut lags = self.held_lags(held, now);
            for (dimension, link) in held.links.iter().enumerate() {
                if let Some(name) = self.named(dimension, link) {
                    take(dimension, name, std::mem::take(&mut lags));
                }
            }
        }
        let mut after: Option<Vec<u8>> = None;
        while let Some(fact) = self.shelf.as_ref().map(|shelf| shelf.next(after.as_deref())).transpose()?.flatten() {
            let mut lags = kept_lags(&fact, now);
            for (dimension, (name, _)) in fact.links().enumerate() {
                if let Some(name) = name {
                    take(dimension, name, std::mem::take(&mut lags));
                }
            }
            after = Some(fact.key.into_owned());
        }
        Ok(())
    }

    /// Forgets facts whose time has come; looks at no more than `most`. How many were forgotten. Those that lack a change are left until
    /// they are sent again: they are of a row that stands in the lane.
    pub fn forget_old(
        &mut self,
        minute: u32,
        most: usize,
        now: &impl Fn(Named<'_>) -> Version,
    ) -> Result<usize, Failure> {
        let mut forgotten = 0;
        for _ in 0..most {
            let fact = match &mut self.sweep {
                Sweep::Memory(hand) if *hand >= self.facts.end() => {
                    self.sweep = Sweep::Disk(None);
                    continue;
                }
                Sweep::Memory(hand) => {
                    let slot = *hand;
                    *hand += 1;
                    let old = self.facts.get(slot).filter(|held| held.expires <= minute);
                    old.map(|held| self.kept(held))
                }
                Sweep::Disk(after) => {
                    let next = self.shelf.as_ref().map(|shelf| shelf.next(after.as_deref())).transpose()?.flatten();
                    let Some(fact) = next else {
                        self.sweep = Sweep::Memory(0);
                        break;
                    };
                    *after = Some(fact.key.to_vec());
                    Some(fact).filter(|fact| fact.is_old(minute))
                }
            };
            if let Some(mut fact) = fact.filter(|fact| !kept_lags(fact, now)) {
                if pass_by(&mut fact, now) {
                    metrics::REEMISSIONS_FORGOTTEN.inc();
                }
                self.forget(&fact)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// Forgets a fact: a change of a row that it names reaches it no more.
    pub fn forget(&mut self, fact: &Kept<'_>) -> Result<(), Failure> {
        metrics::FACTS_FORGOTTEN.inc();
        self.remove(self.hashes().of(&fact.key), &fact.key)?;
        for (dimension, (name, sent)) in fact.links().enumerate() {
            if let Some(name) = name {
                let one = Alike::one(sent, fact.time);
                self.change_forgotten(dimension, |forgotten| forgotten.note(name, one));
            }
        }
        Ok(())
    }

    fn change_forgotten<T>(&mut self, dimension: usize, change: impl FnOnce(&mut Forgotten) -> T) -> Option<T> {
        let forgotten = &mut self.indexes.get_mut(dimension)?.forgotten;
        let before = forgotten.bytes();
        let changed = change(forgotten);
        let after = forgotten.bytes();
        self.take(after.saturating_sub(before));
        self.give_back(before.saturating_sub(after));
        Some(changed)
    }

    /// How many facts that named this row were forgotten and lack what it is now. `newer` gives the newest version that one of some that
    /// are alike would be sent with, where it lacks it.
    pub fn passed_by(
        &mut self,
        dimension: usize,
        name: &str,
        newer: &impl Fn(usize, &str, &Alike) -> Option<Version>,
    ) -> u64 {
        let count = |forgotten: &mut Forgotten| forgotten.passed_by(name, |facts| newer(dimension, name, facts));
        self.change_forgotten(dimension, count).unwrap_or_default()
    }

    /// The same of all rows.
    pub fn all_passed_by(&mut self, newer: &impl Fn(usize, &str, &Alike) -> Option<Version>) -> u64 {
        let mut passed_by = 0;
        for dimension in 0..self.indexes.len() {
            let count =
                |forgotten: &mut Forgotten| forgotten.all_passed_by(|name, facts| newer(dimension, name, facts));
            passed_by += self.change_forgotten(dimension, count).unwrap_or_default();
        }
        passed_by
    }
}

/// True where a fact that is not sent again lacks something all the same: a row is newer, and another one is older here than what it was
/// sent with. It is then as if it had been sent.
fn pass_by(fact: &mut Kept<'_>, now: &impl Fn(Named<'_>) -> Version) -> bool {
    let versions = fact.links().enumerate().map(|(dimension, (name, sent))| {
        let named = name.map(|name| Named { dimension, name, time: fact.time, sent });
        named.map(now).filter(|now| *now > sent).unwrap_or(sent)
    });
    let joined: JoinedVersions = versions.collect();
    let lacks = *fact.joined != joined;
    fact.joined = Cow::Owned(joined);
    lacks
}

fn kept_lags(fact: &Kept<'_>, now: &impl Fn(Named<'_>) -> Version) -> bool {
    lags(fact.links().enumerate().filter_map(|(dimension, (name, sent))| {
        let named = Named { dimension, name: name?, time: fact.time, sent };
        Some((sent, now(named)))
    }))
}

impl Drop for PartitionFacts {
    fn drop(&mut self) {
        self.room.give_back(self.told_bytes);
    }
}

/// Counts, never rows: they may be personal.
impl std::fmt::Debug for PartitionFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionFacts({} facts, {} on the disk)", self.len(), self.on_disk())
    }
}

#[cfg(test)]
pub(crate) mod tests;

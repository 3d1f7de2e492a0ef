//! Facts that memory has no room for, in an embedded store on disk (fjall). A cache as all of the state: emptied at each start.
//!
//! ```text
//!  f key                            →  version · time · expiry · for each dimension: version, name · the row
//!  n dimension · name's length · name · key  →  nothing: finds the facts that name a row
//! ```
//!
//! A name that a fact no longer has is left behind and passed over when it is read: the fact itself says what it names.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use shared::failure::{Failure, FailureKind};
use shared::position::{Lsn, Version};

use crate::fact::Names;
use crate::facts::Kept;
use crate::names::Name;
use crate::settings::DiskConfig;

/// The store of all partitions.
#[derive(Clone)]
pub struct Disk {
    database: Database,
    folder: Arc<PathBuf>,
    shelves: Arc<AtomicU64>,
    /// A part of a partition's rows that are not written yet is full with so much.
    write_bytes: u64,
    write_timeout: Duration,
}

/// The facts of one partition. They are gone when it is dropped.
pub struct Shelf {
    disk: Disk,
    keyspace: Keyspace,
    /// How many facts stand here.
    len: usize,
    /// Bytes of the part that is being filled.
    unwritten_bytes: AtomicU64,
}

/// How large the file system of the store is, in bytes, and how much of it this process may still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    pub size: u64,
    pub free: u64,
}

/// Half of the disk's memory is for blocks that were read, the rest for rows that are not written yet: a part of them for each partition, and
/// some that are full and wait to be written.
const CACHE_SHARE: u64 = 2;
const WRITE_SHARE: u64 = 16;
const WRITE_BYTES_MIN: u64 = 1 << 20;
const PARTS_WAITING_MAX: usize = 3;
/// One thread writes rows while another merges what was written: behind a merge they would pile up in memory.
const THREADS: usize = 2;
/// How long a look at rows that wait to be written sleeps before the next one.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// The least that the store takes for its journal.
const JOURNAL_BYTES: u64 = 64 << 20;

impl Disk {
    /// Opens an empty store; `None` where the settings name no folder.
    pub fn open(config: &DiskConfig) -> Result<Option<Self>, Failure> {
        if config.folder.is_empty() {
            return Ok(None);
        }
        let folder = PathBuf::from(&config.folder).join("facts");
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(trouble(&folder, error)),
            _ => {}
        }
        let memory = config.memory_megabytes_max << 20;
        let database = Database::builder(&folder)
            .cache_size(memory / CACHE_SHARE)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(THREADS)
            .temporary(true)
            .open()
            .map_err(|error| trouble(&folder, error))?;
        let write_bytes = (memory / WRITE_SHARE).max(WRITE_BYTES_MIN);
        Ok(Some(Disk {
            database,
            folder: Arc::new(folder),
            shelves: Arc::default(),
            write_bytes,
            write_timeout: Duration::from_millis(config.write_timeout_ms),
        }))
    }

    /// A place for the facts of a partition.
    pub fn shelf(&self) -> Result<Shelf, Failure> {
        let number = self.shelves.fetch_add(1, Ordering::Relaxed);
        let options = || KeyspaceCreateOptions::default().max_memtable_size(self.write_bytes);
        let made = self.database.keyspace(&format!("shelf-{number}"), options);
        let keyspace = made.map_err(|error| self.trouble(error))?;
        Ok(Shelf { disk: self.clone(), keyspace, len: 0, unwritten_bytes: AtomicU64::new(0) })
    }

    /// `None` where the system does not say it.
    pub fn file_system(&self) -> Option<FileSystem> {
        let found = rustix::fs::statvfs(self.folder.as_path()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(FileSystem { size: bytes(found.f_blocks), free: bytes(found.f_bavail) })
    }

    pub fn folder(&self) -> String {
        self.folder.display().to_string()
    }

    fn trouble(&self, error: fjall::Error) -> Failure {
        trouble(&self.folder, error)
    }

    /// Waits while more parts than may wait are to be written.
    fn await_room(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.write_timeout;
        while self.database.outstanding_flushes() > PARTS_WAITING_MAX {
            if Instant::now() > deadline {
                let within = self.write_timeout.as_millis();
                let what = format!("{} did not take what was to be written within {within} ms", self.folder.display());
                let cure = "look at the disk, or raise facts.disk.write_timeout_ms";
                return Err(Failure::new(FailureKind::Unreachable, what).cure(cure));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

fn trouble(folder: &std::path::Path, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(FailureKind::Refused, format!("facts cannot be kept in {}", folder.display())).caused_by(error).cure(
        "look at the space and the rights there, or set facts.disk.folder to another folder of this process alone",
    )
}

impl Drop for Shelf {
    fn drop(&mut self) {
        // What cannot be deleted now goes with the whole folder, at the end of the generation or at the next start.
        let _ = self.disk.database.delete_keyspace(self.keyspace.clone());
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shelf({} facts)", self.len)
    }
}

impl Shelf {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Kept<'static>>, Failure> {
        if self.is_empty() {
            return Ok(None);
        }
        match self.keyspace.get(fact_key(key)).map_err(|error| self.disk.trouble(error))? {
            Some(bytes) => self.decoded(key, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Takes in a fact that is not here.
    pub fn put(&mut self, fact: &Kept<'_>) -> Result<(), Failure> {
        let mut batch = self.disk.database.batch();
        let mut bytes = 0;
        let mut insert = |key: Vec<u8>, value: Vec<u8>| {
            bytes += entry_bytes(&key, &value);
            batch.insert(&self.keyspace, key, value);
        };
        insert(fact_key(&fact.key), encode(fact));
        for (dimension, (name, _)) in fact.links().enumerate() {
            if let Some(name) = name {
                insert([names_of(dimension, name), fact.key.to_vec()].concat(), Vec::new());
            }
        }
        batch.commit().map_err(|error| self.disk.trouble(error))?;
        self.len += 1;
        self.written(bytes)
    }

    /// Writes a fact that is here with other versions: what it names stays.
    pub fn replace(&self, fact: &Kept<'_>) -> Result<(), Failure> {
        let (key, value) = (fact_key(&fact.key), encode(fact));
        let bytes = entry_bytes(&key, &value);
        self.keyspace.insert(key, value).map_err(|error| self.disk.trouble(error))?;
        self.written(bytes)
    }

    /// So much more waits in memory to be written. The store looks at that by itself, but only asks its threads to go on with the next part: the
    /// one before grows without a bound until they come to it.
    fn written(&self, bytes: u64) -> Result<(), Failure> {
        if self.unwritten_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes < self.disk.write_bytes {
            return Ok(());
        }
        self.unwritten_bytes.store(0, Ordering::Relaxed);
        self.keyspace.rotate_memtable().map_err(|error| self.disk.trouble(error))?;
        self.disk.await_room()
    }

    /// Takes out a fact. False where it was not here.
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, Failure> {
        if self.is_empty() {
            return Ok(false);
        }
        let trouble = |error| self.disk.trouble(error);
        let key = fact_key(key);
        if !self.keyspace.contains_key(&key).map_err(trouble)? {
            return Ok(false);
        }
        let bytes = entry_bytes(&key, &[]);
        self.keyspace.remove(key).map_err(trouble)?;
        self.len -= 1;
        self.written(bytes)?;
        Ok(true)
    }

    /// The fact behind `after` that names this row, in the order of the keys.
    pub fn next_of(
        &self,
        dimension: usize,
        name: &str,
        after: Option<&[u8]>,
    ) -> Result<Option<Kept<'static>>, Failure> {
        if self.is_empty() {
            return Ok(None);
        }
        let prefix = names_of(dimension, name);
        let mut last = after.map(<[u8]>::to_vec);
        loop {
            // The key behind another is that key and a byte of zero.
            let from = last.as_ref().map_or_else(|| prefix.clone(), |last| [&prefix, &**last, &[0]].concat());
            let Some(found) = self.keyspace.range(from..).next() else { return Ok(None) };
            let found = found.key().map_err(|error| self.disk.trouble(error))?;
            let Some(key) = found.strip_prefix(&*prefix) else { return Ok(None) };
            if let Some(fact) = self.get(key)?
                && fact.names.get(dimension).and_then(Option::as_deref).is_some_and(|named| named == name)
            {
                return Ok(Some(fact));
            }
            last = Some(key.to_vec());
        }
    }

    /// The fact behind `after`, in the order of the keys.
    pub fn next(&self, after: Option<&[u8]>) -> Result<Option<Kept<'static>>, Failure> {
        if self.is_empty() {
            return Ok(None);
        }
        let from = after.map_or_else(|| vec![FACT], |after| [&[FACT], after, &[0]].concat());
        let Some(found) = self.keyspace.range(from..).next() else { return Ok(None) };
        let (key, bytes) = found.into_inner().map_err(|error| self.disk.trouble(error))?;
        match key.strip_prefix(&[FACT]) {
            Some(key) => self.decoded(key, &bytes).map(Some),
            None => Ok(None),
        }
    }

    fn decoded(&self, key: &[u8], bytes: &[u8]) -> Result<Kept<'static>, Failure> {
        decode(key, bytes).ok_or_else(|| {
            let what = format!("what stands in {} is not what was written", self.disk.folder.display());
            Failure::new(FailureKind::Broken, what).cure("look at the disk; the chain builds the state anew")
        })
    }
}

const FACT: u8 = b'f';
const NAMES: u8 = b'n';

/// What an entry takes in memory until it is written, beside its own bytes: a node, two counted slices, what the allocator adds.
const ENTRY_BYTES: usize = 160;

fn entry_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len() + ENTRY_BYTES) as u64
}

fn fact_key(key: &[u8]) -> Vec<u8> {
    [&[FACT], key].concat()
}

fn names_of(dimension: usize, name: &str) -> Vec<u8> {
    let dimension = u8::try_from(dimension).unwrap_or(u8::MAX);
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[NAMES, dimension], &length[..], name.as_bytes()].concat()
}

fn encode(fact: &Kept<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(fact.open_row.len() + 64);
    out.extend_from_slice(&fact.version.to_bytes());
    out.extend_from_slice(&fact.time.unwrap_or(NO_TIME).to_be_bytes());
    out.extend_from_slice(&fact.expires.unwrap_or(u32::MAX).to_be_bytes());
    out.push(u8::try_from(fact.names.len()).unwrap_or(u8::MAX));
    for (name, version) in fact.links() {
        out.extend_from_slice(&version.to_bytes());
        let length = name.map_or(u32::MAX, |name| u32::try_from(name.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(name.map_or(&[], |name| name.as_bytes()));
    }
    out.extend_from_slice(&fact.open_row);
    out
}

/// Stands for no time: no row has it, since `-infinity` is one more.
const NO_TIME: i64 = i64::MIN;

fn decode(key: &[u8], bytes: &[u8]) -> Option<Kept<'static>> {
    let mut rest = bytes;
    let version = version(&mut rest)?;
    let time = i64::from_be_bytes(*taken(&mut rest)?);
    let expires = u32::from_be_bytes(*taken(&mut rest)?);
    let [count] = *taken::<1>(&mut rest)?;
    let (mut names, mut joined) = (Names::new(), Vec::new());
    for _ in 0..count {
        joined.push(self::version(&mut rest)?);
        let length = u32::from_be_bytes(*taken(&mut rest)?);
        let name = match length {
            u32::MAX => None,
            length => {
                let (name, behind) = rest.split_at_checked(length as usize)?;
                rest = behind;
                Some(Name::new(std::str::from_utf8(name).ok()?))
            }
        };
        names.push(name);
    }
    Some(Kept {
        key: Cow::Owned(key.to_vec()),
        version,
        names: Cow::Owned(names),
        joined: Cow::Owned(joined.into_iter().collect()),
        time: (time != NO_TIME).then_some(time),
        expires: (expires != u32::MAX).then_some(expires),
        open_row: Cow::Owned(rest.to_vec()),
    })
}

fn taken<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(first)
}

fn version(rest: &mut &[u8]) -> Option<Version> {
    Some(Version {
        epoch: u32::from_be_bytes(*taken(rest)?),
        lsn: Lsn(u64::from_be_bytes(*taken(rest)?)),
        index: u32::from_be_bytes(*taken(rest)?),
        part: u32::from_be_bytes(*taken(rest)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fjall::AbstractTree as _;
    use proptest::prelude::*;

    fn kept<'a>(key: &'a [u8], names: &[Option<&str>], row: &'a [u8]) -> Kept<'a> {
        let version = |lsn| Version { epoch: 1, lsn: Lsn(lsn), index: 2, part: 3 };
        let joined = Cow::Owned((1..).map(version).take(names.len()).collect());
        let names = Cow::Owned(names.iter().map(|name| name.map(Name::new)).collect());
        let (key, open_row) = (key.into(), row.into());
        Kept { key, version: version(9), names, joined, time: None, expires: Some(7), open_row }
    }

    #[test]
    fn a_fact_comes_back_as_it_was() {
        for fact in [
            kept(b"", &[], b""),
            kept(b"{\"id\":1}", &[Some("1001"), None, Some("")], b"{\"id\":1"),
            Kept { time: Some(-5), expires: None, ..kept(b"k", &[None], b"{") },
        ] {
            assert_eq!(decode(&fact.key, &encode(&fact)), Some(fact));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_fact_or_none(bytes in any::<Vec<u8>>()) {
            let _ = decode(b"k", &bytes);
        }
    }

    #[test]
    fn facts_are_found_by_key_and_by_what_they_name() {
        let folder = std::env::temp_dir().join(format!("tidemill-disk-{}", std::process::id()));
        let config = DiskConfig {
            folder: folder.to_string_lossy().into_owned(),
            memory_megabytes_max: 2,
            ..DiskConfig::default()
        };
        let disk = Disk::open(&config).unwrap().unwrap();
        let room = disk.file_system().unwrap();
        assert!(room.free > 0 && room.free <= room.size, "{room:?}");
        let mut shelf = disk.shelf().unwrap();
        for (key, user) in [(&b"a"[..], "1"), (b"ab", "1"), (b"b", "11"), (b"c", "1")] {
            shelf.put(&kept(key, &[Some(user)], key)).unwrap();
        }
        assert!(shelf.remove(b"ab").unwrap() && !shelf.remove(b"ab").unwrap());
        // Its user changed meanwhile: the name of before is left behind.
        shelf.remove(b"c").unwrap();
        shelf.put(&kept(b"c", &[Some("11")], b"c")).unwrap();
        let of = |user: &str| {
            let mut found: Vec<Vec<u8>> = Vec::new();
            while let Some(fact) = shelf.next_of(0, user, found.last().map(Vec::as_slice)).unwrap() {
                found.push(fact.key.into_owned());
            }
            found
        };
        assert_eq!(of("1"), [b"a"]);
        assert_eq!(of("11"), [b"b", b"c"]);
        assert!(of("2").is_empty());
        let first = shelf.next(None).unwrap().unwrap();
        assert_eq!((&*first.key, &*shelf.next(Some(b"a")).unwrap().unwrap().key), (&b"a"[..], &b"b"[..]));
        assert_eq!((shelf.next(Some(b"c")).unwrap(), shelf.len()), (None, 3));
        let other = disk.shelf().unwrap();
        assert!(other.get(b"a").unwrap().is_none());
        drop((shelf, other, disk));
        assert!(!folder.join("facts").exists(), "it is a cache: nothing is left");
        let _ = std::fs::remove_dir(&folder);
    }

    /// A writer that is faster than the disk waits, and what is not written yet does not grow.
    #[test]
    fn what_is_not_written_yet_stays_within_its_bound() {
        let folder = std::env::temp_dir().join(format!("tidemill-disk-bound-{}", std::process::id()));
        let folder = folder.to_string_lossy().into_owned();
        let disk = Disk::open(&DiskConfig { folder: folder.clone(), memory_megabytes_max: 4, ..DiskConfig::default() });
        let disk = disk.unwrap().unwrap();
        let mut shelves: Vec<Shelf> = (0..4).map(|_| disk.shelf().unwrap()).collect();
        let row = vec![b'x'; 400];
        let mut largest = 0;
        for number in 0..100_000_u32 {
            let (key, name) = (number.to_string(), (number % 5_000).to_string());
            let shelf = &mut shelves[number as usize % 4];
            shelf.put(&kept(key.as_bytes(), &[Some(&name)], &row)).unwrap();
            largest = largest.max(shelf.keyspace.tree.active_memtable().size());
        }
        assert!(largest <= disk.write_bytes, "{largest} of {}", disk.write_bytes);
        // Each of these parts is full with one row, so that they come faster than they are written.
        for number in 0..200_u32 {
            let shelf = &mut shelves[number as usize % 4];
            shelf.put(&kept(format!("full-{number}").as_bytes(), &[], &row)).unwrap();
            shelf.written(disk.write_bytes).unwrap();
            let waiting = disk.database.outstanding_flushes();
            assert!(waiting <= PARTS_WAITING_MAX, "{waiting} parts wait");
        }
        drop((shelves, disk));
        let _ = std::fs::remove_dir_all(folder);
    }
}

use super::*;
use crate::disk::Disk;
use crate::settings::{DiskConfig, FactsConfig};
use proptest::prelude::*;
use shared::position::Lsn;
use shared::record::form::Forms;
use shared::record::row::Columns;
use smallvec::smallvec;
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};

pub(crate) fn version(lsn: u64) -> Version {
    Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() }
}

pub(crate) fn room() -> Room {
    Room::new(&FactsConfig::default(), 1).unwrap()
}

/// Without any room in memory, but on a disk.
fn room_on_disk() -> Room {
    static DISK: LazyLock<Disk> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("tidemill-facts-{}", std::process::id()));
        let config = DiskConfig {
            folder: folder.to_string_lossy().into_owned(),
            memory_megabytes_max: 2,
            ..DiskConfig::default()
        };
        Disk::open(&config).unwrap().unwrap()
    });
    let config = FactsConfig { memory_megabytes_max: 0, ..FactsConfig::default() };
    let mut room = Room::new(&config, 1).unwrap();
    room.disk = Some(DISK.clone());
    room
}

fn row_of(lsn: u64) -> Vec<u8> {
    format!("{{\"id\":{lsn},\"status\":\"x{lsn}\"").into_bytes()
}

pub(crate) fn kept(key: &str, lsn: u64, user: &str, of_user: u64) -> Kept<'static> {
    Kept {
        key: Cow::Owned(key.as_bytes().to_vec()),
        version: version(lsn),
        names: Cow::Owned(smallvec![Some(user.into())]),
        joined: Cow::Owned([version(of_user)].into_iter().collect()),
        time: None,
        expires: None,
        open_row: Cow::Owned(row_of(lsn)),
    }
}

/// Every second version by its values, the others whole, as those that came from the disk.
pub(crate) fn put(facts: &mut PartitionFacts, fact: &Kept<'_>) -> Result<(), Failure> {
    static FORMS: LazyLock<Mutex<Forms>> = LazyLock::new(|| Mutex::new(Forms::new(Columns::new::<&str>(&[]))));
    let (mut forms, mut values) = (FORMS.lock().unwrap_or_else(PoisonError::into_inner), Vec::new());
    let row = [&*fact.open_row, b"}"].concat();
    let form = forms.read(&row, Some(&mut values)).unwrap().form.and_then(|number| forms.get(number));
    let packed = form.filter(|_| fact.version.lsn.0.is_multiple_of(2)).map(|form| Packed { form, values: &values });
    facts.put(fact, &facts.address_of(fact), packed)
}

fn at_version(lsn: u64, of_user: u64) -> ResultVersion {
    ResultVersion { fact: version(lsn), joined: [version(of_user)].into_iter().collect() }
}

/// A step of a history: the key, and the user of its fact; none where it was deleted.
type Step = (u8, Option<u8>);

/// Takes in steps as the topic has them; the number of a step is its version.
fn take<'s>(facts: &mut PartitionFacts, steps: impl IntoIterator<Item = (usize, &'s Step)>) {
    for (number, (key, user)) in steps {
        let (lsn, key) = (number as u64 + 1, key.to_string());
        let of_user = user.map_or(0, u64::from);
        if facts.has_newer(key.as_bytes(), &at_version(lsn, of_user)).unwrap() {
            continue;
        }
        match user {
            Some(user) => put(facts, &kept(&key, lsn, &user.to_string(), of_user)).unwrap(),
            None => facts.delete(key.as_bytes(), version(lsn)).unwrap(),
        }
    }
}

/// Every fact by its key, found through the row that it names.
fn everything(facts: &PartitionFacts) -> BTreeMap<(String, String), (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for user in (0..8).map(|user: u8| user.to_string()) {
        let (mut cursor, far) = (facts.walk(0, &user), |_: Named<'_>| version(u64::MAX));
        while let Some(fact) = facts.next_lagging((0, &user), &mut cursor, &mut 1_000_000, &far).unwrap() {
            let key = String::from_utf8(fact.key.to_vec()).unwrap();
            assert_eq!(facts.version_of(&fact.key).unwrap().unwrap().fact, fact.version);
            assert!(found.insert((key, user.clone()), (fact.version.lsn.0, fact.open_row.to_vec())).is_none());
        }
        assert_eq!(facts.name(0, &user).unwrap(), found.keys().any(|(_, named)| *named == user));
    }
    assert_eq!(found.len(), facts.len());
    found
}

proptest! {
    /// What was read back, in any order within a few records, with what came since on top, is what one reading of all gives, in memory
    /// and on the disk.
    #[test]
    fn fresh_facts_on_top_of_older_ones_are_all(
        steps in prop::collection::vec((0..8u8, prop::option::of(0..4u8)), 1..120),
        cut in 0..120usize,
        late in 0..10usize,
        on_disk in prop::bool::weighted(0.1),
    ) {
        let cut = cut.min(steps.len());
        let mut all = PartitionFacts::incomplete(room());
        take(&mut all, steps.iter().enumerate());
        let room = if on_disk { room_on_disk() } else { room() };
        let (mut held, mut since) =
            (PartitionFacts::incomplete(room.clone()), PartitionFacts::incomplete(room.clone()));
        take(&mut held, steps.iter().enumerate().take(cut));
        // A writer that hung wrote some of it again.
        take(&mut held, steps.iter().enumerate().take(cut).skip(late).take(3));
        take(&mut since, steps.iter().enumerate().skip(cut));
        held.absorb(&since).unwrap();
        prop_assert_eq!(everything(&held), everything(&all));
        held.complete();
        drop((held, since));
        prop_assert_eq!(room.used_bytes(), 0, "all that the room knows of is given back");
    }

    /// Against a plain map: whatever is put and removed, each fact is found by its key once, and by the row that it names once.
    #[test]
    fn the_indexes_agree(steps in prop::collection::vec((0..12u8, prop::option::of(0..4u8)), 1..100), on_disk in prop::bool::weighted(0.1)) {
        let room = if on_disk { room_on_disk() } else { room() };
        let mut facts = PartitionFacts::new(room);
        let mut model: BTreeMap<(String, String), (u64, Vec<u8>)> = BTreeMap::new();
        for (number, (key, user)) in steps.into_iter().enumerate() {
            let lsn = number as u64 + 1;
            model.retain(|(known, _), _| *known != key.to_string());
            match user {
                Some(user) => {
                    put(&mut facts, &kept(&key.to_string(), lsn, &user.to_string(), 0)).unwrap();
                    model.insert((key.to_string(), user.to_string()), (lsn, row_of(lsn)));
                }
                None => facts.delete(key.to_string().as_bytes(), version(lsn)).unwrap(),
            }
        }
        prop_assert_eq!(everything(&facts), model);
        prop_assert_eq!(facts.on_disk(), if on_disk { facts.len() } else { 0 });
        for key in 0..12u8 {
            facts.delete(key.to_string().as_bytes(), version(1_000)).unwrap();
        }
        prop_assert_eq!(facts.bytes, 0, "all that was taken is given back");
    }
}

fn lagging(facts: &PartitionFacts, now: impl Fn(Named<'_>) -> Version) -> Vec<String> {
    let mut names = Vec::new();
    facts
        .for_each_name(&now, |_, name, lags| {
            if lags {
                names.push(name.to_string());
            }
        })
        .unwrap();
    names.sort();
    names
}

#[test]
fn rows_whose_facts_lack_a_change_are_found() {
    for room in [room(), room_on_disk()] {
        let mut facts = PartitionFacts::new(room);
        for (key, user, of_user) in [("1", "a", 3), ("2", "b", 5), ("3", "c", 0)] {
            put(&mut facts, &kept(key, 1, user, of_user)).unwrap();
        }
        let now = |row: Named<'_>| if row.name == "c" { Version::default() } else { version(5) };
        assert_eq!(lagging(&facts, now), ["a"]);
        facts.sent_with(kept("1", 1, "a", 3), &[version(5)].into_iter().collect()).unwrap();
        assert!(lagging(&facts, now).is_empty());
        assert_eq!(facts.version_of(b"1").unwrap(), Some(at_version(1, 5)));
    }
}

#[test]
fn a_fact_lags_where_one_row_is_newer_and_none_is_older() {
    let all = |pairs: &[(u64, u64)]| lags(pairs.iter().map(|(sent, now)| (version(*sent), version(*now))));
    assert!(all(&[(1, 2)]) && all(&[(1, 1), (0, 1)]));
    assert!(!all(&[(1, 1)]) && !all(&[]));
    assert!(!all(&[(1, 2), (3, 2)]), "another instance has read further in the second dimension");
}

#[test]
fn memory_holds_the_newest_and_the_disk_the_rest() {
    let folder = std::env::temp_dir().join(format!("tidemill-facts-bound-{}", std::process::id()));
    let mut config = FactsConfig { memory_megabytes_max: 1, ..FactsConfig::default() };
    config.disk.folder = folder.to_string_lossy().into_owned();
    let room = Room::new(&config, 1).unwrap();
    let mut facts = PartitionFacts::new(room.clone());
    for number in 1..=20_000 {
        put(&mut facts, &kept(&number.to_string(), number, &(number % 10).to_string(), 1)).unwrap();
        assert!(room.used_bytes() <= 1 << 20);
    }
    assert!(facts.on_disk() > 10_000 && facts.on_disk() < 20_000, "{facts:?}");
    assert!(facts.slot_of(b"20000").is_some() && facts.slot_of(b"1").is_none());
    room.within_bounds(facts.len()).unwrap();
    let (mut cursor, mut found) = (facts.walk(0, "7"), 0);
    while facts.next_lagging((0, "7"), &mut cursor, &mut 1_000_000, &|_| version(2)).unwrap().is_some() {
        found += 1;
    }
    assert_eq!(found, 2000);
}

#[test]
fn without_a_disk_more_than_the_bound_is_an_error_that_says_what_to_do() {
    let config = FactsConfig { memory_megabytes_max: 1, ..FactsConfig::default() };
    let room = Room::new(&config, 1).unwrap();
    let mut facts = PartitionFacts::new(room.clone());
    for number in 1..=20_000 {
        put(&mut facts, &kept(&number.to_string(), number, "a", 1)).unwrap();
    }
    let failure = room.within_bounds(facts.len()).unwrap_err().chain();
    assert!(failure.contains("20000 facts") && failure.contains("facts.disk.folder"), "{failure}");
    drop(facts);
    room.within_bounds(0).unwrap();
}

#[test]
fn old_facts_are_forgotten_and_counted_by_the_rows_that_they_named() {
    for room in [room(), room_on_disk()] {
        let mut facts = PartitionFacts::new(room);
        for (key, expires) in [("1", Some(10)), ("2", Some(11)), ("3", None)] {
            put(&mut facts, &Kept { expires, ..kept(key, 1, "a", 1) }).unwrap();
        }
        let forget = |facts: &mut PartitionFacts, minute, now: u64| -> usize {
            (0..20).map(|_| facts.forget_old(minute, 2, &|_| version(now)).unwrap()).sum()
        };
        let passed_by = |facts: &mut PartitionFacts, name, now: u64| {
            facts.passed_by(0, name, &|_, _, facts: &Alike| (facts.sent < version(now)).then_some(version(now)))
        };
        assert_eq!((forget(&mut facts, 10, 1), facts.len()), (1, 2));
        assert!(facts.version_of(b"1").unwrap().is_none());
        assert_eq!(forget(&mut facts, 100, 2), 0, "it is to be sent again first");
        assert_eq!((forget(&mut facts, 100, 1), facts.len()), (1, 1));
        assert_eq!((passed_by(&mut facts, "a", 1), passed_by(&mut facts, "b", 2)), (0, 0));
        assert_eq!((passed_by(&mut facts, "a", 2), passed_by(&mut facts, "a", 2)), (2, 0));
    }
}

//! What of a batch remains: one change for each key of a table, the newest. Of a row that is only marked as deleted its last values too.
//!
//! Not only for speed: a statement with ON CONFLICT refuses to touch a row twice.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;

use smallvec::SmallVec;

use crate::entry::Entry;
use crate::settings::OnTombstone;
use crate::tables::Target;

/// The changes of one table.
#[derive(Debug)]
pub struct Changes<'e, 'a> {
    pub rows: Vec<&'e Entry<'a>>,
    pub gone: Vec<&'e Entry<'a>>,
    /// Records whose version is not above that of an earlier one of their key.
    pub repeats: u64,
}

/// The newest change for each key of the table, in the order of the keys.
pub fn changes<'e, 'a>(target: &Target, entries: impl Iterator<Item = &'e Entry<'a>> + Clone) -> Changes<'e, 'a> {
    let on_tombstone = target.table.on_tombstone;
    let versioned = |entry: &'e Entry<'a>| (key(target, entry), &entry.version[..], entry);
    let touching = entries.clone().filter(|entry| !entry.is_gone || on_tombstone.is_heeded());
    let (newest_of_all, repeats) = newest(touching.map(versioned));
    let (mut gone, mut rows): (Vec<_>, Vec<_>) = newest_of_all.into_iter().partition(|entry| entry.is_gone);
    // The row that is marked stays, so what came right before its deletion must be in it.
    if on_tombstone == OnTombstone::Soft && !gone.is_empty() {
        rows = newest(not_overtaken(entries.map(versioned)).into_iter()).0;
    }
    // Connections and instances write rows in one order: a key of the table may come in several partitions of the topic.
    rows.sort_by_cached_key(|entry| key(target, entry));
    gone.sort_by_cached_key(|entry| key(target, entry));
    Changes { rows, gone, repeats }
}

/// The rows but those behind a newer deletion of their key: these are repeats, which a table without the row would take for new.
fn not_overtaken<'e, 'a: 'e, K: Hash + Eq + Clone, V: Ord + Copy>(
    entries: impl Iterator<Item = (K, V, &'e Entry<'a>)>,
) -> Vec<(K, V, &'e Entry<'a>)> {
    let mut deletions: HashMap<K, V> = HashMap::new();
    let mut rows = Vec::new();
    for (key, version, entry) in entries {
        let deletion = deletions.get(&key).copied();
        if entry.is_gone {
            deletions.insert(key, deletion.map_or(version, |earlier| earlier.max(version)));
        } else if deletion.is_none_or(|deletion| deletion < version) {
            rows.push((key, version, entry));
        }
    }
    rows
}

/// Most keys have one column.
pub type Key<'a> = SmallVec<[Option<Cow<'a, str>>; 1]>;

/// The key of a record's row, as text.
pub fn key<'a>(target: &Target, entry: &Entry<'a>) -> Key<'a> {
    target.key_fields().map(|at| entry.fields.get(at).and_then(|field| field.text())).collect()
}

/// For each key the item with the highest version, in the order in which the keys came, and how many items were not above an earlier
/// one.
fn newest<K: Hash + Eq, V: Ord, T>(items: impl Iterator<Item = (K, V, T)>) -> (Vec<T>, u64) {
    let mut places: HashMap<K, usize> = HashMap::new();
    let mut kept: Vec<(V, T)> = Vec::new();
    let mut repeats = 0;
    for (key, version, item) in items {
        let next = kept.len();
        let place = *places.entry(key).or_insert(next);
        match kept.get_mut(place) {
            None => kept.push((version, item)),
            Some(held) if held.0 < version => *held = (version, item),
            Some(_) => repeats += 1,
        }
    }
    (kept.into_iter().map(|(_, item)| item).collect(), repeats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Item;
    use crate::tables::Tables;
    use crate::tables::tests::example;
    use proptest::prelude::*;
    use shared::batch::Record;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn each_key_keeps_its_highest_version_once(items in prop::collection::vec((0..5u8, 0..9u8), 0..40)) {
            let numbered = items.iter().enumerate().map(|(at, &(key, version))| (key, version, at));
            let (kept, repeats) = newest(numbered);
            let mut model: BTreeMap<u8, (u8, usize)> = BTreeMap::new();
            let mut model_repeats = 0;
            for (at, &(key, version)) in items.iter().enumerate() {
                match model.get(&key) {
                    Some(&(held, _)) if held >= version => model_repeats += 1,
                    _ => drop(model.insert(key, (version, at))),
                }
            }
            let mut expected: Vec<usize> = model.values().map(|&(_, at)| at).collect();
            let mut found = kept.clone();
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(repeats, model_repeats);
            let mut first_seen: Vec<u8> = Vec::new();
            for (key, _) in &items {
                if !first_seen.contains(key) {
                    first_seen.push(*key);
                }
            }
            prop_assert_eq!(kept.iter().map(|&at| items[at].0).collect::<Vec<_>>(), first_seen);
        }
    }

    /// Keys, versions and kinds of what remains of (key, version, is a tombstone).
    fn remains(on_tombstone: OnTombstone, records: &[(u32, u32, bool)]) -> (Vec<u32>, Vec<u32>, u64) {
        let tables = Tables::new(vec![example(on_tombstone)]);
        let texts: Vec<_> = records
            .iter()
            .map(|&(key, version, gone)| (format!("{{\"order_id\":{key}}}"), format!("op=u v=1.{version}.0.0"), gone))
            .collect();
        let items: Vec<Item<'_>> = texts
            .iter()
            .map(|(key, header, gone)| {
                let value = (!gone).then_some(key.as_bytes());
                let (key, header) = (Some(key.as_bytes()), Some(header.as_bytes()));
                Item::read(Record { partition: 0, offset: 0, key, value, header }, &tables)
            })
            .collect();
        let entries = items.iter().map(|item| item.content.as_ref().unwrap());
        let changes = changes(&tables.tables[0], entries);
        let versions = |entries: &[&Entry<'_>]| {
            entries.iter().map(|entry| u32::try_from(entry.header.version.lsn.0).unwrap()).collect::<Vec<_>>()
        };
        (versions(&changes.rows), versions(&changes.gone), changes.repeats)
    }

    #[test]
    fn a_deletion_is_a_change_like_any_other() {
        let records = [(1, 5, false), (1, 6, true), (2, 7, true), (2, 8, false), (3, 9, true), (3, 1, false)];
        assert_eq!(remains(OnTombstone::Delete, &records), (vec![8], vec![6, 9], 1));
    }

    #[test]
    fn a_row_that_is_marked_gets_its_last_values_first() {
        let records = [(1, 5, false), (1, 6, true), (2, 7, true), (2, 8, false), (3, 9, true), (3, 1, false)];
        assert_eq!(remains(OnTombstone::Soft, &records), (vec![5, 8], vec![6, 9], 1));
        assert_eq!(remains(OnTombstone::Soft, &[(1, 5, false), (1, 6, false)]), (vec![6], vec![], 0));
    }

    #[test]
    fn a_trail_knows_no_deletion() {
        let records = [(1, 5, false), (1, 6, true), (2, 7, true), (3, 1, false)];
        assert_eq!(remains(OnTombstone::Keep, &records), (vec![5, 1], vec![], 0));
    }
}

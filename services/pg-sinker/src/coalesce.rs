//! What of a batch remains: one change for each key of a table, the newest.
//!
//! Not only for speed: a statement with ON CONFLICT refuses to touch a row twice.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;

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

/// The newest change for each key of the table.
pub fn changes<'e, 'a>(target: &Target, entries: impl Iterator<Item = &'e Entry<'a>>) -> Changes<'e, 'a> {
    let touching = entries.filter(|entry| !entry.is_gone || target.table.on_tombstone == OnTombstone::Delete);
    let (newest, repeats) = newest(touching.map(|entry| (key(target, entry), &entry.version[..], entry)));
    let (gone, rows) = newest.into_iter().partition(|entry| entry.is_gone);
    Changes { rows, gone, repeats }
}

fn key<'a>(target: &Target, entry: &Entry<'a>) -> Vec<Option<Cow<'a, str>>> {
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
    fn a_trail_knows_no_deletion() {
        let records = [(1, 5, false), (1, 6, true), (2, 7, true), (3, 1, false)];
        assert_eq!(remains(OnTombstone::Keep, &records), (vec![5, 1], vec![], 0));
    }
}

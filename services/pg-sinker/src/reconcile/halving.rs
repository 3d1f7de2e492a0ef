//! From a range whose sums differ down to the keys that do. Both sides stand still meanwhile: each is read in one snapshot.
//!
//! ```text
//!  sums of a range ──differ──▶ few rows? ──yes──▶ list both, hold them against each other ──▶ keys
//!         ▲                        │ no
//!         └── of either half ◀─────┘  the middle key of the longer side; the sum of the second half is what is left of the whole
//! ```

use std::collections::BTreeMap;

use shared::failure::Failure;

use super::digest::Digest;

/// The values of a key, as text.
pub type Key = Vec<String>;

/// Keys above one and up to another; open where absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    pub after: Option<Key>,
    pub upto: Option<Key>,
}

/// What one side or the other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Both<T> {
    pub source: T,
    pub sink: T,
}

/// Which side is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Sink,
}

/// What is asked of the two sides.
pub trait Sides {
    async fn sums(&mut self, range: &Range) -> Result<Both<Digest>, Failure>;

    /// The keys of the rows, and what tells one row from another.
    async fn list(&mut self, range: &Range) -> Result<Both<Vec<(Key, String)>>, Failure>;

    /// The key of row number `rows` (from 1) of the range; `None` where there are fewer.
    async fn key_at(&mut self, side: Side, range: &Range, rows: u64) -> Result<Option<Key>, Failure>;
}

/// The keys of the range that differ: of rows that only one side has, or that are not alike.
pub async fn differing<S: Sides>(
    sides: &mut S,
    range: Range,
    sums: Both<Digest>,
    leaf_rows: u64,
) -> Result<Vec<Key>, Failure> {
    let mut keys = Vec::new();
    let mut open = vec![(range, sums)];
    while let Some((range, sums)) = open.pop() {
        if sums.source == sums.sink {
            continue;
        }
        let (side, rows) = match sums.source.rows >= sums.sink.rows {
            true => (Side::Source, sums.source.rows),
            false => (Side::Sink, sums.sink.rows),
        };
        let middle = match rows > leaf_rows {
            true => sides.key_at(side, &range, rows / 2).await?.filter(|key| range.upto.as_ref() != Some(key)),
            false => None,
        };
        let Some(middle) = middle else {
            keys.extend(unlike(sides.list(&range).await?));
            continue;
        };
        let first = Range { after: range.after, upto: Some(middle.clone()) };
        let of_first = sides.sums(&first).await?;
        let rest = Both { source: sums.source - of_first.source, sink: sums.sink - of_first.sink };
        open.push((Range { after: Some(middle), upto: range.upto }, rest));
        open.push((first, of_first));
    }
    Ok(keys)
}

/// The keys whose rows are not the same on both sides.
fn unlike(rows: Both<Vec<(Key, String)>>) -> Vec<Key> {
    // Without a unique key on a side there may be several rows of a key.
    let by_key = |rows: Vec<(Key, String)>| {
        let mut found: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        rows.into_iter().for_each(|(key, row)| found.entry(key).or_default().push(row));
        found.values_mut().for_each(|rows| rows.sort());
        found
    };
    let (source, mut sink) = (by_key(rows.source), by_key(rows.sink));
    let mut keys: Vec<Key> = source
        .into_iter()
        .filter_map(|(key, rows)| (sink.remove(&key).as_ref() != Some(&rows)).then_some(key))
        .collect();
    keys.extend(sink.into_keys());
    keys
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

    use proptest::prelude::*;

    use super::*;
    use crate::reconcile::digest::tests::of;

    type Table = BTreeMap<u16, u8>;

    /// Two tables in memory.
    struct Model {
        tables: Both<Table>,
        listed_max: usize,
        sums: usize,
    }

    /// Two numbers that only this row has: sums of numbers that follow each other may be alike by chance.
    fn hashes((key, row): (u16, u8)) -> (i64, i64) {
        let hash = |salt: u8| BuildHasherDefault::<DefaultHasher>::default().hash_one((key, row, salt)).cast_signed();
        (hash(1), hash(2))
    }

    fn number(key: &Key) -> u16 {
        key[0].parse().unwrap()
    }

    fn within<'t>(table: &'t Table, range: &Range) -> impl Iterator<Item = (u16, u8)> + use<'t> {
        let after = range.after.as_ref().map(number);
        let upto = range.upto.as_ref().map(number);
        let is_in = move |key: u16| after.is_none_or(|after| key > after) && upto.is_none_or(|upto| key <= upto);
        table.iter().map(|(key, row)| (*key, *row)).filter(move |(key, _)| is_in(*key))
    }

    impl Model {
        fn of<T>(&self, ask: impl Fn(&Table) -> T) -> Both<T> {
            Both { source: ask(&self.tables.source), sink: ask(&self.tables.sink) }
        }
    }

    impl Sides for Model {
        async fn sums(&mut self, range: &Range) -> Result<Both<Digest>, Failure> {
            self.sums += 1;
            Ok(self.of(|table| of(within(table, range).map(hashes))))
        }

        async fn list(&mut self, range: &Range) -> Result<Both<Vec<(Key, String)>>, Failure> {
            let listed = self
                .of(|table| within(table, range).map(|(key, row)| (vec![key.to_string()], row.to_string())).collect());
            let listed: Both<Vec<_>> = listed;
            self.listed_max = self.listed_max.max(listed.source.len()).max(listed.sink.len());
            Ok(listed)
        }

        async fn key_at(&mut self, side: Side, range: &Range, rows: u64) -> Result<Option<Key>, Failure> {
            let table = if side == Side::Source { &self.tables.source } else { &self.tables.sink };
            let at = usize::try_from(rows).unwrap() - 1;
            Ok(within(table, range).nth(at).map(|(key, _)| vec![key.to_string()]))
        }
    }

    fn found(source: Table, sink: Table, leaf_rows: u64) -> (Vec<u16>, Model) {
        let mut model = Model { tables: Both { source, sink }, listed_max: 0, sums: 0 };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let keys = runtime.block_on(async {
            let range = Range::default();
            let sums = model.sums(&range).await.unwrap();
            differing(&mut model, range, sums, leaf_rows).await.unwrap()
        });
        (keys.iter().map(number).collect(), model)
    }

    proptest! {
        #[test]
        fn exactly_the_keys_that_differ_are_found(
            same in prop::collection::btree_map(0..500u16, 0..4u8, 0..200),
            only_source in prop::collection::btree_map(0..500u16, 0..4u8, 0..6),
            only_sink in prop::collection::btree_map(0..500u16, 0..4u8, 0..60),
            gone in prop::collection::btree_set(0..500u16, 0..6),
            leaf_rows in 1..20u64,
        ) {
            let mut source = same.clone();
            source.extend(only_source);
            let mut sink = same;
            sink.extend(only_sink);
            sink.retain(|key, _| !gone.contains(key));
            let all: BTreeSet<u16> = source.keys().chain(sink.keys()).copied().collect();
            let wanted: Vec<u16> = all.into_iter().filter(|key| source.get(key) != sink.get(key)).collect();
            let (mut keys, model) = found(source, sink, leaf_rows);
            keys.sort_unstable();
            prop_assert_eq!(keys, wanted);
            prop_assert!(model.listed_max as u64 <= leaf_rows);
        }
    }

    #[test]
    fn of_many_rows_few_are_listed_for_one_that_differs() {
        let source: Table = (0..60_000).map(|key| (key, 1)).collect();
        let mut sink = source.clone();
        sink.insert(41_234, 2);
        let (keys, model) = found(source, sink, 100);
        assert_eq!(keys, [41_234]);
        assert!(model.listed_max <= 100 && model.sums <= 12, "{} sums, {} rows listed", model.sums, model.listed_max);
    }

    #[test]
    fn several_rows_of_a_key_are_held_against_each_other() {
        let row = |key: &str, row: &str| (vec![key.to_owned()], row.to_owned());
        let twice = vec![row("1", "a"), row("1", "a"), row("2", "b")];
        let once = vec![row("2", "b"), row("1", "a")];
        assert_eq!(unlike(Both { source: once.clone(), sink: twice.clone() }), [vec!["1".to_owned()]]);
        assert!(unlike(Both { source: twice.clone(), sink: twice.into_iter().rev().collect() }).is_empty());
    }
}

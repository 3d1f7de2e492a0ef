//! From a range whose sums differ down to the keys that do. Both sides stand still meanwhile: each is read in one snapshot.
//!
//! ```text
//!  sums of parts ──differs──▶ few rows? ──yes──▶ list both, hold them against each other ──▶ keys
//!         ▲                      │ no
//!         └── of its own parts ◀─┘  cut where the longer side has so many rows; the last one's sum is what is left of the whole
//! ```

use std::collections::BTreeMap;

use shared::failure::Failure;

use super::digest::{Digest, RowHash};

/// The values of a key, as text.
pub type Key = Vec<String>;

/// Keys above one and up to another; open where absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    pub after: Option<Key>,
    pub upto: Option<Key>,
}

impl Range {
    /// The ranges between these keys, which stand in their order; the last one ends where this one does.
    pub fn cut(self, marks: Vec<Key>) -> Vec<Range> {
        let mut after = self.after;
        let mut parts = Vec::with_capacity(marks.len() + 1);
        for mark in marks {
            // A key of several rows may have been met twice, or end the whole.
            if after.as_ref() != Some(&mark) && self.upto.as_ref() != Some(&mark) {
                parts.push(Range { after: after.replace(mark.clone()), upto: Some(mark) });
            }
        }
        parts.push(Range { after, upto: self.upto });
        parts
    }
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

/// How ranges are cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// A part of so many rows is listed.
    pub leaf_rows: u64,
    /// So many parts are summed at a time; 1, where each would read the whole table.
    pub parts_max: u64,
}

impl Cut {
    /// Of so many rows, in how many parts of how many rows.
    pub fn parts(&self, rows: u64) -> (u64, u64) {
        let every = rows.div_ceil(self.parts_max.max(1)).max(self.leaf_rows).max(1);
        (rows.div_ceil(every), every)
    }
}

/// What is asked of the two sides.
pub trait Sides {
    /// Of each range.
    async fn sums(&mut self, ranges: &[Range]) -> Result<Vec<Both<Digest>>, Failure>;

    /// The keys of the rows, and what tells one row from another.
    async fn list(&mut self, range: &Range) -> Result<Both<Vec<(Key, RowHash)>>, Failure>;

    /// The key of each row of the range whose number, from 1, is a multiple of `every`; of `count` at most.
    async fn marks(&mut self, side: Side, range: &Range, every: u64, count: u64) -> Result<Vec<Key>, Failure>;
}

/// The keys of these parts that differ: of rows that only one side has, or that are not alike.
pub async fn differing<S: Sides>(
    sides: &mut S,
    parts: Vec<(Range, Both<Digest>)>,
    cut: Cut,
) -> Result<Vec<Key>, Failure> {
    // A part that differs is cut at all.
    let cut = Cut { parts_max: cut.parts_max.max(2), ..cut };
    let mut keys = Vec::new();
    let mut open = parts;
    while let Some((range, sums)) = open.pop() {
        if sums.source == sums.sink {
            continue;
        }
        let (side, rows) = match sums.source.rows >= sums.sink.rows {
            true => (Side::Source, sums.source.rows),
            false => (Side::Sink, sums.sink.rows),
        };
        let (parts, every) = cut.parts(rows);
        let marks = match parts > 1 {
            true => sides.marks(side, &range, every, parts - 1).await?,
            false => Vec::new(),
        };
        let mut parts = range.cut(marks);
        let Some(last) = parts.pop() else { continue };
        if parts.is_empty() {
            keys.extend(unlike(sides.list(&last).await?));
            continue;
        }
        let of_parts = sides.sums(&parts).await?;
        let less = |rest: Both<Digest>, part: &Both<Digest>| Both {
            source: rest.source - part.source,
            sink: rest.sink - part.sink,
        };
        let rest = of_parts.iter().fold(sums, less);
        open.extend(parts.into_iter().zip(of_parts));
        open.push((last, rest));
    }
    Ok(keys)
}

/// The keys whose rows are not the same on both sides.
fn unlike(rows: Both<Vec<(Key, RowHash)>>) -> Vec<Key> {
    // Without a unique key on a side there may be several rows of a key.
    let by_key = |rows: Vec<(Key, RowHash)>| {
        let mut found: BTreeMap<Key, Vec<RowHash>> = BTreeMap::new();
        rows.into_iter().for_each(|(key, row)| found.entry(key).or_default().push(row));
        found.values_mut().for_each(|rows| rows.sort_unstable());
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
        listed: usize,
        summed: usize,
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
        async fn sums(&mut self, ranges: &[Range]) -> Result<Vec<Both<Digest>>, Failure> {
            self.summed += 1;
            Ok(ranges.iter().map(|range| self.of(|table| of(within(table, range).map(hashes)))).collect())
        }

        async fn list(&mut self, range: &Range) -> Result<Both<Vec<(Key, RowHash)>>, Failure> {
            let row = |(key, row): (u16, u8)| (vec![key.to_string()], (i64::from(row), 0));
            let listed = self.of(|table| within(table, range).map(row).collect::<Vec<_>>());
            self.listed_max = self.listed_max.max(listed.source.len()).max(listed.sink.len());
            self.listed += 1;
            Ok(listed)
        }

        async fn marks(&mut self, side: Side, range: &Range, every: u64, count: u64) -> Result<Vec<Key>, Failure> {
            let table = if side == Side::Source { &self.tables.source } else { &self.tables.sink };
            let [every, count] = [every, count].map(|number| usize::try_from(number).unwrap());
            let marks = within(table, range).skip(every - 1).step_by(every).take(count);
            Ok(marks.map(|(key, _)| vec![key.to_string()]).collect())
        }
    }

    fn found(source: Table, sink: Table, cut: Cut) -> (Vec<u16>, Model) {
        let mut model = Model { tables: Both { source, sink }, listed_max: 0, listed: 0, summed: 0 };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let keys = runtime.block_on(async {
            let sums = model.sums(&[Range::default()]).await.unwrap()[0];
            differing(&mut model, vec![(Range::default(), sums)], cut).await.unwrap()
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
            parts_max in 1..12u64,
        ) {
            let mut source = same.clone();
            source.extend(only_source);
            let mut sink = same;
            sink.extend(only_sink);
            sink.retain(|key, _| !gone.contains(key));
            let all: BTreeSet<u16> = source.keys().chain(sink.keys()).copied().collect();
            let wanted: Vec<u16> = all.into_iter().filter(|key| source.get(key) != sink.get(key)).collect();
            let (mut keys, model) = found(source, sink, Cut { leaf_rows, parts_max });
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
        for (parts_max, summed_max) in [(100, 3), (1, 12)] {
            let (keys, model) = found(source.clone(), sink.clone(), Cut { leaf_rows: 100, parts_max });
            assert_eq!(keys, [41_234]);
            let Model { listed_max, listed, summed, .. } = model;
            assert!(
                listed_max <= 100 && listed == 1 && summed <= summed_max,
                "{summed} sums, {listed} lists of {listed_max} rows"
            );
        }
    }

    #[test]
    fn several_rows_of_a_key_are_held_against_each_other() {
        let row = |key: &str, row: i64| (vec![key.to_owned()], (row, row));
        let twice = vec![row("1", 7), row("1", 7), row("2", 8)];
        let once = vec![row("2", 8), row("1", 7)];
        assert_eq!(unlike(Both { source: once.clone(), sink: twice.clone() }), [vec!["1".to_owned()]]);
        assert!(unlike(Both { source: twice.clone(), sink: twice.into_iter().rev().collect() }).is_empty());
    }

    #[test]
    fn a_range_is_cut_where_it_is_marked() {
        let key = |key: &str| vec![key.to_owned()];
        let range = |after: Option<&str>, upto: Option<&str>| Range { after: after.map(key), upto: upto.map(key) };
        assert_eq!(range(None, None).cut(Vec::new()), [range(None, None)]);
        let marks = vec![key("3"), key("3"), key("5"), key("9")];
        assert_eq!(
            range(None, Some("9")).cut(marks),
            [range(None, Some("3")), range(Some("3"), Some("5")), range(Some("5"), Some("9"))]
        );
    }

    #[test]
    fn a_part_is_no_smaller_than_what_is_listed() {
        let parts = |parts_max, rows| Cut { leaf_rows: 500, parts_max }.parts(rows);
        assert_eq!([parts(100, 50_000), parts(100, 400), parts(100, 700)], [(100, 500), (1, 500), (2, 500)]);
        assert_eq!([parts(100, 5_000_000), parts(1, 50_000), parts(2, 0)], [(100, 50_000), (1, 50_000), (0, 500)]);
    }
}

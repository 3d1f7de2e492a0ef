//! A batch in shares that are written side by side. A partition is in one share whole, so its records are written in their order and its
//! offset is one writer's.

use std::collections::BTreeMap;

use crate::entry::Item;

/// What one connection writes of a batch.
#[derive(Debug, Default)]
pub struct Share<'a> {
    pub items: Vec<Item<'a>>,
    /// The offset that each of its partitions stands at in the sink.
    pub expected: BTreeMap<i32, i64>,
}

/// Shares of the items for at most so many connections, as equal as whole partitions allow, each of so many records at least if there are several. `expected` has
/// every partition.
pub fn shares<'a>(
    items: Vec<Item<'a>>,
    expected: &BTreeMap<i32, i64>,
    (connections, records_min): (usize, usize),
) -> Vec<Share<'a>> {
    let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
    for item in &items {
        *counts.entry(item.record.partition).or_default() += 1;
    }
    let most = connections.min(counts.len()).min(items.len() / records_min.max(1)).max(1);
    let (wanted, taken_by) = spread_enough(&counts, most, records_min);
    let mut shares: Vec<Share<'a>> = (0..wanted).map(|_| Share::default()).collect();
    for (partition, &share) in &taken_by {
        if let (Some(share), Some(&offset)) = (shares.get_mut(share), expected.get(partition)) {
            share.expected.insert(*partition, offset);
        }
    }
    for item in items {
        let share = taken_by.get(&item.record.partition).copied().unwrap_or_default();
        if let Some(share) = shares.get_mut(share) {
            share.items.push(item);
        }
    }
    shares.retain(|share| !share.items.is_empty());
    shares
}

/// As many shares as have the least number of records each, and the share of each partition.
fn spread_enough(counts: &BTreeMap<i32, usize>, most: usize, records_min: usize) -> (usize, BTreeMap<i32, usize>) {
    let mut shares = most;
    loop {
        let (taken_by, smallest) = spread(counts, shares);
        if shares <= 1 || smallest >= records_min {
            return (shares, taken_by);
        }
        shares -= 1;
    }
}

/// The share of each partition: the largest first, each to the share that has the least. Answers the records of the smallest share, too.
fn spread(counts: &BTreeMap<i32, usize>, shares: usize) -> (BTreeMap<i32, usize>, usize) {
    let mut largest_first: Vec<(i32, usize)> = counts.iter().map(|(&partition, &count)| (partition, count)).collect();
    largest_first.sort_by_key(|&(partition, count)| (std::cmp::Reverse(count), partition));
    let mut loads = vec![0; shares];
    let mut taken_by = BTreeMap::new();
    for (partition, count) in largest_first {
        let least = loads.iter_mut().enumerate().min_by_key(|(_, load)| **load);
        if let Some((share, load)) = least {
            *load += count;
            taken_by.insert(partition, share);
        }
    }
    (taken_by, loads.into_iter().min().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Tables;
    use proptest::prelude::*;
    use shared::batch::Record;

    fn items(partitions: &[i32]) -> Vec<Item<'static>> {
        let tables = Tables::new(Vec::new());
        let item = |(offset, &partition): (i64, &i32)| {
            Item::read(Record { partition, offset, key: None, value: None, header: None }, &tables)
        };
        (0..).zip(partitions).map(item).collect()
    }

    fn expected() -> BTreeMap<i32, i64> {
        (0..6).map(|partition| (partition, 7)).collect()
    }

    #[test]
    fn few_records_are_one_share() {
        let sizes = |count: usize, bounds| {
            let partitions: Vec<i32> = [0, 1, 2, 3].into_iter().cycle().take(count).collect();
            shares(items(&partitions), &expected(), bounds).iter().map(|share| share.items.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(199, (2, 100)), [199]);
        assert_eq!(sizes(200, (2, 100)), [100, 100]);
        assert_eq!(sizes(200, (1, 100)), [200]);
        assert_eq!(sizes(400, (3, 0)), [200, 100, 100]);
        assert!(sizes(0, (2, 100)).is_empty());
        let skewed: Vec<i32> = [vec![0; 199], vec![1]].concat();
        assert_eq!(shares(items(&skewed), &expected(), (2, 100)).len(), 1);
    }

    proptest! {
        #[test]
        fn every_record_is_in_one_share_and_in_order_for_its_partition(
            partitions in prop::collection::vec(0..6i32, 0..300), connections in 1..5usize, records_min in 0..120usize
        ) {
            let shares = shares(items(&partitions), &expected(), (connections, records_min));
            prop_assert!(shares.len() <= connections);
            let mut owners: BTreeMap<i32, usize> = BTreeMap::new();
            let mut offsets = Vec::new();
            for (number, share) in shares.iter().enumerate() {
                prop_assert!(shares.len() == 1 || share.items.len() >= records_min);
                let mut last: BTreeMap<i32, i64> = BTreeMap::new();
                for Item { record, .. } in &share.items {
                    prop_assert_eq!(*owners.entry(record.partition).or_insert(number), number);
                    prop_assert_eq!(share.expected.get(&record.partition), Some(&7));
                    prop_assert!(last.insert(record.partition, record.offset).is_none_or(|last| last < record.offset));
                    offsets.push(record.offset);
                }
            }
            offsets.sort_unstable();
            prop_assert_eq!(offsets, (0..).take(partitions.len()).collect::<Vec<i64>>());
        }
    }
}

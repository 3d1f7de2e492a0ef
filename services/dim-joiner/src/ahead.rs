//! Facts of a batch, read some ahead of the join.
//!
//! A join asks for a few places in memory that nobody has looked at for long: the row, the other facts of the row, the fact as it was. One
//! after the other it would wait for each of them, and that was most of its time. Memory answers many questions at once in the time of one,
//! so they are asked for several facts in a row, each kind for all of them before the next.

use std::ops::Range;

use shared::batch::Record;
use shared::record::header::{Header, HeaderError};
use shared::record::row::RowError;
use smallvec::SmallVec;

use crate::dimension::Dimension;
use crate::fact::{Fact, FactReader};
use crate::facts::PartitionFacts;
use crate::hashes::{Address, Hash, Hashes};

/// So many facts are read before the first of them is joined: what is fetched for them stays in the nearest cache until then.
pub const AHEAD: usize = 64;

/// By dimension the number of the row that a fact names; none where it names none, or one that was never known.
pub type Rows = SmallVec<[Option<u32>; 1]>;

/// A record that was read.
#[derive(Debug)]
pub struct Ahead<'a> {
    pub record: Record<'a>,
    pub header: Result<Header, HeaderError>,
    /// Nothing of a tombstone.
    pub fact: Result<Option<Fact>, RowError>,
    /// The number of the row's form, and where the row's values stand.
    pub form: Option<usize>,
    pub values: Range<usize>,
    pub address: Address,
    pub rows: Rows,
}

impl<'a> Ahead<'a> {
    /// The values of the row are appended to `values`.
    pub fn read(record: Record<'a>, reader: &mut FactReader, hashes: &Hashes, values: &mut Vec<u8>) -> Self {
        let header = Header::parse(record.header);
        let begin = values.len();
        let (fact, form) = match record.value.map(|row| reader.read(row, values)).transpose() {
            Ok(read) => read.map_or((Ok(None), None), |(fact, form)| (Ok(Some(fact)), form)),
            Err(error) => (Err(error), None),
        };
        let names = fact.iter().flatten().flat_map(|fact| &fact.names).map(Option::as_ref);
        let address = hashes.address(record.key.unwrap_or_default(), names);
        Ahead { record, header, fact, form, values: begin..values.len(), address, rows: Rows::new() }
    }

    /// The name of its row in a dimension, with the hash.
    fn name(&self, dimension: usize) -> Option<(&str, Hash)> {
        let fact = self.fact.as_ref().ok()?.as_ref()?;
        Some((fact.names.get(dimension)?.as_deref()?, *self.address.names.get(dimension)?))
    }
}

/// Finds the rows that the facts name.
pub fn find_rows(ahead: &mut [Ahead<'_>], dimensions: &[Dimension]) {
    for (at, rows) in dimensions.iter().enumerate() {
        for fact in &mut *ahead {
            let guess = fact.name(at).and_then(|(_, hash)| rows.guess(hash));
            fact.rows.push(guess);
        }
        for guess in ahead.iter().filter_map(|fact| fact.rows.get(at).copied().flatten()) {
            rows.fetch(guess);
        }
        for fact in &mut *ahead {
            let guess = fact.rows.get(at).copied().flatten();
            let number = fact.name(at).and_then(|(name, hash)| rows.confirm(guess, name, hash));
            if let Some(row) = fact.rows.get_mut(at) {
                *row = number;
            }
        }
    }
}

/// Reads what keeping the facts will want of memory.
pub fn fetch_facts<'f>(ahead: &[Ahead<'_>], facts_of: impl Fn(i32) -> Option<&'f PartitionFacts>) {
    for fact in ahead {
        if let Some(facts) = facts_of(fact.record.partition) {
            facts.fetch(&fact.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::settings::Settings;
    use crate::taken::tests::ZHANG;

    const HEADER: &[u8] = b"op=c v=1.5.0.0";

    fn record<'a>(key: &'a str, value: &'a str) -> Record<'a> {
        Record {
            partition: 0,
            offset: 0,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            header: Some(HEADER),
        }
    }

    fn users(count: u32) -> (Dimension, FactReader, Hashes) {
        let mut plan = Plan::new(&Settings::default()).unwrap();
        let hashes = Hashes::default();
        let mut users = Dimension::new(plan.dimensions.remove(0), hashes.clone());
        for user in 0..count {
            let row = ZHANG.replace("1001", &user.to_string());
            users.apply(&record(&format!("{{\"user_id\":{user}}}"), &row)).unwrap();
        }
        (users, plan.reader, hashes)
    }

    #[test]
    fn a_guess_of_another_row_is_put_right() {
        let (users, _, hashes) = users(10);
        let confirm = |guess, name: &str| users.confirm(guess, name, hashes.of(name.as_bytes()));
        assert_eq!((confirm(Some(7), "7"), confirm(Some(3), "7"), confirm(None, "7")), (Some(7), Some(7), Some(7)));
        assert_eq!((confirm(Some(3), "10"), confirm(None, "10"), confirm(Some(10), "10")), (None, None, None));
    }

    /// Half of the users are not there.
    #[test]
    fn a_fact_gets_the_row_that_it_names_and_no_other() {
        const USERS: u32 = 10_000;
        let (users, mut reader, hashes) = users(USERS);
        let orders: Vec<String> = (0..2 * USERS).map(|user| format!("{{\"order_id\":7,\"user_id\":{user}}}")).collect();
        let mut values = Vec::new();
        let read = orders
            .iter()
            .map(|order| Ahead::read(record("{\"order_id\":7}", order), &mut reader, &hashes, &mut values));
        let mut ahead: Vec<_> = read.collect();
        ahead.push(Ahead::read(
            Record { value: None, ..record("{\"order_id\":7}", "") },
            &mut reader,
            &hashes,
            &mut values,
        ));
        find_rows(&mut ahead, &[users]);
        let gone = ahead.pop().unwrap();
        assert!(gone.rows.iter().all(Option::is_none) && gone.fact.unwrap().is_none());
        for (user, fact) in (0..).zip(&ahead) {
            assert_eq!(fact.rows.as_slice(), [(user < USERS).then_some(user)]);
        }
    }
}

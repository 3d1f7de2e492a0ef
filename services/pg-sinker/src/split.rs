//! A batch in portions: whole first, and where the database refuses a portion for its data, in halves, until the bad record is alone. So too
//! where it does not manage a portion in time, until it does.
//!
//! Portions come in the order of the batch, so each partition's offset moves forward only.

use std::ops::Range;

/// What a refused portion has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its halves come next.
    Halved,
    /// One record, at this index, and it is bad. The portion comes once more, to be written without it.
    Alone(usize),
}

/// The portions that are still to be written.
#[derive(Debug)]
pub struct Portions {
    /// The next one last.
    open: Vec<Range<usize>>,
}

impl Portions {
    /// One portion of all `len` records; none for none.
    pub fn whole(len: usize) -> Self {
        Portions { open: (len > 0).then_some(0..len).into_iter().collect() }
    }

    pub fn take_next(&mut self) -> Option<Range<usize>> {
        self.open.pop()
    }

    /// The portion just taken was refused.
    pub fn refuse(&mut self, portion: Range<usize>) -> Refused {
        let Range { start, end } = portion;
        if end - start <= 1 {
            self.open.push(start..end);
            return Refused::Alone(start);
        }
        let middle = start + (end - start) / 2;
        self.open.push(middle..end);
        self.open.push(start..middle);
        Refused::Halved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn every_record_comes_once_and_in_order_and_only_bad_ones_are_set_aside(
            len in 0..200usize, bad in prop::collection::btree_set(0..200usize, 0..6)
        ) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|&at| at < len).collect();
            let mut portions = Portions::whole(len);
            let (mut written, mut aside, mut transactions) = (Vec::new(), BTreeSet::new(), 0);
            while let Some(portion) = portions.take_next() {
                transactions += 1;
                if portion.clone().any(|at| bad.contains(&at) && !aside.contains(&at)) {
                    if let Refused::Alone(at) = portions.refuse(portion) {
                        prop_assert!(aside.insert(at));
                    }
                } else {
                    written.extend(portion);
                }
            }
            prop_assert_eq!(written, (0..len).collect::<Vec<_>>());
            prop_assert_eq!(&aside, &bad);
            // A bad record costs two transactions for each halving, and one more.
            prop_assert!(transactions <= 1 + bad.len() * 18, "{} for {}", transactions, bad.len());
        }
    }
}

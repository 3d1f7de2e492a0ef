//! What the rules made of one row: the columns that it gets, as they will stand behind it, and values for columns of its own.

use std::ops::Range;

use crate::action::Slot;

/// Used for one row after the other.
#[derive(Debug, Default)]
pub struct Made {
    /// Each with a comma before it, in the order in which they were added: `,"city":"北京","tier":"low"`.
    columns: Vec<u8>,
    changes: Vec<u8>,
    /// Where a slot's value stands, if it has one.
    places: Vec<Option<Place>>,
}

#[derive(Debug, Clone)]
enum Place {
    Column(Range<usize>),
    Change(Range<usize>),
}

/// A value that is being made, at the end of the columns. It counts when it is put somewhere.
#[derive(Debug)]
pub struct Begun {
    at: usize,
    /// Where the value begins: behind the column's name, if it has got one.
    value: usize,
}

impl Made {
    /// Forgets the last row. `slots` is how many columns the rules know.
    pub fn clear(&mut self, slots: usize) {
        self.columns.clear();
        self.changes.clear();
        self.places.clear();
        self.places.resize(slots, None);
    }

    /// The JSON value of a slot; `None` where no rule made one.
    pub fn get(&self, slot: Slot) -> Option<&[u8]> {
        match self.places.get(slot)?.as_ref()? {
            Place::Column(place) => self.columns.get(place.clone()),
            Place::Change(place) => self.changes.get(place.clone()),
        }
    }

    /// The columns that the row gets.
    pub fn columns(&self) -> &[u8] {
        &self.columns
    }

    /// Begins a value; the column of this name, as it stands in a row, if it is to be a new one.
    pub fn begin(&mut self, name: Option<&[u8]>) -> Begun {
        let at = self.columns.len();
        if let Some(name) = name {
            self.columns.push(b',');
            self.columns.extend_from_slice(name);
        }
        Begun { at, value: self.columns.len() }
    }

    /// Where the value is to be appended.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.columns
    }

    /// The value as far as it is made.
    pub fn value(&self, begun: &Begun) -> &[u8] {
        self.columns.get(begun.value..).unwrap_or_default()
    }

    /// Another value in its place.
    pub fn value_is(&mut self, begun: &Begun, json: &[u8]) {
        self.columns.truncate(begun.value);
        self.columns.extend_from_slice(json);
    }

    /// It is none.
    pub fn discard(&mut self, begun: &Begun) {
        self.columns.truncate(begun.at);
    }

    /// It is the new column's, whose name it has.
    pub fn add(&mut self, begun: &Begun, slot: Slot) {
        let place = Place::Column(begun.value..self.columns.len());
        self.put(slot, place);
    }

    /// It takes the place of what the slot had: of the row, or made by a rule before.
    pub fn change(&mut self, begun: &Begun, slot: Slot) {
        if let Some(Place::Column(old)) = self.places.get(slot).cloned().flatten() {
            let value = self.value(begun).to_vec();
            self.columns.truncate(begun.at);
            return self.change_column(slot, old, &value);
        }
        let start = self.changes.len();
        self.changes.extend_from_slice(self.columns.get(begun.value..).unwrap_or_default());
        self.columns.truncate(begun.at);
        self.put(slot, Place::Change(start..self.changes.len()));
    }

    fn change_column(&mut self, slot: Slot, old: Range<usize>, value: &[u8]) {
        self.columns.splice(old.clone(), value.iter().copied());
        let new = old.start..old.start + value.len();
        for place in self.places.iter_mut().flatten() {
            if let Place::Column(behind) = place
                && behind.start >= old.end
            {
                *behind = behind.start - old.end + new.end..behind.end - old.end + new.end;
            }
        }
        self.put(slot, Place::Column(new));
    }

    fn put(&mut self, slot: Slot, place: Place) {
        if let Some(known) = self.places.get_mut(slot) {
            *known = Some(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];

    fn name(slot: Slot) -> String {
        format!("\"{}\":", NAMES[slot])
    }

    proptest! {
        /// Held against a list of the columns and one of the changes. The first two slots are of the row.
        #[test]
        fn values_stand_where_they_were_put(puts in prop::collection::vec((0..4_usize, "[0-9]{0,5}", any::<bool>()), 0..20)) {
            let mut made = Made::default();
            made.clear(4);
            let (mut added, mut changes) = (Vec::<(Slot, String)>::new(), [None, None]);
            for (slot, value, counts) in puts {
                let known = added.iter_mut().find(|(known, _)| *known == slot);
                let new = slot >= 2 && known.is_none();
                let begun = made.begin(new.then(|| name(slot)).as_deref().map(str::as_bytes));
                made.end().extend_from_slice(b"something");
                made.value_is(&begun, value.as_bytes());
                prop_assert_eq!(made.value(&begun), value.as_bytes());
                match (counts, new, known) {
                    (false, ..) => made.discard(&begun),
                    (_, true, _) => {
                        made.add(&begun, slot);
                        added.push((slot, value));
                    }
                    (_, _, Some((_, old))) => {
                        made.change(&begun, slot);
                        *old = value;
                    }
                    (_, _, None) => {
                        made.change(&begun, slot);
                        changes[slot] = Some(value);
                    }
                }
            }
            let columns: String = added.iter().map(|(slot, value)| format!(",{}{value}", name(*slot))).collect();
            prop_assert_eq!(std::str::from_utf8(made.columns()).unwrap(), columns);
            for slot in 0..4 {
                let column = added.iter().find(|(known, _)| *known == slot).map(|(_, value)| value);
                let expected = column.or_else(|| changes.get(slot)?.as_ref());
                prop_assert_eq!(made.get(slot), expected.map(|value| value.as_bytes()));
            }
        }
    }
}

//! Things with numbers. A number that is free is given again.

#[derive(Debug)]
pub struct Slots<T> {
    taken: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { taken: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub fn get(&self, number: u32) -> Option<&T> {
        self.taken.get(number as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.taken.get_mut(number as usize)?.as_mut()
    }

    pub fn put(&mut self, thing: T) -> u32 {
        if let Some(number) = self.free.pop()
            && let Some(free) = self.taken.get_mut(number as usize)
        {
            *free = Some(thing);
            return number;
        }
        self.taken.push(Some(thing));
        number_of(self.taken.len() - 1)
    }

    pub fn take(&mut self, number: u32) -> Option<T> {
        let thing = self.taken.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(thing)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.taken.iter().flatten()
    }

    /// The first number that is taken, from `hand` on, round and round; looks at no more than `most`.
    pub fn from(&self, hand: u32, most: usize) -> Option<u32> {
        let all = self.taken.len();
        let is_taken = |at: &usize| self.taken.get(*at).is_some_and(Option::is_some);
        let start = if (hand as usize) < all { hand as usize } else { 0 };
        (start..all).chain(0..start).take(most).find(is_taken).map(number_of)
    }

    /// Numbers below this were given at some time.
    pub fn end(&self) -> u32 {
        number_of(self.taken.len())
    }
}

/// An index as a number.
pub fn number_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

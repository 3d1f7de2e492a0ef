//! Numbers of a fixed sequence, so that a run can be made again from its seed.

/// A linear congruential generator (Knuth's MMIX constants): quick, and the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A number below this one; zero where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap_or_default().checked_rem(end).unwrap_or_default()
    }

    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these; the default where there are none.
    pub fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        from.get(self.below(from.len())).copied().unwrap_or_default()
    }

    /// Puts them into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_sequence_again() {
        let draw = |seed| {
            let mut random = Random::seeded(seed);
            let mut order: Vec<usize> = (0..20).collect();
            random.shuffle(&mut order);
            (order, random.below(1_000), random.pick(&["a", "b"]))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_eq!(Random::seeded(1).below(0), 0);
        assert_eq!(Random::seeded(1).pick::<u8>(&[]), 0);
    }
}

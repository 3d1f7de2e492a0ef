//! A figure that was measured several times.

use serde::Serialize;

/// The middle of several measurements, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// `None` where nothing was measured.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (&least, &most) = sorted.first().zip(sorted.last())?;
        let middle = |at: usize| sorted.get(at).copied().unwrap_or(most);
        let median = (middle((sorted.len() - 1) / 2) + middle(sorted.len() / 2)) / 2.0;
        Some(Spread { median, least, most })
    }

    /// `0.82 (0.79 to 0.90)`.
    pub fn text(&self, digits: usize) -> String {
        let Spread { median, least, most } = self;
        format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_count_lies_between_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().text(1), "2.5 (1.0 to 4.0)");
        assert_eq!(Spread::of([]), None);
    }
}

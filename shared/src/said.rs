//! What was said last, so that a failure that lasts is told of every few seconds, not at every try.

use std::time::{Duration, Instant};

/// What stays the same is told of again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The last words, and when they were said.
#[derive(Debug, Default)]
pub struct Said(Option<(String, Instant)>);

impl Said {
    /// Whether this should be said now; then it counts as said.
    pub fn is_news(&mut self, words: &str) -> bool {
        let is_news = self.0.as_ref().is_none_or(|(last, at)| last != words || at.elapsed() >= AGAIN_AFTER);
        if is_news {
            self.0 = Some((words.to_owned(), Instant::now()));
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_no_news_for_a_while() {
        let mut said = Said::default();
        assert!(said.is_news("a") && !said.is_news("a") && said.is_news("b") && said.is_news("a"));
        said.0 = said.0.map(|(words, at)| (words, at - AGAIN_AFTER));
        assert!(said.is_news("a"));
    }
}

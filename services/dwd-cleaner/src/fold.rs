//! Spellings that mean the same: full and half width, blanks, case.

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

/// What does not count when two texts are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// `ＡＢＣ１` and `ABC1`, `ｱ` and `ア`, `㈱` and `(株)`: Unicode's compatibility forms (NFKC).
    Width,
    /// All blanks, wherever they stand, and characters of no width.
    Blank,
    /// `Books` and `BOOKS`.
    Case,
}

/// Differences that do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fold {
    width: bool,
    blank: bool,
    case: bool,
}

fn is_blank(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{200B}'..='\u{200F}' | '\u{2060}' | '\u{FEFF}')
}

impl Fold {
    pub fn of(differences: &[Difference]) -> Self {
        Fold {
            width: differences.contains(&Difference::Width),
            blank: differences.contains(&Difference::Blank),
            case: differences.contains(&Difference::Case),
        }
    }

    pub fn is_none(self) -> bool {
        self == Fold::default()
    }

    /// Appends the one spelling that stands for all that differ by these only.
    pub fn append(self, text: &str, out: &mut String) {
        match self.width {
            true => self.append_letters(text.nfkc(), out),
            false => self.append_letters(text.chars(), out),
        }
    }

    fn append_letters(self, letters: impl Iterator<Item = char>, out: &mut String) {
        for letter in letters.filter(|letter| !self.blank || !is_blank(*letter)) {
            match self.case {
                true => out.extend(letter.to_lowercase()),
                false => out.push(letter),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Fold = Fold { width: true, blank: true, case: true };

    fn folded(fold: Fold, text: &str) -> String {
        let mut out = String::new();
        fold.append(text, &mut out);
        out
    }

    #[test]
    fn spellings_of_one_category_are_one() {
        for text in ["电子产品", " 电子产品\t", "电子\u{3000}产品", "电 子 产 品", "\u{FEFF}电子产品\u{A0}"]
        {
            assert_eq!(folded(ALL, text), "电子产品", "{text:?}");
        }
        for text in ["Home & Garden", "ＨＯＭＥ　＆　ＧＡＲＤＥＮ", "home&garden"] {
            assert_eq!(folded(ALL, text), "home&garden", "{text:?}");
        }
    }

    #[test]
    fn each_difference_counts_unless_it_is_named() {
        let only = |difference| Fold::of(&[difference]);
        assert_eq!(folded(only(Difference::Width), "Ａ b"), "A b");
        assert_eq!(folded(only(Difference::Blank), "Ａ b"), "Ａb");
        assert_eq!(folded(only(Difference::Case), "Ａ B"), "ａ b");
        assert_eq!(folded(Fold::default(), "Ａ B"), "Ａ B");
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(text in "[ -~Ａ-ｚ电子产品\u{3000}é]*") {
            let once = folded(ALL, &text);
            prop_assert_eq!(folded(ALL, &once), once);
        }
    }
}

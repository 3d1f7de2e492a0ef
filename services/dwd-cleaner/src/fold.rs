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

/// Of Unicode's first block of unified ideographs: they have no case and no other form.
fn is_ideograph(letter: char) -> bool {
    matches!(letter, '\u{4E00}'..='\u{9FFF}')
}

/// NFKC leaves such letters as they are, and next to each other.
fn has_one_width(letter: char) -> bool {
    letter.is_ascii() || is_ideograph(letter)
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
        // Most texts are their own compatibility form, and to see that takes less than to make it.
        match self.width && !text.chars().all(has_one_width) {
            true => self.append_letters(text.nfkc(), out),
            false => self.append_letters(text.chars(), out),
        }
    }

    fn append_letters(self, letters: impl Iterator<Item = char>, out: &mut String) {
        for letter in letters.filter(|letter| !self.blank || !is_blank(*letter)) {
            match self.case && !is_ideograph(letter) {
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

    #[test]
    fn letters_of_one_width_are_their_own_compatibility_form() {
        for letter in ('\0'..='\u{FFFF}').filter(|letter| has_one_width(*letter)) {
            assert!(std::iter::once(letter).nfkc().eq([letter]), "{letter:?}");
            assert!(!is_ideograph(letter) || letter.to_lowercase().eq([letter]), "{letter:?}");
        }
    }

    proptest! {
        #[test]
        fn a_text_is_folded_as_its_compatibility_form_is(text in "[ -~Ａ-ｚ电子产品ｶﾞﾊﾟ\u{3000}\u{AC00}-\u{AC10}\u{1100}-\u{1112}\u{0300}-\u{0305}éÅ]*") {
            let letters: String = text.nfkc().filter(|letter| !is_blank(*letter)).collect();
            prop_assert_eq!(folded(ALL, &text), letters.to_lowercase());
        }

        #[test]
        fn folding_twice_is_folding_once(text in "[ -~Ａ-ｚ电子产品\u{3000}é]*") {
            let once = folded(ALL, &text);
            prop_assert_eq!(folded(ALL, &once), once);
        }
    }
}

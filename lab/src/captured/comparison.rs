//! What a comparison came to.

use std::fmt;

use crate::paper::Paper;

/// So many of each kind are named; the others are counted.
pub const FEW: usize = 5;

/// Most columns that are named of one row.
const FEW_COLUMNS: usize = 5;

/// How many there are of a kind, and the first few of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings<T> {
    pub count: u64,
    pub first: Vec<T>,
}

impl<T> Default for Findings<T> {
    fn default() -> Self {
        Findings { count: 0, first: Vec::new() }
    }
}

impl<T> Findings<T> {
    pub fn add(&mut self, found: T) {
        self.count += 1;
        if self.first.len() < FEW {
            self.first.push(found);
        }
    }
}

/// A row whose values are not the same in both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub key: String,
    pub values: Vec<ValueDifference>,
}

/// The values of one column, as PostgreSQL writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueDifference {
    pub column: String,
    pub in_table: Option<String>,
    pub in_topic: Option<String>,
}

/// A topic held against its table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    pub table: String,
    pub topic: String,
    pub table_rows: u64,
    /// Keys whose last record is no tombstone.
    pub live_keys: u64,
    /// Rows of the table that the topic lacks, by their keys.
    pub missing: Findings<String>,
    /// Live keys that the table lacks.
    pub surplus: Findings<String>,
    pub different: Findings<Difference>,
    /// Live keys whose last record is no row of this table, and why.
    pub unreadable: Findings<String>,
    /// Records whose version is not above that of the key's record before, or cannot be read.
    pub not_growing: Findings<String>,
}

impl Comparison {
    /// Whether a reader of the whole topic ends up with the table.
    pub fn has_same_rows(&self) -> bool {
        let wrong = self.missing.count + self.surplus.count + self.different.count + self.unreadable.count;
        wrong == 0 && self.table_rows == self.live_keys
    }

    /// Whether that is so, and each key's versions grew on the way.
    pub fn is_equal(&self) -> bool {
        self.has_same_rows() && self.not_growing.count == 0
    }

    /// The lines for a report.
    pub fn write(&self, paper: &mut Paper) {
        paper.check(self.is_equal(), self.summary());
        for line in self.details() {
            paper.line(format!("      {line}"));
        }
    }

    fn summary(&self) -> String {
        let Comparison { table, topic, table_rows, live_keys, missing, surplus, different, unreadable, not_growing } =
            self;
        format!(
            "{table} in {topic}: {table_rows} rows in the table, {live_keys} live keys in the topic, {} missing, {} too many, \
             {} different, {} unreadable, {} versions that did not grow",
            missing.count, surplus.count, different.count, unreadable.count, not_growing.count
        )
    }

    fn details(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.missing.first.iter().map(|key| format!("missing: {key}")));
        lines.extend(self.surplus.first.iter().map(|key| format!("too many: {key}")));
        lines.extend(self.different.first.iter().flat_map(Difference::lines));
        lines.extend(self.unreadable.first.iter().map(|found| format!("unreadable: {found}")));
        lines.extend(self.not_growing.first.iter().map(|found| format!("version: {found}")));
        lines
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        self.details().iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl Difference {
    fn lines(&self) -> Vec<String> {
        let named = self.values.iter().take(FEW_COLUMNS).map(|value| format!("different: {}, {value}", self.key));
        let mut lines: Vec<String> = named.collect();
        if let Some(others) = self.values.len().checked_sub(FEW_COLUMNS).filter(|&others| others > 0) {
            lines.push(format!("different: {}, and {others} more columns", self.key));
        }
        lines
    }
}

impl fmt::Display for ValueDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = shown_from(self.in_table.as_deref(), self.in_topic.as_deref());
        let (in_table, in_topic) = (shown(self.in_table.as_deref(), begin), shown(self.in_topic.as_deref(), begin));
        write!(f, "column {}: {in_table} in the table, {in_topic} in the topic", self.column)
    }
}

/// Most characters of a value that are shown, and how many of them stand before the first that differs.
const SHOWN: usize = 120;
const SHOWN_BEFORE: usize = 20;

/// Where to begin, so that the first difference of two long values is seen.
fn shown_from(a: Option<&str>, b: Option<&str>) -> usize {
    let (Some(a), Some(b)) = (a, b) else { return 0 };
    if a.chars().count().max(b.chars().count()) <= SHOWN {
        return 0;
    }
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    same.saturating_sub(SHOWN_BEFORE)
}

/// A value in quotes, with escapes, so that blanks at its ends are seen.
fn shown(value: Option<&str>, begin: usize) -> String {
    let Some(value) = value else { return "NULL".to_owned() };
    let piece: String = value.chars().skip(begin).take(SHOWN).collect();
    let before = if begin > 0 { "…" } else { "" };
    let behind = if value.chars().nth(begin + SHOWN).is_some() { "…" } else { "" };
    format!("{before}{piece:?}{behind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(in_table: Option<&str>, in_topic: Option<&str>) -> ValueDifference {
        let owned = |value: Option<&str>| value.map(str::to_owned);
        ValueDifference { column: "name".into(), in_table: owned(in_table), in_topic: owned(in_topic) }
    }

    fn equal() -> Comparison {
        Comparison { table_rows: 2, live_keys: 2, ..Comparison::default() }
    }

    #[test]
    fn anything_that_was_found_makes_it_unequal() {
        assert!(equal().is_equal());
        let mut missing = equal();
        missing.missing.add("{\"id\":1}".into());
        let mut different = equal();
        different.different.add(Difference { key: "{\"id\":1}".into(), values: vec![value(None, Some(""))] });
        let two_keys_of_one_row = Comparison { live_keys: 3, ..equal() };
        for comparison in [missing, different, two_keys_of_one_row] {
            assert!(!comparison.is_equal() && !comparison.has_same_rows(), "{comparison}");
        }
        let mut not_growing = equal();
        not_growing.not_growing.add("{\"id\":1}".into());
        assert!(!not_growing.is_equal() && not_growing.has_same_rows());
    }

    #[test]
    fn a_few_are_named_and_all_are_counted() {
        let mut comparison = equal();
        for id in 0..100 {
            comparison.surplus.add(format!("{{\"id\":{id}}}"));
        }
        let values = vec![value(Some("a"), None); FEW_COLUMNS + 2];
        comparison.different.add(Difference { key: "{\"id\":7}".into(), values });
        let text = comparison.to_string();
        assert!(text.contains("100 too many, 1 different"), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("too many: ")).count(), FEW);
        assert!(text.contains("different: {\"id\":7}, column name: \"a\" in the table, NULL in the topic"), "{text}");
        assert!(text.ends_with("and 2 more columns"), "{text}");
    }

    #[test]
    fn a_null_is_not_an_empty_text_and_blanks_are_seen() {
        assert_eq!(value(None, Some("")).to_string(), "column name: NULL in the table, \"\" in the topic");
        assert_eq!(value(Some("a "), Some("a")).to_string(), "column name: \"a \" in the table, \"a\" in the topic");
    }

    #[test]
    fn the_difference_of_long_values_is_seen() {
        let same = "北京".repeat(500);
        let text = value(Some(&format!("{same}a")), Some(&format!("{same}b"))).to_string();
        assert!(text.contains("京a\"") && text.contains("京b\"") && text.chars().count() < 150, "{text}");
        let text = value(Some(&same), None).to_string();
        assert!(text.contains("京\"…") && text.chars().count() < 200, "{text}");
    }
}

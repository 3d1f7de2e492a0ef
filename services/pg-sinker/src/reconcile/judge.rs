//! Whether a row that differed differs in truth: it was read while both sides were written to.
//!
//! A look reads the row at the source, waits until the pipeline has brought the source's position into the sink, reads it there, and then at
//! the source once more. A row that changed meanwhile tells nothing. One that did not, and is not the same in the sink, differs; it is
//! believed when the next look finds the very same: a row may change and change back between two reads, and a commit may be in the WAL, and so in
//! the sink, before the source shows it to anybody (it waits for a standby, or for a processor).

/// The compared values of a row, as text.
pub type Texts = Vec<Option<String>>;

/// A row as one side has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Another one after each change.
    pub identity: String,
    pub texts: Texts,
}

/// What one look saw; `None` where there is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub source_before: Option<Row>,
    pub sink: Option<Row>,
    pub source_after: Option<Row>,
}

/// What is to be thought of a row after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Equal,
    Differs,
    /// To be looked at again.
    Open,
    /// It changed at each of the looks that it may have.
    Changing,
}

/// What is known of a row that differed.
#[derive(Debug, Clone, Default)]
pub struct Case {
    differed: Option<Look>,
    looks: u32,
}

impl Case {
    /// At the last look, and it did not change meanwhile.
    pub fn has_differed(&self) -> bool {
        self.differed.is_some()
    }

    pub fn judge(&mut self, look: &Look, looks_max: u32) -> Verdict {
        self.looks += 1;
        let texts = |row: &Option<Row>| row.as_ref().map(|row| row.texts.clone());
        let is_steady = look.source_before == look.source_after;
        if is_steady && texts(&look.source_after) == texts(&look.sink) {
            return Verdict::Equal;
        }
        if is_steady && self.differed.as_ref() == Some(look) {
            return Verdict::Differs;
        }
        self.differed = is_steady.then(|| look.clone());
        if self.looks >= looks_max { Verdict::Changing } else { Verdict::Open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(identity: &str, text: &str) -> Option<Row> {
        Some(Row { identity: identity.into(), texts: vec![Some(text.into())] })
    }

    fn look(before: Option<Row>, sink: Option<Row>, after: Option<Row>) -> Look {
        Look { source_before: before, sink, source_after: after }
    }

    fn judged(looks: &[Look]) -> Vec<Verdict> {
        let mut case = Case::default();
        looks.iter().map(|look| case.judge(look, 4)).collect()
    }

    #[test]
    fn what_the_sink_caught_up_with_is_equal() {
        assert_eq!(judged(&[look(row("1", "a"), row("v", "a"), row("1", "a"))]), [Verdict::Equal]);
        assert_eq!(judged(&[look(None, None, None)]), [Verdict::Equal]);
    }

    #[test]
    fn what_differs_twice_the_same_differs() {
        let lost = look(row("1", "a"), None, row("1", "a"));
        assert_eq!(judged(&[lost.clone(), lost]), [Verdict::Open, Verdict::Differs]);
        let surplus = look(None, row("v", "a"), None);
        assert_eq!(judged(&[surplus.clone(), surplus]), [Verdict::Open, Verdict::Differs]);
    }

    #[test]
    fn a_row_that_changes_is_never_wrong_and_never_equal() {
        let changes = |n: u8| look(row(&n.to_string(), "a"), row("v", "b"), row(&(n + 1).to_string(), "a"));
        assert_eq!(
            judged(&[changes(1), changes(2), changes(3), changes(4)]),
            [Verdict::Open, Verdict::Open, Verdict::Open, Verdict::Changing]
        );
    }

    #[test]
    fn a_row_that_changed_and_changed_back_is_looked_at_again() {
        // The sink showed the value between the two; the source looked the same before and after.
        let between = look(None, row("v1", "a"), None);
        let later = look(None, None, None);
        assert_eq!(judged(&[between.clone(), later]), [Verdict::Open, Verdict::Equal]);
        let another = look(None, row("v3", "a"), None);
        assert_eq!(judged(&[between, another.clone(), another]), [Verdict::Open, Verdict::Open, Verdict::Differs]);
    }
}

//! What a comparison found: for a person, for a program, and, without any value of a row, for the page and the table of the schedule.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lost::Place;

/// What the comparison of a pair found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub pair: String,
    pub source_table: String,
    pub sink_table: String,
    /// UTC, to the millisecond.
    pub started_at: String,
    pub seconds: f64,
    /// Where the source was at the start: what was committed before is in the comparison.
    pub position: String,
    pub source_rows: u64,
    pub sink_rows: u64,
    pub ranges: u64,
    /// Rows that differed at first sight.
    pub candidates: u64,
    /// Keys of rows that changed at each look, and were not judged.
    pub changing: Vec<KeyShown>,
    pub differences: Vec<Difference>,
    /// Why the topics could not tell where rows got lost, where they could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untold: Option<String>,
    /// The comparison ended at the bound of differences: there may be more.
    pub cut_short: bool,
}

/// A key by the names of its columns.
pub type KeyShown = BTreeMap<String, String>;

/// A row that differs.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    pub key: KeyShown,
    pub kind: Kind,
    /// Those that are not the same; none where a side has no row.
    pub columns: Vec<ColumnShown>,
    /// Where in the chain it got lost; absent where the topics could not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// A repair was done, and the row is equal now.
    pub healed: bool,
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The sink lacks it.
    Missing,
    /// The sink has it, and the source does not.
    Surplus,
    /// Both have it, with other values.
    Other,
}

/// The two values of a column.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnShown {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<Option<String>>,
}

/// How many rows of a report are what: the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Neither equal nor explained.
    pub differ: u64,
    /// Missing or old, since a stage rejected them.
    pub rejected: u64,
    pub changing: u64,
    pub compared: u64,
}

impl Difference {
    pub fn is_rejected(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.rejected.is_some())
    }
}

impl Report {
    pub fn counts(&self) -> Counts {
        let open = || self.differences.iter().filter(|difference| !difference.healed);
        Counts {
            differ: open().filter(|difference| !difference.is_rejected()).count() as u64,
            rejected: open().filter(|difference| difference.is_rejected()).count() as u64,
            changing: self.changing.len() as u64,
            compared: self.source_rows.max(self.sink_rows),
        }
    }

    /// Whether the sink holds what the source holds, but for rows that were not judged.
    pub fn is_equal(&self) -> bool {
        let counts = self.counts();
        counts.differ == 0 && counts.rejected == 0 && !self.cut_short
    }

    /// For places that more people see than may see the rows.
    pub fn without_values(&self) -> Value {
        let mut report = self.clone();
        let columns = report.differences.iter_mut().flat_map(|difference| &mut difference.columns);
        columns.for_each(|column| (column.source, column.sink) = (None, None));
        serde_json::to_value(report).unwrap_or_default()
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text =
            format!("{}: {} and {}, from {} on\n", self.pair, self.source_table, self.sink_table, self.position);
        let counts = self.counts();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = counts.compared as f64 / self.seconds.max(0.001);
        let _ = writeln!(
            text,
            "  {} rows at the source, {} in the sink, {} ranges, {:.1} s, {rate:.0} rows/s",
            self.source_rows, self.sink_rows, self.ranges, self.seconds
        );
        let _ = writeln!(text, "  {} rows differed at first sight and were looked at again", self.candidates);
        for difference in &self.differences {
            difference.write(&mut text);
        }
        if let Some(why) = &self.untold {
            let _ = writeln!(text, "  where they got lost cannot be told: {why}");
        }
        for key in &self.changing {
            let _ = writeln!(text, "  {}  changed at each look: not judged", shown(key));
        }
        let healed = self.differences.iter().filter(|difference| difference.healed).count();
        let of = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let found: Vec<String> = [
            of(counts.differ, "rows differ"),
            of(counts.rejected, "rows are missing because they were rejected"),
            of(healed as u64, "rows were healed"),
            of(counts.changing, "rows were not judged, they changed at each look"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let verdict = if self.is_equal() { "equal" } else { "NOT EQUAL" };
        let more = if self.cut_short { "; ended at reconcile.differences_max, there may be more" } else { "" };
        let found = if found.is_empty() { String::new() } else { format!(": {}", found.join(", ")) };
        let _ = writeln!(text, "  {verdict}{found}{more}");
        text
    }
}

fn shown(key: &KeyShown) -> String {
    key.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn value(value: Option<&Option<String>>) -> String {
    match value {
        Some(Some(text)) => format!("{text:?}"),
        _ => "NULL".to_owned(),
    }
}

impl Difference {
    fn write(&self, text: &mut String) {
        let what = match self.kind {
            Kind::Missing => "missing in the sink".to_owned(),
            Kind::Surplus => "in the sink, and not at the source".to_owned(),
            Kind::Other => {
                let column = |column: &ColumnShown| {
                    let (source, sink) = (value(column.source.as_ref()), value(column.sink.as_ref()));
                    format!("{}: source {source}, sink {sink}", column.name)
                };
                self.columns.iter().map(column).collect::<Vec<_>>().join("; ")
            }
        };
        let healed = if self.healed { "  HEALED" } else { "" };
        let _ = writeln!(text, "  {}  {what}{healed}", shown(&self.key));
        match &self.place {
            Some(Place { first_without, writer, what, rejected: None }) => {
                let _ = writeln!(text, "      lost at {first_without} ({writer}): {what}");
            }
            Some(Place { first_without, writer, rejected: Some(letter), .. }) => {
                let _ =
                    writeln!(text, "      rejected by {writer} on its way to {first_without}: dead letter {letter}");
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let key = |id: &str| KeyShown::from([("id".to_owned(), id.to_owned())]);
        let place = |rejected: Option<&str>| Place {
            first_without: "dwd".into(),
            writer: "dwd-cleaner".into(),
            what: "the row is missing".into(),
            rejected: rejected.map(str::to_owned),
        };
        let status = ColumnShown { name: "status".into(), source: Some(Some("PAID".into())), sink: Some(None) };
        let difference = |id, kind, columns, rejected| Difference {
            key: key(id),
            kind,
            columns,
            place: Some(place(rejected)),
            healed: false,
        };
        Report {
            pair: "latest".into(),
            source_table: "b.o".into(),
            sink_table: "r.o".into(),
            started_at: "now".into(),
            seconds: 2.0,
            position: "0/5".into(),
            source_rows: 1_000,
            sink_rows: 999,
            ranges: 1,
            candidates: 4,
            changing: vec![key("9")],
            differences: vec![
                difference("1", Kind::Missing, Vec::new(), Some("dlq 0/3: no")),
                difference("2", Kind::Other, vec![status], None),
            ],
            untold: None,
            cut_short: false,
        }
    }

    #[test]
    fn a_report_says_which_key_which_column_and_where() {
        let text = report().text();
        for line in [
            "1000 rows at the source, 999 in the sink, 1 ranges, 2.0 s, 500 rows/s",
            "id=1  missing in the sink\n      rejected by dwd-cleaner on its way to dwd: dead letter dlq 0/3: no",
            "id=2  status: source \"PAID\", sink NULL\n      lost at dwd (dwd-cleaner): the row is missing",
            "id=9  changed at each look: not judged",
            "NOT EQUAL: 1 rows differ, 1 rows are missing because they were rejected, 1 rows were not judged",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }

    #[test]
    fn rejected_rows_are_counted_apart_and_healed_ones_not_at_all() {
        let mut report = report();
        assert_eq!(report.counts(), Counts { differ: 1, rejected: 1, changing: 1, compared: 1_000 });
        report.differences[1].healed = true;
        assert_eq!(report.counts().differ, 0);
        assert!(!report.is_equal());
        report.differences.remove(0);
        assert!(report.is_equal() && report.text().contains("equal: 1 rows were healed"), "{}", report.text());
    }

    #[test]
    fn a_page_shows_no_value() {
        let page = report().without_values().to_string();
        assert!(page.contains("\"status\"") && !page.contains("PAID"), "{page}");
    }
}

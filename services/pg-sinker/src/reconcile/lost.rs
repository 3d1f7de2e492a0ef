//! Where in the chain a row got lost: the first layer that does not have what the source has, or the sink itself.
//!
//! A layer has a row's newest record: its version, which every stage hands on as it is, and its values. The first topic is held against the
//! source by its values; each further place also by the version of the one before.

use serde::Serialize;
use shared::position::Version;

use super::judge::Texts;

/// The newest record of a key in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub partition: i32,
    pub offset: i64,
    pub version: Version,
    /// `None` is a tombstone. A column of the row is `None` where the layer does not have it, or has it before it is cleaned.
    pub row: Option<Vec<Option<Option<String>>>>,
}

/// What a topic has of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer<'a> {
    pub topic: &'a str,
    /// Who writes it.
    pub writer: &'a str,
    pub found: Option<Found>,
}

/// A dead letter of the key: the record that was rejected, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Topic, partition and offset of the letter, with the reason.
    pub letter: String,
}

/// Where it got lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The first that does not have it: a topic, or the sink's table.
    pub first_without: String,
    /// Who should have written it there.
    pub writer: String,
    pub what: String,
    /// It was rejected there, and stands in the dead letters: topic, partition, offset, reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// What is known of a row that differs.
#[derive(Debug)]
pub struct Known<'a> {
    pub columns: &'a [String],
    /// As the source has it, brought to the sink's text; `None`: gone.
    pub source: Option<&'a Texts>,
    /// In the order of the chain.
    pub layers: &'a [Layer<'a>],
    pub rejected: &'a [Rejected],
    pub sink_table: &'a str,
    pub sink: Option<&'a Texts>,
}

impl Known<'_> {
    /// The columns that differ between source and sink; all where one of them has no row.
    pub fn columns_that_differ(&self) -> Vec<String> {
        match (self.source, self.sink) {
            (Some(source), Some(sink)) => {
                let differs =
                    self.columns.iter().zip(source.iter().zip(sink)).filter(|(_, (source, sink))| source != sink);
                differs.map(|(name, _)| name.clone()).collect()
            }
            _ => Vec::new(),
        }
    }

    pub fn place(&self) -> Place {
        let mut before: Option<&Layer<'_>> = None;
        for layer in self.layers {
            if let Some(what) = self.is_missing(layer, before) {
                let rejected = before.and_then(|before| self.letter(before));
                let (first_without, writer) = (layer.topic.to_owned(), layer.writer.to_owned());
                return Place { first_without, writer, what, rejected };
            }
            before = Some(layer);
        }
        let what = match (self.source, self.sink) {
            (Some(_), None) => "the row is missing".to_owned(),
            (None, _) => "the row is there and should be gone".to_owned(),
            _ => format!("{} differ in the table alone", self.columns_that_differ().join(", ")),
        };
        let rejected = before.and_then(|before| self.letter(before));
        Place { first_without: self.sink_table.to_owned(), writer: "pg-sinker".into(), what, rejected }
    }

    /// What the layer lacks of what the source, or the layer before, has.
    fn is_missing(&self, layer: &Layer<'_>, before: Option<&Layer<'_>>) -> Option<String> {
        let row = layer.found.as_ref().and_then(|found| found.row.as_ref());
        let (source, row) = match (self.source, row) {
            (None, Some(_)) => return Some("its deletion is missing".into()),
            (Some(_), None) => return Some("the row is missing".into()),
            (None, None) => return None,
            (Some(source), Some(row)) => (source, row),
        };
        let version = |layer: &Layer<'_>| layer.found.as_ref().map(|found| found.version);
        if before.is_some_and(|before| version(layer) < version(before)) {
            return Some("it has an older version of the row".into());
        }
        let differs = |(at, column): (usize, &String)| {
            let value = row.get(at)?.as_ref()?;
            (source.get(at)? != value).then(|| column.clone())
        };
        let columns: Vec<String> = self.columns.iter().enumerate().filter_map(differs).collect();
        (!columns.is_empty()).then(|| format!("it has another value of {}", columns.join(", ")))
    }

    /// The letter of the newest record of a layer, which the next stage rejected.
    fn letter(&self, before: &Layer<'_>) -> Option<String> {
        let found = before.found.as_ref()?;
        let is_it = |rejected: &&Rejected| {
            rejected.topic == before.topic && (rejected.partition, rejected.offset) == (found.partition, found.offset)
        };
        self.rejected.iter().find(is_it).map(|rejected| rejected.letter.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::position::Lsn;

    fn texts(status: &str) -> Texts {
        vec![Some("1".into()), Some(status.into())]
    }

    fn found(lsn: u64, status: Option<&str>) -> Option<Found> {
        let version = Version { lsn: Lsn(lsn), ..Version::default() };
        let row = status.map(|status| texts(status).into_iter().map(Some).collect());
        Some(Found { partition: 0, offset: 7, version, row })
    }

    fn layers(found: [Option<Found>; 3]) -> Vec<Layer<'static>> {
        let names = [("ods", "cdc-ingest"), ("dwd", "dwd-cleaner"), ("results", "dim-joiner")];
        names.into_iter().zip(found).map(|((topic, writer), found)| Layer { topic, writer, found }).collect()
    }

    fn place(source: Option<&str>, found: [Option<Found>; 3], sink: Option<&str>, rejected: &[Rejected]) -> Place {
        let columns = ["id".to_owned(), "status".to_owned()];
        let (source, sink) = (source.map(texts), sink.map(texts));
        let layers = layers(found);
        let known = Known {
            columns: &columns,
            source: source.as_ref(),
            layers: &layers,
            rejected,
            sink_table: "r.o",
            sink: sink.as_ref(),
        };
        known.place()
    }

    fn said(source: Option<&str>, found: [Option<Found>; 3], sink: Option<&str>) -> (String, String) {
        let place = place(source, found, sink, &[]);
        (place.first_without, place.what)
    }

    fn is(first_without: &str, what: &str) -> (String, String) {
        (first_without.into(), what.into())
    }

    #[test]
    fn a_row_is_followed_to_where_it_is_missing() {
        let paid = || found(5, Some("PAID"));
        assert_eq!(said(Some("PAID"), [None, None, None], None), is("ods", "the row is missing"));
        assert_eq!(said(Some("PAID"), [paid(), None, None], None), is("dwd", "the row is missing"));
        assert_eq!(said(Some("PAID"), [paid(), found(4, None), None], None), is("dwd", "the row is missing"));
        assert_eq!(said(Some("PAID"), [paid(), paid(), None], Some("NEW")), is("results", "the row is missing"));
        assert_eq!(said(Some("PAID"), [paid(), paid(), paid()], None), is("r.o", "the row is missing"));
    }

    #[test]
    fn an_older_or_other_row_is_told_apart() {
        let (new, paid) = (|| found(4, Some("NEW")), || found(5, Some("PAID")));
        assert_eq!(said(Some("PAID"), [new(), new(), new()], Some("NEW")), is("ods", "it has another value of status"));
        assert_eq!(
            said(Some("PAID"), [paid(), paid(), new()], Some("NEW")),
            is("results", "it has an older version of the row")
        );
        assert_eq!(
            said(Some("PAID"), [paid(), found(5, Some("?")), paid()], Some("?")),
            is("dwd", "it has another value of status")
        );
        assert_eq!(
            said(Some("PAID"), [paid(), paid(), paid()], Some("NEW")),
            is("r.o", "status differ in the table alone")
        );
    }

    #[test]
    fn a_row_too_many_is_followed_to_where_its_deletion_is_missing() {
        let (there, gone) = (|| found(4, Some("NEW")), || found(5, None));
        assert_eq!(said(None, [there(), there(), there()], Some("NEW")), is("ods", "its deletion is missing"));
        assert_eq!(said(None, [gone(), there(), there()], Some("NEW")), is("dwd", "its deletion is missing"));
        assert_eq!(said(None, [gone(), gone(), None], Some("NEW")), is("r.o", "the row is there and should be gone"));
        assert_eq!(said(None, [None, None, None], Some("NEW")), is("r.o", "the row is there and should be gone"));
    }

    #[test]
    fn a_value_before_it_is_cleaned_says_nothing() {
        let raw = Found { row: Some(vec![Some(Some("1".into())), None]), ..found(5, Some("")).unwrap() };
        assert_eq!(
            said(Some("PAID"), [Some(raw), found(5, Some("?")), None], None),
            is("dwd", "it has another value of status")
        );
    }

    #[test]
    fn a_rejected_row_is_known_by_its_letter() {
        let letter =
            |topic: &str, offset| Rejected { topic: topic.into(), partition: 0, offset, letter: "dlq 0/3: no".into() };
        let paid = || found(5, Some("PAID"));
        let rejected = |letter: Rejected| place(Some("PAID"), [paid(), None, None], None, &[letter]).rejected;
        assert_eq!(rejected(letter("ods", 7)).as_deref(), Some("dlq 0/3: no"));
        assert_eq!(rejected(letter("ods", 6)), None, "an older version was rejected");
        assert_eq!(rejected(letter("dwd", 7)), None);
        let in_sink = place(Some("PAID"), [paid(), paid(), paid()], None, &[letter("results", 7)]);
        assert_eq!(in_sink.rejected.as_deref(), Some("dlq 0/3: no"));
    }
}

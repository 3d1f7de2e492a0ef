//! Where rows that differ got lost: what the topics of the chain have of them, held against what either side has.

use std::collections::HashMap;
use std::time::Duration;

use shared::failure::Failure;
use shared::generation::Fate;
use sqlx::postgres::PgConnection;

use super::judge::Look;
use super::lost::{Found, Known, Layer, Place};
use super::pair::Pair;
use super::parts::Key;
use super::search::{Newest, Sightings, Wanted, search, writers};
use super::topic_texts::as_in_the_sink;
use crate::settings::Settings;

/// Searches the topics of the chain that leads to the sink's table.
#[derive(Clone, Copy)]
pub struct PlaceFinder<'c> {
    pub settings: &'c Settings,
    pub pair: &'c Pair,
    pub fate: &'c Fate,
}

/// What the topics have of some keys, once everything that the sink should have is in them.
pub struct Searched<'c> {
    finder: PlaceFinder<'c>,
    keys: Vec<Key>,
    sightings: Sightings,
}

impl<'c> PlaceFinder<'c> {
    /// The topics that lead to the sink are named in the settings.
    pub fn has_chain(&self) -> bool {
        !self.settings.reconcile.chain.slot.is_empty()
    }

    /// One pass over the topics.
    pub async fn search(self, keys: Vec<Key>) -> Result<Searched<'c>, Failure> {
        let Settings { writer, kafka, reconcile, .. } = self.settings;
        let chain = &reconcile.chain;
        let wanted = Wanted {
            key: self.pair.key.clone(),
            keys: keys.clone(),
            columns: self.pair.columns.iter().map(|column| column.name.clone()).collect(),
            topics: self.writers().into_iter().map(|(topic, _)| topic.to_owned()).collect(),
            dead_letter_topics: chain.dead_letter_topics.iter().chain([&writer.dead_letter_topic]).cloned().collect(),
            timeout: Duration::from_millis(chain.search_timeout_ms),
        };
        Ok(Searched { sightings: search(kafka, self.fate, wanted).await?, finder: self, keys })
    }

    fn writers(&self) -> Vec<(&str, &str)> {
        let Settings { input, reconcile, .. } = self.settings;
        writers(&reconcile.chain.topics, &reconcile.chain.groups, &input.topic)
    }
}

impl Searched<'_> {
    /// The place of each row that was searched for.
    pub async fn places(self, sink: &mut PgConnection, rows: &[(Key, Look)]) -> Result<HashMap<Key, Place>, Failure> {
        let (finder, pair) = (self.finder, self.finder.pair);
        let mut layers: Vec<HashMap<usize, Newest>> = Vec::new();
        for newest in self.sightings.newest {
            layers.push(as_in_the_sink(sink, pair, newest).await?);
        }
        if let Some(first) = layers.first_mut() {
            leave_out_what_cleaning_makes(pair, first);
        }
        let names: Vec<String> = pair.columns.iter().map(|column| column.name.clone()).collect();
        let (writers, sink_table) = (finder.writers(), pair.sink_table.to_string());
        let numbers: HashMap<&Key, usize> = self.keys.iter().zip(0..).collect();
        let place = |(key, look): &(Key, Look)| {
            let number = numbers.get(key)?;
            let layers: Vec<Layer<'_>> =
                writers.iter().zip(&layers).map(|(stage, newest)| layer(*stage, newest.get(number))).collect();
            let known = Known {
                columns: &names,
                source: look.source_after.as_ref().map(|row| &row.texts),
                layers: &layers,
                rejected: self.sightings.rejected.get(number).map_or(&[], Vec::as_slice),
                sink_table: &sink_table,
                sink: look.sink.as_ref().map(|row| &row.texts),
            };
            Some((key.clone(), known.place()))
        };
        Ok(rows.iter().filter_map(place).collect())
    }
}

/// It is not in the topic in front of cleaning.
fn leave_out_what_cleaning_makes(pair: &Pair, first: &mut HashMap<usize, Newest>) {
    for row in first.values_mut().filter_map(|newest| newest.row.as_mut()) {
        let made = row.iter_mut().zip(&pair.columns).filter(|(_, column)| column.is_made);
        made.for_each(|(value, _)| *value = None);
    }
}

fn layer<'t>((topic, writer): (&'t str, &'t str), newest: Option<&Newest>) -> Layer<'t> {
    let found = newest.map(|newest| Found {
        partition: newest.partition,
        offset: newest.offset,
        version: newest.version.fact,
        row: newest.row.clone(),
    });
    Layer { topic, writer, found }
}

//! What source and topics say before anything is started: the tables, and what is known of them from before.

use std::collections::HashMap;

use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::tail::{self, TailReader};
use shared::kafka::topics::{TopicSpec, Topics};
use shared::pg::TableName;
use shared::position::Lsn;
use shared::record::header::Header;
use sqlx::postgres::PgConnection;

use crate::catalog::{Catalog, Meaning, SourceTable};
use crate::settings::Settings;
use crate::source;
use crate::state::{CaptureState, TableState};

/// The name under which the broker knows us.
const SERVICE: &str = "cdc-ingest";

/// A table, and what is known of it from before.
pub struct FoundTable {
    pub meaning: Meaning,
    pub topic: String,
    pub found: Result<SourceTable, Failure>,
    pub known: Option<TableState>,
}

/// What source and topics say before anything is started.
pub struct Found {
    pub state: CaptureState,
    pub tables: Vec<FoundTable>,
    pub tails: HashMap<(usize, i32), Header>,
    /// The WAL position behind the look.
    pub since: Lsn,
}

/// Looks at all of it. The state topic and the tables' topics are made where they are missing, and the publication is completed.
pub async fn find(config: &Settings, connection: &mut PgConnection, fate: &Fate) -> Result<Found, Failure> {
    let topics = Topics::connect(&config.kafka, SERVICE)?;
    topics.ensure(&state_topic(config)).await?;
    let state = read_state(config, fate).await?;
    let oids: Vec<u32> = state.tables.values().map(|table| table.oid).filter(|oid| *oid != 0).collect();
    let captured_before: Vec<TableName> = state.tables.keys().map(|name| TableName::parse(name)).collect();
    let (publication, names) = (&config.slot.publication, config.table_names());
    let catalog = source::ensure_publication(connection, publication, &names, &captured_before, &oids).await?;
    let since = source::insert_position(connection).await?;
    let tables = tables(config, &catalog, &state)?;
    for table in &tables {
        topics.ensure(&table_topic(config, &table.topic)).await?;
    }
    let tails = read_tails(config, tables.iter().map(|table| table.topic.clone()).collect(), fate).await?;
    Ok(Found { state, tables, tails, since })
}

/// The configured tables, and those of the publication that were captured before. Further ones are added by the guardian.
fn tables(config: &Settings, catalog: &Catalog, state: &CaptureState) -> Result<Vec<FoundTable>, Failure> {
    let mut tables = Vec::new();
    for table in config.tables.values() {
        let name = TableName::parse(&table.table);
        let known = state.tables.get(&name.to_string()).cloned();
        let oid = known.as_ref().map(|known| known.oid).filter(|oid| *oid != 0);
        tables.push((Meaning { name, by_name: true, oid }, table.topic.clone(), known));
    }
    for (state_name, known) in &state.tables {
        let name = TableName::parse(state_name);
        let is_other = tables.iter().all(|(meaning, ..)| meaning.name != name)
            && catalog.published().any(|source| source.oid == known.oid)
            && config.other_tables.topic_of(&name).is_some();
        if is_other && !known.topic.is_empty() {
            let meaning = Meaning { name, by_name: false, oid: Some(known.oid) };
            tables.push((meaning, known.topic.clone(), Some(known.clone())));
        }
    }
    let meanings: Vec<Meaning> = tables.iter().map(|(meaning, ..)| meaning.clone()).collect();
    let found = catalog.meant(&meanings).into_iter().zip(tables);
    let found = found.map(|(found, (meaning, topic, known))| match found {
        // What was captured before does not hold up the others; what was not is a mistake in the settings.
        Err(failure) if known.is_none() => Err(failure),
        found => Ok(FoundTable { meaning, topic, found, known }),
    });
    found.collect()
}

async fn read_state(config: &Settings, fate: &Fate) -> Result<CaptureState, Failure> {
    let (slot, topic) = (config.slot.name.clone(), config.state.topic.clone());
    let read = move |reader: &TailReader| {
        let mut state = CaptureState::default();
        reader.scan(&topic, &[(0, 0)], &mut |record| {
            state.apply(&slot, record.key.unwrap_or_default(), record.value).map_err(|error| {
                Failure::new(FailureKind::Settings, format!("topic `{topic}` has a record that is not of Tidemill"))
                    .caused_by(error)
                    .cure("set state.topic to a topic that nobody else writes to")
            })
        })?;
        Ok(state)
    };
    tail::read_in_task(&config.kafka, SERVICE, fate, read).await
}

async fn read_tails(
    config: &Settings,
    topics: Vec<String>,
    fate: &Fate,
) -> Result<HashMap<(usize, i32), Header>, Failure> {
    let partitions = config.kafka.topics.partitions;
    let read = move |reader: &TailReader| {
        let mut tails = HashMap::new();
        for (index, topic) in topics.iter().enumerate() {
            let headers = reader.last_headers(topic, 0..partitions)?;
            tails.extend(headers.into_iter().map(|(partition, header)| ((index, partition), header)));
        }
        Ok(tails)
    };
    tail::read_in_task(&config.kafka, SERVICE, fate, read).await
}

/// The topic of a table, as it must be.
pub fn table_topic(config: &Settings, topic: &str) -> TopicSpec {
    TopicSpec { name: topic.to_owned(), partitions: config.kafka.topics.partitions, compacted: true }
}

/// The state topic, as it must be.
pub fn state_topic(config: &Settings) -> TopicSpec {
    TopicSpec { name: config.state.topic.clone(), partitions: 1, compacted: true }
}

/// What a table's copy has to do after a start.
#[derive(Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With its copy where it stopped, or without one.
    GoOn,
    /// With a new copy, for this reason.
    Anew(&'static str),
}

/// How the table that was found goes on from what is known of it. The topic's records must be those of this table, under this key.
pub fn beginning(known: Option<&TableState>, source: &SourceTable, epoch: u32) -> Beginning {
    match known {
        None => Beginning::Anew("it was not captured before"),
        Some(known) if known.epoch != epoch => Beginning::Anew("a new epoch begins"),
        Some(known) if known.stopped.is_some() => Beginning::Anew("it was stopped, and its changes were passed over"),
        Some(known) if known.oid != 0 && known.oid != source.oid => Beginning::Anew("it is another table than before"),
        Some(known) => {
            // What was written by an earlier version lacks some of it.
            let now = known.clone().of(source);
            let differs = |before: &[String], now: &[String]| !before.is_empty() && before != now;
            if differs(&known.key, &now.key) || differs(&known.key_types, &now.key_types) {
                Beginning::Anew("its key changed")
            } else if !known.membership.is_empty() && known.membership != now.membership {
                Beginning::Anew("it was taken out of the publication and put back, or its filter changed")
            } else {
                Beginning::GoOn
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::KeyColumn;
    use crate::catalog::tests::source_table;

    #[test]
    fn a_table_goes_on_only_as_the_same_table_under_the_same_key_in_the_same_epoch() {
        let key = vec![KeyColumn::new("id", "bigint")];
        let source = SourceTable { oid: 5, key, membership: "16 17".into(), ..source_table() };
        let known = TableState { epoch: 2, ..TableState::default() }.of(&source);
        let begins = |known: &TableState| beginning(Some(known), &source, 2);
        assert_eq!(begins(&known), Beginning::GoOn);
        assert_eq!(begins(&TableState { epoch: 2, ..TableState::default() }), Beginning::GoOn, "of an earlier version");
        let others = [
            TableState { epoch: 1, ..known.clone() },
            TableState { oid: 6, ..known.clone() },
            TableState { key: vec!["other".into()], ..known.clone() },
            TableState { key_types: vec!["text".into()], ..known.clone() },
            TableState { membership: "16 18".into(), ..known.clone() },
            TableState { stopped: Some("?".into()), ..known.clone() },
        ];
        for other in &others {
            assert!(matches!(begins(other), Beginning::Anew(_)), "{other:?}");
        }
        assert!(matches!(beginning(None, &source, 2), Beginning::Anew(_)));
    }
}

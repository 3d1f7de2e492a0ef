//! Is everything there that the validation needs? All of it is looked at, so that all that is missing is named at once.

use shared::failure::Failure;

use super::{Session, Steps};
use crate::layers::{Layers, Mark};
use crate::places::Places;
use crate::ready;
use crate::slot;

/// Looks at both databases, the broker and its topics, the services, and the slot.
pub async fn check<'a>(places: &'a Places, steps: &mut Steps<'_>) -> Option<Session<'a>> {
    let source = found(places.connect_source().await, format!("source database {}", places.source.address()), steps);
    let sink = found(places.connect_sink().await, format!("sink database {}", places.sink.address()), steps);
    let broker =
        found(topics(places), format!("broker {}, with the topics of all layers", places.kafka.brokers), steps);
    let mut all_ready = true;
    for service in &places.services {
        match ready::look(service).await {
            Ok(()) => steps.check(true, format!("{} is ready", service.name)),
            Err(reason) => {
                steps.check(false, format!("{} is not ready: {reason}", service.name));
                all_ready = false;
            }
        }
    }
    let mut source = source?;
    let active = check_slot(&mut source, &places.names.slot, steps).await;
    let (layers, before) = broker?;
    (all_ready && active).then_some(Session { places, source, sink: sink?, layers, before })
}

fn found<T>(outcome: Result<T, Failure>, what: String, steps: &mut Steps<'_>) -> Option<T> {
    match outcome {
        Ok(found) => {
            steps.check(true, what);
            Some(found)
        }
        Err(failure) => {
            steps.check(false, failure.chain());
            None
        }
    }
}

fn topics(places: &Places) -> Result<(Layers, [Mark; 3]), Failure> {
    let layers = Layers::connect(&places.kafka)?;
    let names = &places.names;
    let before = [layers.end(&names.ods_topic)?, layers.end(&names.dwd_topic)?, layers.end(&names.result_topic)?];
    Ok((layers, before))
}

async fn check_slot(source: &mut sqlx::postgres::PgConnection, name: &str, steps: &mut Steps<'_>) -> bool {
    let text = match slot::look(source, name).await {
        Ok(Some(slot)) if slot.active => {
            steps.check(true, format!("replication slot {name} is active, WAL {}", slot.wal_status));
            return true;
        }
        Ok(Some(slot)) => format!("replication slot {name} is read by nobody, WAL {}", slot.wal_status),
        Ok(None) => format!("there is no replication slot {name}: cdc-ingest makes it when it starts"),
        Err(failure) => failure.chain(),
    };
    steps.check(false, text);
    false
}

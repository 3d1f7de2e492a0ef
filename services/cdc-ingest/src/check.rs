//! `cdc-ingest check`: is everything in place at the source? One line a finding, with the cure.

use shared::check::Finding;
use shared::failure::Failure;
use shared::pg::TableName;
use sqlx::postgres::PgConnection;

use crate::catalog::{self, Catalog};
use crate::settings::Settings;
use crate::slot::{self, Slot};
use crate::source;

/// Looks at server, role, tables, publication and slot, and changes nothing.
pub async fn look(connection: &mut PgConnection, config: &Settings, findings: &mut Vec<Finding>) {
    findings.push(Finding::ok(format!("PostgreSQL at {} answers", config.source.address())));
    findings.push(Finding::of(&source::is_primary(connection).await, "it is a primary"));
    findings.push(Finding::of(&source::wal_level(connection).await, "wal_level is logical"));
    findings.push(Finding::of(&source::replication_privilege(connection).await, "the role may replicate"));
    let publication = &config.slot.publication;
    match catalog::look(connection, publication, &config.table_names(), &[]).await {
        Ok(catalog) => tables(connection, config, &catalog, findings).await,
        Err(failure) => findings.push(Finding::problem(&failure)),
    }
    let name = &config.slot.name;
    let mut slot = slot::look(connection, name).await;
    if let Ok(None) = slot
        && let Err(failure) = slot::has_room(connection).await
    {
        slot = Err(failure);
    }
    let holds = match &slot {
        Ok(Some(Slot { lost: Some(why), .. })) => {
            format!("slot {name} was invalidated ({why}): it will be made anew, and every table read again")
        }
        Ok(Some(Slot { holder: Some(holder), .. })) => format!("slot {name} exists, in use by {holder}"),
        Ok(Some(_)) => format!("slot {name} exists and is free"),
        _ => format!("slot {name} will be made at the start"),
    };
    findings.push(Finding::of(&slot, holds));
}

async fn publication(
    connection: &mut PgConnection,
    publication: &str,
    names: &[TableName],
    catalog: &Catalog,
) -> Result<String, Failure> {
    let statements = source::publication_statements(connection, publication, names, catalog).await?;
    source::may_publish(connection, publication, names, catalog, &statements).await?;
    Ok(match statements.is_empty() {
        true => format!("publication {publication} has the tables"),
        false => format!("publication {publication} will be completed at the start: {}", statements.join("; ")),
    })
}

async fn tables(connection: &mut PgConnection, config: &Settings, catalog: &Catalog, findings: &mut Vec<Finding>) {
    let names = config.table_names();
    findings.push(match publication(connection, &config.slot.publication, &names, catalog).await {
        Ok(holds) => Finding::ok(holds),
        Err(failure) => Finding::problem(&failure),
    });
    let will_be_published: Vec<_> = catalog.unpublished(&names).map(|table| table.name.clone()).collect();
    for name in names {
        match catalog.table(&name) {
            Ok(table) => {
                findings.push(Finding::ok(format!("table {name} is readable, key ({})", table.key_names().join(", "))));
            }
            // What is missing in the publication was said already.
            Err(failure) if will_be_published.contains(&name) && failure.to_string().contains("does not publish") => {}
            Err(failure) => findings.push(Finding::problem(&failure)),
        }
    }
    for table in catalog.published().filter(|table| !config.table_names().contains(&table.name)) {
        findings.push(match config.other_tables.topic_of(&table.name) {
            Some(topic) => Finding::ok(format!("table {} of the publication goes to topic {topic}", table.name)),
            None => Finding::ok(format!("table {} of the publication is passed over", table.name)),
        });
    }
}

//! PostgreSQL's verdict: the topic's rows loaded beside the table, and the statement asked.

use shared::failure::{Failure, FailureKind};
use shared::pg::{PostgresConfig, TableName, refused};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use super::comparison::{Comparison, Difference, Findings, ValueDifference};
use super::copy_text;
use super::progress::Progress;
use super::statement::{COPY_TOPIC_TABLE, CREATE_TOPIC_TABLE, Reading, Statement};
use super::table_shape::{Column, TableShape};
use super::topic_rows::{LiveRows, TopicRows};

/// Compares the rows of a topic with the table as it is now.
pub async fn of(
    source: &PostgresConfig,
    table: &TableName,
    rows: &TopicRows,
    progress: &mut Progress<'_>,
) -> Result<Comparison, Failure> {
    let mut connection = source.connect("tidemill-lab").await?;
    let shape = TableShape::read(&mut connection, table).await?;
    let key = rows.key_columns(&shape.primary_key, |name| shape.column(name).is_some());
    if key.is_empty() {
        return Err(Failure::new(
            FailureKind::Settings,
            format!("{table} has no primary key, and {} no row", rows.topic),
        )
        .cure("give the table a primary key: cdc-ingest needs one too"));
    }
    let LiveRows { rows: live, unreadable } = rows.live_rows(&key);
    load(&mut connection, &live, progress).await.map_err(|error| not_loaded(&rows.topic, error))?;
    progress.begin(format_args!("comparing {} rows of {} with {table}", live.len(), rows.topic));
    let statement = Statement { shape: &shape, key: key.iter().filter_map(|name| shape.column(name)).collect() };
    let answers = ask(&mut connection, &statement).await;
    let answers = answers.map_err(|error| refused(format!("{table} cannot be compared"), error))?;
    let comparison = Comparison {
        table: table.to_string(),
        topic: rows.topic.clone(),
        live_keys: rows.live_keys(),
        unreadable,
        not_growing: rows.not_growing.clone(),
        ..Comparison::default()
    };
    Ok(completed(comparison, &shape.columns, answers))
}

fn not_loaded(topic: &str, error: sqlx::Error) -> Failure {
    refused(format!("the rows of {topic} cannot be loaded in a temporary table of the source"), error)
}

/// Bytes that go to the server at a time.
const PIECE: usize = 1 << 20;

async fn load(
    connection: &mut PgConnection,
    rows: &[(&str, &str)],
    progress: &mut Progress<'_>,
) -> Result<(), sqlx::Error> {
    progress.begin(format_args!("loading {} rows", rows.len()));
    connection.execute(CREATE_TOPIC_TABLE).await?;
    let mut copy = connection.copy_in_raw(COPY_TOPIC_TABLE).await?;
    let mut piece = Vec::with_capacity(2 * PIECE);
    for (place, (key, row)) in rows.iter().enumerate() {
        copy_text::write_row(&[key, row], &mut piece);
        if piece.len() >= PIECE {
            copy.send(piece.as_slice()).await?;
            piece.clear();
            progress.tell(|| format!("loading {place} of {} rows", rows.len()));
        }
    }
    copy.send(piece.as_slice()).await?;
    copy.finish().await?;
    Ok(())
}

/// A row of [`Statement::sql`].
type Answer = (i64, Option<String>, Option<i64>, Option<String>, Option<Values>, Option<Values>);
type Values = Vec<Option<String>>;

async fn ask(connection: &mut PgConnection, statement: &Statement<'_>) -> Result<Vec<Answer>, sqlx::Error> {
    let direct = sqlx::query_as(AssertSqlSafe(statement.sql(Reading::Direct))).fetch_all(&mut *connection).await;
    match direct {
        Err(error) if is_about_data(&error) => {}
        answered => return answered,
    }
    for function in statement.functions() {
        connection.execute(AssertSqlSafe(function)).await?;
    }
    sqlx::query_as(AssertSqlSafe(statement.sql(Reading::Guarded))).fetch_all(connection).await
}

/// Whether a value could not be read as one of its type: SQLSTATE class 22, and what types of extensions raise.
fn is_about_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|found| found.code());
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("XX"))
}

/// The comparison with what the statement found.
fn completed(mut comparison: Comparison, columns: &[Column], answers: Vec<Answer>) -> Comparison {
    for (table_rows, kind, count, key, in_table, in_topic) in answers {
        comparison.table_rows = table_rows.try_into().unwrap_or_default();
        let (Some(kind), Some(count), Some(key)) = (kind, count, key) else { continue };
        let count = count.try_into().unwrap_or_default();
        match kind.as_str() {
            "missing" => found(&mut comparison.missing, count, key),
            "surplus" => found(&mut comparison.surplus, count, key),
            _ => {
                let values = values(columns, in_table.unwrap_or_default(), in_topic.unwrap_or_default());
                found(&mut comparison.different, count, Difference { key, values });
            }
        }
    }
    comparison
}

fn found<T>(findings: &mut Findings<T>, count: u64, one: T) {
    findings.count = count;
    findings.first.push(one);
}

/// The columns of a row that differ.
fn values(columns: &[Column], in_table: Values, in_topic: Values) -> Vec<ValueDifference> {
    let pairs = columns.iter().zip(in_table.into_iter().zip(in_topic));
    let different = pairs.filter(|(_, (in_table, in_topic))| in_table != in_topic);
    different
        .map(|(column, (in_table, in_topic))| ValueDifference { column: column.name.clone(), in_table, in_topic })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        ["id", "name"].map(|name| Column { name: name.into(), sql_type: "text".into(), is_json: false }).into()
    }

    fn row(values: [Option<&str>; 2]) -> Option<Values> {
        Some(values.map(|value| value.map(str::to_owned)).into())
    }

    fn answer(kind: &str, count: i64, key: &str, in_table: Option<Values>, in_topic: Option<Values>) -> Answer {
        (9, Some(kind.into()), Some(count), Some(key.into()), in_table, in_topic)
    }

    #[test]
    fn an_answer_without_a_finding_counts_the_rows() {
        let comparison = completed(
            Comparison { live_keys: 9, ..Comparison::default() },
            &columns(),
            vec![(9, None, None, None, None, None)],
        );
        assert!(comparison.is_equal(), "{comparison}");
        assert_eq!(comparison.table_rows, 9);
    }

    #[test]
    fn each_finding_has_its_place() {
        let answers = vec![
            answer("different", 7, "3", row([Some("3"), None]), row([Some("3"), Some("")])),
            answer("missing", 2, "1", row([Some("1"), None]), None),
            answer("missing", 2, "2", row([Some("2"), None]), None),
            answer("surplus", 1, "4", None, row([Some("4"), None])),
        ];
        let comparison = completed(Comparison::default(), &columns(), answers);
        assert_eq!((comparison.missing.count, comparison.missing.first), (2, vec!["1".to_owned(), "2".to_owned()]));
        assert_eq!((comparison.surplus.count, comparison.surplus.first), (1, vec!["4".to_owned()]));
        let value = ValueDifference { column: "name".into(), in_table: None, in_topic: Some(String::new()) };
        assert_eq!(comparison.different.count, 7);
        assert_eq!(comparison.different.first, [Difference { key: "3".into(), values: vec![value] }]);
    }
}

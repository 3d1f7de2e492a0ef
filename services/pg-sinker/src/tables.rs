//! The sink's tables: what is set for each, held against what the catalog says. Each problem comes with the statement that mends it.

use std::borrow::Cow;
use std::collections::HashSet;

use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, quoted};
use shared::record::row::{Columns, Fields, JSON_NULL};

use crate::catalog::{ColumnFacts, Facts};
use crate::growth::Growing;
use crate::settings::{Evolve, OnTombstone, TableConfig};

/// When the row was written, UTC. Set by the server.
pub const PROCESSED_TIME: &str = "processed_time";
/// When the change that wrote the row was committed at the source.
pub const SOURCE_COMMIT_TIME: &str = "source_commit_time";
/// The version that a newer row must exceed.
pub const RECORD_VERSION: &str = "record_version";

/// The columns that pg-sinker fills itself: name, types that fit, the definition that mends their absence.
const OWN_COLUMNS: [(&str, &[&str], &str); 3] = [
    (PROCESSED_TIME, &["timestamp without time zone", "timestamp with time zone"], "timestamp(3)"),
    (SOURCE_COMMIT_TIME, &["timestamp with time zone"], "timestamptz"),
    (RECORD_VERSION, &["bytea"], "bytea NOT NULL DEFAULT ''"),
];

/// A column that takes a field of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_sql: String,
}

impl Column {
    /// Its value is JSON, so a JSON string keeps its quotes.
    pub fn is_json(&self) -> bool {
        matches!(self.type_sql.as_str(), "json" | "jsonb")
    }
}

/// A table of the sink as it is written.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: TableName,
    /// `schema.table`, the label of metrics and the name in `tidemill.deleted_keys`.
    pub label: String,
    /// All columns that take a field of the row, in the table's order.
    pub columns: Vec<Column>,
    /// Indices in `columns`.
    pub key: Vec<usize>,
    pub on_tombstone: OnTombstone,
    /// With [`OnTombstone::Soft`], and only then.
    pub mark: Option<Mark>,
}

/// The column that says of a row that it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub column: String,
    pub kind: MarkKind,
}

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// When, `timestamptz`. NULL: it was not.
    Moment,
    /// When, `timestamp`, UTC.
    MomentInUtc,
    /// That it was.
    Flag,
}

impl MarkKind {
    fn of(type_sql: &str) -> Option<Self> {
        Some(match type_sql {
            "timestamp with time zone" => MarkKind::Moment,
            "timestamp without time zone" => MarkKind::MomentInUtc,
            "boolean" => MarkKind::Flag,
            _ => return None,
        })
    }

    /// The value of a row that was not deleted.
    pub fn unset(self) -> &'static str {
        match self {
            MarkKind::Moment => "NULL::timestamptz",
            MarkKind::MomentInUtc => "NULL::timestamp",
            MarkKind::Flag => "false",
        }
    }
}

impl Table {
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().filter_map(|&at| self.columns.get(at))
    }

    pub fn is_key(&self, column: &Column) -> bool {
        self.key_columns().any(|key| key == column)
    }
}

/// All tables, and the fields that any of them takes: a record is parsed once.
#[derive(Debug, Clone)]
pub struct Tables {
    pub fields: Columns,
    pub tables: Vec<Target>,
    /// Those that are made from the first record that has their key.
    pub awaited: Vec<Awaited>,
}

/// A table that is not there yet.
#[derive(Debug, Clone)]
pub struct Awaited {
    pub label: String,
    /// Where in [`Tables::fields`] its key is.
    pub key_fields: Vec<usize>,
}

/// A table, and where in [`Tables::fields`] each of its columns is.
#[derive(Debug, Clone)]
pub struct Target {
    pub table: Table,
    /// By the index of the column.
    pub fields: Vec<usize>,
    /// The field that says which nulls are JSON's, where a column is JSON.
    json_null: Option<usize>,
}

impl Target {
    /// For each column of the key the index of its field.
    pub fn key_fields(&self) -> impl Iterator<Item = usize> {
        self.table.key.iter().filter_map(|&at| self.fields.get(at).copied())
    }

    /// The columns, each with the index of its field.
    pub fn columns(&self) -> impl Iterator<Item = (&Column, usize)> {
        self.table.columns.iter().zip(self.fields.iter().copied())
    }

    /// What the server casts to the type of the column; `None` is SQL's NULL.
    pub fn text<'a>(&self, fields: &Fields<'a>, column: &Column, at: usize) -> Option<Cow<'a, str>> {
        let field = fields.get(at)?;
        match column.is_json() {
            false => field.text(),
            true if field.is_null() => self.is_json_null(fields, &column.name).then_some(Cow::Borrowed("null")),
            true => Some(Cow::Borrowed(field.raw())),
        }
    }

    fn is_json_null(&self, fields: &Fields<'_>, column: &str) -> bool {
        let named = self.json_null.and_then(|at| fields.get(at));
        let names = named.and_then(|named| serde_json::from_str::<Vec<Cow<'_, str>>>(named.raw()).ok());
        names.is_some_and(|names| names.iter().any(|name| name == column))
    }
}

impl Tables {
    pub fn new(tables: Vec<Table>) -> Self {
        Tables::with_awaited(tables, std::iter::empty())
    }

    pub fn with_awaited<'g>(tables: Vec<Table>, awaited: impl Iterator<Item = &'g Growing>) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut field = |wanted: &str| {
            names.iter().position(|name| name == wanted).unwrap_or_else(|| {
                names.push(wanted.to_owned());
                names.len() - 1
            })
        };
        let targets = tables
            .into_iter()
            .map(|table| {
                let fields = table.columns.iter().map(|column| field(&column.name)).collect();
                let json_null = table.columns.iter().any(Column::is_json).then(|| field(JSON_NULL));
                Target { fields, json_null, table }
            })
            .collect();
        let awaited = awaited
            .map(|table| Awaited {
                label: table.name.to_string(),
                key_fields: table.key.iter().map(|key| field(key)).collect(),
            })
            .collect();
        Tables { fields: Columns::new(&names), tables: targets, awaited }
    }
}

fn problem(what: String, cure: String) -> Failure {
    Failure::new(FailureKind::Settings, what).cure(cure)
}

/// The table as it is to be written, or everything that stands in the way.
pub fn examine(config: &TableConfig, facts: Option<&Facts>, role: &str) -> Result<Table, Vec<Failure>> {
    let name = TableName::parse(&config.table);
    let Some(facts) = facts else {
        return Err(vec![problem(
            format!("table {name} does not exist in the sink"),
            "make it, as postgres_sink/init/01_result.sql shows, or set create = true in [tables]".into(),
        )]);
    };
    let mut problems = access_problems(&name, facts, role, needed_privileges(config.on_tombstone));
    problems.extend(own_column_problems(&name, facts));
    problems.extend(key_problems(&name, facts, &config.key));
    let mark = (config.on_tombstone == OnTombstone::Soft).then_some(config.deleted_column.as_str());
    problems.extend(mark.and_then(|mark| mark_problem(&name, facts, mark)));
    problems.extend(left_out_problems(&name, facts, &config.leave_out));
    let is_taken = |column: &ColumnFacts| mark == Some(&column.name) || config.leave_out.contains(&column.name);
    let takes_a_field = |column: &&ColumnFacts| takes_a_field(column) && !is_taken(column);
    let columns: Vec<Column> = facts.columns.iter().filter(takes_a_field).map(Column::of).collect();
    let key: Vec<usize> = config.key.iter().filter_map(|key| columns.iter().position(|c| c.name == *key)).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let mark = mark.and_then(|mark| facts.columns.iter().find(|column| column.name == mark)).and_then(Mark::of);
    Ok(Table { label: name.to_string(), name, columns, key, on_tombstone: config.on_tombstone, mark })
}

impl Mark {
    fn of(facts: &ColumnFacts) -> Option<Self> {
        Some(Mark { column: facts.name.clone(), kind: MarkKind::of(&facts.type_sql)? })
    }
}

impl Column {
    fn of(facts: &ColumnFacts) -> Self {
        Column { name: facts.name.clone(), type_sql: facts.type_sql.clone() }
    }
}

fn takes_a_field(column: &ColumnFacts) -> bool {
    !column.generated && OWN_COLUMNS.iter().all(|(name, ..)| *name != column.name)
}

fn needed_privileges(on_tombstone: OnTombstone) -> &'static [&'static str] {
    match on_tombstone {
        OnTombstone::Keep | OnTombstone::Soft => &["SELECT", "INSERT", "UPDATE"],
        OnTombstone::Delete => &["SELECT", "INSERT", "UPDATE", "DELETE"],
    }
}

/// What keeps `role` from using the table.
pub fn access_problems(name: &TableName, facts: &Facts, role: &str, needed: &[&str]) -> Vec<Failure> {
    let mut problems = Vec::new();
    if !facts.is_table {
        problems.push(problem(format!("{name} is not a table"), "name a table, not a view or an index".into()));
    }
    if !facts.schema_usage {
        problems.push(problem(
            format!("role {role} may not use schema {}", name.schema),
            format!("GRANT USAGE ON SCHEMA {} TO {}", quoted(&name.schema), quoted(role)),
        ));
    }
    let missing: Vec<&str> =
        needed.iter().copied().filter(|need| !facts.privileges.iter().any(|has| has == need)).collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        problems.push(problem(
            format!("role {role} lacks {missing} on {name}"),
            format!("GRANT {missing} ON {} TO {}", name.sql(), quoted(role)),
        ));
    }
    problems
}

fn own_column_problems(name: &TableName, facts: &Facts) -> Vec<Failure> {
    let mut problems = Vec::new();
    for (own, types, definition) in OWN_COLUMNS {
        let Some(column) = facts.columns.iter().find(|column| column.name == own) else {
            problems.push(problem(
                format!("{name} has no column {own}, which pg-sinker fills"),
                format!("ALTER TABLE {} ADD COLUMN {own} {definition}", name.sql()),
            ));
            continue;
        };
        if !types.contains(&column.type_sql.as_str()) || column.generated {
            problems.push(problem(
                format!("column {own} of {name} is {}, which pg-sinker cannot fill", column.type_sql),
                format!("make it an ordinary column: {own} {definition}"),
            ));
        } else if own == RECORD_VERSION && !column.not_null {
            // NULL is neither older nor newer: such a row would never be written again.
            problems.push(problem(
                format!("column {own} of {name} allows NULL, and a row without a version would never change again"),
                format!(
                    "UPDATE {table} SET {own} = '' WHERE {own} IS NULL; ALTER TABLE {table} ALTER COLUMN {own} SET NOT NULL",
                    table = name.sql()
                ),
            ));
        }
    }
    problems
}

/// Columns that would be NULL and must not be.
fn left_out_problems(name: &TableName, facts: &Facts, left_out: &[String]) -> Vec<Failure> {
    let is_refused = |column: &&ColumnFacts| {
        left_out.contains(&column.name) && column.not_null && !column.has_default && !column.generated
    };
    let problem = |column: &ColumnFacts| {
        problem(
            format!("column {} of {name} must not be NULL, and leave_out says that it is not written", column.name),
            format!("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", name.sql(), quoted(&column.name)),
        )
    };
    facts.columns.iter().filter(is_refused).map(problem).collect()
}

/// What keeps the column from saying that a row was deleted.
fn mark_problem(name: &TableName, facts: &Facts, mark: &str) -> Option<Failure> {
    let (table, column) = (name.sql(), quoted(mark));
    let Some(found) = facts.columns.iter().find(|column| column.name == mark) else {
        return Some(problem(
            format!("{name} has no column {mark}, which says that a row was deleted"),
            format!("ALTER TABLE {table} ADD COLUMN {column} timestamptz"),
        ));
    };
    match MarkKind::of(&found.type_sql) {
        Some(_) if found.generated || OWN_COLUMNS.iter().any(|(own, ..)| *own == mark) => Some(problem(
            format!("column {mark} of {name} cannot say that a row was deleted: something else fills it"),
            "name another column as its deleted_column in [tables]".into(),
        )),
        Some(MarkKind::Flag) => None,
        Some(_) if found.not_null => Some(problem(
            format!("column {mark} of {name} must not be NULL, and a row that was not deleted has no time of it"),
            format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL"),
        )),
        Some(_) => None,
        None => Some(problem(
            format!("column {mark} of {name} is {}, which does not say whether a row was deleted", found.type_sql),
            "name a column of type timestamptz, timestamp or boolean as its deleted_column in [tables]".into(),
        )),
    }
}

fn key_problems(name: &TableName, facts: &Facts, key: &[String]) -> Vec<Failure> {
    let mut problems = Vec::new();
    for column_name in key {
        let Some(column) = facts.columns.iter().find(|column| column.name == *column_name) else {
            problems.push(problem(
                format!("{name} has no column {column_name}, which the settings name as part of its key"),
                format!("correct the key of {name} in [tables], or add the column"),
            ));
            continue;
        };
        if !takes_a_field(column) {
            problems.push(problem(
                format!("column {column_name} of {name} is not taken from the record, so it cannot be part of the key"),
                format!("correct the key of {name} in [tables]"),
            ));
        } else if !column.not_null {
            // In a unique index no NULL equals another: a repeat would become a second row.
            problems.push(problem(
                format!("column {column_name} of {name} is part of the key and allows NULL"),
                format!("ALTER TABLE {} ALTER COLUMN {} SET NOT NULL", name.sql(), quoted(column_name)),
            ));
        }
    }
    let sorted = |columns: &[String]| {
        let mut columns = columns.to_vec();
        columns.sort();
        columns
    };
    if problems.is_empty() && !facts.unique.iter().any(|unique| sorted(unique) == sorted(key)) {
        let columns: Vec<String> = key.iter().map(|column| quoted(column)).collect();
        problems.push(problem(
            format!("{name} has no unique index on exactly ({})", key.join(", ")),
            format!("CREATE UNIQUE INDEX ON {} ({})", name.sql(), columns.join(", ")),
        ));
    }
    problems
}

/// What may be made of a table; `None` where the settings have nothing made. `may_create` is what the schema of a table says that does not
/// exist, `wrong_types` are those of the settings that the server does not know.
pub fn examine_growth(
    config: &TableConfig,
    facts: Option<&Facts>,
    may_create: Option<bool>,
    (role, columns_max): (&str, usize),
    wrong_types: &[String],
) -> Result<Option<Growing>, Vec<Failure>> {
    let name = TableName::parse(&config.table);
    if (facts.is_some() && config.evolve != Evolve::Add) || (facts.is_none() && !config.create) {
        return Ok(None);
    }
    let mut problems = Vec::new();
    for type_sql in wrong_types {
        let what = format!("the sink knows no type {type_sql}, which types of {name} names");
        problems.push(problem(what, "correct it in [tables]".into()));
    }
    match facts {
        Some(facts) if !facts.is_owned => problems.push(problem(
            format!("role {role} does not own {name}, and evolve says that it adds columns"),
            format!("ALTER TABLE {} OWNER TO {}", name.sql(), quoted(role)),
        )),
        None if may_create != Some(true) => {
            let (schema, role_sql) = (quoted(&name.schema), quoted(role));
            problems.push(problem(
                format!("role {role} cannot make {name}, which does not exist"),
                format!("CREATE SCHEMA IF NOT EXISTS {schema}; GRANT USAGE, CREATE ON SCHEMA {schema} TO {role_sql}"),
            ));
        }
        _ => {}
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Some(growing(config, facts, columns_max)))
}

/// What is known of a table that may grow.
pub fn growing(config: &TableConfig, facts: Option<&Facts>, columns_max: usize) -> Growing {
    let mark = (config.on_tombstone == OnTombstone::Soft).then(|| config.deleted_column.clone());
    let there = facts.into_iter().flat_map(|facts| &facts.columns).map(|column| column.name.as_str());
    let own = OWN_COLUMNS.iter().map(|(own, ..)| *own).chain([JSON_NULL]).chain(mark.as_deref());
    let known: HashSet<String> =
        there.chain(own).chain(config.leave_out.iter().map(String::as_str)).map(str::to_owned).collect();
    Growing {
        name: TableName::parse(&config.table),
        is_there: facts.is_some(),
        may_add: config.evolve == Evolve::Add,
        key: config.key.clone(),
        types: config.types.clone(),
        mark,
        known,
        columns_max,
    }
}

/// What stands in the way of one of pg-sinker's own tables.
pub fn examine_own(name: &TableName, facts: Option<&Facts>, role: &str) -> Vec<Failure> {
    match facts {
        None => vec![problem(
            format!("table {name} does not exist in the sink"),
            "run postgres_sink/init/02_tidemill.sql, 03_writer_role.sql, 04_rollups.sql, 06_reconciliation.sql and 07_backfill.sql in the sink \
             database, those that were not run yet"
                .into(),
        )],
        Some(facts) => access_problems(name, facts, role, needed_privileges(OnTombstone::Delete)),
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn column(name: &str, type_sql: &str, not_null: bool) -> ColumnFacts {
        ColumnFacts { name: name.into(), type_sql: type_sql.into(), not_null, has_default: false, generated: false }
    }

    pub fn facts() -> Facts {
        Facts {
            is_table: true,
            schema_usage: true,
            is_owned: true,
            privileges: ["SELECT", "INSERT", "UPDATE", "DELETE"].map(String::from).into(),
            columns: vec![
                column("order_id", "bigint", true),
                column("订单 \"x\"", "character varying", false),
                ColumnFacts { generated: true, ..column("made", "integer", false) },
                column(PROCESSED_TIME, "timestamp without time zone", true),
                column(SOURCE_COMMIT_TIME, "timestamp with time zone", false),
                column(RECORD_VERSION, "bytea", true),
            ],
            unique: vec![vec!["order_id".into()]],
        }
    }

    pub fn config(key: &[&str], on_tombstone: OnTombstone) -> TableConfig {
        TableConfig {
            table: "r.t".into(),
            topic: String::new(),
            key: key.iter().map(|&name| name.into()).collect(),
            on_tombstone,
            deleted_column: "deleted_at".into(),
            leave_out: Vec::new(),
            create: false,
            evolve: Evolve::None,
            types: BTreeMap::new(),
            batch_records_max: None,
            batch_bytes_max: None,
            batch_wait_ms: None,
        }
    }

    fn facts_with(further: ColumnFacts) -> Facts {
        let mut facts = facts();
        facts.columns.push(further);
        facts
    }

    /// A table with key `order_id` and one further column; one where deletions are marked says so by this type.
    pub fn example_marked_by(type_sql: &str) -> Table {
        let facts = facts_with(column("deleted_at", type_sql, false));
        examine(&config(&["order_id"], OnTombstone::Soft), Some(&facts), "w").unwrap()
    }

    /// A table with key `order_id` and one further column.
    pub fn example(on_tombstone: OnTombstone) -> Table {
        match on_tombstone {
            OnTombstone::Soft => example_marked_by("timestamp with time zone"),
            _ => examine(&config(&["order_id"], on_tombstone), Some(&facts()), "w").unwrap(),
        }
    }

    fn problems(config: &TableConfig, facts: Option<&Facts>) -> Vec<String> {
        examine(config, facts, "w").unwrap_err().iter().map(Failure::chain).collect()
    }

    #[test]
    fn fields_go_to_every_column_that_the_server_and_the_sink_do_not_fill() {
        let table = example(OnTombstone::Delete);
        assert_eq!(
            table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(),
            ["order_id", "订单 \"x\""]
        );
        assert_eq!(table.key, [0]);
        let other = Table { columns: table.columns.iter().rev().cloned().collect(), key: vec![1], ..table.clone() };
        let tables = Tables::new(vec![table, other]);
        assert_eq!(tables.fields.names(), ["order_id", "订单 \"x\""]);
        assert_eq!(tables.tables[1].fields, [1, 0]);
        assert_eq!(tables.tables[1].key_fields().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn each_problem_comes_with_its_cure() {
        let one = |change: &dyn Fn(&mut Facts), cure: &str| {
            let mut facts = facts();
            change(&mut facts);
            let problems = problems(&config(&["order_id"], OnTombstone::Delete), Some(&facts));
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(cure), "{problems:?}");
        };
        one(&|f| f.unique.clear(), "CREATE UNIQUE INDEX ON \"r\".\"t\" (\"order_id\")");
        one(&|f| f.unique = vec![vec!["order_id".into(), "made".into()]], "CREATE UNIQUE INDEX");
        one(&|f| f.privileges.truncate(2), "GRANT UPDATE, DELETE ON \"r\".\"t\" TO \"w\"");
        one(&|f| f.schema_usage = false, "GRANT USAGE ON SCHEMA \"r\" TO \"w\"");
        one(&|f| f.is_table = false, "name a table");
        one(&|f| f.columns[0].not_null = false, "ALTER COLUMN \"order_id\" SET NOT NULL");
        one(&|f| f.columns[0].generated = true, "correct the key");
        one(&|f| f.columns[5].not_null = false, "ALTER COLUMN record_version SET NOT NULL");
        one(&|f| f.columns[4].type_sql = "text".into(), "source_commit_time timestamptz");
        one(&|f| drop(f.columns.remove(3)), "ADD COLUMN processed_time timestamp(3)");
    }

    #[test]
    fn the_column_that_marks_deletions_takes_no_field_and_can_mark_them() {
        let table = example(OnTombstone::Soft);
        assert_eq!((table.columns.len(), table.mark.unwrap().kind), (2, MarkKind::Moment));
        let soft = config(&["order_id"], OnTombstone::Soft);
        let refused = |facts: &Facts| problems(&soft, Some(facts)).join("\n");
        assert!(refused(&facts()).contains("ALTER TABLE \"r\".\"t\" ADD COLUMN \"deleted_at\" timestamptz"));
        let mark = |type_sql: &str| column("deleted_at", type_sql, true);
        assert!(refused(&facts_with(mark("timestamp with time zone"))).contains("\"deleted_at\" DROP NOT NULL"));
        assert!(refused(&facts_with(mark("text"))).contains("timestamptz, timestamp or boolean"));
        assert!(examine(&soft, Some(&facts_with(mark("boolean"))), "w").is_ok());
        let generated = ColumnFacts { generated: true, ..mark("boolean") };
        assert!(refused(&facts_with(generated)).contains("name another column"));
    }

    #[test]
    fn what_is_made_is_made_by_a_role_that_may() {
        let fixed = config(&["order_id"], OnTombstone::Keep);
        let made = TableConfig { create: true, evolve: Evolve::Add, leave_out: vec!["phone".into()], ..fixed.clone() };
        let growth = |config: &TableConfig, facts: Option<&Facts>, may_create| {
            let found = examine_growth(config, facts, may_create, ("w", 9), &[]);
            found.map_err(|problems| problems.iter().map(Failure::chain).collect::<Vec<_>>().join("\n"))
        };
        assert!(growth(&fixed, Some(&facts()), None).unwrap().is_none());
        assert!(growth(&fixed, None, None).unwrap().is_none(), "that it is missing is told elsewhere");
        let grown = growth(&made, Some(&facts()), None).unwrap().unwrap();
        assert!(grown.is_there && grown.may_add && grown.known.contains("made") && grown.known.contains("phone"));
        let mut foreign = facts();
        foreign.is_owned = false;
        assert!(growth(&made, Some(&foreign), None).unwrap_err().contains("ALTER TABLE \"r\".\"t\" OWNER TO \"w\""));
        for may_create in [None, Some(false)] {
            assert!(
                growth(&made, None, may_create).unwrap_err().contains("GRANT USAGE, CREATE ON SCHEMA \"r\" TO \"w\"")
            );
        }
        let created = growth(&made, None, Some(true)).unwrap().unwrap();
        assert!(!created.is_there && created.known.contains(RECORD_VERSION));
        let tables = Tables::with_awaited(Vec::new(), std::iter::once(&created));
        assert_eq!(
            (tables.fields.names(), &tables.awaited[0].key_fields[..]),
            (&["order_id".to_owned()][..], &[0][..])
        );
        let wrong = examine_growth(&made, Some(&facts()), None, ("w", 9), &["intt".into()]).unwrap_err();
        assert!(wrong[0].chain().contains("no type intt"));
    }

    #[test]
    fn json_keeps_its_quotes_and_its_null() {
        let config = config(&["order_id"], OnTombstone::Keep);
        let facts = facts_with(column("doc", "jsonb", false));
        let tables = Tables::new(vec![examine(&config, Some(&facts), "w").unwrap()]);
        let target = &tables.tables[0];
        let text = |row: &str| {
            let fields = tables.fields.read(row.as_bytes()).unwrap();
            let (column, at) = target.columns().find(|(column, _)| column.name == "doc").unwrap();
            target.text(&fields, column, at).map(Cow::into_owned)
        };
        assert_eq!(text(r#"{"doc":"a\"b"}"#).as_deref(), Some(r#""a\"b""#));
        assert_eq!(text(r#"{"doc":[1.00,null]}"#).as_deref(), Some("[1.00,null]"));
        assert_eq!(text(r#"{"doc":null}"#), None);
        assert_eq!(text("{}"), None);
        assert_eq!(text(r#"{"doc":null,"tidemill.json_null":["other","doc"]}"#).as_deref(), Some("null"));
        assert_eq!(text(r#"{"doc":null,"tidemill.json_null":["other"]}"#), None);
        assert_eq!(text(r#"{"doc":null,"tidemill.json_null":7}"#), None);
    }

    #[test]
    fn what_is_left_out_takes_no_field() {
        let config = TableConfig { leave_out: vec!["phone".into()], ..config(&["order_id"], OnTombstone::Keep) };
        let phone = column("phone", "text", true);
        let facts = |column: ColumnFacts| facts_with(column);
        assert!(problems(&config, Some(&facts(phone.clone())))[0].contains("\"phone\" DROP NOT NULL"));
        let nullable = examine(&config, Some(&facts(ColumnFacts { not_null: false, ..phone.clone() })), "w").unwrap();
        assert!(nullable.columns.iter().all(|column| column.name != "phone"));
        assert!(examine(&config, Some(&facts(ColumnFacts { has_default: true, ..phone })), "w").is_ok());
    }

    #[test]
    fn a_table_or_key_that_is_not_there_is_named() {
        assert!(problems(&config(&["order_id"], OnTombstone::Keep), None)[0].contains("r.t does not exist"));
        assert!(problems(&config(&["id"], OnTombstone::Keep), Some(&facts()))[0].contains("no column id"));
        assert_eq!(examine_own(&TableName::parse("tidemill.x"), None, "w").len(), 1);
        assert!(examine_own(&TableName::parse("tidemill.x"), Some(&facts()), "w").is_empty());
    }

    #[test]
    fn a_trail_needs_no_right_to_delete() {
        let mut facts = facts();
        facts.privileges.retain(|privilege| privilege != "DELETE");
        assert!(examine(&config(&["order_id"], OnTombstone::Keep), Some(&facts), "w").is_ok());
    }
}

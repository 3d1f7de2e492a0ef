//! A table of the source and one of the sink, made ready to be compared, or everything that stands in the way.

use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, quoted};

use super::described::{Described, DescribedColumn};
use super::kind::{self, Alike, KeyColumn, Kind, Type};
use super::settings::PairConfig;
use super::statement::{OF_A_HEAP, OF_THE_SINK, SideSql};
use crate::settings::{OnTombstone, TableConfig};
use crate::tables::{PROCESSED_TIME, RECORD_VERSION, SOURCE_COMMIT_TIME};

/// What pg-sinker fills, and the source does not know.
const OWN: [&str; 3] = [PROCESSED_TIME, SOURCE_COMMIT_TIME, RECORD_VERSION];

/// A pair, ready to be compared.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Its name in the settings.
    pub name: String,
    pub source_table: TableName,
    pub sink_table: TableName,
    pub key: Vec<KeyName>,
    pub columns: Vec<Compared>,
    pub source: SideSql,
    pub sink: SideSql,
    /// Both sides find the rows of a range of keys without reading the whole table.
    pub is_indexed: bool,
}

/// A column of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName {
    pub name: String,
    /// Its type at the source: it says how the topics have the value.
    pub kind: Kind,
}

/// A column that is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    pub name: String,
    /// Its type in the sink.
    pub of: Type,
    /// Cleaning changes it: the first topic holds another value.
    pub is_made: bool,
}

fn problem(what: String, cure: String) -> Failure {
    Failure::new(FailureKind::Settings, what).cure(cure)
}

/// The pair as it is to be compared. `written`: how the table of the sink is written.
pub fn examine(
    name: &str,
    config: &PairConfig,
    written: Option<&TableConfig>,
    source: Option<&Described>,
    sink: Option<&Described>,
    (source_role, sink_role): (&str, &str),
) -> Result<Pair, Vec<Failure>> {
    let place = format!("reconcile.pairs.{name}");
    let mut problems = access(&config.source_table, source, source_role, "source");
    problems.extend(access(&config.sink_table, sink, sink_role, "sink"));
    let (Some(source), Some(sink)) = (source, sink) else { return Err(problems) };
    let mark = written.filter(|table| table.on_tombstone == OnTombstone::Soft).map(|table| &*table.deleted_column);
    let (key, columns) = (key(&place, config, source, sink), columns(&place, config, (source, sink), mark));
    let (mut source_side, mut sink_side) = (side(source, &config.source_where), side(sink, &config.sink_where));
    match mark.map(|mark| existing(&place, sink, mark)) {
        Some(Ok(mark)) => sink_side.condition = with_condition(&is_not_deleted(mark), &config.sink_where),
        Some(Err(failure)) => problems.push(failure),
        None => {}
    }
    source_side.identity = OF_A_HEAP;
    let mut key_names = Vec::new();
    for found in key {
        match found {
            Ok((column, of_source, of_sink)) => {
                key_names.push(column);
                source_side.key.push(of_source);
                sink_side.key.push(of_sink);
            }
            Err(failure) => problems.push(failure),
        }
    }
    let mut compared = Vec::new();
    for found in columns {
        match found {
            Ok((column, alike)) => {
                source_side.summed.push(kind::summed(&alike.source, column.of.kind));
                sink_side.summed.push(kind::summed(&alike.sink, column.of.kind));
                compared.push(column);
                source_side.columns.push(alike.source);
                sink_side.columns.push(alike.sink);
            }
            Err(failure) => problems.push(failure),
        }
    }
    if sink.column(RECORD_VERSION).is_none() {
        problems.push(problem(
            format!("{} has no column {RECORD_VERSION}", sink.name),
            "compare a table that pg-sinker writes".into(),
        ));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Pair {
        name: name.to_owned(),
        source_table: source.name.clone(),
        sink_table: sink.name.clone(),
        key: key_names,
        columns: compared,
        source: source_side,
        sink: sink_side,
        is_indexed: slow(config, source).or_else(|| slow(config, sink)).is_none(),
    })
}

fn access(name: &str, described: Option<&Described>, role: &str, side: &str) -> Vec<Failure> {
    let table = TableName::parse(name);
    let Some(described) = described else {
        return vec![problem(
            format!("table {table} does not exist in the {side}"),
            "correct the name in [reconcile.pairs]".into(),
        )];
    };
    let mut problems = Vec::new();
    if !described.is_table {
        problems.push(problem(format!("{table} is not a table"), "name a table, not a view".into()));
    }
    if !described.readable {
        problems.push(problem(
            format!("role {role} may not read {table}"),
            format!(
                "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {table} TO {role}",
                schema = quoted(&table.schema),
                table = table.sql(),
                role = quoted(role)
            ),
        ));
    }
    problems
}

fn side(described: &Described, condition: &str) -> SideSql {
    let only = if described.alone { "ONLY " } else { "" };
    SideSql {
        from: format!("{only}{}", described.name.sql()),
        condition: condition.to_owned(),
        key: Vec::new(),
        columns: Vec::new(),
        summed: Vec::new(),
        identity: OF_THE_SINK,
    }
}

/// A row that is marked as deleted is none.
fn is_not_deleted(mark: &DescribedColumn) -> String {
    let is_unset = if mark.of.sql == "boolean" { "IS NOT TRUE" } else { "IS NULL" };
    format!("{} {is_unset}", in_sql(&mark.name))
}

fn with_condition(condition: &str, further: &str) -> String {
    if further.is_empty() { condition.to_owned() } else { format!("{condition} AND ({further})") }
}

fn in_sql(name: &str) -> String {
    format!("s.{}", quoted(name))
}

type KeyFound = Result<(KeyName, kind::KeySide, kind::KeySide), Failure>;

fn key(place: &str, config: &PairConfig, source: &Described, sink: &Described) -> Vec<KeyFound> {
    let found = config.key.iter().map(|name| {
        let (of_source, of_sink) = (existing(place, source, name)?, existing(place, sink, name)?);
        let sql = in_sql(name);
        let column = |column: &DescribedColumn| -> (Type, bool) { (column.of.clone(), column.by_bytes) };
        let ((source_type, source_bytes), (sink_type, sink_bytes)) = (column(of_source), column(of_sink));
        let sides = kind::key_sides(
            KeyColumn { sql: &sql, of: &source_type, by_bytes: source_bytes },
            KeyColumn { sql: &sql, of: &sink_type, by_bytes: sink_bytes },
        );
        let (source_side, sink_side) = sides.ok_or_else(|| {
            problem(
                format!(
                    "column {name} of {place} is {} in the source and {} in the sink, and the two servers may sort them differently",
                    source_type.sql, sink_type.sql
                ),
                "compare by a key of numbers, text, uuid, date, bytea, or times of one precision".into(),
            )
        })?;
        Ok((KeyName { name: name.clone(), kind: source_type.kind }, source_side, sink_side))
    });
    found.collect()
}

fn existing<'d>(place: &str, described: &'d Described, name: &str) -> Result<&'d DescribedColumn, Failure> {
    described.column(name).ok_or_else(|| {
        problem(
            format!("{} has no column {name}, which {place} names", described.name),
            format!("correct {place}, or add the column"),
        )
    })
}

type ColumnFound = Result<(Compared, Alike), Failure>;

/// The key first: rows with other keys are never alike.
fn columns(
    place: &str,
    config: &PairConfig,
    (source, sink): (&Described, &Described),
    mark: Option<&str>,
) -> Vec<ColumnFound> {
    let is_own = |name: &str| OWN.contains(&name) || mark == Some(name);
    let is_further = |name: &&str| !config.key.iter().any(|key| key == name);
    let by_name = || {
        let names = sink.columns.iter().map(|column| column.name.as_str()).filter(|name| !is_own(name));
        let known = |name: &&str| source.column(name).is_some() || config.expressions.contains_key(*name);
        names.filter(known).collect::<Vec<_>>()
    };
    let named = match config.columns.is_empty() {
        true => by_name(),
        false => config.columns.iter().map(String::as_str).collect(),
    };
    let names = config.key.iter().map(String::as_str).chain(named.into_iter().filter(is_further));
    names.map(|name| column(place, config, name, source, sink)).collect()
}

fn column(
    place: &str,
    config: &PairConfig,
    name: &str,
    source: &Described,
    sink: &Described,
) -> Result<(Compared, Alike), Failure> {
    let of_sink = existing(place, sink, name)?;
    let expression = config.expressions.get(name);
    let (sql, of) = match expression {
        Some(expression) => (format!("({expression})"), Type { kind: Kind::Own, sql: String::new() }),
        None => (in_sql(name), existing(place, source, name)?.of.clone()),
    };
    let sink_sql = in_sql(name);
    let alike = kind::alike((&sql, &of), (&sink_sql, &of_sink.of)).ok_or_else(|| {
        problem(
            format!("column {name} of {place} is {} in the source and {} in the sink", of.sql, of_sink.of.sql),
            format!("say in {place}.expressions what the sink is to hold, such as {name} = \"to_char(s.{name}, 'YYYY-MM-DD HH24:MI:SS.MS')\""),
        )
    })?;
    Ok((Compared { name: name.to_owned(), of: of_sink.of.clone(), is_made: expression.is_some() }, alike))
}

/// What makes the comparison slow: no reason not to compare.
pub fn slow(pair: &PairConfig, described: &Described) -> Option<String> {
    let first = described.column(pair.key.first()?)?;
    let by_text = matches!(first.of.kind, Kind::Text | Kind::Blank);
    match (first.indexed && first.of.kind != Kind::Blank, by_text) {
        (true, _) => None,
        (false, true) => Some(format!(
            "{table} is compared in the order of bytes, in which no index leads to its {column}: each range reads the whole table, unless {column} \
             is text or varchar and there is CREATE INDEX ON {table_sql} ({column_sql} COLLATE \"C\")",
            table = described.name,
            table_sql = described.name.sql(),
            column = first.name,
            column_sql = quoted(&first.name)
        )),
        (false, false) => {
            Some(format!("{} has no index on {}: each range reads the whole table", described.name, first.name))
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn described(name: &str, columns: &[(&str, u32, &str)]) -> Described {
        let column = |(name, oid, sql): &(&str, u32, &str)| DescribedColumn {
            name: (*name).into(),
            of: Type { kind: Kind::of(*oid), sql: (*sql).into() },
            by_bytes: false,
            indexed: true,
        };
        let columns = columns.iter().map(column).collect();
        Described { name: TableName::parse(name), alone: true, is_table: true, readable: true, columns }
    }

    fn source() -> Described {
        described(
            "b.o",
            &[("id", 20, "bigint"), ("status", 1043, "character varying(20)"), ("at", 1114, "timestamp(3)")],
        )
    }

    fn sink() -> Described {
        let own = [("record_version", 17, "bytea"), ("processed_time", 1114, "timestamp")];
        let columns =
            [("id", 20, "bigint"), ("status", 25, "text"), ("city", 25, "text"), ("at", 1114, "timestamp(3)")];
        described("r.o", &[&columns[..], &own[..]].concat())
    }

    fn config() -> PairConfig {
        PairConfig {
            source_table: "b.o".into(),
            sink_table: "r.o".into(),
            key: vec!["id".into()],
            columns: Vec::new(),
            expressions: BTreeMap::new(),
            source_where: String::new(),
            sink_where: String::new(),
        }
    }

    fn examined(config: &PairConfig, source: &Described, sink: &Described) -> Result<Pair, Vec<Failure>> {
        examine("p", config, None, Some(source), Some(sink), ("reader", "writer"))
    }

    /// A pair with key `id` and the further columns `status` and `at`.
    pub fn example() -> Pair {
        examined(&config(), &source(), &sink()).unwrap()
    }

    fn names(pair: &Pair) -> Vec<&str> {
        pair.columns.iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn columns_of_the_same_name_are_compared_but_those_of_the_sink_alone() {
        let pair = example();
        assert_eq!(names(&pair), ["id", "status", "at"]);
        assert_eq!(pair.source.from, "ONLY \"b\".\"o\"");
        let made = PairConfig { expressions: BTreeMap::from([("city".into(), "upper('x')".into())]), ..config() };
        let pair = examined(&made, &source(), &sink()).unwrap();
        assert_eq!(names(&pair), ["id", "status", "city", "at"]);
        assert_eq!(pair.source.columns[2], "(upper('x'))::text");
        assert!(pair.columns[2].is_made && !pair.columns[1].is_made);
        let named = PairConfig { columns: vec!["at".into()], ..config() };
        assert_eq!(names(&examined(&named, &source(), &sink()).unwrap()), ["id", "at"]);
    }

    #[test]
    fn a_row_that_is_marked_as_deleted_is_none() {
        let table: TableConfig = serde_json::from_value(serde_json::json!({
            "table": "r.o", "key": "id", "on_tombstone": "soft", "deleted_column": "gone"
        }))
        .unwrap();
        let condition = |oid, type_sql, sink_where: &str| {
            let mut sink = sink();
            sink.columns.extend(described("r.o", &[("gone", oid, type_sql)]).columns);
            let mut source = source();
            source.columns.extend(described("b.o", &[("gone", oid, type_sql)]).columns);
            let config = PairConfig { sink_where: sink_where.into(), ..config() };
            let pair = examine("p", &config, Some(&table), Some(&source), Some(&sink), ("a", "b")).unwrap();
            assert_eq!(names(&pair), ["id", "status", "at"]);
            (pair.sink.condition, pair.source.condition)
        };
        assert_eq!(condition(1184, "timestamp with time zone", ""), ("s.\"gone\" IS NULL".into(), String::new()));
        assert_eq!(condition(16, "boolean", "id > 5").0, "s.\"gone\" IS NOT TRUE AND (id > 5)");
        let without = examine("p", &config(), Some(&table), Some(&source()), Some(&sink()), ("a", "b")).unwrap_err();
        assert!(without[0].chain().contains("no column gone"));
    }

    #[test]
    fn each_problem_comes_with_its_cure() {
        let problems = |config: &PairConfig, source: &Described, sink: &Described| {
            let found = examined(config, source, sink).unwrap_err();
            found.iter().map(Failure::chain).collect::<Vec<_>>().join("\n")
        };
        let refused = Described { readable: false, ..source() };
        assert!(problems(&config(), &refused, &sink()).contains("GRANT SELECT ON \"b\".\"o\" TO \"reader\""));
        let named = PairConfig { columns: vec!["nothing".into()], ..config() };
        assert!(problems(&named, &source(), &sink()).contains("no column nothing"));
        let by_city = PairConfig { key: vec!["city".into()], ..config() };
        assert!(problems(&by_city, &source(), &sink()).contains("b.o has no column city"));
        let mut text_time = sink();
        text_time.columns[3].of = Type { kind: Kind::Text, sql: "text".into() };
        assert!(problems(&config(), &source(), &text_time).contains("reconcile.pairs.p.expressions"));
        let mut foreign = sink();
        foreign.columns.retain(|column| column.name != "record_version");
        assert!(problems(&config(), &source(), &foreign).contains("that pg-sinker writes"));
        let none = examine("p", &config(), None, None, Some(&sink()), ("a", "b")).unwrap_err();
        assert!(none[0].chain().contains("does not exist in the source"));
    }

    #[test]
    fn what_makes_it_slow_is_said() {
        assert_eq!(slow(&config(), &source()), None);
        let by_status = PairConfig { key: vec!["status".into()], ..config() };
        let with_index = |indexed| {
            let mut table = source();
            table.columns.iter_mut().for_each(|column| column.indexed = indexed);
            table
        };
        assert!(slow(&by_status, &with_index(false)).unwrap().contains("(\"status\" COLLATE \"C\")"));
        assert_eq!(slow(&by_status, &with_index(true)), None);
        assert!(slow(&config(), &with_index(false)).unwrap().contains("no index on id"));
        assert!(
            example().is_indexed
                && !examined(&config(), &source(), &{
                    let mut sink = sink();
                    sink.columns[0].indexed = false;
                    sink
                })
                .unwrap()
                .is_indexed
        );
    }
}

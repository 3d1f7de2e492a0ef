//! A roll-up as it is kept: what is declared, held against the catalog. Each problem comes with the statement that mends it.

use std::fmt::Write as _;

use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, quoted};

use super::declared::{BUCKET, GROUP_KEY, Grain, RollupConfig};
use super::details::Details;
use crate::catalog::{ColumnFacts, Facts};
use crate::settings::OnTombstone;
use crate::tables::{Column, Table, access_problems};

/// A roll-up as it is kept.
#[derive(Debug, Clone)]
pub struct Rollup {
    pub name: TableName,
    /// `schema.table`, its name in `tidemill.rollups`.
    pub label: String,
    /// The label of the table whose rows are summed up.
    pub of: String,
    /// Where they come from.
    pub topic: String,
    pub source: TableName,
    /// The key of that table.
    pub key: Vec<Column>,
    /// Its columns that are looked at, each once.
    pub columns: Vec<Column>,
    /// Indices in `columns`, here and below.
    pub bucket: Option<(Grain, usize)>,
    pub groups: Vec<usize>,
    pub count: String,
    pub sums: Vec<Measure>,
    pub distinct: Vec<Measure>,
    /// All that decides what is in it. Another text is another roll-up.
    pub definition: String,
}

/// A column of a roll-up, and the column that it is made from.
#[derive(Debug, Clone)]
pub struct Measure {
    pub name: String,
    pub of: usize,
}

/// The tables that a roll-up stands between.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where the rows come from.
    pub topic: &'a str,
    /// The table that is summed up, as it is written and as the catalog has it.
    pub table: &'a Table,
    pub facts: &'a Facts,
    pub details: &'a Details,
    /// The roll-up's own table.
    pub own: Option<&'a Facts>,
    pub own_details: &'a Details,
    pub role: &'a str,
}

/// Types of which equal values have one text: what a group or a counted value is made from.
const ONE_TEXT: [&str; 12] = [
    "smallint",
    "integer",
    "bigint",
    "text",
    "character varying",
    "bpchar",
    "boolean",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
    "uuid",
];
const TIMES: [&str; 2] = ["timestamp without time zone", "timestamp with time zone"];

fn problem(what: String, cure: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Settings, what).cure(cure)
}

/// The types that a sum may have, for the type of what is added; `None` where it cannot be exact.
fn sum_types(of: &str) -> Option<&'static [&'static str]> {
    match of {
        "smallint" | "integer" => Some(&["bigint", "numeric"]),
        "bigint" | "numeric" => Some(&["numeric"]),
        _ => None,
    }
}

/// The roll-up as it is to be kept, or everything that stands in the way.
pub fn examine(config: &RollupConfig, around: Surroundings<'_>) -> Result<Rollup, Vec<Failure>> {
    let rollup = Examined { config, around, label: TableName::parse(&config.table).to_string() };
    let mut problems = rollup.source_problems();
    if problems.is_empty() {
        problems.extend(rollup.own_problems());
    }
    if problems.is_empty() { Ok(rollup.rollup()) } else { Err(problems) }
}

struct Examined<'a> {
    config: &'a RollupConfig,
    around: Surroundings<'a>,
    label: String,
}

/// A column that the roll-up's table must have.
struct Wanted {
    name: String,
    /// The first is the one that is proposed.
    types: Vec<String>,
    not_null: bool,
}

impl Examined<'_> {
    fn source_column(&self, name: &str) -> Option<&ColumnFacts> {
        self.around.facts.columns.iter().find(|column| column.name == name)
    }

    /// What the table that is summed up lacks.
    fn source_problems(&self) -> Vec<Failure> {
        let (config, of) = (self.config, &self.around.table.label);
        let mut problems = Vec::new();
        if self.around.details.is_partitioned {
            let what = format!("{of} is partitioned, and {} cannot be kept over it exactly", self.label);
            problems.push(problem(what, "name an ordinary table"));
        }
        match self.around.table.on_tombstone {
            // What is in the table is what counts.
            OnTombstone::Keep | OnTombstone::Delete => {}
            OnTombstone::Soft => problems.push(problem(
                format!("deleted rows stay in {of} and are only marked, so they would count in {}", self.label),
                "keep roll-ups over a table with on_tombstone = \"delete\"; a second one in [tables] may mark them",
            )),
        }
        // The fill goes through the table in the order of its key, and a batch compares keys in the order of their type.
        let own = |key: &&String| self.around.details.columns.get(*key).is_some_and(|found| found.has_own_collation);
        for key in self.around.table.key_columns().map(|key| &key.name).filter(own) {
            let what = format!(
                "column {key} of {of} has a collation of its own, and {} cannot be filled in its order",
                self.label
            );
            let sql = format!(
                "ALTER TABLE {} ALTER COLUMN {} TYPE {}",
                self.around.table.name.sql(),
                quoted(key),
                self.around.details.full_type(key)
            );
            problems.push(problem(what, format!("{sql}, which takes the default one")));
        }
        let mut check = |column: &str, fits: &dyn Fn(&str) -> bool, need: &str| {
            let Some(facts) = self.source_column(column) else {
                let what = format!("{of} has no column {column}, which {} is made from", self.label);
                problems.push(problem(what, "correct the roll-up in [rollups], or add the column"));
                return;
            };
            if !fits(&facts.type_sql) {
                let what = format!("column {column} of {of} is {}, and {} needs {need}", facts.type_sql, self.label);
                problems.push(problem(what, "name another column in [rollups]"));
            }
        };
        if config.grain.is_some() {
            check(&config.time, &|found| TIMES.contains(&found), "a timestamp for its time");
        }
        let one_text = |found: &str| ONE_TEXT.contains(&found);
        for group in &config.groups {
            check(group, &one_text, "a group of whole numbers, text, time, boolean or uuid");
        }
        for of in config.sums.values() {
            check(of, &|found| sum_types(found).is_some(), "whole numbers or numeric for an exact sum");
        }
        for of in config.distinct.values() {
            check(of, &one_text, "whole numbers, text, time, boolean or uuid to count values");
        }
        problems
    }

    fn wanted(&self) -> Vec<Wanted> {
        let config = self.config;
        let wanted = |name: &str, types: &[&str], not_null| Wanted {
            name: name.into(),
            types: types.iter().map(|&text| text.into()).collect(),
            not_null,
        };
        let type_of = |column: &str| self.source_column(column).map_or("", |facts| facts.type_sql.as_str());
        let mut columns = vec![wanted(GROUP_KEY, &["bytea"], true)];
        if config.grain.is_some() {
            columns.push(wanted(BUCKET, &[type_of(&config.time), self.around.details.full_type(&config.time)], false));
        }
        for group in &config.groups {
            // As wide as the column that it is made from.
            columns.push(wanted(group, &[type_of(group), self.around.details.full_type(group)], false));
        }
        columns.push(wanted(&config.count, &["bigint"], true));
        for (name, of) in &config.sums {
            columns.push(wanted(name, sum_types(type_of(of)).unwrap_or_default(), true));
        }
        columns.extend(config.distinct.keys().map(|name| wanted(name, &["bigint"], true)));
        columns
    }

    /// What the roll-up's own table lacks.
    fn own_problems(&self) -> Vec<Failure> {
        let name = TableName::parse(&self.config.table);
        let Some(facts) = self.around.own else {
            return vec![problem(
                format!("table {name} of roll-ups does not exist in the sink"),
                format!("{}; postgres_sink/init/04_rollups.sql has the default ones", self.definition_sql(&name)),
            )];
        };
        let mut problems = access_problems(&name, facts, self.around.role, &["SELECT", "INSERT", "UPDATE", "DELETE"]);
        let wanted = self.wanted();
        for column in &wanted {
            problems.extend(self.own_column_problem(&name, facts, column));
        }
        for column in facts.columns.iter().filter(|column| column.not_null && !column.generated) {
            let has_default = self.around.own_details.columns.get(&column.name).is_some_and(|found| found.has_default);
            if !has_default && wanted.iter().all(|wanted| wanted.name != column.name) {
                problems.push(problem(
                    format!("column {} of {name} must not be NULL, and nothing fills it", column.name),
                    format!("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", name.sql(), quoted(&column.name)),
                ));
            }
        }
        if problems.is_empty() && !facts.unique.iter().any(|unique| unique == &[GROUP_KEY]) {
            problems.push(problem(
                format!("{name} has no unique index on exactly ({GROUP_KEY})"),
                format!("ALTER TABLE {} ADD PRIMARY KEY ({GROUP_KEY})", name.sql()),
            ));
        }
        problems
    }

    fn own_column_problem(&self, name: &TableName, facts: &Facts, wanted: &Wanted) -> Option<Failure> {
        let (table, column) = (name.sql(), quoted(&wanted.name));
        let proposed = wanted.types.first().map_or("", String::as_str);
        let Some(found) = facts.columns.iter().find(|found| found.name == wanted.name) else {
            return Some(problem(
                format!("{name} has no column {}, which pg-sinker fills", wanted.name),
                format!("ALTER TABLE {table} ADD COLUMN {column} {}", self.column_type(wanted)),
            ));
        };
        let full_type = self.around.own_details.full_type(&wanted.name);
        if !wanted.types.iter().any(|fits| fits == full_type) || found.generated {
            return Some(problem(
                format!("column {} of {name} is {full_type}, not {proposed}", wanted.name),
                format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {proposed}"),
            ));
        }
        if found.not_null == wanted.not_null || (found.not_null && self.is_never_null(&wanted.name)) {
            return None;
        }
        let (what, change) =
            if wanted.not_null { ("may be NULL", "SET NOT NULL") } else { ("must not be NULL", "DROP NOT NULL") };
        Some(problem(
            format!("column {} of {name} {what}, which does not fit the roll-up", wanted.name),
            format!("ALTER TABLE {table} ALTER COLUMN {column} {change}"),
        ))
    }

    /// A group of a column that is never NULL.
    fn is_never_null(&self, own: &str) -> bool {
        let of = if own == BUCKET { &self.config.time } else { own };
        self.source_column(of).is_some_and(|facts| facts.not_null)
    }

    fn column_type(&self, wanted: &Wanted) -> String {
        let type_sql = wanted.types.first().map_or("", String::as_str);
        match (wanted.name.as_str(), wanted.not_null, type_sql) {
            (GROUP_KEY, ..) => format!("{type_sql} PRIMARY KEY"),
            (_, true, _) => format!("{type_sql} NOT NULL DEFAULT 0"),
            _ => type_sql.to_owned(),
        }
    }

    /// The statements that make the table.
    fn definition_sql(&self, name: &TableName) -> String {
        let wanted = self.wanted();
        let columns = wanted.iter().map(|wanted| format!("{} {}", quoted(&wanted.name), self.column_type(wanted)));
        let mut sql = format!("CREATE SCHEMA IF NOT EXISTS {}; ", quoted(&name.schema));
        let _ = write!(sql, "CREATE TABLE {} ({}); ", name.sql(), columns.collect::<Vec<_>>().join(", "));
        let role = quoted(self.around.role);
        let _ = write!(sql, "GRANT USAGE ON SCHEMA {} TO {role}; ", quoted(&name.schema));
        let _ = write!(sql, "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {role}", name.sql());
        sql
    }

    fn rollup(&self) -> Rollup {
        let (config, table) = (self.config, self.around.table);
        let mut columns: Vec<Column> = Vec::new();
        let mut place = |name: &str| {
            columns.iter().position(|column| column.name == name).unwrap_or_else(|| {
                let type_sql = self.source_column(name).map(|facts| facts.type_sql.clone()).unwrap_or_default();
                columns.push(Column { name: name.to_owned(), type_sql });
                columns.len() - 1
            })
        };
        let bucket = config.grain.map(|grain| (grain, place(&config.time)));
        let groups = config.groups.iter().map(|group| place(group)).collect();
        let mut measure = |(name, of): (&String, &String)| Measure { name: name.clone(), of: place(of) };
        let sums = config.sums.iter().map(&mut measure).collect();
        let distinct = config.distinct.iter().map(&mut measure).collect();
        let name = TableName::parse(&config.table);
        Rollup {
            definition: self.definition(),
            label: self.label.clone(),
            name,
            of: table.label.clone(),
            topic: self.around.topic.to_owned(),
            source: table.name.clone(),
            key: table.key_columns().cloned().collect(),
            columns,
            bucket,
            groups,
            count: config.count.clone(),
            sums,
            distinct,
        }
    }

    fn definition(&self) -> String {
        let (config, table) = (self.config, self.around.table);
        let key: Vec<String> = table.key_columns().map(|column| quoted(&column.name)).collect();
        let pairs = |pairs: &std::collections::BTreeMap<String, String>| {
            pairs.iter().map(|(name, of)| format!("{} = {}", quoted(name), quoted(of))).collect::<Vec<_>>().join(", ")
        };
        let groups: Vec<String> = config.groups.iter().map(|group| quoted(group)).collect();
        let time =
            config.grain.map_or_else(String::new, |grain| format!("{} {}", grain.as_str(), quoted(&config.time)));
        format!(
            "of {} ({}) time ({time}) groups ({}) count {} sums ({}) distinct ({})",
            table.name.sql(),
            key.join(", "),
            groups.join(", "),
            quoted(&config.count),
            pairs(&config.sums),
            pairs(&config.distinct),
        )
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::declared::by_default;
    use super::super::details::Detail;
    use super::*;

    fn column(name: &str, type_sql: &str, not_null: bool) -> ColumnFacts {
        ColumnFacts { name: name.into(), type_sql: type_sql.into(), not_null, has_default: false, generated: false }
    }

    fn facts(columns: Vec<ColumnFacts>, unique: &str) -> Facts {
        Facts {
            is_table: true,
            schema_usage: true,
            is_owned: true,
            privileges: ["SELECT", "INSERT", "UPDATE", "DELETE"].map(String::from).into(),
            columns,
            unique: vec![vec![unique.into()]],
        }
    }

    fn details(facts: &Facts) -> Details {
        let detail = |column: &ColumnFacts| Detail {
            full_type: column.type_sql.clone(),
            has_default: false,
            has_own_collation: false,
        };
        let columns = facts.columns.iter().map(|column| (column.name.clone(), detail(column)));
        Details { is_partitioned: false, columns: columns.collect() }
    }

    /// The table that is summed up.
    fn orders() -> (Table, Facts) {
        let facts = facts(
            vec![
                column("order_id", "bigint", true),
                column("user_id", "bigint", false),
                column("order_time", "timestamp without time zone", false),
                column("city", "text", false),
                column("user_city_tier", "text", false),
                column("product_category_normalized", "text", false),
                ColumnFacts { generated: true, ..column("price_band", "text", false) },
                column("order_status", "text", true),
                column("quantity", "integer", false),
                column("total_amount", "numeric", false),
                column("weight", "double precision", false),
            ],
            "order_id",
        );
        let key = Column { name: "order_id".into(), type_sql: "bigint".into() };
        let label = "result.orders_latest".to_owned();
        let name = TableName::parse(&label);
        (Table { name, label, columns: vec![key], key: vec![0], on_tombstone: OnTombstone::Delete, mark: None }, facts)
    }

    fn own() -> Facts {
        let columns = vec![
            column("group_key", "bytea", true),
            column("bucket", "timestamp without time zone", false),
            column("city", "text", false),
            column("user_city_tier", "text", false),
            column("product_category_normalized", "text", false),
            column("price_band", "text", false),
            column("order_status", "text", true),
            column("orders", "bigint", true),
            column("amount", "numeric", true),
            column("quantity", "bigint", true),
            column("users", "bigint", true),
        ];
        facts(columns, "group_key")
    }

    fn examined(
        config: &RollupConfig,
        of: &(Table, Facts),
        own: Option<&Facts>,
        change: impl Fn(&mut Details, &mut Details),
    ) -> Result<Rollup, Vec<String>> {
        let (mut of_details, mut own_details) = (details(&of.1), own.map(details).unwrap_or_default());
        change(&mut of_details, &mut own_details);
        let around = Surroundings {
            topic: "t",
            table: &of.0,
            facts: &of.1,
            details: &of_details,
            own,
            own_details: &own_details,
            role: "w",
        };
        examine(config, around).map_err(|problems| problems.iter().map(Failure::chain).collect())
    }

    /// The default roll-up by day.
    pub fn example() -> Rollup {
        examined(&by_default()["by_day"], &orders(), Some(&own()), |_, _| {}).unwrap()
    }

    #[test]
    fn each_column_is_looked_at_once() {
        let rollup = example();
        let names: Vec<&str> = rollup.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names[..2], ["order_time", "city"]);
        assert_eq!((names.len(), rollup.groups.len(), rollup.sums[0].of), (9, 5, 6));
        assert_eq!(rollup.bucket, Some((Grain::Day, 0)));
        assert_eq!(
            rollup.definition,
            "of \"result\".\"orders_latest\" (\"order_id\") time (day \"order_time\") groups (\"city\", \"user_city_tier\", \
             \"product_category_normalized\", \"price_band\", \"order_status\") count \"orders\" \
             sums (\"amount\" = \"total_amount\", \"quantity\" = \"quantity\") distinct (\"users\" = \"user_id\")"
        );
    }

    #[test]
    fn a_table_that_is_not_there_comes_with_its_definition() {
        let problems = examined(&by_default()["by_day"], &orders(), None, |_, _| {}).unwrap_err();
        let sql = "CREATE TABLE \"dws\".\"orders_by_day\" (\"group_key\" bytea PRIMARY KEY, \"bucket\" timestamp without time zone, \"city\" text";
        assert!(problems[0].contains(sql), "{problems:?}");
        assert!(problems[0].contains("\"amount\" numeric NOT NULL DEFAULT 0"), "{problems:?}");
        assert!(problems[0].contains("GRANT SELECT, INSERT, UPDATE, DELETE ON \"dws\".\"orders_by_day\" TO \"w\""));
    }

    #[test]
    fn each_problem_of_its_table_comes_with_its_cure() {
        let one = |change: &dyn Fn(&mut Facts), cure: &str| {
            let mut own = own();
            change(&mut own);
            let problems = examined(&by_default()["by_day"], &orders(), Some(&own), |_, _| {}).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(cure), "{problems:?}");
        };
        one(&|f| drop(f.columns.remove(2)), "ADD COLUMN \"city\" text");
        one(&|f| f.columns[2].type_sql = "character varying(5)".into(), "ALTER COLUMN \"city\" TYPE text");
        one(&|f| f.columns[2].not_null = true, "ALTER COLUMN \"city\" DROP NOT NULL");
        one(&|f| f.columns[7].not_null = false, "ALTER COLUMN \"orders\" SET NOT NULL");
        one(&|f| f.columns[7].type_sql = "integer".into(), "ALTER COLUMN \"orders\" TYPE bigint");
        one(&|f| f.columns[8].type_sql = "numeric(10,2)".into(), "ALTER COLUMN \"amount\" TYPE numeric");
        one(&|f| f.columns.push(column("note", "text", true)), "ALTER COLUMN \"note\" DROP NOT NULL");
        one(&|f| f.unique.clear(), "ADD PRIMARY KEY (group_key)");
        one(&|f| f.privileges.truncate(3), "GRANT DELETE ON \"dws\".\"orders_by_day\" TO \"w\"");
    }

    #[test]
    fn what_cannot_be_exact_is_refused() {
        let refused = |change: &dyn Fn(&mut RollupConfig), words: &str| {
            let mut config = by_default()["by_day"].clone();
            change(&mut config);
            let problems = examined(&config, &orders(), Some(&own()), |_, _| {}).unwrap_err();
            assert!(problems[0].contains(words), "{problems:?}");
        };
        refused(&|c| drop(c.sums.insert("amount".into(), "weight".into())), "double precision");
        refused(&|c| c.groups[0] = "total_amount".into(), "numeric");
        refused(&|c| c.groups[0] = "town".into(), "no column town");
        refused(&|c| c.time = "city".into(), "a timestamp for its time");
        let partitioned = examined(&by_default()["by_day"], &orders(), Some(&own()), |of, _| of.is_partitioned = true);
        assert!(partitioned.unwrap_err()[0].contains("partitioned"));
        let (table, facts) = orders();
        let marked = (Table { on_tombstone: OnTombstone::Soft, ..table }, facts);
        let marked = examined(&by_default()["by_day"], &marked, Some(&own()), |_, _| {});
        assert!(marked.unwrap_err()[0].contains("only marked"));
    }
}

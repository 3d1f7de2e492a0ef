//! What the records bring that a table does not have yet: the columns that are made for it, and their types.
//!
//! A record says of a value whether it is a number, text, a boolean or JSON, and no more. So a column gets the type that holds every later
//! value of that kind, unless the settings name one.

use std::collections::{BTreeMap, HashSet};

use shared::pg::{TableName, quoted};
use shared::record::row::{Field, for_each_field};

use crate::tables::{PROCESSED_TIME, RECORD_VERSION, SOURCE_COMMIT_TIME};

/// A table that is made from the first record, or gets columns when the topic brings new ones.
#[derive(Debug, Clone)]
pub struct Growing {
    pub name: TableName,
    pub is_there: bool,
    pub may_add: bool,
    pub key: Vec<String>,
    /// The column that says that a row was deleted, where a table that is made needs one.
    pub mark: Option<String>,
    /// Types that the settings name, by column.
    pub types: BTreeMap<String, String>,
    /// Fields that need no column: they have one, or are left out.
    pub known: HashSet<String>,
    /// Columns that it may come to.
    pub columns_max: usize,
}

/// A column that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewColumn {
    pub name: String,
    pub type_sql: String,
}

/// What is to be made before a batch is written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By the index of the table; only those that lack something.
    pub columns: BTreeMap<usize, Vec<NewColumn>>,
    /// Some value can get no column.
    pub has_impossible: bool,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Boolean,
    Text,
    Json,
}

impl Kind {
    /// `None` for null, which tells nothing.
    fn of(field: Field<'_>) -> Option<Self> {
        match field.raw().as_bytes().first()? {
            b'n' => None,
            b'"' => Some(Kind::Text),
            b'{' | b'[' => Some(Kind::Json),
            b't' | b'f' => Some(Kind::Boolean),
            _ => Some(Kind::Number),
        }
    }

    /// What holds both.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (one, other) if one == other => one,
            (Kind::Json, _) | (_, Kind::Json) => Kind::Json,
            _ => Kind::Text,
        }
    }

    fn type_sql(self) -> &'static str {
        match self {
            Kind::Number => "numeric",
            Kind::Boolean => "boolean",
            Kind::Text => "text",
            Kind::Json => "jsonb",
        }
    }
}

/// Columns that every table has without being told: their names cannot be given.
const OF_THE_SERVER: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];
/// A longer name would be cut off by the server.
const NAME_BYTES_MAX: usize = 63;

fn can_be_a_column(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains('\0') && !OF_THE_SERVER.contains(&name)
}

/// What is to be made for these rows.
pub fn wanted<'a>(tables: &[Growing], rows: impl Iterator<Item = &'a [u8]>) -> Wanted {
    let mut found: Vec<Vec<Found>> = tables.iter().map(|_| Vec::new()).collect();
    // Rows of a topic have their columns in one order: a name that stood at this place, and told nothing new, tells nothing new.
    let mut usual: Vec<String> = Vec::new();
    for row in rows {
        for (at, news) in news(tables, row, &mut usual) {
            if let Some(found) = found.get_mut(at) {
                enter(found, news);
            }
        }
    }
    let mut wanted = Wanted::default();
    for (at, (table, found)) in tables.iter().zip(found).enumerate() {
        let (columns, has_impossible) = table.columns(found);
        wanted.has_impossible |= has_impossible;
        if !columns.is_empty() {
            wanted.columns.insert(at, columns);
        }
    }
    wanted
}

/// A field without a column. `None` for a value that tells nothing: null.
type Found = (String, Option<Kind>);

/// The fields of a row that have no column, each with the index of the table. What the tables will not take tells nothing.
fn news(tables: &[Growing], row: &[u8], usual: &mut Vec<String>) -> Vec<(usize, Found)> {
    let (mut news, mut place) = (Vec::new(), 0);
    let visited = for_each_field(row, |name, field| {
        let at = place;
        place += 1;
        if usual.get(at).is_some_and(|usual| usual == name) {
            return;
        }
        let without = tables.iter().enumerate().filter(|(_, table)| !table.known.contains(name));
        let before = news.len();
        news.extend(without.map(|(table, _)| (table, (name.to_owned(), Kind::of(field)))));
        if news.len() == before && usual.len() >= at {
            usual.truncate(at);
            usual.push(name.to_owned());
        }
    });
    if visited.is_err() {
        return Vec::new();
    }
    news.retain(|(at, _)| tables.get(*at).is_some_and(|table| table.has_key(row)));
    news
}

fn enter(found: &mut Vec<Found>, (name, kind): Found) {
    match found.iter_mut().find(|(seen, _)| *seen == name) {
        None => found.push((name, kind)),
        Some((_, seen)) => *seen = seen.zip(kind).map(|(seen, kind)| seen.and(kind)).or(*seen).or(kind),
    }
}

impl Growing {
    /// A row without the whole key is set aside.
    fn has_key(&self, row: &[u8]) -> bool {
        let mut named = HashSet::new();
        let visited = for_each_field(row, |name, field| {
            if !field.is_null() && self.key.iter().any(|key| key == name) {
                named.insert(name.to_owned());
            }
        });
        visited.is_ok() && named.len() == self.key.len()
    }

    /// The columns to be made, and whether some value can get none.
    fn columns(&self, found: Vec<Found>) -> (Vec<NewColumn>, bool) {
        let mut has_impossible = false;
        let mut columns = Vec::new();
        for (name, kind) in found {
            // A column that is added later waits for a value, which tells its kind. Nothing comes later where none is added.
            let Some(kind) = kind.or((!self.may_add).then_some(Kind::Text)) else { continue };
            if !can_be_a_column(&name) || self.known.len() + columns.len() >= self.columns_max {
                has_impossible |= self.may_add;
                continue;
            }
            let type_sql = self.types.get(&name).cloned().unwrap_or_else(|| kind.type_sql().to_owned());
            columns.push(NewColumn { name, type_sql });
        }
        (columns, has_impossible)
    }

    /// A value of the row that has no column here, and gets none.
    pub fn without_column(&self, row: &[u8]) -> Option<String> {
        let mut first = None;
        let visited = for_each_field(row, |name, field| {
            if first.is_none() && self.may_add && !field.is_null() && !self.known.contains(name) {
                first = Some(name.to_owned());
            }
        });
        visited.ok().and(first)
    }

    /// The statement that makes the table.
    pub fn create_sql(&self, columns: &[NewColumn]) -> String {
        let mut definitions: Vec<String> = columns.iter().map(definition).collect();
        definitions.push(format!("{PROCESSED_TIME} timestamp(3)"));
        definitions.push(format!("{SOURCE_COMMIT_TIME} timestamptz"));
        definitions.push(format!("{RECORD_VERSION} bytea NOT NULL"));
        definitions.extend(self.mark.iter().map(|mark| format!("{} timestamptz", quoted(mark))));
        let key: Vec<String> = self.key.iter().map(|column| quoted(column)).collect();
        definitions.push(format!("PRIMARY KEY ({})", key.join(", ")));
        format!("CREATE TABLE {} ({})", self.name.sql(), definitions.join(", "))
    }

    /// The statement that adds columns.
    pub fn add_sql(&self, columns: &[NewColumn]) -> String {
        let added: Vec<String> = columns.iter().map(|column| format!("ADD COLUMN {}", definition(column))).collect();
        format!("ALTER TABLE {} {}", self.name.sql(), added.join(", "))
    }
}

fn definition(column: &NewColumn) -> String {
    format!("{} {}", quoted(&column.name), column.type_sql)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A table `r.t` with key `id`.
    pub fn growing(is_there: bool, may_add: bool, known: &[&str]) -> Growing {
        Growing {
            name: TableName::parse("r.t"),
            is_there,
            may_add,
            key: vec!["id".into()],
            mark: None,
            types: BTreeMap::from([("at".into(), "timestamp(3)".into())]),
            known: known.iter().map(|&name| name.to_owned()).collect(),
            columns_max: 8,
        }
    }

    fn columns(table: &Growing, rows: &[&str]) -> (String, bool) {
        let wanted = wanted(std::slice::from_ref(table), rows.iter().map(|row| row.as_bytes()));
        let columns = wanted.columns.get(&0).into_iter().flatten();
        let texts = columns.map(|column| format!("{} {}", column.name, column.type_sql)).collect::<Vec<_>>();
        (texts.join(", "), wanted.has_impossible)
    }

    #[test]
    fn a_column_gets_a_type_that_holds_what_comes_later() {
        let table = growing(true, true, &["id"]);
        let row = r#"{"id":1,"n":-1.50,"b":false,"s":"x","o":{},"l":[],"at":"2025-01-01","none":null}"#;
        let all = "n numeric, b boolean, s text, o jsonb, l jsonb, at timestamp(3)";
        assert_eq!(columns(&table, &[row]), (all.into(), false));
        assert_eq!(columns(&table, &[r#"{"id":1}"#, r#"{"id":2,"n":null}"#]), (String::new(), false));
        let mixed =
            [r#"{"id":1,"a":null,"b":1,"c":"x"}"#, r#"{"id":2,"a":1,"b":"x","c":[1]}"#, r#"{"id":3,"a":2,"b":null}"#];
        assert_eq!(columns(&table, &mixed).0, "a numeric, b text, c jsonb");
        assert_eq!(columns(&table, &["no row", "[1]", r#"{"id":1,"a":1,"b":}"#, r#"{"a":1}"#]).0, "");
    }

    #[test]
    fn a_name_that_moves_or_comes_late_is_found() {
        let table = growing(true, true, &["id", "a", "b"]);
        let rows = [
            r#"{"id":1,"a":1,"b":1}"#,
            r#"{"id":1,"b":1,"x":1}"#,
            r#"{"y":1,"a":1,"b":1,"id":4}"#,
            r#"{"id":1,"a":1,"b":2,"z":1}"#,
        ];
        assert_eq!(columns(&table, &rows).0, "x numeric, y numeric, z numeric");
    }

    #[test]
    fn a_table_is_made_from_rows_that_have_its_key() {
        let table = growing(false, false, &[]);
        assert_eq!(columns(&table, &[r#"{"id":null,"a":1}"#, r#"{"a":1}"#]).0, "");
        let (made, _) = columns(&table, &[r#"{"a":1}"#, r#"{"id":7,"s":"x","none":null}"#]);
        assert_eq!(made, "id numeric, s text, none text");
        assert_eq!(columns(&growing(false, true, &[]), &[r#"{"id":7,"none":null}"#]).0, "id numeric");
        let column = NewColumn { name: "i\"d".into(), type_sql: "numeric".into() };
        let table = Growing { mark: Some("gone".into()), ..table };
        assert_eq!(
            table.create_sql(std::slice::from_ref(&column)),
            "CREATE TABLE \"r\".\"t\" (\"i\"\"d\" numeric, processed_time timestamp(3), source_commit_time timestamptz, \
             record_version bytea NOT NULL, \"gone\" timestamptz, PRIMARY KEY (\"id\"))"
        );
        let two = [column.clone(), NewColumn { name: "b".into(), ..column }];
        assert_eq!(
            table.add_sql(&two),
            "ALTER TABLE \"r\".\"t\" ADD COLUMN \"i\"\"d\" numeric, ADD COLUMN \"b\" numeric"
        );
    }

    #[test]
    fn what_can_be_no_column_is_told() {
        let table = growing(true, true, &["id"]);
        let long = "x".repeat(64);
        for name in ["", "ctid", &long, "a\\u0000b"] {
            let row = format!("{{\"id\":1,\"{name}\":1}}");
            assert_eq!(columns(&table, &[&row]), (String::new(), true), "{name}");
            assert!(table.without_column(row.as_bytes()).is_some());
        }
        assert_eq!(table.without_column(br#"{"id":1,"ctid":null}"#), None);
        let many: Vec<String> = (0..9).map(|at| format!("\"c{at}\":1")).collect();
        let (made, has_impossible) = columns(&table, &[&format!("{{\"id\":1,{}}}", many.join(","))]);
        assert_eq!((made.split(", ").count(), has_impossible), (7, true));
        assert!(
            !columns(&growing(false, false, &[]), &[r#"{"id":1,"ctid":1}"#]).1,
            "it is passed over as in any table"
        );
    }
}

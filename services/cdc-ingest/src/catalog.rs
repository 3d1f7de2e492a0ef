//! The catalog of the source: what each table is just now, and whether it can be carried.
//!
//! A table is known by its OID, which stays when it is renamed and is another one when it is made anew. Its rows are told apart by the key
//! that the stream carries with deletes, which its replica identity decides (PostgreSQL documentation, "ALTER TABLE, REPLICA IDENTITY"):
//!
//! | replica identity | key of the topic |
//! |---|---|
//! | default | the primary key |
//! | index | the columns of that index |
//! | full | the primary key, else the first unique index over NOT NULL columns |
//! | nothing | the primary key; PostgreSQL itself refuses updates and deletes of such a published table |

mod sql;

use std::collections::HashMap;

use serde::Deserialize;
use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, quoted, refused_for_now};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

/// A table that can be carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    pub oid: u32,
    /// As it is called now.
    pub name: TableName,
    pub partitioned: bool,
    /// The key: names and SQL types, in its order.
    pub key: Vec<KeyColumn>,
    /// The row filter of the publication, as SQL.
    pub filter: Option<String>,
    /// The OIDs of the publication and of the catalog's entries that put the table into it: other ones after it was taken out and put
    /// back, or got another filter or list of columns.
    pub membership: String,
    /// The planner's estimate, for progress.
    pub rows_estimate: i64,
}

/// A column of a key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KeyColumn {
    pub name: String,
    /// What a value is cast to: its type, and its collation where that is not the database's.
    pub sql_type: String,
    /// `<`, `<=`, `=`, `>=` and `>` of its type, where they are not PostgreSQL's own.
    pub operators: Option<[String; 5]>,
}

#[cfg(test)]
impl KeyColumn {
    pub fn new(name: &str, sql_type: &str) -> Self {
        KeyColumn { name: name.into(), sql_type: sql_type.into(), operators: None }
    }
}

/// A column that the stream carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    pub name: String,
    /// Its type; of a domain the type beneath.
    pub type_oid: u32,
}

impl SourceTable {
    /// For `FROM`: a table that others inherit from is read without them, since the stream carries each under its own name.
    pub fn from_sql(&self) -> String {
        if self.partitioned { self.name.sql() } else { format!("ONLY {}", self.name.sql()) }
    }

    pub fn key_names(&self) -> Vec<String> {
        self.key.iter().map(|column| column.name.clone()).collect()
    }
}

/// How a captured table is known.
#[derive(Debug, Clone)]
pub struct Meaning {
    /// The configured name, or the one it was found under.
    pub name: TableName,
    /// Named in the settings: whatever table has the name is meant.
    pub by_name: bool,
    /// What was captured under it before.
    pub oid: Option<u32>,
}

/// A table as the catalog has it, whether or not it can be carried.
#[derive(Debug, Clone)]
struct Entry {
    table: SourceTable,
    identity: String,
    readable: bool,
    /// A policy of row-level security stands between the role and the rows.
    veiled: bool,
    published: bool,
}

/// What was looked at, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    user: String,
    publication: String,
    entries: Vec<Entry>,
}

fn settings(what: impl Into<String>, cure: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Settings, what).cure(cure)
}

/// Looks at the published tables, and those with these names or OIDs.
pub async fn look(
    connection: &mut PgConnection,
    publication: &str,
    names: &[TableName],
    oids: &[u32],
) -> Result<Catalog, Failure> {
    let failed = |error| refused_for_now("the source's catalog cannot be read", error);
    let (version, user): (i32, String) =
        sqlx::query_as("SELECT current_setting('server_version_num')::int4, current_user::text")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
    let rows = sqlx::query(AssertSqlSafe(sql::tables(version)))
        .bind(publication)
        .bind(names.iter().map(|name| name.schema.clone()).collect::<Vec<_>>())
        .bind(names.iter().map(|name| name.name.clone()).collect::<Vec<_>>())
        .bind(oids.iter().map(|&oid| i64::from(oid)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
        .map_err(failed)?;
    let entries = rows.iter().map(entry).collect::<Result<_, _>>().map_err(failed)?;
    Ok(Catalog { user, publication: publication.to_owned(), entries })
}

fn entry(row: &PgRow) -> Result<Entry, sqlx::Error> {
    let kind: String = row.try_get(3)?;
    let key = serde_json::from_str(row.try_get(9)?).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let table = SourceTable {
        oid: u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0),
        name: TableName { schema: row.try_get(1)?, name: row.try_get(2)? },
        partitioned: kind == "p",
        key,
        filter: row.try_get(8)?,
        membership: row.try_get(11)?,
        rows_estimate: row.try_get(5)?,
    };
    let (identity, readable, published) = (row.try_get(4)?, row.try_get(6)?, row.try_get(7)?);
    Ok(Entry { table, identity, readable, veiled: row.try_get(10)?, published })
}

impl Catalog {
    fn by_name(&self, name: &TableName) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.table.name == *name)
    }

    fn by_oid(&self, oid: u32) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.table.oid == oid)
    }

    /// Which table each of these means, so that no table is meant twice. One that is named in the settings means what has the name;
    /// where nothing has, what was captured under it before and is called otherwise now. Any other means what was captured under it,
    /// whatever its name; where that is gone, what has its name.
    pub fn meant(&self, all: &[Meaning]) -> Vec<Result<SourceTable, Failure>> {
        let by_name = |meaning: &Meaning| self.by_name(&meaning.name).map(|entry| entry.table.oid);
        let by_oid = |meaning: &Meaning| meaning.oid.filter(|oid| self.by_oid(*oid).is_some());
        let mut owners: HashMap<u32, usize> = HashMap::new();
        let mut own = |choice: &dyn Fn(&Meaning) -> Option<u32>| {
            for (place, meaning) in all.iter().enumerate() {
                if let Some(oid) = choice(meaning).filter(|_| owners.values().all(|owner| *owner != place)) {
                    owners.entry(oid).or_insert(place);
                }
            }
        };
        own(&|meaning| by_name(meaning).filter(|_| meaning.by_name));
        own(&by_oid);
        own(&by_name);
        let found = |(place, meaning): (usize, &Meaning)| {
            let own = owners.iter().find(|(_, owner)| **owner == place).and_then(|(oid, _)| self.by_oid(*oid));
            let taken = by_oid(meaning).or_else(|| by_name(meaning)).and_then(|oid| all.get(*owners.get(&oid)?));
            match (own, taken) {
                (None, Some(owner)) => Err(captured_as(&meaning.name, &owner.name)),
                (own, _) => self.carried(&meaning.name, own),
            }
        };
        all.iter().enumerate().map(found).collect()
    }

    /// Whether the table with this OID can be carried.
    pub fn table_by_oid(&self, name: &TableName, oid: u32) -> Result<SourceTable, Failure> {
        self.carried(name, self.by_oid(oid))
    }

    /// Whether the table with this name can be carried.
    pub fn table(&self, name: &TableName) -> Result<SourceTable, Failure> {
        self.carried(name, self.by_name(name))
    }

    /// Names of the tables that the publication has.
    pub fn published(&self) -> impl Iterator<Item = &SourceTable> {
        self.entries.iter().filter(|entry| entry.published).map(|entry| &entry.table)
    }

    fn carried(&self, name: &TableName, found: Option<&Entry>) -> Result<SourceTable, Failure> {
        let Some(found) = found else {
            return Err(settings(
                format!("the source has no table {name}"),
                "correct the name under [tables], or make the table; views and foreign tables cannot be captured",
            ));
        };
        let (table, user) = (&found.table, &self.user);
        if !found.readable {
            let cure = format!(
                "GRANT USAGE ON SCHEMA {} TO {1}; GRANT SELECT ON {2} TO {1}",
                quoted(&table.name.schema),
                quoted(user),
                table.name.sql()
            );
            return Err(settings(format!("role {user} may not read {}", table.name), cure));
        }
        if found.veiled {
            // The copy would lack rows that the stream has, and nobody would see it.
            return Err(settings(
                format!("row-level security hides rows of {} from role {user}", table.name),
                format!("ALTER ROLE {} BYPASSRLS", quoted(user)),
            ));
        }
        if table.key.is_empty() {
            return Err(no_key(found));
        }
        if !found.published {
            return Err(self.not_published(table));
        }
        Ok(table.clone())
    }

    /// The statement that puts these tables into the publication.
    fn not_published(&self, table: &SourceTable) -> Failure {
        let publication = quoted(&self.publication);
        let cure = match table.partitioned {
            true => format!(
                "ALTER PUBLICATION {publication} SET (publish_via_partition_root = true), with {} in it; or name its partitions under [tables]",
                table.name.sql()
            ),
            false => format!("ALTER PUBLICATION {publication} ADD TABLE {}", table.name.sql()),
        };
        settings(format!("publication {} does not publish table {}", self.publication, table.name), cure)
    }

    /// Of these tables those that exist and are not published.
    pub fn unpublished<'a>(&'a self, names: &'a [TableName]) -> impl Iterator<Item = &'a SourceTable> {
        let found = names.iter().filter_map(|name| self.by_name(name));
        found.filter(|entry| !entry.published).map(|entry| &entry.table)
    }
}

fn captured_as(name: &TableName, owner: &TableName) -> Failure {
    settings(
        format!("the table that was captured as {name} is captured as {owner} now"),
        format!("read the topic of {owner} from here on; a table that gets the name {name} is captured by itself"),
    )
}

fn no_key(found: &Entry) -> Failure {
    let table = &found.table.name;
    match found.identity.as_str() {
        "i" => settings(
            format!("table {table} has no replica identity index any more, so its rows cannot be told apart"),
            format!(
                "ALTER TABLE {} REPLICA IDENTITY USING INDEX …, or REPLICA IDENTITY DEFAULT with a primary key",
                table.sql()
            ),
        ),
        "f" => settings(
            format!(
                "table {table} has no primary key and no unique index over NOT NULL columns, so its rows cannot be told apart"
            ),
            format!("ALTER TABLE {} ADD PRIMARY KEY (…)", table.sql()),
        ),
        _ => settings(
            format!("table {table} has no primary key, so its rows cannot be told apart"),
            format!(
                "ALTER TABLE {0} ADD PRIMARY KEY (…), or ALTER TABLE {0} REPLICA IDENTITY USING INDEX … (unique, over NOT NULL columns)",
                table.sql()
            ),
        ),
    }
}

/// The columns that the stream carries, in its order; none where the table does not exist or is not published.
pub async fn columns(
    connection: &mut PgConnection,
    publication: &str,
    table: &TableName,
) -> Result<Vec<SourceColumn>, Failure> {
    let failed = |error| refused_for_now(format!("the columns of {table} cannot be read"), error);
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int4")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    // Before 18 no generated column is in the stream, though 15 lists them.
    let listed = match version {
        180_000.. => "a.attname = ANY (p.attnames)",
        150_000.. => "a.attname = ANY (p.attnames) AND a.attgenerated = ''",
        _ => "a.attgenerated = ''",
    };
    let sql = format!(
        "SELECT a.attname::text, a.atttypid::int8 \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_publication_tables p ON p.pubname = $3 AND p.schemaname = n.nspname AND p.tablename = c.relname \
         WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND {listed} ORDER BY a.attnum"
    );
    let found: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(&table.schema)
        .bind(&table.name)
        .bind(publication)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let oid = |oid: i64| u32::try_from(oid).unwrap_or(0);
    let own: Vec<u32> = found.iter().map(|(_, type_oid)| oid(*type_oid)).collect();
    let bases = base_types(connection, &own).await?;
    let column = |(name, type_oid): (String, i64)| {
        let type_oid = oid(type_oid);
        SourceColumn { name, type_oid: bases.get(&type_oid).copied().unwrap_or(type_oid) }
    };
    Ok(found.into_iter().map(column).collect())
}

/// For each type the type beneath: of a domain (of a domain …) its base type, of all others itself. A type that is gone is left out.
pub async fn base_types(connection: &mut PgConnection, types: &[u32]) -> Result<HashMap<u32, u32>, Failure> {
    let sql = "WITH RECURSIVE beneath (asked, oid, kind, base) AS ( \
                 SELECT t.oid, t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid::int8 = ANY($1) \
                 UNION ALL \
                 SELECT b.asked, t.oid, t.typtype, t.typbasetype FROM beneath b JOIN pg_type t ON t.oid = b.base WHERE b.kind = 'd') \
               SELECT asked::int8, oid::int8 FROM beneath WHERE kind <> 'd'";
    let asked: Vec<i64> = types.iter().map(|&oid| i64::from(oid)).collect();
    let found: Vec<(i64, i64)> = sqlx::query_as(sql)
        .bind(asked)
        .fetch_all(connection)
        .await
        .map_err(|error| refused_for_now("the types of the source cannot be read", error))?;
    let oid = |oid: i64| u32::try_from(oid).unwrap_or(0);
    Ok(found.into_iter().map(|(asked, base)| (oid(asked), oid(base))).collect())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A table with nothing but a name.
    pub fn source_table() -> SourceTable {
        SourceTable {
            oid: 1,
            name: TableName::parse("s.a"),
            partitioned: false,
            key: Vec::new(),
            filter: None,
            membership: String::new(),
            rows_estimate: 0,
        }
    }

    fn entry(oid: u32, name: &str) -> Entry {
        let key = vec![KeyColumn::new("id", "bigint")];
        let table = SourceTable { oid, name: TableName::parse(name), key, ..source_table() };
        Entry { table, identity: "d".into(), readable: true, veiled: false, published: true }
    }

    fn catalog(entries: Vec<Entry>) -> Catalog {
        Catalog { user: "r".into(), publication: "p".into(), entries }
    }

    fn meaning(name: &str, by_name: bool, oid: u32) -> Meaning {
        Meaning { name: TableName::parse(name), by_name, oid: Some(oid).filter(|oid| *oid != 0) }
    }

    /// OIDs of the tables that are meant; 0 where none is.
    fn meant(entries: &[(u32, &str)], all: &[Meaning]) -> Vec<u32> {
        let catalog = catalog(entries.iter().map(|(oid, name)| entry(*oid, name)).collect());
        catalog.meant(all).into_iter().map(|found| found.map_or(0, |table| table.oid)).collect()
    }

    #[test]
    fn a_name_of_the_settings_means_the_table_that_has_it_and_else_the_one_that_had_it() {
        let named = |oid| [meaning("s.a", true, oid)];
        assert_eq!(meant(&[(1, "s.b")], &named(1)), [1], "renamed");
        assert_eq!(meant(&[(1, "s.b")], &named(0)), [0]);
        assert_eq!(meant(&[(1, "s.b"), (2, "s.a")], &named(1)), [2], "swapped");
        assert_eq!(meant(&[(2, "s.a")], &named(1)), [2], "made anew");
    }

    #[test]
    fn a_table_that_was_found_is_meant_by_its_oid_and_when_it_is_gone_by_its_name() {
        let found = [meaning("s.a", false, 1)];
        assert_eq!(meant(&[(1, "s.b"), (2, "s.a")], &found), [1]);
        assert_eq!(meant(&[(2, "s.a")], &found), [2]);
        assert_eq!(meant(&[(3, "s.c")], &found), [0]);
    }

    #[test]
    fn no_table_is_meant_twice() {
        // It was found as s.new, and got the name that the settings mean.
        let all = [meaning("s.new", false, 2), meaning("s.a", true, 1)];
        assert_eq!(meant(&[(1, "s.old"), (2, "s.a")], &all), [0, 2]);
        assert_eq!(meant(&[(1, "s.old"), (2, "s.a"), (3, "s.new")], &all), [3, 2]);
        let swapped = catalog(vec![entry(2, "s.a")]).meant(&all).remove(0).unwrap_err().chain();
        assert!(swapped.contains("captured as s.new is captured as s.a now"), "{swapped}");
        // The settings name it by its old name and by its new one.
        let both = [meaning("s.a", true, 1), meaning("s.b", true, 0)];
        assert_eq!(meant(&[(1, "s.b")], &both), [0, 1]);
        // One was renamed to the name of another that is gone.
        let found = [meaning("s.a", false, 1), meaning("s.b", false, 2)];
        assert_eq!(meant(&[(2, "s.a")], &found), [0, 2]);
    }

    #[test]
    fn what_is_missing_is_said_with_the_statement_that_mends_it() {
        let name = TableName::parse("s.a");
        type Spoil = fn(&mut Entry);
        let cases: [(Spoil, &str); 6] = [
            (|entry| entry.veiled = true, "ALTER ROLE \"r\" BYPASSRLS"),
            (
                |entry| entry.readable = false,
                "GRANT USAGE ON SCHEMA \"s\" TO \"r\"; GRANT SELECT ON \"s\".\"a\" TO \"r\"",
            ),
            (|entry| entry.table.key.clear(), "ALTER TABLE \"s\".\"a\" ADD PRIMARY KEY"),
            (|entry| entry.published = false, "ALTER PUBLICATION \"p\" ADD TABLE \"s\".\"a\""),
            (
                |entry| (entry.identity, entry.table.key) = ("i".into(), Vec::new()),
                "ALTER TABLE \"s\".\"a\" REPLICA IDENTITY USING INDEX",
            ),
            (
                |entry| (entry.published, entry.table.partitioned) = (false, true),
                "ALTER PUBLICATION \"p\" SET (publish_via_partition_root = true)",
            ),
        ];
        for (spoil, cure) in cases {
            let mut spoilt = entry(1, "s.a");
            spoil(&mut spoilt);
            let failure = catalog(vec![spoilt]).table(&name).unwrap_err();
            assert!(failure.chain().contains(cure), "{}", failure.chain());
        }
    }

    #[test]
    fn children_are_left_out_of_an_inherited_table_and_not_of_a_partitioned_one() {
        let mut table = entry(1, "s.a").table;
        assert_eq!(table.from_sql(), "ONLY \"s\".\"a\"");
        table.partitioned = true;
        assert_eq!(table.from_sql(), "\"s\".\"a\"");
    }
}

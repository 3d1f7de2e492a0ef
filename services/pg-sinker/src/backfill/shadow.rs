//! A table beside another one, made like it and put in its place: `<name>__rebuild`.

use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, quoted, refused};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::deleted_keys;

const SUFFIX: &str = "__rebuild";
/// The name of the old table between the renaming and the drop.
const REPLACED: &str = "tidemill__replaced";
/// A longer name would be cut off by the server.
const NAME_BYTES_MAX: usize = 63;

/// Whether somebody's table has the name of the one beside.
pub async fn is_taken(connection: &mut PgConnection, table: &TableName) -> Result<bool, Failure> {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(beside(table).sql())
        .fetch_one(connection)
        .await
        .map_err(|error| unread(table, error))
}

/// The name of the table beside this one.
pub fn beside(table: &TableName) -> TableName {
    TableName { schema: table.schema.clone(), name: format!("{}{SUFFIX}", table.name) }
}

/// What keeps a table from being built anew: rights that lack, and what would be lost in silence.
pub async fn problems(connection: &mut PgConnection, table: &TableName, role: &str) -> Result<Vec<Failure>, Failure> {
    let mut problems = Vec::new();
    let mut problem = |what: String, cure: String| {
        problems.push(Failure::new(FailureKind::Settings, format!("{table} cannot be built anew: {what}")).cure(cure));
    };
    let found: Option<(bool, bool)> = sqlx::query_as(
        "SELECT pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(n.oid, 'CREATE') \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(|error| unread(table, error))?;
    let Some((is_owned, may_create)) = found else {
        problem("it does not exist".into(), "start pg-sinker, which says how to make it".into());
        return Ok(problems);
    };
    if beside(table).name.len() > NAME_BYTES_MAX {
        problem(
            "its name is too long for one beside it".into(),
            format!("give it one of {} bytes", NAME_BYTES_MAX - SUFFIX.len()),
        );
    }
    if !is_owned {
        problem(
            format!("role {role} does not own it"),
            format!("ALTER TABLE {} OWNER TO {}", table.sql(), quoted(role)),
        );
    }
    if !may_create {
        let (schema, role) = (quoted(&table.schema), quoted(role));
        problem(
            format!("role {role} may make no table beside it"),
            format!("GRANT CREATE ON SCHEMA {schema} TO {role}"),
        );
    }
    let hanging: Vec<String> = sqlx::query_scalar(HANGING)
        .bind(table.sql())
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| unread(table, error))?;
    for what in hanging {
        problem(what, "take it away, and put it back when the table is built".into());
    }
    let views: Vec<(String, String)> = sqlx::query_as(VIEWS)
        .bind(table.sql())
        .fetch_all(&mut *connection)
        .await
        .map_err(|error| unread(table, error))?;
    for (view, cure) in views {
        problem(format!("role {role} may not let the view {view} read the new table"), cure);
    }
    Ok(problems)
}

fn unread(table: &TableName, error: sqlx::Error) -> Failure {
    refused(format!("the catalog of the sink cannot be read for {table}"), error)
}

/// What hangs on a table, and would not be on the one in its place. Views of the role are told anew; whatever else uses the table stops the
/// drop of it.
const HANGING: &str = "WITH t AS (SELECT c.* FROM pg_class c WHERE c.oid = to_regclass($1)), \
     v AS (SELECT c.* FROM pg_class c WHERE c.oid IN (SELECT r.ev_class FROM t JOIN pg_depend d ON refobjid = t.oid \
         AND classid = 'pg_rewrite'::regclass JOIN pg_rewrite r ON r.oid = objid AND r.ev_class <> t.oid)) \
     SELECT 'it is no ordinary table' FROM t WHERE relkind <> 'r' OR relispartition \
     UNION ALL SELECT 'it is a temporary one' FROM t WHERE relpersistence = 't' \
     UNION ALL SELECT 'it is of a type' FROM t WHERE reloftype <> 0 \
     UNION ALL SELECT 'it inherits, or is inherited from' FROM t WHERE EXISTS (SELECT FROM pg_inherits WHERE t.oid IN (inhrelid, inhparent)) \
     UNION ALL SELECT 'its rows are under policies' FROM t WHERE relrowsecurity OR EXISTS (SELECT FROM pg_policy WHERE polrelid = t.oid) \
     UNION ALL SELECT 'its replica identity is an index' FROM t WHERE relreplident = 'i' \
     UNION ALL SELECT 'the constraint ' || conname || ' names another table, or is of another one' FROM t JOIN pg_constraint \
         ON contype = 'f' AND t.oid IN (conrelid, confrelid) \
     UNION ALL SELECT 'it has the trigger ' || tgname FROM t JOIN pg_trigger ON tgrelid = t.oid WHERE NOT tgisinternal \
     UNION ALL SELECT 'its index ' || c.relname || ' is not valid' FROM t JOIN pg_index i ON indrelid = t.oid JOIN pg_class c ON c.oid = indexrelid \
         WHERE NOT indisvalid \
     UNION ALL SELECT 'it has the rule ' || rulename FROM t JOIN pg_rewrite ON ev_class = t.oid \
     UNION ALL SELECT 'it is in the publication ' || pubname FROM t JOIN pg_publication_rel ON prrelid = t.oid JOIN pg_publication p ON p.oid = prpubid \
     UNION ALL SELECT 'its column ' || attname || ' has numbers of its own' FROM t JOIN pg_attribute a ON attrelid = t.oid \
         AND attnum > 0 AND NOT attisdropped WHERE attidentity <> '' OR pg_get_serial_sequence($1, attname::text) IS NOT NULL \
     UNION ALL SELECT pg_describe_object(classid, objid, 0) || ' uses it' FROM t JOIN pg_depend d ON refobjid = t.oid AND deptype = 'n' \
         AND refclassid = 'pg_class'::regclass \
         WHERE classid NOT IN ('pg_rewrite'::regclass, 'pg_constraint'::regclass, 'pg_attrdef'::regclass) \
     UNION ALL SELECT 'the view ' || v.oid::regclass || ' holds rows of it' FROM v WHERE relkind <> 'v'";

/// Views over the table that this role cannot tell anew, with the statement that lets it.
const VIEWS: &str = "SELECT DISTINCT c.oid::regclass::text, format('ALTER VIEW %s OWNER TO %I; GRANT USAGE, CREATE ON SCHEMA %s TO %2$I', \
         c.oid::regclass, current_user, c.relnamespace::regnamespace) \
     FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class \
     WHERE d.refobjid = to_regclass($1) AND d.classid = 'pg_rewrite'::regclass AND c.relkind = 'v' \
         AND NOT (pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(c.relnamespace, 'CREATE')) ORDER BY 1";

/// The comment on the table beside, which says whose it is.
fn comment_of(job: i64) -> String {
    format!("tidemill: made by job {job}, which drops it where it ends without a swap")
}

/// Whether there is a table by the name of the one beside, and this job made it.
pub async fn is_its(connection: &mut PgConnection, table: &TableName, job: i64) -> sqlx::Result<bool> {
    let is_its: Option<bool> = sqlx::query_scalar("SELECT obj_description(to_regclass($1), 'pg_class') = $2")
        .bind(beside(table).sql())
        .bind(comment_of(job))
        .fetch_one(connection)
        .await?;
    Ok(is_its == Some(true))
}

/// Whether there is a table by that name which neither this job made nor one that has ended.
pub async fn is_of_another(connection: &mut PgConnection, table: &TableName, job: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT to_regclass($1) IS NOT NULL AND NOT coalesce(d = $2 OR d LIKE 'tidemill: made by job %' AND NOT EXISTS ( \
             SELECT FROM tidemill.backfills b WHERE b.state = 'open' AND d LIKE 'tidemill: made by job ' || b.id || ',%'), false) \
         FROM obj_description(to_regclass($1), 'pg_class') AS d",
    )
    .bind(beside(table).sql())
    .bind(comment_of(job))
    .fetch_one(connection)
    .await
}

/// Makes the table beside for a job, in the place of one that was left over.
pub async fn make(connection: &mut PgConnection, table: &TableName, job: i64) -> sqlx::Result<()> {
    forget_deleted_keys(connection, table).await?;
    let name = beside(table).sql();
    let (unlogged, space): (bool, Option<String>) = sqlx::query_as(
        "SELECT c.relpersistence = 'u', s.spcname::text FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace \
         WHERE c.oid = to_regclass($1)",
    )
    .bind(table.sql())
    .fetch_one(&mut *connection)
    .await?;
    let unlogged = if unlogged { "UNLOGGED " } else { "" };
    let space = space.map(|space| format!(" TABLESPACE {}", quoted(&space))).unwrap_or_default();
    let sql = format!(
        "DROP TABLE IF EXISTS {name}; CREATE {unlogged}TABLE {name} (LIKE {} INCLUDING ALL){space}; \
         COMMENT ON TABLE {name} IS '{}'",
        table.sql(),
        comment_of(job)
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

/// Takes the table beside away, where it is there and that of this job, with what was kept for it. `lock_timeout_ms`: so long it waits for
/// who reads it.
pub async fn drop(
    connection: &mut PgConnection,
    table: &TableName,
    job: i64,
    lock_timeout_ms: u64,
) -> sqlx::Result<()> {
    if !is_its(connection, table, job).await? {
        return Ok(());
    }
    forget_deleted_keys(connection, table).await?;
    let sql = format!("SET LOCAL lock_timeout = {lock_timeout_ms}; DROP TABLE IF EXISTS {}", beside(table).sql());
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}

/// The deletions that were kept for the table beside, piece by piece.
pub async fn forget_deleted_keys(connection: &mut PgConnection, table: &TableName) -> sqlx::Result<()> {
    let label = beside(table).to_string();
    while deleted_keys::forget_some_of(connection, &label).await? > 0 {}
    Ok(())
}

/// Whether the table beside is there, and like the table in all that it has from it: columns, constraints, indexes, statistics, and where it is
/// kept. What is given to it in the swap is that of the table by then.
pub async fn is_alike(connection: &mut PgConnection, table: &TableName) -> sqlx::Result<bool> {
    sqlx::query_scalar(ARE_ALIKE).bind(table.sql()).bind(beside(table).sql()).fetch_one(connection).await
}

/// A constraint that holds for new rows only holds for all rows of the table beside.
const ARE_ALIKE: &str = "WITH forms AS (SELECT concat_ws(E'\n', c.relpersistence, c.reltablespace, \
         (SELECT array_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation, attnotnull, attgenerated, attstorage, \
             attcompression, pg_get_expr(d.adbin, d.adrelid)) ORDER BY attname) \
             FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)::text, \
         (SELECT array_agg(form ORDER BY form) FROM (SELECT concat_ws(' ', contype, CASE contype WHEN 'c' THEN conname END, \
             replace(pg_get_constraintdef(oid), ' NOT VALID', '')) AS form FROM pg_constraint \
             WHERE conrelid = c.oid AND contype IN ('c', 'p', 'u', 'x')) AS constraints)::text, \
         (SELECT array_agg(form ORDER BY form) FROM (SELECT concat_ws(' ', substr(def, strpos(def, ' USING ')), indisprimary, indisunique, \
             indimmediate) AS form FROM pg_index, LATERAL (SELECT pg_get_indexdef(indexrelid) AS def) AS d WHERE indrelid = c.oid) AS indexes)::text, \
         (SELECT array_agg(form ORDER BY form) FROM (SELECT concat_ws(' ', stxkind::text, pg_get_statisticsobjdef_columns(oid)) AS form \
             FROM pg_statistic_ext WHERE stxrelid = c.oid) AS statistics)::text) AS form \
         FROM pg_class c WHERE c.oid IN (to_regclass($1), to_regclass($2))) \
     SELECT count(*) = 2 AND count(DISTINCT form) = 1 FROM forms";

/// From here on nobody reads the table or changes it. `lock_timeout_ms`: so long each lock waits for readers, and whoever comes waits behind
/// it. A reader of a view locks that first, so views come first here, each by a change of nothing: LOCK TABLE would lock all that it reads.
pub async fn lock(connection: &mut PgConnection, table: &TableName, lock_timeout_ms: u64) -> sqlx::Result<()> {
    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
        .bind(lock_timeout_ms.to_string())
        .execute(&mut *connection)
        .await?;
    let mut locks: Vec<String> =
        sqlx::query_scalar(LOCKS_OF_VIEWS).bind(table.sql()).fetch_all(&mut *connection).await?;
    locks.push(format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.sql()));
    connection.execute(sqlx::raw_sql(AssertSqlSafe(locks.join(";\n")))).await?;
    Ok(())
}

/// Puts the table beside in the place of the table, which is locked.
pub async fn swap(connection: &mut PgConnection, table: &TableName) -> sqlx::Result<()> {
    let (before, after): (Vec<String>, Vec<String>) =
        sqlx::query_as(LIKENESS).bind(table.sql()).bind(beside(table).sql()).fetch_one(&mut *connection).await?;
    // The views are told anew by name while both tables are there, and the name is the new table's by then.
    let old = TableName { schema: table.schema.clone(), name: REPLACED.to_owned() };
    let mut statements = vec![format!("COMMENT ON TABLE {} IS NULL", beside(table).sql())];
    statements.extend(before);
    statements.push(format!("ALTER TABLE {} RENAME TO {}", table.sql(), quoted(&old.name)));
    statements.push(format!("ALTER TABLE {} RENAME TO {}", beside(table).sql(), quoted(&table.name)));
    let (views, rest): (Vec<String>, Vec<String>) =
        after.into_iter().partition(|statement| statement.starts_with("CREATE OR REPLACE VIEW "));
    statements.extend(views);
    statements.push(format!("DROP TABLE {}", old.sql()));
    statements.extend(rest);
    connection.execute(sqlx::raw_sql(AssertSqlSafe(statements.join(";\n")))).await?;
    Ok(())
}

/// A statement for each view over the table that locks it and nothing else.
const LOCKS_OF_VIEWS: &str = "SELECT format('ALTER VIEW %s OWNER TO %I', v.oid::regclass, pg_get_userbyid(v.relowner)) \
     FROM pg_class v WHERE v.relkind = 'v' AND v.oid IN (SELECT r.ev_class FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid \
         WHERE d.refobjid = to_regclass($1) AND d.classid = 'pg_rewrite'::regclass) ORDER BY 1";

/// The statements that make the table beside ($2) like the table ($1), before and after it has its name: owner, options, comments and grants;
/// then views, and names of indexes.
const LIKENESS: &str = "WITH o AS (SELECT * FROM pg_class WHERE oid = to_regclass($1)), n AS (SELECT * FROM pg_class WHERE oid = to_regclass($2)), \
     granted AS ( \
         SELECT a.*, NULL::name AS attname FROM o, aclexplode(o.relacl) a \
         UNION ALL SELECT a.*, attname FROM o JOIN pg_attribute t ON attrelid = o.oid AND NOT attisdropped, aclexplode(attacl) a), \
     who AS (SELECT g.*, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS name FROM granted g), \
     indexes AS (SELECT i.indexrelid, i.indrelid, c.relname, \
         concat_ws(' ', substr(d.def, strpos(d.def, ' USING ')), indisprimary, indisunique, indimmediate) AS form \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid, LATERAL (SELECT pg_get_indexdef(i.indexrelid) AS def) d \
         WHERE i.indrelid IN (to_regclass($1), to_regclass($2))), \
     pairs AS (SELECT old.relname AS old, new.relname AS new FROM \
         (SELECT *, row_number() OVER (PARTITION BY form ORDER BY relname) AS nth FROM indexes WHERE indrelid = (SELECT oid FROM o)) old \
         JOIN (SELECT *, row_number() OVER (PARTITION BY form ORDER BY relname) AS nth FROM indexes WHERE indrelid = (SELECT oid FROM n)) new \
         USING (form, nth)) \
     SELECT ARRAY( \
         SELECT format('ALTER TABLE %s SET (%s)', $2, array_to_string(reloptions, ', ')) FROM o WHERE reloptions IS NOT NULL \
         UNION ALL SELECT format('ALTER TABLE %s REPLICA IDENTITY %s', $2, CASE relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END) \
             FROM o WHERE relreplident IN ('f', 'n') \
         UNION ALL SELECT format('COMMENT ON TABLE %s IS %L', $2, obj_description(oid, 'pg_class')) FROM o WHERE obj_description(oid, 'pg_class') IS NOT NULL \
         UNION ALL SELECT format('COMMENT ON COLUMN %s.%I IS %L', $2, attname, col_description(o.oid, attnum)) FROM o \
             JOIN pg_attribute ON attrelid = o.oid AND attnum > 0 AND NOT attisdropped WHERE col_description(o.oid, attnum) IS NOT NULL \
         UNION ALL SELECT format('REVOKE ALL ON TABLE %s FROM %s', $2, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END) \
             FROM n, aclexplode(coalesce(relacl, acldefault('r', relowner))) WHERE grantee <> n.relowner OR EXISTS (SELECT FROM o WHERE o.relacl IS NOT NULL) \
         UNION ALL SELECT format('GRANT %s%s ON TABLE %s TO %s%s', privilege_type, coalesce(' (' || quote_ident(attname) || ')', ''), $2, name, \
             CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) FROM who \
         UNION ALL SELECT format('ALTER TABLE %s OWNER TO %I', $2, pg_get_userbyid(o.relowner)) FROM o, n WHERE o.relowner <> n.relowner \
     ), ARRAY( \
         SELECT format('CREATE OR REPLACE VIEW %s %sAS %s', v.oid::regclass, \
             coalesce('WITH (' || array_to_string(v.reloptions, ', ') || ') ', ''), rtrim(pg_get_viewdef(v.oid), ';')) \
         FROM pg_class v WHERE v.relkind = 'v' AND v.oid IN (SELECT r.ev_class FROM o JOIN pg_depend d ON refobjid = o.oid AND classid = 'pg_rewrite'::regclass \
             JOIN pg_rewrite r ON r.oid = objid) \
         UNION ALL SELECT format('ALTER INDEX %s.%I RENAME TO %I', (SELECT relnamespace::regnamespace FROM o), new, old) FROM pairs)";

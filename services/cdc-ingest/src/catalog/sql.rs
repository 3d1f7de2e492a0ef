//! The questions to the catalog, in the words of the server's version (PostgreSQL documentation, "System Catalogs").

/// One row for each table that is published, or has one of the names ($2 schemas, $3 names) or OIDs ($4). The key's index: unique, whole,
/// checked at once, over columns that are never NULL.
pub fn tables(server_version: i32) -> String {
    let (filter, schemas) = match server_version {
        150_000.. => (
            "p.rowfilter",
            "UNION ALL SELECT s.oid FROM pg_publication_namespace s JOIN pg_class f ON f.relnamespace = s.pnnspid \
             WHERE s.pnpubid = b.oid AND f.oid IN (SELECT oid FROM family)",
        ),
        _ => ("NULL::text", ""),
    };
    // A partition is in it with any table above.
    let membership = format!(
        "(SELECT string_agg(m.oid::text, ' ' ORDER BY m.oid) FROM pg_publication b CROSS JOIN LATERAL ( \
           WITH family (oid) AS (SELECT c.oid UNION SELECT a.relid FROM pg_partition_ancestors(c.oid) AS a (relid)) \
           SELECT b.oid UNION ALL SELECT r.oid FROM pg_publication_rel r \
           WHERE r.prpubid = b.oid AND r.prrelid IN (SELECT oid FROM family) {schemas}) m WHERE b.pubname = $1)"
    );
    format!(
        "SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, c.relreplident::text, greatest(c.reltuples, 0)::int8, \
           has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), p.tablename IS NOT NULL, {filter}, \
           coalesce(k.columns, '[]'), row_security_active(c.oid), coalesce({membership}, '') \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_publication_tables p ON p.pubname = $1 AND p.schemaname = n.nspname AND p.tablename = c.relname \
         LEFT JOIN LATERAL ( \
           SELECT json_agg(json_build_object('name', a.attname, 'sql_type', {KEY_TYPE}, 'operators', {KEY_OPERATORS}) ORDER BY x.place)::text AS columns \
           FROM (SELECT i.* FROM pg_index i \
                 WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL \
                   AND i.indexprs IS NULL \
                   AND CASE c.relreplident WHEN 'i' THEN i.indisreplident WHEN 'f' THEN true ELSE i.indisprimary END \
                   AND NOT EXISTS (SELECT FROM pg_attribute a JOIN unnest(i.indkey) WITH ORDINALITY y(attnum, place) USING (attnum) \
                                   WHERE a.attrelid = c.oid AND y.place <= i.indnkeyatts AND NOT a.attnotnull) \
                 ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1) i \
           CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY x(attnum, place) \
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = x.attnum \
           WHERE x.place <= i.indnkeyatts) k ON true \
         WHERE c.relkind IN ('r', 'p') AND (p.tablename IS NOT NULL OR c.oid::int8 = ANY($4) \
           OR EXISTS (SELECT FROM unnest($2::text[], $3::text[]) w(s, t) WHERE w.s = n.nspname AND w.t = c.relname)) \
         ORDER BY n.nspname, c.relname"
    )
}

/// The type of `a`, a column of a key, with its collation where that is not the database's (whose OID is 100).
const KEY_TYPE: &str = "format_type(a.atttypid, a.atttypmod) || coalesce(( \
    SELECT format(' COLLATE %I.%I', n.nspname, l.collname) FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace \
    WHERE l.oid = a.attcollation AND l.oid <> 100), '')";

/// The operators by which `ORDER BY` sorts the column at place `x.place` of index `i`, unless all are PostgreSQL's own.
const KEY_OPERATORS: &str = "( \
    SELECT array_agg(format('OPERATOR(%I.%s)', s.nspname, r.oprname) ORDER BY p.amopstrategy) \
    FROM pg_opclass o JOIN pg_opclass d ON d.opcmethod = o.opcmethod AND d.opcintype = o.opcintype AND d.opcdefault \
    JOIN pg_amop p ON p.amopfamily = d.opcfamily AND p.amoplefttype = d.opcintype AND p.amoprighttype = d.opcintype \
    JOIN pg_operator r ON r.oid = p.amopopr JOIN pg_namespace s ON s.oid = r.oprnamespace \
    WHERE o.oid = i.indclass[x.place::int - 1] HAVING bool_or(s.nspname <> 'pg_catalog'))";

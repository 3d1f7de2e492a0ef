//! Types of PostgreSQL, values of theirs as SQL, and the JSON that each becomes.

/// A type, and its values: SQL, and the JSON in the topic.
pub struct Typed {
    pub sql_type: &'static str,
    pub values: &'static [(&'static str, &'static str)],
}

/// What the types below need.
pub const TYPES: &str = "
    CREATE EXTENSION hstore SCHEMA business; CREATE EXTENSION citext SCHEMA business;
    CREATE TYPE business.mood AS ENUM ('sad', 'ok', '非常 \"好\"');
    CREATE DOMAIN business.positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN business.note AS varchar(20);
    CREATE DOMAIN business.price AS numeric(12, 2);
    CREATE DOMAIN business.low_price AS business.price CHECK (VALUE < 100);
    CREATE DOMAIN business.moment AS timestamptz;
    CREATE DOMAIN business.document AS jsonb;
    CREATE DOMAIN business.feeling AS business.mood;
    CREATE DOMAIN business.moments AS timestamptz[];
    CREATE TYPE business.pair AS (a int, b text);
    CREATE TYPE business.nest AS (p business.pair, t timestamptz, n numeric);
    CREATE TYPE business.float_range AS RANGE (subtype = float8)";

const fn typed(sql_type: &'static str, values: &'static [(&'static str, &'static str)]) -> Typed {
    Typed { sql_type, values }
}

/// A null of JSON is written as JSON; the row then names its column.
pub const ALL: &[Typed] = &[
    // Numbers keep their text.
    typed("smallint", &[("-32768", "-32768"), ("32767", "32767"), ("0", "0")]),
    typed("integer", &[("-2147483648", "-2147483648"), ("2147483647", "2147483647")]),
    typed(
        "bigint",
        &[
            ("9007199254740993", "9007199254740993"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775807", "9223372036854775807"),
        ],
    ),
    typed(
        "numeric",
        &[
            ("0.00", "0.00"),
            ("5999.00", "5999.00"),
            ("-0.000000000000000000000000000001", "-0.000000000000000000000000000001"),
            (
                "123456789012345678901234567890123456789012345678901234567890.0123456789",
                "123456789012345678901234567890123456789012345678901234567890.0123456789",
            ),
            ("'NaN'", "\"NaN\""),
            ("'Infinity'", "\"Infinity\""),
            ("'-Infinity'", "\"-Infinity\""),
        ],
    ),
    typed("numeric(10,2)", &[("12.5", "12.50"), ("-99999999.99", "-99999999.99"), ("'NaN'", "\"NaN\"")]),
    typed(
        "real",
        &[
            ("'1.1'", "1.1"),
            ("'3.4028235e38'", "3.4028235e+38"),
            ("'1e-45'", "1e-45"),
            ("'-0'", "-0"),
            ("'NaN'", "\"NaN\""),
            ("'Infinity'", "\"Infinity\""),
            ("'-Infinity'", "\"-Infinity\""),
        ],
    ),
    typed(
        "double precision",
        &[
            ("'0.1'", "0.1"),
            ("'0.30000000000000004'", "0.30000000000000004"),
            ("'1.7976931348623157e308'", "1.7976931348623157e+308"),
            ("'5e-324'", "5e-324"),
            ("'-0'", "-0"),
            ("'123456789012345680'", "1.2345678901234568e+17"),
            ("'NaN'", "\"NaN\""),
            ("'Infinity'", "\"Infinity\""),
            ("'-Infinity'", "\"-Infinity\""),
        ],
    ),
    typed("oid", &[("'4294967295'", "4294967295"), ("'0'", "0")]),
    typed("boolean", &[("true", "true"), ("false", "false")]),
    // Texts.
    typed("\"char\"", &[("'a'", r#""a""#), ("''", r#""""#), (r"'\'", r#""\\""#)]),
    typed("char(5)", &[("'ab'", r#""ab   ""#), ("'北京'", r#""北京   ""#), ("''", r#""     ""#)]),
    typed("bpchar", &[("'ab  '", r#""ab  ""#)]),
    typed("varchar(20)", &[(r#"'a''b"c\'"#, r#""a'b\"c\\""#), ("' x '", r#"" x ""#)]),
    typed("name", &[("'Some Name'", r#""Some Name""#)]),
    typed(
        "text",
        &[
            (
                "(SELECT string_agg(chr(n), '' ORDER BY n) FROM generate_series(1, 31) n)",
                concat!(
                    r#""\u0001\u0002\u0003\u0004\u0005\u0006\u0007\u0008\t\n\u000b\u000c\r\u000e\u000f"#,
                    r#"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f""#
                ),
            ),
            ("chr(127)", "\"\u{7f}\""),
            ("''", r#""""#),
            (r"'\N'", r#""\\N""#),
            (r"'\.'", r#""\\.""#),
            ("'null'", r#""null""#),
            (r"E'a\tb\r\nc\\d\\te'", r#""a\tb\r\nc\\d\\te""#),
            ("'😀𠀀é'", r#""😀𠀀é""#),
            (r"E'\u2028\ufeff\uffff'", "\"\u{2028}\u{feff}\u{ffff}\""),
            (r#"'{"a":1}'"#, r#""{\"a\":1}""#),
        ],
    ),
    typed("bytea", &[(r"'\x00ff5c'", r#""\\x00ff5c""#), (r"'\x'", r#""\\x""#)]),
    // Times.
    typed(
        "date",
        &[
            ("'2025-07-11'", r#""2025-07-11""#),
            ("'infinity'", r#""infinity""#),
            ("'-infinity'", r#""-infinity""#),
            ("'4713-01-01 BC'", r#""4713-01-01 BC""#),
            ("'5874897-12-31'", r#""5874897-12-31""#),
        ],
    ),
    typed("time", &[("'24:00:00'", r#""24:00:00""#), ("'00:00:00.000001'", r#""00:00:00.000001""#)]),
    typed("timetz", &[("'24:00:00-15:59'", r#""24:00:00-15:59""#), ("'12:30:00.5+08'", r#""12:30:00.5+08""#)]),
    typed(
        "timestamp",
        &[
            ("'2025-07-11 17:25:55'", r#""2025-07-11 17:25:55.000""#),
            ("'2025-07-11 17:25:55.1'", r#""2025-07-11 17:25:55.100""#),
            ("'2025-07-11 17:25:55.123456'", r#""2025-07-11 17:25:55.123456""#),
            ("'294276-12-31 23:59:59.999999'", r#""294276-12-31 23:59:59.999999""#),
            ("'4713-01-01 00:00:00 BC'", r#""4713-01-01 00:00:00.000 BC""#),
            ("'infinity'", r#""infinity""#),
            ("'-infinity'", r#""-infinity""#),
        ],
    ),
    typed("timestamp(3)", &[("'2025-07-11 17:25:55.145'", r#""2025-07-11 17:25:55.145""#)]),
    typed(
        "timestamptz",
        &[
            ("'2025-07-11 17:25:55.145+08'", r#""2025-07-11 09:25:55.145Z""#),
            ("'0044-03-15 00:00:00+00 BC'", r#""0044-03-15 00:00:00.000Z BC""#),
            ("'294276-12-31 23:59:59.999999+00'", r#""294276-12-31 23:59:59.999999Z""#),
            ("'infinity'", r#""infinity""#),
            ("'-infinity'", r#""-infinity""#),
        ],
    ),
    typed(
        "interval",
        &[
            ("'-1 year -2 mons +3 days -04:05:06.789'", r#""-1 years -2 mons +3 days -04:05:06.789""#),
            ("'0'", r#""00:00:00""#),
            ("'P1M2D'", r#""1 mon 2 days""#),
            ("'178000000 years'", r#""178000000 years""#),
        ],
    ),
    // JSON is itself.
    typed(
        "json",
        &[
            ("'null'", "null"),
            (r#"'{"b" : 1, "a":2,"a":[]}'"#, r#"{"b" : 1, "a":2,"a":[]}"#),
            ("'1e400'", "1e400"),
            (r#"'"\u0041\ud83d\ude00"'"#, r#""\u0041\ud83d\ude00""#),
            ("E'{\\n\\t\"a\": [1, null]}'", "{\n\t\"a\": [1, null]}"),
            ("'true'", "true"),
            (r#"'"null"'"#, r#""null""#),
        ],
    ),
    typed(
        "jsonb",
        &[
            ("'null'", "null"),
            (r#"'{"b":1, "a":{"c":[null, 1.00]}}'"#, r#"{"a": {"c": [null, 1.00]}, "b": 1}"#),
            ("'12345678901234567890.10'", "12345678901234567890.10"),
            (r#"'"\u0041\ud83d\ude00"'"#, r#""A😀""#),
            ("'{}'", "{}"),
        ],
    ),
    typed("jsonpath", &[("'$.a[*] ? (@ > 1)'", r#""$.\"a\"[*]?(@ > 1)""#)]),
    typed("uuid", &[("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", r#""a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11""#)]),
    typed("xml", &[("'<a b=\"1\">x&amp;</a>'", r#""<a b=\"1\">x&amp;</a>""#)]),
    // Types of the database: a domain as the type beneath, all others as text.
    typed("business.mood", &[("'sad'", r#""sad""#), ("'非常 \"好\"'", r#""非常 \"好\"""#)]),
    typed("business.positive", &[("42", "42")]),
    typed("business.note", &[("'42'", r#""42""#)]),
    typed("business.price", &[("1", "1.00"), ("'NaN'", "\"NaN\"")]),
    typed("business.low_price", &[("99.9", "99.90")]),
    typed("business.moment", &[("'2025-07-11 17:25:55+08'", r#""2025-07-11 09:25:55.000Z""#)]),
    typed("business.document", &[("'null'", "null"), ("'[1]'", "[1]")]),
    typed("business.feeling", &[("'ok'", r#""ok""#)]),
    typed(
        "business.moments",
        &[("'{\"2025-07-11 17:25:55+08\",infinity}'", r#""{\"2025-07-11 09:25:55+00\",infinity}""#)],
    ),
    typed("business.pair", &[("ROW(1, 'x,\"y')", r#""(1,\"x,\"\"y\")""#), ("ROW(NULL, NULL)", r#""(,)""#)]),
    typed(
        "business.nest",
        &[(
            "ROW(ROW(1, '(')::business.pair, '2025-07-11 17:25:55+08'::timestamptz, 1.50)",
            r#""(\"(1,\"\"(\"\")\",\"2025-07-11 09:25:55+00\",1.50)""#,
        )],
    ),
    typed("business.hstore", &[("'a=>1,b=>NULL'", r#""\"a\"=>\"1\", \"b\"=>NULL""#)]),
    typed("business.citext", &[("'Abc'", r#""Abc""#)]),
    // Arrays, ranges.
    typed(
        "int[]",
        &[
            ("'{{1,2},{3,NULL}}'", r#""{{1,2},{3,NULL}}""#),
            ("'[0:1]={1,2}'", r#""[0:1]={1,2}""#),
            ("'{}'", r#""{}""#),
            ("'{NULL}'", r#""{NULL}""#),
        ],
    ),
    typed(
        "text[]",
        &[(
            r#"ARRAY['a,b', 'c"d', 'e\f', '', 'NULL', NULL, '北京', ' ']"#,
            r#""{\"a,b\",\"c\\\"d\",\"e\\\\f\",\"\",\"NULL\",NULL,北京,\" \"}""#,
        )],
    ),
    typed("numeric(8,2)[]", &[("'{1,NaN}'", r#""{1.00,NaN}""#)]),
    typed("timestamptz[]", &[("'{\"2025-07-11 17:25:55+08\"}'", r#""{\"2025-07-11 09:25:55+00\"}""#)]),
    typed("bytea[]", &[(r#"'{"\\x00ff"}'"#, r#""{\"\\\\x00ff\"}""#)]),
    typed("jsonb[]", &[(r#"ARRAY['null'::jsonb, NULL, '{"a":1}']"#, r#""{\"null\",NULL,\"{\\\"a\\\": 1}\"}""#)]),
    typed("business.mood[]", &[("'{sad,\"非常 \\\"好\\\"\"}'", r#""{sad,\"非常 \\\"好\\\"\"}""#)]),
    typed("business.positive[]", &[("'{1,2}'", r#""{1,2}""#)]),
    typed("business.pair[]", &[("ARRAY[ROW(1, 'x')::business.pair]", r#""{\"(1,x)\"}""#)]),
    typed("int4range", &[("'[1,5]'", r#""[1,6)""#), ("'empty'", r#""empty""#), ("'(,)'", r#""(,)""#)]),
    typed("numrange", &[("'(1.0,2.50]'", r#""(1.0,2.50]""#)]),
    typed("tstzrange", &[("'[2025-07-11 17:25:55+08,infinity)'", r#""[\"2025-07-11 09:25:55+00\",infinity)""#)]),
    typed("daterange", &[("'[2025-01-01,)'", r#""[2025-01-01,)""#)]),
    typed("business.float_range", &[("'[0.1,1e100)'", r#""[0.1,1e+100)""#)]),
    typed("int4multirange", &[("'{[5,7),[1,3)}'", r#""{[1,3),[5,7)}""#), ("'{}'", r#""{}""#)]),
    // Networks, bits, money.
    typed("inet", &[("'192.168.0.1/24'", r#""192.168.0.1/24""#), ("'::1'", r#""::1""#)]),
    typed("cidr", &[("'10.0.0.0/8'", r#""10.0.0.0/8""#)]),
    typed("macaddr", &[("'08-00-2B-01-02-03'", r#""08:00:2b:01:02:03""#)]),
    typed("macaddr8", &[("'08:00:2b:01:02:03:04:05'", r#""08:00:2b:01:02:03:04:05""#)]),
    typed("bit(3)", &[("B'101'", r#""101""#)]),
    typed("varbit", &[("B''", r#""""#), ("B'0010'", r#""0010""#)]),
    typed("money", &[("'-1234.56'", r#""-$1,234.56""#)]),
    // Search.
    typed("tsvector", &[("'a:1 fat:2,4A it''s'", r#""'a':1 'fat':2,4A 'it''s'""#)]),
    typed("tsquery", &[("'fat & (rat | !cat)'", r#""'fat' & ( 'rat' | !'cat' )""#)]),
    // Geometry.
    typed("point", &[("'(1.5,-0)'", r#""(1.5,-0)""#), ("'(NaN,Infinity)'", r#""(NaN,Infinity)""#)]),
    typed("line", &[("'{1,2,3}'", r#""{1,2,3}""#)]),
    typed("lseg", &[("'[(0,0),(1,1)]'", r#""[(0,0),(1,1)]""#)]),
    typed("box", &[("'((0,0),(1,1))'", r#""(1,1),(0,0)""#)]),
    typed("path", &[("'[(0,0),(1,1)]'", r#""[(0,0),(1,1)]""#), ("'((0,0),(1,1))'", r#""((0,0),(1,1))""#)]),
    typed("polygon", &[("'((0,0),(1,0.1),(1,1))'", r#""((0,0),(1,0.1),(1,1))""#)]),
    typed("circle", &[("'<(0,0),1e-7>'", r#""<(0,0),1e-07>""#)]),
    // What the server keeps for itself. Names come with their schema, but for the catalog's.
    typed(
        "regclass",
        &[("'business.orders'", r#""business.orders""#), ("'pg_class'", r#""pg_class""#), ("0", r#""-""#)],
    ),
    typed("regtype", &[("'business.mood'", r#""business.mood""#), ("'int'", r#""integer""#)]),
    typed("regproc", &[("'now'", r#""now""#)]),
    typed("xid", &[("'4294967295'", r#""4294967295""#)]),
    typed("xid8", &[("'18446744073709551615'", r#""18446744073709551615""#)]),
    typed("cid", &[("'7'", r#""7""#)]),
    typed("tid", &[("'(1,2)'", r#""(1,2)""#)]),
    typed("pg_lsn", &[("'16/B374D848'", r#""16/B374D848""#)]),
    typed("pg_snapshot", &[("'10:20:10,14'", r#""10:20:10,14""#)]),
    typed("int2vector", &[("'1 2 3'", r#""1 2 3""#)]),
    typed("oidvector", &[("'1 4294967295'", r#""1 4294967295""#)]),
];

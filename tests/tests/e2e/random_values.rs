//! Types, and random values of theirs as SQL.

use crate::random::Random;

/// A type, and what makes a value of it.
pub struct RandomType {
    pub sql_type: &'static str,
    pub value: fn(&mut Random) -> String,
}

const fn of(sql_type: &'static str, value: fn(&mut Random) -> String) -> RandomType {
    RandomType { sql_type, value }
}

/// Types of columns.
pub const COLUMNS: &[RandomType] = &[
    of("smallint", |random| integer(random, 1 << 15)),
    of("int", |random| integer(random, 1 << 31)),
    of("bigint", |random| format!("{}::bigint * 4294967296", integer(random, 1 << 31))),
    of("numeric", numeric),
    of("numeric(20,4)", |random| format!("{}::numeric / 10000", integer(random, 1 << 31))),
    of("real", float),
    of("double precision", float),
    of("boolean", |random| random.pick(&["true", "false"]).to_owned()),
    of("text", text),
    of("varchar(10)", |random| format!("left({}, 10)", text(random))),
    of("char(10)", |random| format!("left({}, 10)", text(random))),
    of("bytea", |random| format!("decode(md5('{}'), 'hex')", random.below(1_000))),
    of("date", |random| format!("date '2025-01-01' + {}", integer(random, 700_000))),
    of("time", |random| format!("time '00:00' + {} * interval '1 microsecond'", random.below(1 << 31))),
    of("timestamp", timestamp),
    of("timestamptz", timestamp),
    of("interval", |random| {
        format!(
            "make_interval(0, {}, 0, {}, 0, 0, {} / 1000.0)",
            integer(random, 99),
            integer(random, 99),
            integer(random, 99)
        )
    }),
    of("uuid", |random| format!("md5('{}')::uuid", random.below(1 << 31))),
    of("json", json),
    of("jsonb", json),
    of("inet", |random| format!("inet '10.0.0.0' + {}", random.below(1 << 24))),
    of("bit(8)", |random| format!("{}::bit(8)", random.below(256))),
    of("varbit", |random| format!("substring({}::bit(32), 1, {})", random.below(1 << 31), random.below(33))),
    of("money", |random| format!("({}::numeric / 100)::money", integer(random, 1 << 31))),
    of("point", |random| format!("point({}, {})", integer(random, 99), integer(random, 99))),
    of("business.mood", mood),
    of("business.mood[]", |random| format!("ARRAY[{}, NULL, {}]::business.mood[]", mood(random), mood(random))),
    of("business.price", |random| format!("{}::numeric / 100", integer(random, 1 << 31))),
    of("business.pair", pair),
    of("business.pair[]", |random| format!("ARRAY[{}::business.pair, NULL]", pair(random))),
    of("int[]", |random| format!("ARRAY[[{0}, NULL], [NULL, {0}]]", integer(random, 99))),
    of("text[]", |random| format!("ARRAY[{}, NULL, {}]", text(random), text(random))),
    of("int8range", |random| format!("int8range({}, {}, '(]')", -integer_below(random), integer_below(random))),
    of("tsvector", |random| format!("to_tsvector('simple', {})", text(random))),
];

/// Types of keys; a value of each may come twice.
pub const KEYS: &[RandomType] = &[
    of("bigint", |random| integer(random, 1 << 40)),
    of("int", |random| integer(random, 500)),
    of("text", |random| format!("{} || '{}'", short_text(random), random.below(200))),
    of("char(8)", |random| format!("left({}, 3) || '{}'", short_text(random), random.below(200))),
    of("numeric", |random| format!("{}::numeric / 100", integer(random, 20_000))),
    of("double precision", float),
    of("uuid", |random| format!("md5('{}')::uuid", random.below(500))),
    of("timestamptz", timestamp),
    of("date", |random| format!("date '2025-01-01' + {}", integer(random, 500))),
    of("bytea", |random| format!("decode(md5('{}'), 'hex')", random.below(500))),
    of("business.mood", mood),
    of("business.price", |random| format!("{}::numeric / 100", integer(random, 20_000))),
    of("int[]", |random| format!("ARRAY[{}, NULL, {}]", integer(random, 30), integer(random, 30))),
];

fn integer_below(random: &mut Random) -> i64 {
    i64::try_from(random.below(1 << 31)).unwrap()
}

/// Between -`end` and `end`, both left out, in SQL's brackets.
fn integer(random: &mut Random, end: usize) -> String {
    let sign = random.pick(&["", "-"]);
    format!("({sign}{})", random.below(end))
}

fn numeric(random: &mut Random) -> String {
    match random.below(8) {
        0 => random.pick(&["'NaN'", "'Infinity'", "'-Infinity'", "0.000"]).to_owned(),
        _ => format!("{}::numeric * (10::numeric ^ {})", integer(random, 1 << 31), integer(random, 30)),
    }
}

fn float(random: &mut Random) -> String {
    match random.below(8) {
        0 => random.pick(&["'NaN'", "'Infinity'", "'-Infinity'", "'-0'"]).to_owned(),
        _ => format!("({}::float8 / {})::float4", integer(random, 1 << 31), 1 + random.below(1 << 20)),
    }
}

fn timestamp(random: &mut Random) -> String {
    match random.below(16) {
        0 => random.pick(&["'infinity'", "'-infinity'", "'0044-03-15 12:00:00 BC'"]).to_owned(),
        _ => format!(
            "timestamp '2025-07-11 17:25:55' + {} * interval '{}'",
            integer(random, 1 << 31),
            random.pick(&["1 microsecond", "100 milliseconds", "1 second"])
        ),
    }
}

const LETTERS: [&str; 14] = ["a", "B", " ", "京", "😀", r"\t", r"\n", r"\r", r"\\", r"\'", "\"", r"\x01", "N", ","];

fn short_text(random: &mut Random) -> String {
    let letters: String = (0..random.below(8)).map(|_| random.pick(&LETTERS)).collect();
    format!("E'{letters}'")
}

/// Now and then one that is too large to stand in its row.
fn text(random: &mut Random) -> String {
    match random.below(12) {
        0 => format!("(SELECT string_agg(md5(n::text), {}) FROM generate_series(1, 120) n)", short_text(random)),
        _ => short_text(random),
    }
}

fn json(random: &mut Random) -> String {
    match random.below(6) {
        0 => "'null'".to_owned(),
        1 => format!("to_json({}::text)::text::json", text(random)),
        2 => format!("'[ {0}, {{\"a\" :{0}.00}}, null ]'", random.below(1_000)),
        _ => format!(
            "json_build_object('k', {}, 'é' || {}, {}::text)",
            integer(random, 1_000),
            text(random),
            text(random)
        ),
    }
}

fn mood(random: &mut Random) -> String {
    random.pick(&["'sad'", "'ok'", "'非常 \"好\"'"]).to_owned()
}

fn pair(random: &mut Random) -> String {
    format!("ROW({}, {})", random.pick(&["NULL", "7"]), text(random))
}

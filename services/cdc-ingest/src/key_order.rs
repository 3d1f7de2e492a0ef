//! Keys held against each other in SQL, in the order that their index has.
//!
//! Row comparisons find operators by the search path, which is that of PostgreSQL's own types alone. The operators of other types (citext,
//! ltree, isn) are named one by one: with those of the types beneath, the order would be another one, and rows would be passed over.

use shared::pg::quoted;

use crate::catalog::KeyColumn;

/// How one key stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    AtMost,
    AtLeast,
    Above,
}

/// Places in [`KeyColumn::operators`].
const LESS: usize = 0;
const AT_MOST: usize = 1;
const EQUAL: usize = 2;
const AT_LEAST: usize = 3;
const ABOVE: usize = 4;

impl Order {
    /// Of the last column, and of those before it: without and with what is equal.
    fn places(self) -> (usize, usize, usize) {
        match self {
            Order::AtMost => (AT_MOST, LESS, AT_MOST),
            Order::AtLeast => (AT_LEAST, ABOVE, AT_LEAST),
            Order::Above => (ABOVE, ABOVE, AT_LEAST),
        }
    }
}

fn operator(column: &KeyColumn, place: usize) -> &str {
    const OWN: [&str; 5] = ["<", "<=", "=", ">=", ">"];
    let named = column.operators.as_ref().and_then(|operators| operators.get(place)).map(String::as_str);
    named.or(OWN.get(place).copied()).unwrap_or("=")
}

/// A value of a key's column as SQL.
pub fn literal(value: &str, column: &KeyColumn) -> String {
    format!("'{}'::{}", value.replace('\'', "''"), column.sql_type)
}

/// The values of a key as SQL.
pub fn literals(values: &[String], key: &[KeyColumn]) -> String {
    values.iter().zip(key).map(|(value, column)| literal(value, column)).collect::<Vec<_>>().join(", ")
}

/// Whether `fields`, the columns of the key in SQL, stand so to `values`.
pub fn compare(key: &[KeyColumn], fields: &[String], order: Order, values: &[String]) -> String {
    let literals: Vec<String> = values.iter().zip(key).map(|(value, column)| literal(value, column)).collect();
    let (last, strictly, loosely) = order.places();
    if key.iter().all(|column| column.operators.is_none()) {
        let operator = key.first().map_or("=", |column| operator(column, last));
        return format!("({}) {operator} ({})", fields.join(", "), literals.join(", "));
    }
    let columns = key.iter().zip(fields).zip(&literals).rev();
    columns.fold(String::new(), |behind, ((column, field), literal)| {
        let side = |place| format!("{field} {} {literal}", operator(column, place));
        match behind.is_empty() {
            true => side(last),
            false => format!("{} AND ({} OR ({behind}))", side(loosely), side(strictly)),
        }
    })
}

/// Whether a row of the table has this key.
pub fn is_key(key: &[KeyColumn], values: &[String]) -> String {
    let same = |(column, value): (&KeyColumn, &String)| {
        format!("{} {} {}", quoted(&column.name), operator(column, EQUAL), literal(value, column))
    };
    key.iter().zip(values).map(same).collect::<Vec<_>>().join(" AND ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn citext() -> KeyColumn {
        let operators = ["<", "<=", "=", ">=", ">"].map(|operator| format!("OPERATOR(s.{operator})"));
        KeyColumn { operators: Some(operators), ..KeyColumn::new("c", "s.citext") }
    }

    fn compared(key: &[KeyColumn], order: Order) -> String {
        let fields: Vec<String> = key.iter().map(|column| column.name.clone()).collect();
        compare(key, &fields, order, &["x".into(), "1".into()])
    }

    #[test]
    fn keys_of_own_types_are_compared_as_rows() {
        let key = [KeyColumn::new("a", "text"), KeyColumn::new("n", "int")];
        assert_eq!(compared(&key, Order::Above), "(a, n) > ('x'::text, '1'::int)");
        assert_eq!(compared(&key, Order::AtMost), "(a, n) <= ('x'::text, '1'::int)");
    }

    #[test]
    fn other_types_are_compared_by_operators_of_their_own() {
        let key = [citext(), KeyColumn::new("n", "int")];
        assert_eq!(
            compared(&key, Order::Above),
            "c OPERATOR(s.>=) 'x'::s.citext AND (c OPERATOR(s.>) 'x'::s.citext OR (n > '1'::int))"
        );
        assert_eq!(
            compared(&key, Order::AtMost),
            "c OPERATOR(s.<=) 'x'::s.citext AND (c OPERATOR(s.<) 'x'::s.citext OR (n <= '1'::int))"
        );
        assert_eq!(compared(&key[..1], Order::AtLeast), "c OPERATOR(s.>=) 'x'::s.citext");
        assert_eq!(
            is_key(&key, &["it's".into(), "1".into()]),
            "\"c\" OPERATOR(s.=) 'it''s'::s.citext AND \"n\" = '1'::int"
        );
    }
}

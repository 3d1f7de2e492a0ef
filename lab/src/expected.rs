//! What a row of the sink must hold, value by value, for an order and its user as they stand in the source.
//!
//! The rules of cleaning and joining are written here a second time, on purpose: a check that shares the code it checks
//! proves nothing. They are the services' defaults. Values are PostgreSQL's text form.

use std::fmt;

/// The sink's columns that are held against the source, in the order of [`expected`].
pub const COLUMNS: [&str; 23] = [
    "order_id",
    "user_id",
    "product_name",
    "product_category",
    "quantity",
    "unit_price",
    "total_amount",
    "order_status",
    "order_time",
    "updated_at",
    "product_category_normalized",
    "total_amount_yuan",
    "order_status_desc",
    "order_date",
    "order_hour",
    "username",
    "email",
    "phone",
    "city",
    "user_register_time",
    "user_city_tier",
    "etl_time",
    "join_time",
];

/// A value in text form; `None` is NULL.
pub type Value = Option<String>;

/// An order of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderRow {
    pub order_id: Value,
    pub user_id: Value,
    pub product_name: Value,
    pub product_category: Value,
    pub quantity: Value,
    pub unit_price: Value,
    pub total_amount: Value,
    pub order_status: Value,
    pub order_time: Value,
    pub updated_at: Value,
}

/// A user of the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRow {
    pub username: Value,
    pub email: Value,
    pub phone: Value,
    pub city: Value,
    pub register_time: Value,
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Exactly(Value),
    /// What is made in the pipeline and cannot be foretold here.
    Something,
}

impl Wanted {
    pub fn accepts(&self, found: &Value) -> bool {
        match self {
            Wanted::Exactly(value) => value == found,
            Wanted::Something => found.as_deref().is_some_and(|text| !text.is_empty()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Exactly(value) => f.write_str(value.as_deref().unwrap_or("NULL")),
            Wanted::Something => f.write_str("a value that is not empty"),
        }
    }
}

fn exactly(text: &str) -> Wanted {
    Wanted::Exactly(Some(text.to_owned()))
}

/// The values of [`COLUMNS`] for an order and its user; `None` is a user that the source does not have.
pub fn expected(order: OrderRow, user: Option<UserRow>) -> Vec<Wanted> {
    let category = category_wanted(order.product_category.as_deref());
    let amount = Wanted::Exactly(order.total_amount.as_deref().map(|amount| format!("¥{amount}")));
    let status = status_wanted(order.order_status.as_deref());
    let (date, hour) = date_and_hour(order.order_time.as_deref());
    let as_it_is = [
        order.order_id,
        order.user_id,
        order.product_name,
        order.product_category,
        order.quantity,
        order.unit_price,
        order.total_amount,
        order.order_status,
        order.order_time,
        order.updated_at,
    ];
    let mut wanted: Vec<Wanted> = as_it_is.into_iter().map(Wanted::Exactly).collect();
    wanted.extend([category, amount, status, Wanted::Exactly(date), Wanted::Exactly(hour)]);
    wanted.extend(user_wanted(user));
    wanted.extend([Wanted::Something, Wanted::Something]);
    wanted
}

fn category_wanted(category: Option<&str>) -> Wanted {
    match category {
        Some("电子产品") => exactly("ELECTRONICS"),
        Some("服装鞋帽") => exactly("CLOTHING"),
        _ => Wanted::Something,
    }
}

fn status_wanted(status: Option<&str>) -> Wanted {
    match status {
        Some("PENDING") => exactly("待处理"),
        Some("SHIPPED") => exactly("已发货"),
        Some("COMPLETED") => exactly("已完成"),
        _ => Wanted::Something,
    }
}

/// `2025-07-11 07:25:55.145` is `2025-07-11` and `7`. PostgreSQL writes the era of old times behind them.
fn date_and_hour(order_time: Option<&str>) -> (Value, Value) {
    let Some((date, time)) = order_time.and_then(|text| text.split_once(' ')) else { return (None, None) };
    let era = if time.ends_with(" BC") { " BC" } else { "" };
    let hour = time.split(':').next().and_then(|hour| hour.parse::<u8>().ok());
    (Some(format!("{date}{era}")), hour.map(|hour| hour.to_string()))
}

/// username, email, phone, city, user_register_time, user_city_tier.
fn user_wanted(user: Option<UserRow>) -> [Wanted; 6] {
    let Some(user) = user else {
        let null = || Wanted::Exactly(None);
        return [exactly("Unknown User"), exactly("unknown@example.com"), null(), null(), null(), null()];
    };
    let tier = match user.city.as_deref() {
        Some("北京" | "上海" | "广州" | "深圳") => exactly("一线城市"),
        Some(_) => Wanted::Something,
        None => Wanted::Exactly(None),
    };
    [
        Wanted::Exactly(user.username),
        Wanted::Exactly(user.email),
        Wanted::Exactly(user.phone),
        Wanted::Exactly(user.city),
        Wanted::Exactly(user.register_time),
        tier,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Some(value.to_owned())
    }

    fn order() -> OrderRow {
        OrderRow {
            product_category: text("电子产品"),
            total_amount: text("5999.00"),
            order_status: text("COMPLETED"),
            order_time: text("2025-07-11 07:25:55.145"),
            ..OrderRow::default()
        }
    }

    fn wanted_of(column: &str, user: Option<UserRow>) -> Wanted {
        let at = COLUMNS.iter().position(|name| *name == column).unwrap();
        expected(order(), user)[at].clone()
    }

    #[test]
    fn each_column_has_its_value() {
        assert_eq!(expected(order(), None).len(), COLUMNS.len());
        let user = UserRow { username: text("张三"), city: text("北京"), ..UserRow::default() };
        let wanted = [
            ("product_category_normalized", "ELECTRONICS"),
            ("total_amount_yuan", "¥5999.00"),
            ("order_status_desc", "已完成"),
            ("order_date", "2025-07-11"),
            ("order_hour", "7"),
            ("username", "张三"),
            ("user_city_tier", "一线城市"),
        ];
        for (column, value) in wanted {
            assert_eq!(wanted_of(column, Some(user.clone())), exactly(value), "{column}");
        }
        assert_eq!(wanted_of("phone", Some(user)), Wanted::Exactly(None));
    }

    #[test]
    fn an_unknown_user_has_the_defaults() {
        assert_eq!(wanted_of("username", None), exactly("Unknown User"));
        assert_eq!(wanted_of("email", None), exactly("unknown@example.com"));
        assert_eq!(wanted_of("user_city_tier", None), Wanted::Exactly(None));
    }

    #[test]
    fn something_is_neither_null_nor_empty() {
        assert!(Wanted::Something.accepts(&text("x")));
        assert!(!Wanted::Something.accepts(&text("")));
        assert!(!Wanted::Something.accepts(&None));
    }
}

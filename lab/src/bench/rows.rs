//! The rows that topics are filled with, as cdc-ingest writes those of `postgres_source/init`.

use crate::random::Random;

const CITIES: [&str; 6] = ["北京", "上海", "杭州", "成都", "丽江", "深圳"];

/// Product, category, the category's name after cleaning.
const PRODUCTS: [(&str, &str, &str); 3] = [
    ("iPhone 15 Pro 256GB", "电子产品", "ELECTRONICS"),
    ("羽绒服 男款 加厚", "服装鞋帽", "CLOTHING"),
    ("咖啡机 全自动", "家用电器", "OTHER"),
];

/// Status, its text after cleaning.
const STATUSES: [(&str, &str); 3] = [("PENDING", "待处理"), ("SHIPPED", "已发货"), ("COMPLETED", "已完成")];

fn nth<T: Copy + Default>(list: &[T], number: u32) -> T {
    list.get(number as usize % list.len().max(1)).copied().unwrap_or_default()
}

pub fn city(user: u32) -> &'static str {
    nth(&CITIES, user)
}

/// A user.
pub fn user(user: u32) -> String {
    format!(
        "{{\"user_id\":{user},\"username\":\"用户{user}\",\"email\":\"user{user}@example.com\",\"phone\":\"139{user:08}\",\
         \"city\":\"{}\",\"register_time\":\"2025-07-11 17:25:55.143\",\"updated_at\":\"2025-07-11 17:25:55.143\"}}",
        city(user)
    )
}

/// An order, its numbers as text with two digits behind the point.
pub fn order(order: u32, users: u32) -> String {
    let (product, category, _) = nth(&PRODUCTS, order);
    let (status, _) = nth(&STATUSES, order / 3);
    let (quantity, price, total) = (order % 5 + 1, price(order), total(order));
    let time = format!("2025-07-{:02} {:02}:{:02}:55.145", order % 28 + 1, order % 24, order % 60);
    format!(
        "{{\"order_id\":{order},\"user_id\":{},\"product_name\":\"{product}\",\"product_category\":\"{category}\",\
         \"quantity\":{quantity},\"unit_price\":{price},\"total_amount\":{total},\"order_status\":\"{status}\",\
         \"order_time\":\"{time}\",\"updated_at\":\"{time}\"}}",
        order % users.max(1)
    )
}

/// The row with a further column of so many letters, which do not repeat; 0: the row as it is.
pub fn with_note(row: String, bytes: usize) -> String {
    if bytes == 0 {
        return row;
    }
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
    let seed = row.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut random = Random::seeded(seed);
    let note: String = (0..bytes).map(|_| char::from(random.pick(LETTERS))).collect();
    format!("{},\"note\":\"{note}\"}}", row.trim_end_matches('}'))
}

/// What dwd-cleaner puts behind the columns of an order.
pub fn cleaned(order: u32) -> String {
    let (_, _, category) = nth(&PRODUCTS, order);
    let (_, status) = nth(&STATUSES, order / 3);
    format!(
        ",\"product_category_normalized\":\"{category}\",\"total_amount_yuan\":\"¥{}\",\"order_status_desc\":\"{status}\",\
         \"order_date\":\"2025-07-{:02}\",\"order_hour\":{},\"etl_time\":\"2025-07-12 02:32:59.555\"",
        total(order),
        order % 28 + 1,
        order % 24
    )
}

fn cents(order: u32) -> u32 {
    order.wrapping_mul(37) % 999_999 + 1
}

fn amount(cents: u32) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn price(order: u32) -> String {
    amount(cents(order))
}

fn total(order: u32) -> String {
    amount(cents(order) * (order % 5 + 1))
}

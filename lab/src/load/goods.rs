//! The orders and users of a load: all different enough to tell one from another, and the same in every run.

use crate::changes::{LIFE_MS, Order, User};

/// The users of loads have ids from here, above those of people.
const FIRST_USER_ID: i64 = 1_000_000;

const CITIES: [&str; 8] = ["北京", "上海", "广州", "深圳", "杭州", "成都", "武汉", "西安"];
const FAMILY_NAMES: [&str; 10] = ["王", "李", "张", "刘", "陈", "杨", "黄", "赵", "吴", "周"];
const GIVEN_NAMES: [&str; 7] = ["伟", "芳", "娜", "秀英", "敏", "静", "志强"];
const PRODUCTS: [(&str, &str); 6] = [
    ("iPhone 15", "电子产品"),
    ("羽绒服", "服装鞋帽"),
    ("蓝牙耳机 \"Pro\"", "电子产品"),
    ("咖啡机", "家用电器"),
    ("运动鞋", "服装鞋帽"),
    ("三体\\全集", "图书音像"),
];

/// The n-th of a list, around and around.
fn nth<T: Copy + Default>(list: &[T], n: u32) -> T {
    list.get(n as usize % list.len()).copied().unwrap_or_default()
}

pub fn users(count: u32) -> Vec<User> {
    let user = |n: u32| User {
        user_id: FIRST_USER_ID + i64::from(n),
        username: format!("{}{}{n}", nth(&FAMILY_NAMES, n), nth(&GIVEN_NAMES, n)),
        email: format!("load{n}@example.com"),
        phone: format!("139{n:08}"),
        city: nth(&CITIES, n),
    };
    (0..count).map(user).collect()
}

/// Orders one millisecond apart, so long ago that the last has been through its life by `now_ms`.
pub fn orders(first_id: i64, count: u32, users: u32, now_ms: i64) -> Vec<Order> {
    let first_time_ms = now_ms - LIFE_MS - i64::from(count);
    let order = |n: u32| {
        let (product, product_category) = nth(&PRODUCTS, n);
        Order {
            order_id: first_id + i64::from(n),
            user_id: FIRST_USER_ID + i64::from(n % users),
            product_name: format!("{product} {n}"),
            product_category,
            quantity: i32::try_from(n % 5).unwrap_or_default() + 1,
            unit_price_cents: i64::from(n) * 37 % 999_999 + 1,
            order_time_ms: first_time_ms + i64::from(n),
        }
    };
    (0..count).map(order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_an_order_among_the_first_and_no_time_lies_ahead() {
        let (users, orders) = (users(3), orders(2006, 10, 3, 1_000_000));
        let buyers: Vec<_> = orders[..3].iter().map(|order| order.user_id).collect();
        assert_eq!(buyers, users.iter().map(|user| user.user_id).collect::<Vec<_>>());
        assert!(orders.iter().all(|order| order.order_time_ms + LIFE_MS < 1_000_000));
        assert_eq!(orders.last().unwrap().order_id, 2015);
    }
}

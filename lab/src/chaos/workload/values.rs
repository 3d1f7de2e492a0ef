//! Random values of orders and users, as SQL. Each is one that the cleaner's default rules take.

use crate::random::Random;

/// The statuses that the rules have words for.
const STATUSES: [&str; 7] = ["PENDING", "PAID", "SHIPPED", "DELIVERED", "COMPLETED", "CANCELLED", "REFUNDED"];

/// Those of the rules, one that they do not know, and none.
const CATEGORIES: [&str; 7] = ["'电子产品'", "'服装鞋帽'", "'家居用品'", "'图书音像'", "'母婴用品'", "'古董'", "NULL"];

const PRODUCTS: [&str; 10] = [
    "iPhone 15",
    "羽绒服",
    "蓝牙耳机 \"Pro\"",
    "三体\\全集",
    "O'Reilly",
    "两行\n的名字",
    "tab\there",
    "🎁 礼物",
    "",
    "{\"order_id\":1}",
];

const CITIES: [&str; 9] = ["'北京'", "'上海'", "'广州'", "'深圳'", "'杭州'", "'成都'", "'丽江'", "''", "NULL"];

const FAMILY_NAMES: [&str; 8] = ["王", "李", "张", "刘", "陈", "欧阳", "O'Neil", "赵\\"];

/// A text as SQL has it.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub fn status(random: &mut Random) -> String {
    quoted(random.pick(&STATUSES))
}

pub fn category(random: &mut Random) -> &'static str {
    random.pick(&CATEGORIES)
}

/// Now and then a long one.
pub fn product(random: &mut Random) -> String {
    if random.one_in(30) {
        return quoted(&"长".repeat(200));
    }
    quoted(&format!("{} {}", random.pick(&PRODUCTS), random.below(100_000)))
}

pub fn city(random: &mut Random) -> &'static str {
    random.pick(&CITIES)
}

pub fn username(random: &mut Random) -> String {
    quoted(&format!("{}{}", random.pick(&FAMILY_NAMES), random.below(1_000_000)))
}

/// `NULL`, or an address.
pub fn email(random: &mut Random) -> String {
    if random.one_in(10) { "NULL".to_owned() } else { quoted(&format!("u{}@example.com", random.below(1_000_000))) }
}

/// `NULL`, or a number.
pub fn phone(random: &mut Random) -> String {
    if random.one_in(10) { "NULL".to_owned() } else { quoted(&format!("139{:08}", random.below(100_000_000))) }
}

/// Quantity, unit price, and their product.
pub fn amounts(random: &mut Random) -> [String; 3] {
    let (quantity, cents) = (random.below(20) + 1, random.below(999_999));
    let money = |cents: usize| format!("{}.{:02}", cents / 100, cents % 100);
    [quantity.to_string(), money(cents), money(quantity * cents)]
}

/// A moment of the last years, to the millisecond.
pub fn time(random: &mut Random) -> String {
    const SECONDS: usize = 3 * 365 * 86_400;
    format!("timestamp '2023-01-01' + interval '{} s' + interval '{} ms'", random.below(SECONDS), random.below(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_leave_its_quotes() {
        assert_eq!(quoted("O'Reilly\\"), "'O''Reilly\\'");
    }

    #[test]
    fn the_amount_is_the_product() {
        let mut random = Random::seeded(5);
        for _ in 0..1_000 {
            let cents = |money: &str| money.replace('.', "").parse::<u64>().unwrap();
            let [quantity, price, amount] = amounts(&mut random);
            assert_eq!(
                quantity.parse::<u64>().unwrap() * cents(&price),
                cents(&amount),
                "{quantity} of {price}: {amount}"
            );
        }
    }
}

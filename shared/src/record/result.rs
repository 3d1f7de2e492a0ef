//! The third layer: the order with its user. dim-joiner appends these columns to the cleaned row.

pub const USERNAME: &str = "username";
pub const EMAIL: &str = "email";
pub const PHONE: &str = "phone";
pub const CITY: &str = "city";
pub const USER_REGISTER_TIME: &str = "user_register_time";
/// `一线城市` and the like.
pub const USER_CITY_TIER: &str = "user_city_tier";
/// When the row was joined, UTC.
pub const JOIN_TIME: &str = "join_time";

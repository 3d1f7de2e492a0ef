//! The first layer: rows as they are in the source, written by cdc-ingest.
//!
//! Here stand the columns that a later stage reads. A table may have any others: they travel untouched.

/// Columns of `business.orders` that the pipeline names.
pub mod orders {
    pub const ORDER_ID: &str = "order_id";
    pub const USER_ID: &str = "user_id";
    pub const PRODUCT_CATEGORY: &str = "product_category";
    pub const TOTAL_AMOUNT: &str = "total_amount";
    pub const ORDER_STATUS: &str = "order_status";
    pub const ORDER_TIME: &str = "order_time";
}

/// Columns of `business.users` that the pipeline names.
pub mod users {
    pub const USER_ID: &str = "user_id";
    pub const USERNAME: &str = "username";
    pub const EMAIL: &str = "email";
    pub const PHONE: &str = "phone";
    pub const CITY: &str = "city";
    pub const REGISTER_TIME: &str = "register_time";
}

//! The second layer: the order, cleaned. dwd-cleaner appends these columns to the ODS row.

/// The category's code: `ELECTRONICS`.
pub const PRODUCT_CATEGORY_NORMALIZED: &str = "product_category_normalized";
/// The amount with its currency: `¥5999.00`.
pub const TOTAL_AMOUNT_YUAN: &str = "total_amount_yuan";
/// The status in words: `已完成`.
pub const ORDER_STATUS_DESC: &str = "order_status_desc";
/// The date of `order_time`: `2025-07-11`.
pub const ORDER_DATE: &str = "order_date";
/// The hour of `order_time`: 0 to 23.
pub const ORDER_HOUR: &str = "order_hour";
/// When the row was cleaned, UTC.
pub const ETL_TIME: &str = "etl_time";

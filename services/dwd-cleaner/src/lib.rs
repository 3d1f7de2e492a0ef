//! dwd-cleaner: captured orders become clean orders.
//!
//! ```text
//!  ods_orders ──▶ reader ──Batch──▶ CleanerActor ──Outgoing──▶ Publisher ──▶ dwd_orders
//!                                        │ rules                   └───────▶ dlq_dwd_cleaner
//! ```

pub mod settings;

pub mod rules;

pub mod cleaner;
pub mod pipeline;

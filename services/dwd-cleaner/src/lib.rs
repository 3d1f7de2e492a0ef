//! dwd-cleaner: captured orders become clean orders.
//!
//! ```text
//!  ods_orders ──▶ reader ──Batch──▶ CleanerActor ──Outgoing──▶ Publisher ──▶ dwd_orders
//!                                        │ rules                   └───────▶ dlq_dwd_cleaner
//! ```

// What the settings say.
pub mod rule;
pub mod settings;

// What values are, and what is done to them.
mod decimal;
mod fold;
mod moment;
mod personal;

// A row through the rules.
pub mod action;
pub mod plan;
pub mod rules;

pub mod cleaner;
pub mod pipeline;

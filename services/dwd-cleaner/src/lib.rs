//! dwd-cleaner: captured rows become clean rows.
//!
//! ```text
//!  ods_orders ──▶ reader ──Batch──▶ CleanerActor ──Outgoing──▶ Publisher ──▶ dwd_orders
//!                                    │ Plan   ▲                    └───────▶ dlq_dwd_cleaner
//!                                             └──── Replay ◀── the letters of a range ─┘
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
pub mod made;
pub mod plan;
pub mod rules;

// What becomes of the rows.
pub mod cleaner;
pub mod put_back;
pub mod quality;

// The chain.
pub mod letters;
pub mod pipeline;
pub mod replay;
pub mod worker;

// What a person asks.
pub mod check;
pub mod commands;
pub mod explain;

#[cfg(test)]
mod documented;

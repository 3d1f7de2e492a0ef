//! dim-joiner: facts meet the rows of their dimensions.
//!
//! ```text
//!  ods_users ───▶ row source ────┐ (whole, in every instance, before the first fact; one for each dimension)
//!                                ▼
//!  dwd_orders ──▶ reader ──▶ JoinerActor ──Outgoing──▶ Publisher ──▶ result_orders_with_user_info
//!                             │ dimensions · facts · lane└─────▶ dlq_dim_joiner        │
//!                             ▲                                                        │
//!                             └── facts thread ◀── older facts, while fresh ones ◀─────┘
//!                                                  are joined already
//! ```

pub mod check;
pub mod plan;
pub mod settings;

pub mod source;

#[cfg(feature = "fluss")]
pub mod fluss_table;

pub mod event_time;
pub mod fact;
pub mod names;
pub mod taken;

pub mod hashes;
pub mod numbers;

pub mod dimension;

pub mod disk;
pub mod facts;
pub mod forgotten;
pub mod read_back;
pub mod room;
pub mod shapes;
pub mod slots;

pub mod ahead;
pub mod intake;
pub mod missing;
pub mod pace;
pub mod reemit;
pub mod waiting;

pub mod join;

pub mod joiner;
pub mod pipeline;

//! dim-joiner: clean orders meet their users.
//!
//! ```text
//!  ods_users ───▶ table thread ──┐ (whole, in every instance, before the first order)
//!                                ▼
//!  dwd_orders ──▶ reader ──▶ JoinerActor ──Outgoing──▶ Publisher ──▶ result_orders_with_user_info
//!                             │ users · orders · lane        └─────▶ dlq_dim_joiner    │
//!                             ▲                                                        │
//!                             └── orders thread ◀── older orders, while fresh ones ◀───┘
//!                                                   are joined already
//! ```

pub mod settings;

pub mod shapes;

pub mod orders;
pub mod read_back;
pub mod users;

pub mod reemit;

pub mod join;

pub mod joiner;
pub mod pipeline;

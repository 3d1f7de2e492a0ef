//! One way from a topic to the next: a service that takes it, and what the way costs at least, a process that only copies.
//!
//! ```text
//!  prefill ──▶ ods_orders ──▶ dwd-cleaner ──▶ dwd_orders ──▶ dim-joiner ──▶ results ──▶ pg-sinker (see `stages/sink`)
//!                  └──▶ forward ──▶ bench_copy    └──▶ forward ──▶ bench_copy
//!                            └ watch: rows a second, processor time, memory ┘
//! ```
//!
//! The services run with their defaults, so each way's last output is the next way's input.

mod broker;
mod watch;

pub mod forward;

mod course;
mod entrant;
mod prefill;
mod profile;
mod results;

pub use self::broker::Broker;
pub use self::course::{Course, Hop, stop};
pub use self::entrant::{Entrant, ServiceVariant};
pub use self::prefill::{Load, orders, users};
pub use self::results::{LEGEND, Results, Run, ratio};
pub use self::watch::Figures;
pub(crate) use self::watch::{Through, watch};

//! One way from a topic to the next: a service that takes it, and raw clients that read it, write it, and copy it unchanged: what the
//! way costs at least.
//!
//! ```text
//!  prefill ──▶ ods_orders ──▶ dwd-cleaner ──▶ dwd_orders ──▶ dim-joiner ──▶ results ──▶ pg-sinker (see `stages/sink`)
//!                  └────▶ raw ────▶ bench_copy    └────▶ raw ────▶ bench_copy
//!                            └ watch: rows a second, processor time, memory ┘
//! ```
//!
//! The services run with their defaults, so each way's last output is the next way's input.

mod broker;
mod watch;

pub mod raw;

mod consumed;
mod course;
mod entrant;
mod prefill;
mod profile;
mod results;

pub use self::broker::Broker;
pub use self::course::{Course, Hop, stop};
pub use self::entrant::{Entrant, ServiceVariant};
pub use self::prefill::{Load, orders, users};
pub use self::raw::{Allocator, Task};
pub use self::results::{LEGEND, Results, Run, ratio};
pub use self::watch::Figures;
pub(crate) use self::watch::{Through, watch};

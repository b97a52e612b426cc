//! Words that both mail protocols share: addresses in the one form every table is keyed by,
//! SMTP replies, and text that is safe to print. No I/O.

mod address;
mod canonical;
pub(crate) mod quoting;
mod reply;
mod text;

pub(crate) use address::is_control;
pub use address::{Address, AddressError, MAX_ADDRESS_BYTES};
pub(crate) use canonical::push_domain;
pub use canonical::{Canonical, Rewriting, is_domain};
pub use reply::{Reply, ReplyCode, ReplyError};
pub use text::Printable;

//! The way of a message, told by the mail logs: which lines belong to it, across queue ids, SES's ids and hosts, and
//! what they say in their order. `gatepost trace` prints it.

pub mod follow;
mod fresh;
pub mod glob;
mod join;
mod journal;
mod query;
mod scan;
mod search;
mod source;
mod tail;
mod tell;
#[cfg(test)]
mod tests;

pub use join::join;
pub use journal::JournalTail;
pub use query::Query;
pub use scan::{Window, scan_all};
pub use search::{Found, MAX_KEPT_BYTES, Search};
pub use source::{Logs, Unread};
pub use tail::Tail;
pub use tell::{Journey, Recipient, Station, tell_one};

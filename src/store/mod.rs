//! The embedded store: one SQLite database with the suppression list, the tombstones of what an
//! operator removed, and the change feed by which the index of a running daemon follows every
//! change, its own and another process's. A change and its line in the feed are one transaction.
//!
//! WAL with `synchronous = FULL`: what was acknowledged survives a power cut, readers never wait
//! for the writer. SQLite lets one writer in at a time; a second one waits up to [`BUSY_WAIT`].

mod entry;
mod error;
mod file;
mod filter;
mod read;
mod schema;
mod write;

pub use entry::{Entry, MAX_EVIDENCE_BYTES, MAX_SPELLING_BYTES, Origin, Reason, UnknownWord};
pub use error::StoreError;
pub use file::{FileId, identity};
pub use filter::Filter;
pub use read::{Change, Mark, Op, Reader};
pub use schema::BUSY_WAIT;
pub use write::{Counts, MAX_CHANGES, MAX_REMOVED, MAX_REMOVED_FILTERS, OnExisting, Removed, Store, TOMBSTONE_SECONDS};

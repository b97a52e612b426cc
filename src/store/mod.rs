//! The embedded store: one SQLite database with the suppression list, the tombstones of what an
//! operator removed, and the change feed by which the index of a running daemon follows every
//! change, its own and another process's. A change and its line in the feed are one transaction.
//!
//! WAL with `synchronous = FULL`: what was acknowledged survives a power cut, readers never wait
//! for the writer. SQLite lets one writer in at a time; a second one waits up to [`BUSY_WAIT`].

mod apply;
mod brake;
mod entry;
mod error;
mod event;
mod file;
mod filter;
mod late;
mod merge;
mod outbox;
mod quarantine;
mod read;
mod record;
mod report;
mod schema;
mod seen;
mod soft;
mod write;

pub use brake::BrakeState;
pub use entry::{Entry, MAX_EVIDENCE_BYTES, MAX_SPELLING_BYTES, Origin, Reason, UnknownWord};
pub use error::StoreError;
pub use event::{Applied, Batch, Cause, Effect};
pub use file::{FileId, ensure, identity};
pub use filter::Filter;
pub use late::Late;
pub use merge::{Merged, OwnChange, OwnChanges, Telling};
pub use outbox::{Backlog, Waiting};
pub use quarantine::{Kept, MAX_QUARANTINED_BYTES, Quarantined};
pub use read::{Change, Mark, Op, Reader};
pub use record::{MAX_RECORD_BYTES, Record, Unreadable};
pub use report::{FullReport, RemovedFilter};
pub use schema::BUSY_WAIT;
pub use seen::{SEEN_KEY_BYTES, SeenKey};
pub use write::{Counts, MAX_CHANGES, MAX_REMOVED, MAX_REMOVED_FILTERS, OnExisting, Removed, Store, TOMBSTONE_SECONDS};

//! The suppression list as the request path sees it: a compact index in memory that follows the
//! store's change feed, and the reader that confirms its hits.

mod confirm;
mod follow;
mod index;
mod load;

pub use confirm::{CACHED_ENTRIES, Confirmer};
pub use follow::{Follower, POLL, Status};
pub use index::Index;

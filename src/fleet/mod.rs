//! A fleet: what several relays share through one Valkey or Redis. Suppression entries travel by it, and come to
//! stand in each relay's own database; limits are counted in it; events count once by it. Mail never waits for it
//! longer than a limit's deadline, and nothing that a relay knows depends on what the store still has.

pub mod claims;
mod counters;
mod inspect;
mod keeper;
mod keys;
mod limiter;
mod link;
pub mod members;
mod news;
mod relay;
mod roster;
pub mod script;
pub mod sent;
pub mod sync;
mod url;

pub use inspect::{Inspection, Refusal, inspect};
pub use keeper::{Keeper, LINKS, Setup};
pub use keys::{Keys, PARTS};
pub use limiter::{DEADLINE, Fallback, Limiter, MAX_CHARGES};
pub use link::{Link, Patience, authority, connect};
pub use relay::{MAX_NAME_BYTES, Relay};
pub use roster::{Roster, Row};
pub use sync::Sync;
pub use url::{StoreUrl, UrlError};

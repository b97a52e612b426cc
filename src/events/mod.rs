//! SES's events: from the body of a message to what it does to the suppression list and to the line it
//! leaves in the mail log. [`digest()`] is pure; the sources hand bodies to the [`Intake`], which alone writes.

mod bounce;
pub mod digest;
mod effects;
mod envelope;
mod event;
pub mod files;
mod gathered;
mod ids;
pub mod intake;
mod json;
mod news;
pub mod origins;
pub mod outbox;
mod seldom;
pub mod sharing;
pub mod spool;
pub mod sqs;
mod stamp;
pub mod stats;
#[cfg(test)]
mod tests;

pub use digest::{Digest, Settings, Verdict, digest};
pub use event::Kind;
pub use gathered::Gathered;
pub use intake::{Fate, Intake, Parcel};
pub use origins::{EventIds, Origins};
pub use outbox::{Drain, MailLog, Progress};
pub use sharing::{Sharing, SharingThread};
pub use spool::Spool;
pub use sqs::Sqs;
pub use stats::Stats;

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Waits for a thread that was told to end, until `latest` at most. `true`: it has ended.
fn ended_by(thread: JoinHandle<()>, latest: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= latest {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    if thread.join().is_err() {
        tracing::error!("A thread of the event side panicked.");
    }
    true
}

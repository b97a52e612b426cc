//! The health report: what a span of the mail logs says of the relay, counted in one pass over them, on all cores.
//!
//! Memory does not grow with the logs: recipients and queue ids are followed by hash in tables of a fixed size
//! ([`MAX_FOLLOWED`]), names are counted in tables that forget the rare ones, delays in logarithmic buckets.
//! Where a bound is met, the report says so.

mod count;
mod delays;
mod figures;
mod follow;
mod html;
mod judge;
mod queue;
mod reason;
mod shape;
mod span;
mod table;
mod tally;
#[cfg(test)]
mod tests;
mod text;
mod top;
mod words;

pub use count::{Counter, Tables};
pub use figures::Settings;
pub use html::html;
pub use judge::{Measure, State};
pub use queue::{Queue, queue};
pub use shape::Report;
pub use span::Span;
pub use table::MAX_FOLLOWED;
pub use text::{Style, text};

use crate::journey::{Logs, Unread, scan_all};
use jiff::tz::TimeZone;

/// Counts the lines of the logs; what they say, and what of them could not be read. `zone` is that of times that name
/// none.
#[must_use]
pub fn count(logs: &Logs, span: Span, zone: &TimeZone) -> (Counter, Tables, Vec<Unread>) {
    let tables = Tables::default();
    let new = || Counter::new(span, zone.clone());
    let (counters, unread) = scan_all(logs, new, |counter, window| {
        counter.take_all(&tables, window.lines, window.latest);
        true
    });
    let mut all = Counter::new(span, zone.clone());
    for counter in counters {
        all.merge(counter);
    }
    (all, tables, unread)
}

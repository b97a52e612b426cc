//! The grammar of the mail log: gatepost's own lines, written so that the greps that operators run
//! today keep working and pflogsumm counts the same with them as without. No I/O: a [`Line`] goes
//! through an [`Outlet`] to whoever writes it.

mod decision;
mod outlet;

pub use decision::{DecisionLine, Word};
pub use outlet::{Line, Outlet, Priority};

/// The longest line, in bytes: Postfix's own bound (MSG_SYSLOG_RECLEN), and below that of every
/// syslog in use.
pub const MAX_LINE_BYTES: usize = 2_000;

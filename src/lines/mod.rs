//! The grammar of the mail log: gatepost's own lines, written so that the greps that operators run
//! today keep working and pflogsumm counts the same with them as without; and the reading of Postfix's
//! lines and ours. No I/O: a [`Line`] goes through an [`Outlet`] to whoever writes it.

mod decision;
mod event;
mod message;
mod outlet;
pub mod read;

pub use decision::{DecisionLine, Word};
pub use event::{EventLine, SES_IDENT, Status, Suppressed};
pub use message::MessageLine;
pub use outlet::{Line, Outlet, Priority};

/// The longest text of a line, in bytes: with the longest time, host, ident and pid that a file has before it (127
/// bytes), the line stays within Postfix's own bound of 2,000 (MSG_SYSLOG_RECLEN), and below that of every syslog in use.
pub const MAX_LINE_BYTES: usize = 1_870;

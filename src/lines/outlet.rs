//! Where lines go before they are written: a bounded queue that never makes a question wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// How many lines may wait for the log; at some 200 bytes each, 3 MiB. What comes past that is
/// counted and dropped: a log that stands still must not hold up the mail.
pub const MAX_WAITING_LINES: usize = 16_384;

/// The syslog severities in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// `LOG_WARNING`
    Warning,
    /// `LOG_INFO`
    Info,
}

/// One line for the mail log, without time stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The syslog ident, such as `postfix/gatepost`.
    pub ident: &'static str,
    /// The severity.
    pub priority: Priority,
    /// The text: printable, one line, at most [`super::MAX_LINE_BYTES`].
    pub text: String,
}

/// The sending end; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outlet {
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Outlet {
    /// An outlet and the end that a writer reads.
    #[must_use]
    pub fn new() -> (Self, Receiver<Line>) {
        let (queue, receiver) = sync_channel(MAX_WAITING_LINES);
        (Self { queue, dropped: Arc::default() }, receiver)
    }

    /// Hands a line over; where the queue is full it is dropped and counted.
    pub fn send(&self, line: Line) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(line) {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// How many lines were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

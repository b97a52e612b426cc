//! What can be wrong with the queue, switched on and off while it serves.

use super::lock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    ReceiveMessage,
    DeleteMessage,
    DeleteMessageBatch,
    ChangeMessageVisibility,
    ChangeMessageVisibilityBatch,
    GetQueueAttributes,
    GetQueueUrl,
    SendMessage,
    SendMessageBatch,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ReceiveMessage,
        Self::DeleteMessage,
        Self::DeleteMessageBatch,
        Self::ChangeMessageVisibility,
        Self::ChangeMessageVisibilityBatch,
        Self::GetQueueAttributes,
        Self::GetQueueUrl,
        Self::SendMessage,
        Self::SendMessageBatch,
    ];

    /// Those that delete.
    pub const DELETES: [Self; 2] = [Self::DeleteMessage, Self::DeleteMessageBatch];

    /// As it is called in `X-Amz-Target`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReceiveMessage => "ReceiveMessage",
            Self::DeleteMessage => "DeleteMessage",
            Self::DeleteMessageBatch => "DeleteMessageBatch",
            Self::ChangeMessageVisibility => "ChangeMessageVisibility",
            Self::ChangeMessageVisibilityBatch => "ChangeMessageVisibilityBatch",
            Self::GetQueueAttributes => "GetQueueAttributes",
            Self::GetQueueUrl => "GetQueueUrl",
            Self::SendMessage => "SendMessage",
            Self::SendMessageBatch => "SendMessageBatch",
        }
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// HTTP 500, InternalFailure.
    ServerError,
    /// HTTP 400, RequestThrottled.
    Throttled,
    /// HTTP 403, ExpiredToken.
    ExpiredToken,
    /// HTTP 403, InvalidClientTokenId.
    UnknownKey,
    /// HTTP 403, AccessDenied.
    Denied,
    /// The call is done, and never answered.
    Hangs,
    /// The connection is closed without an answer, and nothing is done.
    Closes,
    /// The call is done; half of the answer comes, then the connection is closed.
    BreaksOff,
    /// The call is done, and answered only after so long.
    Slow(Duration),
    /// Receive: `MD5OfBody` is that of another body.
    WrongMd5,
    /// Receive: each message is delivered a second time at once.
    Twice,
    /// Batches: every other entry fails, as SQS's own fault.
    SomeFail,
    /// The receipt handle is called invalid; in a batch, each entry's.
    InvalidHandle,
}

impl Fault {
    /// The answer of a call that is refused as a whole: HTTP status, shape, code, whose fault.
    pub fn refusal(self) -> Option<Refusal> {
        let of = |status, shape, code, sender_fault| Some(Refusal { status, shape, code, sender_fault });
        match self {
            Self::ServerError => of(500, "com.amazon.coral.service#InternalFailure", "InternalFailure", false),
            Self::Throttled => of(400, "com.amazonaws.sqs#RequestThrottled", "RequestThrottled", true),
            Self::ExpiredToken => of(403, "com.amazon.coral.service#ExpiredTokenException", "ExpiredToken", true),
            Self::UnknownKey => {
                of(403, "com.amazon.coral.service#UnrecognizedClientException", "InvalidClientTokenId", true)
            }
            Self::Denied => of(403, "com.amazon.coral.service#AccessDeniedException", "AccessDenied", true),
            _ => None,
        }
    }
}

/// An answer that refuses.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// HTTP's.
    pub status: u16,
    /// `__type` of the body.
    pub shape: &'static str,
    /// The code in the header `x-amzn-query-error`, which the SDKs prefer.
    pub code: &'static str,
    /// Whether the caller is to blame.
    pub sender_fault: bool,
}

/// The faults in force.
#[derive(Debug, Default)]
pub struct Faults {
    in_force: Mutex<Vec<(Action, Fault)>>,
    changed: Condvar,
    struck: AtomicU64,
}

impl Faults {
    /// From now on.
    pub fn begin(&self, actions: &[Action], fault: Fault) {
        let mut in_force = lock(&self.in_force);
        in_force.retain(|(action, _)| !actions.contains(action));
        in_force.extend(actions.iter().map(|action| (*action, fault)));
        self.changed.notify_all();
    }

    /// All are over.
    pub fn end(&self) {
        lock(&self.in_force).clear();
        self.changed.notify_all();
    }

    /// What an action is in for now.
    pub fn of(&self, action: Action) -> Option<Fault> {
        lock(&self.in_force).iter().find(|(of, _)| *of == action).map(|(_, fault)| *fault)
    }

    /// Counts a call that was struck.
    pub fn strike(&self) {
        self.struck.fetch_add(1, SeqCst);
    }

    /// How many were.
    pub fn struck(&self) -> u64 {
        self.struck.load(SeqCst)
    }

    /// Waits until the action is no longer in for this.
    pub fn wait_out(&self, action: Action, fault: Fault) {
        let mut in_force = lock(&self.in_force);
        while in_force.contains(&(action, fault)) {
            in_force = self.changed.wait(in_force).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

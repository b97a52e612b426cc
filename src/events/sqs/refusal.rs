//! What a failed call means, in words that tell an operator what to do.

use crate::mail::Printable;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use std::error::Error;

/// Most bytes of the SDK's or the service's own words.
const MAX_WORDS: usize = 300;

/// What a failed call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    NoCredentials,
    Expired,
    NotAccepted,
    Denied,
    NoQueue,
    Throttled,
    Kms,
    Server,
    Timeout,
    Lost,
    NoRegion,
    Other,
}

/// A call that failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    /// For the log.
    pub(super) words: String,
}

impl Kind {
    /// A word for it, by which a change is told.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoCredentials => "no credentials",
            Self::Expired => "the credentials have expired",
            Self::NotAccepted => "the credentials are not accepted",
            Self::Denied => "access denied",
            Self::NoQueue => "there is no such queue",
            Self::Throttled => "throttled",
            Self::Kms => "the queue's KMS key cannot be used",
            Self::Server => "the service fails",
            Self::Timeout => "no answer in time",
            Self::Lost => "the connection failed",
            Self::NoRegion => "no region",
            Self::Other => "refused",
        }
    }

    /// What an operator can do about it.
    fn advice(self) -> &'static str {
        match self {
            Self::NoCredentials => {
                " (looked for in the environment, the profile, and the instance's or container's role)"
            }
            Self::NoRegion => " (the queue's URL names none: set AWS_REGION)",
            Self::Denied => {
                " (the role needs sqs:ReceiveMessage, sqs:DeleteMessage and sqs:ChangeMessageVisibility on the queue)"
            }
            Self::Kms => " (the role needs kms:Decrypt on it)",
            Self::NotAccepted => " (look at the machine's clock, too)",
            _ => "",
        }
    }

    /// Whether credentials that are read anew may help.
    pub(super) fn is_about_credentials(self) -> bool {
        matches!(self, Self::NoCredentials | Self::Expired | Self::NotAccepted)
    }

    /// Whether the service answered and said no to this very call, as it will to the next.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Denied | Self::Other)
    }
}

impl Refusal {
    pub(super) fn new<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let (kind, said) = match error {
            SdkError::ServiceError(service) => {
                let (code, status) = (service.err().code().unwrap_or_default(), service.raw().status().as_u16());
                let said = format!("{} {code}: {}", status, service.err().message().unwrap_or_default());
                (of_code(code, service.err().message().unwrap_or_default(), status), said)
            }
            SdkError::TimeoutError(_) => (Kind::Timeout, String::new()),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => (Kind::Timeout, shown(error)),
            SdkError::DispatchFailure(failure) if failure.is_io() => (Kind::Lost, shown(error)),
            SdkError::ResponseError(_) => (Kind::Lost, shown(error)),
            _ => {
                let said = shown(error);
                (of_words(&said), said)
            }
        };
        Self::with(kind, &said)
    }

    /// The call took longer than its own timeouts allow.
    pub(super) fn timeout() -> Self {
        Self::with(Kind::Timeout, "")
    }

    fn with(kind: Kind, said: &str) -> Self {
        let said = Printable::new(said.as_bytes(), MAX_WORDS);
        let colon = if said.as_str().is_empty() { "" } else { ": " };
        Self { kind, words: format!("{}{}{colon}{said}", kind.as_str(), kind.advice()) }
    }
}

/// The error and all that is behind it, as far as each says something new.
fn shown(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        next = source.source();
    }
    words
}

/// By the error codes of SQS, of its older query protocol, and those common to all of AWS.
fn of_code(code: &str, message: &str, status: u16) -> Kind {
    // The query protocol writes `AWS.SimpleQueueService.NonExistentQueue`.
    let last = code.rsplit('.').next().unwrap_or(code);
    match last {
        _ if code.to_ascii_lowercase().starts_with("kms") => Kind::Kms,
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" | "TokenRefreshRequired" => Kind::Expired,
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "AuthFailure"
        | "RequestTimeTooSkewed"
        | "InvalidSecurity" => {
            if message.contains("token included in the request is expired") {
                Kind::Expired
            } else {
                Kind::NotAccepted
            }
        }
        "AccessDenied" | "AccessDeniedException" | "OptInRequired" => Kind::Denied,
        "QueueDoesNotExist" | "NonExistentQueue" | "QueueDeletedRecently" | "InvalidAddress" => Kind::NoQueue,
        "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "TooManyRequestsException"
        | "SlowDown"
        | "OverLimit" => Kind::Throttled,
        _ if status == 429 => Kind::Throttled,
        _ if status >= 500 => Kind::Server,
        _ if status == 403 => Kind::Denied,
        _ => Kind::Other,
    }
}

/// What fails before anything is sent has no code.
fn of_words(words: &str) -> Kind {
    let words = words.to_ascii_lowercase();
    if words.contains("credential") || words.contains("identity") {
        Kind::NoCredentials
    } else if words.contains("region") {
        Kind::NoRegion
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_distinct_words() {
        for (code, status, kind) in [
            ("AWS.SimpleQueueService.NonExistentQueue", 400, Kind::NoQueue),
            ("QueueDoesNotExist", 400, Kind::NoQueue),
            ("ExpiredToken", 403, Kind::Expired),
            ("InvalidClientTokenId", 403, Kind::NotAccepted),
            ("AccessDenied", 403, Kind::Denied),
            ("", 403, Kind::Denied),
            ("RequestThrottled", 400, Kind::Throttled),
            ("KmsThrottled", 400, Kind::Kms),
            ("KMS.AccessDeniedException", 400, Kind::Kms),
            ("InternalError", 500, Kind::Server),
            ("", 503, Kind::Server),
            ("Surprise", 400, Kind::Other),
        ] {
            assert_eq!(of_code(code, "", status), kind, "{code} {status}");
        }
    }

    #[test]
    fn the_services_words_are_printable_and_bounded() {
        let refusal = Refusal::with(Kind::Denied, &"no\n".repeat(1_000));
        assert!(refusal.words.starts_with("access denied (the role needs") && refusal.words.len() < 600);
        assert!(!refusal.words.contains('\n'));
    }
}

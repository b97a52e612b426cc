//! What a bounce means: for the list by its type and subtype, for a recipient by the action and status of the DSN.

use super::event::Recipient;

/// The words for types and subtypes, as they are written in the log whatever their case in the event.
const BOUNCE_WORDS: [&str; 15] = [
    "Permanent",
    "Transient",
    "Undetermined",
    "General",
    "NoEmail",
    "Suppressed",
    "OnAccountSuppressionList",
    "OnTenantSuppressionList",
    "EmailValidationSuppressed",
    "UnsubscribedRecipient",
    "MailboxFull",
    "MessageTooLarge",
    "ContentRejected",
    "AttachmentRejected",
    "CustomTimeoutExceeded",
];

/// What a bounce means, by its type and subtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing for the list.
    Nothing,
    /// The address is dead.
    Permanent,
    /// It stands on SES's global list.
    GlobalList,
    /// SES did not try, because of a list of ours: with what to say where SES says nothing.
    Echo(&'static str),
    /// The mailbox is full.
    Full,
}

/// What a bounce means for a recipient whose delivery failed. The type decides first: a transient bounce may
/// carry a permanent status.
pub(super) fn meaning(kind: Option<&str>, subkind: Option<&str>) -> Meaning {
    let is = |word: Option<&str>, other| word.is_some_and(|word: &str| word.eq_ignore_ascii_case(other));
    if !is(kind, "Permanent") {
        return if is(kind, "Transient") && is(subkind, "MailboxFull") { Meaning::Full } else { Meaning::Nothing };
    }
    match subkind {
        _ if is(subkind, "Suppressed") => Meaning::GlobalList,
        // an opt-out of a list's topic: the address is not dead
        _ if is(subkind, "UnsubscribedRecipient") => Meaning::Nothing,
        _ if is(subkind, "EmailValidationSuppressed") => Meaning::Echo("refused by SES's address validation"),
        _ if is(subkind, "OnTenantSuppressionList") => Meaning::Echo("on the tenant's suppression list at SES"),
        Some(word) if names_our_list(word) => Meaning::Echo("on the account's suppression list at SES"),
        _ => Meaning::Permanent,
    }
}

/// Whether a subtype says that SES did not try because of a list of the account or the tenant.
pub(super) fn names_our_list(subkind: &str) -> bool {
    let word = subkind.to_ascii_lowercase();
    word.starts_with("on") && word.ends_with("suppressionlist")
}

/// Whether the delivery failed: a DSN, and so a permanent bounce, may also tell of recipients that are well.
pub(super) fn failed(recipient: &Recipient<'_>) -> bool {
    let well = ["delayed", "delivered", "relayed", "expanded"];
    recipient.action.as_deref().is_none_or(|action| !well.iter().any(|word| action.eq_ignore_ascii_case(word)))
}

/// The enhanced status code that a `status` begins with (RFC 3463 section 2).
pub(super) fn rfc3463(status: &str) -> Option<&str> {
    let code = status.split([' ', '(', '\t']).next()?;
    let mut parts = code.split('.');
    let class = parts.next().is_some_and(|class| matches!(class, "2" | "4" | "5"));
    let number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    (class && parts.next().is_some_and(number) && parts.next().is_some_and(number) && parts.next().is_none())
        .then_some(code)
}

/// A type's or subtype's word as SES spells it, whatever its case here.
pub(super) fn known(word: &str) -> &str {
    BOUNCE_WORDS.into_iter().find(|known| known.eq_ignore_ascii_case(word)).unwrap_or(word)
}

/// `Permanent/General`, with what is missing left out.
pub(super) fn joined(kind: Option<&str>, subkind: Option<&str>) -> String {
    kind.into_iter().chain(subkind).map(known).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_bounces() {
        use Meaning::{Echo, Full, GlobalList, Nothing, Permanent};
        for (kind, subkind, expected) in [
            ("Permanent", Some("General"), Permanent),
            ("Permanent", Some("NoEmail"), Permanent),
            ("Permanent", Some("Whatever"), Permanent),
            ("Permanent", None, Permanent),
            ("permanent", Some("SUPPRESSED"), GlobalList),
            ("Permanent", Some("OnAccountSuppressionList"), Echo("on the account's suppression list at SES")),
            ("Permanent", Some("onTenantSuppressionList"), Echo("on the tenant's suppression list at SES")),
            ("Permanent", Some("OnSomeSuppressionList"), Echo("on the account's suppression list at SES")),
            ("Permanent", Some("EmailValidationSuppressed"), Echo("refused by SES's address validation")),
            ("Permanent", Some("UnsubscribedRecipient"), Nothing),
            ("Transient", Some("MailboxFull"), Full),
            ("Transient", Some("General"), Nothing),
            ("Transient", Some("Suppressed"), Nothing),
            ("Undetermined", Some("MailboxFull"), Nothing),
        ] {
            assert_eq!(meaning(Some(kind), subkind), expected, "{kind}/{subkind:?}");
        }
        assert_eq!(meaning(None, Some("General")), Nothing);
    }

    #[test]
    fn status_codes_are_those_of_rfc_3463() {
        for (text, code) in [("5.1.1", Some("5.1.1")), ("4.7.26 (x)", Some("4.7.26")), ("5.1", None), ("", None)] {
            assert_eq!(rfc3463(text), code);
        }
        for text in ["3.1.1", "5.1.1.1", "5..1", "5.1111.1", "5.1.x", "550 5.1.1", "\u{665}.1.1"] {
            assert_eq!(rfc3463(text), None, "{text}");
        }
    }
}

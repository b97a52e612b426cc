//! The line of a decision: what was decided, by which check and rule, of which generation, about
//! whom. The words avoid `reject:` and kin, which pflogsumm would count as Postfix's own.

use super::{Line, MAX_LINE_BYTES, Priority};
use crate::mail::Printable;
use std::fmt::Write;

/// The ident of gatepost's own lines.
pub const IDENT: &str = "postfix/gatepost";

/// What was decided, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A refusal, permanent or temporary: the reply says which.
    Reject,
    /// An action of the operator's file, such as HOLD.
    Pass,
    /// Observe: would have been a refusal or an action.
    WouldReject,
    /// Passed, but the key has used more than 80 % of the limit.
    NearLimit,
    /// The milter took this recipient out; the mail goes on to the others.
    Drop,
    /// The milter put the message into Postfix's hold queue.
    Hold,
    /// The milter refused a local submission, which Postfix returns to its sender.
    Bounce,
    /// The milter made Postfix drop the message.
    Discard,
}

impl Word {
    fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Pass => "pass",
            Self::WouldReject => "would-reject",
            Self::NearLimit => "near-limit",
            Self::Drop => "drop",
            Self::Hold => "hold",
            Self::Bounce => "bounce",
            Self::Discard => "discard",
        }
    }
}

/// The fields of a decision line. Everything from outside is bytes here and printable in the line.
#[derive(Clone, Copy)]
pub struct DecisionLine<'a> {
    /// `decision=`
    pub word: Word,
    /// `check=`
    pub check: &'a str,
    /// `mode=`
    pub mode: &'a str,
    /// `rule=`: file:line, or what stands for it.
    pub rule: &'a dyn std::fmt::Display,
    /// `generation=` of the rules.
    pub generation: u64,
    /// `from=<>`: canonical sender.
    pub from: &'a [u8],
    /// `to=<>`: canonical recipient, where there is one.
    pub to: Option<&'a [u8]>,
    /// `client=`: the client's address as Postfix gave it.
    pub client: &'a [u8],
    /// `sasl_username=`, where there is one.
    pub sasl_username: &'a [u8],
    /// `instance=`
    pub instance: &'a [u8],
    /// `queue_id=`, where Postfix has given one.
    pub queue_id: &'a [u8],
    /// `reply=()`: what Postfix was, or would have been, told.
    pub reply: &'a dyn std::fmt::Display,
}

/// The bounds of single fields, so that one of them cannot push the others out of the line: an
/// address is at most 320 bytes (RFC 5321 section 4.5.3.1), the others are Postfix's own words.
const MAX_ADDRESS_BYTES: usize = 320;
const MAX_WORD_BYTES: usize = 80;
const MAX_RULE_BYTES: usize = 120;
const MAX_REPLY_BYTES: usize = 600;

impl DecisionLine<'_> {
    /// The line.
    #[must_use]
    pub fn to_line(&self) -> Line {
        let mut text = String::with_capacity(320);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "decision={}, check={}, mode={}, rule={}, generation={}, from=<{}>",
            self.word.as_str(),
            self.check,
            self.mode,
            Printable::new(self.rule.to_string().as_bytes(), MAX_RULE_BYTES),
            self.generation,
            Printable::new(self.from, MAX_ADDRESS_BYTES),
        );
        if let Some(to) = self.to {
            let _ = write!(text, ", to=<{}>", Printable::new(to, MAX_ADDRESS_BYTES));
        }
        let _ = write!(text, ", client={}", Printable::new(self.client, MAX_WORD_BYTES));
        for (name, value) in
            [("instance", self.instance), ("queue_id", self.queue_id), ("sasl_username", self.sasl_username)]
        {
            if !value.is_empty() {
                let _ = write!(text, ", {name}={}", Printable::new(value, MAX_WORD_BYTES));
            }
        }
        let reply = Printable::new(self.reply.to_string().as_bytes(), MAX_REPLY_BYTES);
        if !reply.as_str().is_empty() {
            let name = if self.word == Word::NearLimit { "note" } else { "reply" };
            let _ = write!(text, ", {name}=({})", reply.as_str().replace(')', "]"));
        }
        debug_assert!(text.len() <= MAX_LINE_BYTES);
        let priority = if self.word == Word::NearLimit { Priority::Warning } else { Priority::Info };
        Line { ident: IDENT, priority, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line<'a>(from: &'a [u8], reply: &'a dyn std::fmt::Display) -> DecisionLine<'a> {
        DecisionLine {
            word: Word::Reject,
            check: "senders",
            mode: "enforce",
            rule: &"allowed_senders:12",
            generation: 3,
            from,
            to: Some(b"b@y"),
            client: b"10.0.0.1",
            sasl_username: b"",
            instance: b"1.2.3.4",
            queue_id: b"",
            reply,
        }
    }

    #[test]
    fn has_the_fields_of_the_contract() {
        assert_eq!(
            line(b"a@x", &"554 5.7.1 no (really)").to_line().text,
            "decision=reject, check=senders, mode=enforce, rule=allowed_senders:12, generation=3, from=<a@x>, \
             to=<b@y>, client=10.0.0.1, instance=1.2.3.4, reply=(554 5.7.1 no (really])"
        );
    }

    proptest! {
        #[test]
        fn is_one_bounded_printable_line(from: Vec<u8>, reply: String) {
            let reply = reply.repeat(30);
            let text = line(&from.repeat(50), &reply).to_line().text;
            prop_assert!(text.len() <= MAX_LINE_BYTES);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}

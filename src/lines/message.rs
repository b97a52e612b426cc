//! The line of a message: the queue id, under which Postfix's own lines are found, and the correlation id, under
//! which SES's events are.

use super::decision::IDENT;
use super::event::{id, recipient, word};
use super::{Line, MAX_LINE_BYTES, Priority};

/// The fields of the line. Everything from outside is bytes here and printable in the line.
#[derive(Clone, Copy, Debug)]
pub struct MessageLine<'a> {
    /// Postfix's queue id; empty: it told none.
    pub queue_id: &'a str,
    /// `correlation_id=`
    pub correlation_id: &'a str,
    /// `message-id=<>`: the value of the header.
    pub message_id: &'a [u8],
    /// `from=<>`: the canonical sender.
    pub from: &'a [u8],
    /// `nrcpt=`: how many recipients it goes to.
    pub recipients: usize,
    /// `client=`: its address.
    pub client: &'a str,
}

/// A Message-ID is longer only to do harm; the bound keeps the line below that of the log.
const MAX_WORD_BYTES: usize = 256;

impl MessageLine<'_> {
    /// The line.
    #[must_use]
    pub fn to_line(&self) -> Line {
        let message_id = String::from_utf8_lossy(self.message_id.trim_ascii());
        let inner = message_id.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&message_id);
        let queue_id = if self.queue_id.is_empty() { "NOQUEUE" } else { self.queue_id };
        let text = format!(
            "{}: correlation_id={}, message-id=<{}>, from=<{}>, nrcpt={}, client={}",
            id(queue_id),
            word(self.correlation_id, MAX_WORD_BYTES),
            recipient(inner),
            recipient(&String::from_utf8_lossy(self.from)),
            self.recipients,
            word(self.client, MAX_WORD_BYTES),
        );
        debug_assert!(text.len() <= MAX_LINE_BYTES);
        Line { ident: IDENT, priority: Priority::Info, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> MessageLine<'static> {
        MessageLine {
            queue_id: "4ZabcD1Yxz1",
            correlation_id: "0198c2",
            message_id: b"<a@b>",
            from: b"info@example.com",
            recipients: 2,
            client: "10.0.0.125",
        }
    }

    #[test]
    fn has_the_fields_of_the_contract_in_their_order() {
        let written = line().to_line();
        assert_eq!((written.ident, written.priority), ("postfix/gatepost", Priority::Info));
        assert_eq!(
            written.text,
            "4ZabcD1Yxz1: correlation_id=0198c2, message-id=<a@b>, from=<info@example.com>, nrcpt=2, client=10.0.0.125"
        );
    }

    #[test]
    fn what_comes_from_outside_cannot_say_more_than_its_field() {
        let odd = MessageLine {
            queue_id: "",
            message_id: b"a>, from=<x>, size=5\r\nstatus=sent \xff",
            from: b"<>, nrcpt=9\n",
            ..line()
        };
        let text = odd.to_line().text;
        assert!(text.starts_with("NOQUEUE: "), "{text}");
        assert_eq!(text.matches("from=<").count(), 1, "{text}");
        assert!(!text.contains("size=5>") && !text.contains('\n') && !text.contains("status=sent"), "{text}");
        let long = vec![b'a'; 100_000];
        assert!(MessageLine { message_id: &long, from: &long, ..line() }.to_line().text.len() < 1_000);
    }
}

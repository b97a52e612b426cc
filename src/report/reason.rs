//! The words of replies and bounces without what differs each time, so that the same reason has the same name.

use memchr::memmem;

/// What is kept of a reason.
pub(super) const MAX_REASON_BYTES: usize = 160;

/// So many digits in a word make it a date, an id, an address of a host or a counter.
const MAX_DIGITS: usize = 4;

/// Why mail bounced or is deferred: `host h[ip] said: 554 text (in reply to end of DATA command)`, `smtp; 550 5.1.1 text`.
pub(super) fn of_delivery(text: &[u8]) -> Vec<u8> {
    let text = memmem::find(text, b" said: ").map_or(text, |at| &text[at + b" said: ".len()..]);
    let text = memmem::rfind(text, b" (in reply to ").map_or(text, |at| &text[..at]);
    general(text.strip_prefix(b"smtp;").unwrap_or(text).trim_ascii_start())
}

/// Why Postfix refused, without the code and what of it was refused: `RCPT from h[ip]: 554 5.7.1 <r>: Recipient address
/// rejected: text`. What a policy service said is then the same as in its own line.
pub(super) fn of_verdict(text: &[u8]) -> Vec<u8> {
    let text = memmem::find(text, b"]: ").map_or(text, |at| &text[at + b"]: ".len()..]);
    let text = without_codes(text);
    let text = match text.strip_prefix(b"<").and_then(|rest| memmem::find(rest, b">: ").map(|at| &rest[at + 3..])) {
        Some(rest) => rest,
        None => text,
    };
    let text = memmem::find(text, b" rejected: ").map_or(text, |at| &text[at + b" rejected: ".len()..]);
    general(text)
}

/// What a decision of ours told: `550 5.1.1 text`.
pub(super) fn of_reply(text: &[u8]) -> Vec<u8> {
    general(without_codes(text))
}

/// Without `550 5.1.1 `, either of which may be missing.
fn without_codes(text: &[u8]) -> &[u8] {
    let mut text = text;
    for _ in 0..2 {
        let end = memchr::memchr(b' ', text).unwrap_or(0);
        if end > 0 && end <= 9 && text[..end].iter().all(|b| b.is_ascii_digit() || *b == b'.') {
            text = &text[end + 1..];
        }
    }
    text
}

fn general(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAX_REASON_BYTES);
    for word in text.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(b' ');
        }
        let differs = word.contains(&b'@') || word.iter().filter(|b| b.is_ascii_digit()).count() >= MAX_DIGITS;
        // Our lines have no closing bracket within a text.
        out.extend(if differs { b"*" } else { word }.iter().map(|b| if *b == b')' { b']' } else { *b }));
        if out.len() >= MAX_REASON_BYTES {
            out.truncate(MAX_REASON_BYTES);
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(reason: Vec<u8>) -> String {
        String::from_utf8(reason).expect("text")
    }

    #[test]
    fn what_differs_each_time_is_left_out() {
        let said =
            b"host email-smtp[10.0.0.1] said: 554 Message rejected: Email address is not verified: a@b (in reply to \
                     end of DATA command)";
        assert_eq!(shown(of_delivery(said)), "554 Message rejected: Email address is not verified: *");
        assert_eq!(shown(of_delivery(b"smtp; 550 5.1.1 <a@b>: no such  user (12345)")), "550 5.1.1 * no such user *");
        assert_eq!(shown(of_delivery(b"")), "");
    }

    #[test]
    fn postfixs_words_of_a_refusal_are_ours() {
        let theirs =
            b"RCPT from h[1.2.3.4]: 550 5.1.1 <r@d>: Recipient address rejected: Suppressed since 2026-11-23: x (y)";
        assert_eq!(of_verdict(theirs), of_reply(b"550 5.1.1 Suppressed since 2026-11-02: x (y]"));
        let theirs = b"END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.1 Sender not allowed here";
        assert_eq!(of_verdict(theirs), of_reply(b"554 5.7.1 Sender not allowed here"));
        assert_eq!(
            shown(of_verdict(b"RCPT from h[::1]: 450 4.7.1 <DATA>: Data command rejected: Too fast")),
            "Too fast"
        );
    }
}

//! The line of an SES event: what became of a message for one recipient, in the words and the order
//! that operators grep for. `status=` is never `sent` or `deferred`, which are Postfix's own.

use super::{Line, MAX_LINE_BYTES, Priority};
use crate::mail::Printable;
use std::fmt::Write;

/// The ident of the lines of SES events.
pub const SES_IDENT: &str = "postfix/ses-events";

/// `status=`: what became of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Delivery
    Delivered,
    /// Bounce
    Bounced,
    /// DeliveryDelay
    Delayed,
    /// Complaint
    Complaint,
    /// Reject
    Rejected,
    /// Send
    Accepted,
    /// Open
    Opened,
    /// Click
    Clicked,
    /// Rendering Failure
    Failed,
    /// Subscription
    Subscription,
}

/// `suppressed=`: what the event did to the suppression list. Known only once the store has applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppressed {
    /// The address stands on the list now, by this event or an earlier one.
    Yes,
    /// It does not.
    No,
    /// It would, but an operator removed the address after this mail was sent.
    Removed,
    /// Recorded, not enforced: the brake is on.
    Braked,
}

/// The fields of the line of one recipient. Everything from outside may hold anything here; the line is
/// printable and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLine {
    /// SES's message id, which stands in Postfix's `status=sent (250 Ok <id>)`; it comes first.
    pub ses_id: String,
    /// The recipient: canonical where it is an address, as it came where it is none, empty where the event
    /// names nobody.
    pub to: String,
    /// `status=`
    pub status: Status,
    /// `dsn=`, RFC 3463; absent where no mail server said anything.
    pub dsn: Option<String>,
    /// `delay=`, milliseconds.
    pub delay_ms: Option<u64>,
    /// Further words of the type, in their order, such as `bounce_type`.
    pub details: Vec<(&'static str, String)>,
    /// `suppressed=`; `None` where the type has nothing to do with the list.
    pub suppressed: Option<Suppressed>,
    /// `queue_id=`: Postfix's, as the milter or the application tagged the message.
    pub queue_id: Option<String>,
    /// `correlation_id=`
    pub correlation_id: Option<String>,
    /// `sent_by=`: the name of the relay that sent the message, where several share their events.
    pub sent_by: Option<String>,
    /// The free text in brackets that ends the line, with its name (`response`, `reason`).
    pub text: Option<(&'static str, String)>,
}

/// Bounds of single fields, so that all words fit, and with fields of usual length a long text too: SES's ids have 60
/// bytes, an address at most 320 (RFC 5321 section 4.5.3.1), the value of a tag 256, a relay's name 253.
const MAX_ID_BYTES: usize = 128;
const MAX_ADDRESS_BYTES: usize = 320;
const MAX_DSN_BYTES: usize = 16;
const MAX_DETAIL_BYTES: usize = 128;
const MAX_TAG_BYTES: usize = 256;

/// What pflogsumm takes for a line of Postfix's own where it finds it in the place of a queue id.
const NO_IDS: [&str; 8] = ["", "warning", "fatal", "panic", "reject", "reject_warning", "hold", "discard"];

/// Words that operators count lines by: only the line itself may say them, no text from outside.
const COUNTED: [&str; 3] = ["status", "delay", "bounce_type"];

/// What pflogsumm takes for an action of cleanup or smtpd wherever it stands behind what looks like their ident, and
/// what is written instead.
const ACTIONS: [(&str, &str); 4] =
    [("reject:", "reject;"), ("warning:", "warning;"), ("hold:", "hold;"), ("discard:", "discard;")];

impl EventLine {
    /// The line.
    #[must_use]
    pub fn to_line(&self) -> Line {
        let mut line = String::with_capacity(400);
        // Writing to a String cannot fail.
        let _ = write!(line, "{}: to=<{}>, relay=amazonses.com", id(&self.ses_id), recipient(&self.to));
        if let Some(dsn) = &self.dsn {
            let _ = write!(line, ", dsn={}", word(dsn, MAX_DSN_BYTES));
        }
        let _ = write!(line, ", status={}", self.status.as_str());
        if let Some(milliseconds) = self.delay_ms {
            let _ = write!(line, ", delay={milliseconds}ms");
        }
        for (name, value) in &self.details {
            let _ = write!(line, ", {name}={}", word(value, MAX_DETAIL_BYTES));
        }
        if let Some(suppressed) = self.suppressed {
            let _ = write!(line, ", suppressed={}", suppressed.as_str());
        }
        let ids = [("queue_id", &self.queue_id), ("correlation_id", &self.correlation_id), ("sent_by", &self.sent_by)];
        for (name, value) in ids {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                let _ = write!(line, ", {name}={}", word(value, MAX_TAG_BYTES));
            }
        }
        if let Some((name, value)) = &self.text {
            push_text(&mut line, name, value);
        }
        debug_assert!(line.len() <= MAX_LINE_BYTES);
        Line { ident: SES_IDENT, priority: self.status.priority(), text: line }
    }
}

/// The texts that may end the line.
const TEXTS: [&str; 4] = [", response=(", ", reason=(", ", agent=(", ", link=("];

impl EventLine {
    /// A line that names no queue id and no relay, with what was learned since. A correlation id that it names itself
    /// stays.
    #[must_use]
    pub fn with_ids(line: &str, queue_id: &str, correlation_id: Option<&str>, sent_by: Option<&str>) -> String {
        // No address holds what stands behind it, and no word of the line a blank.
        let words = line.find(">, relay=amazonses.com").unwrap_or(0);
        let text = TEXTS.iter().filter_map(|text| line[words..].find(text)).min().map_or(line.len(), |at| words + at);
        let own = line[words..text].find(", correlation_id=").map(|at| words + at);
        let mut out = line[..own.unwrap_or(text)].to_owned();
        let learned = correlation_id.filter(|_| own.is_none());
        let add = |out: &mut String, name: &str, value: Option<&str>| {
            if let Some(value) = value {
                let _ = write!(out, ", {name}={}", word(value, MAX_TAG_BYTES));
            }
        };
        add(&mut out, "queue_id", Some(queue_id));
        add(&mut out, "correlation_id", learned);
        out.push_str(&line[own.unwrap_or(text)..text]);
        add(&mut out, "sent_by", sent_by);
        if let Some((name, value)) = line[text..].strip_prefix(", ").and_then(|text| text.split_once("=(")) {
            push_text(&mut out, name, value.strip_suffix(')').unwrap_or(value));
        }
        out
    }
}

impl Status {
    /// The word in the line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Delayed => "delayed",
            Self::Complaint => "complaint",
            Self::Rejected => "rejected",
            Self::Accepted => "accepted",
            Self::Opened => "opened",
            Self::Clicked => "clicked",
            Self::Failed => "failed",
            Self::Subscription => "subscription",
        }
    }

    fn priority(self) -> Priority {
        match self {
            Self::Bounced | Self::Complaint => Priority::Warning,
            _ => Priority::Info,
        }
    }
}

impl Suppressed {
    /// The word in the line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Removed => "removed",
            Self::Braked => "braked",
        }
    }
}

/// The id that begins the line: no blank and no colon, which end it there, and no word of Postfix's.
pub(super) fn id(raw: &str) -> String {
    let id = word(&raw.replace(':', "_"), MAX_ID_BYTES).replace(':', "_");
    if NO_IDS.contains(&&*id) { id + "_" } else { id }
}

/// An address, or what stands for one, between angle brackets. One without blanks is left as it is.
pub(super) fn recipient(raw: &str) -> String {
    let text = Printable::new(raw.trim().as_bytes(), MAX_ADDRESS_BYTES).as_str().replace(['<', '>'], "_");
    if text.contains(char::is_whitespace) { uncounted(text) } else { text }
}

/// A value that ends at the next comma: without blanks and commas.
pub(super) fn word(raw: &str, max_bytes: usize) -> String {
    let text = Printable::new(raw.trim().as_bytes(), max_bytes);
    uncounted(text.as_str().replace(|c: char| c == ',' || c.is_whitespace(), "_"))
}

/// Appends a text in brackets, as much of it as the line has room for.
fn push_text(line: &mut String, name: &str, raw: &str) {
    let room = MAX_LINE_BYTES.saturating_sub(line.len() + name.len() + ", =()".len());
    let text = Printable::new(raw.trim().as_bytes(), room);
    let text = text.as_str().trim();
    if !text.is_empty() {
        let _ = write!(line, ", {name}=({})", uncounted(text.replace(')', "]")));
    }
}

/// The text without what greps and pflogsumm take for a word of the line itself: `status:` for `status=`, `to:<` for
/// `to=<`, and `reject;` for `reject:`. As long as it was.
fn uncounted(mut text: String) -> String {
    for (action, other) in ACTIONS {
        if text.contains(action) {
            text = text.replace(action, other);
        }
    }
    let Some(first) = memchr::memchr(b'=', text.as_bytes()) else { return text };
    let mut out = String::with_capacity(text.len());
    let (head, mut rest) = text.split_at(first);
    out.push_str(head);
    while let Some(behind) = rest.strip_prefix('=') {
        let counted = behind.starts_with('<') || COUNTED.iter().any(|word| out.ends_with(word));
        out.push(if counted { ':' } else { '=' });
        let next = memchr::memchr(b'=', behind.as_bytes()).unwrap_or(behind.len());
        let (text, more) = behind.split_at(next);
        out.push_str(text);
        rest = more;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line() -> EventLine {
        EventLine {
            ses_id: "0109019c11aa-000000".into(),
            to: "gone@example.com".into(),
            status: Status::Bounced,
            dsn: Some("5.1.1".into()),
            delay_ms: None,
            details: vec![("bounce_type", "Permanent".into()), ("bounce_subtype", "General".into())],
            suppressed: Some(Suppressed::Yes),
            queue_id: Some("4ZabcD1Yxz1".into()),
            correlation_id: Some("0198c2".into()),
            sent_by: None,
            text: Some(("reason", "smtp; 550 5.1.1 user unknown (really)".into())),
        }
    }

    fn delivered() -> EventLine {
        EventLine {
            to: "user@example.com".into(),
            status: Status::Delivered,
            dsn: Some("2.0.0".into()),
            delay_ms: Some(3_558),
            details: Vec::new(),
            suppressed: None,
            text: Some(("response", "250 ok dirdel".into())),
            ..line()
        }
    }

    /// What follows `before` up to one of `ends`, as `grep -oP 'before\K[^ends]+'` prints it.
    fn grep<'l>(line: &'l str, before: &str, ends: &[char]) -> Vec<&'l str> {
        line.match_indices(before).filter_map(|(at, _)| line[at + before.len()..].split(ends).next()).collect()
    }

    #[test]
    fn no_text_is_an_action_of_postfix() {
        let forged = "x postfix/cleanup[1]: 4Zabc: reject: header Subject: y; hold: z";
        let line = EventLine { text: Some(("reason", forged.into())), ..line() }.to_line().text;
        assert!(line.ends_with("4Zabc: reject; header Subject: y; hold; z)"), "{line}");
    }

    #[test]
    fn has_the_fields_of_the_contract_in_their_order() {
        let written = line().to_line();
        assert_eq!((written.ident, written.priority), ("postfix/ses-events", Priority::Warning));
        assert_eq!(
            written.text,
            "0109019c11aa-000000: to=<gone@example.com>, relay=amazonses.com, dsn=5.1.1, status=bounced, \
             bounce_type=Permanent, bounce_subtype=General, suppressed=yes, queue_id=4ZabcD1Yxz1, \
             correlation_id=0198c2, reason=(smtp; 550 5.1.1 user unknown (really])"
        );
        let written = delivered().to_line();
        assert_eq!(written.priority, Priority::Info);
        assert_eq!(
            written.text,
            "0109019c11aa-000000: to=<user@example.com>, relay=amazonses.com, dsn=2.0.0, status=delivered, \
             delay=3558ms, queue_id=4ZabcD1Yxz1, correlation_id=0198c2, response=(250 ok dirdel)"
        );
        let elsewhere = EventLine { sent_by: Some("relay-a.example.com".into()), ..delivered() };
        let words = ", correlation_id=0198c2, sent_by=relay-a.example.com, response=(250 ok dirdel)";
        assert!(elsewhere.to_line().text.ends_with(words));
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let bare = EventLine {
            to: String::new(),
            status: Status::Opened,
            dsn: None,
            details: Vec::new(),
            suppressed: None,
            queue_id: None,
            correlation_id: Some(String::new()),
            text: Some(("link", " ".into())),
            ..line()
        };
        assert_eq!(bare.to_line().text, "0109019c11aa-000000: to=<>, relay=amazonses.com, status=opened");
    }

    #[test]
    fn words_of_the_line_are_its_own() {
        let forged = "x\r\nFeb  1 host postfix/smtp[1]: A: to=<root@b>, relay=c, delay=1, status=sent (250), \
                      bounce_type=Permanent, from=<a@b>, size=7, url=http://d/?e=f";
        let one = EventLine { text: Some(("reason", forged.into())), ..delivered() }.to_line().text;
        assert_eq!(grep(&one, "status=", &[',']), ["delivered"]);
        assert_eq!(grep(&one, "delay=", &['m']), ["3558"]);
        assert_eq!(grep(&one, "to=<", &['>']), ["user@example.com"]);
        assert!(!one.contains("bounce_type=") && !one.contains("from=<") && one.contains("url=http://d/?e=f"));
        assert!(!grep(&one, "reason=(", &[')'])[0].is_empty() && one.ends_with(')'));
        let id = |raw: &str| EventLine { ses_id: raw.into(), ..line() }.to_line().text;
        for (raw, begins) in [("reject", "reject_: to"), ("", "_: to"), ("a: b", "a__b: to"), (":", "_: to")] {
            assert!(id(raw).starts_with(begins), "{}", id(raw));
        }
        let odd = EventLine { to: "<a> status=sent".into(), queue_id: Some("a, status=sent".into()), ..line() };
        assert!(!odd.to_line().text.contains("status=sent"), "{}", odd.to_line().text);
        let address = "status=delivered@example.com";
        assert!(EventLine { to: address.into(), ..line() }.to_line().text.contains(&format!("to=<{address}>")));
    }

    fn awkward() -> impl Strategy<Value = String> {
        let forged = prop::sample::select(vec![
            "status=",
            "delay=",
            "to=<",
            "from=<x>, size=5",
            ")",
            "(",
            ">",
            ", ",
            ": ",
            "\r\n",
            "\0",
            "\u{2028}",
            "=",
            "reject: ",
            "reason=(",
            "a@b",
            "\u{85}",
            "\u{fc}",
        ]);
        let part = prop_oneof![forged.prop_map(str::to_owned), any::<String>(), "[a-z0-9.@]{1,8}"];
        prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whatever_the_fields_hold_it_is_one_line_that_greps_read(
            [ses_id, to, dsn, detail, queue_id, correlation_id, sent_by, text] in prop::array::uniform8(awkward()),
            repeat in prop_oneof![Just(1_usize), Just(400)],
            delay_ms: Option<u64>,
        ) {
            let long = |s: String| s.repeat(repeat);
            let fields = EventLine {
                ses_id: long(ses_id),
                to: long(to),
                status: Status::Complaint,
                dsn: Some(long(dsn)),
                delay_ms,
                details: vec![("feedback_type", long(detail.clone())), ("complaint_subtype", long(detail.clone())),
                    ("candidates", long(detail))],
                suppressed: Some(Suppressed::Removed),
                queue_id: Some(long(queue_id)),
                correlation_id: Some(long(correlation_id)),
                sent_by: Some(long(sent_by)),
                text: Some(("agent", long(text.clone()))),
            };
            let bare = EventLine { queue_id: None, correlation_id: None, sent_by: None, ..fields.clone() }.to_line().text;
            let (queue, by) = (fields.queue_id.clone().unwrap_or_default(), fields.sent_by.as_deref());
            let late = EventLine::with_ids(&bare, &queue, fields.correlation_id.as_deref(), by);
            let line = fields.to_line().text;
            prop_assert!(line.len() <= MAX_LINE_BYTES, "{} bytes", line.len());
            prop_assert!(late.len() <= MAX_LINE_BYTES, "{late}\n{line}");
            if repeat == 1 {
                let empty = |id: &Option<String>| id.as_deref().is_none_or(|id| id.is_empty());
                let any_empty = [&fields.queue_id, &fields.correlation_id, &fields.sent_by].into_iter().any(empty);
                prop_assert!(late == line || any_empty, "{late}\n{line}");
            }
            prop_assert!(!line.chars().any(crate::mail::is_control), "{line:?}");
            let (id, rest) = line.split_once(": to=<").expect("an id");
            prop_assert!(!id.is_empty() && !id.contains([':', ' ']) && !NO_IDS.contains(&id), "{id:?}");
            let (to, rest) = rest.split_once('>').expect("a recipient");
            prop_assert!(!to.contains('<'));
            prop_assert!(rest.starts_with(", relay=amazonses.com, dsn="));
            prop_assert!(!rest.contains("to=<") && !rest.contains("from=<") && !rest.contains("reject:"));
            let spaced = format!(" {rest}");
            prop_assert_eq!(grep(&spaced, "status=", &[',']), ["complaint"]);
            prop_assert_eq!(grep(&spaced, "delay=", &['m']).len(), usize::from(delay_ms.is_some()));
            let suppressed = rest.find(", suppressed=removed").expect("suppressed");
            if let Some((_, text)) = rest[suppressed..].split_once(", agent=(") {
                prop_assert_eq!(text.find(')'), Some(text.len() - 1), "{:?}", text);
            }
        }
    }
}

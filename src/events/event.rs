//! An event of SES, read tolerantly: a side field of a wrong type is as good as absent.

use super::json::Json;
use super::{ids, stamp};
use crate::mail::Printable;
use jiff::Timestamp;
use std::borrow::Cow;

/// Most recipients in an event: SES sends to 50 at once, and a body of SQS's 1 MiB holds four times as many as
/// this where nothing is said of them.
pub const MAX_RECIPIENTS: usize = 10_000;

/// Most bytes of a word that comes into the line and the key of every recipient; twice what a tag may have.
const MAX_WORD_BYTES: usize = 512;

/// Over a year: SES gives up after 14 hours at most, so a longer time is a mistake.
const MOST_MILLISECONDS: f64 = 3.2e10;

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// SES took the message.
    Send,
    /// A virus was found.
    Reject,
    /// The recipient's server took it.
    Delivery,
    /// It came back.
    Bounce,
    /// The recipient complained.
    Complaint,
    /// SES goes on trying.
    DeliveryDelay,
    /// The message was opened.
    Open,
    /// A link was followed.
    Click,
    /// A template could not be rendered.
    RenderingFailure,
    /// The recipient changed a subscription.
    Subscription,
}

impl Kind {
    /// Every type.
    pub const ALL: [Self; 10] = [
        Self::Send,
        Self::Reject,
        Self::Delivery,
        Self::Bounce,
        Self::Complaint,
        Self::DeliveryDelay,
        Self::Open,
        Self::Click,
        Self::RenderingFailure,
        Self::Subscription,
    ];

    /// The word for it in metrics and keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Reject => "reject",
            Self::Delivery => "delivery",
            Self::Bounce => "bounce",
            Self::Complaint => "complaint",
            Self::DeliveryDelay => "delivery_delay",
            Self::Open => "open",
            Self::Click => "click",
            Self::RenderingFailure => "rendering_failure",
            Self::Subscription => "subscription",
        }
    }

    /// The type of an event's own word for it, whatever its case, blanks and hyphens.
    fn parse(word: &str) -> Option<Self> {
        fn plain(word: &str) -> impl Iterator<Item = u8> {
            word.bytes().filter(u8::is_ascii_alphanumeric).map(|b| b.to_ascii_lowercase())
        }
        Self::ALL.into_iter().find(|kind| plain(word).eq(plain(kind.as_str())))
    }

    /// The member that holds what is of this type alone.
    fn body(self) -> &'static str {
        match self {
            Self::DeliveryDelay => "deliveryDelay",
            Self::RenderingFailure => "failure",
            other => other.as_str(),
        }
    }
}

/// What an event says of its type and its sender: enough to know whether it is read on.
#[derive(Debug)]
pub(super) struct Head<'j> {
    pub kind: Kind,
    /// Whether an identity sent it.
    pub notification: bool,
    json: &'j Json<'j>,
    mail: Option<&'j Json<'j>>,
}

/// Why there is no head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHead<'j> {
    NotAnEvent(&'static str),
    Unknown { what: Cow<'j, str>, account: Option<Cow<'j, str>> },
    Unreadable(String),
}

/// An event.
#[derive(Debug)]
pub(super) struct Event<'j> {
    /// SES's message id.
    pub id: Option<Cow<'j, str>>,
    /// When the mail was sent.
    pub sent: Option<Timestamp>,
    /// When it happened.
    pub at: Option<Timestamp>,
    /// The same as it is written, or when the mail was sent where the type has no time: for the seen-window.
    pub stamp: Cow<'j, str>,
    /// `feedbackId`; empty where there is none.
    pub feedback_id: Cow<'j, str>,
    pub queue_id: Option<Cow<'j, str>>,
    pub correlation_id: Option<Cow<'j, str>>,
    /// At least one: where it names nobody, one without an address.
    pub to: Vec<Recipient<'j>>,
    pub what: What<'j>,
}

/// What an event says beside that, by its type. Texts are trimmed and not empty.
#[derive(Debug)]
pub(super) enum What<'j> {
    Send,
    Reject { reason: Option<Cow<'j, str>> },
    Delivery { milliseconds: Option<u64>, response: Option<Cow<'j, str>> },
    Bounce { kind: Option<Cow<'j, str>>, subkind: Option<Cow<'j, str>> },
    Complaint { subkind: Option<Cow<'j, str>>, feedback: Option<Cow<'j, str>>, agent: Option<Cow<'j, str>> },
    Delay { kind: Option<Cow<'j, str>>, expires: Option<Timestamp> },
    Open,
    Click { link: Option<Cow<'j, str>> },
    Failure { template: Option<Cow<'j, str>>, error: Option<Cow<'j, str>> },
    Subscription { list: Option<Cow<'j, str>> },
}

/// A recipient, with what a mail server said of it.
#[derive(Debug, Default)]
pub(super) struct Recipient<'j> {
    /// As it came; may be empty.
    pub address: Cow<'j, str>,
    pub action: Option<Cow<'j, str>>,
    pub status: Option<Cow<'j, str>>,
    pub diagnostic: Option<Cow<'j, str>>,
}

impl<'j> Head<'j> {
    /// Looks at what calls itself an event.
    pub fn read(json: &'j Json<'j>) -> Result<Self, NoHead<'j>> {
        let mail = json.object("mail");
        let (event, notification) = (word(json, "eventType"), word(json, "notificationType"));
        let is_notification = event.is_none();
        let what = match (event, notification) {
            (Some(one), Some(other)) if Kind::parse(&one) != Kind::parse(&other) => {
                let (one, other) = (printable(&one), printable(&other));
                return Err(NoHead::Unreadable(format!("eventType {one} and notificationType {other} in one event")));
            }
            (Some(what), _) | (None, Some(what)) => what,
            (None, None) => return Err(NoHead::Unreadable("a type that is no text".to_owned())),
        };
        if let Some(kind) = Kind::parse(&what) {
            return Ok(Self { kind, notification: is_notification, json, mail });
        }
        Err(match (&*what, mail) {
            ("Received", _) if is_notification => NoHead::NotAnEvent("received"),
            ("AmazonSnsSubscriptionSucceeded", _) => NoHead::NotAnEvent("subscription_succeeded"),
            (_, Some(mail)) => NoHead::Unknown { account: account(mail), what },
            (_, None) if !is_notification => NoHead::NotAnEvent("other_product"),
            _ => NoHead::Unreadable(format!("notificationType {} without mail", printable(&what))),
        })
    }

    /// The account that sent the mail, or else the one that its identity belongs to.
    pub fn account(&self) -> Option<Cow<'j, str>> {
        account(self.mail?)
    }

    /// Reads the rest. `correlation_header` carries the correlation id where no tag does.
    ///
    /// # Errors
    /// Where what makes it an event of its type is missing or of a wrong type.
    pub fn event(self, correlation_header: &str) -> Result<Event<'j>, String> {
        let name = self.kind.body();
        let body = self.json.object(name).ok_or_else(|| format!("no {name} in an event of that type"))?;
        let mail = |name: &str| self.mail.and_then(|mail| mail.get(name));
        let (sent, at) = (mail("timestamp"), body.get("timestamp"));
        let (queue_id, correlation_id) = self.mail.map_or((None, None), |mail| ids::read(mail, correlation_header));
        Ok(Event {
            id: self.mail.and_then(|mail| word(mail, "messageId")).map(bounded),
            sent: sent.and_then(stamp::read),
            at: at.and_then(stamp::read),
            stamp: at.or(sent).and_then(Json::as_text).map(bounded).unwrap_or_default(),
            feedback_id: word(body, "feedbackId").map(bounded).unwrap_or_default(),
            queue_id: queue_id.map(bounded),
            correlation_id: correlation_id.map(bounded),
            to: self.to(body)?,
            what: self.what(body),
        })
    }

    /// Those of the body; of the mail, where the type names none of its own.
    fn to(&self, body: &'j Json<'j>) -> Result<Vec<Recipient<'j>>, String> {
        let mut to = match self.kind {
            Kind::Delivery => recipients(body, "recipients"),
            Kind::Bounce => recipients(body, "bouncedRecipients"),
            Kind::Complaint => recipients(body, "complainedRecipients"),
            Kind::DeliveryDelay => recipients(body, "delayedRecipients"),
            _ => destination(self.mail),
        }?;
        if to.is_empty() {
            to.push(Recipient::default());
        }
        Ok(to)
    }

    fn what(&self, body: &'j Json<'j>) -> What<'j> {
        match self.kind {
            Kind::Send => What::Send,
            Kind::Reject => What::Reject { reason: word(body, "reason") },
            Kind::Delivery => What::Delivery {
                milliseconds: milliseconds(body.get("processingTimeMillis")),
                response: word(body, "smtpResponse"),
            },
            Kind::Bounce => What::Bounce {
                kind: word(body, "bounceType").map(bounded),
                subkind: word(body, "bounceSubType").map(bounded),
            },
            Kind::Complaint => What::Complaint {
                subkind: word(body, "complaintSubType"),
                feedback: word(body, "complaintFeedbackType"),
                agent: word(body, "userAgent"),
            },
            Kind::DeliveryDelay => {
                What::Delay { kind: word(body, "delayType"), expires: body.get("expirationTime").and_then(stamp::read) }
            }
            Kind::Open => What::Open,
            Kind::Click => What::Click { link: word(body, "link") },
            Kind::RenderingFailure => {
                What::Failure { template: word(body, "templateName"), error: word(body, "errorMessage") }
            }
            Kind::Subscription => What::Subscription { list: word(body, "contactList") },
        }
    }
}

/// The recipients of a body. None where there is no list; what is a value of another type is no list.
fn recipients<'j>(body: &'j Json<'j>, name: &str) -> Result<Vec<Recipient<'j>>, String> {
    match body.get(name) {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::List(list)) if list.len() > MAX_RECIPIENTS => {
            Err(format!("{} recipients, more than {MAX_RECIPIENTS}", list.len()))
        }
        Some(Json::List(list)) => Ok(list.iter().filter_map(Recipient::read).collect()),
        Some(_) => Err(format!("{name} is no list")),
    }
}

/// The recipients of the mail.
fn destination<'j>(mail: Option<&'j Json<'j>>) -> Result<Vec<Recipient<'j>>, String> {
    match mail.and_then(|mail| mail.get("destination")) {
        Some(Json::List(_)) => mail.map_or(Ok(Vec::new()), |mail| recipients(mail, "destination")),
        Some(one @ Json::Text(_)) => Ok(Recipient::read(one).into_iter().collect()),
        _ => Ok(Vec::new()),
    }
}

impl<'j> Recipient<'j> {
    fn read(json: &'j Json<'j>) -> Option<Self> {
        match json {
            Json::Text(address) => Some(Self { address: Cow::Borrowed(address.trim()), ..Self::default() }),
            Json::Object(_) => Some(Self {
                address: word(json, "emailAddress").unwrap_or_default(),
                action: word(json, "action"),
                status: word(json, "status"),
                diagnostic: word(json, "diagnosticCode"),
            }),
            _ => None,
        }
    }
}

/// The account number: twelve digits, also where it came as a number.
fn account<'j>(mail: &'j Json<'j>) -> Option<Cow<'j, str>> {
    match mail.get("sendingAccountId") {
        Some(Json::Whole(n)) => Some(format!("{n:012}").into()),
        _ => word(mail, "sendingAccountId").or_else(|| {
            let arn = word(mail, "sourceArn")?;
            arn.split(':').nth(4).filter(|part| !part.is_empty()).map(|part| part.to_owned().into())
        }),
    }
}

fn milliseconds(value: Option<&Json<'_>>) -> Option<u64> {
    value?.as_number().filter(|n| (0.0..MOST_MILLISECONDS).contains(n)).map(|n| n as u64)
}

/// A text without outer blanks, where anything is left of it.
fn word<'j>(json: &'j Json<'j>, name: &str) -> Option<Cow<'j, str>> {
    trimmed(json.text(name)?)
}

/// The same of a text at hand.
pub(super) fn trimmed(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let text = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    };
    Some(text).filter(|t| !t.is_empty())
}

/// The beginning of a word.
fn bounded(word: Cow<'_, str>) -> Cow<'_, str> {
    match word {
        Cow::Borrowed(text) => Cow::Borrowed(cut(text, MAX_WORD_BYTES)),
        Cow::Owned(text) => Cow::Owned(cut(&text, MAX_WORD_BYTES).to_owned()),
    }
}

/// The beginning of a text, so many bytes at most, to the end of a character.
pub(super) fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

/// A type's word, fit for a message.
pub(super) fn printable(word: &str) -> Printable {
    Printable::new(word.as_bytes(), 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json<'_> {
        Json::parse(text).expect("JSON")
    }

    fn event(text: &str) -> Result<Event<'static>, String> {
        let json = Box::leak(Box::new(json(Box::leak(text.to_owned().into_boxed_str()))));
        Head::read(json).map_err(|e| format!("{e:?}"))?.event("X-Correlation-ID")
    }

    #[test]
    fn every_type_is_known_by_its_word() {
        for (word, kind) in [
            ("Send", Kind::Send),
            ("Reject", Kind::Reject),
            ("Delivery", Kind::Delivery),
            ("BOUNCE", Kind::Bounce),
            ("complaint", Kind::Complaint),
            ("DeliveryDelay", Kind::DeliveryDelay),
            ("Delivery Delay", Kind::DeliveryDelay),
            ("Open", Kind::Open),
            ("Click", Kind::Click),
            ("Rendering Failure", Kind::RenderingFailure),
            ("RenderingFailure", Kind::RenderingFailure),
            ("Subscription", Kind::Subscription),
        ] {
            assert_eq!(Kind::parse(word), Some(kind), "{word}");
        }
        assert_eq!(Kind::parse("Received"), None);
        assert_eq!(Kind::parse(""), None);
    }

    #[test]
    fn heads_are_told_apart() {
        for (text, what) in [
            (r#"{"eventType":"Bounce","notificationType":"Delivery","mail":{}}"#, "Unreadable"),
            (r#"{"eventType":5,"mail":{}}"#, "Unknown"),
            (r#"{"eventType":null,"mail":{}}"#, "Unreadable"),
            (r#"{"eventType":"Moved","mail":{}}"#, "Unknown"),
            (r#"{"notificationType":"Moved"}"#, "Unreadable"),
            (r#"{"notificationType":"Received","mail":{}}"#, "received"),
            (r#"{"notificationType":"AmazonSnsSubscriptionSucceeded"}"#, "subscription_succeeded"),
            (r#"{"eventType":"TEXT_TTL_EXPIRED","eventTimestamp":1}"#, "other_product"),
        ] {
            let json = json(text);
            let head = Head::read(&json).map(|h| h.kind);
            assert!(head.as_ref().is_err_and(|e| format!("{e:?}").contains(what)), "{text}: {head:?}");
        }
        let both = json(r#"{"eventType":"Bounce","notificationType":"Bounce"}"#);
        assert!(Head::read(&both).is_ok_and(|h| h.kind == Kind::Bounce && !h.notification));
    }

    #[test]
    fn side_fields_of_a_wrong_type_are_as_good_as_absent() {
        let text = r#"{"notificationType":"Bounce","mail":{"messageId":["x"],"timestamp":{},"tags":7,"headers":"h",
            "sendingAccountId":false,"sourceArn":1,"destination":5},"bounce":{"timestamp":[],"feedbackId":3,
            "bounceType":{},"bounceSubType":1,"bouncedRecipients":[null,7,"a@x",{"emailAddress":"b@x","action":[]}]}}"#;
        let event = event(text).expect("an event");
        assert_eq!((event.id, event.sent, event.at), (None, None, None));
        assert_eq!((event.queue_id, event.correlation_id), (None, None));
        let What::Bounce { kind, subkind } = event.what else { panic!("{:?}", event.what) };
        assert_eq!((kind, subkind.as_deref()), (None, Some("1")));
        assert_eq!(event.to.iter().map(|r| &*r.address).collect::<Vec<_>>(), ["a@x", "b@x"]);
        assert!(event.to.iter().all(|r| r.action.is_none()));
    }

    #[test]
    fn what_makes_an_event_must_be_there() {
        for (text, why) in [
            (r#"{"eventType":"Bounce","mail":{},"complaint":{}}"#, "no bounce"),
            (r#"{"eventType":"Rendering Failure","mail":{},"renderingFailure":7}"#, "no failure"),
            (r#"{"eventType":"Bounce","mail":{},"bounce":{"bouncedRecipients":{}}}"#, "no list"),
            (r#"{"eventType":"Delivery","mail":{},"delivery":{"recipients":"a@x"}}"#, "no list"),
        ] {
            assert!(event(text).is_err_and(|e| e.contains(why)), "{text}");
        }
        let many = format!("[{}\"a@x\"]", "\"a@x\",".repeat(MAX_RECIPIENTS));
        let text = format!(r#"{{"eventType":"Delivery","mail":{{}},"delivery":{{"recipients":{many}}}}}"#);
        assert!(event(&text).is_err_and(|e| e.starts_with("10001 recipients")));
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        assert_eq!(cut("a\u{fc}b", 2), "a");
        assert_eq!(cut("ab", 9), "ab");
        assert_eq!(bounded("x".repeat(9_000).into()).len(), MAX_WORD_BYTES);
    }

    #[test]
    fn accounts_are_found() {
        for (mail, number) in [
            (r#"{"sendingAccountId":"123456789012","sourceArn":"arn:aws:ses:r:9:identity/x"}"#, Some("123456789012")),
            (r#"{"sendingAccountId":12345678901}"#, Some("012345678901")),
            (r#"{"sendingAccountId":null,"sourceArn":"arn:aws:ses:r:999:identity/x"}"#, Some("999")),
            (r#"{"sourceArn":"arn:aws:ses:r::identity/x"}"#, None),
            (r#"{"sourceArn":"x"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(account(&json(mail)).as_deref(), number, "{mail}");
        }
    }
}

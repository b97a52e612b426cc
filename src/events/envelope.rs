//! What is around an event: SNS's envelope, EventBridge's, both, several, or nothing. Found by content, not by
//! setting.

use super::json::{Json, without_lone_surrogates};
use crate::mail::Printable;

/// Most envelopes around an event: a topic behind a topic behind EventBridge is the longest way there is.
pub const MAX_WRAPPERS: usize = 3;

/// How the text begins that SES publishes on a new event destination's topic.
const VALIDATION: &str = "Successfully validated SNS topic for Amazon SES";

/// What is in the envelopes.
#[derive(Debug)]
pub(super) enum Found<'j> {
    /// What calls itself an event of SES or of some other product.
    Event {
        /// It.
        json: &'j Json<'j>,
        /// The account that EventBridge names.
        account: Option<&'j str>,
    },
    /// No event, in the word it is counted by.
    NotAnEvent(&'static str),
    /// What cannot be read, and why.
    Unreadable(String),
}

/// Takes all envelopes off and hands over what is in them.
pub(super) fn open<T>(body: &[u8], then: impl FnOnce(Found<'_>) -> T) -> T {
    match std::str::from_utf8(body) {
        Ok(text) => open_text(text, Around { wrappers: 0, account: None }, then),
        Err(e) => then(Found::Unreadable(format!("not UTF-8: {e}"))),
    }
}

/// What has been taken off.
#[derive(Clone, Copy)]
struct Around<'a> {
    wrappers: usize,
    account: Option<&'a str>,
}

fn open_text<T>(text: &str, around: Around<'_>, then: impl FnOnce(Found<'_>) -> T) -> T {
    let error = match Json::parse(text) {
        Ok(json) => return open_json(&json, around, then),
        Err(_) if text.trim_start().starts_with(VALIDATION) => return then(Found::NotAnEvent("validation")),
        Err(error) => error,
    };
    match without_lone_surrogates(text).as_deref().map(Json::parse) {
        Some(Ok(json)) => open_json(&json, around, then),
        _ => then(Found::Unreadable(format!("not JSON: {error}"))),
    }
}

fn open_json<T>(json: &Json<'_>, around: Around<'_>, then: impl FnOnce(Found<'_>) -> T) -> T {
    let typed = json.get("eventType").or_else(|| json.get("notificationType")).is_some();
    match json {
        Json::Text(text) if text.trim_start().starts_with(VALIDATION) => then(Found::NotAnEvent("validation")),
        Json::Object(_) if typed && json.object("mail").is_some() => {
            then(Found::Event { json, account: around.account })
        }
        Json::Object(_) if json.get("Type").is_some() => open_sns(json, around, then),
        Json::Object(_) if json.get("detail-type").is_some() => open_eventbridge(json, around, then),
        Json::Object(_) if typed => then(Found::Event { json, account: around.account }),
        Json::Object(_) if json.text("Event").as_deref() == Some("s3:TestEvent") => then(Found::NotAnEvent("s3_test")),
        Json::Object(_) => then(Found::Unreadable("no event, and no envelope that is known".to_owned())),
        _ => then(Found::Unreadable("no JSON object".to_owned())),
    }
}

/// SNS's envelope. Its URLs are never fetched: an SQS queue needs no confirmation, and anyone may send one.
fn open_sns<T>(json: &Json<'_>, around: Around<'_>, then: impl FnOnce(Found<'_>) -> T) -> T {
    if matches!(json.text("Type").as_deref(), Some("SubscriptionConfirmation" | "UnsubscribeConfirmation")) {
        return then(Found::NotAnEvent("sns_confirmation"));
    }
    let Some(around) = around.deeper() else { return then(too_deep()) };
    match json.get("Message") {
        Some(Json::Text(message)) => open_text(message, around, then),
        Some(message @ Json::Object(_)) => open_json(message, around, then),
        _ => then(Found::Unreadable("an SNS envelope without Message".to_owned())),
    }
}

/// EventBridge's envelope. SES's advisor and the sending status come in one too.
fn open_eventbridge<T>(json: &Json<'_>, around: Around<'_>, then: impl FnOnce(Found<'_>) -> T) -> T {
    let (what, source) = (json.text("detail-type").unwrap_or_default(), json.text("source").unwrap_or_default());
    let of_another_service = source.starts_with("aws.") && source != "aws.ses";
    if of_another_service || ["Advisor Recommendation", "Sending Status"].iter().any(|w| what.starts_with(w)) {
        return then(Found::NotAnEvent("eventbridge"));
    }
    let Some(mut around) = around.deeper() else { return then(too_deep()) };
    let account = json.text("account");
    around.account = account.as_deref().or(around.account);
    match json.get("detail") {
        Some(Json::Text(detail)) => open_text(detail, around, then),
        Some(detail @ Json::Object(_)) => open_json(detail, around, then),
        _ => then(Found::Unreadable(format!("EventBridge's {} without detail", Printable::new(what.as_bytes(), 64)))),
    }
}

impl Around<'_> {
    /// With one envelope more, where that is not one too many.
    fn deeper(self) -> Option<Self> {
        (self.wrappers < MAX_WRAPPERS).then(|| Self { wrappers: self.wrappers + 1, ..self })
    }
}

fn too_deep() -> Found<'static> {
    Found::Unreadable(format!("more than {MAX_WRAPPERS} envelopes, one in another"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What is found: `event` with its marker and the account, the word of a non-event, or the complaint.
    fn found(body: &[u8]) -> String {
        open(body, |found| match found {
            Found::Event { json, account } => {
                format!("event {} {}", json.text("n").unwrap_or_default(), account.unwrap_or("-"))
            }
            Found::NotAnEvent(word) => word.to_owned(),
            Found::Unreadable(why) => format!("unreadable: {why}"),
        })
    }

    fn sns(message: &str) -> String {
        json!({"Type": "Notification", "TopicArn": "t", "Message": message}).to_string()
    }

    fn bridge(detail: &Value) -> Value {
        json!({"detail-type": "Email Bounced", "source": "aws.ses", "account": "111122223333", "detail": detail})
    }

    #[test]
    fn envelopes_come_off() {
        let event = json!({"eventType": "Bounce", "mail": {}, "n": 7});
        let bare = event.to_string();
        assert_eq!(found(bare.as_bytes()), "event 7 -");
        assert_eq!(found(sns(&bare).as_bytes()), "event 7 -");
        assert_eq!(found(sns(&sns(&sns(&bare))).as_bytes()), "event 7 -");
        assert!(found(sns(&sns(&sns(&sns(&bare)))).as_bytes()).contains("more than 3 envelopes"));
        assert_eq!(found(bridge(&event).to_string().as_bytes()), "event 7 111122223333");
        assert_eq!(found(bridge(&bare.clone().into()).to_string().as_bytes()), "event 7 111122223333");
        assert_eq!(found(sns(&bridge(&event).to_string()).as_bytes()), "event 7 111122223333");
        let object = json!({"Type": "Notification", "Message": event}).to_string();
        assert_eq!(found(object.as_bytes()), "event 7 -");
        assert_eq!(found(format!("\u{feff} {bare}\n").as_bytes()), "event 7 -");
        assert_eq!(found(bare.replace("7", "\"\\ud83d\"").as_bytes()), "event \u{fffd} -");
    }

    #[test]
    fn what_is_no_event_is_told_apart() {
        let validation = "Successfully validated SNS topic for Amazon SES event publishing.";
        assert_eq!(found(validation.as_bytes()), "validation");
        assert_eq!(found(format!("{validation:?}").as_bytes()), "validation");
        assert_eq!(found(sns(validation).as_bytes()), "validation");
        assert_eq!(found(br#"{"Type":"UnsubscribeConfirmation","Message":"x"}"#), "sns_confirmation");
        assert_eq!(found(br#"{"Service":"Amazon S3","Event":"s3:TestEvent"}"#), "s3_test");
        for (what, source) in [("Advisor Recommendation Status Open", "aws.ses"), ("EC2 State-change", "aws.ec2")] {
            let body = json!({"detail-type": what, "source": source, "detail": {}}).to_string();
            assert_eq!(found(body.as_bytes()), "eventbridge");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (body, why) in [
            (&b""[..], "not JSON"),
            (b"hello", "not JSON"),
            (b"{\"a\":1} {}", "not JSON"),
            (b"\"\xff\"", "not UTF-8"),
            (b"null", "no JSON object"),
            (b"[]", "no JSON object"),
            (b"\"{}\"", "no JSON object"),
            (b"{}", "no event"),
            (br#"{"bounceType":"Permanent"}"#, "no event"),
            (br#"{"Type":"Notification"}"#, "without Message"),
            (br#"{"Type":"Notification","Message":7}"#, "without Message"),
            (br#"{"Type":"Notification","Message":"cut {"}"#, "not JSON"),
            (br#"{"detail-type":"Email Bounced","source":"aws.ses"}"#, "without detail"),
            (br#"{"detail-type":"Email Bounced","source":"aws.ses","detail":{}}"#, "no event"),
        ] {
            assert!(found(body).starts_with("unreadable: ") && found(body).contains(why), "{}", found(body));
        }
        assert!(found("[".repeat(5_000).as_bytes()).contains("recursion limit"));
    }
}

//! From a body to its effects: one pure function, which no input can make panic.

use super::envelope::{self, Found};
use super::event::{Head, Kind, NoHead, printable};
use super::{effects, json::Json};
use crate::mail::Printable;
use crate::rules::SuppressionRules;
use crate::store::Effect;

/// What the reading of an event depends on.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// What suppresses, and for how long.
    pub rules: &'a SuppressionRules,
    /// Whose events are taken; empty: all.
    pub accounts: &'a [String],
    /// The header that carries the correlation id where no tag does.
    pub correlation_header: &'a str,
    /// Unix seconds: for an event that names no time, or one in the future.
    pub now: i64,
}

/// What a body is, and what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Digest {
    /// What it is.
    pub verdict: Verdict,
    /// What it does, per recipient; empty unless the verdict is [`Verdict::Event`].
    pub effects: Vec<Effect>,
    /// When it happened, or else when the mail was sent, Unix milliseconds; `None` where the event says neither.
    pub happened: Option<i64>,
    /// Something odd in an event that was read all the same, for the daemon's own log.
    pub oddity: Option<String>,
}

/// What a body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An event of SES about a message.
    Event {
        /// Its type.
        kind: Kind,
        /// Whether an identity sent it (`notificationType`), not a configuration set (`eventType`).
        notification: bool,
    },
    /// Something that comes on such a queue and is no event: dropped, and counted by this word.
    NotAnEvent(&'static str),
    /// An event of an account that is not in `accounts`: changes nothing.
    Foreign {
        /// The account, printable; empty where the event names none.
        account: String,
    },
    /// An event of SES of a type that is not known here: kept.
    Unknown {
        /// Its type, printable.
        what: String,
    },
    /// What cannot be read, with the reason.
    Unreadable {
        /// Why, printable.
        why: String,
    },
}

/// Most bytes of a text about a body.
const MAX_WORDS_BYTES: usize = 300;

/// Reads a body.
#[must_use]
pub fn digest(body: &[u8], settings: &Settings<'_>) -> Digest {
    envelope::open(body, |found| match found {
        Found::Event { json, account } => read(json, account, settings),
        Found::NotAnEvent(word) => Verdict::NotAnEvent(word).into(),
        Found::Unreadable(why) => unreadable(&why),
    })
}

/// Reads what calls itself an event; `outer` is the account that EventBridge names.
fn read(json: &Json<'_>, outer: Option<&str>, settings: &Settings<'_>) -> Digest {
    let head = match Head::read(json) {
        Ok(head) => head,
        Err(NoHead::NotAnEvent(word)) => return Verdict::NotAnEvent(word).into(),
        Err(NoHead::Unreadable(why)) => return unreadable(&why),
        Err(NoHead::Unknown { what, account }) => {
            let foreign = foreign(account.as_deref().or(outer), settings.accounts);
            return foreign.unwrap_or_else(|| Verdict::Unknown { what: printable(&what).to_string() }).into();
        }
    };
    if let Some(foreign) = foreign(head.account().as_deref().or(outer), settings.accounts) {
        return foreign.into();
    }
    let (kind, notification) = (head.kind, head.notification);
    match head.event(settings.correlation_header) {
        Ok(event) => {
            let (effects, oddity) = effects::of(&event, settings);
            let oddity = oddity.map(|text| bounded(&text));
            let happened = event.at.or(event.sent).map(|time| time.as_millisecond());
            Digest { verdict: Verdict::Event { kind, notification }, effects, happened, oddity }
        }
        Err(why) => unreadable(&why),
    }
}

/// The verdict, where the account is none of ours. Anyone who may write to the topic or the queue can put
/// anybody's address into an event.
fn foreign(account: Option<&str>, ours: &[String]) -> Option<Verdict> {
    let account = account.unwrap_or_default().trim();
    let known = ours.is_empty() || ours.iter().any(|a| a == account);
    (!known).then(|| Verdict::Foreign { account: printable(account).to_string() })
}

fn unreadable(why: &str) -> Digest {
    Verdict::Unreadable { why: bounded(why) }.into()
}

fn bounded(text: &str) -> String {
    Printable::new(text.as_bytes(), MAX_WORDS_BYTES).to_string()
}

impl From<Verdict> for Digest {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, effects: Vec::new(), happened: None, oddity: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdict(body: &str, accounts: &[&str]) -> Verdict {
        let accounts: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        let rules = SuppressionRules::default();
        let settings = Settings { rules: &rules, accounts: &accounts, correlation_header: "X-ID", now: 1_800_000_000 };
        digest(body.as_bytes(), &settings).verdict
    }

    fn foreign(account: &str) -> Verdict {
        Verdict::Foreign { account: account.to_owned() }
    }

    #[test]
    fn only_events_of_our_accounts_are_taken() {
        let event = |mail: &str| format!(r#"{{"eventType":"Send","mail":{mail},"send":{{}}}}"#);
        let taken = Verdict::Event { kind: Kind::Send, notification: false };
        let (ours, theirs) = (event(r#"{"sendingAccountId":"111"}"#), event(r#"{"sendingAccountId":"22\n2"}"#));
        let nobodys = event("{}");
        assert_eq!(verdict(&ours, &["999", "111"]), taken);
        assert_eq!(verdict(&theirs, &["111"]), foreign("22 2"));
        assert_eq!(verdict(&nobodys, &["111"]), foreign(""));
        assert_eq!(verdict(&nobodys, &[]), taken);
        let by_arn = event(r#"{"sourceArn":"arn:aws:ses:eu-west-1:111:identity/x"}"#);
        assert_eq!(verdict(&by_arn, &["111"]), taken);
        let bridge = |event: &str, account: &str| {
            format!(r#"{{"detail-type":"Email Sent","source":"aws.ses","account":"{account}","detail":{event}}}"#)
        };
        assert_eq!(verdict(&bridge(&nobodys, "111"), &["111"]), taken);
        assert_eq!(verdict(&bridge(&nobodys, "222"), &["111"]), foreign("222"));
        assert_eq!(verdict(&bridge(&theirs, "111"), &["111"]), foreign("22 2"), "the event's own word counts");
        let unknown = ours.replace("\"Send\"", "\"Moved\"");
        assert_eq!(verdict(&unknown, &["111"]), Verdict::Unknown { what: "Moved".into() });
        assert_eq!(verdict(&unknown, &["222"]), foreign("111"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn no_body_panics(body: Vec<u8>, text in "\\PC{0,60}") {
            let _ = verdict(&String::from_utf8_lossy(&body), &[]);
            let quoted = serde_json::Value::from(text).to_string();
            for template in [
                r#"{"eventType":"Bounce","mail":{"messageId":#,"timestamp":#},"bounce":{"bounceType":"Permanent",
                    "bounceSubType":#,"timestamp":#,"bouncedRecipients":[{"emailAddress":#,"status":#}]}}"#,
                r##"{"Type":"Notification","Message":#}"##,
                r##"{"eventType":#,"mail":{"tags":{"queue_id":#}},"send":{}}"##,
            ] {
                let _ = verdict(&template.replace('#', &quoted), &[]);
            }
        }
    }
}

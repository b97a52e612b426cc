//! What an event does, recipient by recipient: its line, its key in the seen-window, and what it means for the
//! suppression list by the rules.

use super::Settings;
use super::bounce::{self, Meaning, failed, known, rfc3463};
use super::event::{Event, Kind, Recipient, What, cut};
use crate::lines::{EventLine, MAX_LINE_BYTES, Status, Suppressed};
use crate::mail::Address;
use crate::rules::Ttl;
use crate::store::{Cause, Effect, Entry, MAX_EVIDENCE_BYTES, Origin, Reason, SeenKey};
use std::borrow::Cow;
use std::collections::HashMap;

/// What stands for a message id where an event names none.
const NO_ID: &str = "NOID";

/// The effects of an event, and something odd in it.
pub(super) fn of(event: &Event<'_>, settings: &Settings<'_>) -> (Vec<Effect>, Option<String>) {
    let mut reading = Reading { event, settings, oddity: None };
    if event.id.is_none() {
        reading.odd(|| "no mail.messageId".to_owned());
    }
    let effects = reading.effects();
    (effects, reading.oddity)
}

/// A recipient as the line and the list know it.
struct Party<'j> {
    /// Canonical, or as it came.
    to: String,
    address: Option<Address>,
    as_it_came: &'j str,
}

/// The reading of one event.
struct Reading<'e, 'j> {
    event: &'e Event<'j>,
    settings: &'e Settings<'e>,
    oddity: Option<String>,
}

impl<'e, 'j> Reading<'e, 'j> {
    fn effects(&mut self) -> Vec<Effect> {
        let event = self.event;
        match &event.what {
            What::Send => self.plain(Kind::Send, Status::Accepted, |_, _| {}),
            What::Reject { reason } => {
                self.plain(Kind::Reject, Status::Rejected, |line, _| line.text = text("reason", reason.as_ref()))
            }
            What::Delivery { milliseconds, response } => {
                let delay = milliseconds.or_else(|| event.took());
                self.delivery(delay, response.as_ref())
            }
            What::Bounce { kind, subkind } => self.bounce(kind.as_deref(), subkind.as_deref()),
            What::Complaint { subkind, feedback, agent } => {
                let words = [("feedback_type", feedback.as_deref()), ("complaint_subtype", subkind.as_deref())];
                self.complaint(words, agent.as_ref())
            }
            What::Delay { kind, expires } => {
                let expires = expires.map(|time| time.to_string());
                self.plain(Kind::DeliveryDelay, Status::Delayed, |line, recipient| {
                    line.dsn = recipient.status.as_deref().and_then(rfc3463).map(str::to_owned);
                    line.details = details([("delay_type", kind.as_deref()), ("expires", expires.as_deref())]);
                    line.text = text("reason", recipient.diagnostic.as_ref());
                })
            }
            What::Open => self.tracking(Kind::Open, Status::Opened, None),
            What::Click { link } => self.tracking(Kind::Click, Status::Clicked, link.as_ref()),
            What::Failure { template, error } => self.plain(Kind::RenderingFailure, Status::Failed, |line, _| {
                line.details = details([("template", template.as_deref())]);
                line.text = text("reason", error.as_ref());
            }),
            What::Subscription { list } => self.plain(Kind::Subscription, Status::Subscription, |line, _| {
                line.details = details([("list", list.as_deref())]);
            }),
        }
    }

    /// The effects of a type that has nothing to do with the list.
    fn plain(&mut self, kind: Kind, status: Status, fill: impl Fn(&mut EventLine, &Recipient<'j>)) -> Vec<Effect> {
        let parties = self.distinct(|_| false);
        let effect = |(party, recipient): (Party<'_>, &Recipient<'j>)| {
            let seen = self.seen(kind, &party.to, &[&self.event.stamp]);
            let mut line = self.line(party.to, status);
            fill(&mut line, recipient);
            Effect { seen, cause: Cause::Nothing, line }
        };
        parties.into_iter().map(effect).collect()
    }

    /// An open or a click: SES does not say by whom, so it is only known where the mail went to one alone.
    fn tracking(&mut self, kind: Kind, status: Status, link: Option<&Cow<'j, str>>) -> Vec<Effect> {
        let mut parties = self.distinct(|_| false);
        let to = if parties.len() == 1 { parties.pop().map(|(party, _)| party.to) } else { None };
        let to = to.unwrap_or_default();
        let seen = self.seen(kind, &to, &[&self.event.stamp, link.map_or("", |link| link)]);
        let line = EventLine { text: text("link", link), ..self.line(to, status) };
        vec![Effect { seen, cause: Cause::Nothing, line }]
    }

    fn delivery(&mut self, delay_ms: Option<u64>, response: Option<&Cow<'j, str>>) -> Vec<Effect> {
        let parties = self.distinct(|_| false);
        let effect = |(party, _): (Party<'_>, _)| Effect {
            seen: self.seen(Kind::Delivery, &party.to, &[]),
            cause: party.address.map_or(Cause::Nothing, |address| Cause::Delivered { address }),
            line: EventLine {
                dsn: Some("2.0.0".to_owned()),
                delay_ms,
                text: text("response", response),
                ..self.line(party.to, Status::Delivered)
            },
        };
        parties.into_iter().map(effect).collect()
    }

    fn bounce(&mut self, kind: Option<&str>, subkind: Option<&str>) -> Vec<Effect> {
        let permanent = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("Permanent"));
        let (meaning, default_dsn) = (bounce::meaning(kind, subkind), if permanent { "5.0.0" } else { "4.0.0" });
        if kind.is_none() {
            self.odd(|| "no bounceType".to_owned());
        }
        let parties = self.distinct(failed);
        let effect = |(party, recipient): (Party<'_>, &Recipient<'j>)| {
            let class = if permanent && failed(recipient) { "permanent" } else { "other" };
            let diagnostic = recipient.diagnostic.as_deref();
            let meaning = if failed(recipient) { meaning } else { Meaning::Nothing };
            Effect {
                seen: self.seen(Kind::Bounce, &party.to, &[class]),
                cause: self.bounced(&party, meaning, diagnostic, &bounce::joined(kind, subkind)),
                line: EventLine {
                    dsn: Some(recipient.status.as_deref().and_then(rfc3463).unwrap_or(default_dsn).to_owned()),
                    details: details([("bounce_type", kind.map(known)), ("bounce_subtype", subkind.map(known))]),
                    suppressed: Some(Suppressed::No),
                    text: text("reason", recipient.diagnostic.as_ref()),
                    ..self.line(party.to, Status::Bounced)
                },
            }
        };
        parties.into_iter().map(effect).collect()
    }

    /// What a bounce does to the list. `words` are its type and subtype, the evidence where there is no other.
    fn bounced(&self, party: &Party<'_>, meaning: Meaning, diagnostic: Option<&str>, words: &str) -> Cause {
        let rules = self.settings.rules;
        let said = |otherwise| diagnostic.unwrap_or(otherwise);
        match meaning {
            Meaning::Nothing => Cause::Nothing,
            Meaning::Permanent => self.suppress(party, Reason::Bounce, rules.permanent_bounce, said(words), false),
            Meaning::GlobalList => {
                let evidence = said("on SES's global suppression list");
                self.suppress(party, Reason::GlobalList, rules.global_list, evidence, false)
            }
            Meaning::Echo(why) => self.suppress(party, Reason::Bounce, rules.permanent_bounce, said(why), true),
            Meaning::Full => {
                let rule = rules.mailbox_full;
                let entry = self.entry(party, Reason::MailboxFull, rule.ttl, said("mailbox full"));
                entry.map_or(Cause::Nothing, |entry| Cause::Full {
                    delivery: self.seen(Kind::Delivery, &party.to, &[]),
                    mail_time: self.mail_time(),
                    entry,
                    rule,
                })
            }
        }
    }

    fn complaint(&mut self, words: [(&'static str, Option<&str>); 2], agent: Option<&Cow<'j, str>>) -> Vec<Effect> {
        let parties = self.distinct(|_| false);
        let [(_, feedback), (_, subkind)] = words;
        let candidates = parties.iter().filter(|(party, _)| !party.to.is_empty()).count();
        let not_spam = feedback.is_some_and(|word| word.eq_ignore_ascii_case("not-spam"));
        let certain = candidates == 1 || !self.settings.rules.complaint_needs_one_candidate;
        let echo = subkind.is_some_and(bounce::names_our_list);
        let evidence = match feedback {
            _ if echo => "on SES's suppression list for a complaint".to_owned(),
            Some(word) => format!("complaint ({})", cut(word, 64)),
            None => "complaint".to_owned(),
        };
        let ttl = self.settings.rules.complaint;
        let effect = |(party, _): (Party<'_>, _)| {
            let mut details = details(words);
            details.push(("candidates", candidates.to_string()));
            Effect {
                // "not spam" takes a report back, and may come before it
                seen: self.seen(Kind::Complaint, &party.to, if not_spam { &["not-spam"] } else { &[] }),
                cause: if certain && !not_spam {
                    self.suppress(&party, Reason::Complaint, ttl, &evidence, echo)
                } else {
                    Cause::Nothing
                },
                line: EventLine {
                    details,
                    suppressed: Some(Suppressed::No),
                    text: text("agent", agent),
                    ..self.line(party.to, Status::Complaint)
                },
            }
        };
        parties.into_iter().map(effect).collect()
    }

    fn suppress(&self, party: &Party<'_>, reason: Reason, ttl: Ttl, evidence: &str, echo: bool) -> Cause {
        self.entry(party, reason, ttl, evidence).map_or(Cause::Nothing, |entry| Cause::Suppress {
            entry,
            mail_time: self.mail_time(),
            echo,
        })
    }

    /// The entry that an event makes, where its recipient has an address.
    fn entry(&self, party: &Party<'_>, reason: Reason, ttl: Ttl, evidence: &str) -> Option<Entry> {
        let address = party.address.clone()?;
        let created = self.time();
        let spelling = Address::spelling(party.as_it_came);
        Some(Entry {
            spelling: (spelling != address.as_str()).then(|| spelling.to_owned()),
            address,
            reason,
            evidence: cut(evidence, MAX_EVIDENCE_BYTES).to_owned(),
            source: Origin::Event,
            created,
            expires: match ttl {
                Ttl::Never => None,
                Ttl::For(time) => Some(created.saturating_add_unsigned(time.as_secs())),
            },
        })
    }

    /// When it happened, Unix seconds; never in the future.
    fn time(&self) -> i64 {
        let time = self.event.at.or(self.event.sent).map(|time| time.as_second());
        time.map_or(self.settings.now, |time| time.min(self.settings.now))
    }

    /// When the mail was sent, Unix seconds. By a clock that is ahead of ours it may be in the future, and after a
    /// removal of this second all the same.
    fn mail_time(&self) -> i64 {
        self.event.sent.map_or_else(|| self.time(), |time| time.as_second())
    }

    /// The recipients, each once: of several with the same address the first, or the first that is `better`.
    fn distinct(&mut self, better: impl Fn(&Recipient<'j>) -> bool) -> Vec<(Party<'e>, &'e Recipient<'j>)> {
        let to = &self.event.to;
        let mut found: Vec<(Party<'e>, &'e Recipient<'j>)> = Vec::with_capacity(to.len());
        let mut places = HashMap::new();
        for recipient in to {
            let party = Party::read(&recipient.address);
            self.look_at(&party);
            let place = if to.len() > 1 { *places.entry(party.to.clone()).or_insert(found.len()) } else { found.len() };
            match found.get_mut(place) {
                None => found.push((party, recipient)),
                Some(first) if better(recipient) && !better(first.1) => *first = (party, recipient),
                Some(_) => {}
            }
        }
        found
    }

    fn look_at(&mut self, party: &Party<'_>) {
        if party.to.is_empty() {
            self.odd(|| "no recipient".to_owned());
        } else if party.address.is_none() {
            self.odd(|| format!("{:?} is no address", cut(&party.to, 100)));
        }
    }

    fn odd(&mut self, what: impl FnOnce() -> String) {
        self.oddity.get_or_insert_with(what);
    }

    /// The key of the seen-window. Events without a message id are told apart by whatever they have.
    fn seen(&self, kind: Kind, to: &str, more: &[&str]) -> SeenKey {
        let mut parts = smallvec::SmallVec::<[&str; 6]>::from_slice(&[kind.as_str(), to]);
        parts.extend_from_slice(more);
        let Some(id) = &self.event.id else {
            parts.extend_from_slice(&[&self.event.stamp, &self.event.feedback_id]);
            return SeenKey::new("", &parts);
        };
        SeenKey::new(id, &parts)
    }

    /// The line, with what every type has.
    fn line(&self, to: String, status: Status) -> EventLine {
        let event = self.event;
        EventLine {
            ses_id: event.id.as_deref().unwrap_or(NO_ID).to_owned(),
            to,
            status,
            dsn: None,
            delay_ms: None,
            details: Vec::new(),
            suppressed: None,
            queue_id: event.queue_id.as_deref().map(str::to_owned),
            correlation_id: event.correlation_id.as_deref().map(str::to_owned),
            sent_by: None,
            text: None,
        }
    }
}

impl<'j> Party<'j> {
    fn read(text: &'j str) -> Self {
        let address = Address::parse(text).ok();
        let to = address.as_ref().map_or(text, Address::as_str).to_owned();
        Self { to, address, as_it_came: text }
    }
}

impl Event<'_> {
    /// Milliseconds from the sending to the event, where both times are known and in that order.
    fn took(&self) -> Option<u64> {
        let milliseconds = self.at?.as_millisecond().checked_sub(self.sent?.as_millisecond())?;
        u64::try_from(milliseconds).ok()
    }
}

/// The words of a line that are there.
fn details<const N: usize>(words: [(&'static str, Option<&str>); N]) -> Vec<(&'static str, String)> {
    words.into_iter().filter_map(|(name, word)| Some((name, cut(word?, MAX_LINE_BYTES).to_owned()))).collect()
}

/// The text that ends a line: no more of it is copied than a line can hold.
fn text(name: &'static str, text: Option<&Cow<'_, str>>) -> Option<(&'static str, String)> {
    text.map(|text| (name, cut(text, MAX_LINE_BYTES).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::digest;
    use crate::rules::SuppressionRules;

    /// The effects of an event of this type, with `mail` and `body` in it.
    fn effects(kind: &str, body: &str) -> Vec<Effect> {
        let name = kind.to_ascii_lowercase();
        let mail = r#"{"messageId":"0109-1","timestamp":"2026-11-19T10:00:00.000Z"}"#;
        read(&format!(r#"{{"eventType":"{kind}","mail":{mail},"{name}":{body}}}"#))
    }

    fn read(event: &str) -> Vec<Effect> {
        let rules = SuppressionRules::default();
        let settings = Settings { rules: &rules, accounts: &[], correlation_header: "", now: 1_800_000_000 };
        digest(event.as_bytes(), &settings).effects
    }

    fn bounce(kind: &str, subkind: &str, recipient: &str) -> Effect {
        let body = format!(
            r#"{{"bounceType":"{kind}","bounceSubType":"{subkind}","timestamp":"2026-11-19T10:00:05.000Z",
            "bouncedRecipients":[{recipient}]}}"#
        );
        effects("Bounce", &body).remove(0)
    }

    const GONE: &str = r#"{"emailAddress":"Gone <Gone@example.net>"}"#;

    #[test]
    fn an_event_is_the_same_whichever_way_it_comes() {
        let one = bounce("Permanent", "General", GONE);
        assert_eq!(
            bounce("permanent", "NoEmail", r#"{"emailAddress":"gone@EXAMPLE.net","status":"5.1.1"}"#).seen,
            one.seen
        );
        assert_ne!(bounce("Transient", "General", GONE).seen, one.seen, "a permanent one may follow");
        let delayed = bounce("Permanent", "General", r#"{"emailAddress":"gone@example.net","action":"delayed"}"#);
        assert_eq!(delayed.seen, bounce("Undetermined", "x", GONE).seen);
        assert_ne!(bounce("Permanent", "General", r#""other@example.net""#).seen, one.seen);
    }

    #[test]
    fn a_complaint_is_not_lost_behind_its_reverse() {
        let complaint = |feedback: &str| {
            let list = r#"[{"emailAddress":"gone@example.net"}]"#;
            let body = format!(r#"{{"complaintFeedbackType":"{feedback}","complainedRecipients":{list}}}"#);
            effects("Complaint", &body).remove(0)
        };
        assert_ne!(complaint("not-spam").seen, complaint("abuse").seen);
        assert_eq!(complaint("other").seen, complaint("abuse").seen);
    }

    #[test]
    fn mail_of_a_clock_that_is_ahead_was_sent_when_it_says() {
        let effects = read(
            r#"{"eventType":"Bounce","mail":{"messageId":"1","timestamp":"2030-01-01T00:00:00Z"},"bounce":{
            "bounceType":"Permanent","bouncedRecipients":["a@example.net"],"timestamp":"2030-01-01T00:00:00Z"}}"#,
        );
        let Cause::Suppress { entry, mail_time, .. } = &effects[0].cause else { panic!("{effects:?}") };
        assert_eq!((entry.created, *mail_time), (1_800_000_000, 1_893_456_000));
    }

    #[test]
    fn a_full_mailbox_names_the_delivery_that_takes_it_back() {
        let full = bounce("Transient", "MailboxFull", GONE);
        let delivered =
            effects("Delivery", r#"{"timestamp":"2026-11-19T10:01:00.000Z","recipients":["gone@example.net"]}"#);
        let Cause::Full { delivery, entry, .. } = full.cause else { panic!("{full:?}") };
        assert_eq!(delivery, delivered[0].seen);
        assert!(matches!(&delivered[0].cause, Cause::Delivered { address } if *address == entry.address));
        assert_eq!(delivered[0].line.delay_ms, Some(60_000));
    }

    #[test]
    fn events_without_an_id_are_told_apart_by_their_times() {
        let event = |seconds: u8| {
            read(&format!(
                r#"{{"eventType":"Bounce","bounce":{{"bounceType":"Permanent","bouncedRecipients":["a@example.net"],
                "timestamp":"2026-11-19T10:00:0{seconds}Z"}}}}"#
            ))
        };
        assert_eq!(event(1)[0].line.ses_id, "NOID");
        assert_eq!(event(1)[0].seen, event(1)[0].seen);
        assert_ne!(event(1)[0].seen, event(2)[0].seen);
    }

    #[test]
    fn several_opens_of_one_message_are_several_events() {
        let open = |minute: u8| effects("Open", &format!(r#"{{"timestamp":"2026-11-19T10:0{minute}:00Z"}}"#)).remove(0);
        assert_ne!(open(1).seen, open(2).seen);
        let click = |link: &str| {
            let body = format!(r#"{{"timestamp":"2026-11-19T10:00:00Z","link":"{link}"}}"#);
            effects("Click", &body).remove(0)
        };
        assert_ne!(click("https://a").seen, click("https://b").seen);
    }
}

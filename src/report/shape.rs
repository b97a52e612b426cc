//! What the report holds: what `--json` prints, and what text and page are made of. The names of the fields are part of the
//! command's surface.

use super::judge::Measure;
use super::queue::Queue;
use serde::Serialize;

/// What a span of the logs says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The first second, RFC 3339.
    pub since: String,
    /// The second behind the last.
    pub until: String,
    /// When the report was made.
    pub made: String,
    /// What was read.
    pub logs: LogsRead,
    /// Delivery, bounces, complaints, queue.
    pub measures: Vec<Measure>,
    /// Whether one of them is an alert.
    pub alert: bool,
    /// What must be known to read the rest.
    pub notes: Vec<String>,
    /// Messages that came into the queue.
    pub accepted: Accepted,
    /// Refusals: of commands, mostly of one recipient.
    pub refused: Refused,
    /// Recipients that Postfix handed on.
    pub sent: Sent,
    /// Recipients that SES handed on.
    pub delivered: u64,
    /// Recipients that bounced.
    pub bounced: Bounced,
    /// Recipients that complained.
    pub complaints: u64,
    /// What Postfix tries again.
    pub deferred: Deferred,
    /// Messages that Postfix gave up.
    pub expired: u64,
    /// Held by Postfix, by a rule or a milter.
    pub held: u64,
    /// Discarded by Postfix, by a rule or a milter.
    pub discarded: u64,
    /// What else SES told.
    pub ses: Ses,
    /// Sent to SES in the span, by what was heard of it.
    pub unheard: Unheard,
    /// From submission to delivery, all domains.
    pub delay: DelayShown,
    /// Recipient domains, by mail.
    pub domains: Vec<DomainShown>,
    /// Senders, by messages.
    pub senders: Vec<Named>,
    /// Clients, by messages.
    pub clients: Vec<Named>,
    /// Why mail bounced, at SES and before.
    pub bounce_reasons: Vec<Named>,
    /// Why mail is deferred.
    pub defer_reasons: Vec<Named>,
    /// Over time.
    pub series: Series,
    /// Postfix's queue now, where it could be asked.
    pub queue: Option<Queue>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogsRead {
    /// How many logs.
    pub files: usize,
    /// Their lines.
    pub lines: u64,
    /// Those within the span.
    pub lines_in_span: u64,
    /// Those that are none of a log.
    pub strange_lines: u64,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

/// Messages that came into the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// By smtpd and by pickup.
    pub total: u64,
    /// By SMTP.
    pub smtpd: u64,
    /// By sendmail(1).
    pub pickup: u64,
    /// Once more, by a requeue or behind a filter: not part of the total.
    pub again: u64,
    /// Bytes of all that came by smtpd and pickup.
    pub bytes: u64,
}

/// Refusals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// By gatepost and by Postfix.
    pub total: u64,
    /// By gatepost.
    pub gatepost: u64,
    /// By Postfix's own rules.
    pub postfix: u64,
    /// Postfix's lines of all of these, gatepost's refusals in them.
    pub postfix_lines: u64,
    /// What gatepost would refuse, where it observes.
    pub would_refuse: u64,
    /// Recipients that the milter took out.
    pub dropped: u64,
    /// gatepost's, by check.
    pub by_check: Vec<Named>,
    /// gatepost's, by rule.
    pub by_rule: Vec<Rule>,
    /// The words of all.
    pub reasons: Vec<Reason>,
}

/// A rule's decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// `reject`, `would-reject`, …
    pub decision: String,
    /// `senders`, `suppression`, `limits`, …
    pub check: String,
    /// File and line, or what stands for them.
    pub rule: String,
    /// How often.
    pub count: u64,
}

/// The words of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What differs each time is `*`.
    pub name: String,
    /// How often.
    pub count: u64,
    /// `gatepost` or `postfix`.
    pub by: &'static str,
}

/// Recipients that Postfix handed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// All.
    pub total: u64,
    /// To SES.
    pub ses: u64,
    /// Elsewhere.
    pub elsewhere: u64,
    /// To another address on this host: not part of the total.
    pub forwarded: u64,
}

/// Recipients that bounced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bounced {
    /// All.
    pub total: u64,
    /// At SES, by its events.
    pub ses: u64,
    /// These by type and subtype.
    pub by_type: Vec<BounceType>,
    /// By Postfix, since SES refused them.
    pub by_relay: u64,
    /// By Postfix itself (`relay=none`).
    pub relay_none: u64,
}

/// Bounces of a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BounceType {
    /// `Permanent`, `Transient`, `Undetermined`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `General`, `NoEmail`, …
    pub subtype: String,
    /// How many.
    pub count: u64,
}

/// What Postfix tries again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deferred {
    /// Different messages.
    pub messages: u64,
    /// Attempts, of one recipient each.
    pub attempts: u64,
}

/// What else SES told, by recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ses {
    /// Event lines that count; one that came again does not.
    pub events: u64,
    /// Those that came again.
    pub repeated: u64,
    /// `status=accepted`
    pub accepted: u64,
    /// `status=delayed`
    pub delayed: u64,
    /// `status=rejected`
    pub rejected: u64,
    /// `status=failed`
    pub failed: u64,
    /// `status=opened`, once for each message and recipient.
    pub opened: u64,
    /// `status=clicked`, likewise.
    pub clicked: u64,
    /// `status=subscription`, likewise.
    pub subscriptions: u64,
}

/// Recipients of mail that was sent to SES in the span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unheard {
    /// No event, though it was sent longer ago than `after_seconds`.
    pub recipients: u64,
    /// No event yet.
    pub waiting: u64,
    /// There were events, but neither of a delivery nor of a bounce.
    pub undecided: u64,
    /// When there should have been one.
    pub after_seconds: i64,
}

/// Delays, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DelayShown {
    /// Of how many deliveries both ends are known.
    pub count: u64,
    /// Half took no longer.
    pub p50_ms: Option<u64>,
    /// 90 % took no longer.
    pub p90_ms: Option<u64>,
    /// 99 % took no longer.
    pub p99_ms: Option<u64>,
}

/// A recipient domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DomainShown {
    /// Its name.
    pub name: String,
    /// Recipients.
    pub sent: u64,
    /// Of them, by SES's events.
    pub delivered: u64,
    /// At SES and before.
    pub bounced: u64,
    /// Attempts.
    pub deferred: u64,
    /// From submission to delivery.
    pub delay: DelayShown,
}

/// A name and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// How often.
    pub count: u64,
}

/// Counts over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Series {
    /// How long each part is; the first begins with the span.
    pub step_seconds: i64,
    /// Messages.
    pub accepted: Vec<u64>,
    /// Postfix's lines.
    pub refused: Vec<u64>,
    /// Recipients.
    pub sent: Vec<u64>,
    /// Recipients.
    pub delivered: Vec<u64>,
    /// Recipients.
    pub bounced: Vec<u64>,
    /// Attempts.
    pub deferred: Vec<u64>,
}

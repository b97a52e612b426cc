//! What the lines of one message tell of it: for all of it and for each recipient, in its order, with the times between.

use super::search::Found;
use crate::lines::read::{Arrival, Attempt, Decided, Entry, Event, Stamped, Verdict};
use crate::mail::Printable;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};

/// One message's way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Journey {
    /// Message-ID, without angle brackets.
    pub message_id: Option<String>,
    /// The envelope sender; empty for the null sender.
    pub from: Option<String>,
    /// Who submitted it.
    pub client: Option<String>,
    /// In bytes.
    pub size: Option<u64>,
    /// How many recipients it had when it came into the queue.
    pub nrcpt: Option<u64>,
    /// Postfix's ids, in their order: more than one where it was requeued or went through a filter.
    pub queue_ids: Vec<String>,
    /// Correlation ids.
    pub correlation_ids: Vec<String>,
    /// SES's ids: one per transaction.
    pub ses_ids: Vec<String>,
    /// The relays that sent it, as events tell where several share them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sent_by: Vec<String>,
    /// What happened to all of it.
    pub stations: Vec<Station>,
    /// What happened for each recipient.
    pub recipients: Vec<Recipient>,
}

/// The way to one recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recipient {
    /// The address.
    pub address: String,
    /// As the client named it, where that was another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orig_to: Option<String>,
    /// What happened, by time.
    pub stations: Vec<Station>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Station {
    /// When, in RFC 3339.
    #[serde(serialize_with = "rfc3339")]
    pub time: Timestamp,
    /// How long after what came before, in milliseconds, as far as the logs can say; none for the first.
    pub after_ms: Option<i64>,
    /// `submitted`, `stamped`, `queued`, `sent`, `delivered`, …
    pub what: String,
    /// `postfix`, `gatepost` or `ses`.
    pub by: &'static str,
    /// The host whose log it is in.
    pub host: String,
    /// Postfix's id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub queue_id: String,
    /// SES's id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ses_id: String,
    /// RFC 3463 status.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dsn: String,
    /// `relay=`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub relay: String,
    /// The words of the line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// What a single line tells.
#[must_use]
pub fn tell_one(found: &Found) -> Option<Journey> {
    Line::of(found).map(|line| tell(&[&line]))
}

/// The longest text that is shown.
const MAX_TEXT_BYTES: usize = 2_000;

/// A found line, read.
pub(super) struct Line<'f> {
    pub(super) at: Timestamp,
    pub(super) direct: bool,
    pub(super) host: &'f [u8],
    pub(super) entry: Entry<'f>,
}

impl<'f> Line<'f> {
    pub(super) fn of(found: &'f Found) -> Option<Self> {
        let (line, entry) = found.line()?;
        // One log has the host's name, another its first label.
        let host = line.host.split(|b| *b == b'.').next().unwrap_or_default();
        Some(Self { at: found.at, direct: found.direct, host, entry })
    }
}

/// What the lines of one message tell.
pub(super) fn tell(lines: &[&Line<'_>]) -> Journey {
    let mut teller = Teller::default();
    for line in lines {
        teller.take(line);
    }
    teller.finish()
}

#[derive(Default)]
struct Teller {
    journey: Journey,
    /// The recipient by its address in lower case.
    recipients: HashMap<String, usize>,
    queued: BTreeSet<String>,
}

impl Teller {
    fn take(&mut self, line: &Line<'_>) {
        self.note_ids(&line.entry);
        match line.entry {
            Entry::Arrived(arrival) => self.arrived(line, &arrival),
            Entry::MessageId { message_id, .. } => set(&mut self.journey.message_id, message_id),
            Entry::Stamped(stamped) => self.stamped(line, &stamped),
            Entry::Queued { queue_id, from, size, nrcpt } => {
                set(&mut self.journey.from, from);
                self.journey.size = self.journey.size.or_else(|| number(size));
                self.journey.nrcpt = self.journey.nrcpt.or_else(|| number(nrcpt));
                // Every retry says it again; the attempts tell of those.
                if self.queued.insert(text(queue_id)) {
                    let plural = if nrcpt == b"1" { "" } else { "s" };
                    let words = format!("{} bytes, {} recipient{plural}", text(size), text(nrcpt));
                    self.add(station(line, "queued", "postfix", words));
                }
            }
            Entry::Attempt(attempt) => self.attempt(line, &attempt),
            Entry::GivenUp { status, .. } => self.add(station(line, "expired", "postfix", text(status))),
            Entry::Notice { kind, notice, .. } => {
                self.add(station(line, "notified", "postfix", format!("{}: {}", text(kind), text(notice))));
            }
            Entry::Verdict(verdict) => self.verdict(line, &verdict),
            Entry::Decided(decided) => self.decided(line, &decided),
            Entry::Event(event) => self.event(line, &event),
            Entry::Removed { .. } => {}
        }
    }

    fn note_ids(&mut self, entry: &Entry<'_>) {
        let correlation_id = match entry {
            Entry::Stamped(stamped) => stamped.correlation_id,
            Entry::Event(event) => event.correlation_id,
            _ => &[],
        };
        note(&mut self.journey.queue_ids, entry.queue_id());
        note(&mut self.journey.ses_ids, entry.ses_id());
        note(&mut self.journey.correlation_ids, correlation_id);
    }

    fn arrived(&mut self, line: &Line<'_>, arrival: &Arrival<'_>) {
        let by = match arrival {
            Arrival { uid: [_, ..], .. } => {
                set(&mut self.journey.from, arrival.from);
                format!("uid {}", text(arrival.uid))
            }
            Arrival { sasl_username: [_, ..], .. } => {
                format!("{}, {}", text(arrival.client), text(arrival.sasl_username))
            }
            _ => text(arrival.client),
        };
        if self.journey.client.is_none() {
            self.journey.client = Some(by.clone());
        }
        if arrival.before.is_empty() {
            self.add(station(line, "submitted", "postfix", format!("by {by}")));
        } else {
            self.add(station(line, "requeued", "postfix", format!("was {}", text(arrival.before))));
        }
    }

    fn stamped(&mut self, line: &Line<'_>, stamped: &Stamped<'_>) {
        set(&mut self.journey.message_id, stamped.message_id);
        set(&mut self.journey.from, stamped.from);
        self.add(station(line, "stamped", "gatepost", format!("correlation_id={}", text(stamped.correlation_id))));
    }

    fn attempt(&mut self, line: &Line<'_>, attempt: &Attempt<'_>) {
        let mut station = station(line, &text(attempt.status), "postfix", text(attempt.text));
        station.dsn = text(attempt.dsn);
        station.relay = text(attempt.relay);
        let at = self.recipient(attempt.to);
        let recipient = &mut self.journey.recipients[at];
        if !attempt.orig_to.is_empty() {
            recipient.orig_to.get_or_insert_with(|| text(attempt.orig_to));
        }
        recipient.stations.push(station);
    }

    fn verdict(&mut self, line: &Line<'_>, verdict: &Verdict<'_>) {
        set(&mut self.journey.from, verdict.from);
        self.add_for(verdict.to, station(line, &text(verdict.word), "postfix", text(verdict.text)));
    }

    fn decided(&mut self, line: &Line<'_>, decided: &Decided<'_>) {
        set(&mut self.journey.from, decided.from);
        if !decided.client.is_empty() && self.journey.client.is_none() {
            self.journey.client = Some(text(decided.client));
        }
        let words = format!("{}, {}: {}", text(decided.check), text(decided.rule), text(decided.text));
        self.add_for(decided.to, station(line, &text(decided.word), "gatepost", words));
    }

    fn event(&mut self, line: &Line<'_>, event: &Event<'_>) {
        note(&mut self.journey.sent_by, event.sent_by);
        let mut words = text(event.text);
        if event.suppressed == b"yes" {
            words.push_str(if words.is_empty() { "suppressed" } else { " (suppressed)" });
        }
        let mut station = station(line, &text(event.status), "ses", words);
        station.dsn = text(event.dsn);
        self.add_for(event.to, station);
    }

    /// What is about one recipient, or, where it names none, all of the message.
    fn add_for(&mut self, to: &[u8], station: Station) {
        if to.is_empty() {
            return self.add(station);
        }
        let at = self.recipient(to);
        self.journey.recipients[at].stations.push(station);
    }

    fn add(&mut self, station: Station) {
        self.journey.stations.push(station);
    }

    fn recipient(&mut self, to: &[u8]) -> usize {
        let address = text(to);
        let recipients = &mut self.journey.recipients;
        *self.recipients.entry(address.to_ascii_lowercase()).or_insert_with(|| {
            recipients.push(Recipient { address, orig_to: None, stations: Vec::new() });
            recipients.len() - 1
        })
    }

    /// With the times between. Opens name nobody: where there is one recipient only, it was that one.
    fn finish(mut self) -> Journey {
        let journey = &mut self.journey;
        if let [recipient] = &mut journey.recipients[..]
            && journey.nrcpt.is_none_or(|n| n <= 1)
        {
            let (of_ses, of_all) = std::mem::take(&mut journey.stations).into_iter().partition(|s| s.by == "ses");
            journey.stations = of_all;
            recipient.stations.extend::<Vec<Station>>(of_ses);
        }
        journey.stations.sort_by_key(|station| (station.time.as_second(), rank(&station.what)));
        with_times(&mut journey.stations, None);
        for recipient in &mut journey.recipients {
            in_order(&mut recipient.stations);
            let first = recipient.stations.first().map(|station| station.time);
            let before = journey.stations.iter().map(|station| station.time).rfind(|time| Some(*time) <= first);
            with_times(&mut recipient.stations, before);
        }
        self.journey
    }
}

/// What of a message comes first within a second: one log has no fractions of it.
fn rank(what: &str) -> usize {
    ["submitted", "requeued", "stamped", "queued"].iter().position(|first| *first == what).unwrap_or(usize::MAX)
}

/// By time; but no event comes before SES has the mail, whatever the clocks of the logs say.
fn in_order(stations: &mut [Station]) {
    let taken: HashMap<String, i64> = stations
        .iter()
        .filter(|station| station.by == "postfix" && !station.ses_id.is_empty())
        .map(|station| (station.ses_id.clone(), station.time.as_second()))
        .collect();
    stations.sort_by_cached_key(|station| {
        let after = taken.get(&station.ses_id).copied().unwrap_or(i64::MIN);
        let of_ses = station.by == "ses";
        (station.time.as_second().max(after), of_ses, if of_ses { station.time } else { Timestamp::MIN })
    });
}

/// Sets the times between, from `before` on; never less than none, which a log without fractions of a second would say.
fn with_times(stations: &mut [Station], before: Option<Timestamp>) {
    let mut last = before;
    for station in stations {
        let after = last.map(|last| station.time.duration_since(last).as_millis());
        station.after_ms = after.and_then(|ms| i64::try_from(ms.max(0)).ok());
        last = Some(station.time);
    }
}

fn station(line: &Line<'_>, what: &str, by: &'static str, words: String) -> Station {
    Station {
        time: line.at,
        what: what.to_owned(),
        by,
        host: text(line.host),
        queue_id: text(line.entry.queue_id()),
        ses_id: text(line.entry.ses_id()),
        text: words,
        ..Station::default()
    }
}

fn rfc3339<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(time)
}

fn text(raw: &[u8]) -> String {
    Printable::new(raw, MAX_TEXT_BYTES).as_str().to_owned()
}

fn number(raw: &[u8]) -> Option<u64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// Keeps the first.
fn set(field: &mut Option<String>, value: &[u8]) {
    if field.is_none() {
        *field = Some(text(value));
    }
}

fn note(ids: &mut Vec<String>, id: &[u8]) {
    if !id.is_empty() && !ids.iter().any(|known| known.as_bytes() == id) {
        ids.push(text(id));
    }
}

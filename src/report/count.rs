//! Counts the lines of logs. What is counted depends neither on the order of the lines nor on which thread reads which.

use super::follow::{News, Recipients, Said, When};
use super::reason;
use super::span::{Place, Span};
use super::table::{MAX_FOLLOWED, Table};
use super::tally::{CURVES, Counts, Curve, Names};
use crate::lines::read::{Arrival, Attempt, Decided, Entry, Event, LogLine, Stamp, Verdict};
use crate::mail::Address;
use foldhash::quality::RandomState;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::borrow::Cow;
use std::hash::BuildHasher;

/// What the threads share: what must be known of single messages and recipients.
#[derive(Debug)]
pub struct Tables {
    pub(super) recipients: Recipients,
    pub(super) messages: Table<Message>,
    hash: RandomState,
}

/// What is known of a message in Postfix's queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Message {
    /// In bytes.
    pub(super) size: u32,
    arrived: bool,
    queued: bool,
    deferred: bool,
}

/// What one thread has counted.
#[derive(Clone, Debug)]
pub struct Counter {
    pub(super) span: Span,
    pub(super) counts: Counts,
    pub(super) names: Names,
    pub(super) curves: [Vec<u64>; CURVES],
    step: i64,
    zone: TimeZone,
    /// The last time without a year, and what it meant.
    last: Option<(Stamp, Timestamp, Option<i64>)>,
}

impl Default for Tables {
    fn default() -> Self {
        Self::with_room(MAX_FOLLOWED)
    }
}

impl Tables {
    /// With room for so many messages, and so many recipients.
    #[must_use]
    pub fn with_room(max: usize) -> Self {
        let (recipients, messages) = (Recipients::with_room(max), Table::with_room(max));
        Self { recipients, messages, hash: RandomState::default() }
    }

    /// Gives `change` what is known of a message: queue ids are of a host.
    fn message<R>(&self, host: &[u8], queue_id: &[u8], change: impl FnOnce(&mut Message) -> R) -> Option<R> {
        // One log has the host's name, another its first label.
        let host = memchr::memchr(b'.', host).map_or(host, |dot| &host[..dot]);
        self.messages.with(self.hash.hash_one((host, queue_id)), change)
    }
}

impl Counter {
    /// A counter for a span; `zone` is that of times that name none.
    #[must_use]
    pub fn new(span: Span, zone: TimeZone) -> Self {
        let curves = std::array::from_fn(|_| vec![0; span.steps()]);
        let step = span.step();
        Self { span, counts: Counts::default(), names: Names::default(), curves, step, zone, last: None }
    }

    /// Counts whole lines of a log whose last line was written at `latest`.
    pub fn take_all(&mut self, tables: &Tables, lines: &[u8], latest: Timestamp) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', lines).chain([lines.len()]) {
            if end > start {
                self.take(tables, &lines[start..end], latest);
            }
            start = end + 1;
        }
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: Self) {
        self.counts.merge(&other.counts);
        self.names.merge(other.names);
        for (mine, theirs) in self.curves.iter_mut().zip(other.curves) {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
        }
    }

    fn take(&mut self, tables: &Tables, raw: &[u8], latest: Timestamp) {
        self.counts.lines += 1;
        let line = LogLine::parse(raw);
        let time = line.and_then(|line| Some((line, self.time(&line.stamp, latest)?)));
        let Some((line, at)) = time else {
            self.counts.strange += 1;
            return;
        };
        let place = self.span.place(at, self.step);
        let (when, step) = match place {
            Place::Within(step) => (When::Within, step),
            Place::Before => (When::Before, 0),
            Place::Behind => (When::Behind, 0),
            Place::Away => return,
        };
        self.counts.within += u64::from(when == When::Within);
        let Some(entry) = line.entry() else { return };
        match entry {
            Entry::Event(event) => self.event(tables, &event, when, step),
            Entry::Attempt(attempt) => self.attempt(tables, line.host, &attempt, when, at, step),
            _ if when != When::Within => {}
            Entry::Arrived(arrival) => self.arrived(tables, line.host, &arrival, step),
            Entry::Queued { queue_id, from, size, .. } => self.queued(tables, line.host, queue_id, from, size),
            Entry::GivenUp { status, .. } if is_expired(status) => self.counts.expired += 1,
            Entry::Verdict(verdict) => self.verdict(&verdict, step),
            Entry::Decided(decided) => self.decided(&decided),
            _ => {}
        }
    }

    /// Unix seconds. Neighbours mostly have the same.
    fn time(&mut self, stamp: &Stamp, latest: Timestamp) -> Option<i64> {
        if let Stamp::Exact(at) = stamp {
            return Some(at.as_second());
        }
        if let Some((last, bound, at)) = &self.last
            && last == stamp
            && *bound == latest
        {
            return *at;
        }
        let at = stamp.resolve(latest, &self.zone).map(Timestamp::as_second);
        self.last = Some((*stamp, latest, at));
        at
    }

    fn draw(&mut self, curve: Curve, step: usize) {
        if let Some(count) = self.curves[curve as usize].get_mut(step) {
            *count += 1;
        }
    }

    fn arrived(&mut self, tables: &Tables, host: &[u8], arrival: &Arrival<'_>, step: usize) {
        if tables.message(host, arrival.queue_id, |message| message.arrived = true).is_none() {
            self.counts.unfollowed += 1;
        }
        if !arrival.before.is_empty() {
            self.counts.again += 1;
            return;
        }
        self.draw(Curve::Accepted, step);
        if arrival.uid.is_empty() {
            self.counts.by_smtpd += 1;
            *self.names.clients.of(address_of(arrival.client)) += 1;
        } else {
            self.counts.by_pickup += 1;
            *self.names.clients.of(b"sendmail(1)") += 1;
        }
    }

    /// Postfix says it again at every retry.
    fn queued(&mut self, tables: &Tables, host: &[u8], queue_id: &[u8], from: &[u8], size: &[u8]) {
        let first = tables.message(host, queue_id, |message| {
            message.size = number(size);
            !std::mem::replace(&mut message.queued, true)
        });
        if first.unwrap_or(true) {
            *self.names.senders.of(&lower(from)) += 1;
        }
    }

    fn attempt(&mut self, tables: &Tables, host: &[u8], attempt: &Attempt<'_>, when: When, at: i64, step: usize) {
        match attempt.status {
            b"sent" => self.sent(tables, attempt, when, at, step),
            _ if when != When::Within => {}
            b"deferred" => {
                self.counts.attempts_deferred += 1;
                let change = |message: &mut Message| !std::mem::replace(&mut message.deferred, true);
                let first = tables.message(host, attempt.queue_id, change).unwrap_or(true);
                self.counts.deferred += u64::from(first);
                self.names.domains.of(&domain(attempt.to)).deferred += 1;
                *self.names.defer_reasons.of(&reason::of_delivery(attempt.text)) += 1;
                self.draw(Curve::Deferred, step);
            }
            b"bounced" => {
                let by_relay = attempt.relay != b"none";
                self.counts.bounced_by_relay += u64::from(by_relay);
                self.counts.bounced_without_relay += u64::from(!by_relay);
                self.names.domains.of(&domain(attempt.to)).bounced += 1;
                *self.names.bounce_reasons.of(&reason::of_delivery(attempt.text)) += 1;
                self.draw(Curve::Bounced, step);
            }
            _ => {}
        }
    }

    fn sent(&mut self, tables: &Tables, attempt: &Attempt<'_>, when: When, at: i64, step: usize) {
        if when == When::Within && attempt.text.starts_with(b"forwarded as ") {
            self.counts.forwarded += 1;
            return;
        }
        if when == When::Within {
            self.counts.sent += 1;
            self.draw(Curve::Sent, step);
            self.names.domains.of(&domain(attempt.to)).sent += 1;
        }
        let Some(ses_id) = attempt.ses_id().filter(|_| when != When::Behind) else { return };
        self.counts.to_ses += u64::from(when == When::Within);
        let news = tables.recipients.sent(ses_id, &canonical(attempt.to), when, at, milliseconds(attempt.delay));
        self.note(news, when, attempt.to);
    }

    /// Notes a delay that is known by now.
    fn note(&mut self, news: Option<News>, when: When, to: &[u8]) {
        match news {
            Some(News { delay_ms: Some(delay_ms), .. }) => {
                self.names.domains.of(&domain(to)).delays.add(delay_ms);
            }
            None if when == When::Within => self.counts.unfollowed += 1,
            _ => {}
        }
    }

    fn event(&mut self, tables: &Tables, event: &Event<'_>, when: When, step: usize) {
        let Some(said) = Said::of(event.status, event.bounce_type) else { return };
        let delay_ms = Some(number(event.delay_ms)).filter(|_| !event.delay_ms.is_empty());
        let news = tables.recipients.heard(event.ses_id, &canonical(event.to), said, when, delay_ms);
        self.note(news, when, event.to);
        if when != When::Within {
            return;
        }
        if news.is_some_and(|news| news.repeated) {
            self.counts.repeated += 1;
            return;
        }
        self.counts.events += 1;
        let unfollowed = u64::from(news.is_none());
        match said {
            Said::Accepted => self.counts.accepted_by_ses += 1,
            Said::Delivered => {
                self.counts.delivered += 1;
                self.counts.delivered_unfollowed += unfollowed;
                self.names.domains.of(&domain(event.to)).delivered += 1;
                self.draw(Curve::Delivered, step);
            }
            Said::Bounced | Said::BouncedForNow => {
                self.counts.bounced_unfollowed += unfollowed;
                *self.names.bounces.of(&[event.bounce_type, event.bounce_subtype].join(&0)) += 1;
                self.names.domains.of(&domain(event.to)).bounced += 1;
                *self.names.bounce_reasons.of(&reason::of_delivery(event.text)) += 1;
                self.draw(Curve::Bounced, step);
            }
            Said::Complaint => self.counts.complaints += 1,
            Said::Delayed => self.counts.delayed += 1,
            Said::Rejected => {
                self.counts.rejected_unfollowed += unfollowed;
                let counter =
                    if event.status == b"failed" { &mut self.counts.failed } else { &mut self.counts.rejected_by_ses };
                *counter += 1;
            }
            Said::Opened => self.counts.opened += 1,
            Said::Clicked => self.counts.clicked += 1,
            Said::Subscription => self.counts.subscriptions += 1,
        }
    }

    fn verdict(&mut self, verdict: &Verdict<'_>, step: usize) {
        match verdict.word {
            b"reject" | b"milter-reject" => {
                self.counts.refused += 1;
                let early = verdict.word == b"milter-reject" && !verdict.text.starts_with(b"END-OF-MESSAGE");
                self.counts.refused_by_milter_early += u64::from(early);
                self.names.refusals.of(&reason::of_verdict(verdict.text)).postfix += 1;
                self.draw(Curve::Refused, step);
            }
            b"hold" | b"milter-hold" => self.counts.held += 1,
            b"discard" | b"milter-discard" => self.counts.discarded += 1,
            _ => {}
        }
    }

    fn decided(&mut self, decided: &Decided<'_>) {
        *self.names.decisions.of(&[decided.word, decided.check, decided.rule].join(&0)) += 1;
        if matches!(decided.word, b"reject" | b"bounce") {
            self.names.refusals.of(&reason::of_reply(decided.text)).gatepost += 1;
        }
    }
}

impl Message {
    /// Whether it came from outside: bounces and notices are Postfix's own.
    pub(super) fn is_mail(&self) -> bool {
        self.arrived && self.queued
    }
}

fn is_expired(status: &[u8]) -> bool {
    status.starts_with(b"expired") || status.starts_with(b"force-expired")
}

/// `ip` of `host[ip]`.
fn address_of(client: &[u8]) -> &[u8] {
    let inner = memchr::memchr(b'[', client).map(|at| &client[at + 1..]);
    inner.and_then(|inner| inner.strip_suffix(b"]")).unwrap_or(client)
}

fn lower(text: &[u8]) -> Cow<'_, [u8]> {
    if text.iter().any(u8::is_ascii_uppercase) { text.to_ascii_lowercase().into() } else { text.into() }
}

/// The same whichever line names it.
fn domain(address: &[u8]) -> Cow<'_, [u8]> {
    fn part(address: &[u8]) -> &[u8] {
        memchr::memrchr(b'@', address).map_or(address, |at| &address[at + 1..])
    }
    match canonical(address) {
        Cow::Borrowed(address) => lower(part(address)),
        Cow::Owned(address) => lower(part(&address)).into_owned().into(),
    }
}

/// Postfix writes an address as the client did, our lines have domains as `xn--`.
fn canonical(address: &[u8]) -> Cow<'_, [u8]> {
    if address.is_ascii() {
        return address.into();
    }
    let parsed = std::str::from_utf8(address).ok().and_then(|text| Address::parse(text).ok());
    parsed.map_or(address.into(), |parsed| parsed.as_str().as_bytes().to_vec().into())
}

fn number(text: &[u8]) -> u32 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Of Postfix's seconds, `0.07` or `123`.
fn milliseconds(text: &[u8]) -> u32 {
    let seconds: f64 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    (seconds * 1_000.0).round() as u32
}

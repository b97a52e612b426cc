//! Postfix's own lines.

use super::entry::{Arrival, Attempt, Entry, Verdict, is_queue_id};
use super::fields::{Fields, bracketed};
use super::split;
use memchr::memmem;

/// A line of Postfix's own.
pub(super) fn read(text: &[u8]) -> Option<Entry<'_>> {
    let (queue_id, rest) = split(text, b':')?;
    let rest = rest.strip_prefix(b" ")?;
    if queue_id == b"NOQUEUE" {
        return verdict(&[], rest);
    }
    if !is_queue_id(queue_id) {
        return None;
    }
    match rest {
        b"removed" => Some(Entry::Removed { queue_id }),
        [b't', b'o', b'=', b'<', ..] => Attempt::parse(queue_id, rest).map(Entry::Attempt),
        [b'f', b'r', b'o', b'm', b'=', b'<', ..] => queue_manager(queue_id, rest),
        [b'c', b'l', b'i', b'e', b'n', b't', b'=', ..] => Some(Entry::Arrived(from_client(queue_id, rest))),
        [b'u', b'i', b'd', b'=', ..] => Some(Entry::Arrived(local(queue_id, rest))),
        _ => {
            if let Some(id) = rest.strip_prefix(b"message-id=") {
                let message_id = id.strip_prefix(b"<").and_then(|id| id.strip_suffix(b">")).unwrap_or(id);
                return Some(Entry::MessageId { queue_id, message_id });
            }
            notice(queue_id, rest).or_else(|| verdict(queue_id, rest))
        }
    }
}

fn queue_manager<'a>(queue_id: &'a [u8], text: &'a [u8]) -> Option<Entry<'a>> {
    let (from, rest) = bracketed(text.strip_prefix(b"from=")?)?;
    if let Some(status) = rest.strip_prefix(b", status=") {
        return Some(Entry::GivenUp { queue_id, from, status });
    }
    let (mut size, mut nrcpt) = (&[][..], &[][..]);
    for (name, value) in Fields::of(rest) {
        match name {
            b"size" => size = value,
            b"nrcpt" => nrcpt = value.split(|b| *b == b' ').next().unwrap_or_default(),
            _ => {}
        }
    }
    Some(Entry::Queued { queue_id, from, size, nrcpt })
}

fn from_client<'a>(queue_id: &'a [u8], text: &'a [u8]) -> Arrival<'a> {
    let mut arrival = Arrival { queue_id, ..Arrival::default() };
    for (name, value) in Fields::of(text) {
        match name {
            b"client" => arrival.client = value,
            b"sasl_username" => arrival.sasl_username = value,
            b"orig_queue_id" => arrival.before = value,
            _ => {}
        }
    }
    arrival
}

/// `uid=0 from=<root> orig_id=…`.
fn local<'a>(queue_id: &'a [u8], text: &'a [u8]) -> Arrival<'a> {
    let mut arrival = Arrival { queue_id, ..Arrival::default() };
    let Some((uid, rest)) = text.strip_prefix(b"uid=").and_then(|rest| split(rest, b' ')) else { return arrival };
    arrival.uid = uid;
    if let Some((from, rest)) = rest.strip_prefix(b"from=").and_then(bracketed) {
        arrival.from = from;
        arrival.before = rest.strip_prefix(b" orig_id=").unwrap_or_default();
    }
    arrival
}

fn notice<'a>(queue_id: &'a [u8], text: &'a [u8]) -> Option<Entry<'a>> {
    let (kind, id) = split(text, b':')?;
    let id = id.strip_prefix(b" ")?;
    (kind.ends_with(b" notification") && is_queue_id(id)).then_some(Entry::Notice { queue_id, kind, notice: id })
}

/// `reject: RCPT from h[ip]: 554 …; from=<s> to=<r> proto=ESMTP helo=<h>`.
fn verdict<'a>(queue_id: &'a [u8], text: &'a [u8]) -> Option<Entry<'a>> {
    const WORDS: [&[u8]; 13] = [
        b"reject",
        b"reject_warning",
        b"hold",
        b"discard",
        b"filter",
        b"redirect",
        b"info",
        b"warn",
        b"permit",
        b"prepend",
        b"milter-reject",
        b"milter-hold",
        b"milter-discard",
    ];
    let (word, text) = split(text, b':')?;
    let text = text.strip_prefix(b" ")?;
    if !WORDS.contains(&word) {
        return None;
    }
    // The client's words come last, ours (the reply) before: the last of these is Postfix's own unless the client
    // writes one into its HELO, behind which nothing is read.
    let end = memmem::find(text, b"; from=<").unwrap_or(text.len());
    let (text, rest) = text.split_at(end);
    let mut verdict = Verdict { queue_id, word, text, ..Verdict::default() };
    if let Some((from, rest)) = rest.strip_prefix(b"; from=").and_then(bracketed) {
        verdict.from = from;
        verdict.to = rest.strip_prefix(b" to=").and_then(bracketed).map(|(to, _)| to).unwrap_or_default();
    }
    Some(Entry::Verdict(verdict))
}

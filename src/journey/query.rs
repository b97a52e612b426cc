//! What is looked for: an id of any kind, or an address; and how its bytes are found fast.

use crate::lines::read::Entry;
use crate::mail::Address;
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind, Span, packed};
use memchr::memmem;

/// An id or an address, as the operator gave it.
#[derive(Clone, Debug)]
pub struct Query {
    /// Without angle brackets. An address in every spelling that a log may have: as given, and canonical.
    spellings: Vec<Vec<u8>>,
}

impl Query {
    /// Takes a queue id, a correlation id, an SES id, a Message-ID, or an address; `None` for what can be none of them.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(text);
        if text.len() < MIN_BYTES || text.chars().any(char::is_control) {
            return None;
        }
        let mut spellings = vec![text.as_bytes().to_vec()];
        if let Some(canonical) = Address::parse(text).ok().filter(|a| !a.as_str().eq_ignore_ascii_case(text)) {
            spellings.push(canonical.as_str().as_bytes().to_vec());
        }
        Some(Self { spellings })
    }

    /// Whether an address is the one that is looked for.
    #[must_use]
    pub fn is_address(&self, address: &[u8]) -> bool {
        self.spellings.iter().any(|s| s.eq_ignore_ascii_case(address))
    }

    /// Whether a line is about what is looked for.
    #[must_use]
    pub fn hits(&self, entry: &Entry<'_>) -> Option<Hit> {
        let id = |id: &[u8]| self.spellings.iter().any(|s| s == id);
        let names = match entry {
            Entry::MessageId { message_id, .. } => id(message_id),
            Entry::Stamped(stamped) => id(stamped.message_id) || id(stamped.correlation_id),
            Entry::Event(event) => id(event.correlation_id),
            Entry::Notice { notice, .. } => id(notice),
            _ => false,
        };
        if names || [entry.queue_id(), entry.ses_id(), entry.other_queue_id()].into_iter().any(id) {
            return Some(Hit::Whole);
        }
        if entry.from().is_some_and(|from| self.is_address(from)) {
            return Some(Hit::Whole);
        }
        entry.to().into_iter().any(|to| !to.is_empty() && self.is_address(to)).then_some(Hit::Recipient)
    }

    /// Finds it in bytes.
    #[must_use]
    pub(super) fn needle(&self) -> Needle {
        if self.spellings.iter().all(|s| s.contains(&b'@')) {
            return Needle::Addresses(self.spellings.clone());
        }
        Needle::One(Box::new(memmem::Finder::new(&self.spellings[0]).into_owned()))
    }
}

/// The shortest thing to look for: `a@b`.
const MIN_BYTES: usize = 3;

/// How a line is about what is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// By an id or the sender: all of the message is of interest.
    Whole,
    /// By a recipient: the message is, as far as it is about that recipient.
    Recipient,
}

/// What finds the lines in question among gigabytes; may find others as well.
#[derive(Debug)]
pub(super) enum Needle {
    /// One id.
    One(Box<memmem::Finder<'static>>),
    /// An address, in any case.
    Addresses(Vec<Vec<u8>>),
    /// A few ids.
    Few(Box<packed::Searcher>),
    /// Many ids.
    Many(Box<AhoCorasick>),
}

/// The part of an id that is looked for. Ids of a day begin alike (a long queue id with the time, SES's ids with region and
/// time) and SES's ids end alike; the search for a few is fast where the first bytes tell them from most else.
fn telling_part(id: &[u8]) -> &[u8] {
    match id.len() {
        ..14 => id,
        14..30 => &id[3..],
        len => &id[len / 3..len / 3 + 16],
    }
}

/// Up to how many ids are looked for by their first bytes only: beyond, these no longer tell enough.
const MAX_FEW: usize = 48;

/// Up to how many bytes of ids the fast, large automaton is made: it takes some 250 bytes for each.
const MAX_DFA_BYTES: usize = 64 * 1024;

impl Needle {
    /// Finds any of `ids`. `None` where there are none, or more than can be looked for.
    pub(super) fn many(ids: &[&[u8]]) -> Option<Self> {
        let parts: Vec<&[u8]> = ids.iter().map(|id| telling_part(id)).collect();
        if parts.len() <= MAX_FEW
            && let Some(few) = packed::Searcher::new(&parts)
        {
            return Some(Self::Few(Box::new(few)));
        }
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let kind = if bytes <= MAX_DFA_BYTES { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).kind(Some(kind)).build(&parts).ok()?;
        (!ids.is_empty()).then(|| Self::Many(Box::new(built)))
    }

    /// Calls `on_hit` with each line of `lines` (whole lines) that holds it, and where the line begins.
    pub(super) fn each_line<'h>(&self, lines: &'h [u8], mut on_hit: impl FnMut(usize, &'h [u8])) {
        let mut from = 0;
        while let Some(at) = self.find(lines, from) {
            let start = memchr::memrchr(b'\n', &lines[..at]).map_or(0, |n| n + 1);
            let end = memchr::memchr(b'\n', &lines[at..]).map_or(lines.len(), |n| at + n);
            on_hit(start, &lines[start..end]);
            from = end;
        }
    }

    fn find(&self, text: &[u8], from: usize) -> Option<usize> {
        match self {
            Self::One(finder) => finder.find(&text[from..]).map(|at| from + at),
            Self::Few(few) => few.find_in(text, Span { start: from, end: text.len() }).map(|m| m.start()),
            Self::Many(all) => all.find(aho_corasick::Input::new(text).span(from..text.len())).map(|m| m.start()),
            Self::Addresses(spellings) => memchr::memchr_iter(b'@', &text[from..])
                .map(|at| from + at)
                .find(|at| spellings.iter().any(|spelling| is_at(text, *at, spelling))),
        }
    }
}

/// Whether the `@` of `address` is the one at `at`, and nothing goes on on either side.
fn is_at(text: &[u8], at: usize, address: &[u8]) -> bool {
    let Some(local) = memchr::memrchr(b'@', address) else { return false };
    let Some(start) = at.checked_sub(local) else { return false };
    // Most addresses differ in the byte before the @.
    if local > 0 && !text[at - 1].eq_ignore_ascii_case(&address[local - 1]) {
        return false;
    }
    let Some(found) = text.get(start..start + address.len()) else { return false };
    let opened = start.checked_sub(1).is_none_or(|before| matches!(text[before], b'<' | b'=' | b' '));
    let closed = text.get(start + address.len()).is_none_or(|b| matches!(b, b'>' | b',' | b' ' | b'\n' | b'\r'));
    opened && closed && found.eq_ignore_ascii_case(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::read::LogLine;
    use proptest::prelude::*;

    fn found(needle: &Needle, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        needle.each_line(text.as_bytes(), |start, line| {
            assert_eq!(&text.as_bytes()[start..start + line.len()], line);
            lines.push(String::from_utf8_lossy(line).into_owned());
        });
        lines
    }

    #[test]
    fn addresses_are_found_in_any_case_and_whole() {
        let needle = Query::new("<User@Example.com>").expect("an address").needle();
        let text = "a to=<user@EXAMPLE.com>, x\nb to=<other-user@example.com>\nc user@example.com.au\n\
                    d to=<x@y> from=<user@example.com>\n@\nmessage-id=user@example.com";
        let lines = found(&needle, text);
        assert_eq!(lines.iter().map(|l| &l[..1]).collect::<String>(), "adm");
    }

    #[test]
    fn idn_is_found_in_both_spellings() {
        let query = Query::new("a@b\u{fc}cher.example").expect("an address");
        assert!(query.is_address("a@b\u{fc}cher.example".as_bytes()) && query.is_address(b"a@xn--bcher-kva.example"));
    }

    #[test]
    fn what_can_be_nothing_is_refused() {
        assert!(Query::new("").is_none() && Query::new(" a ").is_none() && Query::new("abc\n def").is_none());
    }

    fn hit(query: &str, line: &str) -> Option<Hit> {
        let line = format!("Nov 23 05:28:57 relay {line}");
        Query::new(query)?.hits(&LogLine::parse(line.as_bytes())?.entry()?)
    }

    #[test]
    fn lines_are_about_it() {
        let sent = "postfix/smtp[1]: 8045F2AB23: to=<a@d>, orig_to=<b@d>, relay=h, status=sent (250 Ok 0102-22)";
        for (query, expected) in [
            ("8045F2AB23", Some(Hit::Whole)),
            ("0102-22", Some(Hit::Whole)),
            ("A@d", Some(Hit::Recipient)),
            ("<b@d>", Some(Hit::Recipient)),
            ("c@d", None),
            ("8045f2ab23", None),
        ] {
            assert_eq!(hit(query, sent), expected, "{query}");
        }
        assert_eq!(hit("<m@x>", "postfix/cleanup[1]: 8045F2AB23: message-id=<m@x>"), Some(Hit::Whole));
        assert_eq!(
            hit("s@x", "postfix/qmgr[1]: 8045F2AB23: from=<s@x>, size=1, nrcpt=1 (queue active)"),
            Some(Hit::Whole)
        );
    }

    proptest! {
        #[test]
        fn many_ids_are_found_as_a_plain_search_finds_them(
            ids in prop_oneof![
                prop::collection::vec("[ab01-]{5,40}", 1..6),
                prop::collection::vec("[ab01-]{5,40}", MAX_FEW + 1..MAX_FEW + 9),
            ],
            lines in prop::collection::vec("[ab01-]{0,30}", 0..20),
            which in any::<[prop::sample::Index; 3]>(),
        ) {
            let mut lines = lines;
            for (n, at) in which.iter().enumerate() {
                if !lines.is_empty() {
                    let line = at.index(lines.len());
                    lines[line].push_str(&ids[n % ids.len()]);
                }
            }
            let text = lines.join("\n");
            let keys: Vec<&[u8]> = ids.iter().map(String::as_bytes).collect();
            let got = found(&Needle::many(&keys).expect("ids"), &text);
            for line in text.split('\n').filter(|line| ids.iter().any(|id| line.contains(id.as_str()))) {
                prop_assert!(got.iter().any(|l| l == line), "{line} of {got:?}");
            }
        }
    }
}

//! The stamps: which headers of a message go and which come. Pure. The edits are made for Postfix (`cleanup_milter.c`),
//! which deletes one instance by name and number, numbers from 1 without regard to case, and renumbers after each
//! deletion: so instances go from the last to the first.

mod tags;
#[cfg(test)]
mod tests;

use tags::Tags;

/// The header of SES's message tags.
pub const TAGS_HEADER: &str = "X-SES-MESSAGE-TAGS";

/// The header that names SES's configuration set.
pub const SET_HEADER: &str = "X-SES-CONFIGURATION-SET";

/// What every header begins with that SES takes for itself, in lower case.
const SES_PREFIX: &[u8] = b"x-ses-";

/// Most headers of ours and of SES's in one message. Each one that goes costs Postfix a pass over the headers; who sends
/// more than an application ever does is refused.
pub const MAX_HEADERS: usize = 200;

/// Most bytes that are kept of a value: more than the longest that is ever taken over.
const MAX_VALUE_BYTES: usize = 16 * 1024;

/// The longest correlation id of a client.
const MAX_ID_BYTES: usize = 128;

/// The longest name of a configuration set (the API's own bound).
const MAX_SET_BYTES: usize = 64;

/// Where stamps are inserted: behind the first header, which is Postfix's own `Received:`. That stays on top, as
/// RFC 5321 section 4.4 wants it, and the stamps are far from the end of the 10 KB of headers that events repeat.
pub const INDEX: i32 = 1;

/// What to stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of the correlation header.
    pub correlation_header: String,
    /// The configuration set; `None`: not stamped.
    pub configuration_set: Option<String>,
}

/// The headers of one message, as far as they matter here, in their order.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    kept: Vec<Header>,
    too_many: bool,
}

#[derive(Clone, Debug)]
struct Header {
    kind: Kind,
    /// Without the blanks that may stand before the colon.
    name: Vec<u8>,
    /// Which of its name, from 1.
    nth: u32,
    value: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Correlation,
    Tags,
    Set,
    OtherSes,
}

/// All that is known of a message beside its headers.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Whether the client is in `trusted_networks`.
    pub trusted: bool,
    /// Whether the client is this host, from where a content filter brings a message back.
    pub loopback: bool,
    /// Postfix's queue id, where it has told one.
    pub queue_id: Option<&'a str>,
    /// The id of a message that brings none.
    pub new_id: &'a str,
}

/// One change of the headers, to be made in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Takes one header out.
    Delete {
        /// Its name, case-blind.
        name: Vec<u8>,
        /// Which of that name, from 1.
        nth: u32,
    },
    /// Puts one in at [`INDEX`].
    Insert {
        /// Its name.
        name: String,
        /// Its value, perhaps folded (`\n` and a tab).
        value: String,
    },
}

/// What becomes of a message's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// The changes.
    pub edits: Vec<Edit>,
    /// The correlation id that the message now has.
    pub correlation_id: String,
    /// How many tags of the application stand beside ours.
    pub tags_merged: u64,
    /// How many headers went whose content did not stay: forged, repeated, malformed, not allowed.
    pub headers_removed: u64,
}

impl Headers {
    /// Takes note of a header, as it came.
    pub fn note(&mut self, settings: &Settings, name: &[u8], value: &[u8]) {
        let name = name.trim_ascii_end();
        let Some(kind) = kind_of(settings, name) else { return };
        if self.kept.len() >= MAX_HEADERS {
            self.too_many = true;
            return;
        }
        let before = self.kept.iter().rev().find(|h| h.name.eq_ignore_ascii_case(name)).map_or(0, |h| h.nth);
        let value = match kind {
            Kind::OtherSes => &[],
            _ => value.get(..MAX_VALUE_BYTES).unwrap_or(value),
        };
        self.kept.push(Header { kind, name: name.to_vec(), nth: before + 1, value: value.to_vec() });
    }

    /// Whether there are more headers of ours and of SES's than [`MAX_HEADERS`]: not all of them could be taken out.
    #[must_use]
    pub fn are_too_many(&self) -> bool {
        self.too_many
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Header> {
        self.kept.iter().filter(move |header| header.kind == kind)
    }
}

/// What becomes of the headers. `issued` knows the ids that were stamped lately.
#[must_use]
pub fn stamp(headers: &Headers, settings: &Settings, scene: &Scene<'_>, issued: impl Fn(&str) -> bool) -> Stamped {
    let ids = || headers.of(Kind::Correlation).filter_map(|header| word(&header.value, MAX_ID_BYTES));
    let own = if scene.loopback { ids().find(|id| issued(id)) } else { None };
    // What comes back from a content filter was judged when it first came.
    let keeps = scene.trusted || own.is_some();
    let kept_id = own.or_else(|| if scene.trusted { ids().next() } else { None });
    let correlation_id = kept_id.unwrap_or(scene.new_id).to_owned();

    let kept_set = headers.of(Kind::Set).find_map(|h| word(&h.value, MAX_SET_BYTES)).filter(|_| keeps);
    let mut tags = Tags::new(scene.queue_id, &correlation_id);
    // Of a message that comes back, the tags without any of the application were all ours.
    let with_tags = headers.of(Kind::Tags).filter(|header| tags.merge(&header.value) || own.is_some()).count();

    let going = headers.kept.iter().rev().filter(|header| header.kind != Kind::OtherSes || !keeps);
    let mut edits: Vec<Edit> =
        going.map(|header| Edit::Delete { name: header.name.clone(), nth: header.nth }).collect();
    let stayed = usize::from(kept_id.is_some()) + usize::from(kept_set.is_some()) + with_tags;
    let headers_removed = edits.len().saturating_sub(stayed) as u64;

    let mut insert =
        |name: &str, value: &str| edits.push(Edit::Insert { name: name.to_owned(), value: value.to_owned() });
    // Each goes on top of those before it.
    if let Some(set) = kept_set.or(settings.configuration_set.as_deref()) {
        insert(SET_HEADER, set);
    }
    insert(TAGS_HEADER, tags.value());
    insert(&settings.correlation_header, &correlation_id);
    Stamped { edits, correlation_id, tags_merged: tags.merged(), headers_removed }
}

fn kind_of(settings: &Settings, name: &[u8]) -> Option<Kind> {
    if name.eq_ignore_ascii_case(settings.correlation_header.as_bytes()) {
        return Some(Kind::Correlation);
    }
    if !name.get(..SES_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(SES_PREFIX)) {
        return None;
    }
    Some(match () {
        () if name.eq_ignore_ascii_case(TAGS_HEADER.as_bytes()) => Kind::Tags,
        () if name.eq_ignore_ascii_case(SET_HEADER.as_bytes()) => Kind::Set,
        () => Kind::OtherSes,
    })
}

/// A value that is one word of letters, digits, `_` and `-`, blanks around it aside.
fn word(value: &[u8], max_bytes: usize) -> Option<&str> {
    let value = value.trim_ascii();
    let sound = (1..=max_bytes).contains(&value.len())
        && value.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if sound { std::str::from_utf8(value).ok() } else { None }
}

//! Finds all lines of the messages that are looked for: first those that name it, then those of the ids that these
//! lines tell, until no line tells a new one.

use super::query::{Hit as About, Needle, Query};
use super::scan::{Hit, scan};
use super::source::{Logs, Unread};
use crate::lines::read::{Entry, LogLine, Stamped, is_queue_id};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use memchr::memmem;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How many bytes of lines are kept: some 100,000 lines. What names more of them has to be narrowed.
pub const MAX_KEPT_BYTES: usize = 24 * 1024 * 1024;

/// Of that, what the first pass may keep: the lines that name what is looked for. The rest is for the lines of their
/// messages, so that what is told is told whole.
const MAX_NAMING_BYTES: usize = MAX_KEPT_BYTES / 6;

/// How many passes are made. Each finds what a content filter, a requeue or a filter's filter made of a message;
/// more of them than this in a row is a loop.
const MAX_PASSES: usize = 8;

/// The shortest id that is followed: what is shorter stands in every second line.
const MIN_ID_BYTES: usize = 5;

/// A line that belongs to a message that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// When it was written.
    pub at: Timestamp,
    /// Whether it is itself about what is looked for.
    pub direct: bool,
    line: Box<[u8]>,
}

/// What is looked for, and all that is known of it.
#[derive(Debug)]
pub struct Search {
    query: Query,
    zone: TimeZone,
    /// Queue ids and SES's ids; whether all of the message is of interest, or only the recipient.
    ids: HashMap<Box<[u8]>, bool>,
    stamps: HashMap<Known, Stamp>,
    /// Queue ids of messages that came from this host, or went where nobody says under which id: to and from a content
    /// filter, it may be.
    loose: HashSet<Box<[u8]>>,
    /// By log and place.
    found: BTreeMap<(usize, u64), Found>,
    kept: usize,
    /// There is more than can be kept.
    cut: bool,
}

impl Found {
    /// The line.
    #[must_use]
    pub fn line(&self) -> Option<(LogLine<'_>, Entry<'_>)> {
        let line = LogLine::parse(&self.line)?;
        line.entry().map(|entry| (line, entry))
    }
}

impl Search {
    /// A search; `zone` is that of times that name none.
    #[must_use]
    pub fn new(query: Query, zone: TimeZone) -> Self {
        Self {
            query,
            zone,
            ids: HashMap::new(),
            stamps: HashMap::new(),
            loose: HashSet::new(),
            found: BTreeMap::new(),
            kept: 0,
            cut: false,
        }
    }

    /// Goes over the logs until nothing new is found; what could not be read.
    pub fn run(&mut self, logs: &Logs) -> Vec<Unread> {
        let mut unread: Vec<Unread> = Vec::new();
        let mut needle = Some(self.query.needle());
        for _ in 0..MAX_PASSES {
            let Some(wanted) = needle.take() else { break };
            let known = self.names();
            for wrong in self.pass(logs, &wanted) {
                if !unread.iter().any(|other| other.name == wrong.name) {
                    unread.push(wrong);
                }
            }
            let names = self.names();
            let new: Vec<&[u8]> = names.difference(&known).map(|name| &**name).collect();
            needle = Needle::many(&new);
        }
        unread
    }

    /// All that lines are looked for by.
    fn names(&self) -> HashSet<Box<[u8]>> {
        let loose = self.stamps.iter().filter(|(_, stamp)| self.loose.contains(&stamp.queue_id));
        self.ids.keys().map(|id| &**id).chain(loose.filter_map(|(known, _)| known.name())).map(Into::into).collect()
    }

    /// Takes a line that was written since; what it is, where it belongs to what is looked for.
    pub fn offer(&mut self, line: &[u8], latest: Timestamp) -> Option<Found> {
        self.judge(line.into(), latest)
    }

    /// The lines, by time. What stands in two logs, in a file and in the journal, is one line.
    #[must_use]
    pub fn found(&self) -> Vec<&Found> {
        let mut first = HashMap::new();
        let mut found = Vec::with_capacity(self.found.len());
        for ((log, _), line) in &self.found {
            let text = LogLine::parse(&line.line).map(|line| line.text);
            if *first.entry((line.at.as_second(), text)).or_insert(*log) == *log {
                found.push(line);
            }
        }
        found.sort_by_key(|line: &&Found| line.at);
        found
    }

    /// What is looked for.
    #[must_use]
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Whether there are more lines than could be kept.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// One pass: all lines with the needle, then, in their order, those of them that belong.
    fn pass(&mut self, logs: &Logs, needle: &Needle) -> Vec<Unread> {
        let most = if self.ids.is_empty() { MAX_NAMING_BYTES } else { MAX_KEPT_BYTES };
        let room = most.saturating_sub(self.kept);
        let bytes = AtomicUsize::new(0);
        let hits = Mutex::new(Vec::new());
        let sink = |hit: Hit| {
            let taken = bytes.fetch_add(hit.line.len() + size_of::<Found>(), Relaxed) < room;
            if taken {
                hits.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(hit);
            }
            taken
        };
        let unread = scan(logs, needle, &sink);
        self.cut |= bytes.into_inner() >= room;
        let mut hits = hits.into_inner().unwrap_or_default();
        hits.sort_unstable_by_key(|hit| (hit.log, hit.offset));
        for hit in hits {
            let latest = logs.all.get(hit.log).map_or(Timestamp::MAX, |log| log.latest);
            let place = (hit.log, hit.offset);
            if let Some(found) = self.judge(hit.line, latest) {
                self.kept += found.line.len() + size_of::<Found>();
                self.found.entry(place).or_insert(found);
            }
        }
        unread
    }

    /// What a line is, where it belongs; its ids are followed from now on.
    fn judge(&mut self, raw: Box<[u8]>, latest: Timestamp) -> Option<Found> {
        let line = LogLine::parse(&raw)?;
        let entry = line.entry()?;
        let at = line.stamp.resolve(latest, &self.zone)?;
        let direct = self.query.hits(&entry);
        let whole = self.belongs(&entry, direct)?;
        for id in leads(&entry) {
            *self.ids.entry(id.into()).or_default() |= whole;
        }
        if let Entry::Stamped(stamped) = &entry {
            let new = || Stamp { queue_id: stamped.queue_id.into(), whole };
            self.stamps.entry(Known::by(stamped)).or_insert_with(new).whole |= whole;
        }
        if is_loose(&entry) {
            self.loose.insert(entry.queue_id().into());
        }
        Some(Found { at, direct: direct.is_some(), line: raw })
    }

    /// Whether all of a message is of interest that was stamped before as this one is.
    fn known_as(&self, entry: &Entry<'_>) -> Option<&bool> {
        let Entry::Stamped(stamped) = entry else { return None };
        self.stamps.get(&Known::by(stamped)).map(|stamp| &stamp.whole)
    }

    /// Whether a line belongs to a message that is looked for, and if so, whether all of that is of interest.
    fn belongs(&self, entry: &Entry<'_>, direct: Option<About>) -> Option<bool> {
        let by_id = [entry.queue_id(), entry.ses_id(), entry.other_queue_id()]
            .into_iter()
            .filter_map(|id| self.ids.get(id))
            .chain(self.known_as(entry))
            .fold(None, |known: Option<bool>, whole| Some(known.unwrap_or_default() || *whole));
        match direct {
            Some(About::Whole) => Some(true),
            Some(About::Recipient) => Some(by_id.unwrap_or_default()),
            // Of a message that is of interest for one recipient, what became of the others is not.
            None => by_id.filter(|whole| *whole || entry.to().iter().all(|to| to.is_empty())),
        }
    }
}

/// What a message is known by behind a content filter. A correlation id that a client sets may stand on many messages.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Known {
    correlation_id: Box<[u8]>,
    message_id: Box<[u8]>,
}

/// A message that was stamped.
#[derive(Debug)]
struct Stamp {
    queue_id: Box<[u8]>,
    /// Whether all of the message is of interest.
    whole: bool,
}

/// The shortest correlation id that is looked for where there is no Message-ID: those that we issue have 36 bytes.
const MIN_CORRELATION_BYTES: usize = 16;

impl Known {
    fn by(stamped: &Stamped<'_>) -> Self {
        Self { correlation_id: stamped.correlation_id.into(), message_id: stamped.message_id.into() }
    }

    /// What is looked for.
    fn name(&self) -> Option<&[u8]> {
        let message_id = Some(&*self.message_id).filter(|id| id.len() >= MIN_ID_BYTES);
        message_id.or(Some(&*self.correlation_id).filter(|id| id.len() >= MIN_CORRELATION_BYTES))
    }
}

/// Whether a line leaves open where its message came from, or under which id it went on.
fn is_loose(entry: &Entry<'_>) -> bool {
    let is_here =
        |client: &[u8]| [&b"[127.0.0.1]"[..], b"[::1]"].iter().any(|here| memmem::find(client, here).is_some());
    match entry {
        Entry::Arrived(arrival) => arrival.before.is_empty() && is_here(arrival.client),
        Entry::Attempt(attempt) => {
            attempt.status == b"sent" && attempt.ses_id().is_none() && attempt.queued_as().is_none()
        }
        _ => false,
    }
}

/// The ids that a line tells and that are followed.
fn leads<'a>(entry: &Entry<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let queue = [entry.queue_id(), entry.other_queue_id()].into_iter().filter(|id| is_queue_id(id));
    queue.chain([entry.ses_id()]).filter(|id| id.len() >= MIN_ID_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The texts of the lines that are found in `log` for `query`.
    pub(crate) fn search(query: &str, log: &str) -> Vec<String> {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        file.write_all(log.as_bytes()).expect("write");
        let mut logs = Logs::default();
        logs.add(file.path()).expect("add");
        let mut search = Search::new(Query::new(query).expect("a query"), TimeZone::UTC);
        assert!(search.run(&logs).is_empty() && !search.is_cut());
        let found = search.found();
        let texts = found.iter().map(|f| String::from_utf8_lossy(f.line().expect("a line").0.text).into_owned());
        texts.collect()
    }

    const TWO: &str = "\
Nov 23 05:28:57 r postfix/smtpd[1]: AAAAA1: client=h[10.0.0.1]
Nov 23 05:28:57 r postfix/cleanup[1]: AAAAA1: message-id=<m@x>
Nov 23 05:28:57 r postfix/qmgr[1]: AAAAA1: from=<s@x>, size=364, nrcpt=2 (queue active)
Nov 23 05:28:58 r postfix/smtp[1]: AAAAA1: to=<a@y>, relay=h, delay=1, dsn=2.0.0, status=sent (250 Ok 0102-aa)
Nov 23 05:28:58 r postfix/smtp[1]: AAAAA1: to=<b@y>, relay=h, delay=1, dsn=2.0.0, status=sent (250 Ok 0102-bb)
Nov 23 05:28:58 r postfix/qmgr[1]: AAAAA1: removed
Nov 23 05:28:59 r postfix/smtpd[1]: BBBBB2: client=h[10.0.0.1]
Nov 23 05:28:59 r postfix/smtp[1]: BBBBB2: to=<aa@y>, relay=h, delay=1, dsn=2.0.0, status=sent (250 Ok 0102-cc)
nonsense about <a@y>
Nov 23 05:28:59 r postfix/ses-events[1]: 0102-aa: to=<a@y>, relay=amazonses.com, dsn=2.0.0, status=delivered
Nov 23 05:28:59 r postfix/ses-events[1]: 0102-aa: to=<>, relay=amazonses.com, status=opened
Nov 23 05:28:59 r postfix/ses-events[1]: 0102-bb: to=<b@y>, relay=amazonses.com, dsn=2.0.0, status=delivered
Nov 23 05:29:10 r postfix/pickup[1]: CCCCC3: uid=0 from=<s@z> orig_id=BBBBB2
";

    #[test]
    fn of_a_recipient_what_is_about_it() {
        let lines = search("A@y", TWO);
        assert_eq!(lines.len(), 7, "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("b@y") || line.contains("0102-bb")), "{lines:#?}");
    }

    #[test]
    fn of_an_id_or_a_sender_everything() {
        for query in ["AAAAA1", "s@x", "<m@x>", "0102-aa", "0102-bb"] {
            assert_eq!(search(query, TWO).len(), 9, "{query}");
        }
    }

    #[test]
    fn requeued_mail_is_the_same() {
        for query in ["aa@y", "CCCCC3", "BBBBB2", "0102-cc"] {
            let lines = search(query, TWO);
            assert_eq!(lines.len(), 3, "{query}: {lines:#?}");
        }
    }

    #[test]
    fn nothing_is_nothing() {
        assert!(search("nobody@y", TWO).is_empty() && search("AAAAA", TWO).is_empty());
    }
}

//! Follows the mail log as it grows, for events that do not tell the queue id themselves (those of identities carry no
//! tags): Postfix's own line names SES's id, `status=sent (250 Ok <id>)`.
//!
//! Nothing is kept over a restart: what was written last is read again, as much of it as holds the ids that are kept,
//! and cannot be out of step with the logs.

use super::fresh::{Fresh, News};
use super::journal::{self, JournalTail};
use super::source::Unread;
use super::{glob, tail::Tail};
use crate::events::files::is_gzip;
use crate::lines::read::{Entry, LogLine};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use memchr::memmem::Finder;
use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// How many ids are known at a time, the newest: 20 MB, and some hours of mail at the most that SES takes from most. Those
/// of most events come within seconds.
pub(super) const MAX_IDS: usize = 100_000;

/// How much of the logs is read at first, the newest: [`MAX_IDS`] messages have not half as many bytes of lines. A log of
/// any size thus takes a second or two at the start.
const MAX_FIRST_BYTES: u64 = 512 * 1024 * 1024;

/// The same of the journal, in lines.
const MAX_FIRST_LINES: usize = 1_000_000;

/// How many logs are followed: more than any rotation keeps.
const MAX_LOGS: usize = 100;

/// After how many polls it is looked for logs that are new, and for a journal that went away.
const POLLS_PER_LOOK: usize = 40;

/// What the log tells of an SES id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Postfix's id.
    pub queue_id: String,
    /// The message's correlation id, where it was stamped.
    pub correlation_id: Option<String>,
}

/// SES's ids and the queue ids behind them, shared by who reads the log and who asks.
#[derive(Clone, Debug, Default)]
pub struct Ids(Arc<Mutex<Tables>>);

/// What stands in each line that tells an id.
const TELLING: [&str; 3] = ["status=sent (250 Ok ", ": correlation_id=", " orig_id="];

#[derive(Debug, Default)]
struct Tables {
    /// Queue id by SES id.
    sent: Newest,
    /// Correlation id by queue id.
    stamped: Newest,
    /// The id before, by queue id, of requeued mail.
    before: Newest,
    /// What the log told of since it was last asked for; `None`: nobody asks.
    fresh: Option<Fresh>,
}

impl Ids {
    /// What is known of an SES id.
    #[must_use]
    pub fn lookup(&self, ses_id: &str) -> Option<Known> {
        self.tables().lookup(ses_id.as_bytes())
    }

    /// From now on keeps what the log tells of mails since then for [`Ids::news`].
    pub fn keep_news(&self, since: Timestamp) {
        self.tables().fresh = Some(Fresh::since(since));
    }

    /// What is new in the log and was not taken yet, about `most` mails at a time.
    #[must_use]
    pub fn news(&self, most: usize) -> News {
        let mut tables = self.tables();
        let Some(mut fresh) = tables.fresh.take() else { return News::default() };
        let news = fresh.take(most, |ses_id| tables.lookup(ses_id));
        tables.fresh = Some(fresh);
        news
    }

    /// Notes what a line of the log tells.
    pub fn note(&self, line: &[u8]) {
        let Some((line, entry)) = LogLine::parse(line).and_then(|line| Some((line, line.entry()?))) else { return };
        match entry {
            Entry::Attempt(attempt) => {
                if let Some(ses_id) = attempt.ses_id() {
                    self.tables().sent(ses_id, attempt.queue_id, &line);
                }
            }
            Entry::Stamped(stamped) => drop(self.tables().stamped.insert(stamped.queue_id, stamped.correlation_id)),
            Entry::Arrived(arrival) if !arrival.before.is_empty() => {
                self.tables().before.insert(arrival.queue_id, arrival.before);
            }
            _ => {}
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn lookup(&self, ses_id: &[u8]) -> Option<Known> {
        let queue_id = self.sent.get(ses_id)?;
        let stamped = self.stamped.get(queue_id);
        let stamped = stamped.or_else(|| self.stamped.get(self.before.get(queue_id)?));
        Some(Known { queue_id: text(queue_id), correlation_id: stamped.map(text) })
    }

    fn sent(&mut self, ses_id: &[u8], queue_id: &[u8], line: &LogLine<'_>) {
        // A mail has a line for each recipient.
        if self.sent.insert(ses_id, queue_id)
            && let Some(fresh) = &mut self.fresh
            && let Some(at) = line.stamp.resolve(Timestamp::now(), &TimeZone::system())
        {
            fresh.add(at, ses_id);
        }
    }
}

pub(super) fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

/// The newest so many pairs.
#[derive(Debug, Default)]
struct Newest {
    values: HashMap<Box<[u8]>, Box<[u8]>>,
    order: VecDeque<Box<[u8]>>,
}

impl Newest {
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.values.get(key).map(|value| &**value)
    }

    /// `true`: the key was not known.
    fn insert(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.values.insert(key.into(), value.into()).is_some() {
            return false;
        }
        self.order.push_back(key.into());
        if self.order.len() > MAX_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        true
    }
}

/// Reads the logs as they grow.
#[derive(Debug)]
pub struct Follower {
    patterns: Vec<String>,
    with_journal: bool,
    ids: Ids,
    tails: Vec<Tail>,
    journal: Option<JournalTail>,
    /// What the last look found that cannot be read.
    wrong: Vec<Unread>,
    polls: usize,
    is_behind: bool,
    words: [Finder<'static>; 3],
}

impl Follower {
    /// One for the plain files of `patterns`, as `[logs]` names them, and for the journal.
    #[must_use]
    pub fn new(patterns: &[String], with_journal: bool, ids: Ids) -> Self {
        Self {
            patterns: patterns.to_vec(),
            with_journal,
            ids,
            tails: Vec::new(),
            journal: None,
            wrong: Vec::new(),
            polls: 0,
            is_behind: true,
            words: TELLING.map(Finder::new),
        }
    }

    /// Reads what is new; the logs that cannot be read, and why. Without any, nothing is followed.
    pub fn poll(&mut self) -> Vec<Unread> {
        if self.polls.is_multiple_of(POLLS_PER_LOOK) {
            self.look();
        }
        self.polls = self.polls.wrapping_add(1);
        let (ids, words) = (&self.ids, &self.words);
        let note = |line: &[u8]| {
            if words.iter().any(|word| word.find(line).is_some()) {
                ids.note(line);
            }
        };
        let mut unread = Vec::new();
        for tail in &mut self.tails {
            if let Err(error) = tail.read(|_, line| note(line)) {
                unread.push(Unread { name: tail.path().display().to_string(), error });
            }
        }
        let read = self.journal.as_mut().map_or(Ok(true), |journal| journal.read(note));
        self.is_behind = matches!(read, Ok(false));
        if let Err(error) = read {
            self.journal = None;
            self.wrong.push(Unread { name: journal::NAME.to_owned(), error });
        }
        unread.extend(self.wrong.iter().map(Unread::again));
        unread
    }

    /// How many logs are followed.
    #[must_use]
    pub fn logs(&self) -> usize {
        self.tails.len() + usize::from(self.journal.is_some())
    }

    /// Whether there is more to read already: at the start.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Follows logs that are new, the oldest first, and no longer those that are gone.
    fn look(&mut self) {
        self.wrong.clear();
        if self.with_journal && self.journal.is_none() {
            match JournalTail::with_newest(MAX_FIRST_LINES) {
                Ok(journal) => self.journal = Some(journal),
                Err(error) => self.wrong.push(Unread { name: journal::NAME.to_owned(), error }),
            }
        }
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for pattern in &self.patterns {
            match glob::files(pattern) {
                Ok(found) => files.extend(found.into_iter().map(|file| (changed(&file), file))),
                Err((folder, error)) => self.wrong.push(Unread { name: folder.display().to_string(), error }),
            }
        }
        files.retain(|(_, file)| !is_packed(file));
        files.sort();
        files.dedup();
        // Of too many, those that no longer grow are left out.
        let files = files.split_off(files.len().saturating_sub(MAX_LOGS));
        self.tails.retain(|tail| files.iter().any(|(_, file)| file == tail.path()));
        let mut left = MAX_FIRST_BYTES;
        let mut new = Vec::new();
        for (_, file) in files.iter().rev().filter(|(_, file)| !self.tails.iter().any(|tail| tail.path() == *file)) {
            let len = fs::metadata(file).map_or(0, |about| about.len());
            new.push(Tail::from_offset(file, len.saturating_sub(left)));
            left = left.saturating_sub(len);
        }
        self.tails.extend(new.into_iter().rev());
    }
}

fn changed(file: &Path) -> SystemTime {
    fs::metadata(file).and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn is_packed(file: &Path) -> bool {
    File::open(file).and_then(|file| is_gzip(&file)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn sent(n: usize) -> String {
        format!(
            "Nov 23 05:28:58 r postfix/smtp[1]: AAAAA{n}: to=<a@y>, relay=h, dsn=2.0.0, status=sent (250 Ok 0102-{n})\n"
        )
    }

    #[test]
    fn ids_are_known_as_soon_as_they_are_in_the_log() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("mail.log");
        let append = |text: &str| {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(&path).expect("open");
            file.write_all(text.as_bytes()).expect("write");
        };
        append(&sent(1));
        append(
            "Nov 23 05:28:57 r postfix/gatepost[1]: AAAAA2: correlation_id=c-2, message-id=<m@x>, from=<s@x>, nrcpt=1\n",
        );
        append("Nov 23 05:28:57 r postfix/pickup[1]: AAAAA3: uid=0 from=<s@x> orig_id=AAAAA2\n");
        let ids = Ids::default();
        let mut follower = Follower::new(&[format!("{}*", path.display())], false, ids.clone());
        assert!(follower.poll().is_empty());
        let known = |n: usize| ids.lookup(&format!("0102-{n}")).map(|k| (k.queue_id, k.correlation_id));
        assert_eq!((known(1), known(2)), (Some(("AAAAA1".to_owned(), None)), None));
        append(&sent(2));
        assert!(follower.poll().is_empty());
        assert_eq!(known(2), Some(("AAAAA2".to_owned(), Some("c-2".to_owned()))));
        fs::rename(&path, dir.path().join("mail.log.1")).expect("rename");
        append(&sent(3));
        assert!(follower.poll().is_empty());
        assert_eq!(known(3), Some(("AAAAA3".to_owned(), Some("c-2".to_owned()))));
        fs::remove_file(&path).expect("remove");
        assert_eq!(follower.poll().len(), 1);
    }

    #[test]
    fn of_too_many_logs_the_newest_are_followed() {
        let dir = tempfile::tempdir().expect("folder");
        for n in 0..MAX_LOGS + 5 {
            let file = File::create(dir.path().join(format!("mail.log.{n}"))).expect("create");
            let age = std::time::Duration::from_secs(60 * n as u64);
            file.set_modified(SystemTime::now() - age).expect("date");
        }
        fs::write(dir.path().join("mail.log"), sent(7)).expect("write");
        let ids = Ids::default();
        let mut follower = Follower::new(&[format!("{}/mail.log*", dir.path().display())], false, ids.clone());
        assert!(follower.poll().is_empty());
        assert_eq!(follower.logs(), MAX_LOGS);
        assert!(ids.lookup("0102-7").is_some());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut newest = Newest::default();
        for n in 0..=MAX_IDS {
            newest.insert(&n.to_be_bytes(), b"q");
        }
        assert_eq!((newest.values.len(), newest.order.len()), (MAX_IDS, MAX_IDS));
        assert!(newest.get(&0_usize.to_be_bytes()).is_none() && newest.get(&MAX_IDS.to_be_bytes()).is_some());
    }
}

//! The whole way of a mail, tried: mail to SES's simulator goes through the relay, and is followed by log and database until
//! its events are back, the bounce is suppressed and the relay refuses the address. What it left in the list goes again.

use super::logs;
use crate::daemon::Config;
use crate::journey::Tail;
use crate::lines::read::{Entry, LogLine};
use crate::mail::Address;
use crate::store::{Reader, Store, StoreError};
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// SES's own addresses, for which nothing is counted against anybody.
const SIMULATOR: &str = "simulator.amazonses.com";

/// How often logs and database are looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the relay may take to answer a command: Postfix waits for a stuck gatepost for up to 11 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest line of an SMTP reply that is read (RFC 5321 section 4.5.3.1.5 has 512).
const MAX_REPLY: u64 = 4_096;

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct SendTest {
    /// The envelope sender, one that SES and the allowlist know.
    pub from: Address,
    /// The relay, `host:port`.
    pub server: String,
    /// How long all of it may take.
    pub wait: Duration,
}

/// What happened, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Since the start.
    pub after: Duration,
    /// The mail, by its simulator's word: `success`, `bounce`, `complaint`; empty where it is about all.
    pub mail: &'static str,
    /// Whether it is what should happen.
    pub good: bool,
    /// In words.
    pub what: String,
}

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The relay cannot be reached.
    #[error("{server}: {error}")]
    Relay {
        /// As it was named.
        server: String,
        /// Why.
        error: io::Error,
    },
    /// The relay did not take a mail.
    #[error("the relay refused {command}: {reply}")]
    Refused {
        /// The command of SMTP.
        command: String,
        /// Its answer.
        reply: String,
    },
    /// The relay spoke of something else.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What the test left in the list cannot be taken out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The links of the chain, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    Sent,
    Told,
    Suppressed,
    Refused,
}

/// One mail, and how far it has come.
struct Mail {
    word: &'static str,
    address: Address,
    /// The status of the event that is to come.
    status: &'static str,
    links: Vec<(Link, bool)>,
    deferred: bool,
}

impl Link {
    /// Where to look when nothing comes of it.
    fn silence(self) -> &'static str {
        match self {
            Self::Sent => "Postfix has not handed it to SES: look at mailq, and at the log (relayhost, TLS, login)",
            Self::Told => {
                "SES took it, and no event came: configuration set, its event destination, the topic's policy, the \
                 subscription, the queue (gatepost doctor looks at that), the spool"
            }
            Self::Suppressed => {
                "no entry was made: suppression in policy.toml, the brake, events.accounts, the database"
            }
            Self::Refused => {
                "the entry stands, and the relay takes the address all the same: the recipient check in main.cf"
            }
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent => "Postfix handed it to SES",
            Self::Told => "SES told of it",
            Self::Suppressed => "the address is suppressed",
            Self::Refused => "the relay refuses the address",
        })
    }
}

/// Tries it; `tell` is told each step. `true`: everything came back.
///
/// # Errors
/// Where the relay takes no mail, or the list cannot be cleaned.
pub fn run(test: &SendTest, config: &Config, tell: &mut dyn FnMut(&Step)) -> Result<bool, SendError> {
    let start = Instant::now();
    let mut tails = tails(config);
    let mut mails = mails(!tails.is_empty());
    if tails.is_empty() {
        let what = "no log can be followed ([logs] of gatepost.toml): only the list is looked at".to_owned();
        tell(&Step { after: start.elapsed(), mail: "", good: false, what });
    }
    let mut relay = Smtp::open(&test.server)?;
    for mail in &mails {
        let what = format!("Postfix took it: {}", relay.send(test.from.as_str(), mail.address.as_str())?);
        tell(&Step { after: start.elapsed(), mail: mail.word, good: true, what });
    }
    drop(relay);
    let mut whole = false;
    while !whole && start.elapsed() < test.wait {
        std::thread::sleep(PAUSE);
        let mut say = |mail: &'static str, good, what| tell(&Step { after: start.elapsed(), mail, good, what });
        follow(&mut tails, &mut mails, &mut say);
        look_at_list(test, config, &mut mails, &mut say);
        whole = mails.iter().all(|mail| mail.next().is_none());
    }
    for mail in &mails {
        let Some(link) = mail.next() else { continue };
        let what = format!("nothing more within {} s: {}", test.wait.as_secs(), link.silence());
        tell(&Step { after: start.elapsed(), mail: mail.word, good: false, what });
    }
    let removed = clean(config, &mails)?;
    let what = format!("taken out of the list again: {removed} entries");
    tell(&Step { after: start.elapsed(), mail: "", good: true, what });
    Ok(whole)
}

/// The logs, from their ends on.
fn tails(config: &Config) -> Vec<Tail> {
    let (files, _) = logs::files(config);
    let plain = files.iter().filter(|path| path.extension().is_none_or(|ext| ext != "gz"));
    plain.filter_map(|path| Some(Tail::from_offset(path, std::fs::metadata(path).ok()?.len()))).collect()
}

/// Each with a label of its own: nothing that an earlier test left counts.
fn mails(with_logs: bool) -> Vec<Mail> {
    let label = format!("gatepost-{:012x}", fastrand::u64(..) >> 16);
    let kinds: [(&str, &str, &[Link]); 3] = [
        ("success", "delivered", &[]),
        ("bounce", "bounced", &[Link::Suppressed, Link::Refused]),
        ("complaint", "complaint", &[Link::Suppressed]),
    ];
    let mail = |(word, status, more): (&'static str, &'static str, &[Link])| {
        let first: &[Link] = if with_logs { &[Link::Sent, Link::Told] } else { &[] };
        let links = first.iter().chain(more).map(|link| (*link, false)).collect();
        let address = Address::parse(&format!("{word}+{label}@{SIMULATOR}")).ok()?;
        Some(Mail { word, address, status, links, deferred: false })
    };
    kinds.into_iter().filter_map(mail).collect()
}

impl Mail {
    /// The first link that has not been reached.
    fn next(&self) -> Option<Link> {
        self.links.iter().find(|(_, reached)| !reached).map(|(link, _)| *link)
    }

    fn lacks(&self, link: Link) -> bool {
        self.links.iter().any(|(other, reached)| *other == link && !reached)
    }

    /// `true` the first time.
    fn reach(&mut self, link: Link) -> bool {
        let lacking = self.links.iter_mut().find(|(other, reached)| *other == link && !*reached);
        lacking.map(|(_, reached)| *reached = true).is_some()
    }

    fn is_to(&self, to: &[u8]) -> bool {
        self.address.as_str().as_bytes().eq_ignore_ascii_case(to)
    }

    /// What a line says of it, where that is news.
    fn hear(&mut self, entry: &Entry<'_>) -> Option<(bool, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match entry {
            Entry::Attempt(attempt) if self.is_to(attempt.to) && attempt.status == b"sent" => {
                self.reach(Link::Sent).then(|| (true, format!("{}: {}", Link::Sent, text(attempt.text))))
            }
            Entry::Attempt(attempt) if self.is_to(attempt.to) && !self.deferred => {
                self.deferred = true;
                Some((false, format!("Postfix: {}: {}", text(attempt.status), text(attempt.text))))
            }
            Entry::Event(event) if self.is_to(event.to) && event.status == self.status.as_bytes() => {
                self.reach(Link::Told).then(|| (true, format!("{}: {}", Link::Told, self.status)))
            }
            _ => None,
        }
    }
}

type Say<'s> = dyn FnMut(&'static str, bool, String) + 's;

fn follow(tails: &mut [Tail], mails: &mut [Mail], say: &mut Say<'_>) {
    for tail in tails {
        // A log between two rotations is there again in a moment.
        let _ = tail.read(|_, line| {
            let Some(entry) = LogLine::parse(line).and_then(|line| line.entry()) else { return };
            for mail in mails.iter_mut() {
                if let Some((good, what)) = mail.hear(&entry) {
                    say(mail.word, good, what);
                }
            }
        });
    }
}

/// Whether the entries stand, and whether the relay knows.
fn look_at_list(test: &SendTest, config: &Config, mails: &mut [Mail], say: &mut Say<'_>) {
    for mail in mails {
        if mail.lacks(Link::Suppressed) {
            let found = Reader::open(&config.store_path()).and_then(|reader| reader.get(mail.address.as_str()));
            if found.is_ok_and(|entry| entry.is_some()) && mail.reach(Link::Suppressed) {
                say(mail.word, true, Link::Suppressed.to_string());
            }
        } else if mail.lacks(Link::Refused) {
            let asked =
                Smtp::open(&test.server).and_then(|mut relay| relay.ask(test.from.as_str(), mail.address.as_str()));
            if let Ok(reply) = asked
                && reply.starts_with('5')
                && mail.reach(Link::Refused)
            {
                say(mail.word, true, format!("{}: {reply}", Link::Refused));
            }
        }
    }
}

/// Takes the entries out; how many there were.
fn clean(config: &Config, mails: &[Mail]) -> Result<usize, SendError> {
    let path = config.store_path();
    if !path.exists() {
        return Ok(0);
    }
    let addresses: Vec<Address> = mails.iter().map(|mail| mail.address.clone()).collect();
    let removed = Store::open(&path)?.remove(&addresses, jiff::Timestamp::now().as_second())?;
    Ok(removed.into_iter().flatten().count())
}

/// A session with the relay.
struct Smtp {
    reader: BufReader<TcpStream>,
}

impl Smtp {
    fn open(server: &str) -> Result<Self, SendError> {
        let connected = TcpStream::connect(server).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        let stream = connected.map_err(|error| SendError::Relay { server: server.to_owned(), error })?;
        let mut smtp = Self { reader: BufReader::new(stream) };
        let greeting = smtp.reply()?;
        accept("the connection", greeting)?;
        smtp.must("EHLO localhost")?;
        Ok(smtp)
    }

    /// Sends a mail; what was answered.
    fn send(&mut self, from: &str, to: &str) -> Result<String, SendError> {
        self.must(&format!("MAIL FROM:<{from}>"))?;
        self.must(&format!("RCPT TO:<{to}>"))?;
        self.must("DATA")?;
        let text = "A mail of \"gatepost doctor --send-test\" to the SES simulator.";
        self.must(&format!("From: <{from}>\r\nTo: <{to}>\r\nSubject: gatepost doctor\r\n\r\n{text}\r\n."))
    }

    /// What the relay says to a recipient, without sending anything.
    fn ask(&mut self, from: &str, to: &str) -> Result<String, SendError> {
        self.must(&format!("MAIL FROM:<{from}>"))?;
        let reply = self.say(&format!("RCPT TO:<{to}>"))?;
        self.must("RSET")?;
        Ok(reply)
    }

    fn must(&mut self, command: &str) -> Result<String, SendError> {
        let reply = self.say(command)?;
        accept(command.lines().next().unwrap_or_default(), reply)
    }

    fn say(&mut self, command: &str) -> Result<String, SendError> {
        self.reader.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.reply()
    }

    /// The last line of a reply.
    fn reply(&mut self) -> Result<String, SendError> {
        loop {
            let mut line = String::new();
            if io::Read::take(&mut self.reader, MAX_REPLY).read_line(&mut line)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}

fn accept(command: &str, reply: String) -> Result<String, SendError> {
    if reply.starts_with(['2', '3']) {
        return Ok(reply);
    }
    Err(SendError::Refused { command: command.to_owned(), reply })
}

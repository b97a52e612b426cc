//! A Postfix whose mail goes through gatepost's milter, with the lines that postfix-snippets/main.cf.milter ships; and the
//! stamps of what arrives, which stand where they must, each once, with nothing else changed.

use crate::gatepost::{Daemon, Home, text};
use crate::postfix::{Options, Postfix, shipped};
use crate::sink::Message;
use crate::smtp::{Reply, Session};
use crate::wait;
use std::io::Write;
use std::process::{Command, Stdio};

/// Who may send.
pub const SENDERS: &str = "info@example.com OK\nroot@example.com OK\nj\u{fc}rgen@example.com OK\n";

/// The headers that Postfix would add to mail that lacks them.
pub const COMPLETE: &str = "Message-ID: <a@b>\nDate: Mon, 23 Nov 2026 09:00:00 +0000\nFrom: info@example.com\n";

/// The settings of a file of postfix-snippets, each on one line.
pub fn snippet(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(shipped("postfix-snippets").join(file)).unwrap();
    let mut settings: Vec<String> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        match settings.last_mut() {
            Some(last) if line.starts_with(' ') => last.push_str(line),
            _ => settings.push(line.to_owned()),
        }
    }
    settings
}

/// A Postfix with the milter's lines.
pub fn postfix() -> Postfix {
    postfix_with(&[])
}

/// The same, with further `name = value` of main.cf.
pub fn postfix_with(set: &[&str]) -> Postfix {
    postfix_of(Options { set: set.iter().map(|s| (*s).to_owned()).collect(), ..Options::default() })
}

/// The same, with all that can be different.
pub fn postfix_of(mut options: Options) -> Postfix {
    options.set = [snippet("main.cf.milter"), options.set].concat();
    Postfix::start(&options)
}

/// A gatepost with a milter beside `postfix`, with further lines of `[milter]`.
pub fn gatepost(postfix: &Postfix, policy: &str, milter: &str) -> (Home, Daemon) {
    let home = home(postfix, policy, milter);
    let daemon = home.start();
    (home, daemon)
}

/// The same, not started.
pub fn home(postfix: &Postfix, policy: &str, milter: &str) -> Home {
    let home = Home::beside(postfix, SENDERS, policy);
    let folder = postfix.socket().parent().unwrap().display().to_string();
    home.write_config(&format!(
        "[milter]\nlisten = [\"unix:{folder}/milter.sock\"]\nlisten_local = [\"unix:{folder}/local.sock\"]\n{milter}\n"
    ));
    home
}

/// Suppresses an address, and waits until `entries` of them are in force.
pub fn suppress(home: &Home, address: &str, entries: u64) {
    home.run(&["suppress", "add", address, "--reason", "manual"]);
    wait::true_within("the entry to be in force", wait::LONG, || {
        home.metric("gatepost_suppressed_entries") as u64 == entries
    });
}

/// One message by SMTP, lines ended by `\n`; Postfix must take it.
pub fn send(session: &mut Session, to: &[&str], content: &str) {
    begin(session, "MAIL FROM:<info@example.com>", to);
    end(session, content.as_bytes()).expect(250, &["queued as"]);
}

/// MAIL, RCPT and DATA, each of which must be granted.
pub fn begin(session: &mut Session, mail: &str, to: &[&str]) {
    session.say(mail).expect(250, &[]);
    for to in to {
        session.say(&format!("RCPT TO:<{to}>")).expect(250, &[]);
    }
    session.say("DATA").expect(354, &[]);
}

/// The content and its end.
pub fn end(session: &mut Session, content: &[u8]) -> Reply {
    let mut wire = Vec::with_capacity(content.len() + content.len() / 32);
    for line in content.strip_suffix(b"\n").unwrap_or(content).split(|b| *b == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
        wire.extend_from_slice(b"\r\n");
    }
    session.send(&wire);
    session.say(".")
}

/// sendmail(1), as cron calls it.
pub fn sendmail(postfix: &Postfix, from: &str, to: &[&str], content: &str) {
    let command = postfix.tool("sendmail");
    // sendmail's -C is postfix's -c.
    let conf = command.get_args().nth(1).unwrap().to_owned();
    let mut command = Command::new(command.get_program());
    command.arg("-C").arg(conf).args(["-i", "-f", from]).args(to).stdin(Stdio::piped());
    let mut child = command.spawn().expect("sendmail");
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What gatepost put on a message, and what is left without it.
#[derive(Debug)]
pub struct Stamps {
    pub queue_id: String,
    pub id: String,
    /// The tags of the application.
    pub tags: String,
    /// The configuration set.
    pub set: Option<String>,
    /// How many `Received:` headers stand above.
    pub received: usize,
    below: Vec<u8>,
}

impl Stamps {
    /// Panics unless the message below the stamps is `content`, byte for byte, lines ended by `\n`.
    pub fn stand_on(&self, content: impl AsRef<[u8]>) -> &Self {
        same(&self.below, content.as_ref());
        self
    }

    /// The same, with Postfix's `Received:` of an earlier time in between.
    pub fn stand_on_received(&self, content: impl AsRef<[u8]>) -> &Self {
        let (received, rest) = split_received(&self.below);
        assert_eq!(received, 1);
        same(rest, content.as_ref());
        self
    }

    pub fn is_new(&self) -> bool {
        self.id.len() == 36 && self.id.as_bytes()[14] == b'7'
    }
}

/// The stamps of a message; panics unless each stands once, in its place.
pub fn stamps(message: &Message) -> Stamps {
    let (received, rest) = split_received(&message.bytes);
    let (id, rest) = header(rest, "X-Correlation-ID").expect("the correlation header first");
    let (tags, rest) = header(rest, "X-SES-MESSAGE-TAGS").expect("the tags second");
    let (set, below) = header(rest, "X-SES-CONFIGURATION-SET").map_or((None, rest), |(set, rest)| (Some(set), rest));
    let tags = tags.replace("\r\n\t", " ");
    let own = tags.strip_prefix("queue_id=").and_then(|rest| rest.split_once(", correlation_id="));
    let (queue_id, rest) = own.expect("our own tags first");
    let (tagged, more) = rest.split_once(", ").unwrap_or((rest, ""));
    assert_eq!(tagged, id);
    let head = text(below).split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
    for name in ["x-correlation-id", "x-ses-message-tags", "x-ses-configuration-set"] {
        let same = |line: &str| line.split(':').next().is_some_and(|n| n.trim_end() == name);
        assert!(!head.split("\r\n").any(same), "a second {name}: {}", message.content);
    }
    Stamps { queue_id: queue_id.to_owned(), id, tags: more.to_owned(), set, received, below: below.to_vec() }
}

/// Panics unless the message has no stamps, and is `content` below Postfix's `Received:`.
pub fn unstamped(message: &Message, content: &str) {
    let (received, rest) = split_received(&message.bytes);
    assert_eq!(received, 1);
    same(rest, content.as_bytes());
}

/// Panics unless both are one; what differs is shown from its first line on.
fn same(arrived: &[u8], sent: &[u8]) {
    let sent = sent.split(|b| *b == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]);
    if arrived != sent {
        let (arrived, sent) = (text(arrived), text(&sent));
        let (n, lines) =
            arrived.lines().zip(sent.lines()).enumerate().find(|(_, (a, b))| a != b).unwrap_or((0, ("", "")));
        panic!("line {} below the stamps is {:?} and was {:?}", n + 1, lines.0, lines.1);
    }
}

/// How many `Received:` headers a message begins with, and what follows.
fn split_received(mut bytes: &[u8]) -> (usize, &[u8]) {
    let mut count = 0;
    while let Some((_, rest)) = header(bytes, "Received") {
        (count, bytes) = (count + 1, rest);
    }
    (count, bytes)
}

/// The value of the first header, if it has this name, and what follows.
fn header<'b>(bytes: &'b [u8], name: &str) -> Option<(String, &'b [u8])> {
    let value = bytes.strip_prefix(name.as_bytes())?.strip_prefix(b": ")?;
    let ends = value.windows(3).position(|w| w.starts_with(b"\r\n") && !matches!(w[2], b' ' | b'\t'))?;
    Some((text(&value[..ends]), &value[ends + 2..]))
}

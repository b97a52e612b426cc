//! A made-up stretch of mail: what happened is decided first, and written down as two relays and gatepost would have; the
//! counts come from the decisions, not from the lines.

use fastrand::Rng;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The zone of the relay that writes no zone.
pub const ZONE: &str = "Asia/Kolkata";

const DAY: i64 = 86_400;
const HOUR: i64 = 3_600;

/// What became of a recipient once SES had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// And then an out-of-office reply.
    Away,
    Complained,
    Bounced(&'static str, &'static str),
    Rejected,
    /// Nothing but `accepted`.
    Open,
    Silent,
    /// Delivered, under another name.
    Renamed,
}

const FATES: [(u32, Fate); 9] = [
    (700, Fate::Delivered),
    (30, Fate::Away),
    (15, Fate::Complained),
    (60, Fate::Bounced("Permanent", "General")),
    (20, Fate::Bounced("Transient", "MailboxFull")),
    (10, Fate::Rejected),
    (20, Fate::Open),
    (40, Fate::Silent),
    (15, Fate::Renamed),
];

/// What a report of the day must say.
#[derive(Debug, Default)]
pub struct Truth {
    pub smtpd: u64,
    pub pickup: u64,
    pub again: u64,
    pub bytes: u64,
    pub refused_by_us: BTreeMap<String, u64>,
    pub refused_by_postfix: u64,
    pub would_refuse: u64,
    pub sent: u64,
    pub to_ses: u64,
    pub relay_none: u64,
    pub by_relay: u64,
    pub deferred: u64,
    pub attempts: u64,
    pub expired: u64,
    pub held: u64,
    pub unheard: u64,
    pub undecided: u64,
    pub delivered_in_the_end: u64,
    pub bounced_in_the_end: u64,
    pub rejected_in_the_end: u64,
    pub repeated: u64,
    pub senders: BTreeMap<String, u64>,
    pub clients: BTreeMap<String, u64>,
    pub sent_to: BTreeMap<String, u64>,
    pub delays: BTreeMap<String, Vec<u64>>,
    /// What SES said in the span: message, recipient, status, bounce type and subtype.
    pub said: BTreeSet<(String, String, &'static str, &'static str, &'static str)>,
}

impl Truth {
    /// How many events there were with this status.
    pub fn said(&self, status: &str) -> u64 {
        self.said.iter().filter(|said| said.2 == status).count() as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Book {
    /// `Nov 23 05:28:57`, of host `relay-a`.
    A,
    /// RFC 3339, of host `relay-b.example.net`.
    B,
    /// gatepost's own file.
    Ours,
}

/// As gatepost writes an address, however Postfix did.
fn xn(address: &str) -> String {
    address.replace("\u{fc}ber.example", "xn--ber-goa.example").to_ascii_lowercase()
}

/// The lines and the truth.
pub struct World {
    rng: Rng,
    start: i64,
    lines: Vec<(i64, Book, String)>,
    pub truth: Truth,
    ids: u64,
}

impl World {
    /// Some 24 hours before the day, the day, and what was still heard after it.
    pub fn new(seed: u64, start: i64, messages: usize) -> Self {
        let mut world = Self { rng: Rng::with_seed(seed), start, lines: Vec::new(), truth: Truth::default(), ids: 0 };
        for _ in 0..messages {
            world.message();
        }
        world
    }

    fn within(&self, at: i64) -> u64 {
        u64::from(at >= self.start && at < self.start + DAY)
    }

    fn say(&mut self, at: i64, book: Book, text: String) {
        self.lines.push((at, book, text));
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.usize(..of.len())]
    }

    fn new_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn message(&mut self) {
        let at = self.start + self.rng.i64(-20 * HOUR..DAY);
        let book = if self.rng.bool() { Book::A } else { Book::B };
        let sender = self.pick(&["app@example.com", "Shop@Example.com", "billing@example.com", ""]).to_owned();
        let client = format!("10.0.0.{}", self.rng.u8(1..9));
        match self.rng.u32(..100) {
            0..8 => self.refused(at, book, &sender, &client),
            8..11 => self.held(at, book, &sender, &client),
            _ => self.carried(at, book, &sender, &client),
        }
        if self.rng.u32(..10) == 0 {
            self.say(at, book, "postfix/smtpd[7]: connect from h[10.0.0.1]".to_owned());
            self.say(at, book, "CRON[12]: status=sent status=bounced to=<a@b>, status=delivered".to_owned());
        }
    }

    fn refused(&mut self, at: i64, book: Book, sender: &str, client: &str) {
        let n = self.within(at);
        let (to, id) = (format!("gone{}@example.net", self.rng.u32(..50)), self.new_id());
        let head = format!("postfix/smtpd[7]: NOQUEUE: reject: RCPT from h[{client}]:");
        let tail = format!("; from=<{sender}> to=<{to}> proto=ESMTP helo=<h>");
        let since = self.rng.u32(1..29);
        let (words, check) = match self.rng.u32(..4) {
            0 => (
                format!("550 5.1.1 Suppressed since 2026-10-{since:02}: smtp; 550 5.1.1 (x) user unknown"),
                "suppression",
            ),
            1 => ("554 5.7.1 Sender not allowed here".to_owned(), "senders"),
            2 => {
                self.say(at, book, format!("{head} 554 5.7.1 <{to}>: Relay access denied{tail}"));
                self.truth.refused_by_postfix += n;
                return;
            }
            _ => {
                let text = format!(
                    "decision=would-reject, check=limits, mode=observe, rule=policy.toml:7, generation=1, \
                                    from=<{sender}>, to=<{to}>, client={client}, instance={id}.x, reply=(450 4.7.1 Slow)"
                );
                self.say(at, Book::Ours, format!("postfix/gatepost[9]: {text}"));
                self.truth.would_refuse += n;
                return;
            }
        };
        let (code, text) = words.split_at(10);
        let kind = if check == "senders" { "Sender" } else { "Recipient" };
        self.say(at, book, format!("{head} {code}<{to}>: {kind} address rejected: {text}{tail}"));
        let reply = words.replace(')', "]");
        let ours = format!(
            "decision=reject, check={check}, mode=enforce, rule={check}-rule, generation=1, from=<{sender}>, \
                            to=<{to}>, client={client}, instance={id}.x, reply=({reply})"
        );
        self.say(at, Book::Ours, format!("postfix/gatepost[9]: {ours}"));
        *self.truth.refused_by_us.entry(check.to_owned()).or_default() += n;
    }

    fn held(&mut self, at: i64, book: Book, sender: &str, client: &str) {
        let text = format!(
            "NOQUEUE: hold: RCPT from h[{client}]: <x@y>: Sender address triggers HOLD action; \
                            from=<{sender}> to=<x@y> proto=ESMTP helo=<h>"
        );
        self.say(at, book, format!("postfix/smtpd[7]: {text}"));
        self.truth.held += self.within(at);
    }

    fn queue_id(&mut self) -> String {
        format!("{:010X}", 0x80_0000_0000 + self.new_id() * 7919)
    }

    fn carried(&mut self, at: i64, book: Book, sender: &str, client: &str) {
        let mut id = self.queue_id();
        let size = self.rng.u64(300..90_000);
        let n = self.within(at);
        if self.rng.u32(..5) == 0 {
            self.say(at, book, format!("postfix/pickup[3]: {id}: uid=0 from=<{sender}>"));
            self.truth.pickup += n;
            *self.truth.clients.entry("sendmail(1)".into()).or_default() += n;
        } else {
            self.say(
                at,
                book,
                format!("postfix/smtpd[7]: {id}: client=h[{client}], sasl_method=PLAIN, sasl_username=app"),
            );
            self.truth.smtpd += n;
            *self.truth.clients.entry(client.into()).or_default() += n;
        }
        self.truth.bytes += n * size;
        self.say(at, book, format!("postfix/cleanup[4]: {id}: message-id=<{id}@example.com>"));
        let recipients = self.rng.usize(1..=6);
        let queued = format!("from=<{sender}>, size={size}, nrcpt={recipients} (queue active)");
        let mut queued_within = self.queued(at, book, &id, &queued);
        let mut now = at;
        let mut deferred = 0;
        for _ in 0..self.rng.u32(..12).saturating_sub(8) {
            let to = self.recipient();
            let text = format!(
                "to=<{to}>, relay=ses[10.1.1.1]:587, delay=1, delays=0/0/0/1, dsn=4.0.0, status=deferred (host \
                                ses[10.1.1.1] said: 454 Throttling failure (in reply to end of DATA command))"
            );
            self.say(now, book, format!("postfix/smtp[5]: {id}: {text}"));
            self.truth.attempts += self.within(now);
            deferred |= self.within(now);
            now += self.rng.i64(300..4_000);
            queued_within |= self.queued(now, book, &id, &queued);
        }
        self.truth.deferred += deferred;
        self.count_sender(sender, queued_within);
        match self.rng.u32(..40) {
            0 => {
                self.say(
                    now,
                    book,
                    format!("postfix/qmgr[2]: {id}: from=<{sender}>, status=expired, returned to sender"),
                );
                self.truth.expired += self.within(now);
                return;
            }
            1 => {
                let new = self.queue_id();
                self.say(now, book, format!("postfix/pickup[3]: {new}: uid=89 from=<{sender}> orig_id={id}"));
                self.truth.again += self.within(now);
                self.truth.bytes += self.within(now) * size;
                let within = self.queued(now, book, &new, &queued);
                self.count_sender(sender, within);
                id = new;
            }
            _ => {}
        }
        self.delivered(now, now - at, book, &id, recipients);
        self.say(now + 1, book, format!("postfix/qmgr[2]: {id}: removed"));
    }

    fn queued(&mut self, at: i64, book: Book, id: &str, text: &str) -> u64 {
        self.say(at, book, format!("postfix/qmgr[2]: {id}: {text}"));
        self.within(at)
    }

    fn count_sender(&mut self, sender: &str, n: u64) {
        let name = if sender.is_empty() { "<>".to_owned() } else { sender.to_ascii_lowercase() };
        *self.truth.senders.entry(name).or_default() += n;
    }

    fn recipient(&mut self) -> String {
        let domain = self.pick(&["gmail.example", "Mail.Example", "slow.example", "\u{fc}ber.example", "d.example"]);
        format!("User{}@{domain}", self.rng.u32(..5_000))
    }

    /// To all recipients: as many transactions with SES as it happens, each with an id of its own.
    fn delivered(&mut self, now: i64, waited: i64, book: Book, id: &str, recipients: usize) {
        let mut left = recipients;
        while left > 0 {
            let together = self.rng.usize(1..=left);
            left -= together;
            let ses_id = format!("0102019a{:08x}-1b2c-000000", self.new_id());
            let mut to: Vec<String> = (0..together).map(|_| self.recipient()).collect();
            to.sort();
            to.dedup();
            for to in to {
                self.attempt(now, waited, book, id, &ses_id, &to);
            }
        }
    }

    fn attempt(&mut self, now: i64, waited: i64, book: Book, id: &str, ses_id: &str, to: &str) {
        let n = self.within(now);
        let domain = xn(to).split_once('@').unwrap().1.to_owned();
        let hundredths = self.rng.i64(5..95);
        let delay = format!("{waited}.{hundredths:02}");
        let (relay, status) = match self.rng.u32(..60) {
            0 => {
                self.truth.relay_none += n;
                ("none", "bounced (Host or domain name not found)".to_owned())
            }
            1 => {
                self.truth.by_relay += n;
                (
                    "ses[10.1.1.1]:587",
                    "bounced (host ses[10.1.1.1] said: 554 Message rejected (in reply to end of DATA command))"
                        .to_owned(),
                )
            }
            2 => {
                self.truth.sent += n;
                *self.truth.sent_to.entry(domain.clone()).or_default() += n;
                ("local", "sent (delivered to mailbox)".to_owned())
            }
            _ => {
                self.truth.sent += n;
                self.truth.to_ses += n;
                *self.truth.sent_to.entry(domain.clone()).or_default() += n;
                self.follow(now, waited * 1_000 + hundredths * 10, ses_id, to, &domain);
                ("ses[10.1.1.1]:587", format!("sent (250 Ok {ses_id})"))
            }
        };
        let text = format!("{id}: to=<{to}>, relay={relay}, delay={delay}, delays=0/0/0/0, dsn=2.0.0, status={status}");
        self.say(now, book, format!("postfix/smtp[5]: {text}"));
    }

    /// What SES says of it, by and by.
    fn follow(&mut self, sent_at: i64, waited_ms: i64, ses_id: &str, to: &str, domain: &str) {
        let weights: u32 = FATES.iter().map(|(weight, _)| weight).sum();
        let mut dice = self.rng.u32(..weights);
        let mut fates = FATES.iter();
        let fate = loop {
            let (weight, fate) = fates.next().unwrap();
            match dice.checked_sub(*weight) {
                Some(rest) => dice = rest,
                None => break *fate,
            }
        };
        let n = self.within(sent_at);
        match fate {
            Fate::Silent => {
                self.truth.unheard += n;
                return;
            }
            Fate::Open => self.truth.undecided += n,
            _ => {}
        }
        let to = match fate {
            Fate::Renamed => format!("other-{to}"),
            _ => to.to_owned(),
        };
        let to = xn(&to);
        self.event(sent_at + 1, ses_id, &to, "accepted", "", "", "");
        let ms = self.rng.i64(200..if domain.starts_with("slow") { 4_000_000 } else { 40_000 });
        let at = sent_at + 1 + ms / 1_000;
        match fate {
            Fate::Delivered | Fate::Away | Fate::Complained | Fate::Renamed => {
                let delay = format!(", delay={ms}ms");
                self.event(at, ses_id, &to, "delivered", "", "", &delay);
                self.truth.delivered_in_the_end += self.within(at);
                if self.within(at) > 0 && fate != Fate::Renamed {
                    let domain = to.split_once('@').unwrap().1.to_owned();
                    self.truth.delays.entry(domain).or_default().push((ms + waited_ms) as u64);
                }
                if self.rng.u32(..3) == 0 {
                    self.event(at + 100, ses_id, &to, "opened", "", "", "");
                    self.event(at + 200, ses_id, &to, "opened", "", "", "");
                    self.event(at + 300, ses_id, &to, "clicked", "", "", "");
                }
            }
            Fate::Bounced(kind, subtype) => {
                self.event(at, ses_id, &to, "bounced", kind, subtype, "");
                self.truth.bounced_in_the_end += self.within(at);
            }
            Fate::Rejected => {
                self.event(at, ses_id, &to, "rejected", "", "", "");
                self.truth.rejected_in_the_end += self.within(at);
            }
            Fate::Open | Fate::Silent => {}
        }
        if fate == Fate::Away {
            self.event(at + 5, ses_id, &to, "bounced", "Transient", "General", "");
        }
        if fate == Fate::Complained {
            self.event(at + 4 * HOUR, ses_id, &to, "complaint", "", "", "");
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the words of one line")]
    fn event(
        &mut self,
        at: i64,
        id: &str,
        to: &str,
        status: &'static str,
        kind: &'static str,
        sub: &'static str,
        more: &str,
    ) {
        let types = if kind.is_empty() { String::new() } else { format!(", bounce_type={kind}, bounce_subtype={sub}") };
        let text = format!(
            "{id}: to=<{to}>, relay=amazonses.com, dsn=2.0.0, status={status}{more}{types}, reason=(smtp; 550 {kind} x)"
        );
        // A crash repeats lines.
        for copy in 0..=i64::from(self.rng.u32(..6) == 0) {
            self.say(at + copy * 7, Book::Ours, format!("postfix/ses-events[8]: {text}"));
            let new = (id.to_owned(), to.to_owned(), status, kind, sub);
            if self.within(at + copy * 7) > 0 && !self.truth.said.insert(new) {
                self.truth.repeated += 1;
            }
        }
    }

    /// Writes the logs into a folder: the one without years in three parts, the oldest packed.
    pub fn write(mut self, dir: &Path) -> Truth {
        self.lines.sort_by_key(|line| line.0);
        let zone = TimeZone::get(ZONE).unwrap();
        let mut texts: BTreeMap<(Book, u8), String> = BTreeMap::new();
        for (n, (at, book, text)) in self.lines.iter().enumerate() {
            let time = Timestamp::from_second(*at).unwrap();
            let part = u8::from(*at < self.start + DAY / 2) + u8::from(*at < self.start + DAY / 4);
            let (head, part) = match book {
                Book::A => (format!("{} relay-a", time.to_zoned(zone.clone()).strftime("%b %e %H:%M:%S")), part),
                Book::B => (format!("{} relay-b.example.net", time.display_with_offset(jiff::tz::offset(-3))), 0),
                Book::Ours => (format!("{time:.6} relay-a"), 0),
            };
            let file = texts.entry((*book, part)).or_default();
            file.push_str(&format!("{head} {text}\n"));
            if n % 97 == 0 {
                file.push_str("what is this? status=sent (250 Ok x)\n\n");
            }
        }
        for ((book, part), text) in texts {
            let path = dir.join(format!("{book:?}.log.{part}"));
            fs::write(&path, text).unwrap();
            if part == 2 {
                assert!(Command::new("gzip").arg(&path).status().unwrap().success());
            }
        }
        self.truth
    }
}

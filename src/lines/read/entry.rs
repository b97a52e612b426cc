//! What a log line says of a message: Postfix's words (its `log_adhoc.c`, `smtpd.c`, `cleanup_milter.c`, `qmgr_active.c`
//! write them) and ours.

use super::fields::Fields;
use super::{postfix, split};
use memchr::memmem;

/// What a line says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// `QID: client=…` of smtpd, `QID: uid=… from=<…>` of pickup.
    Arrived(Arrival<'a>),
    /// `QID: message-id=…` of cleanup.
    MessageId {
        /// Postfix's id.
        queue_id: &'a [u8],
        /// As in the header, without angle brackets.
        message_id: &'a [u8],
    },
    /// `QID: from=<…>, size=…, nrcpt=… (queue active)` of qmgr; again at every retry.
    Queued {
        /// Postfix's id.
        queue_id: &'a [u8],
        /// The sender; empty for the null sender.
        from: &'a [u8],
        /// Bytes.
        size: &'a [u8],
        /// How many recipients are left.
        nrcpt: &'a [u8],
    },
    /// `QID: from=<…>, status=expired, returned to sender`.
    GivenUp {
        /// Postfix's id.
        queue_id: &'a [u8],
        /// The sender.
        from: &'a [u8],
        /// Postfix's words.
        status: &'a [u8],
    },
    /// `QID: to=<…>, …, status=…`.
    Attempt(Attempt<'a>),
    /// `QID: removed`.
    Removed {
        /// Postfix's id.
        queue_id: &'a [u8],
    },
    /// `QID: sender non-delivery notification: QID2`.
    Notice {
        /// Postfix's id.
        queue_id: &'a [u8],
        /// Of what kind.
        kind: &'a [u8],
        /// The id of the notice.
        notice: &'a [u8],
    },
    /// `NOQUEUE: reject: …`, `QID: milter-reject: …` and their like.
    Verdict(Verdict<'a>),
    /// A line of an SES event.
    Event(Event<'a>),
    /// Our line of a message.
    Stamped(Stamped<'a>),
    /// A decision of ours.
    Decided(Decided<'a>),
}

/// How a message came into the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// Postfix's id.
    pub queue_id: &'a [u8],
    /// `client=host[ip]`; empty for local mail.
    pub client: &'a [u8],
    /// `sasl_username=`, empty where there is none.
    pub sasl_username: &'a [u8],
    /// `uid=` of local mail.
    pub uid: &'a [u8],
    /// `from=<…>` of local mail.
    pub from: &'a [u8],
    /// The id it had before: `orig_id=` where it was requeued, `orig_queue_id=` behind a filter.
    pub before: &'a [u8],
}

/// One attempt of Postfix's to deliver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt<'a> {
    /// Postfix's id.
    pub queue_id: &'a [u8],
    /// The recipient.
    pub to: &'a [u8],
    /// As the client named it, where that was another.
    pub orig_to: &'a [u8],
    /// `relay=`
    pub relay: &'a [u8],
    /// `dsn=`
    pub dsn: &'a [u8],
    /// Seconds since arrival.
    pub delay: &'a [u8],
    /// `sent`, `deferred`, `bounced`, …
    pub status: &'a [u8],
    /// The text in brackets.
    pub text: &'a [u8],
}

/// What Postfix decided on its own or a milter's account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Postfix's id; empty for `NOQUEUE`.
    pub queue_id: &'a [u8],
    /// `reject`, `milter-reject`, `hold`, …
    pub word: &'a [u8],
    /// Where and what: `RCPT from host[ip]: 554 5.7.1 <r>: …`.
    pub text: &'a [u8],
    /// The sender.
    pub from: &'a [u8],
    /// The recipient; empty where there is none.
    pub to: &'a [u8],
}

/// A line of an SES event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// SES's id.
    pub ses_id: &'a [u8],
    /// The recipient; empty where the event names none.
    pub to: &'a [u8],
    /// `status=`
    pub status: &'a [u8],
    /// `dsn=`, or empty.
    pub dsn: &'a [u8],
    /// `delay=` without its unit, or empty.
    pub delay_ms: &'a [u8],
    /// `bounce_type=`, or empty; `type=` in the lines of the loops that relays ran before.
    pub bounce_type: &'a [u8],
    /// `bounce_subtype=`, or empty.
    pub bounce_subtype: &'a [u8],
    /// `suppressed=`, or empty.
    pub suppressed: &'a [u8],
    /// `queue_id=`, or empty.
    pub queue_id: &'a [u8],
    /// `correlation_id=`, or empty.
    pub correlation_id: &'a [u8],
    /// `sent_by=`, or empty.
    pub sent_by: &'a [u8],
    /// The closing text, or empty.
    pub text: &'a [u8],
}

/// Our line of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamped<'a> {
    /// Postfix's id.
    pub queue_id: &'a [u8],
    /// `correlation_id=`
    pub correlation_id: &'a [u8],
    /// Without angle brackets.
    pub message_id: &'a [u8],
    /// The sender.
    pub from: &'a [u8],
    /// How many recipients.
    pub nrcpt: &'a [u8],
    /// The client.
    pub client: &'a [u8],
}

/// A decision of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided<'a> {
    /// `decision=`
    pub word: &'a [u8],
    /// `check=`
    pub check: &'a [u8],
    /// `rule=`
    pub rule: &'a [u8],
    /// The sender.
    pub from: &'a [u8],
    /// The recipient, or empty.
    pub to: &'a [u8],
    /// The client.
    pub client: &'a [u8],
    /// `instance=`
    pub instance: &'a [u8],
    /// `queue_id=`, or empty.
    pub queue_id: &'a [u8],
    /// What Postfix was told, or would have been.
    pub text: &'a [u8],
}

/// Postfix's ids: hexadecimal or, with `enable_long_queue_ids`, of letters without vowels.
const QUEUE_ID_BYTES: std::ops::RangeInclusive<usize> = 5..=40;

/// Whether a text can be a queue id.
#[must_use]
pub fn is_queue_id(text: &[u8]) -> bool {
    QUEUE_ID_BYTES.contains(&text.len()) && text.iter().all(u8::is_ascii_alphanumeric) && text != b"NOQUEUE"
}

impl<'a> Entry<'a> {
    /// Reads the text of a line of `program`, which is the last part of the ident.
    pub(super) fn parse(program: &[u8], text: &'a [u8]) -> Option<Self> {
        match program {
            b"ses-events" => Event::parse(text).map(Self::Event),
            b"gatepost" if text.starts_with(b"decision=") => Some(Self::Decided(Decided::parse(text))),
            b"gatepost" => Stamped::parse(text).map(Self::Stamped),
            _ => postfix::read(text),
        }
    }

    /// The id in Postfix's queue; empty where there is none.
    #[must_use]
    pub fn queue_id(&self) -> &'a [u8] {
        match self {
            Self::MessageId { queue_id, .. }
            | Self::Queued { queue_id, .. }
            | Self::GivenUp { queue_id, .. }
            | Self::Removed { queue_id }
            | Self::Notice { queue_id, .. } => queue_id,
            Self::Arrived(arrival) => arrival.queue_id,
            Self::Attempt(attempt) => attempt.queue_id,
            Self::Verdict(verdict) => verdict.queue_id,
            Self::Event(event) => event.queue_id,
            Self::Stamped(stamped) => stamped.queue_id,
            Self::Decided(decided) => decided.queue_id,
        }
    }

    /// SES's id; empty where there is none.
    #[must_use]
    pub fn ses_id(&self) -> &'a [u8] {
        match self {
            Self::Attempt(attempt) => attempt.ses_id().unwrap_or_default(),
            Self::Event(event) => event.ses_id,
            _ => &[],
        }
    }

    /// Another queue id of the same message; empty where there is none.
    #[must_use]
    pub fn other_queue_id(&self) -> &'a [u8] {
        match self {
            Self::Arrived(arrival) => arrival.before,
            Self::Attempt(attempt) => attempt.queued_as().unwrap_or_default(),
            _ => &[],
        }
    }

    /// Sender; `None` where the line names none.
    #[must_use]
    pub fn from(&self) -> Option<&'a [u8]> {
        match self {
            Self::Queued { from, .. } | Self::GivenUp { from, .. } => Some(from),
            Self::Arrived(arrival) => (!arrival.uid.is_empty()).then_some(arrival.from),
            Self::Verdict(verdict) => Some(verdict.from),
            Self::Stamped(stamped) => Some(stamped.from),
            Self::Decided(decided) => Some(decided.from),
            _ => None,
        }
    }

    /// Recipient, and the one that the client named; empty where the line names none.
    #[must_use]
    pub fn to(&self) -> [&'a [u8]; 2] {
        match self {
            Self::Attempt(attempt) => [attempt.to, attempt.orig_to],
            Self::Verdict(verdict) => [verdict.to, &[]],
            Self::Event(event) => [event.to, &[]],
            Self::Decided(decided) => [decided.to, &[]],
            _ => [&[], &[]],
        }
    }
}

impl<'a> Attempt<'a> {
    /// The id in SES's answer, `250 Ok <id>`.
    #[must_use]
    pub fn ses_id(&self) -> Option<&'a [u8]> {
        let id = self.text.strip_prefix(b"250 Ok ")?;
        let is_id = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
        (self.status == b"sent" && !id.is_empty() && id.iter().all(is_id)).then_some(id)
    }

    /// The id under which another Postfix took it, `queued as <id>`.
    #[must_use]
    pub fn queued_as(&self) -> Option<&'a [u8]> {
        const WORDS: &[u8] = b"queued as ";
        let at = memmem::rfind(self.text, WORDS)?;
        let id = self.text[at + WORDS.len()..].split(|b| !b.is_ascii_alphanumeric()).next()?;
        (self.status == b"sent" && is_queue_id(id)).then_some(id)
    }

    pub(super) fn parse(queue_id: &'a [u8], text: &'a [u8]) -> Option<Self> {
        let mut attempt = Self { queue_id, ..Self::default() };
        let mut fields = Fields::of(text);
        loop {
            let rest = fields.rest();
            if let Some(status) = rest.strip_prefix(b", status=") {
                let (status, text) = split(status, b' ').unwrap_or((status, &[]));
                let text = text.strip_prefix(b"(").unwrap_or(text);
                return Some(Self { status, text: text.strip_suffix(b")").unwrap_or(text), ..attempt });
            }
            match fields.next()? {
                (b"to", value) => attempt.to = value,
                (b"orig_to", value) => attempt.orig_to = value,
                (b"relay", value) => attempt.relay = value,
                (b"delay", value) => attempt.delay = value,
                (b"dsn", value) => attempt.dsn = value,
                _ => {}
            }
        }
    }
}

impl<'a> Event<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let at = memmem::find(text, b": to=<")?;
        let mut event = Self { ses_id: &text[..at], ..Self::default() };
        // The writer leaves no angle bracket in the address, but a quote may stand alone.
        let to = &text[at + b": to=<".len()..];
        let end = memchr::memchr(b'>', to)?;
        event.to = &to[..end];
        for (name, value) in Fields::of(&to[end + 1..]) {
            match name {
                b"dsn" => event.dsn = value,
                b"status" => event.status = value,
                b"delay" => event.delay_ms = value.strip_suffix(b"ms").unwrap_or(value),
                b"bounce_type" | b"type" => event.bounce_type = value,
                b"bounce_subtype" => event.bounce_subtype = value,
                b"suppressed" => event.suppressed = value,
                b"queue_id" => event.queue_id = value,
                b"correlation_id" => event.correlation_id = value,
                b"sent_by" => event.sent_by = value,
                b"response" | b"reason" | b"agent" | b"link" => event.text = value,
                _ => {}
            }
        }
        (!event.status.is_empty()).then_some(event)
    }
}

impl<'a> Stamped<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let (queue_id, rest) = split(text, b':')?;
        let rest = rest.strip_prefix(b" ")?;
        let mut stamped = Self { queue_id, ..Self::default() };
        for (name, value) in Fields::of(rest) {
            match name {
                b"correlation_id" => stamped.correlation_id = value,
                b"message-id" => stamped.message_id = value,
                b"from" => stamped.from = value,
                b"nrcpt" => stamped.nrcpt = value,
                b"client" => stamped.client = value,
                _ => {}
            }
        }
        (is_queue_id(queue_id) && !stamped.correlation_id.is_empty()).then_some(stamped)
    }
}

impl<'a> Decided<'a> {
    /// Reads the text of a decision line, or the begin of one.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Self {
        let mut decided = Self::default();
        for (name, value) in Fields::of(text) {
            match name {
                b"decision" => decided.word = value,
                b"check" => decided.check = value,
                b"rule" => decided.rule = value,
                b"from" => decided.from = value,
                b"to" => decided.to = value,
                b"client" => decided.client = value,
                b"instance" => decided.instance = value,
                b"queue_id" => decided.queue_id = value,
                b"reply" | b"note" => decided.text = value,
                _ => {}
            }
        }
        decided
    }
}

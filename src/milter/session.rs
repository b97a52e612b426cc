//! One session: what Postfix tells of a message is kept until its end, and there is answered at once. Nothing before
//! the end is answered at all (where Postfix agrees, as it does since 2.6), so that Postfix waits for us once a message.

use super::judge::{Fate, Outcome, Submission};
use super::stamp::{self, Edit, Headers, INDEX, Scene, Settings};
use super::{Issued, Stats};
use crate::delegation::House;
use crate::delegation::answer::unix_time;
use crate::delegation::stats::is_worth_a_line;
use crate::lines::MessageLine;
use crate::mail::{Address, Canonical, Reply, ReplyCode};
use indymilter::{
    ActionError, Actions, Callbacks, Context, ContextActions, EomActions, EomContext, MacroStage, NegotiateContext,
    ProtoOpts, SetErrorReply, SocketInfo, Status,
};
use ipnet::IpNet;
use std::ffi::{CStr, CString};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long judging a message and telling Postfix all changes may take. Postfix waits `content_timeout` for it, and is
/// told to come again before.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// Most recipients of one message: Postfix takes 1,000 by SMTP, and local mail has rarely more; the bound keeps what a
/// session remembers at some megabytes.
const MAX_RECIPIENTS: usize = 100_000;

/// Most bytes that are kept of a Message-ID.
const MAX_MESSAGE_ID_BYTES: usize = 1_000;

/// Events that are not wanted at all.
const UNWANTED: ProtoOpts = ProtoOpts::NO_HELO
    .union(ProtoOpts::NO_DATA)
    .union(ProtoOpts::NO_EOH)
    .union(ProtoOpts::NO_BODY)
    .union(ProtoOpts::NO_UNKNOWN);

/// Events that are wanted, and not answered.
const UNANSWERED: ProtoOpts = ProtoOpts::NOREPLY_CONNECT
    .union(ProtoOpts::NOREPLY_MAIL)
    .union(ProtoOpts::NOREPLY_RCPT)
    .union(ProtoOpts::NOREPLY_HEADER);

/// What Postfix lets us change.
const CHANGES: Actions = Actions::ADD_HEADER.union(Actions::CHANGE_HEADER).union(Actions::DELETE_RCPT);

/// What is changed of local submissions beside that.
const LOCAL_CHANGES: Actions = CHANGES.union(Actions::CHANGE_SENDER).union(Actions::QUARANTINE);

/// Which of Postfix's two lists of milters a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `smtpd_milters`.
    Smtpd,
    /// `non_smtpd_milters`: sendmail(1), and with `internal_mail_filter_classes = bounce` Postfix's own bounces.
    Local,
}

/// How the milter is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What to stamp.
    pub stamps: Settings,
    /// Whose own correlation id and X-SES headers are kept.
    pub trusted: Vec<IpNet>,
    /// The sender of bounces of local mail; `None`: they keep the null sender.
    pub bounce_sender: Option<Address>,
}

/// What all sessions share.
#[derive(Debug)]
pub struct Milter {
    house: Arc<House>,
    setup: Setup,
    /// The ids that were stamped lately.
    pub issued: Issued,
    /// What was done, counted.
    pub stats: Arc<Stats>,
}

/// What is known of a session.
#[derive(Debug, Default)]
pub(super) struct Talk {
    client: Option<IpAddr>,
    /// Whether Postfix waits for an answer to each event, against our wish.
    answered: bool,
    message: Message,
}

/// What is known of a message.
#[derive(Debug, Default)]
struct Message {
    sender: Vec<u8>,
    recipients: Vec<Vec<u8>>,
    too_many_recipients: bool,
    headers: Headers,
    message_id: Vec<u8>,
    /// How many `From:` headers there are.
    authors: i32,
}

impl Milter {
    /// A milter that judges by `house`.
    #[must_use]
    pub fn new(house: Arc<House>, setup: Setup, stats: Arc<Stats>) -> Arc<Self> {
        Arc::new(Self { house, setup, issued: Issued::default(), stats })
    }

    /// What indymilter calls, for one listener.
    pub(super) fn callbacks(self: &Arc<Self>, side: Side) -> Callbacks<Talk> {
        let (names, ends) = (self.clone(), self.clone());
        Callbacks::new()
            .on_negotiate(move |cx, _, offered| ready(negotiate(cx, side, offered)))
            .on_connect(|cx, _, from| ready(connect(cx, &from)))
            .on_mail(|cx, args| {
                let talk = talk(cx);
                talk.message = Message { sender: address(args).unwrap_or_default(), ..Message::default() };
                ready(talk.go_on())
            })
            .on_rcpt(|cx, args| {
                let talk = talk(cx);
                talk.message.take_recipient(args);
                ready(talk.go_on())
            })
            .on_header(move |cx, name, value| {
                let talk = talk(cx);
                talk.message.take_header(&names.setup.stamps, name.as_bytes(), value.as_bytes());
                ready(talk.go_on())
            })
            .on_abort(|cx| {
                talk(cx).message = Message::default();
                ready(Status::Continue)
            })
            .on_eom(move |cx| {
                let milter = ends.clone();
                Box::pin(async move { milter.end(side, cx).await })
            })
    }

    /// The end of a message: everything is decided and said here.
    async fn end(&self, side: Side, cx: &mut EomContext<Talk>) -> Status {
        let start = Instant::now();
        let mut talk = cx.data.take().unwrap_or_default();
        let message = std::mem::take(&mut talk.message);
        let queue_id = queue_id(cx);
        let client = talk.client;
        cx.data = Some(talk);
        let done = tokio::time::timeout(END_DEADLINE, self.treat(side, &message, client, &queue_id, &cx.actions)).await;
        let status = match done {
            Ok(Ok(fate)) => self.answer(fate, cx),
            Ok(Err(error)) => self.failed(&queue_id, &error),
            Err(_) => self.failed(&queue_id, &"it took too long"),
        };
        self.stats.took(start.elapsed());
        status
    }

    async fn treat(
        &self,
        side: Side,
        message: &Message,
        client: Option<IpAddr>,
        queue_id: &str,
        actions: &EomActions,
    ) -> Result<Fate, ActionError> {
        if message.headers.are_too_many() {
            return Ok(Fate::Bounce(Reply::new(ReplyCode::SENDER_REFUSED, "Too many X-SES headers in the message")));
        }
        if message.too_many_recipients {
            return Ok(Fate::Bounce(Reply::new(ReplyCode::TOO_MANY_RECIPIENTS, "Too many recipients in one message")));
        }
        let rules = self.house.rules.load_full();
        let mut sender = Canonical::default();
        sender.set_external(&message.sender, &rules.rewriting);
        let now = unix_time();
        let recipients = &message.recipients;
        let submission = Submission { rules: &rules, sender: &sender, recipients, client, queue_id, now };
        let Outcome { dropped, fate } = match side {
            Side::Smtpd => submission.by_smtp(&self.house).await,
            Side::Local => submission.local(&self.house).await,
        };
        self.stats.recipients_dropped.fetch_add(dropped.len() as u64, Relaxed);
        if matches!(fate, Fate::Bounce(_) | Fate::Discard) {
            return Ok(fate);
        }
        for recipient in dropped.iter().filter_map(|n| recipients.get(*n)) {
            actions.delete_recipient(c_string(recipient)).await?;
        }
        if side == Side::Local {
            self.give_bounce_a_sender(message, &sender, actions).await?;
        }
        let correlation_id = self.stamp(message, client, queue_id, now, actions).await?;
        if let Fate::Hold(reason) = &fate {
            actions.quarantine(c_string(reason.as_bytes())).await?;
        }
        let client = client.map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
        let line = MessageLine {
            queue_id,
            correlation_id: &correlation_id,
            message_id: &message.message_id,
            from: sender.as_bytes(),
            recipients: recipients.len() - dropped.len(),
            client: &client,
        };
        self.house.outlet.send(line.to_line());
        Ok(fate)
    }

    /// Puts the stamps on; the correlation id.
    async fn stamp(
        &self,
        message: &Message,
        client: Option<IpAddr>,
        queue_id: &str,
        now: Duration,
        actions: &EomActions,
    ) -> Result<String, ActionError> {
        let new_id = uuid::Uuid::now_v7().to_string();
        let scene = Scene {
            trusted: client.is_some_and(|ip| self.setup.trusted.iter().any(|net| net.contains(&ip))),
            loopback: client.is_some_and(|ip| ip.is_loopback()),
            queue_id: (!queue_id.is_empty()).then_some(queue_id),
            new_id: &new_id,
        };
        let stamped = stamp::stamp(&message.headers, &self.setup.stamps, &scene, |id| self.issued.knows(id, now));
        for edit in stamped.edits {
            match edit {
                Edit::Delete { name, nth } => {
                    actions.change_header(c_string(&name), number(nth), None::<CString>).await?;
                }
                Edit::Insert { name, value } => actions.insert_header(INDEX, name, value).await?,
            }
        }
        self.issued.remember(&stamped.correlation_id, now);
        self.stats.stamped.fetch_add(1, Relaxed);
        self.stats.tags_merged.fetch_add(stamped.tags_merged, Relaxed);
        self.stats.headers_removed.fetch_add(stamped.headers_removed, Relaxed);
        Ok(stamped.correlation_id)
    }

    /// SES refuses the null sender, so a bounce that goes out through it needs another, and a `From:` to match. Not one
    /// to that address itself: were it returned, it would go round.
    async fn give_bounce_a_sender(
        &self,
        message: &Message,
        sender: &Canonical,
        actions: &EomActions,
    ) -> Result<(), ActionError> {
        let Some(bounce_sender) = &self.setup.bounce_sender else { return Ok(()) };
        let to_itself = |recipient: &Vec<u8>| {
            let text = std::str::from_utf8(recipient).unwrap_or_default();
            Address::parse(text).is_ok_and(|address| address == *bounce_sender)
        };
        if !sender.as_bytes().is_empty() || message.recipients.iter().any(to_itself) {
            return Ok(());
        }
        actions.change_sender(format!("<{bounce_sender}>"), None::<CString>).await?;
        for nth in (2..=message.authors).rev() {
            actions.change_header(c"From", nth, None::<CString>).await?;
        }
        let author = format!("Mail Delivery System <{bounce_sender}>");
        actions.change_header(c"From", 1, Some(author)).await?;
        self.stats.senders_changed.fetch_add(1, Relaxed);
        Ok(())
    }

    fn answer(&self, fate: Fate, cx: &mut EomContext<Talk>) -> Status {
        let (count, status) = match fate {
            Fate::Deliver => return Status::Continue,
            Fate::Hold(_) => (&self.stats.held, Status::Continue),
            Fate::Discard => (&self.stats.discarded, Status::Discard),
            Fate::Bounce(reply) => {
                refuse(&reply, cx);
                (&self.stats.refused, Status::Reject)
            }
        };
        count.fetch_add(1, Relaxed);
        status
    }

    fn failed(&self, queue_id: &str, error: &dyn std::fmt::Display) -> Status {
        if is_worth_a_line(self.stats.failed.fetch_add(1, Relaxed)) {
            tracing::warn!(queue_id, %error, "Postfix did not take the changes of a message; it is to try again.");
        }
        Status::Tempfail
    }
}

impl Talk {
    fn go_on(&self) -> Status {
        if self.answered { Status::Continue } else { Status::Noreply }
    }
}

impl Message {
    fn take_recipient(&mut self, args: Vec<CString>) {
        if self.recipients.len() >= MAX_RECIPIENTS {
            self.too_many_recipients = true;
        } else {
            self.recipients.extend(address(args));
        }
    }

    fn take_header(&mut self, settings: &Settings, name: &[u8], value: &[u8]) {
        self.headers.note(settings, name, value);
        match name.trim_ascii_end() {
            name if name.eq_ignore_ascii_case(b"from") => self.authors = self.authors.saturating_add(1),
            name if self.message_id.is_empty() && name.eq_ignore_ascii_case(b"message-id") => {
                self.message_id = value.get(..MAX_MESSAGE_ID_BYTES).unwrap_or(value).to_vec();
            }
            _ => {}
        }
    }
}

/// A callback that has nothing to wait for.
fn ready<'a>(status: Status) -> indymilter::CallbackFuture<'a> {
    Box::pin(std::future::ready(status))
}

fn talk(cx: &mut Context<Talk>) -> &mut Talk {
    cx.data.get_or_insert_default()
}

fn negotiate(cx: &mut NegotiateContext<Talk>, side: Side, offered: ProtoOpts) -> Status {
    let unanswered = offered.contains(UNANSWERED);
    cx.requested_opts = UNWANTED & offered;
    if unanswered {
        cx.requested_opts |= UNANSWERED;
    }
    cx.requested_actions = match side {
        Side::Smtpd => CHANGES,
        Side::Local => LOCAL_CHANGES,
    };
    // Only the queue id, and only at the end, when it is known.
    for stage in [MacroStage::Connect, MacroStage::Helo, MacroStage::Mail, MacroStage::Rcpt, MacroStage::Data] {
        cx.requested_macros.insert(stage, CString::default());
    }
    cx.requested_macros.insert(MacroStage::Eoh, CString::default());
    cx.requested_macros.insert(MacroStage::Eom, c"i".to_owned());
    cx.data = Some(Talk { answered: !unanswered, ..Talk::default() });
    Status::Continue
}

/// Postfix's queue id, in whose place nothing else gets into headers and lines; empty where it told none.
fn queue_id(cx: &EomContext<Talk>) -> String {
    let id = cx.macros.get(c"i").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let sound = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if sound { id.to_owned() } else { String::new() }
}

fn connect(cx: &mut Context<Talk>, from: &SocketInfo) -> Status {
    let talk = talk(cx);
    talk.message = Message::default();
    talk.client = match from {
        SocketInfo::Inet(address) => Some(address.ip().to_canonical()),
        SocketInfo::Unix(_) | SocketInfo::Unknown => None,
    };
    talk.go_on()
}

/// The address of MAIL or RCPT: with brackets from smtpd, without them from sendmail(1).
fn address(args: Vec<CString>) -> Option<Vec<u8>> {
    let raw = args.into_iter().next()?.into_bytes();
    let inner = raw.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">"));
    Some(inner.map_or(raw.clone(), <[u8]>::to_vec))
}

fn refuse(reply: &Reply, cx: &mut EomContext<Talk>) {
    let codes = reply.code().to_string();
    let (code, enhanced) = codes.split_once(' ').unwrap_or(("554", "5.7.1"));
    // Postfix takes % for the beginning of a macro.
    let text = reply.text().replace('%', "%%");
    // Where it is not taken, Postfix says its own words.
    let _ = cx.reply.set_error_reply(code, Some(enhanced), [text]);
}

/// Bytes without NUL, which cannot have come in a packet.
fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_else(|_| CStr::to_owned(c"?"))
}

fn number(nth: u32) -> i32 {
    i32::try_from(nth).unwrap_or(i32::MAX)
}

//! The right-hand side of an entry: an access(5) action, and after `OK` the conditions that bind a
//! sender to where it may come from.

use super::lines::is_blank;
use crate::mail::is_control;
use crate::rules::Severity;
use ipnet::IpNet;
use std::net::IpAddr;

/// The longest right-hand side, in bytes: several hundred networks after `clients=`.
pub const MAX_ACTION_BYTES: usize = 16 * 1024;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub action: Action,
    /// The conditions after `OK`; all must hold.
    pub binding: Binding,
}

/// The action of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `OK`, `RELAY`, or all digits: allowed.
    Allow,
    /// `REJECT [text]`: refused with `554 5.7.1` and the text, where there is one.
    Reject(Option<Box<str>>),
    /// `DUNNO`: ends the lookup, counts as unlisted.
    Unlisted,
    /// All else that access(5) knows and we let through, as Postfix spells it
    /// (`4NN`/`5NN text`, `DEFER`, `HOLD`, `DISCARD`, `FILTER`, `REDIRECT`, `PREPEND`, `BCC`, `WARN`, `INFO`…).
    Pass(Box<str>),
}

/// Where an allowed sender may come from; empty: from anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// `clients=`: the client's address is in one of these.
    pub clients: Vec<IpNet>,
    /// `sasl=`: the SASL user is one of these.
    pub sasl: Vec<Box<str>>,
}

/// A finding at a byte of the text it is about.
#[derive(Debug, PartialEq)]
pub(super) struct Note {
    pub offset: usize,
    pub severity: Severity,
    pub message: String,
}

impl Note {
    pub fn problem(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, severity: Severity::Problem, message: message.into() }
    }

    pub fn warning(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, severity: Severity::Warning, message: message.into() }
    }
}

/// Reads a right-hand side; one with a problem among its notes is of no use.
pub(super) fn parse(value: &str, notes: &mut Vec<Note>) -> Option<Entry> {
    if value.len() > MAX_ACTION_BYTES {
        notes.push(Note::problem(0, format!("the action is longer than {MAX_ACTION_BYTES} bytes: shorten it")));
        return None;
    }
    if let Some(at) = value.find(|c: char| is_control(c) && !is_blank(c)) {
        notes.push(Note::problem(at, "a control character in the action: remove it"));
        return None;
    }
    let end = value.find([' ', '\t']).unwrap_or(value.len());
    let text = value[end..].trim_start_matches(is_blank);
    let value = Value { whole: value, word: &value[..end], text, text_at: value.len() - text.len() };
    if value.is("OK") || value.is("RELAY") {
        return Some(Entry { action: Action::Allow, binding: conditions(&value, notes) });
    }
    match action(&value, notes) {
        Ok(action) => Some(Entry { action, binding: Binding::default() }),
        Err(note) => {
            notes.push(note);
            None
        }
    }
}

/// A right-hand side in parts.
struct Value<'a> {
    whole: &'a str,
    word: &'a str,
    text: &'a str,
    text_at: usize,
}

impl Value<'_> {
    fn is(&self, word: &str) -> bool {
        self.word.eq_ignore_ascii_case(word)
    }

    /// As it is handed to Postfix: one line.
    fn pass(&self) -> Action {
        Action::Pass(one_line(self.whole))
    }
}

fn action(value: &Value<'_>, notes: &mut Vec<Note>) -> Result<Action, Note> {
    let needs = |ok: bool, what: &str| {
        let message = format!("{} needs {what}", value.word.to_ascii_uppercase());
        if ok { Ok(value.pass()) } else { Err(Note::problem(value.text_at.min(value.word.len()), message)) }
    };
    match value.word.to_ascii_uppercase().as_str() {
        "DUNNO" => Ok(Action::Unlisted),
        "REJECT" => Ok(reject(value.text)),
        "DEFER" | "DEFER_IF_PERMIT" | "DEFER_IF_REJECT" | "HOLD" | "DISCARD" | "WARN" | "INFO" => Ok(value.pass()),
        "FILTER" => {
            needs(value.text.contains(':'), "a transport and a destination: write FILTER transport:destination")
        }
        "REDIRECT" => needs(value.text.contains('@'), "an address: write REDIRECT user@domain"),
        "BCC" => needs(value.text.contains('@'), "an address: write BCC user@domain"),
        "PREPEND" => needs(is_header(value.text), "a header: write PREPEND Name: text"),
        word if word.starts_with(|c: char| c.is_ascii_digit()) => number(value, notes),
        _ => Err(Note::problem(0, unknown(value.word))),
    }
}

/// `REJECT` with a text that begins with its own enhanced status code goes to Postfix with it.
fn reject(text: &str) -> Action {
    match text {
        "" => Action::Reject(None),
        _ if status_class(text) == Some(b'5') => Action::Pass(one_line(&format!("554 {text}"))),
        _ => Action::Reject(Some(one_line(text))),
    }
}

/// All digits is a permit, `4NN text` and `5NN text` are replies.
fn number(value: &Value<'_>, notes: &mut Vec<Note>) -> Result<Action, Note> {
    let code = value.word.as_bytes();
    let is_reply = code.len() == 3 && matches!(code[0], b'4' | b'5');
    if value.whole.bytes().all(|b| b.is_ascii_digit()) {
        let refusal = if is_reply { value.word } else { "554" };
        notes.push(Note::warning(
            0,
            format!(
                "\"{0}\" alone is all digits, which allows: write OK, or \"{refusal} text\" to refuse",
                value.whole
            ),
        ));
        return Ok(Action::Allow);
    }
    if !is_reply || !code.iter().all(u8::is_ascii_digit) || value.text.is_empty() {
        let message =
            format!("\"{}\" is no reply code: write 4NN or 5NN and a text, such as \"550 5.7.1 text\"", value.word);
        return Err(Note::problem(0, message));
    }
    if status_class(value.text).is_some_and(|class| class != code[0]) {
        let message = format!(
            "the enhanced status code is of another class than {}: write {}.N.N",
            value.word,
            char::from(code[0])
        );
        notes.push(Note::warning(value.text_at, message));
    }
    Ok(value.pass())
}

fn unknown(word: &str) -> String {
    const RESTRICTIONS: [&str; 8] =
        ["permit", "reject_", "check_", "defer_", "warn_if_", "smtpd_", "sleep", "restriction_"];
    let lower = word.to_ascii_lowercase();
    let list = "write OK, REJECT [text], DUNNO, 4NN text, 5NN text, DEFER, DEFER_IF_PERMIT, DEFER_IF_REJECT, HOLD, \
                DISCARD, FILTER, REDIRECT, PREPEND, BCC, WARN or INFO";
    if RESTRICTIONS.iter().any(|name| lower.starts_with(name)) {
        return format!("\"{word}\" is a restriction of Postfix, which gatepost cannot evaluate: {list}");
    }
    if lower.contains(',') {
        return format!("\"{word}\" is a list; an entry takes one action: {list}");
    }
    format!("unknown action \"{word}\": {list}")
}

/// The words after `OK`: conditions, and what is ignored as Postfix ignores it.
fn conditions(value: &Value<'_>, notes: &mut Vec<Note>) -> Binding {
    let mut binding = Binding::default();
    let mut ignored = None;
    for word in value.text.split(is_blank).filter(|word| !word.is_empty()) {
        let at = value.text_at + (word.as_ptr() as usize - value.text.as_ptr() as usize);
        match word.split_once('=') {
            Some((name @ ("clients" | "sasl"), "")) => {
                notes.push(Note::problem(
                    at,
                    format!("nothing after {name}=: write {name}= and the list without a blank"),
                ));
            }
            Some(("clients", list)) => clients(list, at, &mut binding.clients, notes),
            Some(("sasl", list)) => sasl(list, at, &mut binding.sasl, notes),
            Some((name, _)) => {
                let message =
                    format!("unknown condition \"{name}=\": write clients= or sasl= (in lower case), or leave it out");
                notes.push(Note::problem(at, message));
            }
            None if is_mistaken(word) => {
                let message = format!(
                    "\"{word}\" looks like a condition, but has no \"=\": write clients= or sasl=, or leave it out"
                );
                notes.push(Note::problem(at, message));
            }
            None => ignored = ignored.or(Some(at)),
        }
    }
    // A mistaken condition comes in pieces; one message is enough.
    if let Some(at) = ignored.filter(|_| notes.is_empty()) {
        notes.push(Note::warning(at, "ignored: after OK only the conditions clients= and sasl= mean something"));
    }
    binding
}

/// `clients:10.0.0.0/8` must not fail open.
fn is_mistaken(word: &str) -> bool {
    let name = word.split_once(':').map_or("", |(name, _)| name);
    ["clients", "client", "sasl"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn clients(list: &str, at: usize, out: &mut Vec<IpNet>, notes: &mut Vec<Note>) {
    if !out.is_empty() {
        notes.push(Note::problem(at, "clients= stands twice: write one list with commas"));
        return;
    }
    let mut at = at + "clients=".len();
    for text in list.split(',') {
        match network(text) {
            Ok(net) => out.push(net),
            Err(message) => notes.push(Note::problem(at, message)),
        }
        at += text.len() + 1;
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip.to_canonical()));
    }
    let net: IpNet = text.parse().map_err(|_| {
        format!("\"{text}\" is no network: write an address or a CIDR such as 10.0.1.0/24 or 2001:db8::/32")
    })?;
    if net.trunc() != net {
        return Err(format!("\"{text}\" has bits beyond its prefix: write {} or {}", net.trunc(), net.addr()));
    }
    Ok(net)
}

fn sasl(list: &str, at: usize, out: &mut Vec<Box<str>>, notes: &mut Vec<Note>) {
    if !out.is_empty() {
        notes.push(Note::problem(at, "sasl= stands twice: write one list with commas"));
        return;
    }
    let mut at = at + "sasl=".len();
    for user in list.split(',') {
        if user.is_empty() {
            notes.push(Note::problem(at, "an empty name in sasl=: remove the comma"));
        }
        out.push(user.into());
        at += user.len() + 1;
    }
}

/// The class of an enhanced status code (RFC 3463) that a text begins with.
fn status_class(text: &str) -> Option<u8> {
    let code = text.split_ascii_whitespace().next()?;
    let mut parts = code.split('.');
    let class = parts.next().filter(|class| matches!(*class, "2" | "4" | "5"))?;
    let number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let whole = parts.next().is_some_and(number) && parts.next().is_some_and(number) && parts.next().is_none();
    whole.then(|| class.as_bytes()[0])
}

/// Whether a text begins with a header name and a colon.
fn is_header(text: &str) -> bool {
    text.split_once(':').is_some_and(|(name, _)| {
        let name = name.trim_end_matches([' ', '\t']);
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())
    })
}

fn one_line(text: &str) -> Box<str> {
    text.chars().map(|c| if is_blank(c) { ' ' } else { c }).collect::<String>().into()
}

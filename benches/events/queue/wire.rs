//! The AWS JSON 1.0 protocol: requests as they come over HTTP, and the parts of answers.

use super::faults::{Action, Refusal};
use super::state::{Delivery, Handle, Rendered};
use md5::{Digest, Md5};
use memchr::memmem;
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// The longest request: a batch of ten messages of 1 MiB together, escaped.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// Real receipt handles are some 400 bytes; so are these.
const HANDLE_PADDING: &str = "mJ0n3Qm5bWl0aGVoYW5kbGVpc29wYXF1ZXRvdGhlY2xpZW50YW5kb25seWhhc3Rv\
    YmVoYW5kZWRiYWNrYXNpdGNhbWV3aGljaGlzd2h5aXRzbGVuZ3RobWF0dGVyc2FuZG5vdGhpbmdlbHNlYWJvdXRpdGRv\
    ZXNzb3RoZXJlc3RvZml0aXNwYWRkaW5ndGhhdGlzdGhlcmVmb3J0aGVzYWtlb2Z0aGVsZW5ndGhvZnJlcXVlc3RzYW5k\
    YW5zd2Vyc2FsaWtlYXNpdHdvdWxkYmVvdmVydGhlcmVhbHdpcmUwMTIzNDU2Nzg5YWJjZGVmZ2hpamtsbW5vcHFyc3R1";

/// Before a handle's two numbers.
const HANDLE_HEAD: &str = "AQEB";

/// What came over HTTP.
#[derive(Debug)]
pub enum Call {
    /// An action of SQS, with its body.
    Action(Action, Asked),
    /// An action that this queue does not have, or a body that is not the action's.
    Unknown(String),
    /// `GET /tally`: not SQS's, but how the bench asks what has happened.
    Tally,
}

/// The body of a request; fields that an action does not have are absent.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Asked {
    pub queue_url: String,
    pub max_number_of_messages: Option<usize>,
    pub wait_time_seconds: Option<u64>,
    pub visibility_timeout: Option<u64>,
    pub message_system_attribute_names: Vec<String>,
    pub attribute_names: Vec<String>,
    pub receipt_handle: String,
    pub message_body: String,
    pub entries: Vec<Entry>,
}

/// An entry of a batch.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Entry {
    pub id: String,
    pub receipt_handle: String,
    pub visibility_timeout: Option<u64>,
    pub message_body: String,
}

/// Reads requests off a connection.
#[derive(Debug)]
pub struct Requests {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Requests {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::with_capacity(16 << 10) }
    }

    /// The next; `None` where the client has closed.
    pub fn next(&mut self) -> io::Result<Option<Call>> {
        let head_end = loop {
            if let Some(at) = memmem::find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.read_more()? {
                return Ok(None);
            }
        };
        let head = Head::of(&self.buffer[..head_end])?;
        let end = head_end + head.length;
        while self.buffer.len() < end {
            if !self.read_more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let call = head.call(&self.buffer[head_end..end]);
        self.buffer.drain(..end);
        Ok(Some(call))
    }

    fn read_more(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 << 10];
        let n = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..n]);
        Ok(n > 0)
    }
}

/// What matters of a request's head.
struct Head {
    length: usize,
    /// What follows `AmazonSQS.` in `X-Amz-Target`; the path where there is none.
    target: String,
}

impl Head {
    fn of(bytes: &[u8]) -> io::Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
        let mut head = Self { length: 0, target: path.to_owned() };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.parse().map_err(io::Error::other)?;
            } else if name.eq_ignore_ascii_case("x-amz-target") {
                head.target = value.strip_prefix("AmazonSQS.").unwrap_or(value).to_owned();
            }
        }
        match head.length {
            0..=MAX_REQUEST_BYTES => Ok(head),
            _ => Err(io::Error::other("a request longer than any that SQS takes")),
        }
    }

    fn call(self, body: &[u8]) -> Call {
        if self.target == "/tally" {
            return Call::Tally;
        }
        let action = Action::ALL.into_iter().find(|action| action.as_str() == self.target);
        match (action, serde_json::from_slice(body)) {
            (Some(action), Ok(asked)) => Call::Action(action, asked),
            _ => Call::Unknown(self.target),
        }
    }
}

/// An answer on its way into a connection; its buffers are used again and again.
#[derive(Debug, Default)]
pub struct Answer {
    pub body: Vec<u8>,
    head: Vec<u8>,
    refusal: Option<Refusal>,
}

impl Answer {
    /// Empty.
    pub fn begin(&mut self) {
        self.body.clear();
        self.refusal = None;
    }

    /// Text of the body.
    pub fn text(&mut self, text: &str) {
        self.body.extend_from_slice(text.as_bytes());
    }

    /// A string of the body, in quotes.
    pub fn quoted(&mut self, text: &str) {
        // To write to memory cannot fail.
        let _ = serde_json::to_writer(&mut self.body, text);
    }

    /// The whole call is refused.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.body.clear();
        self.text(&format!(r#"{{"__type":"{}","message":"The stand-in was told to say so."}}"#, refusal.shape));
        self.refusal = Some(refusal);
    }

    /// A message of a receive.
    pub fn message(&mut self, delivery: &Delivery<'_>, wanted: &Wanted, wrong_md5: bool) {
        if self.body.last() == Some(&b'}') {
            self.body.push(b',');
        }
        let Handle { number, receive } = delivery.handle;
        let md5 = if wrong_md5 { &[b'0'; 32] } else { &delivery.rendered.md5 };
        let id = Id(number);
        let _ = write!(self.body, r#"{{"MessageId":"{id}","ReceiptHandle":""#);
        let _ = write!(self.body, "{HANDLE_HEAD}{number:016x}{receive:08x}{HANDLE_PADDING}");
        self.text(r#"","MD5OfBody":""#);
        self.body.extend_from_slice(md5);
        self.text(r#"","Body":"#);
        self.text(&delivery.rendered.body);
        wanted.write(delivery, &mut self.body);
        self.body.push(b'}');
    }

    /// Writes it out; with `half`, the first half only.
    pub fn write(&mut self, to: &mut TcpStream, half: bool) -> io::Result<()> {
        self.head.clear();
        let status = match self.refusal.map_or(200, |refusal| refusal.status) {
            200 => "200 OK",
            400 => "400 Bad Request",
            403 => "403 Forbidden",
            _ => "500 Internal Server Error",
        };
        let length = self.body.len();
        write!(
            self.head,
            "HTTP/1.1 {status}\r\nx-amzn-RequestId: 2f0e6a4e-0000-5000-8000-000000000000\r\n\
             Content-Type: application/x-amz-json-1.0\r\nContent-Length: {length}\r\n"
        )?;
        if let Some(Refusal { code, sender_fault, .. }) = self.refusal {
            let whose = if sender_fault { "Sender" } else { "Receiver" };
            write!(self.head, "x-amzn-query-error: {code};{whose}\r\n")?;
        }
        self.head.extend_from_slice(b"\r\n");
        self.head.append(&mut self.body);
        // In one piece: the client wakes once.
        let end = if half { self.head.len() - length.div_ceil(2) } else { self.head.len() };
        to.write_all(&self.head[..end])
    }
}

/// The system attributes that a receive asked for.
#[derive(Debug, Default)]
pub struct Wanted {
    receive_count: bool,
    sent: bool,
    first_received: bool,
}

impl Wanted {
    pub fn of(asked: &Asked) -> Self {
        let names = || asked.message_system_attribute_names.iter().chain(&asked.attribute_names);
        let wants = |name: &str| names().any(|n| n == name || n == "All");
        Self {
            receive_count: wants("ApproximateReceiveCount"),
            sent: wants("SentTimestamp"),
            first_received: wants("ApproximateFirstReceiveTimestamp"),
        }
    }

    fn write(&self, delivery: &Delivery<'_>, to: &mut Vec<u8>) {
        let values = [
            (self.receive_count, "ApproximateReceiveCount", u64::from(delivery.handle.receive)),
            (self.sent, "SentTimestamp", delivery.sent_ms),
            (self.first_received, "ApproximateFirstReceiveTimestamp", delivery.first_received_ms),
        ];
        let mut before = r#","Attributes":{"#;
        for (_, name, value) in values.into_iter().filter(|(wanted, ..)| *wanted) {
            let _ = write!(to, r#"{before}"{name}":"{value}""#);
            before = ",";
        }
        if before == "," {
            to.push(b'}');
        }
    }
}

/// A message's id, as SQS writes it.
pub struct Id(pub u64);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "5fea7756-0ea4-451a-a703-{:012x}", self.0)
    }
}

/// A body as it will stand in answers.
pub fn render(body: &str) -> Rendered {
    // A string always has a JSON form.
    Rendered { body: serde_json::to_string(body).unwrap_or_default().into(), md5: md5_of(body) }
}

/// The MD5 of a text, hexadecimal.
pub fn md5_of(text: &str) -> [u8; 32] {
    let mut hex = [0; 32];
    for (n, byte) in Md5::digest(text.as_bytes()).iter().enumerate() {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
        (hex[2 * n], hex[2 * n + 1]) = (digit(byte >> 4), digit(*byte));
    }
    hex
}

/// What a receipt handle says; `None` where it is none of ours.
pub fn handle(text: &str) -> Option<Handle> {
    let numbers = text.strip_prefix(HANDLE_HEAD)?.strip_suffix(HANDLE_PADDING)?;
    let number = u64::from_str_radix(numbers.get(..16)?, 16).ok()?;
    Some(Handle { number, receive: u32::from_str_radix(numbers.get(16..)?, 16).ok()? })
}

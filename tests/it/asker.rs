//! Asks gatepost as an smtpd process does, byte by byte where a test wants it; and asks its admin
//! socket over HTTP.

use crate::wait;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The answer that lets Postfix go on.
pub const DUNNO: &str = "DUNNO";

/// A policy request.
#[derive(Clone)]
pub struct Question(Vec<u8>);

impl Question {
    /// Without attributes but the one that makes it a request.
    pub fn new(state: &str) -> Self {
        Self(b"request=smtpd_access_policy\n".to_vec()).with("protocol_state", state)
    }

    /// MAIL.
    pub fn mail(sender: &str) -> Self {
        Self::new("MAIL").with("sender", sender).with("client_address", "10.0.0.1")
    }

    /// RCPT.
    pub fn rcpt(sender: &str, recipient: &str) -> Self {
        let question = Self::new("RCPT").with("sender", sender).with("recipient", recipient);
        question.with("client_address", "10.0.0.1")
    }

    /// DATA of the message `instance` from 10.0.0.1, with one recipient.
    pub fn data(instance: &str) -> Self {
        let question = Self::new("DATA").with("sender", "info@example.com").with("recipient_count", "1");
        question.with("client_address", "10.0.0.1").with("instance", instance)
    }

    /// With one more attribute, or another value of it: of a repeated one the last counts.
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'=');
        self.0.extend_from_slice(value.as_ref());
        self.0.push(b'\n');
        self
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        [&self.0[..], b"\n"].concat()
    }
}

/// A stream that can tell its peer that no more comes.
pub trait Wire: Read + Write {
    /// No more is sent.
    fn half_close(&self) -> io::Result<()>;
}

impl Wire for UnixStream {
    fn half_close(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Wire for TcpStream {
    fn half_close(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// A connection to the delegation socket.
pub struct Asker {
    stream: Box<dyn Wire + Send>,
    read: Vec<u8>,
}

impl Asker {
    /// Over a Unix socket.
    pub fn at(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
        stream.set_read_timeout(Some(wait::LONG)).unwrap();
        stream.set_write_timeout(Some(wait::LONG)).unwrap();
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// Over TCP.
    pub fn tcp(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        stream.set_read_timeout(Some(wait::LONG)).unwrap();
        Self { stream: Box::new(stream), read: Vec::new() }
    }

    /// The action that is answered.
    pub fn ask(&mut self, question: &Question) -> String {
        self.send(&question.bytes());
        self.answer().expect("an answer, not the end of the connection")
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends bytes to a peer that may close meanwhile.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends no more.
    pub fn half_close(&mut self) {
        self.stream.half_close().unwrap();
    }

    /// The next action; `None` where the connection was closed instead.
    pub fn answer(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|w| w == b"\n\n") {
                let answer: Vec<u8> = self.read.drain(..end + 2).collect();
                let text = String::from_utf8(answer).unwrap();
                let action = text.strip_prefix("action=").and_then(|t| t.strip_suffix("\n\n"));
                return Some(action.unwrap_or_else(|| panic!("{text:?}")).to_owned());
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(n) if n > 0 => self.read.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A peer that closes with bytes of ours unread resets the connection.
                Err(e) if e.kind() != io::ErrorKind::ConnectionReset => panic!("neither answer nor end: {e}"),
                _ => {
                    assert!(self.read.is_empty(), "half an answer: {:?}", self.read);
                    return None;
                }
            }
        }
    }

    /// Whether the peer closes without a further answer.
    pub fn is_closed(&mut self) -> bool {
        self.answer().is_none()
    }
}

/// An HTTP answer: status and body.
pub struct Answered {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answered {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// Asks over a Unix socket.
pub fn http(socket: &Path, method: &str, path: &str) -> Answered {
    exchange(UnixStream::connect(socket).unwrap(), method, path, "Host: gatepost\r\n")
}

/// Asks over TCP.
pub fn http_tcp(address: &str, method: &str, path: &str) -> Answered {
    exchange(TcpStream::connect(address).unwrap(), method, path, &format!("Host: {address}\r\n"))
}

/// Asks with these lines as the head, which are to name the host.
pub fn exchange(mut stream: impl Wire, method: &str, path: &str, head: &str) -> Answered {
    write!(stream, "{method} {path} HTTP/1.1\r\n{head}Connection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    Answered { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

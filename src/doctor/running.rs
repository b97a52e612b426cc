//! The running daemon, asked as Postfix and an operator ask it: a policy question that charges nothing, a milter
//! handshake, health and metrics.

use crate::daemon::client;
use crate::daemon::config::Config;
use crate::daemon::listeners::Endpoint;
use hyper::Method;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long an answer may take: Postfix's own patience, as the snippets set it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most bytes that are read of an answer to a policy question: a line of at most 2,000, and room.
const MAX_ANSWER: u64 = 4_096;

/// A question before MAIL: no check is made at that state, nothing is charged, nothing is logged.
const QUESTION: &str = "request=smtpd_access_policy\nprotocol_state=EHLO\nprotocol_name=ESMTP\nclient_address=127.0.0.1\n\
                        helo_name=gatepost-doctor\ninstance=gatepost-doctor\npolicy_context=sender\n\n";

/// `SMFIC_OPTNEG`, version 6, with Postfix's own offer of actions and events.
const NEGOTIATE: [u8; 17] = [0, 0, 0, 13, b'O', 0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0x1f, 0xff, 0xff];
const QUIT: [u8; 5] = [0, 0, 0, 1, b'Q'];

/// An address, and what is wrong there.
#[derive(Debug)]
pub(super) struct Asked {
    pub endpoint: Endpoint,
    pub trouble: Option<Trouble>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Trouble {
    pub words: String,
    /// Only who asks may not.
    pub denied: bool,
}

/// What the daemon said.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Each address of `[delegation]`, with what is wrong there.
    pub delegation: Vec<Asked>,
    /// Each address of `[milter]`.
    pub milter: Vec<Asked>,
    /// Each address of `[admin]`.
    pub admin: Vec<Asked>,
    /// `/health`, of the first admin address that answers.
    pub health: Option<Value>,
    /// `/metrics`: names with their labels, and values.
    pub metrics: HashMap<String, f64>,
}

impl Running {
    /// Asks at every address, at all of them at once: one that is stuck holds up nobody else.
    pub(super) fn ask(config: &Config) -> Self {
        let milter = config.milter.iter().flat_map(|milter| milter.listen.iter().chain(&milter.listen_local));
        let milter: Vec<&Endpoint> = milter.collect();
        std::thread::scope(|scope| {
            let delegation = scope.spawn(|| each(config.delegation_listen.iter().collect(), question));
            let milter = scope.spawn(|| each(milter, handshake));
            let mut running = Self::default();
            for endpoint in &config.admin_listen {
                let trouble = running.ask_admin(endpoint).err().map(|e| Trouble::of(&e));
                running.admin.push(Asked { endpoint: endpoint.clone(), trouble });
            }
            running.delegation = delegation.join().unwrap_or_default();
            running.milter = milter.join().unwrap_or_default();
            running
        })
    }

    /// The daemon's process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.health.as_ref()?.get("pid")?.as_u64()?.try_into().ok()
    }

    /// The value of a metric; `None` where the daemon does not say.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }

    /// All values of a metric together, whatever their labels.
    pub(super) fn sum(&self, name: &str) -> f64 {
        let of_it = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.metrics.iter().filter(|(key, _)| of_it(key)).map(|(_, value)| value).sum()
    }

    fn ask_admin(&mut self, endpoint: &Endpoint) -> io::Result<()> {
        let (_, health) = client::ask_once(endpoint, Method::GET, "/health")?;
        let health: Value = serde_json::from_slice(&health).map_err(io::Error::other)?;
        if self.health.is_some() {
            return Ok(());
        }
        self.health = Some(health);
        let (_, metrics) = client::ask_once(endpoint, Method::GET, "/metrics")?;
        let metrics = String::from_utf8_lossy(&metrics);
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ').filter(|(name, _)| !name.starts_with('#'))?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        self.metrics = metrics.lines().filter_map(pair).collect();
        Ok(())
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
    match endpoint {
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Box::new(stream))
        }
        Endpoint::Inet(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Box::new(stream))
        }
    }
}

/// The answer must be DUNNO.
fn question(endpoint: &Endpoint) -> io::Result<()> {
    let mut stream = connect(endpoint)?;
    stream.write_all(QUESTION.as_bytes())?;
    let mut answer = Vec::new();
    let mut limited = stream.take(MAX_ANSWER);
    let mut byte = [0];
    while !answer.ends_with(b"\n\n") {
        if limited.read(&mut byte)? == 0 {
            return Err(io::Error::other("the connection was closed without an answer"));
        }
        answer.extend(byte);
    }
    if answer == b"action=DUNNO\n\n" {
        return Ok(());
    }
    Err(io::Error::other(format!("it is no gatepost: it answered {:?}", String::from_utf8_lossy(&answer))))
}

/// Negotiates, and leaves.
fn handshake(endpoint: &Endpoint) -> io::Result<()> {
    let mut stream = connect(endpoint)?;
    stream.write_all(&NEGOTIATE)?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    if head[4] != b'O' {
        return Err(io::Error::other("it does not answer as a milter"));
    }
    stream.write_all(&QUIT)
}

fn each(endpoints: Vec<&Endpoint>, ask: fn(&Endpoint) -> io::Result<()>) -> Vec<Asked> {
    std::thread::scope(|scope| {
        let asked = endpoints.into_iter().map(|endpoint| (endpoint, scope.spawn(move || ask(endpoint))));
        let asked: Vec<_> = asked.collect();
        let answer = |(endpoint, thread): (&Endpoint, std::thread::ScopedJoinHandle<'_, io::Result<()>>)| {
            let answer = thread.join().unwrap_or_else(|_| Err(io::Error::other("the question panicked")));
            Asked { endpoint: endpoint.clone(), trouble: answer.err().map(|e| Trouble::of(&e)) }
        };
        asked.into_iter().map(answer).collect()
    })
}

impl Trouble {
    fn of(error: &io::Error) -> Self {
        let words = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            io::ErrorKind::UnexpectedEof => "the connection was closed without an answer".to_owned(),
            _ => error.to_string(),
        };
        Self { words, denied: error.kind() == io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() }
    }
}

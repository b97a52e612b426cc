//! The stand-in for SQS, in a process of its own.

use crate::common::Result;
use crate::queue::{Action, Queue, Settings};
use crate::sample::{Mix, Sample};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The first argument of a process in the stand-in's role.
pub const ROLE: &str = "--role=queue";

/// Longer than any measurement takes, so that no event comes twice for slowness.
const VISIBILITY: Duration = Duration::from_secs(600);

/// What the stand-in is filled with.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many events.
    pub events: u64,
    /// Of how many recipients; 0: as many.
    pub recipients: u64,
    /// Whether they are made before anything is measured; else while they are received, which a million need.
    pub beforehand: bool,
}

/// `--role=queue EVENTS RECIPIENTS BEFOREHAND`: says its URL on stdout and serves until stdin ends.
pub fn serve(args: &[String]) -> Result<()> {
    let [events, recipients, beforehand] = args else {
        return Err("usage: --role=queue EVENTS RECIPIENTS BEFOREHAND".into());
    };
    let (events, beforehand): (u64, bool) = (events.parse()?, beforehand.parse()?);
    let sample = Sample { mix: Mix::Mixed, recipients: recipients.parse()? };
    let queue = Queue::start(Settings { visibility: VISIBILITY, ..Settings::default() })?;
    if beforehand {
        for n in 0..events {
            queue.send(&sample.body(n));
        }
    } else {
        let mut numbers = 0..events;
        queue.supply(move || numbers.next().map(|n| sample.body(n)));
    }
    println!("{}", queue.url());
    io::stdout().flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// A stand-in that serves; it ends with this value.
#[derive(Debug)]
pub struct StandIn {
    child: Child,
    /// The queue's URL.
    pub url: String,
}

/// What has happened at a stand-in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Messages deleted.
    pub deleted: u64,
    /// Calls of all kinds.
    pub calls: u64,
    /// Receives among them.
    pub receives: u64,
    /// From the first receive to the last delete.
    pub span: Duration,
}

impl StandIn {
    /// Starts one, and waits until it is filled.
    pub fn start(load: Load) -> Result<Self> {
        let words = [load.events.to_string(), load.recipients.to_string(), load.beforehand.to_string()];
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg(ROLE).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut url = String::new();
        BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut url)?;
        Ok(Self { child, url: url.trim().to_owned() })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `http://host:port`.
    pub fn endpoint(&self) -> &str {
        self.url.match_indices('/').nth(2).map_or(&self.url, |(at, _)| &self.url[..at])
    }

    /// What has happened so far.
    pub fn seen(&self) -> Result<Seen> {
        let address = self.endpoint().trim_start_matches("http://");
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /tally HTTP/1.1\r\nHost: stand-in\r\n\r\n")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
        let tally: serde_json::Value = serde_json::from_str(body)?;
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
        let calls = tally["calls"].as_array().cloned().unwrap_or_default();
        Ok(Seen {
            deleted: number(&tally["deleted"]),
            calls: calls.iter().map(number).sum(),
            receives: calls.get(Action::ReceiveMessage as usize).map_or(0, number),
            span: Duration::from_micros(number(&tally["span_us"])),
        })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

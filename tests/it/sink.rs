//! What stands for SES: takes all mail, answers as SES does (`250 Ok <id>`), and remembers it.

use crate::wait;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// One message as it arrived.
#[derive(Clone, Debug)]
pub struct Message {
    /// The argument of MAIL FROM, with brackets and parameters.
    pub from: String,
    /// The addresses of RCPT TO, without brackets.
    pub to: Vec<String>,
    /// The content, lines ended by `\n`.
    pub content: String,
    /// What was answered.
    pub id: String,
}

/// A running sink. Its threads end with their connections; the listener's with the test process.
pub struct Sink {
    port: u16,
    messages: Arc<Mutex<Vec<Message>>>,
}

impl Sink {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for the sink");
        let port = listener.local_addr().unwrap().port();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&messages);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A connection that breaks is Postfix's to repeat.
                thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        Self { port, messages }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All that has arrived.
    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }

    /// Waits for a message with this subject.
    pub fn message(&self, subject: &str) -> Message {
        let line = format!("Subject: {subject}\n");
        wait::until(&format!("the message {subject:?} at the sink"), wait::LONG, || {
            self.messages().into_iter().find(|m| m.content.contains(&line))
        })
    }
}

fn serve(stream: &TcpStream, messages: &Mutex<Vec<Message>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut out = stream;
    let (mut from, mut to) = (String::new(), Vec::new());
    out.write_all(b"220 sink ESMTP\r\n")?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = text.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8".to_owned(),
            "MAIL" => {
                from = text.get(10..).unwrap_or_default().to_owned();
                to.clear();
                "250 Ok".to_owned()
            }
            "RCPT" => {
                to.push(text.get(9..).unwrap_or_default().trim_end_matches('>').to_owned());
                "250 Ok".to_owned()
            }
            "DATA" => {
                out.write_all(b"354 Go\r\n")?;
                let content = read_content(&mut reader)?;
                let mut all = messages.lock().unwrap();
                let id = format!("0102019a{:08x}-000000", all.len());
                all.push(Message { from: from.clone(), to: to.clone(), content, id: id.clone() });
                format!("250 Ok {id}")
            }
            "QUIT" => {
                out.write_all(b"221 Bye\r\n")?;
                return Ok(());
            }
            _ => "250 Ok".to_owned(),
        };
        out.write_all(format!("{reply}\r\n").as_bytes())?;
    }
}

fn read_content(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut content = String::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 || line == b".\r\n" {
            return Ok(content);
        }
        // RFC 5321 section 4.5.2: a dot that begins a line was put before it for the way.
        let line = line.strip_suffix(b"\r\n").unwrap_or(&line);
        content.push_str(&String::from_utf8_lossy(line.strip_prefix(b".").unwrap_or(line)));
        content.push('\n');
    }
}

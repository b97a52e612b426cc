//! What stands for SES: takes all mail but that to `refused@`, answers as SES does (`250 Ok <id>`), and remembers it.

use crate::wait;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// One message as it arrived.
#[derive(Clone, Debug)]
pub struct Message {
    /// The argument of MAIL FROM, with brackets and parameters.
    pub from: String,
    /// The addresses of RCPT TO, without brackets.
    pub to: Vec<String>,
    /// The content as it came, without the dots that were put before lines for the way.
    pub bytes: Vec<u8>,
    /// The same as text, lines ended by `\n`.
    pub content: String,
    /// What was answered.
    pub id: String,
}

/// A running sink. Its threads end with their connections; the listener's with the test process.
pub struct Sink {
    port: u16,
    shared: Arc<Shared>,
}

/// What its connections share.
#[derive(Default)]
struct Shared {
    messages: Mutex<Vec<Message>>,
    refuses_null_sender: AtomicBool,
}

impl Sink {
    /// Listens on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for the sink");
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let sink = Self { port, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A connection that breaks is Postfix's to repeat.
                thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        sink
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on `MAIL FROM:<>` is refused, as SES refuses it.
    pub fn refuse_null_sender(&self) {
        self.shared.refuses_null_sender.store(true, Ordering::Relaxed);
    }

    /// All that has arrived.
    pub fn messages(&self) -> Vec<Message> {
        self.shared.messages.lock().unwrap().clone()
    }

    /// How many have arrived.
    pub fn count(&self) -> usize {
        self.shared.messages.lock().unwrap().len()
    }

    /// Waits for a message with this subject.
    pub fn message(&self, subject: &str) -> Message {
        let line = format!("Subject: {subject}\n");
        wait::until(&format!("the message {subject:?} at the sink"), wait::LONG, || {
            self.messages().into_iter().find(|m| m.content.contains(&line))
        })
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
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
                if from.starts_with("<>") && shared.refuses_null_sender.load(Ordering::Relaxed) {
                    from.clear();
                    "501 Invalid MAIL FROM address provided".to_owned()
                } else {
                    "250 Ok".to_owned()
                }
            }
            "RCPT" if from.is_empty() => "503 Error: need MAIL command".to_owned(),
            "RCPT" if text.contains("<refused@") => "550 5.1.1 No such user".to_owned(),
            "RCPT" => {
                to.push(text.get(9..).unwrap_or_default().trim_end_matches('>').to_owned());
                "250 Ok".to_owned()
            }
            // Postfix, which sends all of them at once, counts on it.
            "DATA" if to.is_empty() => "503 Error: need RCPT command".to_owned(),
            "DATA" => {
                out.write_all(b"354 Go\r\n")?;
                let bytes = read_content(&mut reader)?;
                let content = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
                let mut all = shared.messages.lock().unwrap();
                let id = format!("0102019a{:08x}-000000", all.len());
                all.push(Message { from: from.clone(), to: to.clone(), bytes, content, id: id.clone() });
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

fn read_content(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        if reader.read_until(b'\n', &mut content)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if &content[start..] == b".\r\n" {
            content.truncate(start);
            return Ok(content);
        }
        // RFC 5321 section 4.5.2: a dot that begins a line was put before it for the way.
        if content[start] == b'.' {
            content.remove(start);
        }
    }
}

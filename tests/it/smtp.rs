//! An SMTP client that sends what it is told and times every reply.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// Longer than any delay that a test provokes (three checks of a stuck daemon are 27 s).
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// One session.
pub struct Session {
    reader: BufReader<TcpStream>,
}

/// One reply.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    /// All lines as they came, joined by `\n`.
    pub text: String,
    /// From the command to the end of the reply.
    pub took: Duration,
}

impl Reply {
    /// Panics unless the code is `code` and the text holds all of `words`.
    pub fn expect(&self, code: u16, words: &[&str]) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.text.contains(word), "{word:?} is not in {self:?}");
        }
        self
    }
}

impl Session {
    /// Connects to 127.0.0.1, reads the greeting and says EHLO.
    pub fn open(port: u16) -> Self {
        Self::open_behind(port, &[])
    }

    /// The same through a load balancer that sends `header` ahead.
    pub fn open_behind(port: u16, header: &[u8]) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect to Postfix");
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut session = Self { reader: BufReader::new(stream) };
        session.send(header);
        session.read().expect(220, &[]);
        session.say("EHLO client.example.net").expect(250, &[]);
        session
    }

    /// Opens a session that Postfix takes for one of another client (XCLIENT).
    pub fn open_as(port: u16, attributes: &str) -> Self {
        let mut session = Self::open(port);
        session.say(&format!("XCLIENT {attributes}")).expect(220, &[]);
        session.say("EHLO client.example.net").expect(250, &[]);
        session
    }

    /// Sends one line, reads its reply.
    pub fn say(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.read()
    }

    /// Sends all lines in one write, then reads all replies (RFC 2920).
    pub fn pipeline(&mut self, lines: &[&str]) -> Vec<Reply> {
        self.send(format!("{}\r\n", lines.join("\r\n")).as_bytes());
        lines.iter().map(|_| self.read()).collect()
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("send to Postfix");
    }

    /// Reads one reply.
    pub fn read(&mut self) -> Reply {
        let start = Instant::now();
        let mut lines: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            let n = self.reader.read_line(&mut line).expect("a reply in time");
            assert!(n > 0, "Postfix closed the session after {lines:?}");
            let line = line.trim_end().to_owned();
            let last = line.as_bytes().get(3) != Some(&b'-');
            lines.push(line);
            if last {
                break;
            }
        }
        let code = lines.last().and_then(|l| l.get(..3)?.parse().ok()).expect("a reply code");
        Reply { code, text: lines.join("\n"), took: start.elapsed() }
    }

    /// MAIL and one RCPT; the reply to RCPT. The transaction is reset afterwards.
    pub fn ask(&mut self, from: &str, to: &str) -> Reply {
        self.say(&format!("MAIL FROM:<{from}>")).expect(250, &[]);
        let reply = self.say(&format!("RCPT TO:<{to}>"));
        self.say("RSET").expect(250, &[]);
        reply
    }

    /// MAIL, RCPT to all (each must be accepted), DATA: the reply to DATA. If that is 354, sends a message
    /// with `subject` and gives the reply to its end.
    pub fn mail(&mut self, from: &str, to: &[&str], subject: &str) -> Reply {
        self.say(&format!("MAIL FROM:<{from}>")).expect(250, &[]);
        for to in to {
            self.say(&format!("RCPT TO:<{to}>")).expect(250, &[]);
        }
        let reply = self.data(subject);
        if reply.code != 250 {
            self.say("RSET").expect(250, &[]);
        }
        reply
    }

    /// DATA and, if it is granted, a message with `subject`.
    pub fn data(&mut self, subject: &str) -> Reply {
        let reply = self.say("DATA");
        if reply.code != 354 {
            return reply;
        }
        self.say(&format!("Subject: {subject}\r\n\r\nBody of {subject}.\r\n."))
    }
}

//! Policy servers: started, and asked a single question.

use super::process::Process;
use super::question::{Kind, text};
use super::{Result, echo};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest wait for a server to answer after its start.
const START: Duration = Duration::from_secs(120);

/// A server that runs; it ends with this value.
#[derive(Debug)]
pub struct Server {
    /// How the tables call it.
    pub name: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// From its start to its first answer.
    pub started_in: Duration,
    process: Process,
}

impl Server {
    /// The echo server.
    pub fn echo(name: &str, dir: &Path) -> Result<Self> {
        let socket = dir.join(format!("{name}.sock"));
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(echo::ROLE).arg(&socket);
        Self::start(name, socket, command)
    }

    /// Starts a server and waits for its first answer.
    pub fn start(name: &str, socket: PathBuf, mut command: Command) -> Result<Self> {
        let began = Instant::now();
        let process = Process::start(&mut command)?;
        let mut server = Self { name: name.to_owned(), socket, started_in: Duration::ZERO, process };
        let question = text(Kind::Data, "sender", "user001@s01.example.com", "a@example.org", "10.1.1.1", "1.1.1.1");
        loop {
            if ask(&server.socket, &question).is_ok() {
                server.started_in = began.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.process.ended()? {
                return Err(format!("{name} ended at its start: {status}").into());
            }
            if began.elapsed() > START {
                return Err(format!("{name} does not answer").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Asks one question over a new connection; the action of the answer.
pub fn ask(socket: &Path, question: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(question.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 512]);
    while !answer.ends_with(b"\n\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    let answer = String::from_utf8(answer)?;
    let action = answer.strip_prefix("action=").ok_or("not an answer")?;
    Ok(action.trim_end().to_owned())
}

//! Server processes: started, asked a single question, looked at in /proc, ended.

use crate::question::{Kind, text};
use crate::{Result, echo};
use std::fs::read_to_string;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest wait for a server to answer after its start.
const START: Duration = Duration::from_secs(120);

/// How long a server may take to end before it is killed.
const END: Duration = Duration::from_secs(5);

/// A server that runs; it ends with this value.
#[derive(Debug)]
pub struct Server {
    /// How the tables call it.
    pub name: String,
    /// Where it listens.
    pub socket: PathBuf,
    /// From its start to its first answer.
    pub started_in: Duration,
    child: Child,
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
        let child = command.stdin(Stdio::null()).spawn()?;
        let mut server = Self { name: name.to_owned(), socket, started_in: Duration::ZERO, child };
        let question = text(Kind::Data, "sender", "user001@s01.example.com", "a@example.org", "10.1.1.1", "1.1.1.1");
        loop {
            if ask(&server.socket, &question).is_ok() {
                server.started_in = began.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
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
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > END {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
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

/// The CPU time of a process: its threads' time on a CPU, in the kernel too (schedstat counts
/// nanoseconds; utime and stime of /proc/PID/stat have ticks of 10 ms).
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end in between.
        let Ok(stat) = read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanos = stat.split(' ').next().and_then(|n| n.parse().ok()).ok_or("no schedstat")?;
        total += Duration::from_nanos(nanos);
    }
    Ok(total)
}

/// The memory of a process, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// VmRSS: all pages in memory, shared and file-backed ones too.
    pub rss: f64,
    /// Pss: shared pages counted in parts.
    pub pss: f64,
    /// RssAnon: its own heap and stacks.
    pub anonymous: f64,
}

/// What a process holds in memory now.
pub fn memory(pid: u32) -> Result<Memory> {
    let (status, rollup) =
        (read_to_string(format!("/proc/{pid}/status"))?, read_to_string(format!("/proc/{pid}/smaps_rollup"))?);
    let field = |text: &str, name: &str| -> Result<f64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
        Ok(value.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    Ok(Memory { rss: field(&status, "VmRSS:")?, pss: field(&rollup, "Pss:")?, anonymous: field(&status, "RssAnon:")? })
}

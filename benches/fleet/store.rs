//! The store: Debian's redis-server, which keeps nothing.

use crate::common::Result;
use crate::common::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A running store; it ends with this value.
#[derive(Debug)]
pub struct Store {
    port: u16,
    process: Process,
}

impl Store {
    /// Starts one, and waits until it listens.
    pub fn start(dir: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--save", "", "--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(dir);
        let store = Self { port, process: Process::start(command.stdout(Stdio::null()))? };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if began.elapsed() > Duration::from_secs(10) {
                return Err("redis-server does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(store)
    }

    /// As `[limits] store` names it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Has it hang.
    pub fn stop(&self) -> Result<()> {
        let pid = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw).ok_or("no process")?;
        Ok(kill_process(pid, Signal::STOP)?)
    }
}

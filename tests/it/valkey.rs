//! The store of a fleet: Debian's redis-server, with a folder and a port of its own.

use crate::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A store that keeps nothing over a restart.
pub const FORGETFUL: &[&str] = &["--save", "", "--appendonly", "no"];

/// A store that has everything on disk before it answers.
pub const LASTING: &[&str] = &["--save", "", "--appendonly", "yes", "--appendfsync", "always"];

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("gatepost-valkey-").tempdir().unwrap()
}

/// A running redis-server; ended, by its pid, when dropped.
pub struct Valkey {
    dir: TempDir,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl Valkey {
    /// Starts one with `options` as redis-server takes them, such as [`FORGETFUL`].
    pub fn start(options: &[&str]) -> Self {
        Self::start_in(folder(), options)
    }

    /// Starts a sentinel that watches the server at `port`, by the name of "main".
    pub fn sentinel_of(port: u16) -> Self {
        let dir = folder();
        let file = dir.path().join("sentinel.conf");
        let watch = format!(
            "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        );
        fs::write(&file, watch).unwrap();
        Self::start_in(dir, &[file.to_str().unwrap(), "--sentinel"])
    }

    fn start_in(dir: TempDir, options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut valkey = Self { dir, port, options: options.iter().map(|&o| o.to_owned()).collect(), child: None };
        valkey.run();
        valkey
    }

    /// Runs it (again), and waits until it answers.
    pub fn run(&mut self) {
        let mut command = Command::new("redis-server");
        // First of them may be the file of its settings.
        command.args(&self.options).args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]);
        command.arg(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server of Debian's package of that name"));
        wait::until("redis-server", wait::LONG, || self.ask::<String>(&["PING"]).ok());
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `store = …` says.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Asks it, with one connection per question.
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = redis::Client::open(self.url())?.get_connection_with_timeout(wait::LONG)?;
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word);
        });
        command.query(&mut connection)
    }

    /// Sends it a signal, such as STOP and CONT.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().try_into().ok()?)).expect("it runs");
        kill_process(pid, signal).expect("it is ours");
    }

    /// Ends it at once (kill -9), and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Valkey {
    fn drop(&mut self) {
        self.kill();
    }
}

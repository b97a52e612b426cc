//! The store of a fleet: Debian's redis-server, with a folder and a port of its own; and a Sentinel that watches one.

use crate::ports;
use crate::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A store that keeps nothing over a restart.
pub const FORGETFUL: &[&str] = &["--save", "", "--appendonly", "no"];

/// A store that has everything on disk before it answers.
pub const LASTING: &[&str] = &["--save", "", "--appendonly", "yes", "--appendfsync", "always"];

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

    /// Starts a Sentinel that makes the replica of this one, which it calls "main", the master once this one is away.
    pub fn watched(&self) -> Self {
        let port = self.port;
        let dir = folder();
        let file = dir.path().join("sentinel.conf");
        let watch = format!(
            "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 2000\n"
        );
        fs::write(&file, watch).unwrap();
        let file = file.to_str().expect("a path of ours").to_owned();
        let sentinel = Self::start_in(dir, &[&file, "--sentinel"]);
        sentinel.until_info("sentinel", "slaves=1");
        sentinel
    }

    /// Starts a node of a cluster, alone and without slots.
    fn cluster_node() -> Self {
        let bus = ports::free().to_string();
        Self::start(&[FORGETFUL, &["--cluster-enabled", "yes", "--cluster-port", &bus]].concat())
    }

    /// Starts a cluster of one node that has all slots.
    pub fn cluster() -> Self {
        let node = Self::cluster_node();
        let _: () = node.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).unwrap();
        node.until_info("cluster", "cluster_state:ok");
        node
    }

    /// Starts a further node of the cluster of this one, without slots.
    pub fn cluster_neighbour(&self) -> Self {
        let (node, bus) = (Self::cluster_node(), self.options.last().expect("its bus"));
        let _: () = node.ask(&["CLUSTER", "MEET", "127.0.0.1", &self.port.to_string(), bus]).unwrap();
        node.until_info("cluster", "cluster_state:ok");
        node
    }

    /// Starts a node that follows this one in its cluster.
    pub fn cluster_replica(&self) -> Self {
        let replica = self.cluster_neighbour();
        let id = self.cluster_id();
        wait::until("the replica to follow", wait::LONG, || replica.ask::<()>(&["CLUSTER", "REPLICATE", &id]).ok());
        replica.until_info("replication", "master_link_status:up");
        replica
    }

    /// The name of a node in its cluster.
    pub fn cluster_id(&self) -> String {
        self.ask(&["CLUSTER", "MYID"]).unwrap()
    }

    /// Starts a replica, which is in step.
    pub fn replica(&self, options: &[&str]) -> Self {
        let port = self.port.to_string();
        let replica = Self::start(options);
        // a replica that restarts is none any more
        let _: String = replica.ask(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
        replica.until_info("replication", "master_link_status:up");
        replica
    }

    /// Waits until a section of what it tells about itself has a text.
    pub fn until_info(&self, section: &str, text: &str) {
        let command = if section == "cluster" { ["CLUSTER", "INFO"] } else { ["INFO", section] };
        wait::until(text, wait::LONG, || self.ask::<String>(&command).ok()?.contains(text).then_some(()));
    }

    /// Waits until a replica has all that `master` has.
    pub fn until_in_step_with(&self, master: &Self) {
        let offset = |of: &Self| -> Option<String> {
            let info = of.ask::<String>(&["INFO", "replication"]).ok()?;
            info.lines().find(|line| line.starts_with("master_repl_offset:")).map(str::to_owned)
        };
        wait::until("the replica to be in step", wait::LONG, || (offset(self)? == offset(master)?).then_some(()));
    }

    fn start_in(dir: TempDir, options: &[&str]) -> Self {
        let port = ports::free();
        let mut valkey = Self { dir, port, options: options.iter().map(|&o| o.to_owned()).collect(), child: None };
        valkey.run();
        valkey
    }

    /// Runs it (again), and waits until it answers.
    pub fn run(&mut self) {
        self.begin();
        wait::until("redis-server", wait::LONG, || self.ask::<String>(&["PING"]).ok());
    }

    /// Runs it (again).
    pub fn begin(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(&self.options).args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]);
        command.arg(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server of Debian's package of that name"));
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

    /// How many addresses the list of a fleet has in it.
    pub fn records(&self) -> redis::RedisResult<u64> {
        let count = "local n = 0 for _, key in ipairs(redis.call('KEYS', ARGV[1])) do n = n + redis.call('HLEN', key) end return n";
        self.ask(&["EVAL", count, "0", "{gatepost}:entries:*"])
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

    /// Removes all that it has on disk, once it is killed.
    pub fn forget(&self) {
        assert!(self.child.is_none(), "it runs");
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("gatepost-valkey-").tempdir().unwrap()
}

impl Drop for Valkey {
    fn drop(&mut self) {
        self.kill();
    }
}

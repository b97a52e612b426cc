//! A redis-server with the records of a fleet, and a relay.

use crate::common::Result;
use crate::common::process::Process;
use gatepost::fleet::Keys;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Records that are sent at once.
const BATCH: usize = 2_000;

/// How long anything may take.
const LONG: Duration = Duration::from_secs(600);

/// A time before now: the records are older than the run.
const THEN: u64 = 1_790_000_000;

/// A redis-server that keeps nothing.
pub struct Fleet {
    url: String,
    _server: Process,
}

/// The folders of a relay.
pub struct Relay {
    dir: PathBuf,
}

/// A relay that answers.
pub struct Started {
    process: Process,
    began: Instant,
    /// From exec to the first refusal.
    pub ready: Duration,
}

impl Fleet {
    /// Starts one in a folder.
    pub fn start(dir: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(dir).stdout(Stdio::null());
        let fleet = Self { url: format!("redis://127.0.0.1:{port}/0"), _server: Process::start(&mut command)? };
        until("redis-server", || Ok(fleet.connection().is_ok()))?;
        Ok(fleet)
    }

    /// Puts the entries of these numbers, each with the text of a bounce.
    pub fn put(&self, numbers: Range<usize>) -> Result<()> {
        self.write(numbers, |n| {
            let text = format!("smtp; 550 5.1.1 <user{n}>: recipient unknown in virtual table");
            format!("1\ne\t{THEN}\t1\t3\t{THEN}\t\t\t{text}")
        })
    }

    /// Removes these, as an operator does.
    pub fn remove(&self, numbers: Range<usize>) -> Result<()> {
        self.write(numbers, |_| format!("1\nr\t{}", (THEN + 1_000) * 1_000))
    }

    /// Forgets everything.
    pub fn clear(&self) -> Result<()> {
        Ok(redis::cmd("FLUSHALL").query(&mut self.connection()?)?)
    }

    /// What the server holds.
    pub fn mebibytes(&self) -> Result<f64> {
        let info: String = redis::cmd("INFO").arg("memory").query(&mut self.connection()?)?;
        let bytes = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<f64>().ok());
        Ok(bytes.ok_or("no used_memory")? / f64::from(1 << 20))
    }

    fn write(&self, numbers: Range<usize>, record: impl Fn(usize) -> String) -> Result<()> {
        let (mut connection, keys) = (self.connection()?, Keys::new("gatepost"));
        let numbers: Vec<usize> = numbers.collect();
        for batch in numbers.chunks(BATCH) {
            let mut pipe = redis::pipe();
            for n in batch {
                let (address, record) = (address(*n), record(*n));
                pipe.cmd("HSET").arg(keys.entries_of(&address)).arg(&address).arg(&record).ignore();
                let told = pipe.cmd("XADD").arg("{gatepost}:changes").arg("MAXLEN").arg("~").arg(200_000).arg("*");
                told.arg("a").arg(&address).arg("r").arg(&record).arg("o").arg("another").ignore();
            }
            pipe.query::<()>(&mut connection)?;
        }
        Ok(())
    }

    fn connection(&self) -> Result<redis::Connection> {
        Ok(redis::Client::open(self.url.as_str())?.get_connection()?)
    }
}

impl Relay {
    /// A relay that never ran.
    pub fn new(fleet: &Fleet, name: &str, place: &Path) -> Result<Self> {
        let dir = place.join(name);
        fs::create_dir_all(dir.join("policy"))?;
        fs::create_dir_all(dir.join("state"))?;
        fs::write(dir.join("policy/policy.toml"), "[senders]\nmode = \"off\"\n")?;
        let (d, url) = (dir.display(), &fleet.url);
        let text = format!(
            "policy_dir = \"{d}/policy\"\nstate_dir = \"{d}/state\"\n[postfix]\nmyorigin = \"example.com\"\n\
             [delegation]\nlisten = [\"unix:{d}/policy.sock\"]\n[suppression]\nstore = \"{url}\"\n\
             [fleet]\nname = \"{name}\"\n[event_log]\noutput = \"file:{d}/mail.log\"\n"
        );
        fs::write(dir.join("gatepost.toml"), text)?;
        Ok(Self { dir })
    }

    /// Starts it, and waits until it refuses an entry.
    pub fn start(&self, refused: usize) -> Result<Started> {
        let log = self.dir.join("diagnostics");
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatepost"));
        command.arg("--config").arg(self.dir.join("gatepost.toml")).arg("serve").stderr(File::create(&log)?);
        let began = Instant::now();
        let process = Process::start(&mut command)?;
        until("the relay to refuse", || Ok(self.refuses(refused).unwrap_or(false)))?;
        Ok(Started { process, began, ready: began.elapsed() })
    }

    /// Whether it refuses an entry.
    pub fn refuses(&self, n: usize) -> Result<bool> {
        let mut stream = UnixStream::connect(self.dir.join("policy.sock"))?;
        let question = format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\npolicy_context=recipient\nsender=a@example.com\n\
             recipient={}\nclient_address=10.0.0.1\n\n",
            address(n)
        );
        stream.write_all(question.as_bytes())?;
        let mut answer = [0; 512];
        let length = stream.read(&mut answer)?;
        Ok(answer[..length].starts_with(b"action=5"))
    }
}

impl Started {
    /// From exec until `knows` says that it knows what the store knows.
    pub fn agreed(&self, knows: impl FnMut() -> Result<bool>) -> Result<Duration> {
        until("agreement", knows)?;
        Ok(self.began.elapsed())
    }

    /// VmHWM, in MiB.
    pub fn most_memory(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        Ok(value.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

/// Addresses in an order that is not that of their names.
fn address(n: usize) -> String {
    let mut address = String::new();
    // writing to a String cannot fail
    let _ = write!(address, "user{n}.{:05}@domain{}.example", n * 7_919 % 99_991, n % 9_973);
    address
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > LONG {
            return Err(format!("waited {LONG:?} for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

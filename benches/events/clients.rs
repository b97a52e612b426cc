//! Who empties the queue: gatepost, or the loop in Python.

use crate::common::Result;
use crate::common::process::Process;
use crate::queue::ACCOUNT;
use crate::stand_in::StandIn;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The release binary that Cargo built beside the bench.
const GATEPOST: &str = env!("CARGO_BIN_EXE_gatepost");

/// The loop.
const LOOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/events/baseline.py");

/// Which client.
#[derive(Clone, Debug)]
pub enum Who {
    /// The daemon as it ships, with an event source and a log file.
    Gatepost,
    /// boto3 on this Python.
    Loop(PathBuf),
}

/// A client that runs, in a folder of its own; both end with this value.
#[derive(Debug)]
pub struct Client {
    process: Process,
    log: PathBuf,
    read: u64,
    lines: u64,
    dir: TempDir,
}

impl Client {
    /// Starts it on the queue of `stand_in`.
    pub fn start(who: &Who, stand_in: &StandIn, place: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("events-").tempdir_in(place)?;
        let log = dir.path().join("mail.log");
        let mut command = match who {
            Who::Gatepost => gatepost(dir.path(), &stand_in.url)?,
            Who::Loop(python) => {
                let mut command = Command::new(python);
                command.arg(LOOP).arg(&stand_in.url).arg(&log);
                command
            }
        };
        command
            .env("AWS_ENDPOINT_URL", stand_in.endpoint())
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .env("AWS_ACCESS_KEY_ID", "bench")
            .env("AWS_SECRET_ACCESS_KEY", "bench")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        let said = File::create(dir.path().join("stderr"))?;
        let process = Process::start(command.stdout(Stdio::null()).stderr(said))?;
        Ok(Self { process, log, read: 0, lines: 0, dir })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How many events have a line in its log.
    pub fn lines(&mut self) -> Result<u64> {
        let Ok(mut file) = File::open(&self.log) else { return Ok(0) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut line = Vec::new();
        while file.by_ref().read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            self.read += line.len() as u64;
            self.lines += u64::from(memchr::memmem::find(&line, b"relay=amazonses.com").is_some());
            line.clear();
        }
        Ok(self.lines)
    }

    /// An error, with what it said last, where it has ended.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.process.ended()? else { return Ok(()) };
        let said = fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default();
        Err(format!("the client ended: {status}\n{said}").into())
    }

    /// How many addresses it suppresses now, by its own command.
    pub fn suppressed(&self) -> Result<u64> {
        let mut command = Command::new(GATEPOST);
        command.arg("--config").arg(self.dir.path().join("gatepost.toml")).args(["suppress", "export"]);
        let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        Ok(out.stdout.iter().filter(|byte| **byte == b'\n').count() as u64)
    }
}

fn gatepost(dir: &Path, url: &str) -> Result<Command> {
    fs::create_dir_all(dir.join("policy"))?;
    fs::create_dir_all(dir.join("state"))?;
    fs::write(dir.join("policy/policy.toml"), "[senders]\nmode = \"off\"\n")?;
    let here = dir.display();
    let config = format!(
        "policy_dir = \"{here}/policy\"\nstate_dir = \"{here}/state\"\n\n[delegation]\nlisten = \
         [\"unix:{here}/policy.sock\"]\nsocket_mode = \"0600\"\n\n[suppression]\nstore = \
         \"sqlite:{here}/state/gatepost.db\"\n\n[events]\nsource = \"sqs\"\nqueue_url = \"{url}\"\naccounts = \
         [\"{ACCOUNT}\"]\n\n[event_log]\noutput = \"file:{here}/mail.log\"\n"
    );
    fs::write(dir.join("gatepost.toml"), config)?;
    let mut command = Command::new(GATEPOST);
    command.arg("--config").arg(dir.join("gatepost.toml")).arg("serve");
    Ok(command)
}

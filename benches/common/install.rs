//! A gatepost installation for the bench: configuration, policy folder, suppression list.

use super::Result;
use super::question::{self, Kind, SENDERS, text};
use super::server::{Server, ask};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The release binary that Cargo built beside the bench.
const GATEPOST: &str = env!("CARGO_BIN_EXE_gatepost");

/// Three limits that count everything and never trip: not at a million messages a second.
const POLICY_TOML: &str = r#"
[[limit]]
name = "per-client"
key = "client_address"
rate = "10000000/s"

[[limit]]
name = "per-sender-domain"
key = "sender_domain"
rate = "10000000/s"

[[limit]]
name = "all"
key = "all"
rate = "100000000/s"
"#;

/// The folder to work in: `--dir`, or a temporary one that goes away.
#[derive(Debug)]
pub enum Workplace {
    /// Named by the operator.
    Named(PathBuf),
    /// Removed at the end.
    Temporary(TempDir),
}

impl Workplace {
    /// The one that the options name, or a temporary one.
    pub fn new(named: Option<&Path>) -> Result<Self> {
        Ok(match named {
            Some(dir) => {
                fs::create_dir_all(dir)?;
                Self::Named(dir.to_owned())
            }
            None => Self::Temporary(tempfile::Builder::new().prefix("gatepost-bench-").tempdir()?),
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Named(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// One installation in a folder of its own.
#[derive(Debug)]
pub struct Installation {
    name: String,
    dir: PathBuf,
    socket: PathBuf,
}

impl Installation {
    /// Writes configuration and policy: the senders that ask, and more lines up to `lines`.
    pub fn new(name: &str, place: &Path, lines: usize) -> Result<Self> {
        Self::write(name, place, lines, &place.join(name), "0600", "")
    }

    /// The same with a milter, and its sockets in the folder `sockets`, where a Postfix finds them.
    pub fn with_milter(name: &str, place: &Path, lines: usize, sockets: &Path) -> Result<Self> {
        let socket = sockets.join("milter.sock").display().to_string();
        let milter = format!("\n[milter]\nlisten = [\"unix:{socket}\"]\nses_configuration_set = \"relay-events\"\n");
        Self::write(name, place, lines, sockets, "0666", &milter)
    }

    /// The same with further sections.
    pub fn with_section(name: &str, place: &Path, lines: usize, section: &str) -> Result<Self> {
        Self::write(name, place, lines, &place.join(name), "0600", section)
    }

    fn write(name: &str, place: &Path, lines: usize, sockets: &Path, mode: &str, more: &str) -> Result<Self> {
        let this = Self { name: name.to_owned(), dir: place.join(name), socket: sockets.join("policy.sock") };
        fs::create_dir_all(this.dir.join("policy"))?;
        fs::create_dir_all(this.dir.join("state"))?;
        // Not beside policy/: that folder is watched, as /etc/gatepost is.
        fs::create_dir_all(this.dir.join("log"))?;
        fs::write(this.dir.join("policy/policy.toml"), POLICY_TOML)?;
        fs::write(this.allowed_senders(), allowlist(lines))?;
        let (dir, socket) = (this.dir.display(), this.socket.display());
        let config = format!(
            "policy_dir = \"{dir}/policy\"\nstate_dir = \"{dir}/state\"\n\n[delegation]\nlisten = \
             [\"unix:{socket}\"]\nsocket_mode = \"{mode}\"\n{more}\n[suppression]\nstore = \
             \"sqlite:{dir}/state/gatepost.db\"\n\n[event_log]\noutput = \"file:{dir}/log/mail.log\"\n"
        );
        fs::write(this.config(), config)?;
        Ok(this)
    }

    /// Suppresses so many addresses with `gatepost suppress import`; how long that took.
    pub fn import(&self, addresses: usize) -> Result<Duration> {
        let list = self.dir.join("suppressed.txt");
        let mut file = BufWriter::new(fs::File::create(&list)?);
        for n in 0..addresses {
            writeln!(file, "{}", suppressed(n))?;
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        let began = Instant::now();
        let out = self.gatepost().args(["suppress", "import"]).arg(&list).stdin(Stdio::null()).output()?;
        let took = began.elapsed();
        fs::remove_file(&list)?;
        if out.status.success() {
            Ok(took)
        } else {
            Err(format!("import: {}: {}", out.status, String::from_utf8_lossy(&out.stderr)).into())
        }
    }

    /// Takes over the suppression list of another installation, whose daemon is down.
    pub fn copy_store(&self, from: &Self) -> Result<()> {
        for file in fs::read_dir(from.dir.join("state"))? {
            let file = file?;
            fs::copy(file.path(), self.dir.join("state").join(file.file_name()))?;
        }
        Ok(())
    }

    /// Starts the daemon and waits for its first answer. What it says goes to `daemon.log`.
    pub fn serve(&self) -> Result<Server> {
        let mut command = self.gatepost();
        let log = fs::File::create(self.dir.join("daemon.log"))?;
        command.arg("serve").stderr(log).stdout(Stdio::null());
        let started = Server::start(&self.name, self.socket.clone(), command);
        started.map_err(|e| {
            let log = fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default();
            format!("{e}\n{log}").into()
        })
    }

    /// Asks what must be refused: that the checks which the load passes are really made.
    pub fn prove(&self, server: &Server) -> Result<()> {
        let allowed = question::sender(1);
        let suppressed = suppressed(7);
        for (context, sender, recipient, expected) in [
            ("recipient", allowed.as_str(), suppressed.as_str(), "550 5.1.1"),
            ("recipient", &allowed, "rcpt0000001@r0001.example.org", "DUNNO"),
            ("sender", "stranger@example.net", "rcpt0000001@r0001.example.org", "554 5.7.1"),
            ("sender", &allowed, &suppressed, "DUNNO"),
        ] {
            let answer = ask(&server.socket, &text(Kind::Rcpt, context, sender, recipient, "10.1.1.1", "1.1.1.2"))?;
            if !answer.starts_with(expected) {
                return Err(format!("{context} from {sender} to {recipient}: expected {expected}, got {answer}").into());
            }
        }
        Ok(())
    }

    /// The allowlist's file.
    pub fn allowed_senders(&self) -> PathBuf {
        self.dir.join("policy/allowed_senders")
    }

    /// Its own log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log/mail.log")
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn config(&self) -> PathBuf {
        self.dir.join("gatepost.toml")
    }

    fn gatepost(&self) -> Command {
        let mut command = Command::new(GATEPOST);
        command.arg("--config").arg(self.config());
        command
    }
}

/// An allowlist of so many lines, the senders of the load among them.
pub fn allowlist(lines: usize) -> String {
    let mut text = String::with_capacity(lines * 36);
    for n in 0..SENDERS {
        text.push_str(&question::sender(n));
        text.push_str(" OK\n");
    }
    for n in SENDERS as usize..lines {
        text.push_str(&format!("app{n:07}@a{:04}.example.net OK\n", n % 10_000));
    }
    text
}

/// The nth suppressed address.
fn suppressed(n: usize) -> String {
    format!("gone{n:08}@g{:04}.example.org", n % 10_000)
}

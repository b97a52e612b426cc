//! The binary under test, as a daemon of its own and as the commands beside it.

use crate::asker::{Asker, Question, http};
use crate::postfix::Postfix;
use crate::wait;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The binary.
pub const BINARY: &str = env!("CARGO_BIN_EXE_gatepost");

/// Rules that let everything pass and count nothing.
pub const OPEN: &str = "[senders]\nmode = \"off\"\n";

/// The folders of one gatepost: policy, state, log. Daemons come and go in it.
pub struct Home {
    dir: TempDir,
    /// Where the daemon listens.
    pub socket: PathBuf,
}

impl Home {
    /// Folders for a daemon beside `postfix`, with the texts of allowed_senders (empty: no such file) and
    /// policy.toml.
    pub fn beside(postfix: &Postfix, senders: &str, policy: &str) -> Self {
        Self::listening_at(&postfix.socket(), senders, policy)
    }

    /// Folders for a daemon that no Postfix asks: its socket stands among them.
    pub fn alone(senders: &str, policy: &str) -> Self {
        let mut home = Self::listening_at(Path::new("/nowhere"), senders, policy);
        home.socket = home.path("policy.sock");
        home.configure("", "");
        home
    }

    /// Folders for a daemon that listens at `socket`.
    pub fn listening_at(socket: &Path, senders: &str, policy: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("gatepost-home-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let home = Self { dir, socket: socket.to_owned() };
        fs::create_dir(home.policy_dir()).unwrap();
        fs::create_dir(home.path("state")).unwrap();
        if !senders.is_empty() {
            home.write_policy("allowed_senders", senders);
        }
        home.write_policy("policy.toml", policy);
        home.write_config("");
        home
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The policy folder.
    pub fn policy_dir(&self) -> PathBuf {
        self.path("policy")
    }

    /// Writes a file of the policy folder, as an editor that writes in place.
    pub fn write_policy(&self, name: &str, text: &str) {
        fs::write(self.policy_dir().join(name), text).unwrap();
    }

    /// Adds a line to a file of the policy folder.
    pub fn append_policy(&self, name: &str, line: &str) {
        let path = self.policy_dir().join(name);
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }

    /// Writes gatepost.toml; `delegation` are further lines of that section.
    pub fn write_config(&self, delegation: &str) {
        let (dir, socket) = (self.dir.path().display(), self.socket.display());
        let text = format!(
            "policy_dir = \"{dir}/policy\"\n\
             state_dir = \"{dir}/state\"\n\
             [postfix]\n\
             myorigin = \"example.com\"\n\
             [delegation]\n\
             listen = [\"unix:{socket}\"]\n\
             socket_mode = \"0660\"\n\
             socket_group = \"postfix\"\n\
             {delegation}\n\
             [suppression]\n\
             store = \"sqlite:{dir}/state/gatepost.db\"\n\
             [event_log]\n\
             output = \"file:{dir}/mail.log\"\n\
             [admin]\n\
             listen = [\"unix:{dir}/admin.sock\"]\n"
        );
        fs::write(self.config(), text).unwrap();
    }

    /// Writes gatepost.toml for a daemon that no Postfix asks, with further lines in `[delegation]` (and,
    /// below their own heads, of other sections), and further addresses for the admin listener.
    pub fn configure(&self, delegation: &str, admin: &str) {
        let (dir, socket) = (self.dir.path().display(), self.socket.display());
        let listens = delegation.lines().take_while(|l| !l.starts_with('[')).any(|l| l.starts_with("listen ="));
        let listen = if listens { String::new() } else { format!("listen = [\"unix:{socket}\"]\n") };
        let log = if delegation.contains("[event_log]") {
            String::new()
        } else {
            format!("[event_log]\noutput = \"file:{dir}/mail.log\"\n")
        };
        let text = format!(
            "policy_dir = \"{dir}/policy\"\n\
             state_dir = \"{dir}/state\"\n\
             [postfix]\n\
             myorigin = \"example.com\"\n\
             [delegation]\n\
             {listen}{delegation}\n\
             {log}\
             [admin]\n\
             listen = [\"unix:{dir}/admin.sock\"{admin}]\n"
        );
        fs::write(self.config(), text).unwrap();
    }

    /// Where gatepost.toml is.
    pub fn config(&self) -> PathBuf {
        self.path("gatepost.toml")
    }

    /// A command of the binary on this installation.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("--config").arg(self.config()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command; it must succeed. Its standard output.
    pub fn run(&self, args: &[&str]) -> String {
        let out = self.command(args).output().expect("the binary runs");
        assert!(out.status.success(), "gatepost {args:?}: {}{}", text(&out.stdout), text(&out.stderr));
        text(&out.stdout)
    }

    /// Starts a daemon, and waits until it listens.
    pub fn start(&self) -> Daemon {
        Self::listening(self.spawn())
    }

    /// Starts a daemon by a program that becomes it (`prlimit`, `setpriv`), and waits until it listens.
    pub fn start_by(&self, program: &str, args: &[&str]) -> Daemon {
        let mut command = Command::new(program);
        command.args(args).arg(BINARY).arg("--config").arg(self.config()).arg("serve").stdin(Stdio::null());
        Self::listening(Daemon::of(command))
    }

    /// By its own word, so that no connection of ours is among those that a test counts.
    fn listening(mut daemon: Daemon) -> Daemon {
        wait::until("gatepost to listen", wait::LONG, || {
            if let Some(status) = daemon.ended() {
                panic!("gatepost ended with {status}: {}", daemon.stderr());
            }
            daemon.stderr().contains(" is ready.").then_some(())
        });
        daemon
    }

    /// Starts a daemon, and waits for nothing.
    pub fn spawn(&self) -> Daemon {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        let child = self
            .command(&["serve"])
            .stdout(Stdio::null())
            .stderr(stderr.reopen().unwrap())
            .spawn()
            .expect("the binary starts");
        Daemon { child, stderr }
    }

    /// A connection to the daemon.
    pub fn asker(&self) -> Asker {
        Asker::at(&self.socket)
    }

    /// Asks one question over a connection of its own.
    pub fn ask(&self, question: &Question) -> String {
        self.asker().ask(question)
    }

    /// The answer to a sender at RCPT.
    pub fn ask_sender(&self, sender: &str) -> String {
        self.ask(&Question::rcpt(sender, "user@example.net").with("policy_context", "sender"))
    }

    /// The status and the text of `/health`.
    pub fn health(&self) -> (u16, serde_json::Value) {
        let answered = http(&self.path("admin.sock"), "GET", "/health");
        (answered.status, answered.json())
    }

    /// The value of a metric, named with its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = http(&self.path("admin.sock"), "GET", "/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    /// The sum of the metrics whose names and labels begin so.
    pub fn metrics(&self, start: &str) -> f64 {
        let text = http(&self.path("admin.sock"), "GET", "/metrics").body;
        let values: Vec<f64> = text.lines().filter(|line| line.starts_with(start)).filter_map(value).collect();
        assert!(!values.is_empty(), "no {start} in\n{text}");
        values.iter().sum()
    }

    /// What gatepost wrote to the mail log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("mail.log")).unwrap_or_default()
    }

    /// Waits for a line of gatepost's log that holds all of `words`.
    pub fn log_line(&self, words: &[&str]) -> String {
        wait::until(&format!("a line with {words:?} in gatepost's log:\n{}", self.log()), wait::LONG, || {
            self.log().lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
    }
}

/// A running daemon; dropped, it is killed.
pub struct Daemon {
    child: Child,
    stderr: tempfile::NamedTempFile,
}

impl Daemon {
    /// A daemon beside `postfix`, with its home: what most tests need.
    pub fn beside(postfix: &Postfix, senders: &str, policy: &str) -> (Home, Self) {
        let home = Home::beside(postfix, senders, policy);
        let daemon = home.start();
        (home, daemon)
    }

    /// Wraps a process that some other program (systemd-socket-activate) becomes.
    pub fn of(mut command: Command) -> Self {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        let child = command.stdout(Stdio::null()).stderr(stderr.reopen().unwrap()).spawn().expect("it starts");
        Self { child, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal (`TERM`, `HUP`, `KILL`, `STOP`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end; gives the status and how long it took.
    pub fn wait_for_end(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let start = Instant::now();
        let status = wait::until("gatepost to end", limit, || self.ended());
        (status, start.elapsed())
    }

    /// Its diagnostics so far.
    pub fn stderr(&self) -> String {
        fs::read(self.stderr.path()).map(|bytes| text(&bytes)).unwrap_or_default()
    }

    /// Waits until its diagnostics hold all of `words` in one line.
    pub fn says(&self, words: &[&str]) -> String {
        wait::until(&format!("a line with {words:?} in gatepost's diagnostics"), wait::LONG, || {
            self.stderr().lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- gatepost's diagnostics\n{}", self.stderr());
        }
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn value(line: &str) -> Option<f64> {
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Both streams of a command.
pub fn both(out: &Output) -> String {
    text(&out.stdout) + &text(&out.stderr)
}

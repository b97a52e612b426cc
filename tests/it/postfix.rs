//! A scratch Postfix: the shipped `main.cf.relay-to-ses` with what makes it scratch set over it, its own
//! queue and port, and a [`Sink`] as relayhost. Error limits, delays and all else are as shipped or stock.

use crate::ports;
use crate::sink::Sink;
use crate::smtp::Session;
use crate::wait;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// How a scratch Postfix differs from the shipped files.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// smtpd and cleanup run chrooted in the queue directory, as in Debian's master.cf.
    pub chroot: bool,
    /// Further `name = value` of main.cf.
    pub set: Vec<String>,
    /// Further listeners, each with its own `name = value`: variants of the snippets side by side.
    pub listeners: Vec<Vec<String>>,
}

/// A running Postfix; dropped, it is ended and its folders are removed.
pub struct Postfix {
    dir: TempDir,
    ports: Vec<u16>,
    pub sink: Sink,
}

impl Postfix {
    /// Starts one with the shipped files.
    pub fn shipped() -> Self {
        Self::start(&Options::default())
    }

    /// Starts one.
    pub fn start(options: &Options) -> Self {
        let dir = tempfile::Builder::new().prefix("gatepost-postfix-").tempdir().unwrap();
        // Postfix's daemons run as "postfix" and must get through.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let ports = (0..=options.listeners.len()).map(|_| ports::free()).collect();
        let postfix = Self { dir, ports, sink: Sink::start() };
        postfix.write_main_cf(options);
        postfix.write_master_cf(options);
        postfix.make_queue(options);
        let out = postfix.tool("postfix").arg("start").output().expect("postfix is installed");
        let log = postfix.log();
        assert!(out.status.success(), "postfix start: {}\n{log}", String::from_utf8_lossy(&out.stderr));
        for port in &postfix.ports {
            wait::until("Postfix to listen", wait::LONG, || TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).ok());
        }
        postfix
    }

    /// The port of the listener with the shipped settings.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The port of the n-th further listener, from 0.
    pub fn listener(&self, n: usize) -> u16 {
        self.ports[n + 1]
    }

    /// A session of a client in mynetworks.
    pub fn session(&self) -> Session {
        Session::open(self.port())
    }

    /// Where the snippets look for gatepost.
    pub fn socket(&self) -> PathBuf {
        self.queue().join("gatepost/policy.sock")
    }

    /// The list that Postfix reads itself when gatepost does not answer.
    pub fn allowed_senders(&self) -> PathBuf {
        self.conf().join("allowed_senders")
    }

    /// Where the mail log is.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log/mail.log")
    }

    /// The mail log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits for a line of the mail log that holds all of `words`.
    pub fn log_line(&self, words: &[&str]) -> String {
        wait::until(&format!("a line with {words:?} in Postfix's log"), wait::LONG, || {
            let log = self.log();
            log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
    }

    /// A command of Postfix's on this instance.
    pub fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.conf());
        command
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("etc")
    }

    fn queue(&self) -> PathBuf {
        self.dir.path().join("queue")
    }

    fn write_main_cf(&self, options: &Options) {
        let (conf, base) = (self.conf(), self.dir.path().display());
        fs::create_dir(&conf).unwrap();
        fs::copy(shipped("postfix-snippets/main.cf.relay-to-ses"), conf.join("main.cf")).unwrap();
        let scratch = [
            format!("queue_directory = {base}/queue"),
            format!("data_directory = {base}/data"),
            format!("maillog_file = {base}/log/mail.log"),
            format!("maillog_file_prefixes = {base}/log"),
            "mynetworks = 127.0.0.0/8".to_owned(),
            "inet_interfaces = 127.0.0.1".to_owned(),
            "inet_protocols = ipv4".to_owned(),
            format!("relayhost = [127.0.0.1]:{}", self.sink.port()),
            "smtp_host_lookup = native".to_owned(),
            "smtp_tls_security_level = none".to_owned(),
            "smtp_sasl_auth_enable = no".to_owned(),
            // A client in mynetworks may say that it is another one.
            "smtpd_authorized_xclient_hosts = 127.0.0.0/8".to_owned(),
        ];
        let out = self.tool("postconf").arg("-e").args(scratch.iter().chain(&options.set)).output().unwrap();
        assert!(out.status.success(), "postconf: {}", String::from_utf8_lossy(&out.stderr));
        fs::write(self.allowed_senders(), "").unwrap();
    }

    fn write_master_cf(&self, options: &Options) {
        let chroot = if options.chroot { "y" } else { "n" };
        let mut text = String::new();
        for (n, port) in self.ports.iter().enumerate() {
            writeln!(text, "127.0.0.1:{port} inet n - {chroot} - - smtpd").unwrap();
            for set in n.checked_sub(1).map(|n| options.listeners[n].as_slice()).unwrap_or_default() {
                writeln!(text, "    -o {{ {set} }}").unwrap();
            }
        }
        text.push_str(&SERVICES.replace("CHROOT", chroot));
        fs::write(self.conf().join("master.cf"), text).unwrap();
    }

    /// The folders, as Postfix and systemd/gatepost.tmpfiles.conf would have made them.
    fn make_queue(&self, options: &Options) {
        let postfix = id_of("postfix");
        for name in ["queue", "queue/gatepost", "data", "log"] {
            fs::create_dir(self.dir.path().join(name)).unwrap();
        }
        chown(self.dir.path().join("data"), Some(postfix.0), None).unwrap();
        chown(self.queue().join("gatepost"), None, Some(postfix.1)).unwrap();
        fs::set_permissions(self.queue().join("gatepost"), Permissions::from_mode(0o750)).unwrap();
        if options.chroot {
            fs::create_dir(self.queue().join("etc")).unwrap();
            for name in ["hosts", "services", "resolv.conf", "nsswitch.conf", "localtime"] {
                // What a host does not have, its chroot need not have either.
                let _ = fs::copy(Path::new("/etc").join(name), self.queue().join("etc").join(name));
            }
        }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Postfix's log\n{}", self.log());
        }
        end(&self.queue());
    }
}

/// The path of a file of this repository.
pub fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// uid and gid of a user.
pub fn id_of(user: &str) -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|l| l.starts_with(&format!("{user}:"))).expect("a user of that name");
    let mut fields = line.split(':').skip(2).map(|n| n.parse().unwrap());
    (fields.next().unwrap(), fields.next().unwrap())
}

/// Ends the Postfix that has this queue.
pub fn end(queue: &Path) {
    let Ok(pid) = fs::read_to_string(queue.join("pid/master.pid")) else { return };
    let pid = pid.trim();
    // master(8) passes SIGTERM on to its whole process group.
    let _ = Command::new("kill").args(["-TERM", pid]).status();
    // What has ended may wait long for init to notice.
    let is_over = |stat: String| stat.rsplit(") ").next().is_some_and(|state| state.starts_with('Z'));
    wait::true_within("Postfix to end", wait::LONG, || {
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, is_over)
    });
}

/// Stock services, those that a relay uses.
pub const SERVICES: &str = "\
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - CHROOT - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
tlsmgr    unix  - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
";

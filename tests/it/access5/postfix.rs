//! A scratch Postfix with one smtpd listener per table, and the policy service that tells which
//! sender it asks about.

use crate::postfix::{self, SERVICES};
use crate::{ports, wait};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// One listener: its table, and what of main.cf changes a lookup.
pub struct Listener {
    pub table: String,
    pub recipient_delimiter: &'static str,
    pub parents: bool,
    /// Whether senders that no entry decides get `550 5.7.0 unlisted`.
    pub closed: bool,
}

/// The sender of the last policy question, by listener.
type Asked = Arc<Mutex<HashMap<usize, Vec<u8>>>>;

/// A running Postfix; stopped, by its pid, when dropped.
pub struct Postfix {
    dir: tempfile::TempDir,
    ports: Vec<u16>,
    asked: Asked,
}

impl Postfix {
    pub fn start(listeners: &[Listener]) -> Self {
        assert!(
            Path::new("/usr/sbin/postfix").exists(),
            "postfix is not installed, and this test compares with it: apt-get install postfix"
        );
        let asked = Asked::default();
        let policy = TcpListener::bind("127.0.0.1:0").expect("a port for the policy service");
        let policy_port = policy.local_addr().expect("bound").port();
        let ports: Vec<u16> = listeners.iter().map(|_| ports::free()).collect();
        let dir = tempfile::Builder::new().prefix("access5-").tempdir().expect("a folder");
        write_instance(dir.path(), listeners, &ports, policy_port);
        let shared = Arc::clone(&asked);
        // Ends with the test process: it holds nothing but the port.
        std::thread::spawn(move || serve_policy(&policy, &shared));
        let out = Command::new("postfix").arg("-c").arg(dir.path().join("etc")).arg("start").output().expect("postfix");
        let started = Self { dir, ports, asked };
        assert!(
            out.status.success(),
            "postfix does not start: {}\n{}",
            String::from_utf8_lossy(&out.stderr),
            started.log()
        );
        started
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log/mail.log")).unwrap_or_default()
    }

    pub fn session(&self, listener: usize) -> Session {
        let port = self.ports[listener];
        let stream =
            wait::until("smtpd to listen", wait::LONG, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        stream.set_read_timeout(Some(wait::LONG)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let mut session = Session { stream: BufReader::new(stream), asked: Arc::clone(&self.asked), listener };
        session.reply();
        session.command(b"EHLO test.example");
        session
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Postfix's log, ports {:?}\n{}", self.ports, self.log());
        }
        postfix::end(&self.dir.path().join("queue"));
    }
}

/// One SMTP session.
pub struct Session {
    stream: BufReader<TcpStream>,
    asked: Asked,
    listener: usize,
}

impl Session {
    /// `MAIL FROM:<address>`: the sender as the policy service got it (none where Postfix refused the
    /// address itself), and the reply.
    pub fn mail_from(&mut self, address: &str) -> (Option<Vec<u8>>, String) {
        self.asked.lock().expect("no panic").remove(&self.listener);
        let smtputf8 = if address.is_ascii() { "" } else { " SMTPUTF8" };
        let reply = self.command(format!("MAIL FROM:<{address}>{smtputf8}").as_bytes());
        if reply.starts_with('2') {
            self.command(b"RSET");
        }
        (self.asked.lock().expect("no panic").remove(&self.listener), reply)
    }

    fn command(&mut self, line: &[u8]) -> String {
        let bytes = [line, b"\r\n"].concat();
        self.stream.get_mut().write_all(&bytes).expect("smtpd reads");
        self.reply()
    }

    fn reply(&mut self) -> String {
        loop {
            let mut line = Vec::new();
            self.stream.read_until(b'\n', &mut line).expect("smtpd answers");
            assert!(!line.is_empty(), "smtpd hung up");
            if line.get(3) != Some(&b'-') {
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
        }
    }
}

fn write_instance(dir: &Path, listeners: &[Listener], ports: &[u16], policy_port: u16) {
    use std::os::unix::fs::PermissionsExt;
    let write = |path: PathBuf, text: String| std::fs::write(&path, text).expect("a file of the instance");
    for folder in ["etc", "queue", "data", "log"] {
        std::fs::create_dir(dir.join(folder)).expect("a folder of the instance");
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    let chown = Command::new("chown").arg("postfix").arg(dir.join("data")).status().expect("chown");
    assert!(chown.success(), "no user postfix, or not root: Postfix's master needs root");
    let mut main = MAIN_CF.replace("$DIR", &dir.display().to_string());
    let mut master = SERVICES.replace("CHROOT", "n");
    for (i, (listener, port)) in listeners.iter().zip(ports).enumerate() {
        write(dir.join(format!("table{i}")), listener.table.clone());
        let closing = if listener.closed { ", check_client_access static:{550 5.7.0 unlisted}" } else { "" };
        main += &format!(
            "senders{i} = check_policy_service {{ inet:127.0.0.1:{policy_port}, policy_context={i} }},\n  \
             check_sender_access texthash:{}/table{i}{closing}\n",
            dir.display()
        );
        let parents = if listener.parents { "smtpd_access_maps" } else { "" };
        master += &format!(
            "127.0.0.1:{port} inet n - n - - smtpd\n -o smtpd_sender_restrictions=$senders{i}\n \
             -o recipient_delimiter={}\n -o parent_domain_matches_subdomains={parents}\n",
            listener.recipient_delimiter
        );
    }
    write(dir.join("etc/main.cf"), main);
    write(dir.join("etc/master.cf"), master);
}

/// Answers DUNNO and keeps each question's sender under its context.
fn serve_policy(listener: &TcpListener, asked: &Asked) {
    for stream in listener.incoming().flatten() {
        let asked = Arc::clone(asked);
        std::thread::spawn(move || answer(stream, &asked));
    }
}

fn answer(stream: TcpStream, asked: &Asked) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut sender, mut context) = (Vec::new(), None);
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok()?;
        line.pop()?;
        if let Some(value) = line.strip_prefix(b"sender=") {
            sender = value.to_vec();
        } else if let Some(value) = line.strip_prefix(b"policy_context=") {
            context = std::str::from_utf8(value).ok()?.parse().ok();
        } else if line.is_empty() {
            asked.lock().ok()?.insert(context?, std::mem::take(&mut sender));
            reader.get_mut().write_all(b"action=DUNNO\n\n").ok()?;
        }
    }
}

const MAIN_CF: &str = "\
compatibility_level = 3.6
queue_directory = $DIR/queue
data_directory = $DIR/data
maillog_file = $DIR/log/mail.log
maillog_file_prefixes = $DIR/log
myhostname = relay.origin.example
myorigin = origin.example
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
smtpd_peername_lookup = no
smtpd_delay_reject = no
smtpd_error_sleep_time = 0s
smtpd_soft_error_limit = 100000
smtpd_hard_error_limit = 100000
smtpd_junk_command_limit = 100000
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
default_process_limit = 200
";

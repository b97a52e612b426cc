//! A sound installation as an operator would have it: Debian's stock main.cf and master.cf with the snippets in it, smtpd
//! chrooted, gatepost running as a user of its own. And trials: copies of its files with one thing wrong in them.

use crate::gatepost::{BINARY, Daemon, both};
use crate::postfix::id_of;
use crate::stamped::snippet;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The user that the daemon runs as here: nobody, who has no rights of its own.
pub const USER: u32 = 65_534;

/// What Debian's postinst puts into main.cf, and what an operator adds for SES.
const STOCK: &str = "\
myhostname = relay.example.com
myorigin = example.com
mydestination =
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128 10.0.0.0/16
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = all
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
relayhost = [email-smtp.eu-west-1.amazonaws.com]:587
smtp_sasl_auth_enable = yes
smtp_sasl_security_options = noanonymous
smtp_tls_security_level = secure
smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt
";

/// The installation.
pub struct Install {
    dir: TempDir,
    pub daemon: Daemon,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub id: String,
    pub severity: String,
    pub what: String,
    pub fix: String,
}

/// Copies of the installation's files.
pub struct Trial<'i> {
    pub install: &'i Install,
    dir: TempDir,
}

impl Install {
    /// One with events from a spool.
    pub fn new() -> Self {
        Self::with(
            "[events]\nsource = \"spool\"\nspool_dir = \"DIR/state/spool\"\naccounts = [\"123456789012\"]\n",
            &[],
        )
    }

    /// One with this `[events]`, and these variables for the daemon.
    pub fn with(events: &str, environment: &[(String, String)]) -> Self {
        let dir = tempfile::Builder::new().prefix("gatepost-doctor-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        make_folders(dir.path());
        write_policy(dir.path());
        write_postfix(dir.path());
        let toml = toml(dir.path(), &events.replace("DIR", &dir.path().display().to_string()));
        fs::write(dir.path().join("gatepost.toml"), toml).unwrap();
        write_log(&dir.path().join("log/mail.log"));
        let daemon = start(dir.path(), &[], Path::new(BINARY), environment);
        Self { dir, daemon }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same files, with a daemon that is started otherwise.
    pub fn restart_with(&mut self, by: &[&str], binary: &Path) {
        self.daemon.signal("TERM");
        self.daemon.wait_for_end(crate::wait::LONG);
        self.daemon = start(self.dir.path(), by, binary, &[]);
    }

    pub fn trial(&self) -> Trial<'_> {
        let dir = tempfile::Builder::new().prefix("gatepost-trial-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        for folder in ["etc", "log", "root"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for file in ["main.cf", "master.cf"] {
            fs::copy(self.path("etc").join(file), dir.path().join("etc").join(file)).unwrap();
        }
        symlink(self.path("policy/allowed_senders"), dir.path().join("etc/allowed_senders")).unwrap();
        fs::copy(self.path("gatepost.toml"), dir.path().join("gatepost.toml")).unwrap();
        Trial { install: self, dir }
    }
}

impl Trial<'_> {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sets a parameter of main.cf.
    pub fn set(&self, setting: &str) {
        postconf(&self.path("etc"), &["-e", setting]);
    }

    /// Adds text to a file of the trial.
    pub fn append(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, old + text).unwrap();
    }

    /// Replaces text in a file of the trial; it must be there.
    pub fn replace(&self, file: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(old), "{old} is not in {text}");
        fs::write(self.path(file), text.replace(old, new)).unwrap();
    }

    /// Has `[logs]` name this text as the only log of Postfix.
    pub fn log(&self, text: &str) {
        fs::write(self.path("log/other.log"), text).unwrap();
        let (own, other) = (self.install.path("log/*.log*"), self.path("log/*.log*"));
        let paths = format!("\"{}\", \"{}\"", self.install.path("log/gatepost.log").display(), other.display());
        self.replace("gatepost.toml", &format!("\"{}\"", own.display()), &paths);
    }

    /// The command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("--config").arg(self.path("gatepost.toml")).args(["doctor", "--postfix-dir"]);
        command.arg(self.path("etc")).arg("--root").arg(self.path("root")).args(args);
        command
    }

    /// What doctor finds: errors, warnings and notes; the exit code must fit.
    pub fn examine(&self, environment: &[(String, String)]) -> Vec<Found> {
        let out = self.command(&["--json"]).envs(environment.iter().cloned()).output().unwrap();
        let objects: Vec<Value> = String::from_utf8_lossy(&out.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        let found = objects.iter().filter(|object| object["severity"] != "skipped").map(|object| {
            let text = |name: &str| object[name].as_str().unwrap_or_else(|| panic!("no {name} in {object}")).to_owned();
            assert!(!text("why").is_empty() && !text("fix").is_empty() && !text("group").is_empty());
            Found { id: text("id"), severity: text("severity"), what: text("what"), fix: text("fix") }
        });
        let found: Vec<Found> = found.collect();
        let code = i32::from(found.iter().any(|found| found.severity != "note"));
        assert_eq!(out.status.code(), Some(code), "{}", both(&out));
        found
    }
}

fn make_folders(dir: &Path) {
    let postfix = id_of("postfix");
    for name in ["etc", "queue", "queue/gatepost", "state", "state/spool", "log", "run", "policy"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    for name in ["state", "state/spool", "log", "run"] {
        chown(dir.join(name), Some(USER), Some(USER)).unwrap();
    }
    // As systemd/gatepost.tmpfiles.conf makes it.
    chown(dir.join("queue/gatepost"), Some(USER), Some(postfix.1)).unwrap();
    fs::set_permissions(dir.join("queue/gatepost"), Permissions::from_mode(0o750)).unwrap();
}

fn write_policy(dir: &Path) {
    fs::write(dir.join("policy/allowed_senders"), "info@example.com OK\nnoreply@example.com OK\n").unwrap();
    let limit = "[[limit]]\nname = \"per-client\"\nkey = \"client_address\"\nrate = \"100/min burst 200\"\n";
    fs::write(dir.join("policy/policy.toml"), limit).unwrap();
}

fn write_postfix(dir: &Path) {
    let etc = dir.join("etc");
    fs::copy("/usr/share/postfix/main.cf.debian", etc.join("main.cf")).expect("Debian's main.cf");
    fs::copy("/usr/share/postfix/master.cf.dist", etc.join("master.cf")).expect("Debian's master.cf");
    let passwords = etc.join("sasl_passwd");
    fs::write(&passwords, "[email-smtp.eu-west-1.amazonaws.com]:587 USER:PASSWORD\n").unwrap();
    let mut settings: Vec<String> = STOCK.lines().map(str::to_owned).collect();
    settings.push(format!("smtp_sasl_password_maps = hash:{}", passwords.display()));
    settings.push(format!("queue_directory = {}", dir.join("queue").display()));
    settings.extend([snippet("main.cf.gatepost"), snippet("main.cf.milter")].concat());
    let settings: Vec<&str> = ["-e"].into_iter().chain(settings.iter().map(String::as_str)).collect();
    postconf(&etc, &settings);
    let out =
        Command::new("postmap").arg("-c").arg(&etc).arg(format!("hash:{}", passwords.display())).output().unwrap();
    assert!(out.status.success(), "{}", both(&out));
    symlink(dir.join("policy/allowed_senders"), etc.join("allowed_senders")).unwrap();
}

fn postconf(etc: &Path, args: &[&str]) {
    let out = Command::new("postconf").arg("-c").arg(etc).args(args).output().unwrap();
    assert!(out.status.success(), "{}", both(&out));
}

fn toml(dir: &Path, events: &str) -> String {
    let dir = dir.display();
    format!(
        "policy_dir = \"{dir}/policy\"\nstate_dir = \"{dir}/state\"\n\
         [postfix]\nmyorigin = \"example.com\"\nrecipient_delimiter = \"+\"\n\
         [delegation]\nlisten = [\"unix:{dir}/queue/gatepost/policy.sock\"]\nsocket_mode = \"0660\"\n\
         socket_group = \"postfix\"\nmax_connections = 1000\n\
         [milter]\nlisten = [\"unix:{dir}/queue/gatepost/milter.sock\"]\n\
         listen_local = [\"unix:{dir}/queue/gatepost/local.sock\"]\nbounce_sender = \"bounces@example.com\"\n\
         {events}\
         [event_log]\noutput = \"file:{dir}/log/gatepost.log\"\n\
         [admin]\nlisten = [\"unix:{dir}/run/admin.sock\"]\n\
         [logs]\npaths = [\"{dir}/log/*.log*\"]\n"
    )
}

/// Lines as syslog writes them: mails of two clients, and what SES told of them.
fn write_log(path: &Path) {
    let log: String =
        (0..60).map(|n| mail(n, &format!("10.0.0.{}", n % 2), 3_600 - n) + &event(n, 3_500 - n)).collect();
    fs::write(path, log).unwrap();
}

/// One mail's lines, written so many seconds ago.
pub fn mail(n: i64, client: &str, ago: i64) -> String {
    let at = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - ago).unwrap();
    let id = format!("4ABC{n:08}z1");
    format!(
        "{at} relay postfix/smtpd[10]: {id}: client=app[{client}]\n\
         {at} relay postfix/smtp[11]: {id}: to=<user{n}@example.net>, relay=email-smtp.eu-west-1.amazonaws.com[10.1.1.1]:587, \
         delay=0.1, delays=0/0/0/0.1, dsn=2.0.0, status=sent (250 Ok 0109-{n}-000000)\n"
    )
}

/// What SES told of it.
pub fn event(n: i64, ago: i64) -> String {
    let at = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - ago).unwrap();
    format!(
        "{at} relay postfix/ses-events[12]: 0109-{n}-000000: to=<user{n}@example.net>, relay=amazonses.com, dsn=2.0.0, \
         status=delivered, delay=100ms, response=(250 ok)\n"
    )
}

/// As the unit starts it: a user of its own, with Postfix's group besides.
fn start(dir: &Path, by: &[&str], binary: &Path, environment: &[(String, String)]) -> Daemon {
    let words = [by, &["setpriv"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
        .arg(format!("--reuid={USER}"))
        .arg(format!("--regid={USER}"))
        .arg(format!("--groups={}", id_of("postfix").1));
    command.arg(binary).arg("--config").arg(dir.join("gatepost.toml")).arg("serve").envs(environment.iter().cloned());
    let daemon = Daemon::of(command);
    daemon.says(&[" is ready."]);
    daemon
}

//! A Postfix with a listener for each that is measured: all share its queue and everything behind, and differ only in
//! whom they ask.

use crate::common::Result;
use crate::common::install::Installation;
use crate::common::process::{Process, cpu_time, family_cpu_time};
use crate::common::question::sender;
use crate::common::server::Server;
use crate::postfix::{Options, Postfix, shipped};
use crate::smtp::Session;
use crate::wait;
use crate::{args::Args, stamper};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Baseline, subject, and the baseline again, as the tables call them.
pub const NAMES: [&str; 3] = ["floor", "gatepost", "floor again"];

/// How long Postfix may take to have its queue empty after a measurement.
const DRAINED: Duration = Duration::from_secs(120);

/// Mail to this domain is thrown away by Postfix when it would be sent; other mail goes to a sink that keeps it.
const DISCARDED: &str = "discarded.example.net";

/// Postfix, and who answers its listeners.
pub struct Relay {
    postfix: Postfix,
    hooks: Vec<Hooks>,
    queue: PathBuf,
    /// gatepost's own log.
    log: PathBuf,
}

/// Who answers one listener.
struct Hooks {
    policy: Server,
    milter: Option<Process>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Messages a second, until the last one was accepted.
    pub rate: f64,
    /// CPU time of policy server and milter for each message, in µs.
    pub hooks: f64,
    /// That of all of Postfix, until everything was delivered.
    pub postfix: f64,
}

impl Relay {
    /// Starts all of it, gatepost in a folder below `place`.
    pub fn start(args: &Args, place: &Path, senders: usize) -> Result<Self> {
        let listeners = (0..NAMES.len()).map(settings).collect::<Result<_>>()?;
        let postfix = Postfix::start(&Options {
            set: vec![
                format!("transport_maps = inline:{{ {DISCARDED}=discard: }}"),
                // Else cleanup(8) sleeps a second where mail comes in faster than it goes out.
                "in_flow_delay = 0".to_owned(),
            ],
            listeners,
            ..Options::default()
        });
        let queue = postfix.socket().ancestors().nth(2).ok_or("no queue folder")?.to_owned();
        let (mut hooks, mut log) = (Vec::new(), PathBuf::new());
        for (n, name) in NAMES.iter().enumerate() {
            let sockets = queue.join(folder(n));
            fs::create_dir_all(&sockets)?;
            hooks.push(if n == 1 {
                let gatepost = Installation::with_milter(name, place, senders, &sockets)?;
                gatepost.import(args.entries)?;
                let policy = gatepost.serve()?;
                gatepost.prove(&policy)?;
                log = gatepost.log();
                Hooks { policy, milter: None }
            } else {
                let policy = Server::echo("policy", &sockets)?;
                Hooks { policy, milter: Some(stamper::start(&sockets.join("milter.sock"))?) }
            });
        }
        Ok(Self { postfix, hooks, queue, log })
    }

    /// Sends one message by each listener, and has the sink say what came of it: that all are stamped, and that
    /// gatepost's listener, and no other, refuses what is to be refused.
    pub fn prove(&self) {
        for (n, name) in NAMES.iter().enumerate() {
            let mut session = Session::open(self.postfix.listener(n));
            session.mail(&sender(1), &["user@example.net"], name).expect(250, &[]);
            let message = self.postfix.sink.message(name);
            for header in
                ["X-Correlation-ID: ", "X-SES-MESSAGE-TAGS: queue_id=", "X-SES-CONFIGURATION-SET: relay-events"]
            {
                assert!(
                    message.content.contains(&format!("\n{header}")),
                    "{name}: no {header} in\n{}",
                    message.content
                );
            }
            let refused = session.ask("stranger@example.net", "user@example.net");
            assert_eq!(refused.code == 554, n == 1, "{name}: {refused:?}");
        }
    }

    /// Sends the messages by one listener.
    pub fn measure(&self, args: &Args, keep: bool, n: usize) -> Result<Figures> {
        let mut load = Command::new("smtp-source");
        if keep {
            load.arg("-d");
        }
        load.args(["-N", "-s", &args.sessions.to_string(), "-m", &args.messages.to_string()])
            .args(["-l", &args.size.to_string(), "-f", &sender(1), "-t", &format!("user@{DISCARDED}")])
            .arg(format!("127.0.0.1:{}", self.postfix.listener(n)));
        let (hooks, postfix, began) = (self.hooks_cpu(n)?, self.postfix_cpu()?, Instant::now());
        let out = load.output()?;
        let took = began.elapsed();
        if !out.status.success() {
            return Err(format!("{}: smtp-source: {}", NAMES[n], String::from_utf8_lossy(&out.stderr)).into());
        }
        self.drain();
        let messages = args.messages as f64;
        let used = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() * 1e6 / messages;
        Ok(Figures {
            rate: messages / took.as_secs_f64(),
            hooks: used(hooks, self.hooks_cpu(n)?),
            postfix: used(postfix, self.postfix_cpu()?),
        })
    }

    /// Waits until everything is delivered.
    pub fn drain(&self) {
        let is_empty = |name: &&str| !holds_files(&self.queue.join(name));
        wait::true_within("the queue to drain", DRAINED, || ["incoming", "active"].iter().all(is_empty));
    }

    /// Waits until gatepost has a line for each of so many messages: with `default_action=accept` one could as well have
    /// gone past it.
    pub fn prove_stamped(&self, messages: usize) {
        let lines = || fs::read_to_string(&self.log).unwrap_or_default().matches(": correlation_id=").count();
        wait::true_within("a line for each message", wait::LONG, || lines() == messages);
    }

    fn postfix_cpu(&self) -> Result<Duration> {
        family_cpu_time(fs::read_to_string(self.queue.join("pid/master.pid"))?.trim().parse()?)
    }

    fn hooks_cpu(&self, n: usize) -> Result<Duration> {
        let hooks = &self.hooks[n];
        let milter = hooks.milter.as_ref().map_or(Ok(Duration::ZERO), |milter| cpu_time(milter.pid()))?;
        Ok(cpu_time(hooks.policy.pid())? + milter)
    }
}

/// Where the sockets of a listener are, below the queue folder.
fn folder(n: usize) -> String {
    format!("gatepost/{n}")
}

/// The hooks of a listener: those of the snippets, with another folder.
fn settings(n: usize) -> Result<Vec<String>> {
    let files =
        ["main.cf.gatepost", "main.cf.milter"].map(|file| fs::read_to_string(shipped("postfix-snippets").join(file)));
    let text = files.into_iter().collect::<std::io::Result<String>>()?;
    let names =
        ["smtpd_sender_restrictions", "smtpd_recipient_restrictions", "smtpd_data_restrictions", "smtpd_milters"];
    names
        .iter()
        .map(|name| Ok(setting(&text, name)?.replace("unix:gatepost/", &format!("unix:{}/", folder(n)))))
        .collect()
}

/// One setting of a main.cf, on one line.
fn setting(text: &str, name: &str) -> Result<String> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("{name} =")));
    let first = lines.next().ok_or_else(|| format!("no {name} in the snippets"))?;
    Ok(lines.take_while(|line| line.starts_with(' ')).fold(first.to_owned(), |all, line| all + line))
}

/// Whether there is a file anywhere below a folder.
fn holds_files(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| if entry.path().is_dir() { holds_files(&entry.path()) } else { true })
}

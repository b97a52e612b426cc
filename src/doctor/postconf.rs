//! Postfix's settings in force, as postconf(1) tells them: main.cf with every `$name` expanded, master.cf with the
//! overrides of each service.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The settings of one Postfix instance.
#[derive(Clone, Debug, Default)]
pub struct Postfix {
    params: HashMap<String, String>,
    /// What main.cf sets, as it is written, `$name` and all.
    raw: HashMap<String, String>,
    /// The services of master.cf.
    pub services: Vec<Service>,
    /// What postconf warned of, each once.
    pub warnings: Vec<String>,
}

/// One service of master.cf.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// `smtp/inet`
    pub name: String,
    /// Whether it runs inside the queue directory.
    pub chroot: bool,
    /// How many processes it may have; `None`: as many as it likes.
    pub processes: Option<usize>,
    /// The program, such as `smtpd`.
    pub program: String,
    /// Its own settings, `-o name=value`.
    pub overrides: HashMap<String, String>,
}

impl Postfix {
    /// Asks postconf(1) for the settings of the instance whose files are in `dir`; `None`: the system's.
    ///
    /// # Errors
    /// What postconf said.
    pub fn read(dir: Option<&Path>) -> Result<Self, String> {
        // Each is a process that waits more than it works.
        let [all, set, services, overrides] = std::thread::scope(|scope| {
            ["-x", "-n", "-M", "-Px"]
                .map(|what| scope.spawn(move || postconf(dir, what)))
                .map(|asked| asked.join().unwrap_or_else(|_| Err("postconf cannot be run".to_owned())))
        });
        let ((params, warnings), (raw, _), (services, _), (overrides, _)) = (all?, set?, services?, overrides?);
        let mut postfix = Self { params: settings(&params), raw: settings(&raw), services: Vec::new(), warnings };
        postfix.services = services.lines().filter_map(|line| postfix.service(line)).collect();
        for (name, value) in settings(&overrides) {
            // (An address may stand before the first slash, a parameter's name holds none.)
            let Some((service, param)) = name.rsplit_once('/') else { continue };
            if let Some(service) = postfix.services.iter_mut().find(|s| s.name == service) {
                service.overrides.insert(param.to_owned(), value);
            }
        }
        Ok(postfix)
    }

    /// The value of a parameter; empty where it is empty or unknown.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// The value as main.cf itself says it, not expanded; `None` where it does not.
    #[must_use]
    pub fn set(&self, name: &str) -> Option<&str> {
        self.raw.get(name).map(String::as_str)
    }

    /// Whether there is a parameter of this name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.params.contains_key(name)
    }

    /// A parameter that is `yes` or `no`.
    #[must_use]
    pub fn is_yes(&self, name: &str) -> bool {
        self.get(name).eq_ignore_ascii_case("yes")
    }

    /// The queue directory, which is also the chroot.
    #[must_use]
    pub fn queue(&self) -> PathBuf {
        self.get("queue_directory").into()
    }

    /// The services that take mail by SMTP.
    pub fn smtpd(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| service.program == "smtpd")
    }

    /// How many smtpd processes there may be, all services together.
    #[must_use]
    pub fn smtpd_processes(&self) -> usize {
        let most = self.get("default_process_limit").parse().unwrap_or(100);
        // Without a bound of its own a service has as many as it likes; nobody knows, so what is usual counts.
        self.smtpd().map(|service| service.processes.unwrap_or(most)).sum()
    }

    /// The text of a restriction class.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<String> {
        let classes = self.get("smtpd_restriction_classes");
        let is_class = classes.split([',', ' ', '\t']).any(|class| class == name);
        is_class.then(|| self.get(name).to_owned())
    }

    /// `service type private unpriv chroot wakeup maxproc command args`
    fn service(&self, line: &str) -> Option<Service> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, kind, _, _, chroot, _, processes, program, ..] = fields[..] else { return None };
        // master(5): "-" is "y" in the oldest compatibility level, and "n" in all others.
        let is_old = self.get("compatibility_level").split('.').next() == Some("0");
        let processes = match processes {
            "-" => self.get("default_process_limit").parse().ok(),
            "0" => None,
            other => other.parse().ok(),
        };
        Some(Service {
            name: format!("{name}/{kind}"),
            chroot: chroot == "y" || chroot == "-" && is_old,
            processes,
            program: program.to_owned(),
            overrides: HashMap::new(),
        })
    }
}

/// Standard output, and the warnings.
fn postconf(dir: Option<&Path>, what: &str) -> Result<(String, Vec<String>), String> {
    let mut command = Command::new("postconf");
    // (Debian keeps it where not every user's PATH leads.)
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C");
    if let Some(dir) = dir {
        command.arg("-c").arg(dir);
    }
    let out = command.arg(what).output().map_err(|e| format!("postconf cannot be run: {e}"))?;
    let mut said: Vec<String> = String::from_utf8_lossy(&out.stderr).lines().map(str::to_owned).collect();
    if !out.status.success() {
        return Err(said.pop().unwrap_or_else(|| format!("postconf ended with {}", out.status)));
    }
    said.retain(|line| line.contains("warning:"));
    said.sort();
    said.dedup();
    Ok((String::from_utf8_lossy(&out.stdout).into_owned(), said))
}

/// `name = value` lines.
fn settings(text: &str) -> HashMap<String, String> {
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

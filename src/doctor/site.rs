//! The installation that is looked at, and words that several checks share.

use super::postconf::Postfix;
use super::running::Running;
use crate::daemon::config::Config;
use crate::daemon::listeners::Endpoint;
use crate::rules::{Problem, Rules};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

/// The installation.
#[derive(Debug)]
pub struct Site {
    /// Where `gatepost.toml` is.
    pub config_file: PathBuf,
    /// `gatepost.toml`, as far as it could be read.
    pub config: Config,
    /// The policy, where it has no problems.
    pub rules: Option<Rules>,
    /// What is wrong with both.
    pub problems: Vec<Problem>,
    /// The folder of main.cf; `None`: the system's.
    pub postfix_dir: Option<PathBuf>,
    /// Where the files of other programs are looked for: `/`, but for an image that is not running.
    pub root: PathBuf,
    /// The running daemon, as far as it tells.
    pub(super) running: Running,
    /// Postfix's settings.
    pub(super) postfix: Result<Postfix, String>,
}

impl Site {
    /// Asks Postfix and the daemon what they are like.
    #[must_use]
    pub fn visit(
        config_file: PathBuf,
        config: Config,
        rules: Option<Rules>,
        problems: Vec<Problem>,
        postfix_dir: Option<PathBuf>,
        root: PathBuf,
    ) -> Self {
        let postfix = Postfix::read(postfix_dir.as_deref());
        let running = Running::ask(&config);
        Self { config_file, config, rules, problems, postfix_dir, root, running, postfix }
    }

    /// A file of another program.
    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// Where Postfix finds what it calls `address` (`unix:path`, `inet:host:port`); `None` where it is neither.
pub(super) fn resolve(address: &str, queue: &Path, chroot: bool) -> Option<Endpoint> {
    if let Some(path) = address.strip_prefix("unix:") {
        let path = if chroot { queue.join(path.trim_start_matches('/')) } else { queue.join(path) };
        return Some(Endpoint::Unix(path));
    }
    address.strip_prefix("inet:").map(|inet| Endpoint::Inet(inet.to_owned()))
}

/// Whether both lead to one socket.
pub(super) fn is_same(a: &Endpoint, b: &Endpoint) -> bool {
    match (a, b) {
        (Endpoint::Unix(a), Endpoint::Unix(b)) => {
            let real = |path: &Path| match (path.parent().map(Path::canonicalize), path.file_name()) {
                (Some(Ok(folder)), Some(name)) => folder.join(name),
                _ => path.to_owned(),
            };
            a == b || real(a) == real(b)
        }
        (Endpoint::Inet(a), Endpoint::Inet(b)) => {
            let all = |address: &str| address.to_socket_addrs().map(Vec::from_iter).unwrap_or_default();
            a == b || all(a).iter().any(|one| all(b).contains(one))
        }
        _ => false,
    }
}

/// A time of Postfix's, `5s`, `1m`, `100`, in seconds.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_postfixs() {
        let queue = Path::new("/q");
        let unix = |path: &str| Some(Endpoint::Unix(path.into()));
        for (address, chroot, found) in [
            ("unix:gatepost/x", false, unix("/q/gatepost/x")),
            ("unix:gatepost/x", true, unix("/q/gatepost/x")),
            ("unix:/run/x", false, unix("/run/x")),
            ("unix:/run/x", true, unix("/q/run/x")),
            ("inet:h:1", true, Some(Endpoint::Inet("h:1".into()))),
            ("private/x", false, None),
        ] {
            assert_eq!(resolve(address, queue, chroot), found, "{address} {chroot}");
        }
        assert_eq!((seconds("5s"), seconds("2m"), seconds("100"), seconds("x")), (Some(5), Some(120), Some(100), None));
    }
}

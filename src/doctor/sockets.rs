//! The sockets as Postfix's daemons find them: there, open to them, and to nobody else.

use super::access::{User, WRITE, mode_of};
use super::catalogue as c;
use super::finding::{Fault, Report, Verdict};
use super::postconf::Postfix;
use super::site::Site;
use crate::daemon::listeners::Endpoint;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Looks at each.
pub(super) fn check(site: &Site, postfix: &Postfix, report: &mut Report) {
    let paths = sockets(site);
    if let Some(hidden) = paths.iter().find(|path| is_hidden(path)) {
        let why = format!("{} cannot be seen: run this as root", hidden.display());
        return report.skip(&[c::SOCKET_MISSING, c::SOCKET_ACCESS, c::SOCKET_OPEN], &why);
    }
    let (there, missing): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| is_socket(path));
    let gone = |path: &&PathBuf| {
        let what = format!("{} is not there", path.display());
        Fault::new(what, "systemctl start gatepost   # and look at: journalctl -u gatepost")
    };
    report.add(c::SOCKET_MISSING, missing.iter().map(gone).collect::<Vec<_>>());
    report.add(c::SOCKET_ACCESS, access(site, postfix, &there));
    let stranger = User { name: "others".to_owned(), uid: u32::MAX, gids: Vec::new() };
    let is_open = |path: &&&PathBuf| stranger.obstacle(WRITE, path, Path::new("/")).is_none();
    let open = |path: &&PathBuf| {
        let what = format!("{} is open to every user ({})", path.display(), mode_of(path));
        Fault::new(what, "# and chmod 0750 on its folder\n[delegation]\nsocket_mode = \"0660\"")
    };
    report.add(c::SOCKET_OPEN, there.iter().filter(is_open).map(open).collect::<Vec<_>>());
}

/// Whether Postfix's user gets there. What is above the queue directory does not count for those in the chroot.
fn access(site: &Site, postfix: &Postfix, there: &[&PathBuf]) -> Verdict {
    let owner = postfix.get("mail_owner");
    let Some(user) = User::named(owner) else { return Verdict::skipped(format!("there is no user {owner}")) };
    let queue = postfix.queue();
    let fault = |path: &&PathBuf| {
        let chrooted = postfix.smtpd().all(|service| service.chroot) && path.starts_with(&queue);
        let below = if chrooted { queue.as_path() } else { Path::new("/") };
        let obstacle = user.obstacle(WRITE, path, below)?;
        let what =
            format!("{owner} may not connect to {}: {} is {}", path.display(), obstacle.display(), mode_of(&obstacle));
        Some(Fault::new(what, fix(site, owner, path, &obstacle)))
    };
    there.iter().filter_map(fault).collect::<Vec<_>>().into()
}

fn fix(site: &Site, owner: &str, socket: &Path, obstacle: &Path) -> String {
    if obstacle == socket {
        let group = site.config.socket_group.as_deref().unwrap_or(owner);
        return format!("[delegation]\nsocket_mode = \"0660\"\nsocket_group = \"{group}\"");
    }
    format!("chgrp {owner} {0} && chmod 0750 {0}", obstacle.display())
}

/// All Unix sockets that Postfix is to find.
fn sockets(site: &Site) -> Vec<PathBuf> {
    let milter = site.config.milter.iter().flat_map(|milter| milter.listen.iter().chain(&milter.listen_local));
    let unix = |endpoint: &Endpoint| match endpoint {
        Endpoint::Unix(path) => Some(path.clone()),
        Endpoint::Inet(_) => None,
    };
    site.config.delegation_listen.iter().chain(milter).filter_map(unix).collect()
}

/// Whether the folder is closed to who asks.
fn is_hidden(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| about.file_type().is_socket())
}

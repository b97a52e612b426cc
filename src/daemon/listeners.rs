//! Listening sockets: those that systemd hands over, matched to `listen` by local address, and our
//! own. A socket file left by a dead process is taken over; one that answers is not.

use crate::delegation::server::Listener;
use listenfd::ListenFd;
use rustix::fs::{Mode, chmod, chown};
use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `unix:/path`
    Unix(PathBuf),
    /// `inet:host:port`
    Inet(String),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inet(address) => write!(f, "inet:{address}"),
        }
    }
}

/// Who may connect to a Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// File mode bits, such as 0o660.
    pub mode: u32,
    /// Group name.
    pub group: Option<String>,
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process answers there.
    #[error("{0}: another process is listening there; is a second gatepost running?")]
    InUse(Endpoint),
    /// There is a file of another kind.
    #[error("{0}: there is a file at this path, and it is no socket; remove it or choose another path")]
    NotASocket(Endpoint),
    /// No such group.
    #[error("{endpoint}: socket_group {group:?} is not a group on this machine")]
    NoGroup {
        /// Where.
        endpoint: Endpoint,
        /// As configured.
        group: String,
    },
    /// The system said no.
    #[error("{endpoint}: cannot {step}: {source}")]
    System {
        /// Where.
        endpoint: Endpoint,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The sockets that systemd handed over and that no `listen` has claimed yet.
#[derive(Debug, Default)]
pub struct Inherited {
    unix: Vec<UnixListener>,
    tcp: Vec<std::net::TcpListener>,
}

impl Inherited {
    /// Takes them from the environment (`LISTEN_FDS`, sd_listen_fds(3)).
    #[must_use]
    pub fn from_env() -> Self {
        let mut fds = ListenFd::from_env();
        let mut inherited = Self::default();
        for n in 0..fds.len() {
            if let Ok(Some(listener)) = fds.take_unix_listener(n) {
                inherited.unix.push(listener);
            } else if let Ok(Some(listener)) = fds.take_tcp_listener(n) {
                inherited.tcp.push(listener);
            }
        }
        inherited
    }

    /// The addresses of those nobody claimed: most likely a mistake in a socket unit.
    #[must_use]
    pub fn unclaimed(&self) -> Vec<String> {
        let unix = self.unix.iter().filter_map(|l| l.local_addr().ok()).map(|a| format!("{a:?}"));
        let tcp = self.tcp.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.to_string());
        unix.chain(tcp).collect()
    }

    fn claim_unix(&mut self, path: &Path) -> Option<UnixListener> {
        let same = |l: &UnixListener| l.local_addr().is_ok_and(|a| a.as_pathname().is_some_and(|p| same_file(p, path)));
        let at = self.unix.iter().position(same)?;
        Some(self.unix.swap_remove(at))
    }

    fn claim_tcp(&mut self, address: &str) -> Option<std::net::TcpListener> {
        let wanted: Vec<_> = std::net::ToSocketAddrs::to_socket_addrs(address).ok()?.collect();
        let at = self.tcp.iter().position(|l| l.local_addr().is_ok_and(|a| wanted.contains(&a)))?;
        Some(self.tcp.swap_remove(at))
    }
}

/// Whether two paths lead to one file, also through symlinked folders.
fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A socket file of ours, removed at the end if it still is ours.
#[derive(Debug)]
pub struct OwnFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let still_ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if still_ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A listener and, where we made it, its file.
#[derive(Debug)]
pub struct Opened {
    /// The socket, non-blocking, registered with the runtime.
    pub listener: Listener,
    /// Its file, to be removed at the end.
    pub file: Option<OwnFile>,
}

/// Opens a socket: the inherited one of this address, or our own.
///
/// # Errors
/// Where it cannot be opened, or is somebody else's.
pub fn open(endpoint: &Endpoint, access: &Access, inherited: &mut Inherited) -> Result<Opened, ListenError> {
    let failed = |step| move |source| ListenError::System { endpoint: endpoint.clone(), step, source };
    match endpoint {
        Endpoint::Unix(path) => {
            let (socket, file) = match inherited.claim_unix(path) {
                Some(socket) => (socket, None),
                None => {
                    let (socket, file) = bind_unix(path, endpoint, access)?;
                    (socket, Some(file))
                }
            };
            socket.set_nonblocking(true).map_err(failed("use the socket"))?;
            let listener = tokio::net::UnixListener::from_std(socket).map_err(failed("use the socket"))?;
            Ok(Opened { listener: Listener::Unix(listener), file })
        }
        Endpoint::Inet(address) => {
            let socket = match inherited.claim_tcp(address) {
                Some(socket) => socket,
                None => std::net::TcpListener::bind(address).map_err(|e| match e.kind() {
                    io::ErrorKind::AddrInUse => ListenError::InUse(endpoint.clone()),
                    _ => failed("listen")(e),
                })?,
            };
            socket.set_nonblocking(true).map_err(failed("use the socket"))?;
            let listener = tokio::net::TcpListener::from_std(socket).map_err(failed("use the socket"))?;
            Ok(Opened { listener: Listener::Tcp(listener), file: None })
        }
    }
}

fn bind_unix(path: &Path, endpoint: &Endpoint, access: &Access) -> Result<(UnixListener, OwnFile), ListenError> {
    let failed = |step| move |source: io::Error| ListenError::System { endpoint: endpoint.clone(), step, source };
    let group = match &access.group {
        None => None,
        Some(name) => Some(
            group_id(name).ok_or_else(|| ListenError::NoGroup { endpoint: endpoint.clone(), group: name.clone() })?,
        ),
    };
    make_folder(path, group).map_err(failed("make the folder of the socket"))?;
    remove_dead(path, endpoint)?;
    // bind(2) makes the file with the modes that the umask leaves; nobody but the owner can connect
    // before the two lines below widen it.
    let socket = UnixListener::bind(path).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(endpoint.clone()),
        _ => failed("listen")(e),
    })?;
    let meta = std::fs::symlink_metadata(path).map_err(failed("read the socket's file"))?;
    let file = OwnFile { path: path.to_owned(), inode: (meta.dev(), meta.ino()) };
    if let Some(gid) = group
        && meta.gid() != gid
    {
        chown(path, None, Some(rustix::fs::Gid::from_raw(gid)))
            .map_err(|e| failed("give the socket to its group")(e.into()))?;
    }
    chmod(path, Mode::from_raw_mode(access.mode)).map_err(|e| failed("set the socket's mode")(e.into()))?;
    Ok((socket, file))
}

/// Makes the folder of a socket where it is missing, open to the socket's group. The folders above
/// it must be there: a wrong path should say so, not grow a tree.
fn make_folder(path: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) else { return Ok(()) };
    std::fs::create_dir(folder)?;
    chmod(folder, Mode::from_raw_mode(0o750))?;
    if let Some(gid) = group {
        chown(folder, None, Some(rustix::fs::Gid::from_raw(gid)))?;
    }
    Ok(())
}

/// Removes the socket file of a dead process; a live one is left alone.
fn remove_dead(path: &Path, endpoint: &Endpoint) -> Result<(), ListenError> {
    let failed = |step| move |source: io::Error| ListenError::System { endpoint: endpoint.clone(), step, source };
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at the path")(e)),
    };
    if !meta.file_type().is_socket() {
        return Err(ListenError::NotASocket(endpoint.clone()));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "Taking over a socket file that a dead process left.");
            std::fs::remove_file(path).map_err(failed("remove the dead socket"))
        }
        Ok(_) => Err(ListenError::InUse(endpoint.clone())),
        Err(e) => Err(failed("find out whether somebody listens there")(e)),
    }
}

/// The id of a group: by name from group(5), or a number.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(id) = name.parse() {
        return Some(id);
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

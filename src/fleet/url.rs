//! Where the store is, as `gatepost.toml` says it: `redis://`, `rediss://` (TLS), `redis+unix://`,
//! `redis+sentinel://` and `redis+cluster://`, each with `valkey` in place of `redis` too. A password is part of it
//! and is never printed.

use redis::{ConnectionInfo, IntoConnectionInfo};
use std::fmt;
use std::str::FromStr;

/// Most nodes that are named: those of a large cluster.
const MAX_NODES: usize = 64;

/// Where the store is.
#[derive(Clone)]
pub struct StoreUrl {
    text: String,
    pub(super) place: Place,
}

/// How the store is reached.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// One server, over TCP, TLS or a Unix socket.
    One(ConnectionInfo),
    /// The master that sentinels name; `server` has what is said to it: TLS, user, password, database.
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, server: ConnectionInfo },
    /// A cluster, by some of its nodes.
    Cluster(Vec<ConnectionInfo>),
}

/// Why a text is no address of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is none of ours.
    #[error(
        "must begin with redis://, rediss:// (TLS), redis+unix://, redis+sentinel:// or redis+cluster:// \
         (valkey in place of redis is the same)"
    )]
    Scheme,
    /// No host stands in it.
    #[error("names no host; write it as in \"redis://valkey.internal:6379/0\"")]
    Host,
    /// More hosts than one, or than are taken.
    #[error("names {0} hosts, and one is taken here (redis+sentinel:// and redis+cluster:// take up to {MAX_NODES})")]
    Hosts(usize),
    /// No master stands in the address of sentinels.
    #[error("names no master; write it as in \"redis+sentinel://one:26379,two:26379/mymaster\"")]
    Master,
    /// A cluster has no databases.
    #[error("names a database, and a cluster has only database 0; leave it out")]
    Database,
    /// What stands behind `?`.
    #[error("has options behind \"?\", and none is known")]
    Options,
    /// What the driver says.
    #[error("{0}")]
    Driver(String),
}

enum Way {
    One,
    Unix,
    Sentinel,
    Cluster,
}

/// Every scheme: how the store is reached by it, and whether over TLS.
const SCHEMES: [(&str, Way, bool); 12] = [
    ("redis", Way::One, false),
    ("valkey", Way::One, false),
    ("rediss", Way::One, true),
    ("valkeys", Way::One, true),
    ("redis+unix", Way::Unix, false),
    ("valkey+unix", Way::Unix, false),
    ("redis+sentinel", Way::Sentinel, false),
    ("valkey+sentinel", Way::Sentinel, false),
    ("rediss+sentinel", Way::Sentinel, true),
    ("redis+cluster", Way::Cluster, false),
    ("valkey+cluster", Way::Cluster, false),
    ("rediss+cluster", Way::Cluster, true),
];

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let (_, way, tls) = SCHEMES.iter().find(|known| known.0 == scheme).ok_or(UrlError::Scheme)?;
        if rest.contains('?') {
            return Err(UrlError::Options);
        }
        let place = match way {
            Way::Unix => Place::One(info(&format!("redis+unix://{rest}"))?),
            Way::One => one(rest, *tls)?,
            Way::Sentinel => sentinel(rest, *tls)?,
            Way::Cluster => cluster(rest, *tls)?,
        };
        Ok(Self { text: text.to_owned(), place })
    }
}

impl StoreUrl {
    /// Whether a text looks like the address of a store, right or wrong.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| scheme.starts_with("redis") || scheme.starts_with("valkey"))
    }

    /// Whether a password is part of it.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.text != self.to_string()
    }
}

/// Without the password.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.text.split_once("://") else { return Ok(()) };
        match rest.rsplit_once('@') {
            None => write!(f, "{scheme}://{rest}"),
            Some((login, place)) => match login.split_once(':') {
                None => write!(f, "{scheme}://{login}@{place}"),
                Some((user, _)) => write!(f, "{scheme}://{user}:***@{place}"),
            },
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

impl PartialEq for StoreUrl {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for StoreUrl {}

fn info(url: &str) -> Result<ConnectionInfo, UrlError> {
    url.into_connection_info().map_err(|e| UrlError::Driver(e.to_string()))
}

fn one(rest: &str, tls: bool) -> Result<Place, UrlError> {
    let parts = Parts::of(rest);
    match parts.hosts()?.as_slice() {
        [_] => Ok(Place::One(parts.node(parts.hosts, tls, parts.path)?)),
        more => Err(UrlError::Hosts(more.len())),
    }
}

fn sentinel(rest: &str, tls: bool) -> Result<Place, UrlError> {
    let parts = Parts::of(rest);
    let (master, database) = parts.path.split_once('/').unwrap_or((parts.path, ""));
    if master.is_empty() {
        return Err(UrlError::Master);
    }
    let hosts = parts.hosts()?;
    // a sentinel has users of its own: what stands in the address is for the server
    let apart = Parts { login: "", ..parts };
    let sentinels =
        hosts.iter().map(|host| apart.node(&with_port(host, 26_379), false, "")).collect::<Result<_, _>>()?;
    let server = parts.node(hosts.first().copied().unwrap_or_default(), tls, database)?;
    Ok(Place::Sentinel { sentinels, master: master.to_owned(), server })
}

fn cluster(rest: &str, tls: bool) -> Result<Place, UrlError> {
    let parts = Parts::of(rest);
    if !matches!(parts.path, "" | "0") {
        return Err(UrlError::Database);
    }
    parts.hosts()?.iter().map(|host| parts.node(host, tls, "")).collect::<Result<_, _>>().map(Place::Cluster)
}

fn with_port(host: &str, port: u16) -> String {
    let has_port = host.rsplit_once(':').is_some_and(|(name, port)| !port.ends_with(']') && !name.ends_with(':'));
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

/// What stands behind the scheme.
#[derive(Clone, Copy)]
struct Parts<'a> {
    /// User and password, as they are written.
    login: &'a str,
    hosts: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        Self { login, hosts, path: path.trim_end_matches('/') }
    }

    fn hosts(&self) -> Result<Vec<&'a str>, UrlError> {
        let hosts: Vec<_> = self.hosts.split(',').collect();
        match hosts.len() {
            _ if hosts.iter().any(|host| host.is_empty() || host.starts_with(':')) => Err(UrlError::Host),
            1..=MAX_NODES => Ok(hosts),
            more => Err(UrlError::Hosts(more)),
        }
    }

    fn node(&self, host: &str, tls: bool, database: &str) -> Result<ConnectionInfo, UrlError> {
        let at = if self.login.is_empty() { "" } else { "@" };
        let scheme = if tls { "rediss" } else { "redis" };
        info(&format!("{scheme}://{}{at}{host}/{database}", self.login))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> StoreUrl {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_password_is_not_printed() {
        let text = "rediss://gate:s%40cret@valkey.internal:6380/2";
        assert_eq!(url(text).to_string(), "rediss://gate:***@valkey.internal:6380/2");
        assert!(url(text).has_password() && !url("redis://gate@h").has_password() && !url("redis://h").has_password());
        assert!(!format!("{:?}", url(text)).contains("cret"));
        let Place::One(info) = url(text).place else { panic!("one server") };
        let settings = info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("gate"), Some("s@cret"), 2));
    }

    #[test]
    fn each_way_is_understood() {
        assert!(matches!(url("valkey://h").place, Place::One(_)));
        assert!(matches!(url("redis+unix:///run/valkey.sock").place, Place::One(_)));
        let Place::Sentinel { sentinels, master, server } = url("redis+sentinel://:pw@a,b:5/main/3").place else {
            panic!("sentinels")
        };
        assert_eq!((sentinels.len(), master.as_str(), server.redis_settings().db()), (2, "main", 3));
        assert_eq!(sentinels[0].addr().to_string(), "a:26379");
        assert_eq!(server.redis_settings().password(), Some("pw"));
        assert!(sentinels[1].redis_settings().password().is_none());
        let Place::Cluster(nodes) = url("rediss+cluster://a:1,b:2").place else { panic!("a cluster") };
        assert_eq!(nodes.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, wrong) in [
            ("http://h", UrlError::Scheme),
            ("valkey.internal:6379", UrlError::Scheme),
            ("redis://", UrlError::Host),
            ("redis://:6379", UrlError::Host),
            ("redis://a,b", UrlError::Hosts(2)),
            ("redis+sentinel://a", UrlError::Master),
            ("redis+cluster://a/1", UrlError::Database),
            ("redis://a?db=1", UrlError::Options),
        ] {
            assert_eq!(text.parse::<StoreUrl>(), Err(wrong), "{text}");
        }
        for text in ["redis://a/x", "redis://a:99999/0"] {
            assert!(matches!(text.parse::<StoreUrl>(), Err(UrlError::Driver(_))), "{text}");
        }
    }
}

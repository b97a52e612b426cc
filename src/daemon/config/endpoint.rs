//! Reading addresses to listen on, as Postfix spells them: `unix:/path` and `inet:host:port`.

use crate::daemon::listeners::Endpoint;
use std::net::IpAddr;
use std::str::FromStr;

/// The longest path of a Unix socket: `sun_path` of unix(7) holds 108 bytes with the closing NUL.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The longest host name (RFC 1035 section 2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// Why a text is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither `unix:` nor `inet:`.
    #[error(
        "an address begins with \"unix:\" or \"inet:\", as in \"unix:/run/gatepost/x.sock\" or \"inet:127.0.0.1:10031\""
    )]
    Scheme,
    /// The path is not absolute.
    #[error("the path of a socket must be absolute, as in \"unix:/run/gatepost/x.sock\"")]
    Relative,
    /// The path names a folder, or holds a NUL.
    #[error("the path must name the socket itself, as in \"unix:/run/gatepost/x.sock\"")]
    NoFileName,
    /// The path is longer than the kernel takes.
    #[error(
        "the path of a socket has at most {MAX_SOCKET_PATH_BYTES} bytes (unix(7)), this one has {0}; use a shorter one"
    )]
    TooLong(usize),
    /// No `host:port`.
    #[error("after \"inet:\" stand a host and a port, as in \"inet:127.0.0.1:10031\" or \"inet:[::1]:10031\"")]
    NoPort,
    /// The host is none.
    #[error("the host must be an IP address or a name; an IPv6 address stands in brackets, as in \"inet:[::1]:10031\"")]
    Host,
}

/// Whether only this machine can reach an endpoint.
pub(super) fn is_local(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(_) => true,
        Endpoint::Inet(address) => split(address)
            .is_ok_and(|(host, _)| host.parse::<IpAddr>().map_or_else(|_| host == "localhost", |ip| ip.is_loopback())),
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            unix(path)
        } else if let Some(rest) = text.strip_prefix("inet:") {
            inet(rest)
        } else {
            Err(EndpointError::Scheme)
        }
    }
}

fn unix(path: &str) -> Result<Endpoint, EndpointError> {
    if !path.starts_with('/') {
        return Err(EndpointError::Relative);
    }
    if path.ends_with('/') || path.contains('\0') {
        return Err(EndpointError::NoFileName);
    }
    if path.len() > MAX_SOCKET_PATH_BYTES {
        return Err(EndpointError::TooLong(path.len()));
    }
    Ok(Endpoint::Unix(path.into()))
}

fn inet(address: &str) -> Result<Endpoint, EndpointError> {
    split(address).map(|_| Endpoint::Inet(address.to_owned()))
}

/// Host (IPv6 without its brackets) and port; port 0 lets the kernel choose.
fn split(address: &str) -> Result<(&str, u16), EndpointError> {
    let (host, port) = address.rsplit_once(':').ok_or(EndpointError::NoPort)?;
    let is_plain = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|_| is_plain).ok_or(EndpointError::NoPort)?;
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) if matches!(inner.parse(), Ok(IpAddr::V6(_))) => Ok((inner, port)),
        Some(_) => Err(EndpointError::Host),
        None if is_host(host) => Ok((host, port)),
        None => Err(EndpointError::Host),
    }
}

fn is_host(host: &str) -> bool {
    let is_host_byte = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !host.is_empty() && host.len() <= MAX_HOST_BYTES && host.bytes().all(is_host_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_the_same() {
        for text in ["unix:/run/x.sock", "inet:127.0.0.1:10031", "inet:[::1]:10031", "inet:localhost:0"] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), text);
            assert!(is_local(&endpoint), "{text}");
        }
        assert!(!is_local(&"inet:10.0.0.1:1".parse().expect("address")));
        assert!(!is_local(&"inet:[::]:1".parse().expect("address")));
    }

    #[test]
    fn wrong_addresses_are_refused() {
        let long = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH_BYTES));
        for (text, error) in [
            ("/run/x.sock", EndpointError::Scheme),
            ("tcp:127.0.0.1:1", EndpointError::Scheme),
            ("unix:gatepost/x.sock", EndpointError::Relative),
            ("unix:/run/gatepost/", EndpointError::NoFileName),
            (&long, EndpointError::TooLong(MAX_SOCKET_PATH_BYTES + 1)),
            ("inet:10031", EndpointError::NoPort),
            ("inet:localhost:", EndpointError::NoPort),
            ("inet:localhost:+1", EndpointError::NoPort),
            ("inet:localhost:65536", EndpointError::NoPort),
            ("inet::10031", EndpointError::Host),
            ("inet:::1:10031", EndpointError::Host),
            ("inet:[localhost]:10031", EndpointError::Host),
            ("inet:a b:10031", EndpointError::Host),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
        assert!(long[..long.len() - 1].parse::<Endpoint>().is_ok());
    }
}

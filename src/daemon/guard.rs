//! Who may ask for what holds addresses or changes something: a browser that was led here by a foreign page may not,
//! neither by naming us as its origin's neighbour nor by a name that its owner points at us (DNS rebinding).

use super::listeners::Endpoint;
use axum::http::{HeaderMap, StatusCode, header};
use std::net::IpAddr;

/// The names by which a listener may be called.
#[derive(Clone, Debug)]
pub(super) enum Door {
    /// A Unix socket: its own forwards (`ssh -L`) and local clients, whose name for it is one without a dot.
    Unix,
    /// The host that `listen` names.
    Inet(String),
}

/// Why a request is not answered: status, and a text for whoever reads it.
pub(super) type Refusal = (StatusCode, &'static str);

const MISDIRECTED: Refusal = (
    StatusCode::MISDIRECTED_REQUEST,
    "This page answers to localhost and to its own address, and not to the name it was called by.\n",
);

const FOREIGN: Refusal =
    (StatusCode::FORBIDDEN, "This page answers itself, and not the pages of others (the Origin is another).\n");

impl Door {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Unix(_) => Self::Unix,
            Endpoint::Inet(address) => Self::Inet(host_of(address).to_owned()),
        }
    }

    /// Whether a request with these headers may come in.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let called = text(header::HOST).unwrap_or_default();
        if !self.answers_to(host_of(called)) {
            return Err(MISDIRECTED);
        }
        let own = |origin: &str| {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(called))
        };
        if text(header::ORIGIN).is_none_or(own) { Ok(()) } else { Err(FOREIGN) }
    }

    fn answers_to(&self, host: &str) -> bool {
        let ip = host.parse::<IpAddr>().ok();
        if host.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip.is_loopback()) {
            return true;
        }
        match self {
            Self::Unix => ip.is_none() && !host.is_empty() && !host.contains('.'),
            // Where it listens on all addresses, any of them is its own: an address cannot be pointed elsewhere.
            Self::Inet(own) => match own.parse::<IpAddr>() {
                Ok(own) => ip.is_some_and(|ip| own.is_unspecified() || ip == own),
                Err(_) => own.eq_ignore_ascii_case(host),
            },
        }
    }
}

/// The host of `host:port`, `[v6]:port`, or either without a port.
fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn status(door: &str, host: &str, origin: &str) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
            if !value.is_empty() {
                headers.insert(name, HeaderValue::from_str(value).expect("a value"));
            }
        }
        let door = Door::of(&door.parse().expect("an address"));
        door.check(&headers).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn a_listener_answers_to_its_own_names() {
        for (door, host, wanted) in [
            ("inet:127.0.0.1:9925", "127.0.0.1:9925", 200),
            ("inet:127.0.0.1:9925", "localhost:8080", 200),
            ("inet:127.0.0.1:9925", "[::1]:9925", 200),
            ("inet:127.0.0.1:9925", "LOCALHOST", 200),
            ("inet:127.0.0.1:9925", "evil.example:9925", 421),
            ("inet:127.0.0.1:9925", "localhost.evil.example", 421),
            ("inet:127.0.0.1:9925", "127.0.0.1.evil.example", 421),
            ("inet:127.0.0.1:9925", "10.0.0.5:9925", 421),
            ("inet:127.0.0.1:9925", "gatepost", 421),
            ("inet:127.0.0.1:9925", "", 421),
            ("inet:10.0.0.5:9925", "10.0.0.5:9925", 200),
            ("inet:10.0.0.5:9925", "10.0.0.6:9925", 421),
            ("inet:0.0.0.0:9925", "10.0.0.5:9925", 200),
            ("inet:0.0.0.0:9925", "relay.example:9925", 421),
            ("inet:[2001:db8::5]:9925", "[2001:DB8::5]:9925", 200),
            ("inet:relay.example:9925", "Relay.Example:9925", 200),
            ("inet:relay.example:9925", "other.example:9925", 421),
            ("unix:/run/a.sock", "localhost:8080", 200),
            ("unix:/run/a.sock", "gatepost", 200),
            ("unix:/run/a.sock", "evil.example", 421),
            ("unix:/run/a.sock", "10.0.0.5:8080", 421),
            ("unix:/run/a.sock", "", 421),
        ] {
            assert_eq!(status(door, host, ""), wanted, "{door} called {host}");
        }
    }

    #[test]
    fn a_page_of_others_may_not_ask() {
        for (origin, wanted) in [
            ("http://localhost:8080", 200),
            ("http://LOCALHOST:8080", 200),
            ("http://localhost:8081", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("file://", 403),
        ] {
            assert_eq!(status("unix:/run/a.sock", "localhost:8080", origin), wanted, "{origin}");
        }
    }
}

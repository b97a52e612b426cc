//! Values that several files spell alike: addresses, domains, networks, spans of time.

use super::Ttl;
use crate::mail::{Address, AddressError};
use crate::rules::rate::{RateError, parse_span};
use crate::rules::toml_walk::{Item, quoted};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// Reads `14d` or `never`.
pub fn parse_ttl(text: &str) -> Result<Ttl, RateError> {
    if text.trim().eq_ignore_ascii_case("never") { Ok(Ttl::Never) } else { parse_span(text).map(Ttl::For) }
}

/// A span of time such as `7d`.
pub fn span(item: &Item<'_>) -> Option<Duration> {
    item.timed("a time such as \"7d\", \"12h\" or \"30min\"", parse_span)
}

/// A canonical domain, with or without a leading `@`.
pub fn parse_domain(text: &str) -> Result<String, AddressError> {
    let domain = text.strip_prefix('@').unwrap_or(text);
    // What an address parser would take for the end or the wrapping of an address.
    if domain.contains(|c: char| c.is_whitespace() || c.is_control() || "@<>,;\"()".contains(c)) {
        return Err(AddressError::BadCharacter);
    }
    if domain.is_empty() || domain.starts_with('.') {
        return Err(AddressError::NoDomain);
    }
    Address::parse(&format!("postmaster@{domain}")).map(|address| address.domain().to_owned())
}

/// Why a text is no network.
#[derive(Debug, PartialEq, Eq)]
pub enum NetworkError {
    /// Neither an address nor `address/prefix`.
    Shape,
    /// Bits beyond the prefix are set; this network was meant.
    HostBits(IpNet),
}

impl NetworkError {
    /// The problem for the text that stood there.
    pub fn message(&self, text: &str) -> String {
        match self {
            Self::Shape => {
                format!(
                    "{} is no IP address or network; write one such as \"10.0.1.5\" or \"10.0.1.0/24\"",
                    quoted(text)
                )
            }
            Self::HostBits(net) => {
                format!("{} has bits set beyond its prefix; for the network write \"{net}\"", quoted(text))
            }
        }
    }
}

/// Reads an address or a network. An IPv4 address in IPv6 spelling is the IPv4 address, as Postfix
/// has it.
pub fn parse_network(text: &str) -> Result<IpNet, NetworkError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip.to_canonical()));
    }
    let net: IpNet = text.parse().map_err(|_| NetworkError::Shape)?;
    if net.trunc() == net { Ok(net) } else { Err(NetworkError::HostBits(net.trunc())) }
}

/// One network of a list.
pub fn network(item: &Item<'_>) -> Option<IpNet> {
    let text = item.text("text such as \"10.0.1.0/24\"")?;
    parse_network(text).map_err(|e| item.problem(format!("{}: {}", item.path(), e.message(text)))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_addresses_or_cidr() {
        for (text, net) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.0/24", "10.0.0.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse_network(text), Ok(net.parse().expect(net)), "{text}");
        }
        let meant = "10.0.0.0/24".parse().expect("network");
        assert_eq!(parse_network("10.0.0.7/24"), Err(NetworkError::HostBits(meant)));
        for text in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/", "host.example", "[::1]", "10.0.0.1-9"] {
            assert_eq!(parse_network(text), Err(NetworkError::Shape), "{text}");
        }
    }

    #[test]
    fn domains_are_canonical() {
        assert_eq!(parse_domain("Example.COM"), Ok("example.com".into()));
        assert_eq!(parse_domain("@example.com"), Ok("example.com".into()));
        for text in ["", "@", "a@example.com", "exa mple.com", "<example.com>", ".example.com", "a,b"] {
            assert!(parse_domain(text).is_err(), "{text}");
        }
    }
}

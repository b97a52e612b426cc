//! The canonical form of an envelope address: the one key of the allowlist and of the suppression
//! index. It is what Postfix's trivial-rewrite(8) makes of an address before it looks it up, in
//! external (quoted) form, ASCII lower case, with the domain as `xn--`.
//!
//! Not followed, for gatepost does not know which domains are local: routing through a domain of
//! the relay itself (`user%domain@relay`), and `append_dot_mydomain` (off since Postfix 3.0).

use super::quoting::{is_dot_string, push_external, push_internal, without_route};
use idna::AsciiDenyList;
use memchr::{memchr, memrchr};

/// The settings of main.cf that change which address Postfix looks up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewriting {
    /// `myorigin`: appended to an address without a domain. Empty: nothing is appended.
    pub myorigin: String,
    /// `recipient_delimiter`: each character of it splits user and extension (Postfix 2.11).
    pub recipient_delimiter: String,
    /// Whether `parent_domain_matches_subdomains` includes `smtpd_access_maps` (it does by default).
    pub parent_domain_matches_subdomains: bool,
}

/// The longest domain, in bytes, that is converted to `xn--`: 255 octets (RFC 1035), each of which
/// may have been a character of four. A longer one is no domain and stays as it is.
const MAX_IDN_BYTES: usize = 1_020;

/// The longest domain name, in bytes (RFC 1035 section 2.3.4), and the longest label.
const MAX_DOMAIN_BYTES: usize = 255;
const MAX_LABEL_BYTES: usize = 63;

/// A canonical address in a buffer that is used again for the next one: what the request path
/// holds, so that a question costs no allocation.
#[derive(Clone, Debug, Default)]
pub struct Canonical {
    text: Vec<u8>,
    at: Option<usize>,
    unquoted: Vec<u8>,
}

impl Canonical {
    /// Takes an address in Postfix's internal (unquoted) form, as `sender=` and `recipient=` of a
    /// policy request have it. Empty is the null sender and stays empty. Any bytes will do.
    pub fn set_internal(&mut self, raw: &[u8], rewriting: &Rewriting) {
        self.text.clear();
        self.at = None;
        if raw.is_empty() {
            return;
        }
        let (local, domain) = rewritten(raw, rewriting);
        push_external(&mut self.text, local);
        if let Some(domain) = domain {
            self.at = Some(self.text.len());
            self.text.push(b'@');
            push_domain(&mut self.text, domain);
        }
    }

    /// Takes an address in external (quoted) form. Any bytes will do.
    pub fn set_external(&mut self, raw: &[u8], rewriting: &Rewriting) {
        let mut unquoted = std::mem::take(&mut self.unquoted);
        unquoted.clear();
        push_internal(&mut unquoted, without_route(raw));
        self.set_internal(&unquoted, rewriting);
        self.unquoted = unquoted;
    }

    /// The whole address; empty for the null sender.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// What stands before the last `@`, quoted where the address needs it.
    #[must_use]
    pub fn local(&self) -> &[u8] {
        &self.text[..self.at.unwrap_or(self.text.len())]
    }

    /// What stands after the last `@`; empty where there is none.
    #[must_use]
    pub fn domain(&self) -> &[u8] {
        self.at.map_or(&[][..], |at| &self.text[at + 1..])
    }

    /// Whether there is an `@`.
    #[must_use]
    pub fn has_domain(&self) -> bool {
        self.at.is_some()
    }
}

/// Whether `domain` is a domain name or an address literal such as Postfix takes from a client, in
/// canonical form (so a name outside ASCII is none).
#[must_use]
pub fn is_domain(domain: &[u8]) -> bool {
    if let Some(literal) = domain.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) {
        let ipv6 = literal.get(..5).filter(|tag| tag.eq_ignore_ascii_case(b"ipv6:")).map_or(literal, |_| &literal[5..]);
        return std::str::from_utf8(ipv6).is_ok_and(|text| text.parse::<std::net::IpAddr>().is_ok());
    }
    let mut label = 0;
    for byte in domain {
        match byte {
            b'.' if (1..=MAX_LABEL_BYTES).contains(&label) => label = 0,
            b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => label += 1,
            _ => return false,
        }
    }
    (1..=MAX_LABEL_BYTES).contains(&label) && domain.len() <= MAX_DOMAIN_BYTES
}

/// Appends a domain in ASCII lower case, as `xn--`, without a closing dot. What cannot be converted
/// stays as it is, and is then no domain by [`is_domain`].
pub(crate) fn push_domain(out: &mut Vec<u8>, domain: &[u8]) {
    let start = out.len();
    let converted = (!domain.is_ascii() && domain.len() <= MAX_IDN_BYTES)
        .then(|| idna::domain_to_ascii_cow(domain, AsciiDenyList::URL).ok())
        .flatten();
    out.extend(converted.as_ref().map_or(domain, |name| name.as_bytes()).iter().map(u8::to_ascii_lowercase));
    if let [.., before, b'.'] = &out[start..]
        && *before != b'.'
    {
        out.pop();
    }
}

/// Local part and domain of an internal address as trivial-rewrite(8) reads it: a source route is
/// dropped, the last `@` splits; without one `domain!user`, `user%domain` and myorigin are tried.
fn rewritten<'a>(raw: &'a [u8], rewriting: &'a Rewriting) -> (&'a [u8], Option<&'a [u8]>) {
    let raw = without_route(raw);
    if let Some(at) = memrchr(b'@', raw) {
        return (&raw[..at], Some(&raw[at + 1..]));
    }
    if is_dot_string(raw) {
        if let Some(bang) = memchr(b'!', raw) {
            return (&raw[bang + 1..], Some(&raw[..bang]));
        }
        if let Some(percent) = memrchr(b'%', raw) {
            return (&raw[..percent], Some(&raw[percent + 1..]));
        }
    }
    let origin = rewriting.myorigin.as_bytes();
    (raw, (!origin.is_empty()).then_some(origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rewriting() -> Rewriting {
        Rewriting {
            myorigin: "Origin.Example".into(),
            recipient_delimiter: "+".into(),
            parent_domain_matches_subdomains: true,
        }
    }

    fn internal(raw: &[u8]) -> Canonical {
        let mut out = Canonical::default();
        out.set_internal(raw, &rewriting());
        out
    }

    fn external(raw: &[u8]) -> Canonical {
        let mut out = Canonical::default();
        out.set_external(raw, &rewriting());
        out
    }

    /// Each was seen on Postfix 3.7.11 (tests/it/access5.rs asks it again).
    #[test]
    fn internal_forms_come_to_one_key() {
        for (raw, key) in [
            ("", ""),
            ("Info@Example.COM", "info@example.com"),
            ("root", "root@origin.example"),
            ("info%d.example", "info@d.example"),
            ("a%b%c.example", "a%b@c.example"),
            ("d.example!info", "info@d.example"),
            ("a.example!b!c", "b!c@a.example"),
            ("a.example!b%c", "b%c@a.example"),
            ("a%b@c.example", "a%b@c.example"),
            ("a@d.example.", "a@d.example"),
            ("a@d.example..", "a@d.example.."),
            ("d.example.!a", "a@d.example"),
            ("@r.example:a@d.example", "a@d.example"),
            ("@r:@s:a@d.example", "a@d.example"),
            ("a b@d.example", "\"a b\"@d.example"),
            ("d!a b", "\"d!a b\"@origin.example"),
            ("a@b@d.example", "\"a@b\"@d.example"),
            ("@d.example", "\"\"@d.example"),
            ("a@m\u{fc}nchen.example", "a@xn--mnchen-3ya.example"),
            ("a@M\u{dc}NCHEN.example", "a@xn--mnchen-3ya.example"),
            ("a@XN--MNCHEN-3YA.example", "a@xn--mnchen-3ya.example"),
            ("M\u{fc}ller@d.example", "m\u{fc}ller@d.example"),
            ("a@[127.0.0.1]", "a@[127.0.0.1]"),
            ("@", "\"\"@"),
            ("a.", "\"a.\"@origin.example"),
        ] {
            assert_eq!(String::from_utf8_lossy(internal(raw.as_bytes()).as_bytes()), key, "{raw}");
        }
    }

    #[test]
    fn external_forms_come_to_the_same_key() {
        for (raw, key) in [
            ("\"info\"@d.example", "info@d.example"),
            ("\"A B\"@d.example", "\"a b\"@d.example"),
            ("a\\ b@d.example", "\"a b\"@d.example"),
            ("\"a@b\"@d.example", "\"a@b\"@d.example"),
            ("@r:\"x\"@d.example", "x@d.example"),
            ("root", "root@origin.example"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(external(raw.as_bytes()).as_bytes()), key, "{raw}");
        }
    }

    #[test]
    fn parts() {
        let a = internal(b"a@b@Example.com");
        assert_eq!((a.local(), a.domain(), a.has_domain()), (&b"\"a@b\""[..], &b"example.com"[..], true));
        let mut bare = Canonical::default();
        bare.set_internal(b"root", &Rewriting { myorigin: String::new(), ..rewriting() });
        assert_eq!((bare.local(), bare.domain(), bare.has_domain()), (&b"root"[..], &b""[..], false));
    }

    #[test]
    fn domains() {
        for good in ["d", "d.example", "_x.d-e.example", "[127.0.0.1]", "[IPv6:2001:db8::1]", "xn--mnchen-3ya.de"] {
            assert!(is_domain(good.as_bytes()), "{good}");
        }
        let long_label = format!("{}.example", "a".repeat(64));
        let long = ["a"; 129].join(".");
        for bad in ["", ".", "a..b", ".a", "a.", "a b", "[1.2.3]", "[", "a,b", "m\u{fc}.de", "a@b", &long_label, &long]
        {
            assert!(!is_domain(bad.as_bytes()), "{bad}");
        }
    }

    /// Bytes that the rewriting rules look at come often.
    fn awkward() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => prop::sample::select(b"@.:!%\"\\ ,+[]ab<>".to_vec()),
            2 => any::<u8>(),
        ];
        let text = "[@.:!%\"\\\\ a\u{fc}\u{3002}\u{ff20}\u{ad}\u{200d}B\u{df}x-]{0,12}";
        prop_oneof![prop::collection::vec(byte, 0..16), text.prop_map(String::into_bytes), any::<Vec<u8>>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn canonical_of_canonical_is_the_same(raw in awkward()) {
            let once = internal(&raw);
            let twice = external(once.as_bytes());
            prop_assert_eq!(once.as_bytes(), twice.as_bytes());
            prop_assert_eq!(once.at, twice.at);
        }

        #[test]
        fn both_forms_agree(raw in awkward()) {
            let mut quoted = Vec::new();
            if let Some(at) = memrchr(b'@', &raw) {
                push_external(&mut quoted, &raw[..at]);
                quoted.extend_from_slice(&raw[at..]);
            } else if !raw.is_empty() {
                push_external(&mut quoted, &raw);
            }
            // Without an @ quotes hide ! and %, with them or not.
            prop_assume!(raw.first() != Some(&b'@'));
            let (one, other) = (internal(&raw), external(&quoted));
            prop_assert_eq!(one.as_bytes(), other.as_bytes());
        }

        #[test]
        fn the_last_at_splits(raw in awkward()) {
            let a = internal(&raw);
            prop_assert!(memchr(b'@', a.domain()).is_none());
            prop_assert_eq!(a.has_domain(), a.at.is_some());
            prop_assert!(!a.as_bytes().iter().any(u8::is_ascii_uppercase));
        }
    }
}

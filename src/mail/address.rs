//! Mail addresses as operators, SES and bounces write them, made canonical.

use super::canonical::{Canonical, Rewriting, is_domain};
use super::quoting::{is_dot_string, needs_quotes, without_route};
use std::fmt;

/// The longest address, in bytes: a local part of 64, an `@`, a domain of 255 (RFC 5321 section 4.5.3.1).
/// Local parts longer than 64 exist (bounce addresses), so only the sum is held.
pub const MAX_ADDRESS_BYTES: usize = 320;

/// The longest text an address is looked for in, display name and all: a header line of RFC 5322.
const MAX_INPUT_BYTES: usize = 998;

/// A canonical address, owned: external (quoted) form, ASCII lower case, the domain as `xn--`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(String);

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@`.
    #[error("no @ in the address")]
    NoAt,
    /// Nothing before the `@`.
    #[error("nothing before the @")]
    NoLocalPart,
    /// Nothing, or no domain name, after the `@`.
    #[error("no domain after the @")]
    NoDomain,
    /// A control character, a blank outside quotes, or an unbalanced quote.
    #[error("a character that no address may hold, or an unbalanced quote")]
    BadCharacter,
    /// Longer than RFC 5321 section 4.5.3.1 allows (and than any bound of ours).
    #[error("longer than an address can be")]
    TooLong,
}

impl Address {
    /// Reads one address as operators, SES and DSNs write it: external form, with or without
    /// angle brackets, with or without a display name or an `rfc822;` prefix. The forms that Postfix
    /// rewrites (`info%d`, `d!info`, `a@d.`, source routes) come to the address they stand for.
    ///
    /// # Errors
    /// Where no address can be made of the text.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_INPUT_BYTES {
            return Err(AddressError::TooLong);
        }
        if is_plain(text) {
            return Ok(Self(text.to_owned()));
        }
        Self::parse_any(text)
    }

    fn parse_any(text: &str) -> Result<Self, AddressError> {
        let spec = addr_spec(without_type(text.trim()))?;
        let spec = std::str::from_utf8(without_route(spec.as_bytes())).map_err(|_| AddressError::BadCharacter)?;
        check_syntax(spec)?;
        let plain = Rewriting {
            myorigin: String::new(),
            recipient_delimiter: String::new(),
            parent_domain_matches_subdomains: true,
        };
        let mut canonical = Canonical::default();
        canonical.set_external(spec.as_bytes(), &plain);
        Self::from_canonical(&canonical)
    }

    /// The address in `text` as it is spelled there: without display name, angle brackets and type.
    #[must_use]
    pub fn spelling(text: &str) -> &str {
        addr_spec(without_type(text.trim())).unwrap_or(text).trim()
    }

    /// Takes a canonical address, where it is one of the form `local@domain`.
    ///
    /// # Errors
    /// Where a part is missing or is not what an address may hold.
    pub fn from_canonical(canonical: &Canonical) -> Result<Self, AddressError> {
        let text = String::from_utf8(canonical.as_bytes().to_vec()).map_err(|_| AddressError::BadCharacter)?;
        match () {
            () if !canonical.has_domain() => Err(AddressError::NoAt),
            () if canonical.local() == b"\"\"" => Err(AddressError::NoLocalPart),
            () if text.len() > MAX_ADDRESS_BYTES => Err(AddressError::TooLong),
            () if !is_domain(canonical.domain()) => Err(AddressError::NoDomain),
            () if text.chars().any(is_control) => Err(AddressError::BadCharacter),
            () => Ok(Self(text)),
        }
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands after the last `@`.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, d)| d)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is an address that is canonical already, by what is seen at once: of lists of millions nearly all are.
fn is_plain(text: &str) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'+' | b'=');
    text.len() <= MAX_ADDRESS_BYTES
        && text.split_once('@').is_some_and(|(local, domain)| {
            local.as_bytes().iter().all(is_plain)
                && is_dot_string(local.as_bytes())
                && domain.as_bytes().iter().all(is_plain)
                && is_domain(domain.as_bytes())
        })
}

/// Without the address type that DSN fields begin with (RFC 3464 section 2.3.1).
fn without_type(text: &str) -> &str {
    match text.split_once(';') {
        Some((kind, rest)) if kind.trim().eq_ignore_ascii_case("rfc822") => rest.trim(),
        _ => text,
    }
}

/// What stands in the angle brackets, or all of it where there are none.
fn addr_spec(text: &str) -> Result<&str, AddressError> {
    let mut quoted = false;
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' => drop(chars.next()),
            '<' if !quoted => return text[i + 1..].strip_suffix('>').map(str::trim).ok_or(AddressError::BadCharacter),
            _ => {}
        }
    }
    Ok(text)
}

/// An addr-spec in external form: quotes balanced; outside of them one `@` at most, and no
/// character that belongs between quotes.
fn check_syntax(spec: &str) -> Result<(), AddressError> {
    let (mut quoted, mut in_domain) = (false, false);
    let mut chars = spec.chars();
    while let Some(c) = chars.next() {
        let literal = in_domain && matches!(c, '[' | ']' | ':');
        match c {
            '"' if !in_domain => quoted = !quoted,
            '\\' if quoted => drop(chars.next()),
            '@' if !quoted && !in_domain => in_domain = true,
            _ if is_control(c) => return Err(AddressError::BadCharacter),
            _ if !quoted && !literal && (c.is_whitespace() || u8::try_from(c).is_ok_and(needs_quotes_here)) => {
                return Err(AddressError::BadCharacter);
            }
            _ => {}
        }
    }
    if quoted { Err(AddressError::BadCharacter) } else { Ok(()) }
}

/// [`needs_quotes`] for a character: Latin-1 is not ASCII.
fn needs_quotes_here(byte: u8) -> bool {
    byte.is_ascii() && needs_quotes(byte)
}

/// What neither an address nor a log line may hold.
pub(crate) fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_as_they_are_written() {
        for (text, address) in [
            ("User@Example.COM", "user@example.com"),
            (" <user@example.com> ", "user@example.com"),
            ("< user@example.com >", "user@example.com"),
            ("Name Surname <User@example.com>", "user@example.com"),
            ("\"Name, <x>\" <user@example.com>", "user@example.com"),
            ("=?UTF-8?Q?M=C3=BCller?= <user@example.com>", "user@example.com"),
            ("M\u{fc}ller <user@example.com>", "user@example.com"),
            ("rfc822;user@example.com", "user@example.com"),
            ("RFC822; <user@example.com>", "user@example.com"),
            ("\"a b\"@example.com", "\"a b\"@example.com"),
            ("\"user\"@example.com", "user@example.com"),
            ("<\"a<b>\"@example.com>", "\"a<b>\"@example.com"),
            ("a..b.@docomo.example", "\"a..b.\"@docomo.example"),
            ("user@m\u{fc}nchen.example", "user@xn--mnchen-3ya.example"),
            ("\u{fc}ser@example.com", "\u{fc}ser@example.com"),
            ("@relay:user@example.com", "user@example.com"),
            ("user%example.com", "user@example.com"),
            ("example.com!user", "user@example.com"),
            ("user@example.com.", "user@example.com"),
            ("user@[192.0.2.1]", "user@[192.0.2.1]"),
            ("user@[IPv6:2001:DB8::1]", "user@[ipv6:2001:db8::1]"),
            ("o'brien+x=y/z@example.com", "o'brien+x=y/z@example.com"),
        ] {
            assert_eq!(Address::parse(text).map(|a| a.0), Ok(address.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_spelling_is_kept() {
        for (text, spelling) in [
            (" User@Example.COM ", "User@Example.COM"),
            ("Name <User@Example.com>", "User@Example.com"),
            ("RFC822; <\"a b\"@Example.com>", "\"a b\"@Example.com"),
            ("<user@example.com", "<user@example.com"),
        ] {
            assert_eq!(Address::spelling(text), spelling);
        }
    }

    #[test]
    fn texts_that_are_no_address() {
        use AddressError::{BadCharacter, NoAt, NoDomain, NoLocalPart, TooLong};
        let long = format!("{}@example.com", "a".repeat(310));
        let very_long = format!("{} <a@example.com>", "n".repeat(2_000));
        for (text, error) in [
            ("", NoAt),
            ("<>", NoAt),
            ("root", NoAt),
            ("@example.com", NoLocalPart),
            ("\"\"@example.com", NoLocalPart),
            ("user@", NoDomain),
            ("user@.example", NoDomain),
            ("user@exa..mple", NoDomain),
            ("user@exa$mple", NoDomain),
            ("user@\u{fffd}.example", NoDomain),
            ("user@[300.1.1.1]", NoDomain),
            ("a b@example.com", BadCharacter),
            ("a@b@example.com", BadCharacter),
            ("a@example.com, b@example.com", BadCharacter),
            ("a@example.com b", BadCharacter),
            ("user@example.com>", BadCharacter),
            ("<user@example.com", BadCharacter),
            ("Name <user@example.com> x", BadCharacter),
            ("\"user@example.com", BadCharacter),
            ("us\ner@example.com", BadCharacter),
            ("\"us\ner\"@example.com", BadCharacter),
            ("\"us\\\ner\"@example.com", BadCharacter),
            ("us\u{85}er@example.com", BadCharacter),
            ("us\0er@example.com", BadCharacter),
            ("user\u{2028}@example.com", BadCharacter),
            (&long, TooLong),
            (&very_long, TooLong),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn an_address_is_its_own_canonical_form(text in "[ab@.\"\\\\ <>%!:+\u{fc};]{0,10}(@[ab.\u{fc}]{1,8})?") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(address.as_str()), Ok(address.clone()));
                prop_assert!(!address.as_str().chars().any(is_control));
                prop_assert!(is_domain(address.domain().as_bytes()));
            }
        }

        #[test]
        fn what_is_seen_to_be_canonical_at_once_is(text in "[ab+=._A-]{0,6}@[ab.A_+-]{0,6}(@a)?") {
            if is_plain(&text) {
                prop_assert_eq!(Address::parse_any(&text), Ok(Address(text)));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Address::parse(&text);
        }
    }
}

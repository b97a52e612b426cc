//! RFC 822 quoting of local parts, by the rules that Postfix goes by: what it quotes, what it
//! leaves as it is, and what a quoted text stands for. All on bytes, for an envelope address need
//! not be UTF-8.

use memchr::memchr;

/// Whether `local` may stand unquoted: atoms with single dots between them. 8-bit bytes pass, as
/// they do in Postfix; empty does not.
pub(crate) fn is_dot_string(local: &[u8]) -> bool {
    let mut after_dot = true;
    for &byte in local {
        if byte == b'.' && after_dot || needs_quotes(byte) {
            return false;
        }
        after_dot = byte == b'.';
    }
    !after_dot
}

/// Whether a byte can stand in a local part only between quotes.
pub(crate) fn needs_quotes(byte: u8) -> bool {
    SPECIAL[usize::from(byte)]
}

/// A table, for this is asked of every byte of every address.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut i = 0;
    while i < 256 {
        special[i] = i <= 0x20
            || matches!(
                i as u8,
                0x7f | b'(' | b')' | b'<' | b'>' | b'@' | b',' | b';' | b':' | b'\\' | b'"' | b'[' | b']'
            );
        i += 1;
    }
    special
};

/// Appends `local` (internal form) in external form and ASCII lower case.
pub(crate) fn push_external(out: &mut impl Extend<u8>, local: &[u8]) {
    if is_dot_string(local) {
        out.extend(local.iter().map(u8::to_ascii_lowercase));
        return;
    }
    out.extend([b'"']);
    for byte in local {
        if matches!(byte, b'"' | b'\\' | b'\r') {
            out.extend([b'\\']);
        }
        out.extend([byte.to_ascii_lowercase()]);
    }
    out.extend([b'"']);
}

/// Appends what `external` stands for: quotes and backslashes go, what follows the last `@` outside
/// quotes stays as it is.
pub(crate) fn push_internal(out: &mut impl Extend<u8>, external: &[u8]) {
    let (local, domain) = external.split_at(last_bare_at(external).unwrap_or(external.len()));
    let mut bytes = local.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => {}
            b'\\' => out.extend(bytes.next().copied()),
            _ => out.extend([byte]),
        }
    }
    out.extend(domain.iter().copied());
}

/// Where the last `@` outside quotes stands.
pub(crate) fn last_bare_at(external: &[u8]) -> Option<usize> {
    let (mut quoted, mut at, mut i) = (false, None, 0);
    while let Some(byte) = external.get(i) {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => i += 1,
            b'@' if !quoted => at = Some(i),
            _ => {}
        }
        i += 1;
    }
    at
}

/// Without source routes (`@relay:user@domain`; RFC 5321 appendix C: ignore them).
pub(crate) fn without_route(mut address: &[u8]) -> &[u8] {
    while address.first() == Some(&b'@')
        && let Some(colon) = memchr(b':', address)
        && colon + 1 < address.len()
    {
        address = &address[colon + 1..];
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_parts_are_quoted_where_postfix_quotes_them() {
        for (internal, external) in [
            ("info", "info"),
            ("Info+x", "info+x"),
            ("a b", "\"a b\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("", "\"\""),
            (".a", "\".a\""),
            ("a.", "\"a.\""),
            ("a..b", "\"a..b\""),
            ("a.b", "a.b"),
            ("a,b", "\"a,b\""),
            ("a@b", "\"a@b\""),
            ("a\tb", "\"a\tb\""),
            ("m\u{fc}ller", "m\u{fc}ller"),
            ("a!b%c", "a!b%c"),
        ] {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            push_external(&mut there, internal.as_bytes());
            assert_eq!(String::from_utf8_lossy(&there), external);
            push_internal(&mut back, &there);
            assert_eq!(back, internal.to_ascii_lowercase().as_bytes());
        }
    }

    #[test]
    fn unquoting_leaves_the_domain_alone() {
        for (external, internal) in [
            ("\"a b\"@x", "a b@x"),
            ("a\\ b@x", "a b@x"),
            ("\"a@b\"@\"x\"", "a@b@\"x\""),
            ("\"unbalanced@x", "unbalanced@x"),
            ("end\\", "end"),
        ] {
            let mut out = Vec::new();
            push_internal(&mut out, external.as_bytes());
            assert_eq!(String::from_utf8_lossy(&out), internal, "{external}");
        }
    }
}

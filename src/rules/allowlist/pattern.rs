//! The left-hand side of an entry: an address, a domain, a user, or the null sender.
//!
//! A key is kept as Postfix keeps it, letter by letter but for case, so that both find the same
//! entry; what Postfix can never look for gets a warning.

use super::action::Note;
use crate::mail::quoting::{is_dot_string, last_bare_at, needs_quotes, push_external, push_internal};
use crate::mail::{is_control, is_domain, push_domain};

/// The longest pattern, in bytes: an address is at most 320, a domain in UTF-8 up to four times
/// its 255 octets.
pub const MAX_PATTERN_BYTES: usize = 1_400;

/// Appends the key that a pattern stands for; `Err` says why there is none.
pub(super) fn push_key(out: &mut Vec<u8>, pattern: &str, notes: &mut Vec<Note>) -> Result<(), Note> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(Note::problem(0, format!("the pattern is longer than {MAX_PATTERN_BYTES} bytes, no address is")));
    }
    let plain = pattern.bytes().all(|b| b.is_ascii_graphic());
    if let Some(at) = (!plain).then(|| pattern.find(is_control)).flatten() {
        let message = "a control character in the pattern: remove it";
        return Err(Note::problem(at, message));
    }
    if pattern == "<>" {
        out.extend_from_slice(b"<>");
        return Ok(());
    }
    if pattern.starts_with('/') {
        let message = "a regular expression: this file takes addresses and domains only, write those";
        return Err(Note::problem(0, message));
    }
    match last_bare_at(pattern.as_bytes()) {
        None => push_domain_key(out, pattern, notes),
        Some(0) if pattern.len() == 1 => {
            return Err(Note::problem(0, "nothing but an @: write user@domain, user@ or domain"));
        }
        Some(0) => {
            let domain = &pattern[1..];
            let message =
                format!("\"{pattern}\" is understood as \"{domain}\"; Postfix never matches it: write \"{domain}\"");
            notes.push(Note::warning(0, message));
            push_domain_key(out, domain, notes);
        }
        Some(at) if pattern[..at].contains('@') && last_bare_at(&pattern.as_bytes()[..at]).is_some() => {
            let message = "two @ outside quotes: quote the local part, as in \"user@host\"@domain";
            return Err(Note::problem(at, message));
        }
        Some(at) => push_user_key(out, pattern, at, notes),
    }
    Ok(())
}

/// `domain` or `.domain`.
fn push_domain_key(out: &mut Vec<u8>, pattern: &str, notes: &mut Vec<Note>) {
    let start = out.len();
    let name = pattern.strip_prefix('.').unwrap_or(pattern);
    out.extend(pattern.starts_with('.').then_some(b'.'));
    let name_start = out.len();
    push_name(out, name);
    if is_numeric(pattern) {
        let message = format!(
            "\"{pattern}\" is an IP address and never matches a sender or recipient: to say where a sender may come \
             from, write \"user@domain OK clients={pattern}\"; an address literal is written \"[{pattern}]\""
        );
        notes.push(Note::warning(0, message));
    } else if !is_domain(&out[name_start..]) {
        notes.push(Note::warning(0, never_matches(pattern, out[start..].ends_with(b"."))));
    }
}

fn never_matches(pattern: &str, closing_dot: bool) -> String {
    let instead = match () {
        () if closing_dot => {
            format!("Postfix drops the closing dot of an address: write \"{}\"", pattern.trim_end_matches('.'))
        }
        () if pattern.ends_with(':') => "there is no colon after the pattern in access(5): remove it".to_owned(),
        () if pattern.contains(['%', '!']) => {
            "Postfix makes user@domain of it before it looks: write user@domain".to_owned()
        }
        () => "it is no domain name: write user@domain, domain, .domain, user@ or <>".to_owned(),
    };
    format!("\"{pattern}\" never matches: {instead}")
}

/// `user@domain` or `user@`.
fn push_user_key(out: &mut Vec<u8>, pattern: &str, at: usize, notes: &mut Vec<Note>) {
    let (local, domain) = (&pattern[..at], &pattern[at + 1..]);
    out.extend(local.bytes().map(|b| b.to_ascii_lowercase()));
    out.push(b'@');
    if !is_dot_string(local.as_bytes()) {
        notes.extend(quoting_note(local, domain));
    }
    if domain.is_empty() {
        return;
    }
    let start = out.len();
    push_name(out, domain);
    if !is_domain(&out[start..]) {
        notes.push(Note::warning(0, never_matches(pattern, out.ends_with(b"."))));
    }
}

/// Appends a domain as lookups have it, but keeps a closing dot, which they never have.
fn push_name(out: &mut Vec<u8>, name: &str) {
    push_domain(out, name.as_bytes());
    if name.ends_with('.') && out.last() != Some(&b'.') {
        out.push(b'.');
    }
}

/// What to say of a local part that is no plain one: quoted otherwise than Postfix quotes it, it
/// never matches; unquoted, it matches the quoted address.
fn quoting_note(local: &str, domain: &str) -> Option<Note> {
    let (mut internal, mut external) = (Vec::new(), Vec::new());
    push_internal(&mut internal, local.as_bytes());
    push_external(&mut external, &internal);
    if external.eq_ignore_ascii_case(local.as_bytes()) {
        return None;
    }
    let right = format!("{}@{domain}", String::from_utf8_lossy(&external));
    if local.contains(['"', '\\']) {
        return Some(Note::warning(0, format!("the pattern never matches: Postfix looks for {right}, write that")));
    }
    // Dots in the wrong place are common enough, and clients do not quote them.
    let special = local.bytes().any(needs_quotes);
    special.then(|| {
        Note::warning(0, format!("the pattern matches nothing but the address {right}: write that, if it is meant"))
    })
}

/// Whether a pattern is an IP address, a network, or the first octets of one.
fn is_numeric(pattern: &str) -> bool {
    let octets =
        pattern.bytes().all(|b| b.is_ascii_digit() || b == b'.') && pattern.bytes().any(|b| b.is_ascii_digit());
    octets || pattern.parse::<std::net::IpAddr>().is_ok() || pattern.parse::<ipnet::IpNet>().is_ok()
}

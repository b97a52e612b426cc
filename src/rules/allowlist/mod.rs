//! access(5) text: the sender allowlist, and `allowed_recipients`.
//!
//! Reading and lookup follow Postfix 3.7 (`texthash:`, `check_sender_access`); `tests/it/access5.rs`
//! holds them against it and lists where we differ on purpose.

mod action;
mod lines;
mod parse;
mod pattern;
#[cfg(test)]
mod tests;

use super::{Problem, Severity};
use crate::mail::quoting::{is_dot_string, push_external, push_internal};
use crate::mail::{Canonical, Rewriting, is_domain};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::path::Path;

pub use action::{Action, Binding, Entry, MAX_ACTION_BYTES};
pub use parse::{MAX_ENTRIES, MAX_FILE_BYTES, MAX_FINDINGS};
pub use pattern::MAX_PATTERN_BYTES;

/// A parsed access(5) table. Lookups are constant-time; the keys live in one buffer.
#[derive(Debug, Default)]
pub struct Allowlist {
    /// All keys, one after the other.
    keys: Vec<u8>,
    table: HashTable<Slot>,
    /// The different right-hand sides: a million lines share a handful.
    entries: Vec<Entry>,
    /// Keyed, so that nobody can choose addresses that collide.
    hasher: RandomState,
}

/// One line of the file: its key, a range of the buffer, and what it says.
#[derive(Clone, Copy, Debug)]
struct Slot {
    start: u32,
    line: u32,
    entry: u32,
    len: u16,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<'a> {
    /// The line of the file, from 1.
    pub line: u32,
    /// What it says.
    pub entry: &'a Entry,
}

/// A key as it is looked up: in parts, so that none has to be put together.
#[derive(Clone, Copy)]
struct Key<'a> {
    /// `None`: the key has no `@`.
    local: Option<&'a [u8]>,
    domain: &'a [u8],
}

/// Room for a local part on the stack; what is longer (RFC 5321 has 64) allocates.
type LocalPart = SmallVec<[u8; 128]>;

impl Allowlist {
    /// Reads a table; `file` only names it in problems. Returns the list with its warnings, or all
    /// problems and warnings (of each the first [`MAX_FINDINGS`], then how many more there are).
    ///
    /// # Errors
    /// Every problem of the file, in the order of its lines.
    pub fn parse(file: &Path, text: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        parse::parse(file, text)
    }

    /// Looks `address` up as access(5) does: user+ext@domain, user@domain, domain, its parents,
    /// user+ext@, user@; the null sender as `<>`. No allocation.
    #[must_use]
    pub fn lookup(&self, address: &Canonical, rewriting: &Rewriting) -> Option<Found<'_>> {
        if address.as_bytes().is_empty() {
            return self.find(Key { local: None, domain: b"<>" });
        }
        let domain = address.domain();
        if address.has_domain() && !is_domain(domain) {
            return None;
        }
        let (mut unquoted, mut requoted) = (LocalPart::new(), LocalPart::new());
        let external = address.local();
        let mut internal = external;
        if external.first() == Some(&b'"') {
            push_internal(&mut unquoted, external);
            internal = &unquoted;
        }
        let bare = without_extension(internal, &rewriting.recipient_delimiter);
        if let Some(bare) = bare.filter(|bare| !is_dot_string(bare)) {
            push_external(&mut requoted, bare);
        }
        let bare_external = if requoted.is_empty() { bare } else { Some(&requoted[..]) };
        let differs = |one: &[u8], other: Option<&[u8]>| other != Some(one);
        let locals = [
            Some(external),
            Some(internal).filter(|internal| differs(internal, Some(external))),
            bare_external,
            bare.filter(|bare| differs(bare, bare_external)),
        ];
        self.search(locals, domain, rewriting)
    }

    /// How many entries the table has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the table is empty on purpose (`# gatepost: empty on purpose`).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A warning for each `.domain` entry (the first [`MAX_FINDINGS`]) where
    /// `parent_domain_matches_subdomains` keeps Postfix, and us, from ever looking for it.
    #[must_use]
    pub fn never_looked_up(&self, file: &Path, rewriting: &Rewriting) -> Vec<Problem> {
        if !rewriting.parent_domain_matches_subdomains {
            return Vec::new();
        }
        let mut dotted: Vec<&Slot> = self.table.iter().filter(|slot| self.key(slot).starts_with(b".")).collect();
        dotted.sort_unstable_by_key(|slot| slot.line);
        let warning = |slot: &&Slot| {
            let key = String::from_utf8_lossy(self.key(slot));
            let domain = key.trim_start_matches('.');
            Problem {
                file: file.to_owned(),
                line: slot.line,
                column: 1,
                severity: Severity::Warning,
                message: format!(
                    "\"{key}\" never matches while parent_domain_matches_subdomains includes smtpd_access_maps \
                     (Postfix's default): write \"{domain}\", which then matches its subdomains too"
                ),
            }
        };
        dotted.iter().take(MAX_FINDINGS).map(warning).collect()
    }

    /// The keys in the order of `mail_addr_find`; `locals` are the full and the bare local part, each
    /// external, then internal where that differs.
    fn search(&self, locals: [Option<&[u8]>; 4], domain: &[u8], rewriting: &Rewriting) -> Option<Found<'_>> {
        let users =
            |domain| locals.into_iter().flatten().find_map(|local| self.find(Key { local: Some(local), domain }));
        let at_domain = if domain.is_empty() { None } else { users(domain) };
        at_domain.or_else(|| self.find_domain(domain, rewriting)).or_else(|| users(b""))
    }

    /// The domain, then its parents.
    fn find_domain(&self, domain: &[u8], rewriting: &Rewriting) -> Option<Found<'_>> {
        let mut name = domain;
        while !name.is_empty() {
            let found = self.find(Key { local: None, domain: name });
            if found.is_some() {
                return found;
            }
            let dot = 1 + memchr::memchr(b'.', &name[1..])?;
            name = &name[dot + usize::from(rewriting.parent_domain_matches_subdomains)..];
        }
        None
    }

    fn find(&self, key: Key<'_>) -> Option<Found<'_>> {
        let slot = self.table.find(self.hash(key), |slot| key.is(self.key(slot)))?;
        Some(Found { line: slot.line, entry: self.entries.get(slot.entry as usize)? })
    }

    fn key(&self, slot: &Slot) -> &[u8] {
        slot.key(&self.keys)
    }

    fn hash(&self, key: Key<'_>) -> u64 {
        key.hash(&self.hasher)
    }
}

impl Slot {
    fn key<'a>(&self, keys: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        keys.get(start..start + usize::from(self.len)).unwrap_or_default()
    }
}

impl<'a> Key<'a> {
    fn of(text: &'a [u8]) -> Self {
        match memchr::memrchr(b'@', text) {
            Some(at) => Self { local: Some(&text[..at]), domain: &text[at + 1..] },
            None => Self { local: None, domain: text },
        }
    }

    fn hash(self, hasher: &RandomState) -> u64 {
        let mut state = hasher.build_hasher();
        if let Some(local) = self.local {
            state.write(local);
            state.write_u8(b'@');
        }
        state.write(self.domain);
        state.finish()
    }

    fn is(self, text: &[u8]) -> bool {
        match self.local {
            None => text == self.domain,
            Some(local) => text
                .strip_suffix(self.domain)
                .and_then(|rest| rest.strip_suffix(b"@"))
                .is_some_and(|rest| rest == local),
        }
    }
}

/// The user of `user+ext`, by Postfix's `split_addr`: the first delimiter splits, some names stay whole.
fn without_extension<'a>(local: &'a [u8], delimiters: &str) -> Option<&'a [u8]> {
    let at = local.iter().position(|b| delimiters.as_bytes().contains(b)).filter(|at| *at > 0)?;
    let whole = |name: &[u8]| local.eq_ignore_ascii_case(name);
    if whole(b"postmaster") || whole(b"mailer-daemon") || whole(b"double-bounce") {
        return None;
    }
    let request = local.strip_suffix(b"-request").is_some_and(|list| !list.is_empty());
    if delimiters.contains('-') && (local.starts_with(b"owner-") || request) {
        return None;
    }
    Some(&local[..at])
}

impl Binding {
    /// Whether a client and SASL user fulfil every condition. No client address (a request without
    /// one) fulfils no `clients=`.
    #[must_use]
    pub fn holds(&self, client: Option<IpAddr>, sasl_username: &[u8]) -> bool {
        let inside = |ip: IpAddr| self.clients.iter().any(|net| net.contains(&ip.to_canonical()));
        (self.clients.is_empty() || client.is_some_and(inside))
            && (self.sasl.is_empty() || self.sasl.iter().any(|user| user.as_bytes() == sasl_username))
    }
}

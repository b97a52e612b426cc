//! What each fuzz target does with its bytes, and what must hold: no panic anywhere, and the
//! properties asserted here. `tests/it/corpus.rs` includes this file and replays the corpora as
//! plain tests, so it needs nothing but gatepost and tokio.

use gatepost::daemon::config;
use gatepost::delegation::codec::{self, MAX_REQUEST_BYTES, WireError};
use gatepost::events::{self, Digest, Settings, Verdict};
use gatepost::lines::MAX_LINE_BYTES;
use gatepost::mail::{Address, Canonical, Rewriting};
use gatepost::rules::rate::{parse_span, span_text};
use gatepost::rules::{Allowlist, Files, Problem, Quota, Rate, SuppressionRules};
use gatepost::store::{Cause, Effect, Entry, MAX_EVIDENCE_BYTES};
use std::path::Path;

mod milter;

pub use milter::milter;

/// A target: bytes in, a panic where something is wrong.
pub type Target = fn(&[u8]);

/// All targets by name; the name is also that of the corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("request_codec", request_codec),
    ("allowlist", allowlist),
    ("policy_toml", policy_toml),
    ("rate", rate),
    ("address", address),
    ("event", event),
    ("milter", milter),
];

/// The policy protocol: the same requests come out however the bytes are split, nothing is longer
/// than its bound, and an answer is one action.
pub fn request_codec(data: &[u8]) {
    let whole = requests(data, data.len().max(1));
    for chunk in [1, 7, 64] {
        assert_eq!(requests(data, chunk), whole, "chunks of {chunk}");
    }
    // Around the bound, for some inputs: it costs.
    if data.len() % 16 == 1 {
        let mut long = b"request=smtpd_access_policy\nx=".to_vec();
        long.resize(MAX_REQUEST_BYTES.saturating_sub(data.len() / 2), b'x');
        long.extend_from_slice(data);
        assert_eq!(requests(&long, 4096), requests(&long, long.len()));
    }
    let mut answer = Vec::new();
    codec::write_reply(&String::from_utf8_lossy(data), &mut answer);
    assert!(answer.starts_with(b"action=") && answer.ends_with(b"\n\n"));
    assert_eq!(answer.iter().filter(|b| b.is_ascii_control()).count(), 2);
}

/// Reads requests as the server does, so many bytes at a time: their lengths and texts, and the
/// error that ended it.
fn requests(data: &[u8], chunk: usize) -> (Vec<(usize, String)>, Option<WireError>) {
    let (mut found, mut start, mut end, mut scanned) = (Vec::new(), 0, 0, 0);
    loop {
        match codec::parse(&data[start..end], scanned) {
            Ok(Some((request, length))) => {
                assert!((1..=MAX_REQUEST_BYTES).contains(&length) && start + length <= end);
                found.push((length, format!("{request:?}")));
                (start, scanned) = (start + length, 0);
            }
            Ok(None) if end == data.len() => {
                assert!(end - start < MAX_REQUEST_BYTES);
                return (found, None);
            }
            Ok(None) => {
                scanned = end - start;
                end = (end + chunk).min(data.len());
            }
            Err(error) => return (found, Some(error)),
        }
    }
}

/// The allowlist: a table, and after a NUL an address that is looked up. Findings stand in the file;
/// what is listed is found.
pub fn allowlist(data: &[u8]) {
    let (text, address) = match data.iter().position(|b| *b == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &data[data.len().saturating_sub(32)..]),
    };
    let list = match Allowlist::parse(Path::new("allowed_senders"), text) {
        Ok((list, warnings)) => {
            check_findings(&warnings, text);
            assert!(warnings.iter().all(Problem::is_warning));
            list
        }
        Err(problems) => {
            check_findings(&problems, text);
            assert!(!problems.iter().all(Problem::is_warning));
            return;
        }
    };
    for rewriting in [plain(), rewriting()] {
        let mut key = Canonical::default();
        key.set_internal(address, &rewriting);
        let _ = list.lookup(&key, &rewriting);
        key.set_external(address, &rewriting);
        let _ = list.lookup(&key, &rewriting);
        check_findings(&list.never_looked_up(Path::new("allowed_senders"), &rewriting), text);
    }
    for pattern in text.split(|b| *b == b'\n').filter_map(plain_pattern) {
        let mut key = Canonical::default();
        key.set_internal(pattern, &plain());
        assert!(list.lookup(&key, &plain()).is_some(), "{} is not found", String::from_utf8_lossy(pattern));
    }
}

/// The pattern of a line whose pattern needs no rewriting.
fn plain_pattern(line: &[u8]) -> Option<&[u8]> {
    let pattern = line.split(|b| *b == b' ').next()?;
    let at = pattern.iter().position(|b| *b == b'@')?;
    let (local, domain) = (&pattern[..at], &pattern[at + 1..]);
    let word = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_alphanumeric);
    (word(local) && domain.len() <= 60 && word(domain)).then_some(pattern)
}

/// policy.toml, and gatepost.toml, which goes the same way: every finding has a place in the file.
pub fn policy_toml(data: &[u8]) {
    let files = Files {
        allowed_senders: Some(b"# gatepost: empty on purpose\n".to_vec()),
        allowed_recipients: None,
        policy_toml: Some(data.to_vec()),
    };
    match files.parse(Path::new("policy")) {
        Ok((rules, warnings)) => {
            check_findings(&warnings, data);
            assert!(rules.limits.iter().all(|limit| limit.line as usize <= lines(data)));
        }
        Err(problems) => check_findings(&problems, data),
    }
    let (Ok((_, findings)) | Err(findings)) = config::parse(Path::new("gatepost.toml"), data);
    check_findings(&findings, data);
}

/// Rates and spans of time: what is read is written so that it reads the same, and an error points
/// into the text.
pub fn rate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Quota>() {
        Ok(quota) => assert_eq!(quota.to_string().parse(), Ok(quota)),
        Err(error) => {
            assert!(text.is_char_boundary(error.at), "{error:?}");
            assert!(text.parse::<Rate>().is_err());
        }
    }
    match parse_span(text) {
        Ok(span) => assert_eq!(parse_span(&span_text(span)), Ok(span)),
        Err(error) => assert!(text.is_char_boundary(error.at), "{error:?}"),
    }
}

/// Addresses: the canonical form is its own canonical form, and holds no control character.
pub fn address(data: &[u8]) {
    for rewriting in [plain(), rewriting()] {
        let (mut once, mut twice) = (Canonical::default(), Canonical::default());
        once.set_internal(data, &rewriting);
        twice.set_external(once.as_bytes(), &rewriting);
        assert_eq!(once.as_bytes(), twice.as_bytes());
        assert_eq!((once.local(), once.domain()), (twice.local(), twice.domain()));
        once.set_external(data, &rewriting);
        twice.set_external(once.as_bytes(), &rewriting);
        assert_eq!(once.as_bytes(), twice.as_bytes());
    }
    let Ok(address) = Address::parse(&String::from_utf8_lossy(data)) else { return };
    assert_eq!(Address::parse(address.as_str()), Ok(address.clone()));
    assert!(!address.as_str().chars().any(char::is_control));
    assert!(!address.domain().is_empty());
}

/// A body of SES's queue, to its lines: the same each time, lines printable and bounded, and what goes on the
/// list canonical and dated.
pub fn event(data: &[u8]) {
    for (accounts, rules) in [(&[][..], SuppressionRules::default()), (&["123456789012".to_owned()], any_candidate())] {
        let settings = Settings { rules: &rules, accounts, correlation_header: "X-Correlation-ID", now: NOW };
        let digest = events::digest(data, &settings);
        assert_eq!(events::digest(data, &settings), digest);
        assert!(digest.effects.is_empty() != matches!(digest.verdict, Verdict::Event { .. }));
        check_words(&digest);
        digest.effects.iter().for_each(check_effect);
    }
}

/// Later than every event of the corpus.
const NOW: i64 = 1_800_000_000;

fn any_candidate() -> SuppressionRules {
    SuppressionRules { complaint_needs_one_candidate: false, ..SuppressionRules::default() }
}

/// What is said of a body in the daemon's own log.
fn check_words(digest: &Digest) {
    let said = match &digest.verdict {
        Verdict::Event { .. } | Verdict::NotAnEvent(_) => "",
        Verdict::Foreign { account: text } | Verdict::Unknown { what: text } | Verdict::Unreadable { why: text } => {
            text
        }
    };
    for text in [said, digest.oddity.as_deref().unwrap_or_default()] {
        assert!(text.len() <= 300 && !text.chars().any(char::is_control), "{text:?}");
    }
}

fn check_effect(effect: &Effect) {
    let line = effect.line.to_line().text;
    assert!(line.len() <= MAX_LINE_BYTES && !line.chars().any(char::is_control), "{line:?}");
    let (id, rest) = line.split_once(": to=<").expect("the id comes first");
    assert!(!id.is_empty() && !id.contains([' ', ':']), "{id:?}");
    let (_, rest) = rest.split_once('>').expect("a recipient");
    assert!(rest.starts_with(", relay=amazonses.com, "), "{line:?}");
    let statuses: Vec<_> = rest.match_indices("status=").collect();
    assert!(statuses.len() == 1 && !rest.contains("status=sent") && !rest.contains("status=deferred"), "{line:?}");
    match &effect.cause {
        Cause::Nothing => {}
        Cause::Delivered { address } => check_address(address, &effect.line.to),
        Cause::Suppress { entry, mail_time, .. } | Cause::Full { entry, mail_time, .. } => {
            check_address(&entry.address, &effect.line.to);
            assert!(*mail_time <= NOW);
            check_entry(entry);
        }
    }
}

fn check_address(address: &Address, to: &str) {
    assert_eq!(address.as_str(), to);
    assert_eq!(Address::parse(to), Ok(address.clone()));
}

fn check_entry(entry: &Entry) {
    assert!(entry.created <= NOW && entry.expires.is_none_or(|at| at > entry.created), "{entry:?}");
    assert!(entry.evidence.len() <= MAX_EVIDENCE_BYTES);
    assert_eq!(Address::parse(entry.original()).as_ref(), Ok(&entry.address));
}

/// A finding names a line of the file (0: the file as a whole), and is one line of text.
fn check_findings(findings: &[Problem], text: &[u8]) {
    for finding in findings {
        assert!(finding.line as usize <= lines(text), "{finding}");
        assert!(finding.column as usize <= text.len() + 1, "{finding}");
        assert!(!finding.message.is_empty() && !finding.message.contains('\n'), "{finding}");
    }
}

/// How many lines a finding may name: one more where the file ends with a line feed.
fn lines(text: &[u8]) -> usize {
    text.iter().filter(|b| **b == b'\n').count() + 1
}

fn plain() -> Rewriting {
    Rewriting { myorigin: String::new(), recipient_delimiter: String::new(), parent_domain_matches_subdomains: true }
}

fn rewriting() -> Rewriting {
    Rewriting {
        myorigin: "origin.example".into(),
        recipient_delimiter: "+-".into(),
        parent_domain_matches_subdomains: false,
    }
}

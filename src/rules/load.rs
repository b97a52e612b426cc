//! Reading the policy folder: all files as one, into rules or into every problem. And the last good
//! copy of the folder, from which a daemon starts when the folder is broken.

use super::allowlist::MAX_FILE_BYTES as MAX_LIST_BYTES;
use super::toml_walk::MAX_TOML_BYTES;
use super::{Allowlist, ListRules, Mode, Problem, Rules, policy, problem, replace};
use crate::mail::Rewriting;
use rustix::fs::{Mode as FileMode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// The sender allowlist.
pub const ALLOWED_SENDERS: &str = "allowed_senders";
/// The optional recipient allowlist.
pub const ALLOWED_RECIPIENTS: &str = "allowed_recipients";
/// All other policy.
pub const POLICY_TOML: &str = "policy.toml";

/// The folder of the last good copy, in the state folder.
pub const LAST_GOOD_DIR: &str = "last-good";

/// The raw bytes of the files of a policy folder, as they were read together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// `allowed_senders`.
    pub allowed_senders: Option<Vec<u8>>,
    /// `allowed_recipients`.
    pub allowed_recipients: Option<Vec<u8>>,
    /// `policy.toml`.
    pub policy_toml: Option<Vec<u8>>,
}

impl Files {
    /// Reads the three files of `dir`. A file that is not there is `None`; one that cannot be read,
    /// or is larger than its bound, is a problem.
    ///
    /// # Errors
    /// A problem for each file that cannot be read.
    pub fn read(dir: &Path) -> Result<Self, Vec<Problem>> {
        let (files, problems) = Self::salvage(dir);
        if problems.is_empty() { Ok(files) } else { Err(problems) }
    }

    /// Reads what can be read, for the check that reports everything at once.
    fn salvage(dir: &Path) -> (Self, Vec<Problem>) {
        if let Err(e) = std::fs::read_dir(dir) {
            let what = match e.kind() {
                io::ErrorKind::NotFound => "the policy folder is not there; create it, or set policy_dir".to_owned(),
                io::ErrorKind::NotADirectory => {
                    "is not a folder; policy_dir names the folder of allowed_senders".into()
                }
                _ => format!("the policy folder cannot be read: {e}"),
            };
            return (Self::default(), vec![Problem::whole(dir, what)]);
        }
        let mut problems = Vec::new();
        let mut read = |name, max_bytes| {
            let path = dir.join(name);
            read_file(&path, max_bytes).unwrap_or_else(|e| {
                problems.push(Problem::whole(&path, e.to_string()));
                None
            })
        };
        let files = Self {
            allowed_senders: read(ALLOWED_SENDERS, MAX_LIST_BYTES),
            allowed_recipients: read(ALLOWED_RECIPIENTS, MAX_LIST_BYTES),
            policy_toml: read(POLICY_TOML, MAX_TOML_BYTES),
        };
        (files, problems)
    }

    /// Parses the files as one. `dir` names the files in problems. Pure.
    ///
    /// # Errors
    /// Every problem of every file.
    pub fn parse(&self, dir: &Path) -> Result<(Rules, Vec<Problem>), Vec<Problem>> {
        self.parse_beside(dir, Vec::new())
    }

    /// As [`Files::parse`], with what was found on reading: a file that could not be read is not
    /// called missing as well.
    fn parse_beside(&self, dir: &Path, mut findings: Vec<Problem>) -> Result<(Rules, Vec<Problem>), Vec<Problem>> {
        let [senders_file, recipients_file, policy_file] =
            [ALLOWED_SENDERS, ALLOWED_RECIPIENTS, POLICY_TOML].map(|name| dir.join(name));
        let toml = self.policy_toml.as_deref().unwrap_or(b"");
        let (policy, found) = policy::salvage(&policy_file, toml);
        findings.extend(found);
        let senders = list(&senders_file, self.allowed_senders.as_deref(), &mut findings);
        let recipients = list(&recipients_file, self.allowed_recipients.as_deref(), &mut findings);
        for (file, text, mode) in [
            (&senders_file, &self.allowed_senders, Some(policy.senders)),
            (&recipients_file, &self.allowed_recipients, policy.recipients),
        ] {
            let is_known = findings.iter().any(|finding| finding.file == *file);
            if text.is_none() && mode.is_some_and(|mode| mode != Mode::Off) && !is_known {
                findings.push(missing(file));
            }
        }
        let rules = Rules {
            generation: 0,
            rewriting: stock_rewriting(),
            senders: ListRules { mode: policy.senders, list: senders },
            recipients: ListRules { mode: policy.recipients.unwrap_or_default(), list: recipients },
            suppression: policy.suppression,
            local: policy.local,
            limits: policy.limits,
        };
        problem::accept(rules, findings)
    }

    /// A checksum of the files: equal for equal files, on every version and machine. No defence
    /// against malice.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Fnv::default();
        for (_, file) in self.named() {
            let len = file.map_or(u64::MAX, |bytes| bytes.len() as u64);
            hash.add(&len.to_le_bytes());
            hash.add(file.unwrap_or(b""));
        }
        hash.0
    }

    fn named(&self) -> [(&'static str, Option<&[u8]>); 3] {
        [
            (ALLOWED_SENDERS, self.allowed_senders.as_deref()),
            (ALLOWED_RECIPIENTS, self.allowed_recipients.as_deref()),
            (POLICY_TOML, self.policy_toml.as_deref()),
        ]
    }
}

/// Reads and parses `dir`: the rules (generation 0) and their warnings.
///
/// # Errors
/// Every problem of every file.
pub fn load(dir: &Path) -> Result<(Rules, Vec<Problem>), Vec<Problem>> {
    let (files, findings) = Files::salvage(dir);
    if findings.iter().any(|finding| finding.file == dir) {
        return Err(findings);
    }
    files.parse_beside(dir, findings)
}

/// Keeps `files` as the last good copy.
///
/// # Errors
/// Where the state folder cannot be written; the copy that was there stays.
pub fn save_last_good(state_dir: &Path, files: &Files) -> io::Result<()> {
    let dir = state_dir.join(LAST_GOOD_DIR);
    std::fs::create_dir_all(&dir)?;
    replace(&dir.join(COPY), |file| {
        file.write_all(copy_header(files).as_bytes())?;
        files.named().iter().try_for_each(|(_, bytes)| file.write_all(bytes.unwrap_or(b"")))
    })
}

/// Reads the last good copy; `None` where none was kept yet.
///
/// # Errors
/// Where it cannot be read, or is not what was written (`InvalidData`).
pub fn read_last_good(state_dir: &Path) -> io::Result<Option<Files>> {
    let path = state_dir.join(LAST_GOOD_DIR).join(COPY);
    let max_bytes = 2 * MAX_LIST_BYTES + MAX_TOML_BYTES + MAX_HEADER_BYTES;
    let Some(bytes) = read_file(&path, max_bytes).map_err(io::Error::from)? else { return Ok(None) };
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
    parse_copy(&bytes).ok_or_else(broken).map(Some)
}

/// The one file of the last good copy: a header of text lines, a blank line, the files one after
/// another.
const COPY: &str = "policy.copy";
const MAGIC: &str = "gatepost last good policy 1";
/// Far more than the header's five short lines.
const MAX_HEADER_BYTES: usize = 1024;

fn copy_header(files: &Files) -> String {
    let mut header = format!("{MAGIC}\n");
    for (name, bytes) in files.named() {
        let length = bytes.map_or("absent".to_owned(), |bytes| bytes.len().to_string());
        header += &format!("{name} {length}\n");
    }
    header + &format!("digest {:016x}\n\n", files.digest())
}

fn parse_copy(bytes: &[u8]) -> Option<Files> {
    let head_end = memchr::memmem::find(bytes, b"\n\n")?;
    let (head, mut rest) = (bytes.get(..head_end)?, bytes.get(head_end + 2..)?);
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    (lines.next()? == MAGIC).then_some(())?;
    let mut file = |name: &str| -> Option<Option<Vec<u8>>> {
        let (found, length) = lines.next()?.split_once(' ')?;
        (found == name).then_some(())?;
        if length == "absent" {
            return Some(None);
        }
        let (bytes, after) = rest.split_at_checked(length.parse().ok()?)?;
        rest = after;
        Some(Some(bytes.to_vec()))
    };
    let files = Files {
        allowed_senders: file(ALLOWED_SENDERS)?,
        allowed_recipients: file(ALLOWED_RECIPIENTS)?,
        policy_toml: file(POLICY_TOML)?,
    };
    let digest = lines.next()?.strip_prefix("digest ")?;
    let is_whole = rest.is_empty() && digest == format!("{:016x}", files.digest());
    is_whole.then_some(files)
}

/// Postfix's own defaults, until the daemon puts in what gatepost.toml says.
fn stock_rewriting() -> Rewriting {
    Rewriting { myorigin: String::new(), recipient_delimiter: String::new(), parent_domain_matches_subdomains: true }
}

fn list(file: &Path, text: Option<&[u8]>, findings: &mut Vec<Problem>) -> Option<Allowlist> {
    match Allowlist::parse(file, text?) {
        Ok((list, warnings)) => {
            findings.extend(warnings);
            Some(list)
        }
        Err(problems) => {
            findings.extend(problems);
            None
        }
    }
}

fn missing(file: &Path) -> Problem {
    let what = if file.ends_with(ALLOWED_SENDERS) {
        "is not there, and without it every sender would be refused; create it (for an empty list, write the line \
         \"# gatepost: empty on purpose\" into it), or set mode = \"off\" in [senders] of policy.toml"
    } else {
        "is not there, but [recipients] of policy.toml has a mode; create it (for an empty list, write the line \
         \"# gatepost: empty on purpose\" into it), or set mode = \"off\" in [recipients]"
    };
    Problem::whole(file, what)
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// A folder, a fifo, a socket, a device.
    #[error("is {0}, not a file; put a plain file in its place")]
    NotAFile(&'static str),
    /// Over its bound.
    #[error("is larger than {0} bytes; is it the right file?")]
    TooLarge(usize),
    /// A link that leads nowhere.
    #[error("is a link to a file that is not there; mend the link or remove it")]
    Dangling,
    /// Anything else.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl From<ReadError> for io::Error {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Io(e) => e,
            other => Self::new(io::ErrorKind::InvalidData, other.to_string()),
        }
    }
}

/// Reads a plain file of at most `max_bytes`; `None` where there is none. Never blocks on a fifo.
pub(crate) fn read_file(path: &Path, max_bytes: usize) -> Result<Option<Vec<u8>>, ReadError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, FileMode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) if path.is_symlink() => return Err(ReadError::Dangling),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        // What opening a socket says.
        Err(rustix::io::Errno::NXIO) => return Err(ReadError::NotAFile("a socket or device")),
        Err(e) => return Err(ReadError::Io(e.into())),
    };
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(ReadError::NotAFile("a folder"));
    }
    if !meta.is_file() {
        return Err(ReadError::NotAFile("a pipe or device"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0).min(max_bytes));
    // One byte more than allowed: the file may grow while it is read.
    file.take(max_bytes as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max_bytes { Err(ReadError::TooLarge(max_bytes)) } else { Ok(Some(bytes)) }
}

/// FNV-1a, 64 bits: tells a damaged copy, and stays the same in every version (std's hasher may not).
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        Files {
            allowed_senders: Some(b"a@example.com OK\n\nb@example.com OK\n".to_vec()),
            allowed_recipients: None,
            policy_toml: Some(Vec::new()),
        }
    }

    fn said(dir: &Path) -> Vec<String> {
        let problems = load(dir).expect_err("problems");
        problems.iter().map(|p| p.to_string().replace(&format!("{}", dir.display()), "policy")).collect()
    }

    #[test]
    fn the_last_good_copy_comes_back() {
        let dir = tempfile::tempdir().expect("folder");
        assert_eq!(read_last_good(dir.path()).expect("nothing yet"), None);
        for files in [files(), Files::default(), Files { policy_toml: None, ..files() }] {
            save_last_good(dir.path(), &files).expect("saved");
            assert_eq!(read_last_good(dir.path()).expect("read"), Some(files));
        }
    }

    #[test]
    fn a_damaged_copy_is_told() {
        let dir = tempfile::tempdir().expect("folder");
        save_last_good(dir.path(), &files()).expect("saved");
        let path = dir.path().join(LAST_GOOD_DIR).join(COPY);
        let whole = std::fs::read(&path).expect("copy");
        for cut in 0..whole.len() {
            assert_eq!(parse_copy(&whole[..cut]), None, "cut at {cut}");
        }
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 1;
            assert_eq!(parse_copy(&damaged), None, "bit at {i}");
        }
        std::fs::write(&path, &whole[1..]).expect("write");
        assert_eq!(read_last_good(dir.path()).expect_err("damaged").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_half_written_copy_leaves_the_one_before() {
        let dir = tempfile::tempdir().expect("folder");
        save_last_good(dir.path(), &files()).expect("saved");
        std::fs::write(dir.path().join(LAST_GOOD_DIR).join("policy.new"), b"gatepost la").expect("write");
        assert_eq!(read_last_good(dir.path()).expect("read"), Some(files()));
        save_last_good(dir.path(), &Files::default()).expect("saved over it");
        assert_eq!(read_last_good(dir.path()).expect("read"), Some(Files::default()));
    }

    #[test]
    fn digests_tell_files_apart() {
        assert_eq!(files().digest(), files().digest());
        let moved = Files { allowed_senders: None, allowed_recipients: files().allowed_senders, ..files() };
        assert_ne!(files().digest(), moved.digest());
        assert_ne!(Files::default().digest(), Files { policy_toml: Some(Vec::new()), ..Files::default() }.digest());
    }

    #[test]
    fn what_is_no_file_is_a_problem_and_blocks_nothing() {
        let dir = tempfile::tempdir().expect("folder");
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path(ALLOWED_SENDERS)).expect("folder");
        let mode = FileMode::RUSR | FileMode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path(POLICY_TOML), rustix::fs::FileType::Fifo, mode, 0).expect("fifo");
        std::os::unix::fs::symlink("gone", path(ALLOWED_RECIPIENTS)).expect("link");
        assert_eq!(
            said(dir.path()),
            [
                "policy/allowed_recipients:1:1: is a link to a file that is not there; mend the link or remove it",
                "policy/allowed_senders:1:1: is a folder, not a file; put a plain file in its place",
                "policy/policy.toml:1:1: is a pipe or device, not a file; put a plain file in its place",
            ]
        );
    }

    #[test]
    fn a_file_over_its_bound_is_a_problem() {
        let dir = tempfile::tempdir().expect("folder");
        std::fs::write(dir.path().join(POLICY_TOML), vec![b'#'; MAX_TOML_BYTES + 1]).expect("write");
        let problems = Files::read(dir.path()).expect_err("too large");
        assert_eq!(problems[0].message, "is larger than 1048576 bytes; is it the right file?");
    }

    #[test]
    fn a_folder_that_is_not_there_is_one_problem() {
        let dir = tempfile::tempdir().expect("folder");
        let gone = dir.path().join("gone");
        assert_eq!(said(&gone), ["policy:1:1: the policy folder is not there; create it, or set policy_dir"]);
        std::fs::write(&gone, "").expect("write");
        assert_eq!(said(&gone), ["policy:1:1: is not a folder; policy_dir names the folder of allowed_senders"]);
    }

    #[test]
    fn no_list_only_where_senders_are_off() {
        let dir = tempfile::tempdir().expect("folder");
        assert!(said(dir.path())[0].starts_with("policy/allowed_senders:1:1: is not there, and without it"));
        std::fs::write(dir.path().join(POLICY_TOML), "[senders]\nmode = \"off\"\n").expect("write");
        let (rules, warnings) = load(dir.path()).expect("sound");
        assert!(rules.senders.list.is_none() && rules.senders.mode == Mode::Off && warnings.is_empty());
        std::fs::write(dir.path().join(POLICY_TOML), "[senders]\nmode = \"off\"\n[recipients]\nmode = \"observe\"\n")
            .expect("write");
        assert!(said(dir.path())[0].starts_with("policy/allowed_recipients:1:1: is not there, but [recipients]"));
    }
}

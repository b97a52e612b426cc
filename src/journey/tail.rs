//! Reads what is appended to a log, across rotation, by renaming or by copying and truncating.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest line that is waited for to be complete; what is longer is cut.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// How much is read at once.
const WINDOW_BYTES: usize = 256 * 1024;

/// A log that grows.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: Option<File>,
    mark: Mark,
    /// What is read of the line that is not complete.
    window: Vec<u8>,
}

/// Where reading stands.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    dev: u64,
    ino: u64,
    /// Behind the last line that was read.
    offset: u64,
}

impl Tail {
    /// From `offset` of the file that is there now.
    #[must_use]
    pub fn from_offset(path: &Path, offset: u64) -> Self {
        let mark = fs::metadata(path).map(|about| Mark { dev: about.dev(), ino: about.ino(), offset });
        Self { path: path.to_owned(), file: None, mark: mark.unwrap_or_default(), window: Vec::new() }
    }

    /// The log's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands every new whole line to `on_line`, with where it begins.
    ///
    /// # Errors
    /// Where the file is not there or cannot be read; the next call tries again.
    pub fn read(&mut self, mut on_line: impl FnMut(u64, &[u8])) -> io::Result<()> {
        if self.file.is_none() {
            self.open()?;
        }
        self.read_open(&mut on_line)?;
        let about = fs::metadata(&self.path)?;
        if (about.dev(), about.ino()) == (self.mark.dev, self.mark.ino) {
            return Ok(());
        }
        // Rotated: what was written to the old file until now is read first, an unfinished line too.
        self.read_open(&mut on_line)?;
        if !self.window.is_empty() {
            on_line(self.mark.offset, &self.window);
        }
        self.file = None;
        self.open()?;
        self.read_open(&mut on_line)
    }

    fn open(&mut self) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        let about = file.metadata()?;
        if (about.dev(), about.ino()) != (self.mark.dev, self.mark.ino) || about.len() < self.mark.offset {
            self.mark = Mark { dev: about.dev(), ino: about.ino(), offset: 0 };
        }
        file.seek(SeekFrom::Start(self.mark.offset))?;
        self.window.clear();
        self.file = Some(file);
        Ok(())
    }

    fn read_open(&mut self, on_line: &mut impl FnMut(u64, &[u8])) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if file.metadata()?.len() < self.mark.offset + self.window.len() as u64 {
            // Truncated: it begins anew.
            self.mark.offset = 0;
            self.window.clear();
            file.seek(SeekFrom::Start(0))?;
        }
        loop {
            let room = (WINDOW_BYTES - self.window.len().min(WINDOW_BYTES)) as u64;
            if file.by_ref().take(room).read_to_end(&mut self.window)? == 0 {
                return Ok(());
            }
            let offset = self.mark.offset;
            let used = take_lines(&mut self.window, |at, line| on_line(offset + at as u64, line));
            self.mark.offset += used as u64;
        }
    }
}

/// Takes the whole lines out of a window, each handed on with where it begins; how many bytes they were.
pub(super) fn take_lines(window: &mut Vec<u8>, mut on_line: impl FnMut(usize, &[u8])) -> usize {
    let mut used = 0;
    for end in memchr::memchr_iter(b'\n', window) {
        on_line(used, &window[used..end]);
        used = end + 1;
    }
    if used == 0 && window.len() >= MAX_LINE_BYTES {
        used = window.len();
        on_line(0, window);
    }
    window.drain(..used);
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("open");
        file.write_all(text.as_bytes()).expect("write");
    }

    fn lines(tail: &mut Tail) -> Vec<String> {
        let mut lines = Vec::new();
        tail.read(|_, line| lines.push(String::from_utf8_lossy(line).into_owned())).expect("read");
        lines
    }

    #[test]
    fn reads_what_is_appended_over_rotation_and_truncation() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("mail.log");
        append(&path, "one\ntwo\nthr");
        let mut tail = Tail::from_offset(&path, 4);
        assert_eq!(lines(&mut tail), ["two"]);
        append(&path, "ee\n");
        assert_eq!(lines(&mut tail), ["three"]);
        fs::rename(&path, dir.path().join("mail.log.1")).expect("rename");
        append(&dir.path().join("mail.log.1"), "late\n");
        assert!(tail.read(|_, line| assert_eq!(line, b"late")).is_err());
        append(&path, "four\n");
        assert_eq!(lines(&mut tail), ["four"]);
        fs::write(&path, "x\n").expect("truncate");
        assert_eq!(lines(&mut tail), ["x"]);
        append(&path, "y\nz");
        assert_eq!(lines(&mut tail), ["y"]);
    }
}

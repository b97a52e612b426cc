//! A file that is replaced as a whole: a crash half-way leaves the one before.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces a file as a whole: what `write` writes is on disk before it takes the place of the file that was there.
///
/// # Errors
/// What the file system says; the file that was there stays.
pub fn replace<T>(path: &Path, write: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
    let beside = path.with_extension("new");
    let written = new_file(&beside).and_then(|mut file| {
        let written = write(&mut file)?;
        file.sync_all()?;
        fs::rename(&beside, path).map(|()| written)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    } else if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    written
}

/// A new file for the daemon's own eyes, in place of one that a crash left.
fn new_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new().write(true).create_new(true).mode(0o600).open(path),
    }
}

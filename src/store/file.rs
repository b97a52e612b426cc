//! The database file and its owner. SQLite gives `-wal` and `-shm` the owner and mode of the
//! database file when root makes them, so it is enough that this file is born with the right
//! ones: then a command line run first as root leaves nothing that the daemon's user cannot open.
//!
//! Owner and mode are set only on what was created here, through its descriptor: root never
//! changes the owner of a file that the folder's owner may have put in its place.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// The user that owns a state folder made by root, where that user exists.
const SERVICE_USER: &str = "gatepost";

/// Which file a path names: device and inode. Another file under the same path has another one.
pub type FileId = (u64, u64);

/// The file that `path` names now.
///
/// # Errors
/// Where there is none, or it cannot be looked at.
pub fn identity(path: &Path) -> io::Result<FileId> {
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

/// Makes sure that there is a file at `path`: an empty one, which SQLite takes for a new database,
/// with the folder's owner. Makes the folder too, but not the one above it. For every file that a command
/// may make before the daemon does.
///
/// # Errors
/// Where file or folder can be neither found nor made.
pub fn ensure(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    ensure_folder(folder)?;
    match OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(path) {
        Ok(file) => adopt(&file, &std::fs::metadata(folder)?)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(e),
    }
    File::open(folder)?.sync_all()
}

fn ensure_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o750).create(folder) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(io::Error::new(e.kind(), format!("folder {}: {e}", folder.display()))),
    }
    if rustix::process::geteuid().is_root()
        && let Some((uid, gid)) = service_user()
    {
        fchown(File::open(folder)?, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Gives a new file the folder's owner, and its group the right to write if it has that in the folder.
fn adopt(file: &File, folder: &Metadata) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    fchown(file, Some(folder.uid()), Some(folder.gid()))?;
    file.set_permissions(Permissions::from_mode(0o640 | (folder.mode() & 0o020)))
}

/// User and group id of [`SERVICE_USER`] from passwd(5).
fn service_user() -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&SERVICE_USER))?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

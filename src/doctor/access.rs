//! Who may do what with a file: computed from owners and modes, for a user that is not the one who asks.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// To read a file, or list a folder.
pub const READ: u32 = 4;
/// To write a file, change a folder, or connect to a socket.
pub const WRITE: u32 = 2;
/// To go through a folder.
pub const ENTER: u32 = 1;

/// A user with all its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// For the reader.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// All group ids.
    pub gids: Vec<u32>,
}

impl User {
    /// The user of this name, as the system knows it (id(1) asks whatever nsswitch.conf names).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let numbers = |flag: &str| -> Option<Vec<u32>> {
            let out = Command::new("id").args([flag, "--", name]).output().ok().filter(|out| out.status.success())?;
            String::from_utf8(out.stdout).ok()?.split_whitespace().map(|word| word.parse().ok()).collect()
        };
        Some(Self { name: name.to_owned(), uid: *numbers("-u")?.first()?, gids: numbers("-G")? })
    }

    /// The user that a process runs as, with the groups that it was given.
    #[must_use]
    pub fn of_process(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
            rest.split_whitespace().map(|word| word.parse().ok()).collect()
        };
        // Real, effective, saved, of the file system.
        let uid = *numbers("Uid:")?.get(1)?;
        let gids = [vec![*numbers("Gid:")?.get(1)?], numbers("Groups:")?].concat();
        Some(Self { name: format!("the daemon (uid {uid})"), uid, gids })
    }

    /// Whether the mode of a file lets the user do `what` with it.
    #[must_use]
    pub fn may(&self, what: u32, about: &Metadata) -> bool {
        let mode = about.permissions().mode();
        let bits = match () {
            () if self.uid == 0 => return true,
            () if about.uid() == self.uid => mode >> 6,
            () if self.gids.contains(&about.gid()) => mode >> 3,
            () => mode,
        };
        bits & what == what
    }

    /// What keeps the user from doing `what` with `path`: the folder on the way there or the file itself. `below`: only what
    /// is below this folder counts, as for a process that is chrooted there.
    #[must_use]
    pub fn obstacle(&self, what: u32, path: &Path, below: &Path) -> Option<PathBuf> {
        let folders: Vec<&Path> = path.ancestors().skip(1).filter(|folder| folder.starts_with(below)).collect();
        let is_closed = |path: &Path, what| fs::metadata(path).is_ok_and(|about| !self.may(what, &about));
        let closed = folders.into_iter().rev().find(|folder| is_closed(folder, ENTER));
        closed.or_else(|| is_closed(path, what).then_some(path)).map(Path::to_path_buf)
    }
}

/// Owner, group and mode of a file, as ls(1) would have it.
#[must_use]
pub fn mode_of(path: &Path) -> String {
    let Ok(about) = fs::metadata(path) else { return "not there".to_owned() };
    format!("{:04o}, uid {}, gid {}", about.permissions().mode() & 0o7777, about.uid(), about.gid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn modes_are_read_as_the_kernel_does() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("f");
        fs::write(&file, "").expect("write");
        let about = fs::metadata(&file).expect("there");
        let of = |uid, gids: &[u32]| User { name: String::new(), uid, gids: gids.to_vec() };
        let (me, kin, stranger) = (of(about.uid() + 1, &[]), of(about.uid() + 2, &[about.gid()]), of(u32::MAX, &[]));
        for (mode, kin_may, stranger_may) in [(0o640, true, false), (0o604, false, true), (0o600, false, false)] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("chmod");
            let about = fs::metadata(&file).expect("there");
            assert_eq!((kin.may(READ, &about), stranger.may(READ, &about)), (kin_may, stranger_may), "{mode:o}");
        }
        assert!(of(0, &[]).may(WRITE, &about));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("chmod");
        assert_eq!(me.obstacle(READ, &file, dir.path()).as_deref(), Some(dir.path()));
        assert_eq!(me.obstacle(READ, &file, &file).as_deref(), Some(&*file));
    }
}

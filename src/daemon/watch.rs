//! File events for the policy folder: from the folder, from its parent (the folder may be replaced),
//! and, since no event comes for what a link leads to, from every folder in which a link on the way
//! to one of its files stands, or the file itself.
//!
//! It tells of close-after-write, rename, create and remove; a write that is not closed yet is no
//! saved edit. A watch dies with its folder, so it is laid anew when a folder went or was replaced.

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// How many links a path may go through: the kernel's own bound (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What an event is handed to; it is called on the watcher's own thread.
pub type Tell = Arc<dyn Fn(notify::Result<Event>) + Send + Sync>;

/// The watches that lie now.
pub struct Watch {
    tell: Tell,
    laid: Option<Laid>,
    /// Whether it was said already that no events come.
    is_deaf: bool,
}

struct Laid {
    _watcher: RecommendedWatcher,
    stations: Stations,
}

/// Where events are awaited.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stations {
    /// The folders, by inode: a folder that was replaced is another one.
    folders: BTreeSet<(PathBuf, u64, u64)>,
    /// The names in them that count. One folder may be watched by two paths, and then its events
    /// come with either, so names are what is compared.
    names: BTreeSet<OsString>,
}

impl Watch {
    /// Nothing is watched yet; see [`Watch::renew`].
    pub fn new(tell: Tell) -> Self {
        Self { tell, laid: None, is_deaf: false }
    }

    /// Watches what must be watched now for `files` in `folder`, where that has changed.
    pub fn renew(&mut self, folder: &Path, files: &[&str]) {
        let stations = Stations::of(folder, files);
        if self.laid.as_ref().is_some_and(|laid| laid.stations == stations) {
            return;
        }
        let tell = self.tell.clone();
        let mut watcher = match notify::recommended_watcher(move |event| tell(event)) {
            Ok(watcher) => watcher,
            Err(error) => {
                self.laid = None;
                if !std::mem::replace(&mut self.is_deaf, true) {
                    tracing::warn!(%error, "No file events; the policy folder is polled.");
                }
                return;
            }
        };
        for (folder, ..) in &stations.folders {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::warn!(%error, folder = %folder.display(), "No file events from this folder; it is polled.");
            }
        }
        self.laid = Some(Laid { _watcher: watcher, stations });
        if std::mem::replace(&mut self.is_deaf, false) {
            tracing::info!("File events come again.");
        }
    }

    /// Whether an event can mean a saved edit.
    pub fn matters(&mut self, event: &notify::Result<Event>) -> bool {
        let (Ok(event), Some(laid)) = (event, &self.laid) else { return true };
        let goes = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let of_folder = |path: &PathBuf| laid.stations.folders.iter().any(|(folder, ..)| folder == path);
        if event.need_rescan() || (goes && event.paths.iter().any(of_folder)) {
            // A watched folder went, or events were lost that may have told so.
            self.laid = None;
            return true;
        }
        let is_change = goes
            || matches!(
                event.kind,
                EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Create(_) | EventKind::Other
            );
        let counts = |path: &PathBuf| path.file_name().is_some_and(|name| laid.stations.names.contains(name));
        is_change && (event.paths.is_empty() || event.paths.iter().any(counts))
    }
}

impl Stations {
    fn of(folder: &Path, files: &[&str]) -> Self {
        let mut stops = Vec::new();
        stops_on(folder, &mut stops);
        stops.push((folder.to_owned(), OsString::new()));
        for file in files {
            stops_on(&folder.join(file), &mut stops);
            // Its own name counts also while it is a link.
            stops.push((folder.to_owned(), file.into()));
        }
        let parent = folder.parent().zip(folder.file_name()).map(|(parent, name)| (parent.to_owned(), name.to_owned()));
        stops.extend(parent);
        let mut stations = Self::default();
        for (folder, name) in stops {
            stations.names.insert(name);
            // What is not there cannot be watched; its coming is told where it is missed.
            stations.folders.extend(std::fs::metadata(&folder).ok().map(|meta| (folder, meta.dev(), meta.ino())));
        }
        stations
    }
}

/// Adds where each link on the way to `path` stands, and where the way ends: folder and name.
fn stops_on(path: &Path, stops: &mut Vec<(PathBuf, OsString)>) {
    let steps_of = |path: &Path| path.components().rev().map(|c| c.as_os_str().to_owned()).collect::<Vec<_>>();
    let (mut at, mut ahead, mut links) = (PathBuf::new(), steps_of(path), 0);
    while let Some(step) = ahead.pop() {
        if step == Component::ParentDir.as_os_str() {
            at.pop();
            continue;
        }
        match std::fs::read_link(at.join(&step)) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                stops.push((at.clone(), step));
                // An absolute target begins with its root, which replaces what was gone so far.
                ahead.extend(steps_of(&target));
            }
            _ if step == OsStr::new(".") => {}
            _ => at.push(step),
        }
    }
    stops.extend(at.parent().zip(at.file_name()).map(|(folder, name)| (folder.to_owned(), name.to_owned())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_link_on_the_way_is_a_stop() {
        let dir = tempfile::tempdir().expect("folder");
        let root = dir.path().canonicalize().expect("path");
        fs::create_dir_all(root.join("v1/policy")).expect("folder");
        fs::create_dir(root.join("etc")).expect("folder");
        fs::write(root.join("v1/real"), "").expect("file");
        symlink("../v1", root.join("etc/current")).expect("link");
        symlink("../real", root.join("v1/policy/allowed_senders")).expect("link");
        let mut stops = Vec::new();
        stops_on(&root.join("etc/current/policy/allowed_senders"), &mut stops);
        let expected = [("etc", "current"), ("v1/policy", "allowed_senders"), ("v1", "real")];
        assert_eq!(stops, expected.map(|(folder, name)| (root.join(folder), name.into())));
    }

    #[test]
    fn links_in_a_circle_end() {
        let dir = tempfile::tempdir().expect("folder");
        symlink("b", dir.path().join("a")).expect("link");
        symlink("a", dir.path().join("b")).expect("link");
        let mut stops = Vec::new();
        stops_on(&dir.path().join("a"), &mut stops);
        assert!(stops.len() >= MAX_LINKS);
    }
}

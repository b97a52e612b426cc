//! What can go wrong with the store, by what the reader of the message has to do.

use std::io;
use std::path::{Path, PathBuf};

/// Trouble with the database. Each text begins with the path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Wait and try again.
    #[error("{}: another process is writing to the database and did not finish in time: try again", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// Start the daemon, or add an entry: both create it.
    #[error("{}: there is no database: {detail}", path.display())]
    Missing {
        /// The database.
        path: PathBuf,
        /// What is missing.
        detail: String,
    },
    /// Restore a backup.
    #[error("{}: the database is damaged ({detail}): restore a backup, or move it away and import an export", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// In SQLite's words.
        detail: String,
    },
    /// The path names something else.
    #[error("{}: not a gatepost database ({detail}): correct the path, or move the file away", path.display())]
    NotADatabase {
        /// The database.
        path: PathBuf,
        /// What it is.
        detail: String,
    },
    /// Upgrade gatepost.
    #[error("{}: written by a newer gatepost (schema {found}, this one knows up to {known}): upgrade this one", path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest schema version known here.
        known: i64,
    },
    /// Run as another user, or correct owner and mode of file and folder.
    #[error("{}: not allowed ({detail}): file and folder must be writable for this user", path.display())]
    Denied {
        /// The database.
        path: PathBuf,
        /// In the system's words.
        detail: String,
    },
    /// Make room.
    #[error("{}: the disk is full: nothing was changed, make room and try again", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// Read the detail.
    #[error("{}: {detail}", path.display())]
    Other {
        /// The database.
        path: PathBuf,
        /// In SQLite's or the system's words.
        detail: String,
    },
}

impl StoreError {
    pub(super) fn sql(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let path = path.to_path_buf();
        let detail = error.to_string();
        match error.sqlite_error_code() {
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Busy { path },
            Some(Code::DatabaseCorrupt) => Self::Corrupt { path, detail },
            Some(Code::NotADatabase) => Self::NotADatabase { path, detail },
            Some(Code::DiskFull) => Self::Full { path },
            Some(Code::CannotOpen) if !path.exists() => Self::Missing { path, detail },
            Some(Code::ReadOnly | Code::PermissionDenied | Code::CannotOpen) => Self::Denied { path, detail },
            _ => Self::Other { path, detail },
        }
    }

    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        let path = path.to_path_buf();
        let detail = error.to_string();
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing { path, detail },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied { path, detail },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Other { path, detail },
        }
    }

    pub(super) fn corrupt(path: &Path, detail: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_path_buf(), detail: detail.into() }
    }
}
